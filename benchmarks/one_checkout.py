"""
What :mod:`benchmarks.checkouts` asks of one checkout, in a process of its own that imports the package from there.

Imports nothing from ``benchmarks``, which would be that of the checkout. Of the package it uses what does not change:
constructors, ``learn``, ``train``, ``policy``, and of the replay buffer ``add`` and sampling.
"""

import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

import sb3_recurrent_offpolicy
from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3

PACKAGE = sb3_recurrent_offpolicy.__name__
N_STEPS, N_STORED, EPISODE = 2_000, 100_000, 200
# An answer about time takes at least so many seconds
SHORTEST = 0.05
# Arrays of the replay buffer that are compared where both checkouts have them
REPLAYED = ("observations", "actions", "rewards", "states")


class Family(NamedTuple):
    """An algorithm, on an environment with the actions that it is tried on."""

    algorithm: Callable[..., Any]
    env_id: str
    settings: dict[str, Any]
    prioritised: dict[str, Any]
    """Settings in addition, for prioritised replay"""


PRIORITISED: dict[str, Any] = dict(replay_buffer_kwargs=dict(priority_alpha=0.6, importance_beta=0.4))
FAMILIES = {
    "RecurrentTD3": Family(RecurrentTD3, "Pendulum-v1", {}, PRIORITISED),
    "RecurrentDDPG": Family(RecurrentDDPG, "Pendulum-v1", {}, PRIORITISED),
    "RecurrentSAC, Box": Family(RecurrentSAC, "Pendulum-v1", {}, PRIORITISED),
    "RecurrentSAC, gSDE": Family(RecurrentSAC, "Pendulum-v1", dict(use_sde=True), PRIORITISED),
    "RecurrentSAC, Discrete": Family(RecurrentSAC, "CartPole-v1", {}, PRIORITISED),
    "R2D2": Family(R2D2, "CartPole-v1", dict(priority_alpha=0.0), dict(priority_alpha=0.9)),
}


class Case(NamedTuple):
    family: Family
    n_envs: int
    settings: dict[str, Any]
    normalized: bool = False


def cases() -> dict[str, Case]:
    """
    :return: by name, what is trained and compared
    """
    found = {}
    for name, family in FAMILIES.items():
        for n_envs in (1, 4, 8) if family.algorithm is R2D2 else (1, 4):
            found[f"{name}, {n_envs} env(s), uniform"] = Case(family, n_envs, {})
            found[f"{name}, {n_envs} env(s), prioritised"] = Case(family, n_envs, family.prioritised)
        found[f"{name}, VecNormalize"] = Case(family, 4, {}, normalized=True)
        found[f"{name}, refreshed states"] = Case(family, 4, family.prioritised | dict(burn_in=4, refresh_states=True))
        if family.algorithm is not R2D2:
            shared = dict(policy_kwargs=dict(shared_lstm=True, enable_critic_lstm=False))
            found[f"{name}, shared memory"] = Case(family, 4, shared)
    return found


def make_model(family: Family, env: VecEnv, hidden: int, heads: list[int], **settings: Any) -> Any:
    settings = family.settings | settings
    if family.algorithm is RecurrentTD3:
        settings["action_noise"] = NormalActionNoise(np.zeros(1), np.full(1, 0.1))
    policy_kwargs = dict(lstm_hidden_size=hidden, net_arch=heads) | settings.pop("policy_kwargs", {})
    model = family.algorithm("MlpLstmPolicy", env, policy_kwargs=policy_kwargs, seed=0, device="cpu", **settings)
    # SB3's own would make a folder for logs
    model.set_logger(Logger(None, []))
    return model


