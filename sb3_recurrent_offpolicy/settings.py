"""The constructor's parameters that recurrent replay adds, declared once for all algorithms."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

from typing_extensions import Unpack

__all__ = ["ExploringSettings", "RecurrentSettings", "ReplaySettings", "Unpack", "passed_on", "signature_with_settings"]


# See RecurrentOffPolicyAlgorithm
MaxGradNorm = float | Literal["auto"] | None
NoiseColor = Literal["pink", "white"]


class ReplaySettings(TypedDict, total=False):
    """
    Keyword arguments of every algorithm; what they mean is told at
    :class:`~sb3_recurrent_offpolicy.algorithm.RecurrentOffPolicyAlgorithm`, defaults stand in its ``default_settings``.
    """

    sequence_length: int | None
    burn_in: int
    state_init: Literal["stored", "zero"]
    refresh_states: bool
    reward_scale: float | Literal["auto"]
    overlap_updates: bool


class RecurrentSettings(ReplaySettings, total=False):
    """As :class:`ReplaySettings`, for algorithms whose counterpart in SB3 does not clip gradients."""

    max_grad_norm: MaxGradNorm


class ExploringSettings(RecurrentSettings, total=False):
    """As :class:`RecurrentSettings`, for algorithms that explore by noise on actions."""

    noise_color: NoiseColor


def passed_on(arguments: Mapping[str, Any], *own: str) -> dict[str, Any]:
    """
    What a constructor passes on to its parent's: everything but its own parameters. A list of some 25 names, each assigned to
    itself, would say the same.

    :param arguments: ``locals()`` at the beginning of the constructor, its further keyword arguments being named ``settings``
    :param own: names of its own parameters
    :return: keyword arguments
    """
    left_out = {"self", "__class__", "settings", "_init_setup_model", *own}
    return {name: value for name, value in arguments.items() if name not in left_out} | arguments["settings"]


def signature_with_settings(constructor: Callable[..., Any], defaults: Mapping[str, Any]) -> inspect.Signature:
    """
    :param constructor: whose further keyword arguments are named ``settings``; others are left as they are
    :param defaults: of these
    :return: its signature as ``help`` and notebooks show it: without ``self``, and with the settings one by one
    """
    signature = inspect.signature(constructor)
    parameters = [parameter for name, parameter in signature.parameters.items() if name != "self"]
    if parameters and parameters[-1].name == "settings":
        shown = {parameter.name for parameter in parameters}
        parameters[-1:] = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
            for name, value in defaults.items()
            if name not in shown
        ]
    return signature.replace(parameters=parameters)
