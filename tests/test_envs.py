"""Tasks with hidden parts: valid Gymnasium environments that hide what they say they hide."""

import pickle
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from rl_zoo3.utils import get_wrapper_class
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_recurrent_offpolicy.envs import (
    BernoulliBandit,
    Flicker,
    HiddenWindReach,
    MaskObservation,
    MemoryLength,
    PassiveTMaze,
    PreviousActionReward,
    RL2Trial,
)
from tests.envs import RandomEnv

IDS = (
    "MemoryLength-v0",
    "PassiveTMaze-v0",
    "BernoulliBandit-v0",
    "BanditTrial-v0",
    "HiddenWindReach-v0",
    "PendulumVelocityOnly-v0",
    "PendulumFlicker-v0",
)
# What checkers say of any wrapper, of rewards or positions without bound, and of the torque of Pendulum
EXPECTED_WARNINGS = ("is different from the unwrapped version", "infinity", "symmetric and normalized")
RIGHT, UP, LEFT, DOWN = range(4)
PARTS = spaces.Dict(image=spaces.Box(0, 255, (1, 36, 36), np.uint8), speed=spaces.Box(0, 1), gear=spaces.Discrete(4))


class Clock(gym.Env):
    """
    Observes (number of the task, 1 + t), rewards with 10 * task + t. Tasks are counted from the last seed on.

    :param lengths: lengths of the episodes, in turn
    :param terminates: whether episodes are terminated rather than truncated
    :param draws: whether a step draws a random number
    """

    def __init__(self, lengths: tuple[int, ...] = (4,), terminates: bool = True, draws: bool = False):
        self.observation_space = spaces.Box(1, 100, (2,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.lengths, self.terminates, self.draws = lengths, terminates, draws
        self.task, self.n_episodes = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.task, self.n_episodes = 0, 0
        self.task += (options or {}).get("new_task", True)
        self.time = 0
        self.length = self.lengths[self.n_episodes % len(self.lengths)]
        self.n_episodes += 1
        return self._observation(), {"begins": self.n_episodes}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.draws:
            self.np_random.random()
        self.time += 1
        over = self.time == self.length
        reward = 10.0 * self.task + self.time
        return self._observation(), reward, over and self.terminates, over and not self.terminates, {"time": self.time}

    def _observation(self) -> np.ndarray:
        return np.array([self.task, 1 + self.time], dtype=np.float32)


def rollout(env: gym.Env, n_steps: int = 12) -> list[Any]:
    """What random actions, the same every time, lead to from here on; an episode that ends is followed by the next."""
    env.action_space.seed(0)
    seen: list[Any] = []
    for _ in range(n_steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        seen += [*np.ravel(observation), reward, terminated, truncated]
        if terminated or truncated:
            seen += [*np.ravel(env.reset()[0])]
    return seen


def gain(env: gym.Env, seed: int, act: Callable[[np.ndarray], Any]) -> float:
    """Return of one episode."""
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(act(observation))
        total += float(reward)
        over = terminated or truncated
    return total


def observations(env: gym.Env, n_steps: int, seed: int | None = None) -> np.ndarray:
    """Observations at t = 0 .. n_steps - 1, with action 0 all along."""
    seen = [env.reset(seed=seed)[0]]
    seen += [env.step(0)[0] for _ in range(n_steps - 1)]
    return np.array(seen)


@pytest.mark.parametrize(
    "make",
    [
        *(lambda env_id=env_id: gym.make(env_id) for env_id in IDS),
        lambda: MemoryLength(memory_length=1),
        lambda: MemoryLength(memory_length=3, n_bits=4),
        lambda: PassiveTMaze(corridor_length=1),
        lambda: BernoulliBandit(n_arms=1),
        lambda: Flicker(Clock(), period=2, mode="hold"),
        lambda: Flicker(Clock(), probability=0.5),
        lambda: Flicker(RandomEnv(PARTS["image"], spaces.Discrete(2), (5,)), period=2, mode="hold"),
        lambda: MaskObservation(Clock(), drop=[0]),
        lambda: MaskObservation(RandomEnv(PARTS, spaces.Discrete(2), (5,)), keep=["image"]),
        lambda: PreviousActionReward(Clock(), done=True),
        lambda: RL2Trial(Clock((2, 1)), n_episodes=3),
        lambda: RL2Trial(gym.make("HiddenWindReach-v0"), n_episodes=2),
    ],
)
def test_valid(make: Callable[[], gym.Env]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(make())
        gymnasium_check_env(make(), skip_render_check=True)
    surprises = [str(warning.message) for warning in caught]
    assert not [message for message in surprises if not any(expected in message for expected in EXPECTED_WARNINGS)]


@pytest.mark.parametrize("env_id", IDS)
def test_registered(env_id: str) -> None:
    """An environment can be rebuilt from its specification, however that travels, and pickled in mid-episode."""
    env = gym.make(env_id)
    assert env.spec is not None
    specs = [env_id, env.spec, pickle.loads(pickle.dumps(env.spec)), EnvSpec.from_json(env.spec.to_json())]
    runs = []
    for rebuilt in map(gym.make, specs):
        rebuilt.reset(seed=3)
        runs.append(rollout(rebuilt))
    assert runs[0] == runs[1] == runs[2] == runs[3]

    env.reset(seed=4)
    rollout(env, 5)
    assert rollout(pickle.loads(pickle.dumps(env))) == rollout(env) != runs[0]


def test_registered_settings() -> None:
    limits = {env_id: gym.spec(env_id).max_episode_steps for env_id in IDS if gym.spec(env_id).max_episode_steps}
    assert limits == {"HiddenWindReach-v0": 75, "PendulumVelocityOnly-v0": 200, "PendulumFlicker-v0": 200}
    env: Any = gym.make("MemoryLength-v0", memory_length=7)
    assert env.unwrapped.memory_length == 7
    assert gym.make("BanditTrial-v0", n_arms=4).observation_space.shape == (1 + 4 + 1 + 1,)


def test_vectorised() -> None:
    """Other processes find the ids and behave as this one."""
    runs = []
    for vec_env_cls in (DummyVecEnv, SubprocVecEnv):
        env = make_vec_env("sb3_recurrent_offpolicy.envs:BanditTrial-v0", n_envs=2, seed=1, vec_env_cls=vec_env_cls)
        env.reset()
        results = [env.step(np.array([step % 10, 3])) for step in range(101)]
        env.close()
        runs.append(np.array([np.c_[observation, reward, done] for observation, reward, done, _ in results]))
        assert [(step, i) for step in range(101) for i in range(2) if results[step][2][i]] == [(99, 0), (99, 1)]
        assert results[99][3][0]["episode"]["l"] == 100
    np.testing.assert_array_equal(runs[0], runs[1])


def test_wrappers_in_the_zoo() -> None:
    names = ["MaskObservation", "Flicker", "PreviousActionReward", "RL2Trial"]
    settings: list[dict[str, Any]] = [dict(drop=[0]), dict(period=2), dict(action=False), dict(n_episodes=2)]
    wrapper = get_wrapper_class(
        {
            "env_wrapper": [
                {f"sb3_recurrent_offpolicy.envs.{name}": kwargs} for name, kwargs in zip(names, settings, strict=True)
            ]
        }
    )
    assert wrapper is not None
    env: Any = wrapper(Clock((2,)))
    assert [type(layer).__name__ for layer in (env, env.env, env.env.env, env.env.env.env)] == names[::-1]
    assert env.reset()[0].tolist() == [1, 0, *[0, 0, 0], 0, 0]
    assert env.step(1)[0].tolist() == [0, 11, *[0, 1, 0], 11, 0]
    assert env.step(2)[0].tolist() == [1, 0, *[0, 0, 1], 12, 1]


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


@pytest.mark.parametrize("corridor_length", [1, 2, 10])
def test_tmaze(corridor_length: int) -> None:
    """The cue is seen once, the junction when one is there; who remembers gains 1, who guesses 0.5, who stays -1."""
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
    """100 pulls of 10 arms gain 100 * 10 / 11 for who knows the means and 50 for who pulls anything."""
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MemoryLength(memory_length=0), "memory_length=0 must be at least 1"),
        (lambda: MemoryLength(n_bits=0), "n_bits=0 must be at least 1"),
        (lambda: PassiveTMaze(corridor_length=0), "corridor_length=0 must be at least 1"),
        (lambda: BernoulliBandit(n_arms=0), "n_arms=0 must be at least 1"),
        (lambda: HiddenWindReach(goal_radius=0), "goal_radius=0 must be greater than 0"),
        (lambda: HiddenWindReach(max_wind=0.1), r"max_wind=0.1 must be at least 0 and less than 0.1"),
        (lambda: HiddenWindReach(max_wind=-0.1), r"max_wind=-0.1 must be at least 0"),
        (lambda: Flicker(Clock()), "period=None, probability=None: give exactly one"),
        (lambda: Flicker(Clock(), period=2, probability=0.5), "period=2, probability=0.5: give exactly one"),
        (lambda: Flicker(Clock(), period=0), "period=0 must be at least 1"),
        (lambda: Flicker(Clock(), probability=1.5), "probability=1.5 must be from 0 to 1"),
        (lambda: Flicker(Clock(), period=2, mode="noise"), 'mode="noise" must be "zeros" or "hold"'),
        (
            lambda: Flicker(RandomEnv(spaces.Discrete(2), spaces.Discrete(2)), period=2),
            r"observation_space=Discrete\(2\) must be",
        ),
        (lambda: MaskObservation(Clock()), "keep=None, drop=None: give exactly one"),
        (lambda: MaskObservation(Clock(), keep=[0], drop=[1]), r"keep=\[0\], drop=\[1\]: give exactly one"),
        (
            lambda: MaskObservation(Clock(), keep=[2]),
            r"keep=\[2\], drop=None: \{2\} not in the observation, choose from \[0, 1\]",
        ),
        (lambda: MaskObservation(Clock(), drop=["a"]), r"drop=\['a'\]: \{'a'\} not in the observation"),
        (lambda: MaskObservation(Clock(), drop=[0, 1]), r"drop=\[0, 1\]: nothing is left"),
        (lambda: MaskObservation(Clock(), keep=[]), r"keep=\[\], drop=None: nothing is left"),
        (lambda: MaskObservation(RandomEnv(spaces.Box(0, 1, (2, 2)), spaces.Discrete(2)), keep=[0]), "must be a flat Box"),
        (lambda: PreviousActionReward(RandomEnv(spaces.Discrete(2), spaces.Discrete(2))), "must be a flat Box"),
        (lambda: PreviousActionReward(Clock(), action=False, reward=False), "action=False, reward=False, done=False: append"),
        (lambda: RL2Trial(Clock(), n_episodes=0), "n_episodes=0 must be at least 1"),
    ],
)
def test_impossible_settings(make: Callable[[], gym.Env], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
