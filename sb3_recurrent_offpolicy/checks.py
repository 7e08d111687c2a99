"""What parameters must satisfy, in policies and in tasks."""

from typing import Any


def check_at_least_one(**counts: int) -> None:
    """
    :param counts: parameters that count something, by name
    :raises ValueError: if one of them is less than 1
    """
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")


def check_exactly_one_given(**alternatives: Any) -> None:
    """
    :param alternatives: parameters of which one is to be given and the others left at ``None``, by name
    :raises ValueError: if none or several are given
    """
    if sum(value is not None for value in alternatives.values()) != 1:
        given = ", ".join(f"{name}={value}" for name, value in alternatives.items())
        raise ValueError(f"{given}: give exactly one of them")
