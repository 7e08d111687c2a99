"""Players that remember less than they could, or something else."""

from typing import Any

import numpy as np

from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy, State
from sb3_recurrent_offpolicy.preprocessing import map_observation


class Zeroed:
    """
    Every step is an episode's first.

    :param opened: the policy
    """

    def __init__(self, opened: OpenedPolicy):
        self.opened = opened

    def act(self, observations: Any, episode_starts: np.ndarray) -> np.ndarray:
        return self.opened.predict(observations, None, np.ones_like(episode_starts))[0]


class Exchanged:
    """
    Each environment goes on with what its neighbour remembers: memories of the usual kind, but of other episodes.

    :param opened: the policy
    """

    def __init__(self, opened: OpenedPolicy):
        self.opened = opened
        self._state: State | None = None

    def act(self, observations: Any, episode_starts: np.ndarray) -> np.ndarray:
        state = self._state and tuple(np.roll(array, 1, axis=1) for array in self._state)
        actions, self._state = self.opened.predict(observations, state, episode_starts)
        return actions


class Truncated:
    """
    Nothing is remembered but the last k steps: memory is built up from zero over o_{t-k} .. o_t.

    All memories that are under way advance together, as further environments of one call of ``predict``.

    :param opened: the policy
    :param n_steps: k, 0 being :class:`Zeroed`
    """

    def __init__(self, opened: OpenedPolicy, n_steps: int):
        self.opened = opened
        self.n_steps = n_steps
        self._state: State | None = None
        # Steps that each memory has seen; the last place is the oldest
        self._ages = np.arange(n_steps + 1)

    def act(self, observations: Any, episode_starts: np.ndarray) -> np.ndarray:
        n_memories, n_envs = len(self._ages), len(episode_starts)
        if self._state is not None:
            # The oldest has done its work; its place goes to one that begins now
            self._state = tuple(
                np.roll(array.reshape(len(array), n_memories, n_envs, -1), 1, axis=1).reshape(array.shape)
                for array in self._state
            )
        begins = np.repeat(self._ages[:, None] == 0, n_envs, axis=1) | episode_starts
        tiled = map_observation(lambda array: np.concatenate([array] * n_memories), observations)
        actions, state = self.opened.predict(tiled, self._state, begins.reshape(-1))
        chosen = actions.reshape(n_memories, n_envs, *actions.shape[1:])[-1]
        # Whatever the others would have done, this was
        self._state = state
        return chosen
