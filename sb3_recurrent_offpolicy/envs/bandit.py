"""Tasks of one pull."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_recurrent_offpolicy.checks import check_integers
from sb3_recurrent_offpolicy.envs.rl2 import wants_new_task


class BernoulliBandit(gym.Env[np.ndarray, np.int64]):
    """
    Multi-armed bandits with rewards 0 and 1, as in RL^2 (Duan et al. 2016, https://arxiv.org/abs/1611.02779).

    With n = ``n_arms``:

    * a task is the means mu ~ U(0, 1)^n; an episode is one pull and terminates
    * observation 0, a vector of 1: nothing is to be seen
    * action a in {0 .. n - 1}, reward ~ Bernoulli(mu_a)

    A single pull gains 0.5 on average, whatever the policy. The place of this environment is within :class:`RL2Trial`, which
    keeps the task for K pulls. Who knows the means then gains K n / (n + 1) on average.

    :param n_arms: number of arms
    :raises ValueError: if it is less than 1
    """

    def __init__(self, n_arms: int = 10):
        check_integers(1, n_arms=n_arms)
        self.n_arms = n_arms
        self.observation_space = spaces.Box(0, 1, (1,), dtype=np.float32)
        self.action_space = spaces.Discrete(n_arms)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if wants_new_task(options) or not hasattr(self, "means"):
            self.means = self.np_random.uniform(size=self.n_arms)
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(self.np_random.random() < self.means[action])
        return np.zeros(1, dtype=np.float32), reward, True, False, {}
