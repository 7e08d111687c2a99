"""Noise that explores."""

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from stable_baselines3.common.noise import ActionNoise

# White noise, and time constants of four times the one before each, in steps: the spectra of such processes add up to 1 / f
DECAYS = np.array([0.0, *np.exp(-1 / np.array([2.0, 8.0, 32.0, 128.0]))])


class PinkActionNoise(ActionNoise):
    """
    Gaussian noise whose power falls with the frequency f as 1 / f: some of it changes at every step, some within a hundred.

    White noise takes back at one step what it did at another, and explores the surroundings of where the policy goes. What
    lasts leads further away, but noise that only lasts cannot try a single action. Pink noise is between the two. Eberhard
    et al. (2023, Pink Noise Is All You Need, https://openreview.net/forum?id=hQ9V5QN27eS) find it better than white and than
    Ornstein-Uhlenbeck noise on a wide range of tasks, and recommend it as the default. They draw the noise of a whole episode
    at once. Here it is the sum of white noise and of autoregressive processes with time constants of 2, 8, 32 and 128 steps,
    in equal parts. That needs no length of an episode; below f = 1 / 800 the spectrum is flat.

    :param mean: mean of the noise, of any shape
    :param sigma: its standard deviation at every step, of the same shape
    :param dtype: of the noise
    :param generator: of random numbers; None for NumPy's global one, as in SB3's ``NormalActionNoise``
    """

    def __init__(
        self,
        mean: ArrayLike,
        sigma: ArrayLike,
        dtype: DTypeLike = np.float32,
        generator: np.random.Generator | None = None,
    ) -> None:
        super().__init__()
        self._generator = generator
        self._mu, self._sigma = np.asarray(mean), np.asarray(sigma)
        self._dtype = dtype
        self._decays = DECAYS.reshape(-1, *[1] * self._mu.ndim)
        self._innovations = np.sqrt(1 - self._decays**2)
        self._scale = self._sigma / np.sqrt(len(DECAYS))
        self._processes: np.ndarray | None = None

    def __call__(self) -> np.ndarray:
        draw = np.random.standard_normal if self._generator is None else self._generator.standard_normal
        drawn = draw((len(DECAYS), *self._mu.shape))
        # Each begins as it goes on: with unit variance
        self._processes = drawn if self._processes is None else self._decays * self._processes + self._innovations * drawn
        return np.asarray(self._mu + self._scale * self._processes.sum(axis=0), dtype=self._dtype)

    def reset(self) -> None:
        """Forget what lasts: SB3 asks for it at the end of an episode."""
        self._processes = None

    def __repr__(self) -> str:
        return f"PinkActionNoise(mu={self._mu}, sigma={self._sigma})"
