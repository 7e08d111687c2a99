"""What was done and what came of it, as part of the observation."""

from itertools import compress
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_recurrent_offpolicy.envs.boxes import flat_box, with_zero


class PreviousActionReward(gym.Wrapper[np.ndarray, Any, np.ndarray, Any], gym.utils.RecordConstructorArgs):
    """
    Appends the previous step: (o_t, a_{t-1}, r_{t-1}, d_{t-1}), with zeros for a, r and d at reset, as in RL^2 (Duan et al.
    2016, https://arxiv.org/abs/1611.02779) and the recurrent baselines of Ni et al. 2022 (https://arxiv.org/abs/2110.05038).

    * a_{t-1} is ``gymnasium.spaces.flatten`` of the action: one-hot for Discrete, one-hots in a row for MultiDiscrete, 0 and 1
      for MultiBinary, the numbers themselves for Box
    * r_{t-1} is the reward, unbounded
    * d_{t-1} = 1 if the step ended the episode. Without :class:`RL2Trial` only the last observation of an episode shows it

    The memory of this package's algorithms is given a_{t-1} anyway; ``action=False`` appends the rest.

    :param env: environment with a Box (n,) as observation; an action space that can be flattened
    :param action: append a_{t-1}
    :param reward: append r_{t-1}
    :param done: append d_{t-1}
    :raises ValueError: if the observation is not a flat Box, or nothing is appended
    """

    def __init__(self, env: gym.Env, action: bool = True, reward: bool = True, done: bool = False):
        gym.utils.RecordConstructorArgs.__init__(self, action=action, reward=reward, done=done)
        super().__init__(env)
        self.appended = (action, reward, done)
        if not any(self.appended):
            raise ValueError(f"{action=}, {reward=}, {done=}: append at least one of them")
        observed = flat_box(env.observation_space)
        actions: Any = spaces.flatten_space(env.action_space)
        step = (with_zero(actions), spaces.Box(-np.inf, np.inf, (1,)), spaces.Box(0, 1, (1,)))
        parts = [observed, *compress(step, self.appended)]
        # A reward needs a float, whatever was observed before
        self.dtype = np.result_type(observed.dtype, np.float32)
        low = np.concatenate([part.low for part in parts], dtype=self.dtype)
        high = np.concatenate([part.high for part in parts], dtype=self.dtype)
        self.observation_space = spaces.Box(low, high, dtype=self.dtype)
        self.nothing = np.zeros(len(low) - len(observed.low))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return np.concatenate([observation, self.nothing], dtype=self.dtype), info

    def step(self, action: Any) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        done = terminated or truncated
        return self.append(observation, action, reward, done), reward, terminated, truncated, info

    def append(self, observation: np.ndarray, action: Any, reward: SupportsFloat, done: bool) -> np.ndarray:
        """
        :param observation: o_t
        :param action: a_{t-1}
        :param reward: r_{t-1}
        :param done: d_{t-1}
        :return: o_t followed by what this wrapper appends
        """
        step: tuple[Any, ...] = (spaces.flatten(self.env.action_space, action), [float(reward)], [done])
        return np.concatenate([observation, *compress(step, self.appended)], dtype=self.dtype)
