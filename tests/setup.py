"""Small models on small random environments, as most tests want them."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecEnv

from sb3_recurrent_offpolicy import RecurrentTD3
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from tests.envs import RandomEnv
from tests.recorder import ACTION_SPACE, OBSERVATION_SPACE

KWARGS: dict[str, Any] = dict(
    sequence_length=4,
    learning_starts=20,
    train_freq=4,
    batch_size=4,
    buffer_size=1000,
    seed=0,
    device="cpu",
    policy_kwargs=dict(lstm_hidden_size=5, net_arch=[7]),
)


def random_envs(n_envs: int, lengths: tuple[int, ...] = (7, 1, 12, 5), action_space: spaces.Space = ACTION_SPACE) -> VecEnv:
    return make_vec_env(lambda: RandomEnv(OBSERVATION_SPACE, action_space, lengths), n_envs=n_envs, seed=0)


def noise(n_actions: int = 3) -> NormalActionNoise:
    return NormalActionNoise(np.zeros(n_actions), 0.3 * np.ones(n_actions))


def model_on(env: VecEnv, algorithm: type[RecurrentOffPolicyAlgorithm] = RecurrentTD3, **kwargs: Any) -> Any:
    return algorithm("MlpLstmPolicy", env, **KWARGS | kwargs)
