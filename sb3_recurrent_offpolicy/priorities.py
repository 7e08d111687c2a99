"""Who is replayed: windows of recorded time, in proportion to the temporal-difference errors of their steps."""

import math
from typing import Any

import numpy as np

from sb3_recurrent_offpolicy.windows import WindowLattice

# So that a window whose errors are all zero stays in the draw (Schaul et al. 2016)
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


def draw_by_weight(
    generator: np.random.Generator, size: int, weights: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """
    Draw windows of several rings in proportion to their weights.

    :param generator: of random numbers
    :param size: number of windows
    :param weights: of the windows of each ring, (n_points, n_envs) each
    :return: ring, point, environment, and probability relative to uniform sampling of each drawn window, (size,) each
    """
    flat = np.concatenate([each.ravel() for each in weights]) if len(weights) > 1 else weights[0].ravel()
    cumulative = flat.cumsum()
    total = cumulative[-1]
    # Rounding must not lead behind the last window
    chosen = np.minimum(cumulative.searchsorted(generator.random(size) * total, side="right"), len(flat) - 1)
    relative = flat[chosen] * len(flat) / total
    if len(weights) == 1:
        return np.zeros(size, dtype=int), *np.divmod(chosen, weights[0].shape[1]), relative
    sizes = np.array([each.size for each in weights])
    rings = sizes.cumsum().searchsorted(chosen, side="right")
    n_envs = np.array([each.shape[1] for each in weights])[rings]
    return rings, *np.divmod(chosen - (sizes.cumsum() - sizes)[rings], n_envs), relative


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
        self.n_rows, self.n_envs = n_rows, n_envs
        self.lattice = lattice
        self.alpha, self.eta = alpha, eta
        self.allocated = False
        # Of the windows that could be drawn when they were last brought up to date
        self.largest_error = 1.0
        # Windows know the steps before this time
        self._known_until = 0

    @property
    def _n_slots(self) -> int:
        return math.ceil((self.n_rows + self.lattice.length) / self.lattice.stride) + 1

    def estimate_nbytes(self) -> int:
        """
        :return: bytes that the arrays will take
        """
        return self.n_envs * (4 * self.n_rows + 12 * self._n_slots)

    def _allocate(self) -> None:
        # NaN where the error is not known yet
        self.errors = np.full((self.n_rows, self.n_envs), np.nan, dtype=np.float32)
        self.weights = np.zeros((self._n_slots, self.n_envs))
        # The largest known error in each window; 0 where none is known
        self.peaks = np.zeros(self.weights.shape, dtype=np.float32)
        self.allocated = True

    def state(self, first: int, last: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """
        :param first: first time that can be sampled
        :param last: time after the last one
        :return: what is known, for JSON and as arrays, without room for steps to come
        """
        numbers = {"first": first, "last": last, "largest_error": self.largest_error, "known_until": self._known_until}
        if not self.allocated:
            return numbers, {}
        slots = self._slots(first, last)
        arrays = {"errors": self.errors[:last], "weights": self.weights[slots], "peaks": self.peaks[slots]}
        return numbers, arrays

    def restore(self, numbers: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """
        :param numbers: from :meth:`state`
        :param arrays: from :meth:`state`
        """
        self.largest_error, self._known_until = numbers["largest_error"], numbers["known_until"]
        if arrays:
            self._allocate()
            self.errors[: len(arrays["errors"])] = arrays["errors"]
            slots = self._slots(numbers["first"], numbers["last"])
            self.weights[slots], self.peaks[slots] = arrays["weights"], arrays["peaks"]

    def _slots(self, first: int, last: int) -> np.ndarray:
        """Of the windows that touch these times, the oldest first."""
        low, high = self.lattice.touching(first, last)
        return np.arange(low, high) % len(self.weights)

    def add(self, rows: Any) -> None:
        """
        :param rows: of the ring, where new steps of every environment stand
        """
        if not self.allocated:
            self._allocate()
        self.errors[rows] = np.nan

    def record_newest(self, times: np.ndarray, errors: np.ndarray) -> None:
        """
        Errors of steps as they were made, found while acting.

        :param times: of the steps, recent, in their order: (T,)
        :param errors: absolute errors, (T, n_envs)
        """
        self.errors[times % len(self.errors)] = self._finite(errors)
        self._known_until = min(self._known_until, int(times[0]))

    def record(
        self, begins: np.ndarray, ends: np.ndarray, envs: np.ndarray, errors: np.ndarray, first: int, last: int
    ) -> None:
        """
        Errors found while learning, of sequences of steps. Steps that cannot be sampled any more do not count.

        :param begins: time of the first step of each sequence, (N,)
        :param ends: time after its last step, (N,)
        :param envs: (N,)
        :param errors: absolute errors, (T, N), those after the end of a sequence without effect
        :param first: first time that can be sampled
        :param last: time after the last one
        """
        times = begins + np.arange(len(errors))[:, None]
        counted = (times >= first) & (times < ends)
        columns = np.broadcast_to(envs, times.shape)[counted]
        self.errors[times[counted] % len(self.errors), columns] = self._finite(errors[counted])
        # The windows that touch a sequence stand side by side; one that touches several is refreshed as often
        low, high = self.lattice.touching(first, last)
        sequence_low, sequence_high = self.lattice.touching(np.maximum(begins, first), ends)
        points = np.maximum(sequence_low, low) + np.arange((sequence_high - sequence_low).max())[:, None]
        touched = (points < np.minimum(sequence_high, high)) & (ends > first)
        self._refresh(points[touched], np.broadcast_to(envs, points.shape)[touched], first, last)

    def live_weights(self, first: int, last: int) -> tuple[int, np.ndarray]:
        """
        :param first: first time that can be sampled
        :param last: time after the last one
        :return: the first lattice point whose window touches these times, and the weights from there on: (n_points, n_envs)
        """
        low = self.lattice.touching(first, last)[0]
        slots = self._slots(first, last)
        if self._known_until > first:
            # The other slots hold windows of a ring ago
            n_known = self.lattice.touching(first, self._known_until)[1] - low
            self.largest_error = float(self.peaks[slots[:n_known]].max()) or self.largest_error
        self._refresh_new(first, last)
        return low, self.weights[slots]

    def _finite(self, errors: np.ndarray) -> np.ndarray:
        """An infinite error would make one window the only one that is ever drawn: it counts as the largest known one."""
        return np.where(np.isfinite(errors), errors, self.largest_error)

    def _refresh_new(self, first: int, last: int) -> None:
        if self._known_until == last:
            return
        n_envs = self.errors.shape[1]
        low, high = self.lattice.touching(max(first, self._known_until), last)
        for begin in range(low, high, CHUNK):
            points = np.arange(begin, min(begin + CHUNK, high))
            self._refresh(points.repeat(n_envs), np.tile(np.arange(n_envs), len(points)), first, last)
        self._known_until = last

    def _refresh(self, points: np.ndarray, envs: np.ndarray, first: int, last: int) -> None:
        times = self.lattice.begins(points) + np.arange(self.lattice.length)[:, None]
        mask = (times >= first) & (times < last)
        # Faster than two indices and a remainder, see StepRing.read
        cells = (times - last // self.n_rows * self.n_rows) * self.n_envs + envs
        errors = self.errors.ravel().take(cells, mode="wrap")
        known = ~np.isnan(errors)
        slots = points % len(self.weights)
        self.peaks[slots, envs] = np.where(known & mask, errors, 0.0).max(axis=0)
        priorities = sequence_priorities(np.where(known, errors, self.largest_error), mask, self.eta) + SMALLEST_PRIORITY
        self.weights[slots, envs] = priorities**self.alpha
