"""Pink noise, and who explores with it."""

import copy
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise

from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3, RecurrentTQC
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.noise import PinkActionNoise
from tests.setup import model_on, random_envs


def drawn(noise: Any, n_steps: int) -> np.ndarray:
    return np.array([noise() for _ in range(n_steps)])


def test_the_spectrum_falls_as_one_over_f() -> None:
    np.random.seed(0)
    values = drawn(PinkActionNoise(np.zeros(4), np.ones(4)), 2**15)
    power = (np.abs(np.fft.rfft(values, axis=0)) ** 2).mean(axis=1)
    frequencies = np.fft.rfftfreq(len(values))
    band = (frequencies > 1 / 800) & (frequencies < 0.1)
    slope = np.polyfit(np.log(frequencies[band]), np.log(power[band]), 1)[0]
    # The logarithm of a periodogram is noisy, not biased in its slope
    assert -1.1 < slope < -0.8


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_mean_and_deviation(shape: tuple[int, ...]) -> None:
    """At the first step too, and each number by itself."""
    np.random.seed(0)
    noise = PinkActionNoise(np.full(shape, 5.0), np.full(shape, 0.5))
    firsts, lasts = [], []
    for _ in range(4000):
        noise.reset()
        values = drawn(noise, 3)
        firsts.append(values[0])
        lasts.append(values[-1])
    assert values.shape == (3, *shape) and values.dtype == np.float32
    for found in (np.reshape(firsts, (4000, -1)), np.reshape(lasts, (4000, -1))):
        np.testing.assert_allclose(found.mean(axis=0), 5.0, atol=0.05)
        np.testing.assert_allclose(found.std(axis=0), 0.5, rtol=0.1)
        if found.shape[1] > 1:
            assert np.abs(np.corrcoef(found.T) - np.eye(found.shape[1])).max() < 0.1


def test_copies_go_their_own_way() -> None:
    noises = VectorizedActionNoise(PinkActionNoise(np.zeros(2), np.ones(2)), 3)
    assert len(np.unique(noises())) == 6
    one = PinkActionNoise(np.zeros(2), np.ones(2))
    one()
    state = np.random.get_state()
    other = copy.deepcopy(one)
    expected = drawn(one, 5)
    np.random.set_state(state)
    np.testing.assert_array_equal(drawn(other, 5), expected)


def noise_of_sac(model: Any, n_envs: int, n_steps: int) -> np.ndarray:
    """The standard normal numbers behind the actions that were stored: (n_steps, n_envs, action_dim)."""
    ring = model.replay_buffer.rings[0]
    actions = ring.actions[:n_steps].reshape(n_steps, n_envs, -1)
    trace = model.policy.trace(
        ring.observations[:n_steps], model.policy.unscale_action(actions), ring.episode_steps[:n_steps] == 0
    )
    mean, log_std = trace.distributions["mean"], trace.distributions["log_std"]
    return (np.arctanh(actions.clip(-1 + 1e-6, 1 - 1e-6)) - mean) / np.exp(log_std)


@pytest.mark.parametrize("algorithm", [RecurrentSAC, RecurrentTQC])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_sampled_actions(algorithm: type[RecurrentOffPolicyAlgorithm], n_envs: int) -> None:
    """Each action is distributed as the policy says; noise of one step tells of the next if it is pink."""
    correlations = {}
    for color in ("pink", "white"):
        env = random_envs(n_envs, action_space=spaces.Box(-1.0, 1.0, (2,), np.float32))
        model = model_on(env, algorithm, noise_color=color, learning_starts=0, gradient_steps=0, seed=0)
        model.learn(400 * n_envs)
        noise = noise_of_sac(model, n_envs, 300)
        np.testing.assert_allclose(noise.std(), 1.0, rtol=0.3)
        correlations[color] = np.mean([np.corrcoef(each[1:], each[:-1])[0, 1] for each in noise.reshape(300, -1).T])
    assert correlations["pink"] > 0.4
    assert abs(correlations["white"]) < 0.15


def test_predict_and_updates_draw_white_noise() -> None:
    model = model_on(random_envs(1), RecurrentSAC, learning_starts=0).learn(20)
    noise = model.behavior.policy_noise
    before = copy.deepcopy(noise._processes)
    model.predict(model.env.reset(), deterministic=False)
    model.train(2, 2)
    np.testing.assert_array_equal(noise._processes, before)


def test_who_has_none() -> None:
    assert isinstance(model_on(random_envs(1), RecurrentSAC).behavior.policy_noise, PinkActionNoise)
    assert model_on(random_envs(1), RecurrentSAC, noise_color="white").behavior.policy_noise is None
    assert model_on(random_envs(1), RecurrentSAC, use_sde=True).behavior.policy_noise is None
    choices = random_envs(1, action_space=spaces.Discrete(3))
    assert model_on(choices, RecurrentSAC).behavior.policy_noise is None
    for algorithm in (RecurrentTD3, RecurrentDDPG):
        assert model_on(random_envs(1), algorithm).behavior.policy_noise is None
    with pytest.raises(TypeError, match="noise_color"):
        model_on(choices, R2D2, noise_color="pink")


def test_numbers_become_noise_of_that_color() -> None:
    for color, kind in (("pink", PinkActionNoise), ("white", NormalActionNoise)):
        noise: Any = model_on(random_envs(1), RecurrentTD3, action_noise=0.3, noise_color=color).action_noise
        assert type(noise) is kind
        np.testing.assert_array_equal(noise._sigma, [0.3, 0.3, 0.3])
        assert type(model_on(random_envs(1), RecurrentSAC, action_noise=0.3, noise_color=color).action_noise) is kind
    given = NormalActionNoise(np.zeros(3), np.ones(3))
    assert model_on(random_envs(1), action_noise=given, noise_color="pink").action_noise is given


@pytest.mark.parametrize("color", ["red", 1.0, None])
def test_unknown_color(color: Any) -> None:
    with pytest.raises(ValueError, match=f"noise_color={color!r} is not known: choose 'pink' or 'white'"):
        model_on(random_envs(1), RecurrentSAC, noise_color=color)


def test_a_model_of_other_environments_has_noise_for_them(tmp_path: Any) -> None:
    model_on(random_envs(2), RecurrentSAC).learn(20).save(tmp_path / "model")
    loaded: Any = RecurrentSAC.load(tmp_path / "model", env=random_envs(3))
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.behavior.policy_noise().shape == (3, 3)
    white: Any = RecurrentSAC.load(tmp_path / "model", env=random_envs(1), noise_color="white")
    assert white.behavior.policy_noise is None
    assert th.isfinite(th.as_tensor(white.learn(20, reset_num_timesteps=False).behavior.memory.previous_actions)).all()
