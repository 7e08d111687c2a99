"""A cue at the start of a corridor, a choice at its end."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_recurrent_offpolicy.checks import check_integers

# Right, up, left, down
MOVES = ((1, 0), (0, 1), (-1, 0), (0, -1))


class PassiveTMaze(gym.Env[np.ndarray, np.int64]):
    """
    How long does memory last while something else is to be done? The passive T-maze of Ni et al. 2023
    (https://arxiv.org/abs/2307.03864), after Bakker 2001.

    With L = ``corridor_length``, time t = 0 .. L + 1, position (x_t, y_t) and goal g:

    * g in {-1, 1} is drawn at the beginning; (x_0, y_0) = (0, 0)
    * corridor (0 .. L, 0), arms (L, 1) and (L, -1). Actions 0 .. 3 move right, up, left, down; into a wall, nowhere
    * observation ([x_t = L], g [t = 0] + y_t), a vector of 2: a cell of the corridor looks like any other
    * reward of the step to time t: -[x_t < t] / L for t <= L; [y_t = g] for t = L + 1, and the episode terminates

    The best return is 1, to walk on and guess gives 0.5 on average, never to move -1.

    :param corridor_length: steps from the start to the junction
    :raises ValueError: if it is less than 1
    """

    def __init__(self, corridor_length: int = 10):
        check_integers(1, corridor_length=corridor_length)
        self.corridor_length = corridor_length
        self.observation_space = spaces.Box(np.array([0, -1], dtype=np.float32), np.ones(2, dtype=np.float32))
        self.action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        self.x, self.y = 0, 0
        self.goal = int(self.np_random.choice([-1, 1]))
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        x, y = self.x + MOVES[action][0], self.y + MOVES[action][1]
        if (y == 0 and 0 <= x <= self.corridor_length) or (abs(y) == 1 and x == self.corridor_length):
            self.x, self.y = x, y
        terminated = self.time > self.corridor_length
        reward = float(self.y == self.goal) if terminated else -int(self.x < self.time) / self.corridor_length
        return self._observation(), reward, terminated, False, {}

    def _observation(self) -> np.ndarray:
        cue = self.goal if self.time == 0 else 0
        return np.array([self.x == self.corridor_length, cue + self.y], dtype=np.float32)
