"""Who is replayed: windows of recorded time, in proportion to the temporal-difference errors of their steps."""

import math
from typing import NamedTuple

import numpy as np

# So that a window whose errors are all zero is not lost for ever (Schaul et al. 2016)
SMALLEST_PRIORITY = 1e-6
# Windows whose priorities are computed at once, after many steps without an update
CHUNK = 4096


def sequence_priorities(errors: np.ndarray, mask: np.ndarray, eta: float) -> np.ndarray:
    """
    Priority of a sequence from those of its steps (Kapturowski et al. 2019, R2D2, section 2.3).

    :param errors: absolute temporal-difference errors, (T, N)
    :param mask: (T, N), true where there is a step to learn from, at least one in each column
    :param eta: weight of the largest error; the mean has the rest
    :return: (N,)
    """
    counted = np.where(mask, errors, 0.0)
    return eta * counted.max(axis=0) + (1.0 - eta) * counted.sum(axis=0) / mask.sum(axis=0)


class WindowLattice(NamedTuple):
    """
    Windows of ``length`` steps over a line of times; lattice point i has the one that begins at ``i * stride + offset``.
    """

    length: int
    offset: int
    stride: int

    def touching(self, first: int, last: int) -> tuple[int, int]:
        """
        :param first: a time
        :param last: a later time
        :return: the first lattice point whose window touches [first, last), and the one after the last such
        """
        low = math.ceil((first - self.length + 1 - self.offset) / self.stride)
        return low, (last - 1 - self.offset) // self.stride + 1

    def begins(self, points: np.ndarray) -> np.ndarray:
        """
        :param points: lattice points
        :return: the times at which their windows begin
        """
        return points * self.stride + self.offset


