"""A wind that is felt but not seen."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_recurrent_offpolicy.envs.rl2 import wants_new_task

GOAL = np.array([0.0, 1.0])
MAX_STEP = 0.1


class HiddenWindReach(gym.Env[np.ndarray, np.ndarray]):
    """
    Can what the action does be inferred from what it did? The task ``Wind`` of Ni et al. 2022
    (https://arxiv.org/abs/2110.05038): reach a goal and stay there, rewarded at the goal only.

    With t = 0, 1, .. and wind w in R^2:

    * w ~ U(-``max_wind``, ``max_wind``)^2, one for an episode; it is the task of :class:`RL2Trial`
    * position p_0 = (0, 0), p_{t+1} = p_t + 0.1 a_t + w with the action a_t in [-1, 1]^2
    * observation p_t, a vector of 2
    * reward of the step to p_{t+1}: [|p_{t+1} - (0, 1)| <= ``goal_radius``]. There is no terminal state

    ``HiddenWindReach-v0`` ends after 75 steps. With the defaults the best return is then 76 - ceil(0.97 / (0.1 + w_2)): 62.2
    on average. Who heads for the goal as if the air were still comes to rest w beside it: near enough in one case in nine.

    The original has a fixed set of winds; here there is a new one every time.

    :param goal_radius: distance from the goal that is rewarded
    :param max_wind: bound of each component of the wind per step, less than the 0.1 that an action moves
    :raises ValueError: if one of them is out of range
    """

    def __init__(self, goal_radius: float = 0.03, max_wind: float = 0.08):
        if goal_radius <= 0:
            raise ValueError(f"goal_radius={goal_radius} must be greater than 0")
        if not 0 <= max_wind < MAX_STEP:
            raise ValueError(
                f"max_wind={max_wind} must be at least 0 and less than {MAX_STEP}: actions could not hold against it"
            )
        self.goal_radius = goal_radius
        self.max_wind = max_wind
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), dtype=np.float32)
        self.action_space = spaces.Box(-1, 1, (2,), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if wants_new_task(options) or not hasattr(self, "wind"):
            self.wind = self.np_random.uniform(-self.max_wind, self.max_wind, size=2)
        self.position = np.zeros(2)
        return self.position.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.position = self.position + MAX_STEP * np.clip(action, -1, 1) + self.wind
        reward = float(np.linalg.norm(self.position - GOAL) <= self.goal_radius)
        return self.position.astype(np.float32), reward, False, False, {}
