"""Observations that come and go."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_recurrent_offpolicy.checks import check_exactly_one_given, check_integers
from sb3_recurrent_offpolicy.envs.boxes import with_zero


class Flicker(gym.ObservationWrapper[np.ndarray, Any, np.ndarray], gym.utils.RecordConstructorArgs):
    """
    Shows the observation o_t now and then, as the flickering games of Hausknecht & Stone 2015
    (https://arxiv.org/abs/1507.06527) do.

    With t = 0 at every reset and v_t = 1 where the observation is visible:

    * ``period`` = k: v_t = [t mod k = 0], so the first observation is visible
    * ``probability`` = p: v_t ~ Bernoulli(p), independently at every step
    * ``mode="zeros"``: v_t o_t. The first observation may be hidden too, as in the paper: no step is special
    * ``mode="hold"``: o_s with s the last visible step up to t. The first observation is always visible, as there is none
      to hold; from t = 1 on both modes show the same steps

    v_t has a random stream of its own, which ``reset(seed=...)`` starts again: which steps are visible does not depend on what
    the environment draws, and the environment behaves as it does without the wrapper.

    :param env: environment with a Box of any shape as observation; "zeros" widens it where 0 lies outside
    :param period: every how many steps the observation is visible
    :param probability: how often the observation is visible, from 0 to 1; give this or ``period``
    :param mode: what is seen in place of a hidden observation, "zeros" or "hold"
    :raises ValueError: if the observation is not a Box, or if a parameter is missing or out of range
    """

    def __init__(self, env: gym.Env, period: int | None = None, probability: float | None = None, mode: str = "zeros"):
        gym.utils.RecordConstructorArgs.__init__(self, period=period, probability=probability, mode=mode)
        super().__init__(env)
        check_exactly_one_given(period=period, probability=probability)
        if period is not None:
            check_integers(1, period=period)
        if probability is not None and not 0 <= probability <= 1:
            raise ValueError(f"probability={probability} must be from 0 to 1")
        if mode not in ("zeros", "hold"):
            raise ValueError(f'mode="{mode}" must be "zeros" or "hold"')
        if not isinstance(env.observation_space, spaces.Box):
            raise ValueError(f"observation_space={env.observation_space} must be a Box: flatten it or choose a part first")
        self.period = period
        self.probability = probability or 0.0
        self.mode = mode
        if mode == "zeros":
            self.observation_space = with_zero(env.observation_space)
        self.random = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            # A child of the seed: the environment's own generator begins with the seed itself
            self.random = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
        self.time = 0
        return super().reset(seed=seed, options=options)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        if self._is_visible():
            self.shown = observation.copy()
        elif self.mode == "zeros":
            self.shown = np.zeros_like(observation)
        self.time += 1
        return self.shown.copy()

    def _is_visible(self) -> bool:
        if self.period is not None:
            return self.time % self.period == 0
        drawn = self.random.random() < self.probability
        return drawn or (self.mode == "hold" and self.time == 0)
