"""Which stretches of the recorded time become sequences: windows laid on it, cut where an episode begins."""

from typing import NamedTuple, TypeVar

import numpy as np

from sb3_recurrent_offpolicy.storage import StepRing

Times = TypeVar("Times", int, np.ndarray)

# Without a sequence length to derive it from (whole episodes), states are only needed where a ring has cut an episode's
# head off
WHOLE_EPISODE_STRIDE = 16


def default_stride(sequence_length: int | None) -> int:
    """
    :param sequence_length: steps per sequence, None for whole episodes
    :return: its largest divisor up to a quarter of it, so that a step is met in four or more different positions
    """
    if sequence_length is None:
        return WHOLE_EPISODE_STRIDE
    return max(divisor for divisor in range(1, max(sequence_length // 4, 1) + 1) if sequence_length % divisor == 0)


class WindowLattice(NamedTuple):
    """
    Windows of ``length`` steps over a line of times; lattice point i has the one that begins at ``i * stride + offset``.
    """

    length: int
    offset: int
    stride: int

    def touching(self, first: Times, last: Times) -> tuple[Times, Times]:
        """
        :param first: a time, or times
        :param last: a later time, or times
        :return: the first lattice point whose window touches [first, last), and the one after the last such
        """
        return -((self.length - 1 + self.offset - first) // self.stride), (last - 1 - self.offset) // self.stride + 1

    def n_touching(self, first: int, last: int) -> int:
        """
        :param first: a time
        :param last: a later time
        :return: number of windows that touch [first, last)
        """
        low, high = self.touching(first, last)
        return high - low

    def begins(self, points: np.ndarray) -> np.ndarray:
        """
        :param points: lattice points
        :return: the times at which their windows begin
        """
        return points * self.stride + self.offset


class Pieces(NamedTuple):
    """Sequences of one ring, to be read: one entry of each array per row of the batch."""

    begins: np.ndarray
    """Time at which the row begins, with its burn-in if it has one"""
    envs: np.ndarray
    burn_in: np.ndarray
    """Whether it has one"""
    ends: np.ndarray
    """Time before which the row ends; an episode start may end it sooner"""
    weights: np.ndarray
    """Importance weights"""

    def select(self, rows: np.ndarray) -> "Pieces":
        """
        :param rows: indices or a mask
        :return: these rows
        """
        return Pieces(*(array[rows] for array in self))


def until_first(ends: np.ndarray, starts: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Ends, in each of the columns moved to the first of its ``starts``."""
    if len(columns) == 0:
        return ends
    ends = ends.copy()
    np.minimum.at(ends, columns, starts)
    return ends


def span(ring: StepRing, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First time that can be read of each environment, and the time after its last step."""
    first, last = ring.clocks()
    clocks = envs // ring.envs_per_clock
    return first[clocks], last[clocks]


def cut_windows(
    ring: StepRing, lattice: WindowLattice, points: np.ndarray, envs: np.ndarray, weights: np.ndarray, burn_in: int
) -> Pieces:
    """
    Cut windows at episode starts. A window yields at least one piece, one with an episode start in it yields more; pieces
    that begin with their episode are extended to the full length.

    :param ring: where the steps are
    :param lattice: the windows
    :param points: lattice points of those to be cut, (N,)
    :param envs: (N,)
    :param weights: importance weights, (N,)
    :param burn_in: steps before a piece that does not begin with its episode
    :return: the pieces of all windows
    """
    (first, last), length, windows = span(ring, envs), lattice.length, lattice.begins(points)
    heads, ends = np.maximum(windows, first), np.minimum(windows + length, last)
    starts, columns = ring.episode_starts(heads, ends, envs)

    # What lies before the first episode start continues an episode: it needs a stored state or burn-in
    tail_ends = until_first(ends, starts, columns)
    known = np.maximum(heads - ring.steps_into_episode(heads, envs), first)
    begins = np.maximum(heads - burn_in, known)
    # Too short for its burn-in: learn from the first step that is known
    has_burn_in = (begins + burn_in < tail_ends) & (burn_in > 0)
    tails = np.flatnonzero(tail_ends > heads)

    return Pieces(
        np.concatenate([begins[tails], starts]),
        np.concatenate([envs[tails], envs[columns]]),
        np.concatenate([has_burn_in[tails], np.zeros(len(starts), dtype=bool)]),
        np.concatenate([tail_ends[tails], np.minimum(starts + length, last[columns])]),
        np.concatenate([weights[tails], weights[columns]]),
    )


def whole_episodes(ring: StepRing, times: np.ndarray, envs: np.ndarray) -> Pieces:
    """
    :param ring: where the steps are
    :param times: of one step of each episode, (N,)
    :param envs: (N,)
    :return: the episodes, from their first step, or from the first that the ring still holds
    """
    first, last = span(ring, envs)
    begins = np.maximum(times - ring.steps_into_episode(times, envs), first)
    return Pieces(begins, envs, np.zeros(len(times), dtype=bool), last, np.ones(len(times), dtype=np.float32))