def train(name: str) -> dict[str, dict[str, np.ndarray]]:
    """
    :param name: of a case
    :return: parameters and replayed arrays of the trained model
    """
    family, n_envs, settings, normalized = cases()[name]
    env: VecEnv = make_vec_env(family.env_id, n_envs, seed=0)
    # The ring is overwritten once, so that its seam is compared too
    common: dict[str, Any] = dict(buffer_size=N_STEPS // 2, learning_starts=100, batch_size=8, sequence_length=8)
    if family.algorithm is R2D2:
        common |= dict(burn_in=0, tau=1.0, target_update_interval=50)
    settings = common | dict(train_freq=8, gradient_steps=2) | settings
    model = make_model(family, VecNormalize(env) if normalized else env, 16, [16], **settings)
    initial = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.learn(N_STEPS)
    trained = model.policy.state_dict()
    assert any(not th.equal(trained[key], value) for key, value in initial.items()), "nothing was learned"
    return {"parameters": {key: value.numpy() for key, value in trained.items()}, "replay": arrays(model.replay_buffer)}


def arrays(buffer: Any) -> dict[str, np.ndarray]:
    """
    :param buffer: the replay buffer, or whatever holds its arrays, in itself or in parts that the package defines
    :return: what it replays, by name
    """
    found: dict[str, np.ndarray] = {}
    holders, seen = [buffer], {id(buffer)}
    for holder in holders:
        parts = dict(enumerate(holder)) if isinstance(holder, list | tuple) else holder
        for name, value in (parts if isinstance(parts, dict) else getattr(parts, "__dict__", {})).items():
            if isinstance(value, np.ndarray | th.Tensor):
                if str(name).lstrip("_") in REPLAYED:
                    found.setdefault(str(name).lstrip("_"), np.asarray(value))
                continue
            holds = isinstance(value, dict | list | tuple) or type(value).__module__.startswith(PACKAGE)
            if holds and id(value) not in seen:
                seen.add(id(value))
                holders.append(value)
    return found


class Timed(NamedTuple):
    call: Callable[[], Any]
    n_repeats: int = 1
    """How often a call does what is timed"""


def model_to_time(family: str, n_envs: int = 8, **settings: Any) -> Any:
    """A model that has recorded something and learned nothing."""
    settings = FAMILIES[family].prioritised | settings if family == "R2D2" else settings
    common: dict[str, Any] = dict(buffer_size=N_STORED, learning_starts=10**9, sequence_length=32, batch_size=32)
    env = make_vec_env(FAMILIES[family].env_id, n_envs, seed=0)
    return make_model(FAMILIES[family], env, 64, [64, 64], **common | settings).learn(8_000)


def adding(model: Any) -> Callable[[], None]:
    """
    :param model: whose replay buffer is filled: overwriting costs more than writing
    :return: adds one step of every environment
    """
    n_envs, space = model.n_envs, model.action_space
    observation = np.stack([model.observation_space.sample() for _ in range(n_envs)])
    action = np.stack([np.atleast_1d(space.sample()) for _ in range(n_envs)])
    reward, done = np.ones(n_envs), np.zeros(n_envs, dtype=bool)
    infos: list[dict[str, Any]] = [{} for _ in range(n_envs)]
    states, n_added = model.policy.initial_states(n_envs), count()

    def add() -> None:
        episode_starts = np.full(n_envs, next(n_added) % EPISODE == 0)
        model.replay_buffer.add(observation, observation, action, reward, done, infos, episode_starts, states)

    for _ in range(N_STORED // n_envs):
        add()
    return add


def time_adding(n_envs: int) -> Timed:
    return Timed(adding(model_to_time("RecurrentTD3", n_envs)))


def time_sampling(prioritised: bool) -> Timed:
    model = model_to_time("RecurrentTD3", **(FAMILIES["RecurrentTD3"].prioritised if prioritised else {}))
    adding(model)
    # Priorities that differ
    model.train(20, 32)
    return Timed(partial(model._sample_sequences, 32))


def time_collecting(family: str, n_envs: int) -> Timed:
    n_steps = 64
    model = model_to_time(family, n_envs, gradient_steps=0, train_freq=n_steps)
    return Timed(partial(model.learn, n_steps * n_envs, reset_num_timesteps=False), n_steps)


def time_updates(family: str) -> Timed:
    model = model_to_time(family)
    # TD3's actor is updated every second time
    return Timed(lambda: [model.train(1, 32) for _ in range(2)], 2)


def timings() -> Iterator[tuple[str, Callable[[], Timed]]]:
    """
    :return: names, and what makes the models
    """
    learners = ("RecurrentTD3", "RecurrentSAC, Box", "R2D2")
    for n_envs in (1, 8):
        yield f"`replay_buffer.add`, {n_envs} env(s) (µs)", partial(time_adding, n_envs)
    yield "sampling 32 x 32 steps, uniform (ms)", partial(time_sampling, False)
    yield "sampling 32 x 32 steps, prioritised (ms)", partial(time_sampling, True)
    for family in learners:
        for n_envs in (1, 8):
            yield f"{family}: collecting a step of {n_envs} env(s) (µs)", partial(time_collecting, family, n_envs)
    for family in learners:
        yield f"{family}: update, T 32, hidden 64 (ms)", partial(time_updates, family)


@cache
def _made(name: str) -> Timed:
    return dict(timings())[name]()


def seconds(name: str) -> float:
    """
    :param name: one of :func:`timings`
    :return: seconds that it takes once
    """
    call, n_repeats = _made(name)
    n_calls, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < SHORTEST:
        call()
        n_calls += 1
    return passed / (n_calls * n_repeats)


def main() -> None:
    root = Path(sys.argv[1]).resolve()
    imported = Path(sb3_recurrent_offpolicy.__file__).resolve()
    assert imported.is_relative_to(root), f"{imported} is not in {root}"
    th.set_num_threads(1)
    # Whatever prints must not get between the answers
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        while True:
            name, argument = pickle.load(requests)
            try:
                answer: Any = {"train": train, "seconds": seconds}[name](argument)
            except Exception as error:
                answer = RuntimeError(f"{type(error).__name__}: {error}")
            pickle.dump(answer, answers)
            answers.flush()
    except EOFError:
        pass


if __name__ == "__main__":
    main()
