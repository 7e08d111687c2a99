"""Observations of which a part is missing."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_recurrent_offpolicy.checks import check_exactly_one_given
from sb3_recurrent_offpolicy.envs.boxes import flat_box

Names = Sequence[int | str] | np.ndarray


class MaskObservation(gym.ObservationWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """
    Removes parts of the observation: (o_i, i in ``keep``), in the order of the environment.

    :param env: environment with a Box (n,) as observation, whose parts are named 0 .. n - 1, or a Dict, whose parts are named
        by its keys
    :param keep: names of what stays
    :param drop: names of what goes; give this or ``keep``
    :raises ValueError: if both or none are given, a name is unknown, nothing is left, or the observation is of another kind
    """

    def __init__(self, env: gym.Env, keep: Names | None = None, drop: Names | None = None):
        gym.utils.RecordConstructorArgs.__init__(self, keep=keep, drop=drop)
        super().__init__(env)
        check_exactly_one_given(keep=keep, drop=drop)
        space = env.observation_space
        names: list[Any] = (
            list(space.spaces) if isinstance(space, spaces.Dict) else list(range(spaces.flatdim(flat_box(space))))
        )
        given: Any = drop if keep is None else keep
        named = set(given)
        if unknown := named.difference(names):
            raise ValueError(f"keep={keep}, drop={drop}: {unknown} not in the observation, choose from {names}")
        self.kept = [name for name in names if (name in named) == (drop is None)]
        if not self.kept:
            raise ValueError(f"keep={keep}, drop={drop}: nothing is left of the observation, keep some of {names}")
        if isinstance(space, spaces.Dict):
            self.observation_space = spaces.Dict(self.observation(space.spaces))
        else:
            box = flat_box(space)
            self.observation_space = spaces.Box(self.observation(box.low), self.observation(box.high), dtype=box.dtype)

    def observation(self, observation: Any) -> Any:
        if isinstance(observation, dict):
            return {name: observation[name] for name in self.kept}
        return observation[self.kept]
