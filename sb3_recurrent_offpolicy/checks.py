"""What parameters must satisfy, in algorithms, policies and tasks."""

import math
from typing import Any

import numpy as np
from gymnasium import spaces


def check_integers(minimum: int, **values: Any) -> None:
    """
    :param minimum: smallest value allowed
    :param values: parameters that count something, by name
    :raises ValueError: if one of them is no integer, or less than ``minimum``
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise ValueError(f"{name}={value!r} must be an integer")
        if value < minimum:
            raise ValueError(f"{name}={value} must be at least {minimum}")


def check_numbers(low: float, high: float = math.inf, **values: Any) -> None:
    """
    :param low: smallest value allowed
    :param high: largest value allowed
    :param values: parameters that measure something, by name
    :raises ValueError: if one of them is no finite number between the two
    """
    for name, value in values.items():
        if not isinstance(value, (int, float, np.number)) or not math.isfinite(value) or not low <= value <= high:
            bounds = f"between {low} and {high}" if high < math.inf else f"of at least {low}"
            raise ValueError(f"{name}={value!r} must be a finite number {bounds}")


def check_positive(alternative: str = "", /, **values: Any) -> None:
    """
    :param alternative: what else is allowed, for the message
    :param values: parameters that measure something, by name
    :raises ValueError: if one of them is no finite number above 0
    """
    for name, value in values.items():
        if not isinstance(value, (int, float, np.number)) or not math.isfinite(value) or value <= 0:
            raise ValueError(f"{name}={value!r} must be a finite number above 0 {alternative}".rstrip())


def check_actions(space: spaces.Space, action_noise: Any) -> None:
    """
    :param space: of the actions
    :param action_noise: to be added to them, None for none
    :raises ValueError: if an algorithm cannot learn with them
    """
    if isinstance(space, spaces.Box):
        if not (space.low < space.high).all():
            raise ValueError(
                f"action_space={space} has dimensions whose low is not below their high, which leaves nothing to choose: take "
                "them out with gymnasium.wrappers.TransformAction"
            )
    elif action_noise is not None:
        raise ValueError(f"action_noise={action_noise} cannot be added to actions of {space}: leave it None")
    if isinstance(space, spaces.Discrete) and space.start != 0:
        raise ValueError(f"action_space={space} must start at 0: use gymnasium.wrappers.TransformAction to shift it")


def check_exactly_one_given(**alternatives: Any) -> None:
    """
    :param alternatives: parameters of which one is to be given and the others left at ``None``, by name
    :raises ValueError: if none or several are given
    """
    if sum(value is not None for value in alternatives.values()) != 1:
        given = ", ".join(f"{name}={value}" for name, value in alternatives.items())
        raise ValueError(f"{given}: give exactly one of them")
