"""Learning: that it learns, when it begins, at which rate, in which mode, and the same again from the same seed."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnv, IdentityEnvBox
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.sb3_behaviours.cases import Case, assert_same, each, greedy, learned, model_of, noise, random_envs


@each
def test_identity(case: Case) -> None:
    """The action that repeats the observation, out of 4, or within 0.5 of it: chance makes 25 and less than 50 of 100."""
    discrete = isinstance(case.action_space, spaces.Discrete)
    make: Callable[[], gym.Env] = (lambda: IdentityEnv(4)) if discrete else (lambda: IdentityEnvBox(eps=0.5))
    env: Any = make_vec_env(make, 4)
    for seed, each_env in enumerate(env.envs):
        each_env.unwrapped.action_space.seed(seed)
    changes: dict[str, Any] = dict(learning_rate=3e-3, learning_starts=100, batch_size=32, gradient_steps=2, gamma=0.4)
    if not discrete:
        changes["action_noise"] = noise(1)
    model = model_of(case, env, n_steps=1, policy_kwargs=dict(net_arch=[32]), **changes)
    before, _ = evaluate_policy(model, env, n_eval_episodes=4)
    model.learn(2500)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=8)
    assert isinstance(before, float) and isinstance(mean, float)
    assert before < 70 and mean > 90, f"{before} before, {mean} after"
    observation = env.observation_space.sample()
    assert np.shape(model.predict(observation)[0]) == np.shape(observation)


@each
def test_n_steps(case: Case) -> None:
    """They make a difference, the same one every time, also where they reach beyond a sequence."""
    kwargs: dict[str, Any] = dict(seed=3, gradient_steps=2)
    runs = [learned(model_of(case, random_envs(case, 2), n_steps=n_steps, **kwargs).learn(80)) for n_steps in (1, 3, 3, 9)]
    assert all(map(th.equal, runs[1], runs[2]))
    assert not all(map(th.equal, runs[0], runs[1])) and not all(map(th.equal, runs[1], runs[3]))
    assert all(th.isfinite(parameter).all() for run in runs for parameter in run)


@each
def test_registered_environments(case: Case) -> None:
    """By name or made, wrapped as needed; what is predicted is an action."""
    by_name, made = model_of(case, case.env_id), model_of(case, gym.make(case.env_id))
    for model in (by_name, made):
        assert model.get_env().env_is_wrapped(Monitor) == [True] and model.n_envs == 1
        assert model.learn(60) is model and model._n_updates > 0
    env = gym.make(case.env_id)
    observation, _ = env.reset(seed=0)
    vec_env = DummyVecEnv([lambda: gym.make(case.env_id)] * 2)
    for deterministic in (True, False):
        action, _ = by_name.predict(observation, deterministic=deterministic)
        assert isinstance(action, np.ndarray) and env.action_space.contains(action[()])
        assert by_name.predict(vec_env.reset(), deterministic=deterministic)[0].shape == (2, *(env.action_space.shape or ()))


@each
@pytest.mark.parametrize("train_freq", ["4", ("1", "episode"), "non_sense", (1, "close")])
def test_train_freq_that_is_none(case: Case, train_freq: Any) -> None:
    with pytest.raises(ValueError, match="train_freq"):
        model_of(case, train_freq=train_freq)


@each
@pytest.mark.parametrize("learning_rate", [-1e-3, lambda _: -1e-3], ids=["number", "schedule"])
def test_negative_learning_rates(case: Case, learning_rate: Any) -> None:
    with pytest.raises(ValueError, match=r"-0\.001"):
        model_of(case, learning_rate=learning_rate)


@each
def test_nothing_is_learned_before_learning_starts(case: Case) -> None:
    model = model_of(case, learning_starts=40)
    before = learned(model)
    model.learn(40)
    assert model._n_updates == 0 and all(map(th.equal, before, learned(model)))
    model.learn(8, reset_num_timesteps=False)
    assert model._n_updates > 0 and not any(map(th.equal, before, learned(model)))


@each
def test_every_optimizer_follows_the_schedule(case: Case) -> None:
    """At a rate of 0 nothing learns, and only targets move."""
    model = model_of(case, gradient_steps=0).learn(40)
    model.train(4, 4)
    model.lr_schedule, model.tau, model.target_update_interval = lambda _: 0.0, 0.5, 1
    before, targets = learned(model), [value.clone() for value in model.policy.targets.parameters]
    model.train(4, 4)
    assert all(map(th.equal, before, learned(model)))
    assert not any(map(th.equal, targets, model.policy.targets.parameters))


@each
def test_runs_repeat(case: Case) -> None:
    """Learning, and acting at random afterwards."""
    box = isinstance(case.action_space, spaces.Box)
    runs = []
    for seed in (5, 5, 6):
        kwargs: dict[str, Any] = dict(action_noise=noise(2)) if box else {}
        model = model_of(case, random_envs(case, 2), seed=seed, **kwargs).learn(100)
        env = model.get_env()
        observations, actions, rewards = env.reset(), [], []
        for _ in range(20):
            action, _ = model.predict(observations, deterministic=False)
            observations, reward, _, _ = env.step(action)
            actions.append(action)
            rewards.append(reward)
        runs.append((np.stack(actions), np.stack(rewards), *(value.numpy() for value in learned(model))))
    same = [all(map(np.array_equal, run, runs[0])) for run in runs]
    assert same == [True, True, False]


@each
def test_no_warnings(case: Case, recwarn: pytest.WarningsRecorder) -> None:
    """Learning once, on, and again, and evaluating."""
    model = model_of(case, random_envs(case, 2), buffer_size=100).learn(150)
    model.learn(50, reset_num_timesteps=False)
    model.learn(50)
    evaluate_policy(model, model.get_env(), n_eval_episodes=2)
    assert not recwarn.list


class BatchNormDropout(BaseFeaturesExtractor):
    """Has statistics that learning changes, and chance that acting must not see."""

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space, get_flattened_obs_dim(observation_space))
        self.layers = th.nn.Sequential(th.nn.Flatten(), th.nn.BatchNorm1d(self.features_dim), th.nn.Dropout(0.5))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


def statistics(model: Any) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items() if "running_" in name}


@each
def test_modes(case: Case) -> None:
    """Learning changes statistics, the targets' with them even where ``tau`` is 0; acting and predicting do not."""
    kwargs: dict[str, Any] = dict(policy_kwargs=dict(features_extractor_class=BatchNormDropout), tau=0.0)
    env = random_envs(case, observation_space=spaces.Box(3, 5, (2,), np.float32))
    acting = model_of(case, env, gradient_steps=0, **kwargs)
    before = statistics(acting)
    assert any("target" in name for name in before) and len(before) >= 4
    acting.learn(60)
    assert_same(before, statistics(acting))
    first = greedy(acting)
    for _ in range(5):
        np.testing.assert_array_equal(greedy(acting), first)
    assert_same(before, statistics(acting))
    assert not acting.policy.training

    learning = model_of(case, env, **kwargs)
    targets = [value.clone() for value in learning.policy.targets.parameters]
    if hasattr(learning, "target_update_interval"):
        learning.target_update_interval = 1
    learning.learn(60)
    after = statistics(learning)
    assert not any(th.equal(before[name], after[name]) for name in before)
    assert all(map(th.equal, targets, learning.policy.targets.parameters))
