"""
Pickles of things in mid-run: environments with the state that they are in, log files with the position they have reached.

Reading one runs what it holds, so they are for files of one's own.
"""

import csv
import inspect
import io
import os
import types
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import cloudpickle
import torch as th
from gymnasium.utils import EzPickle
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

# As they are; made again by their own pickle, with wrappers as they are; or only the wrappers around all of them
Environments = Literal["exact", "renewed", "left out"]
# What takes the place of environments that are not in the pickle
_given_env: ContextVar[VecEnv | None] = ContextVar("given_env", default=None)
_how: ContextVar["Environments"] = ContextVar("how", default="exact")


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, EzPickle) and _how.get() == "exact":
            # Its own pickle is the arguments of the constructor: an environment that has just been made
            return _bare, (type(obj),), vars(obj), None, None, _set_state
        if isinstance(obj, VecEnvWrapper):
            # Some leave out of their pickle what they wrap, and their running returns
            state = {name: value for name, value in vars(obj).items() if name != "class_attributes"}
            return _bare, (type(obj),), state, None, None, _set_wrapper_state
        if isinstance(obj, ResultsWriter):
            file = obj.file_handler
            file.flush()
            return _log_from, (file.name, os.fstat(file.fileno()).st_size, tuple(obj.logger.fieldnames))
        if isinstance(obj, VecEnv):
            if _how.get() == "left out":
                return _given, (None,)
            if not isinstance(obj, DummyVecEnv):
                return _given, (states_of_processes(obj),)
        return super().reducer_override(obj)


def _bare(kind: type) -> Any:
    return object.__new__(kind)


def _set_state(instance: Any, state: dict[str, Any]) -> None:
    vars(instance).update(state)


def _set_wrapper_state(instance: Any, state: dict[str, Any]) -> None:
    vars(instance).update(state, class_attributes=dict(inspect.getmembers(type(instance))))


def _log_from(name: str, position: int, fieldnames: tuple[str, ...]) -> ResultsWriter:
    """A log of episodes as it was: those that came later will come again."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    # The writer's own constructor would begin a new log
    writer = object.__new__(ResultsWriter)
    writer.file_handler = open(name, "a", newline="\n")  # noqa: SIM115
    writer.file_handler.truncate(min(position, os.path.getsize(name)))
    writer.logger = csv.DictWriter(writer.file_handler, fieldnames=fieldnames)
    return writer


def states_of_processes(env: VecEnv) -> list[bytes]:
    """
    :param env: environments in processes of their own
    :return: the state of each
    :raises ValueError: if they cannot tell
    """
    if not env.has_attr("running_state"):
        raise ValueError(f"environments of a {type(env).__name__} need the wrapper ResumableEnv to tell their state")
    states = env.env_method("running_state")
    for state in states:
        if isinstance(state, str):
            raise ValueError(state)
    return states


def _given(states: list[bytes] | None) -> VecEnv:
    env = _given_env.get()
    if env is None:
        raise ValueError("the checkpoint does not hold its environments: pass env, made as for training")
    if states is not None:
        if env.num_envs != len(states) or not env.has_attr("restore_running_state"):
            raise ValueError(f"env must be {len(states)} environments with the wrapper ResumableEnv, as in training")
        for index, state in enumerate(states):
            env.env_method("restore_running_state", state, indices=index)
    return env


# What torch asks of a module like pickle
_MODULE = types.SimpleNamespace(__name__=__name__, Pickler=_Pickler)


def dumps(value: Any, environments: Environments = "exact") -> bytes:
    """
    :param value: any
    :param environments: how they are saved. "renewed" serves simulators that cannot be pickled, but know how they were made
    :return: its pickle. Tensors that share memory share it afterwards too
    """
    file = io.BytesIO()
    token = _how.set(environments)
    try:
        th.save(value, file, pickle_module=_MODULE, pickle_protocol=5)
    finally:
        _how.reset(token)
    return file.getvalue()


def loads(pickled: bytes, env: VecEnv | None = None) -> Any:
    """
    :param pickled: from :func:`dumps`
    :param env: takes the place of environments that the pickle does not hold
    :return: the value
    :raises ValueError: if ``env`` is missing, or another one than in training
    """
    token = _given_env.set(env)
    try:
        return th.load(io.BytesIO(pickled), weights_only=False)
    finally:
        _given_env.reset(token)
