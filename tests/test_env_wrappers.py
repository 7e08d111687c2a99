"""Wrappers that hide, repeat or add parts of what is observed, and the tasks that are made of them."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor

from sb3_recurrent_offpolicy.envs import Flicker, MaskObservation, PreviousActionReward, RL2Trial
from tests.envs import PARTS, Clock, RandomEnv


def observations(env: gym.Env, n_steps: int, seed: int | None = None) -> np.ndarray:
    """Observations at t = 0 .. n_steps - 1, with action 0 all along."""
    seen = [env.reset(seed=seed)[0]]
    seen += [env.step(0)[0] for _ in range(n_steps - 1)]
    return np.array(seen)


@pytest.mark.parametrize("period", [1, 2, 3])
def test_flicker_by_period(period: int) -> None:
    """The steps 0, k, 2k, .. of every episode are visible, whatever the length of the one before."""
    zeros, hold = (Flicker(Clock((8, 8)), period=period, mode=mode) for mode in ("zeros", "hold"))
    assert zeros.observation_space == spaces.Box(0, 100, (2,)) and hold.observation_space == spaces.Box(1, 100, (2,))
    for episode, n_steps in ((1, 8), (2, 5)):
        time = np.arange(n_steps)
        whole = np.stack([np.full(n_steps, episode), 1 + time], axis=1)
        np.testing.assert_array_equal(observations(zeros, n_steps), whole * (time % period == 0)[:, None])
        np.testing.assert_array_equal(observations(hold, n_steps), whole[time // period * period])


def test_flicker_by_probability() -> None:
    n_steps = 1000
    lengths = (n_steps,)
    zeros, hold = (Flicker(Clock(lengths), probability=0.3, mode=mode) for mode in ("zeros", "hold"))
    seen = observations(zeros, n_steps, seed=5)
    visible = seen[:, 1] > 0
    assert abs(visible.mean() - 0.3) < 0.05
    time = np.arange(n_steps)
    np.testing.assert_array_equal(seen[:, 1], (1 + time) * visible)
    visible[0] = True
    np.testing.assert_array_equal(
        observations(hold, n_steps, seed=5)[:, 1], 1 + np.maximum.accumulate(np.where(visible, time, 0))
    )

    again = observations(zeros, n_steps)
    assert (again[:, 1] != seen[:, 1]).any()
    np.testing.assert_array_equal(observations(zeros, n_steps, seed=5)[:, 1], seen[:, 1])
    np.testing.assert_array_equal(observations(zeros, n_steps)[:, 1], again[:, 1])
    first = [zeros.reset(seed=seed)[0].any() for seed in range(400)]
    assert abs(np.mean(first) - 0.3) < 0.08

    assert not observations(Flicker(Clock(lengths), probability=0), 50).any()
    assert observations(Flicker(Clock(lengths), probability=1), 50).all()


def test_flicker_and_environment_do_not_share_random_numbers() -> None:
    seen = []
    for draws in (False, True):
        wrapped, plain = Flicker(Clock((50,), draws=draws), probability=0.5), Clock((50,), draws=draws)
        seen.append(observations(wrapped, 50, seed=0))
        observations(plain, 50, seed=0)
        assert wrapped.np_random.random() == plain.np_random.random()
    np.testing.assert_array_equal(seen[0], seen[1])


def test_flickering_pendulum() -> None:
    plain, flickering = gym.make("Pendulum-v1"), gym.make("PendulumFlicker-v0")
    assert flickering.observation_space == plain.observation_space
    for seed in (7, None):
        expected, seen = plain.reset(seed=seed)[0], flickering.reset(seed=seed)[0]
        for time in range(200):
            np.testing.assert_array_equal(seen, expected if time % 3 == 0 else np.zeros(3))
            action = np.array([np.sin(time)], dtype=np.float32)
            expected, *outcome, _ = plain.step(action)
            seen, *same_outcome, _ = flickering.step(action)
            assert outcome == same_outcome
        assert outcome[1:] == [False, True]


def test_velocity_only_pendulum() -> None:
    plain, masked = gym.make("Pendulum-v1"), gym.make("PendulumVelocityOnly-v0")
    for seed in (7, None):
        expected, seen = plain.reset(seed=seed)[0], masked.reset(seed=seed)[0]
        previous = [0.0, 0.0]
        for time in range(200):
            np.testing.assert_allclose(seen, [expected[2], *previous], rtol=1e-6)
            action = np.array([np.sin(time)], dtype=np.float32)
            expected, reward, _, _, _ = plain.step(action)
            seen, same_reward, _, truncated, _ = masked.step(action)
            previous = [action[0], float(reward)]
            assert reward == same_reward
        assert truncated


def test_mask_observation() -> None:
    space = spaces.Box(np.array([0, 10, 20], dtype=np.int16), np.array([1, 11, 21], dtype=np.int16), dtype=np.int16)
    plain = RandomEnv(space, spaces.Discrete(2))
    kept, dropped = (
        MaskObservation(RandomEnv(space, spaces.Discrete(2)), **how) for how in (dict(keep=[2, 0]), dict(drop=[1]))
    )
    assert (
        kept.observation_space
        == dropped.observation_space
        == spaces.Box(space.low[[0, 2]], space.high[[0, 2]], dtype=np.int16)
    )
    whole = [env.reset(seed=0)[0] for env in (plain, kept, dropped)]
    for _ in range(5):
        assert whole[0][[0, 2]].tolist() == whole[1].tolist() == whole[2].tolist()
        whole = [env.step(0)[0] for env in (plain, kept, dropped)]

    named_by_an_array = MaskObservation(RandomEnv(space, spaces.Discrete(2)), keep=np.array([0]))
    assert named_by_an_array.observation_space == spaces.Box(space.low[[0]], space.high[[0]], dtype=np.int16)

    for how in (dict(drop=["speed"]), dict(keep=["image", "gear"])):
        masked = MaskObservation(RandomEnv(PARTS, spaces.Discrete(2)), **how)
        assert masked.observation_space == spaces.Dict(image=PARTS["image"], gear=PARTS["gear"])
        assert masked.reset()[0].keys() == masked.step(0)[0].keys() == {"image", "gear"}


@pytest.mark.parametrize(
    ("action_space", "encode"),
    [
        (spaces.Discrete(3), lambda action: np.eye(3)[action]),
        (spaces.Discrete(3, start=2), lambda action: np.eye(3)[action - 2]),
        (spaces.MultiDiscrete([2, 3]), lambda action: np.r_[np.eye(2)[action[0]], np.eye(3)[action[1]]]),
        (spaces.MultiBinary(3), lambda action: action),
        (spaces.Box(1, 2, (2,)), lambda action: action),
    ],
)
@pytest.mark.parametrize("appended", [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)])
def test_previous_action_reward(
    action_space: spaces.Space, encode: Callable[[Any], np.ndarray], appended: tuple[bool, bool, bool]
) -> None:
    action, reward, done = map(bool, appended)
    plain = RandomEnv(spaces.Box(0, 9, (2,), np.uint8), action_space)
    env = PreviousActionReward(RandomEnv(plain.observation_space, action_space), action, reward, done)
    nothing = np.zeros(spaces.flatdim(action_space)), np.zeros(1), np.zeros(1)
    for episode in range(4):
        seed = 11 if episode == 0 else None
        expected, seen = plain.reset(seed=seed)[0], env.reset(seed=seed)[0]
        previous, over = nothing, False
        while True:
            shown = [part for part, asked in zip(previous, (action, reward, done), strict=True) if asked]
            np.testing.assert_allclose(seen, np.concatenate([expected, *shown]), rtol=1e-6)
            assert seen.dtype == np.float32 and env.observation_space.contains(seen)
            if over:
                break
            act = action_space.sample()
            expected, r, terminated, truncated, _ = plain.step(act)
            seen, *outcome, _ = env.step(act)
            assert outcome == [r, terminated, truncated]
            over = terminated or truncated
            previous = encode(act), np.array([r]), np.array([over])


@pytest.mark.parametrize("terminates", [True, False])
@pytest.mark.parametrize("n_episodes", [1, 3])
def test_trial(n_episodes: int, terminates: bool) -> None:
    """Inner episodes of 2, 1, 3 steps in turn: all of a trial have its task, and only the end of the last is an end."""
    lengths = (2, 1, 3)
    env = RL2Trial(Clock(lengths, terminates), n_episodes)
    assert env.observation_space.shape == (2 + 3 + 1 + 1,)
    for trial in range(3):
        observation, info = env.reset(seed=0 if trial == 0 else None)
        task = trial + 1
        assert observation.tolist() == [task, 1, *[0, 0, 0], 0, 0]
        assert info == {"begins": trial * n_episodes + 1}
        for inner in range(n_episodes):
            length = lengths[(trial * n_episodes + inner) % 3]
            for time in range(1, length + 1):
                action = (time + inner) % 3
                observation, reward, terminated, truncated, info = env.step(action)
                assert reward == 10 * task + time
                previous = [*np.eye(3)[action], reward, time == length]
                true_observation = [task, 1 + time, *previous]
                if time == length and inner < n_episodes - 1:
                    assert observation.tolist() == [task, 1, *previous]
                    assert info["begins"] == trial * n_episodes + inner + 2
                    assert info["final_obs"].tolist() == true_observation and info["final_info"] == {"time": time}
                else:
                    assert observation.tolist() == true_observation and info == {"time": time}
                over = time == length and inner == n_episodes - 1
                assert (terminated, truncated) == (over and terminates, over and not terminates)


def test_trial_keeps_a_task_if_asked_to() -> None:
    env = RL2Trial(Clock(), n_episodes=2)
    tasks = [env.reset(options=options)[0][0] for options in (None, {"new_task": False}, {"other": 1}, {"new_task": True})]
    assert tasks == [1, 1, 2, 3]


def test_trial_with_time_limits() -> None:
    """Truncated inner episodes go on with the same wind; the trial is truncated with the last of them."""
    env: Any = RL2Trial(gym.make("HiddenWindReach-v0", max_episode_steps=5), n_episodes=3)
    winds = []
    for seed in range(2):
        env.reset(seed=seed)
        wind = env.unwrapped.wind
        for step in range(1, 16):
            observation, _, terminated, truncated, _ = env.step(np.ones(2, dtype=np.float32))
            assert (terminated, truncated) == (False, step == 15)
            assert env.unwrapped.wind is wind
            assert observation[-1] == (step % 5 == 0)
            assert observation[:2].any() == (step % 5 != 0 or step == 15)
        winds.append(wind)
    assert (winds[0] != winds[1]).all()


@pytest.mark.parametrize(
    ("make", "reported"),
    [(lambda: RL2Trial(Monitor(Clock((2,))), 3), 11 + 12), (lambda: Monitor(RL2Trial(Clock((2,)), 3)), 3 * (11 + 12))],
    ids=["beneath", "above"],
)
def test_monitored_trial(make: Callable[[], gym.Env], reported: float) -> None:
    env = make()
    env.reset(seed=0)
    infos = [env.step(0)[4] for _ in range(6)]
    assert not any("episode" in info for info in infos[:-1]) and infos[-1]["episode"]["r"] == reported
