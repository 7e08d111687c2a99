"""A cue at the beginning, a question at the end."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_recurrent_offpolicy.checks import check_integers


class MemoryLength(gym.Env[np.ndarray, np.int64]):
    """
    How far back does memory reach? The task ``memory_len`` of bsuite (Osband et al. 2020, https://arxiv.org/abs/1908.03568),
    and with several bits its ``memory_size``.

    With k = ``memory_length``, time t = 0 .. k and n = ``n_bits``:

    * context c in {0, 1}^n and query q in {0 .. n - 1} are drawn at the beginning
    * observation (1 - t / k, q [t = k - 1], (2 c - 1) [t = 0]), a vector of 2 + n
    * reward 0 for t < k; at t = k, +1 if the action is c_q and -1 otherwise, and the episode terminates

    The best return is 1; without memory it is 0 on average.

    :param memory_length: steps between the cue and the answer
    :param n_bits: number of bits in the cue, one of which is asked for
    :raises ValueError: if one of them is less than 1
    """

    def __init__(self, memory_length: int = 10, n_bits: int = 1):
        check_integers(1, memory_length=memory_length, n_bits=n_bits)
        self.memory_length = memory_length
        high = np.array([1.0, max(n_bits - 1, 1), *[1.0] * n_bits], dtype=np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Discrete(2)
        self.context = np.zeros(n_bits, dtype=np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        self.context = self.np_random.integers(2, size=len(self.context))
        self.query = int(self.np_random.integers(len(self.context)))
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        terminated = self.time == self.memory_length
        reward = (1.0 if action == self.context[self.query] else -1.0) if terminated else 0.0
        self.time += 1
        return self._observation(), reward, terminated, False, {}

    def _observation(self) -> np.ndarray:
        observation = np.zeros(self.observation_space.shape or (), dtype=np.float32)
        observation[0] = max(1.0 - self.time / self.memory_length, 0.0)
        if self.time == self.memory_length - 1:
            observation[1] = self.query
        if self.time == 0:
            observation[2:] = 2 * self.context - 1
        return observation
