"""How sure a mean over episodes is."""

from typing import NamedTuple

import numpy as np

_RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean and where it lies with 95 % probability."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def interval(values: np.ndarray, seed: int = 0) -> Interval:
    """
    Bootstrap percentiles (Efron 1979): returns are seldom normal, and often one of two numbers.

    :param values: one for each episode, (n,)
    :param seed: of resampling
    :return: of their mean
    """
    values = np.asarray(values, dtype=float)
    chosen = np.random.default_rng(seed).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(values[chosen].mean(axis=1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def difference(values: np.ndarray, others: np.ndarray, paired: bool, seed: int = 0) -> Interval:
    """
    :param values: one for each episode
    :param others: the same
    :param paired: from the same starts, one by one
    :param seed: of resampling
    :return: of how much the mean of the first lies above that of the second
    """
    if paired:
        return interval(values - others, seed)
    rng = np.random.default_rng(seed)
    means = [each[rng.integers(len(each), size=(_RESAMPLES, len(each)))].mean(axis=1) for each in (values, others)]
    low, high = np.percentile(means[0] - means[1], [2.5, 97.5])
    return Interval(float(values.mean() - others.mean()), float(low), float(high))