class WindowPriorities:
    """
    Errors of the steps in a ring, and from them the priority of each window of a lattice.

    A step belongs to several windows; all of them know its newest error. Errors are recorded at once, the priorities of
    windows with new steps follow when they are next asked for. Until its error is known, a step counts as much as the
    largest error that is known of the steps in the ring: it is to be replayed soon.

    :param n_rows: steps of each environment in the ring
    :param n_envs: number of environments
    :param lattice: the windows
    :param alpha: exponent of the priorities; 0 would be uniform
    :param eta: weight of the largest error in a window against their mean
    """

    def __init__(self, n_rows: int, n_envs: int, lattice: WindowLattice, alpha: float, eta: float):
        self.lattice = lattice
        self.alpha, self.eta = alpha, eta
        # NaN where the error is not known yet
        self.errors = np.full((n_rows, n_envs), np.nan, dtype=np.float32)
        self.weights = np.zeros((self._n_slots(n_rows, lattice), n_envs))
        # The largest known error in each window; 0 where none is known
        self.peaks = np.zeros(self.weights.shape, dtype=np.float32)
        # Of the windows that could be drawn when they were last brought up to date
        self.largest_error = 1.0
        # Windows know the steps before this time
        self._known_until = 0

    @staticmethod
    def _n_slots(n_rows: int, lattice: WindowLattice) -> int:
        return math.ceil((n_rows + lattice.length) / lattice.stride) + 1

    @classmethod
    def estimate_nbytes(cls, n_rows: int, n_envs: int, lattice: WindowLattice) -> int:
        """
        :param n_rows: steps of each environment in the ring
        :param n_envs: number of environments
        :param lattice: the windows
        :return: bytes that the arrays take
        """
        return n_envs * (4 * n_rows + 12 * cls._n_slots(n_rows, lattice))

    def add(self, row: int) -> None:
        """
        :param row: of the ring, where a new step of every environment stands
        """
        self.errors[row] = np.nan

    def record_newest(self, time: int, errors: np.ndarray) -> None:
        """
        Errors of steps as they were made, found while acting.

        :param time: of the steps, recent
        :param errors: absolute errors, (n_envs,)
        """
        self.errors[time % len(self.errors)] = self._finite(errors)
        self._known_until = min(self._known_until, time)

    def record(self, times: np.ndarray, envs: np.ndarray, errors: np.ndarray, first: int, last: int) -> None:
        """
        Errors found while learning.

        :param times: (N,)
        :param envs: (N,)
        :param errors: absolute errors, (N,)
        :param first: first time that can be sampled
        :param last: time after the last one
        """
        self.errors[times % len(self.errors), envs] = self._finite(errors)
        n_envs = self.errors.shape[1]
        # A step belongs to this many windows at most, the first of which may have ended before it
        offsets = np.arange(math.ceil(self.lattice.length / self.lattice.stride) + 1)[:, None]
        points = (times - self.lattice.length - self.lattice.offset) // self.lattice.stride + 1 + offsets
        low, high = self.lattice.touching(first, last)
        begins = self.lattice.begins(points)
        touched = (points >= low) & (points < high) & (begins <= times) & (times < begins + self.lattice.length)
        unique = np.unique((points * n_envs + envs)[touched])
        self._refresh(unique // n_envs, unique % n_envs, first, last)

    def sample(
        self, generator: np.random.Generator, size: int, first: int, last: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        :param generator: of random numbers
        :param size: number of windows
        :param first: first time that can be sampled
        :param last: time after the last one
        :return: lattice points, environments, and probabilities relative to uniform sampling, (size,) each
        """
        low, weights = self._live_weights(first, last)
        cumulative = weights.cumsum()
        total = cumulative[-1]
        # Rounding must not lead behind the last window
        flat = np.minimum(cumulative.searchsorted(generator.random(size) * total, side="right"), len(cumulative) - 1)
        rows, envs = np.divmod(flat, weights.shape[1])
        return low + rows, envs, weights[rows, envs] * len(cumulative) / total

    def statistics(self, first: int, last: int) -> dict[str, float]:
        """
        :param first: first time that can be sampled
        :param last: time after the last one
        :return: mean and largest priority of the windows between them
        """
        _, weights = self._live_weights(first, last)
        priorities = weights ** (1.0 / self.alpha)
        return {"mean": float(priorities.mean()), "max": float(priorities.max())}

    def _finite(self, errors: np.ndarray) -> np.ndarray:
        """An infinite error would make one window the only one that is ever drawn: it counts as the largest finite one."""
        return np.where(np.isfinite(errors), errors, self.largest_error)

    def _live_weights(self, first: int, last: int) -> tuple[int, np.ndarray]:
        """The first lattice point that touches [first, last), and the weights from there on: (n_points, n_envs)."""
        low, high = self.lattice.touching(first, last)
        slots = np.arange(low, high) % len(self.weights)
        if self._known_until > first:
            # The other slots hold windows of a ring ago
            n_known = self.lattice.touching(first, self._known_until)[1] - low
            self.largest_error = float(self.peaks[slots[:n_known]].max()) or self.largest_error
        self._refresh_new(first, last)
        return low, self.weights[slots]

    def _refresh_new(self, first: int, last: int) -> None:
        n_envs = self.errors.shape[1]
        low, high = self.lattice.touching(max(first, self._known_until), last)
        for begin in range(low, high, CHUNK):
            points = np.arange(begin, min(begin + CHUNK, high))
            self._refresh(points.repeat(n_envs), np.tile(np.arange(n_envs), len(points)), first, last)
        self._known_until = last

    def _refresh(self, points: np.ndarray, envs: np.ndarray, first: int, last: int) -> None:
        times = self.lattice.begins(points) + np.arange(self.lattice.length)[:, None]
        mask = (times >= first) & (times < last)
        errors = self.errors[times % len(self.errors), envs]
        known = ~np.isnan(errors)
        slots = points % len(self.weights)
        self.peaks[slots, envs] = np.where(known & mask, errors, 0.0).max(axis=0)
        priorities = sequence_priorities(np.where(known, errors, self.largest_error), mask, self.eta) + SMALLEST_PRIORITY
        self.weights[slots, envs] = priorities**self.alpha
