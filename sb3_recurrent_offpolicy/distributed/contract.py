"""What actors are told when they are made, and what a learner must be like to have any."""

import io
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
from stable_baselines3.common.vec_env import VecEnvWrapper, VecMonitor, VecNormalize, VecTransposeImage

from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.checks import check_integers, check_room

# Steps of each environment in a delivery, about. At 1000 steps per second handing over takes a hundredth of the time
STRETCH_LENGTH = 32


class Contract(NamedTuple):
    """What actors are told when they are made. Everything can be pickled."""

    algorithm: type[RecurrentOffPolicyAlgorithm]
    observation_space: gym.Space
    """Of the learner, which the actors' environments must have"""
    action_space: gym.Space
    saved_model: bytes
    """The learner's, in the format of ``save``"""
    make_env: Callable[[], gym.Env]
    n_envs: int
    """Of each actor"""
    n_actors: int
    stretch_length: int
    """Steps of each environment in a delivery"""
    fewest_rows: int
    """Steps of each environment that a replay buffer of these sequences keeps at the least"""
    normalizer: bytes | None
    """The learner's ``VecNormalize``, pickled without environments; its statistics come with every order"""
    registry: dict[str, Any]
    """Environments that the learner's process has registered: registration does not reach other processes"""


def contract_of(
    model: RecurrentOffPolicyAlgorithm,
    make_env: str | Callable[[], gym.Env],
    n_actors: int,
    n_envs: int,
    stretch_length: int | None,
) -> Contract:
    """
    :param model: the learner
    :param make_env: makes one environment, or its id
    :param n_actors: number of actors
    :param n_envs: environments of each
    :param stretch_length: steps of each environment in a delivery, None for the default
    :return: for all actors
    :raises ValueError: for impossible settings, naming parameter, value and remedy
    """
    check_integers(1, n_actors=n_actors, envs_per_actor=n_envs)
    if not isinstance(model, RecurrentOffPolicyAlgorithm):
        raise ValueError(f"model={type(model).__name__} is no recurrent off-policy algorithm of this package")
    if model.deliveries is not None:
        raise ValueError("model has actors already: leave their with block first")
    if not isinstance(make_env, str) and not callable(make_env):
        raise ValueError(f"make_env={make_env!r} must be a function that makes an environment, or an id of Gymnasium")
    buffer = model.replay_buffer
    if stretch_length is None:
        stretch_length = -(-STRETCH_LENGTH // buffer.stride) * buffer.stride
    check_integers(1, stretch_length=stretch_length)
    if stretch_length % buffer.stride != 0:
        raise ValueError(f"stretch_length={stretch_length} must be a multiple of the replay buffer's stride={buffer.stride}")
    check_room(model.buffer_size, n_actors * n_envs, max(buffer.fewest_rows, stretch_length))
    file = io.BytesIO()
    model.save(file)
    return Contract(
        algorithm=type(model),
        observation_space=model.observation_space,
        action_space=model.action_space,
        saved_model=file.getvalue(),
        make_env=partial(gym.make, make_env) if isinstance(make_env, str) else make_env,
        n_envs=n_envs,
        n_actors=n_actors,
        stretch_length=stretch_length,
        fewest_rows=buffer.fewest_rows,
        normalizer=_normalizer(model),
        registry=dict(gym.registry),
    )


def _normalizer(model: RecurrentOffPolicyAlgorithm) -> bytes | None:
    """
    :param model: the learner
    :return: its ``VecNormalize``, pickled, None where there is none
    :raises ValueError: if there are other wrappers around its environments
    """
    env, found = model.get_env(), model.get_vec_normalize_env()
    while isinstance(env, VecEnvWrapper):
        if not isinstance(env, (VecNormalize, VecTransposeImage, VecMonitor)):
            raise ValueError(
                f"{type(env).__name__} wraps the model's environments, and actors do not know it: use a wrapper of Gymnasium "
                "in make_env (VecNormalize, VecTransposeImage and VecMonitor are known)"
            )
        env = env.venv
    return None if found is None else pickle.dumps(found)
