"""What parameters must satisfy, in algorithms, policies and tasks."""

import importlib.util
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


def check_switches(**values: Any) -> None:
    """
    :param values: parameters that are on or off, by name
    :raises ValueError: if one of them is neither
    """
    for name, value in values.items():
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name}={value!r} must be True or False")


def check_installed(extra: str, *modules: str) -> None:
    """
    :param extra: of this package, which installs them
    :param modules: that are needed
    :raises ImportError: if one of them is missing
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"{module} is missing: pip install 'sb3_recurrent_offpolicy[{extra}]'")


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


def check_sequences(sequence_length: Any, burn_in: Any, state_init: Any) -> None:
    """
    :param sequence_length: steps per sequence, or None for whole episodes
    :param burn_in: steps before a sequence
    :param state_init: with which memory a sequence begins
    :raises ValueError: if they are impossible
    """
    if sequence_length is not None:
        check_integers(1, sequence_length=sequence_length)
    check_integers(0, burn_in=burn_in)
    if burn_in > (sequence_length or 0):
        remedy = "raise sequence_length or lower burn_in"
        if sequence_length is None:
            remedy = "whole episodes begin with zero memory and need none, use burn_in=0"
        raise ValueError(f"burn_in={burn_in} must not exceed sequence_length={sequence_length}: {remedy}")
    if state_init not in ("stored", "zero"):
        raise ValueError(f"state_init={state_init!r} must be 'stored' or 'zero'")


def check_lattice(sequence_length: int | None, burn_in: int, state_init: str, stride: Any, refresh_states: bool) -> None:
    """
    :param sequence_length: steps per sequence, or None for whole episodes
    :param burn_in: steps before a sequence
    :param state_init: with which memory a sequence begins
    :param stride: steps between stored states
    :param refresh_states: replace stored states
    :raises ValueError: if sequences cannot begin where states are stored, or burn-in does not end there
    """
    check_integers(1, stride=stride)
    if (sequence_length or stride) % stride != 0:
        raise ValueError(
            f"stride={stride} must be a divisor of sequence_length={sequence_length}, "
            "or some steps would be trained on more often than others; leave it None for a sensible default"
        )
    if refresh_states and (state_init != "stored" or burn_in == 0 or burn_in % stride != 0):
        raise ValueError(
            f"refresh_states={refresh_states} writes the states that burn-in leads to back to where states are stored. "
            f"With state_init={state_init!r}, burn_in={burn_in} and stride={stride} it cannot: use state_init='stored' "
            "and a burn_in that is a positive multiple of stride"
        )


def check_priorities(sequence_length: int | None, priority_alpha: Any, priority_eta: Any, importance_beta: Any) -> None:
    """
    :param sequence_length: steps per sequence, or None for whole episodes
    :param priority_alpha: exponent of the priorities
    :param priority_eta: weight of the largest error
    :param importance_beta: exponent of the importance weights
    :raises ValueError: if they are impossible
    """
    check_numbers(0, priority_alpha=priority_alpha)
    check_numbers(0, 1, priority_eta=priority_eta, importance_beta=importance_beta)
    if priority_alpha > 0 and sequence_length is None:
        raise ValueError(
            f"priority_alpha={priority_alpha} ranks windows of equal length, sequence_length=None replays whole episodes: "
            "choose a sequence_length, or priority_alpha=0"
        )


def check_room(buffer_size: Any, n_envs: int, needed: int) -> None:
    """
    :param buffer_size: steps to keep, over all environments. 1 is what those ask for who only want to predict
    :param n_envs: number of environments
    :param needed: steps of each that the longest sequence takes
    :raises ValueError: if no sequence fits
    """
    check_integers(1, buffer_size=buffer_size)
    n_rows = buffer_size // n_envs
    if buffer_size > 1 and n_rows < needed:
        raise ValueError(
            f"buffer_size={buffer_size} keeps {n_rows} steps for each of {n_envs} environment(s), fewer than one sequence "
            f"with its burn-in and the step before it ({needed}): raise buffer_size to {needed * n_envs} or more, or "
            "shorten sequence_length; 1 makes a buffer for a model that only predicts"
        )


def check_exactly_one_given(**alternatives: Any) -> None:
    """
    :param alternatives: parameters of which one is to be given and the others left at ``None``, by name
    :raises ValueError: if none or several are given
    """
    if sum(value is not None for value in alternatives.values()) != 1:
        given = ", ".join(f"{name}={value}" for name, value in alternatives.items())
        raise ValueError(f"{given}: give exactly one of them")


def check_finite(env_axis: int, **parts: Any) -> None:
    """
    :param env_axis: axis of the environments
    :param parts: of steps, by name: arrays, or dicts of them
    :raises ValueError: if a number is not finite, naming environment and place
    """
    for name, part in parts.items():
        for key, array in part.items() if isinstance(part, dict) else [(None, part)]:
            values = np.asarray(array)
            # One product tells in most cases; the square of a huge number overflows, and is looked at again
            if values.dtype.kind != "f" or math.isfinite(np.vdot(values, values)) or np.isfinite(values).all():
                continue
            where = np.argwhere(~np.isfinite(values))
            envs = np.unique(where[:, env_axis]).tolist()
            index = "".join(f"[{i!r}]" for i in ([] if key is None else [key]) + where[0].tolist())
            raise ValueError(
                f"{name} of the environment(s) {envs} is not finite: {name}{index} = {values[tuple(where[0])]}. The step "
                "was not stored; check the environment (VecCheckNan finds the step that produced it)."
            )
