"""Action noise as a number: its deviation, for actions of any shape."""

import pathlib
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise

from sb3_recurrent_offpolicy import RecurrentDDPG, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from tests.setup import model_on, random_envs


def deviations(model: Any) -> np.ndarray:
    """Of the noise of one environment."""
    noise = model.action_noise
    return getattr(noise, "base_noise", noise)._sigma


@pytest.mark.parametrize("shape", [(), (2, 3)])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_deviation(shape: tuple[int, ...], n_envs: int) -> None:
    """Of what is stored from what the policy would do, each number by itself. The color is tested in test_noise."""
    env = random_envs(n_envs, action_space=spaces.Box(-2.0, 6.0, shape, np.float32))
    model = model_on(env, action_noise=0.1, noise_color="white", learning_starts=0, gradient_steps=0).learn(400 * n_envs)
    ring = model.replay_buffer.rings[0]
    actions = ring.actions[:300]
    executed = model.policy.unscale_action(actions.reshape(300, n_envs, *shape))
    trace = model.policy.trace(ring.observations[:300], executed, ring.episode_steps[:300] == 0)
    noise = (actions - model.policy.scale_action(trace.actions).reshape(actions.shape)).reshape(300, -1)
    assert np.abs(actions).max() < 1, "none is clipped"
    np.testing.assert_allclose(noise.std(axis=0), 0.1, rtol=0.2)
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=0.025)
    correlations = np.corrcoef(noise.T) - np.eye(noise.shape[1]) if noise.shape[1] > 1 else np.zeros(1)
    assert np.abs(correlations).max() < 0.3


def test_defaults() -> None:
    for algorithm in (RecurrentTD3, RecurrentDDPG):
        np.testing.assert_array_equal(deviations(model_on(random_envs(1), algorithm)), [0.3, 0.3, 0.3])
        assert model_on(random_envs(1), algorithm, action_noise=None).action_noise is None
    assert model_on(random_envs(1), RecurrentSAC).action_noise is None
    given = NormalActionNoise(np.zeros(3), np.ones(3))
    assert model_on(random_envs(1), action_noise=given).action_noise is given


@pytest.mark.parametrize("number", [0.5, 1, np.float32(0.5), np.int64(1)])
def test_any_number(number: Any) -> None:
    np.testing.assert_array_equal(deviations(model_on(random_envs(1), action_noise=number)), np.full(3, float(number)))


@pytest.mark.parametrize("number", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("algorithm", [RecurrentTD3, RecurrentSAC])
def test_no_deviation(number: float, algorithm: type[RecurrentOffPolicyAlgorithm], tmp_path: pathlib.Path) -> None:
    message = f"action_noise={number} must be a finite number of at least 0"
    with pytest.raises(ValueError, match=message):
        model_on(random_envs(1), algorithm, action_noise=number)
    model_on(random_envs(1), algorithm).save(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        algorithm.load(tmp_path / "model", action_noise=number)


def test_choices_take_no_noise() -> None:
    with pytest.raises(ValueError, match=r"action_noise=0.1 cannot be added to actions of Discrete\(3\): leave it None"):
        model_on(random_envs(1, action_space=spaces.Discrete(3)), RecurrentSAC, action_noise=0.1)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_saved_and_loaded(n_envs: int, tmp_path: pathlib.Path) -> None:
    """For as many environments as there are then, and replaced by another number."""
    model_on(random_envs(n_envs), action_noise=0.2).learn(30).save(tmp_path / "model")
    for n_loaded in (1, 3):
        changes: list[tuple[dict[str, Any], float]] = [({}, 0.2), (dict(action_noise=0.3), 0.3)]
        for kwargs, deviation in changes:
            loaded: Any = RecurrentTD3.load(tmp_path / "model", env=random_envs(n_loaded), **kwargs)
            loaded.learn(30, reset_num_timesteps=False)
            np.testing.assert_array_equal(deviations(loaded), np.full(3, deviation))
