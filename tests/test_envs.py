"""Tasks with hidden parts: valid Gymnasium environments that hide what they say they hide."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env

import sb3_recurrent_offpolicy.envs
from sb3_recurrent_offpolicy.envs import MemoryLength


@pytest.mark.parametrize("kwargs", [{}, dict(memory_length=1), dict(memory_length=3, n_bits=4)])
def test_valid(kwargs: dict[str, int]) -> None:
    check_env(MemoryLength(**kwargs))
    gymnasium_check_env(MemoryLength(**kwargs), skip_render_check=True)


def test_registered() -> None:
    env = gym.make("MemoryLength-v0", memory_length=7)
    assert env.unwrapped.memory_length == 7  # type: ignore[attr-defined]
    assert sb3_recurrent_offpolicy.envs.__doc__


@pytest.mark.parametrize(("memory_length", "n_bits"), [(10, 1), (1, 1), (5, 3)])
def test_memory_length(memory_length: int, n_bits: int) -> None:
    """The cue is seen once, the question once, the answer is asked for at the end; guessing gains nothing."""
    env = MemoryLength(memory_length, n_bits)
    rng = np.random.default_rng(0)
    returns = {"remembers": [], "guesses": []}  # type: ignore[var-annotated]
    for episode in range(400):
        observations = [env.reset(seed=episode)[0]]
        name = "remembers" if episode % 2 else "guesses"
        rewards, terminated = [], False
        while not terminated:
            query = int(observations[memory_length - 1][1]) if len(observations) >= memory_length else 0
            remembered = int(observations[0][2 + query] > 0)
            action = remembered if name == "remembers" else rng.integers(2)
            observation, reward, terminated, truncated, _ = env.step(np.int64(action))
            assert not truncated
            observations.append(observation)
            rewards.append(reward)
        assert len(rewards) == memory_length + 1 and not any(rewards[:-1])
        shown = np.array(observations[:-1])
        assert (np.abs(shown[0, 2:]) == 1).all() and not shown[1:, 2:].any()
        assert not np.delete(shown[:, 1], memory_length - 1).any()
        np.testing.assert_allclose(shown[:, 0], 1 - np.arange(memory_length + 1) / memory_length, atol=1e-6)
        returns[name].append(rewards[-1])
    assert np.mean(returns["remembers"]) == 1 and abs(np.mean(returns["guesses"])) < 0.2


@pytest.mark.parametrize("kwargs", [dict(memory_length=0), dict(n_bits=0)])
def test_impossible_settings(kwargs: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        MemoryLength(**kwargs)
