"""What rewards are multiplied by before they are learned from, so that one learning rate fits rewards of any size."""

import math
from collections import deque

import numpy as np

# Steps between two updates of the statistics where no update of a network asks for them
STEPS_PER_UPDATE = 256
# The past is forgotten in portions of this fraction of a ring
N_PORTIONS = 64
# No reward is scaled beyond this size; ``VecNormalize`` clips there
LARGEST_SCALED_REWARD = 10.0
# The factor rises by this ratio per update at most
LARGEST_RISE = 1.01


class ReturnStatistics:
    """
    Statistics of the discounted returns of the steps that a ring holds. As in ``VecNormalize``, the return is accumulated
    forwards, G_t = gamma G_{t-1} + r_t, and restarts with every episode.

    :param n_envs: number of environments
    :param n_rows: steps of each environment that the ring keeps
    """

    def __init__(self, n_envs: int, n_rows: int):
        self.n_rows = n_rows
        # Count, sum and sum of squares of the returns in each portion, and the size of its largest reward; the last one grows
        self.portions: deque[np.ndarray] = deque()
        self._new_returns: list[np.ndarray] = []
        self._new_rewards: list[np.ndarray] = []
        self.begin_episodes(n_envs)

    def begin_episodes(self, n_envs: int) -> None:
        """
        :param n_envs: number of environments, in all of which an episode begins
        """
        self._returns = np.zeros(n_envs)

    def add(self, rewards: np.ndarray, episode_starts: np.ndarray, gamma: float) -> None:
        """
        :param rewards: of one step of each environment, (n_envs,)
        :param episode_starts: whether an episode began with this step, (n_envs,)
        :param gamma: discount factor
        """
        # As they are stored: environments in other processes give them in double precision
        rewards = rewards.astype(np.float32)
        self._returns = gamma * self._returns * ~episode_starts + rewards
        self._new_returns.append(self._returns)
        self._new_rewards.append(rewards)
        if len(self._new_returns) >= STEPS_PER_UPDATE:
            self.count()

    def count(self) -> None:
        """Bring the portions up to date."""
        if not self._new_returns:
            return
        returns, self._new_returns = np.concatenate(self._new_returns), []
        rewards, self._new_rewards = np.concatenate(self._new_rewards), []
        new = np.array([len(returns), returns.sum(), np.square(returns).sum(), np.abs(rewards).max()])
        capacity = len(self._returns) * self.n_rows
        if not self.portions or self.portions[-1][0] >= capacity / N_PORTIONS:
            self.portions.append(new)
        else:
            self.portions[-1][:3] += new[:3]
            self.portions[-1][3] = max(self.portions[-1][3], new[3])
        n_kept = sum(portion[0] for portion in self.portions)
        while n_kept - self.portions[0][0] >= capacity:
            n_kept -= self.portions.popleft()[0]


class RewardNormalizer:
    """
    Divide rewards by the deviation of the discounted returns that the replay buffer holds.

    Three things differ from ``VecNormalize``, because a critic has learned on the scale of yesterday. Statistics cover the
    steps in the replay buffer, so that an outlier is forgotten when it is overwritten. No reward becomes larger than 10: one
    success in many thousand steps has hardly any deviation, and dividing by it would make a single reward of 1 a reward of
    100. And the factor rises by 1 % per update at most; it falls at once, because a reward that is too large does harm.
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self._is_set = False
        # By index of the ring
        self.statistics: dict[int, ReturnStatistics] = {}

    def update(self) -> float:
        """
        Bring the factor up to date, once per update of the networks.

        :return: the factor; 1 as long as all returns are alike, when there is nothing to scale by
        """
        for statistics in self.statistics.values():
            statistics.count()
        portions = [portion for statistics in self.statistics.values() for portion in statistics.portions]
        if not portions:
            return self.factor
        count, total, squares, _ = np.sum(portions, axis=0)
        largest = max(portion[3] for portion in portions)
        deviation = math.sqrt(max(squares / count - (total / count) ** 2, 0.0))
        # Anything smaller is rounding
        if deviation > 1e-6 * math.sqrt(squares / count):
            wanted = min(1.0 / deviation, LARGEST_SCALED_REWARD / largest)
            self.factor = min(wanted, LARGEST_RISE * self.factor) if self._is_set else wanted
            self._is_set = True
        return self.factor
