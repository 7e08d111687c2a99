"""
A step of the environments, and what may happen during it: updates of the networks, the death of a process.

SB3's ``SubprocVecEnv`` waits for the answer of each process. One that was killed gives none, and where processes were forked
nothing tells, because its siblings hold the other end of its pipe too.
"""

import os
import select
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any, NoReturn

import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

# What a process has to end, when it was asked to, or when its pipe is closed
SECONDS_TO_END = 5.0


@VecEnv.register
class SupervisedStep:
    """
    What SB3's ``collect_rollouts`` needs of environments. No ``VecEnvWrapper``: making one asks every process for its render
    mode, and this object lives for one rollout.

    :param venv: the environments
    :param meanwhile: called while they compute
    """

    def __init__(self, venv: VecEnv, meanwhile: Callable[[], None]):
        self.venv = venv
        self.meanwhile = meanwhile

    def step(self, actions: np.ndarray) -> VecEnvStepReturn:
        """
        :param actions: of each environment
        :return: as of ``VecEnv.step``
        :raises RuntimeError: if the process of an environment has died; all of them are closed then
        """
        processes = self.venv.unwrapped
        try:
            self.venv.step_async(actions)
            try:
                self.meanwhile()
            except BaseException:
                # Otherwise the results would be taken for the answer to what the environments are asked next. Processes that
                # Ctrl-C has ended give none
                with suppress(Exception):
                    self._answers(processes)
                raise
            return self._answers(processes)
        except (EOFError, ConnectionError):
            if isinstance(processes, SubprocVecEnv):
                check_alive(processes, SECONDS_TO_END)
            raise

    def _answers(self, processes: VecEnv) -> VecEnvStepReturn:
        if isinstance(processes, SubprocVecEnv):
            wait_for_answers(processes)
        return self.venv.step_wait()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.venv, name)


def wait_for_answers(env: SubprocVecEnv) -> None:
    """
    :param env: environments that have been asked something
    :raises RuntimeError: if the process of one has died
    """
    if os.name != "posix":
        # Pipes have one other end there, whose death is noticed
        return
    poll = select.poll()
    answers, deaths = {remote.fileno() for remote in env.remotes}, {process.sentinel for process in env.processes}
    for descriptor in answers | deaths:
        poll.register(descriptor, select.POLLIN)
    while answers:
        for descriptor, _ in poll.poll():
            if descriptor in deaths:
                check_alive(env, SECONDS_TO_END)
            poll.unregister(descriptor)
            answers.discard(descriptor)


def check_alive(env: SubprocVecEnv, seconds: float = 0.0) -> None:
    """
    :param env: environments in processes
    :param seconds: to wait for the death of one that is about to die: its pipes close before it ends
    :raises RuntimeError: if one of them has died; the others are closed then
    """
    if env.closed:
        return
    if seconds > 0.0:
        for sentinel in wait([process.sentinel for process in env.processes], seconds):
            next(process for process in env.processes if process.sentinel == sentinel).join(seconds)
    for index, process in enumerate(env.processes):
        if process.exitcode is not None:
            _close_others(env)
            _raise_dead(index, process.exitcode)


def _raise_dead(index: int, exitcode: int) -> NoReturn:
    raise RuntimeError(
        f"The process of environment {index} has died, with exit code {exitcode} (-9: killed, for lack of memory perhaps; 1: "
        "the environment raised the error above). The step is not stored, and all environments are closed. The model can be "
        "saved, and goes on after set_env with new environments"
    )


def _close_others(env: SubprocVecEnv) -> None:
    # SB3's own close would wait for the dead one
    env.waiting, env.closed = False, True
    for remote in env.remotes:
        with suppress(OSError):
            remote.send(("close", None))
    for process in env.processes:
        process.join(SECONDS_TO_END)
        if process.is_alive():
            process.terminate()
