"""The tasks by themselves: what they show and when, and what is gained by those who remember and by those who guess."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from sb3_recurrent_offpolicy.envs import BernoulliBandit, HiddenWindReach, MemoryLength, PassiveTMaze

RIGHT, UP, LEFT, DOWN = range(4)


def gain(env: gym.Env, seed: int, act: Callable[[np.ndarray], Any]) -> float:
    """Return of one episode."""
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(act(observation))
        total += float(reward)
        over = terminated or truncated
    return total


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


@pytest.mark.parametrize("corridor_length", [1, 2, 10])
def test_tmaze(corridor_length: int) -> None:
    """The cue is seen once, the junction on arrival. Remembering gains 1, guessing 0.5, staying -1."""
    env = PassiveTMaze(corridor_length)
    goals = []
    for seed in range(200):
        observation, _ = env.reset(seed=seed)
        assert observation.tolist() in ([0, -1], [0, 1])
        goals.append(int(observation[1]))
        for time in range(1, corridor_length + 1):
            observation, reward, terminated, truncated, _ = env.step(np.int64(RIGHT))
            assert (reward, terminated, truncated) == (0, False, False)
            assert observation.tolist() == [time == corridor_length, 0]
        observation, reward, terminated, truncated, _ = env.step(np.int64({1: UP, -1: DOWN}[goals[-1]]))
        assert (reward, terminated, truncated) == (1, True, False)
        assert observation.tolist() == [1, goals[-1]]
    assert abs(np.mean(goals)) < 0.2

    guesses = [gain(env, seed, lambda observation: UP if observation[0] else RIGHT) for seed in range(200)]
    assert set(guesses) == {0, 1} and abs(np.mean(guesses) - 0.5) < 0.1
    assert gain(env, 0, lambda observation: LEFT) == pytest.approx(-1)


def test_tmaze_walls_and_delay() -> None:
    """One who waits is late for the rest of the corridor; the cue does not come back; arms lead back to the junction."""
    env = PassiveTMaze(4)
    env.reset(seed=0)
    goal = env.goal
    # Position, observation and reward that each action leads to
    steps: list[tuple[int, tuple[int, int], tuple[int, int], float]] = [
        (RIGHT, (1, 0), (0, 0), 0),
        (UP, (1, 0), (0, 0), -0.25),
        (LEFT, (0, 0), (0, 0), -0.25),
        (LEFT, (0, 0), (0, 0), -0.25),
        (DOWN, (0, 0), (0, 0), 0),
    ]
    for action, position, shown, expected in steps:
        observation, reward, terminated, _, _ = env.step(np.int64(action))
        assert ((env.x, env.y), tuple(observation), reward) == (position, shown, expected)
    assert terminated

    env.reset(seed=0)
    env.x, env.y = 4, -goal
    onward, back = (DOWN, UP) if goal > 0 else (UP, DOWN)
    for action, position in ((RIGHT, (4, -goal)), (onward, (4, -goal)), (back, (4, 0)), (RIGHT, (4, 0))):
        assert env.step(np.int64(action))[0].tolist() == [1, position[1]]
        assert (env.x, env.y) == position


def test_wind() -> None:
    """One step tells the wind, and who makes use of it gains what the documentation says; who does not drifts off."""
    env: Any = gym.make("HiddenWindReach-v0")
    goal = np.array([0.0, 1.0])
    returns, blind_returns, winds = [], [], []
    for seed in range(100):
        start = env.reset(seed=seed)[0]
        wind = env.unwrapped.wind.copy()
        winds.append(wind)
        seen: list[np.ndarray] = []

        def remembers(observation: np.ndarray, seen: list[np.ndarray] = seen) -> np.ndarray:
            seen.append(observation)
            if len(seen) == 1:
                return np.array([0, 1])
            inferred = seen[1] - seen[0] - [0, 0.1]
            return np.clip((goal - observation - inferred) / 0.1, -1, 1)

        returns.append(gain(env, seed, remembers))
        assert returns[-1] == 76 - np.ceil(0.97 / (0.1 + wind[1]))
        assert len(seen) == 75 and not start.any()
        np.testing.assert_allclose(np.diff(seen[:3], axis=0)[0], wind + np.array([0, 0.1]), atol=1e-6)
        assert (env.unwrapped.wind == wind).all()
        blind_returns.append(gain(env, seed, lambda observation: np.clip((goal - observation) / 0.1, -1, 1)))
    assert np.mean(returns) == pytest.approx(62.2, abs=3) and np.mean(blind_returns) < 20
    assert np.abs(winds).max() <= 0.08 and len(np.unique(winds)) == 200

    env.reset()
    drawn = env.unwrapped.wind
    env.reset(options={"new_task": False})
    assert env.unwrapped.wind is drawn and (drawn != winds[-1]).all()

    gentle = HiddenWindReach(max_wind=0.01)
    gentle.reset(seed=0, options={"new_task": False})
    pushed = gentle.step(np.array([-3.0, 3.0]))[0]
    np.testing.assert_allclose(pushed, gentle.wind + np.array([-0.1, 0.1]), atol=1e-6)
    assert 0 < np.abs(gentle.wind).max() <= 0.01


def swing_up(observation: np.ndarray, m: float, length: float) -> np.ndarray:
    """Torque for a pole of this mass and length: to the energy of the upright pole, then held there."""
    cosine, sine, velocity = map(float, observation)
    angle, gravity, torque = np.arctan2(sine, cosine), 15 / length, 3 / (m * length**2)
    energy = velocity**2 / 2 + gravity * (cosine - 1)
    holding = -(gravity * sine + 8 * angle + 6 * velocity) / torque
    wanted = holding if abs(angle) < 0.6 and abs(holding) < 4 else -2 * np.sign(energy * velocity)
    return np.array([np.clip(wanted, -2, 2)], dtype=np.float32)


def test_unknown_pendulum() -> None:
    """The documented gain of a controller that knows the pole, and that of one that assumes the average pole."""
    env: Any = gym.make("PendulumUnknown-v0")
    knows = [gain(env, seed, lambda seen: swing_up(seen, env.unwrapped.m, env.unwrapped.l)) for seed in range(100)]
    guesses = [gain(env, seed, lambda seen: swing_up(seen, 0.8, 1.0)) for seed in range(100)]
    assert np.mean(knows) == pytest.approx(-120, abs=15) and np.mean(guesses) < -170

    env = gym.make("PendulumUnknown-v0", ranges=dict(m=(1.5, 1.5), l=(1.5, 1.5)))
    env.reset(seed=0)
    env.unwrapped.state = np.array([np.pi, 0.1])
    observation = env.unwrapped._get_obs()
    for _ in range(200):
        observation = env.step(swing_up(observation, 1.5, 1.5))[0]
    assert observation[0] > 0.99, "the heaviest and longest pole is up in time"


def test_unknown_cartpole() -> None:
    """One step tells which way pushes go. With that a single linear policy balances nearly all carts, without it half."""
    env = gym.make("CartPoleUnknown-v1")
    knows, guesses, told = [], [], []
    for seed in range(100):
        seen: list[np.ndarray] = []

        def linear(observation: np.ndarray) -> np.int64:
            return np.int64(observation @ [0.02, 0.07, 1.0, 0.29] > 0)

        def remembers(observation: np.ndarray, seen: list[np.ndarray] = seen) -> np.int64:
            seen.append(observation)
            if len(seen) == 1:
                return np.int64(1)
            return linear(observation) if seen[1][1] > seen[0][1] else 1 - linear(observation)

        knows.append(gain(env, seed, remembers))
        guesses.append(gain(env, seed, linear))
        told.append(env.unwrapped.force_mag)  # type: ignore[attr-defined]
    assert np.mean(knows) == pytest.approx(488, abs=15)
    right = np.array(told) > 0
    assert np.mean(np.array(guesses)[right]) > 470 and np.mean(np.array(guesses)[~right]) < 30


def thompson(n_arms: int, rng: np.random.Generator) -> Callable[[np.ndarray], np.int64]:
    """Thompson sampling with a Beta(1, 1) prior, informed by nothing but the observations of a trial."""
    counts = np.ones((n_arms, 2))

    def act(observation: np.ndarray) -> np.int64:
        _, action, reward, done = np.split(observation, [1, 1 + n_arms, 2 + n_arms])
        counts[:, 0] += action * reward
        counts[:, 1] += action * (1 - reward)
        assert done == action.sum()
        return rng.beta(*counts.T).argmax()

    return act


def test_bandit() -> None:
    """100 pulls of 10 arms gain 100 * 10 / 11 with known means, and 50 with random pulls."""
    env: Any = gym.make("BanditTrial-v0")
    rng = np.random.default_rng(0)
    gains: dict[str, list[float]] = {"knows": [], "learns": [], "guesses": []}
    for seed in range(100):
        env.reset(seed=seed)
        means = env.unwrapped.means.copy()
        gains["knows"].append(gain(env, seed, lambda observation: env.unwrapped.means.argmax()))
        gains["learns"].append(gain(env, seed, thompson(10, rng)))
        gains["guesses"].append(gain(env, seed, lambda observation: rng.integers(10)))
        assert (env.unwrapped.means == means).all()
        env.reset()
        assert (env.unwrapped.means != means).all()
    knows, learns, guesses = (np.mean(values) for values in gains.values())
    assert knows == pytest.approx(1000 / 11, abs=3) and guesses == pytest.approx(50, abs=4)
    assert guesses + 20 < learns < knows - 8


def test_one_pull() -> None:
    """Alone, the bandit has a new task at every reset, shows nothing and ends at once. It draws a task if it has none."""
    env = BernoulliBandit(n_arms=3)
    assert env.reset(seed=0, options={"new_task": False})[0].tolist() == [0]
    first = env.means
    rewards = []
    for _ in range(300):
        env.reset(options={"new_task": False})
        observation, reward, terminated, truncated, _ = env.step(np.int64(1))
        assert (observation.tolist(), terminated, truncated) == ([0], True, False)
        rewards.append(reward)
    assert env.means is first and set(rewards) == {0, 1} and np.mean(rewards) == pytest.approx(first[1], abs=0.1)
    env.reset()
    assert (env.means != first).all()
