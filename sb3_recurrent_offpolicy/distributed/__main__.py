"""
The RL Zoo's ``train`` with actors on Ray: same hyper-parameter files, same folder.

    python -m sb3_recurrent_offpolicy.distributed --algo r2d2 --env CartPoleNoVel-v1 --actors 4 --envs-per-actor 8

All other arguments are those of ``rl_zoo3.train``.
"""

import argparse
import importlib
import runpy
import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.monitor import Monitor

from sb3_recurrent_offpolicy.distributed.ray_actors import RayActors


def zoo_env(
    spec: EnvSpec, env_kwargs: dict[str, Any], monitor_kwargs: dict[str, Any], wrapper: Callable[[gym.Env], gym.Env] | None
) -> gym.Env:
    """
    :param spec: of the environment
    :param env_kwargs: its arguments
    :param monitor_kwargs: arguments of ``Monitor``
    :param wrapper: around it, None for none
    :return: an environment as the RL Zoo makes it
    """
    env = Monitor(spec.make(**env_kwargs), **monitor_kwargs)
    return env if wrapper is None else wrapper(env)


def train_with_actors(manager: Any, envs_per_actor: int, **settings: Any) -> None:
    """
    Let the RL Zoo's experiments collect with actors.

    :param manager: ``ExperimentManager`` of the RL Zoo
    :param envs_per_actor: in place of ``n_envs`` of the hyper-parameter file
    :param settings: of :class:`~sb3_recurrent_offpolicy.distributed.RayActors`
    """
    read, learn = manager.read_hyperparameters, manager.learn

    @wraps(read)
    def read_hyperparameters(self: Any) -> Any:
        found = read(self)
        for hyperparams in found:
            # The RL Zoo counts calls of callbacks by it
            hyperparams["n_envs"] = envs_per_actor
        return found

    @wraps(learn)
    def learn_with_actors(self: Any, model: Any) -> None:
        spec = gym.spec(self.env_name.gym_id)
        make_env = partial(zoo_env, spec, self.env_kwargs, self.monitor_kwargs, self.env_wrapper)
        with RayActors(model, make_env, envs_per_actor=envs_per_actor, **settings):
            learn(self, model)

    manager.read_hyperparameters, manager.learn = read_hyperparameters, learn_with_actors


def main(arguments: list[str]) -> None:
    """
    :param arguments: of the command line
    """
    parser = argparse.ArgumentParser(
        prog="python -m sb3_recurrent_offpolicy.distributed",
        description=__doc__,
        # Otherwise --env is taken for --envs-per-actor
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--actors", type=int, default=2, help="number of processes that act")
    parser.add_argument("--envs-per-actor", type=int, default=8, help="environments of each")
    parser.add_argument("--address", help='"auto": the cluster that this machine belongs to')
    parser.add_argument("--stretch-length", type=int, help="steps of each environment that are handed over at once")
    parser.add_argument("--time-limit", type=float, default=300.0, help="seconds after which a silent actor is replaced")
    own, others = parser.parse_known_args(arguments)
    train_with_actors(
        importlib.import_module("rl_zoo3.exp_manager").ExperimentManager,
        own.envs_per_actor,
        n_actors=own.actors,
        address=own.address,
        stretch_length=own.stretch_length,
        time_limit=own.time_limit,
    )
    sys.argv = ["zoo", "train", *others]
    # Above this package in the order of imports
    runpy.run_module("sb3_recurrent_offpolicy.zoo", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
