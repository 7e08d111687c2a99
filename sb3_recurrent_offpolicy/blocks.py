"""
Rings of many environments that advance by themselves, side by side in one block of arrays.

A batch takes its rows from all of them at once. To read each ring by itself would cost half a millisecond per ring and batch.
Each ring writes to its own columns at its own time; what is read is told by times and columns of the block.
"""

from typing import Any

import numpy as np

from sb3_recurrent_offpolicy.layout import StepLayout
from sb3_recurrent_offpolicy.storage import StepRing


class RingBlock(StepRing):
    """
    Rings of equal size, to be read as one. Steps are added to its :attr:`members`.

    :param layout: what a step is made of
    :param n_rows: steps of each environment to keep
    :param n_envs: environments of each ring
    :param n_rings: number of rings
    :param stores_states: keep memory states, or do without
    :param stride: steps between stored memory states
    """

    def __init__(self, layout: StepLayout, n_rows: int, n_envs: int, n_rings: int, stores_states: bool, stride: int):
        super().__init__(layout, n_rows, n_envs * n_rings, stores_states, stride)
        self.envs_per_clock = n_envs
        self.members = [BlockMember(self, index, layout, n_rows, n_envs, stores_states, stride) for index in range(n_rings)]

    def columns(self, index: int, state_size: int) -> list[np.ndarray]:
        """
        :param index: of a member
        :param state_size: floats per memory state
        :return: its part of each array
        """
        if not self.allocated:
            self._all_arrays = self._make_arrays(state_size)
            self._keep_arrays(self._all_arrays)
            self.state_shapes, self.shared_state = self.members[index].state_shapes, self.members[index].shared_state
            self.allocated = True
        own = slice(index * self.envs_per_clock, (index + 1) * self.envs_per_clock)
        return [array[:, own] for array in self._all_arrays]

    def clocks(self) -> tuple[np.ndarray, np.ndarray]:
        firsts, lasts = zip(*((ring.first_usable(), ring.n_added) for ring in self.members), strict=True)
        return np.array(firsts), np.array(lasts)

    def cells(self, times: np.ndarray, envs: np.ndarray) -> np.ndarray:
        laps = np.array([ring.n_added // self.n_rows * self.n_rows for ring in self.members])
        return (times - laps[envs // self.envs_per_clock]) * self.n_envs + envs

    def next_observation(self, env: int) -> Any:
        member, own = divmod(env, self.envs_per_clock)
        return self.members[member].next_observation(own)

    def final_observation(self, time: int, env: int) -> Any:
        member, own = divmod(env, self.envs_per_clock)
        return self.members[member].final_observation(time, own)

    def max_episode_length(self) -> int:
        return max(ring.max_episode_length() for ring in self.members if ring.allocated)


class BlockMember(StepRing):
    """
    A ring whose arrays are columns of a block.

    :param block: that it belongs to
    :param index: in the block
    :param settings: of :class:`~sb3_recurrent_offpolicy.storage.StepRing`
    """

    def __init__(self, block: RingBlock, index: int, *settings: Any):
        super().__init__(*settings)
        self.block, self.index = block, index

    def _make_arrays(self, state_size: int) -> list[np.ndarray]:
        return self.block.columns(self.index, state_size)
