"""
Spaces, schedules, noise and classes as JSON and back, so that files are read without running code that they hold.

A value that JSON does not know becomes ``{"type": ..., ...}``. Classes go by name and come back only from torch, SB3 and this
package. What else there is cannot be written, and says so.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from sb3_recurrent_offpolicy.noise import PinkActionNoise

# Packages whose classes a file may name. They are looked up among what is imported, never imported
_KNOWN_PACKAGES = ("torch.nn", "torch.optim", "stable_baselines3", "sb3_recurrent_offpolicy")


class NotPlainError(ValueError):
    """A value has no form in JSON, or a file names one that is not known."""


def _array(array: np.ndarray) -> dict[str, Any]:
    # Bounds of images are all alike
    flat = array.ravel()
    values = flat[:1].tolist() if (flat == flat[:1]).all() else flat.tolist()
    return {"type": "array", "dtype": array.dtype.str, "shape": list(array.shape), "values": values}


def _read_array(plain: dict[str, Any]) -> np.ndarray:
    values = np.array(plain["values"], dtype=np.dtype(plain["dtype"]))
    return np.broadcast_to(values, plain["shape"]).copy() if values.size == 1 else values.reshape(plain["shape"])


# How to take apart, and how to put together
_FORMS: dict[type, tuple[Callable[[Any], dict[str, Any]], Callable[..., Any]]] = {
    spaces.Box: (
        lambda space: {"low": space.low, "high": space.high},
        lambda low, high: spaces.Box(low, high, dtype=low.dtype.type),
    ),
    spaces.Discrete: (lambda space: {"n": int(space.n), "start": int(space.start)}, spaces.Discrete),
    spaces.MultiDiscrete: (
        lambda space: {"nvec": space.nvec, "start": space.start, "dtype": np.dtype(space.dtype).str},
        lambda nvec, start, dtype: spaces.MultiDiscrete(nvec, start=start, dtype=np.dtype(dtype).type),
    ),
    spaces.MultiBinary: (
        lambda space: {"n": list(space.shape) if len(space.shape) > 1 else int(space.shape[0])},
        spaces.MultiBinary,
    ),
    spaces.Dict: (lambda space: {"spaces": dict(space.spaces)}, spaces.Dict),
    NormalActionNoise: (lambda noise: {"mean": noise._mu, "sigma": noise._sigma}, NormalActionNoise),
    PinkActionNoise: (lambda noise: {"mean": noise._mu, "sigma": noise._sigma}, PinkActionNoise),
    OrnsteinUhlenbeckActionNoise: (
        lambda noise: {
            "mean": noise._mu,
            "sigma": noise._sigma,
            "theta": noise._theta,
            "dt": noise._dt,
            "initial_noise": noise.initial_noise,
        },
        OrnsteinUhlenbeckActionNoise,
    ),
    VectorizedActionNoise: (
        lambda noise: {"base_noise": noise.base_noise, "n_envs": noise.n_envs},
        VectorizedActionNoise,
    ),
    TrainFreq: (
        lambda train_freq: {"frequency": train_freq.frequency, "unit": train_freq.unit.value},
        lambda frequency, unit: TrainFreq(frequency, TrainFrequencyUnit(unit)),
    ),
    ConstantSchedule: (lambda schedule: {"val": schedule.val}, ConstantSchedule),
    LinearSchedule: (
        lambda schedule: {"start": schedule.start, "end": schedule.end, "end_fraction": schedule.end_fraction},
        LinearSchedule,
    ),
    FloatSchedule: (lambda schedule: {"value_schedule": schedule.value_schedule}, FloatSchedule),
}
_FORMS_BY_NAME = {form.__name__: form for form in _FORMS}


def to_plain(value: Any) -> Any:
    """
    :param value: numbers, strings, lists, tuples, dicts, arrays, spaces, schedules, action noise, classes
    :return: the same for ``json.dumps``
    :raises NotPlainError: if it holds anything else
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return _array(value)
    if type(value) in _FORMS:
        parts = _FORMS[type(value)][0](value)
        return {"type": type(value).__name__} | {name: to_plain(part) for name, part in parts.items()}
    if type(value) is list:
        return [to_plain(entry) for entry in value]
    if type(value) is tuple:
        return {"type": "tuple", "entries": [to_plain(entry) for entry in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"type": "dict", "entries": {key: to_plain(entry) for key, entry in value.items()}}
    if isinstance(value, type):
        name = f"{value.__module__}:{value.__qualname__}"
        if _find_class(name) is value:
            return {"type": "class", "name": name}
    raise NotPlainError(f"{value!r} has no plain form")


def from_plain(plain: Any) -> Any:
    """
    :param plain: from :func:`to_plain`, by way of JSON
    :return: what it was made of
    :raises NotPlainError: if it names something that is not known
    """
    if isinstance(plain, list):
        return [from_plain(entry) for entry in plain]
    if not isinstance(plain, dict):
        return plain
    kind = plain.get("type")
    if kind == "array":
        return _read_array(plain)
    if kind == "tuple":
        return tuple(from_plain(entry) for entry in plain["entries"])
    if kind == "dict":
        return {key: from_plain(entry) for key, entry in plain["entries"].items()}
    if kind == "class":
        return _find_class(plain["name"])
    if kind not in _FORMS_BY_NAME:
        raise NotPlainError(f"{kind!r} is not known")
    parts = {name: from_plain(part) for name, part in plain.items() if name != "type"}
    return _FORMS[_FORMS_BY_NAME[kind]][1](**parts)


def _find_class(name: str) -> type:
    module_name, _, path = name.partition(":")
    package = next((package for package in _KNOWN_PACKAGES if f"{module_name}.".startswith(f"{package}.")), None)
    found: Any = sys.modules.get(module_name) if package else None
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise NotPlainError(f"the class {name} is not known")
    return found
