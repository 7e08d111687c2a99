"""State-dependent exploration (gSDE): what it is for, actions of any shape, a policy saved by itself."""

import pathlib
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from tests.sb3_behaviours.cases import (
    OBSERVATIONS,
    Case,
    StrictEnv,
    assert_same,
    box_of,
    each_sde,
    greedy,
    model_of,
    random_envs,
    small_cnn,
    some_observations,
)


@each_sde
@pytest.mark.parametrize("policy_kwargs", [{}, dict(use_expln=True), dict(net_arch=[]), dict(clip_mean=0.0, log_std_init=0.5)])
def test_sde(case: Case, policy_kwargs: dict[str, Any]) -> None:
    """Noise depends on the state, its deviation is learned, and greedy actions know nothing of it."""
    model = model_of(case, random_envs(case, 2), use_sde=True, sde_sample_freq=3, policy_kwargs=policy_kwargs)
    log_std = model.actor.log_std.detach().clone()
    model.learn(80)
    assert model._n_updates > 0 and not th.equal(model.actor.log_std, log_std)
    first = greedy(model)
    sampled, _ = model.predict(some_observations(2), deterministic=False)
    again, _ = model.predict(some_observations(2), deterministic=False)
    np.testing.assert_array_equal(sampled, again)
    model.policy.reset_noise(2)
    again, _ = model.predict(some_observations(2), deterministic=False)
    assert not np.array_equal(sampled, again)
    np.testing.assert_array_equal(greedy(model), first)
    assert np.isfinite(evaluate_policy(model, model.get_env(), n_eval_episodes=2)[0])


@each_sde
@pytest.mark.parametrize("shape", [(2, 2), (1, 3), ()])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_sde_of_actions_of_any_shape(case: Case, shape: tuple[int, ...], n_envs: int) -> None:
    env = make_vec_env(lambda: StrictEnv(box_of(shape)), n_envs, seed=0)
    model = model_of(case, env, use_sde=True, sde_sample_freq=2, use_sde_at_warmup=True)
    model.learn(40 * n_envs)
    assert model._n_updates > 0 and model.replay_buffer.size() == 40


@each_sde
@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "CnnLstmPolicy"])
def test_policy_with_sde_alone(case: Case, policy: str, tmp_path: pathlib.Path) -> None:
    images = policy.startswith("Cnn")
    space = spaces.Box(0, 255, (1, 36, 36), np.uint8) if images else OBSERVATIONS
    env = random_envs(case, 1, space)
    model = model_of(case, env, policy, use_sde=True, policy_kwargs=small_cnn() if images else {}).learn(40)
    model.policy.save(tmp_path / "policy.pkl")
    loaded = type(model.policy).load(tmp_path / "policy.pkl", device="cpu")
    assert_same(model.policy.state_dict(), loaded.state_dict())
    observation = space.sample()
    expected, _ = model.predict(observation, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], expected)
    assert case.action_space.contains(loaded.predict(observation, deterministic=False)[0])
