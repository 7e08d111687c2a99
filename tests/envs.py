"""Environments for tests."""

from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

PARTS = spaces.Dict(image=spaces.Box(0, 255, (1, 36, 36), np.uint8), speed=spaces.Box(0, 1), gear=spaces.Discrete(4))


class RandomEnv(gym.Env):
    """
    Random observations of any space, episodes of the given lengths in turn, every second one terminated rather than truncated.

    :param observation_space: what is observed
    :param action_space: what can be done
    :param lengths: lengths of the episodes, in turn
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, lengths: tuple[int, ...] = (7, 1, 12, 5)):
        # Spaces draw random numbers: no two environments may share one
        self.observation_space = deepcopy(observation_space)
        self.action_space = deepcopy(action_space)
        self.lengths = lengths
        self.n_episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        self.length = self.lengths[self.n_episodes % len(self.lengths)]
        self.n_episodes += 1
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        over = self.time >= self.length
        terminates = self.n_episodes % 2 == 0
        return self.observation_space.sample(), self.np_random.normal(), over and terminates, over and not terminates, {}


class RecallEnv(gym.Env):
    """
    The first observation is -0.6 or +0.6, the others are 0: reward is minus the squared distance of the action to the first.

    :param length: steps per episode, ended by a time limit
    :param reward_factor: size of the rewards
    :param discrete: two actions, -0.6 and +0.6
    """

    def __init__(self, length: int = 6, reward_factor: float = 1.0, discrete: bool = False):
        self.reward_factor = reward_factor
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1, 1, (1,), np.float32)
        self.length = length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        self.cue = float(self.np_random.choice([-0.6, 0.6]))
        return np.array([self.cue], dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        value = action[0] if isinstance(self.action_space, spaces.Box) else (-0.6, 0.6)[action]
        reward = -self.reward_factor * float((value - self.cue) ** 2)
        return np.zeros(1, dtype=np.float32), reward, False, self.time >= self.length, {}


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
