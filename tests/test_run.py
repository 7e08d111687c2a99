"""Runs of every algorithm with settings of every kind: they learn, log, repeat, normalise and use subprocesses."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from tests.envs import RandomEnv, RecallEnv
from tests.recorder import ACTION_SPACE
from tests.setup import KWARGS, model_on, noise, random_envs


def test_same_seed_same_run() -> None:
    runs = [model_on(random_envs(2), action_noise=noise(), seed=3).learn(150) for _ in range(2)]
    for a, b in zip(*(model.policy.parameters() for model in runs), strict=True):
        assert th.equal(a, b)
    np.testing.assert_array_equal(runs[0].replay_buffer.rings[0].actions, runs[1].replay_buffer.rings[0].actions)


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(train_freq=(1, "episode"), gradient_steps=-1),
        dict(train_freq=(3, "step"), gradient_steps=-1),
        dict(gradient_steps=0),
        dict(sequence_length=None),
        dict(state_init="zero", burn_in=4),
        dict(burn_in=2, n_steps=3),
        dict(learning_rate=lambda progress: 1e-3 * progress, max_grad_norm=1.0),
        dict(batch_size=100, learning_starts=0, buffer_size=9),
        dict(action_noise=OrnsteinUhlenbeckActionNoise(np.zeros(3), 0.3 * np.ones(3))),
    ],
)
@pytest.mark.parametrize(
    ("algorithm", "action_space"),
    [
        (RecurrentTD3, ACTION_SPACE),
        (RecurrentDDPG, ACTION_SPACE),
        (RecurrentSAC, ACTION_SPACE),
        (RecurrentSAC, spaces.Discrete(4)),
        (R2D2, spaces.Discrete(4)),
    ],
)
def test_run(kwargs: dict[str, Any], algorithm: type[RecurrentOffPolicyAlgorithm], action_space: spaces.Space) -> None:
    if action_space is not ACTION_SPACE:
        kwargs = {key: value for key, value in kwargs.items() if key != "action_noise"}
    if algorithm is R2D2:
        uniform = dict(priority_alpha=0.0) if kwargs.get("sequence_length", 1) is None else {}
        kwargs = dict(burn_in=0) | kwargs | uniform
    model = model_on(random_envs(1, action_space=action_space), algorithm, **kwargs)
    model.learn(60)
    assert model.num_timesteps >= 60
    if kwargs.get("gradient_steps") == 0:
        assert model._n_updates == 0
    elif kwargs.get("train_freq") == (3, "step"):
        assert model._n_updates == model.num_timesteps - 18
    else:
        assert model._n_updates > 0
    assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())


def test_several_environments_and_their_noise() -> None:
    model = model_on(random_envs(3), action_noise=noise(), gradient_steps=-1, train_freq=5).learn(150)
    assert isinstance(model.action_noise, VectorizedActionNoise)
    assert model._n_updates == 150 - 15


def test_episodic_training_needs_one_environment() -> None:
    with pytest.raises(AssertionError, match="only one env"):
        model_on(random_envs(2), train_freq=(1, "episode")).learn(50)


def test_subprocesses() -> None:
    """The same run as with environments in this process."""
    in_processes: dict[str, Any] = dict(vec_env_cls=SubprocVecEnv, vec_env_kwargs=dict(start_method="spawn"))
    runs: list[Any] = []
    for kwargs in ({}, in_processes):
        env = make_vec_env("Pendulum-v1", 2, seed=0, **kwargs)
        runs.append(RecurrentTD3("MlpLstmPolicy", env, **KWARGS).learn(40))
        env.close()
    np.testing.assert_array_equal(*(model.replay_buffer.rings[0].observations for model in runs))
    for a, b in zip(*(model.policy.parameters() for model in runs), strict=True):
        assert th.equal(a, b)


@pytest.mark.parametrize("kwargs", [{}, dict(burn_in=3)])
def test_vec_normalize(kwargs: dict[str, Any]) -> None:
    space = spaces.Box(5.0, 9.0, (2,), np.float32)
    env = VecNormalize(make_vec_env(lambda: RandomEnv(space, ACTION_SPACE), 2), gamma=0.9)
    model = model_on(env, **kwargs).learn(200)
    assert (model.replay_buffer.rings[0].observations[:100] >= 5).all(), "stored raw"
    sampled = model._sample_sequences(64).observations.numpy()
    assert np.abs(sampled.mean(axis=(0, 1))).max() < 0.5 and np.abs(sampled).max() < 3
    evaluate_policy(model, env, n_eval_episodes=2, warn=False)


def test_rewards_that_vec_normalize_scales_are_not_scaled_twice() -> None:
    env = VecNormalize(make_vec_env(lambda: RecallEnv(reward_factor=1000.0), 2), gamma=0.99)
    model = RecurrentTD3("MlpLstmPolicy", env, **KWARGS | dict(gradient_steps=0)).learn(600)
    assert 0.2 < model.reward_factor < 5


@pytest.mark.parametrize("algorithm", [RecurrentTD3, RecurrentSAC])
def test_logged_values(algorithm: type[RecurrentOffPolicyAlgorithm], tmp_path: Any) -> None:
    model = model_on(random_envs(1), algorithm, tensorboard_log=str(tmp_path))
    model.learn(60, log_interval=1)
    logged = model.logger.name_to_value
    assert any((tmp_path / f"{algorithm.__name__}_1").iterdir())
    model.train(2, 4)
    expected = {"train/actor_loss", "train/critic_loss", "train/n_updates", "train/learning_rate"}
    if algorithm is RecurrentSAC:
        expected |= {"train/ent_coef", "train/ent_coef_loss"}
    assert expected <= set(logged)
