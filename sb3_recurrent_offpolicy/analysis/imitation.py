"""A copy of the policy that has no memory: what can be done from the current observation alone."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy, State, flat
from sb3_recurrent_offpolicy.analysis.playing import play
from sb3_recurrent_offpolicy.analysis.small_networks import MOST_SAMPLES, small_network


class Imitator:
    """
    Does what the policy would do, as well as the current observation tells. It learns on the states that it comes to itself:
    DAgger (Ross et al. 2011, https://arxiv.org/abs/1011.0686). What the policy would do is asked of its memory of all that
    happened, the imitator's own actions included.

    :param opened: the policy
    :param seed: of the network's weights
    """

    def __init__(self, opened: OpenedPolicy, seed: int = 0):
        self.opened = opened
        self.seed = seed
        self._fitted: Any = None
        self._state: State | None = None
        self._observations: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._is_learning = False

    def act(self, observations: Any, episode_starts: np.ndarray) -> np.ndarray:
        n_envs = len(episode_starts)
        rows = flat(observations)
        chosen = None
        if self._fitted is not None:
            chosen = self._fitted.predict(rows).reshape(n_envs, *(self.opened.action_space.shape or ()))
            if isinstance(self.opened.action_space, spaces.Box):
                chosen = chosen.clip(self.opened.action_space.low, self.opened.action_space.high)
            chosen = chosen.astype(self.opened.action_space.dtype)
        if not self._is_learning:
            assert chosen is not None, "learn() comes first"
            return chosen
        wanted, self._state = self.opened.predict(observations, self._state, episode_starts)
        self._observations.append(rows)
        self._actions.append(wanted.reshape(n_envs, -1))
        if chosen is None:
            return wanted
        self._state = self.opened.with_actions(self._state, chosen)
        return chosen

    def learn(self, envs: VecEnv, n_episodes: int, n_rounds: int = 4) -> None:
        """
        :param envs: to play in
        :param n_episodes: of each round, the first of which the policy plays
        :param n_rounds: after each it is fitted to all steps so far
        """
        rng = np.random.default_rng(self.seed)
        for _ in range(n_rounds):
            self._is_learning, self._state = True, None
            for _step in play(envs, self, n_episodes):
                pass
            self._is_learning = False
            observations, actions = np.concatenate(self._observations), np.concatenate(self._actions)
            chosen = rng.permutation(len(observations))[:MOST_SAMPLES]
            targets = actions[chosen, 0] if actions.shape[1] == 1 else actions[chosen]
            self._fitted = small_network(targets, self.opened.is_discrete, self.seed)
            self._fitted.fit(observations[chosen], targets)
