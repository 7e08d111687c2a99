"""Observation boxes that wrappers ask for, and those they make."""

import numpy as np
from gymnasium import spaces


def flat_box(space: spaces.Space) -> spaces.Box:
    """
    :param space: an observation space
    :return: the same space, known to be a Box of shape (n,)
    :raises ValueError: if it is something else
    """
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"observation_space={space} must be a flat Box: wrap in gymnasium.wrappers.FlattenObservation first")
    return space


def with_zero(box: spaces.Box) -> spaces.Box:
    """
    :param box: any box
    :return: the box, widened where 0 lies outside
    """
    return spaces.Box(np.minimum(box.low, 0), np.maximum(box.high, 0), dtype=box.dtype)
