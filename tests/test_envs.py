"""Tasks with hidden parts: valid Gymnasium environments, registered, rebuilt and pickled, with settings that are checked."""

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
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_recurrent_offpolicy.envs import (
    BernoulliBandit,
    Flicker,
    HiddenWindReach,
    MaskObservation,
    MemoryLength,
    PassiveTMaze,
    PreviousActionReward,
    RandomizePhysics,
    RL2Trial,
)
from tests.envs import PARTS, Clock, RandomEnv

IDS = (
    "MemoryLength-v0",
    "PassiveTMaze-v0",
    "BernoulliBandit-v0",
    "BanditTrial-v0",
    "HiddenWindReach-v0",
    "PendulumVelocityOnly-v0",
    "PendulumFlicker-v0",
    "PendulumUnknown-v0",
    "CartPoleUnknown-v1",
)
# What checkers say of any wrapper, of rewards or positions without bound, and of the torque of Pendulum
EXPECTED_WARNINGS = ("is different from the unwrapped version", "infinity", "symmetric and normalized")


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
        lambda: RandomizePhysics(gym.make("CartPole-v1"), dict(length=(0.8, 1.2)), relative=True),
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
    pendulums = {f"Pendulum{name}-v0": 200 for name in ("VelocityOnly", "Flicker", "Unknown")}
    assert limits == {"HiddenWindReach-v0": 75, "CartPoleUnknown-v1": 500, **pendulums}
    env: Any = gym.make("MemoryLength-v0", memory_length=7)
    assert env.unwrapped.memory_length == 7
    assert gym.make("BanditTrial-v0", n_arms=4).observation_space.shape == (1 + 4 + 1 + 1,)
    env = gym.make("PendulumUnknown-v0", ranges=dict(g=(3, 4)), render_mode="rgb_array")
    assert env.reset()[1]["physics"] == {"g": env.unwrapped.g} and env.render_mode == "rgb_array"
    assert env.spec is not None
    rebuilt: Any = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert rebuilt.reset()[1]["physics"].keys() == {"g"} and 3 <= rebuilt.unwrapped.g <= 4


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
