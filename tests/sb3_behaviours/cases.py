"""
What Stable-Baselines3 and sb3-contrib demand of their algorithms in their own tests, demanded of ours.

A new algorithm takes one line in ``CASES``. What is peculiar to memory is tested elsewhere.
"""

import inspect
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecEnv

from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3, RecurrentTQC
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from tests.envs import RandomEnv

OBSERVATIONS = spaces.Box(-1, 1, (2,), np.float32)
BOX = spaces.Box(np.array([-2, 0], dtype=np.float32), np.array([1, 5], dtype=np.float32))
DISCRETE = spaces.Discrete(3)


class Case(NamedTuple):
    """An algorithm, actions it takes, a registered environment that has such actions, and its own settings."""

    algorithm: type[RecurrentOffPolicyAlgorithm]
    action_space: spaces.Space
    env_id: str
    kwargs: dict[str, Any] = {}  # noqa: RUF012


CASES = {
    "td3": Case(RecurrentTD3, BOX, "Pendulum-v1"),
    "ddpg": Case(RecurrentDDPG, BOX, "Pendulum-v1"),
    "sac": Case(RecurrentSAC, BOX, "Pendulum-v1"),
    "tqc": Case(RecurrentTQC, BOX, "Pendulum-v1"),
    "discrete_sac": Case(RecurrentSAC, DISCRETE, "CartPole-v1"),
    "r2d2": Case(R2D2, DISCRETE, "CartPole-v1", dict(burn_in=2, target_update_interval=20)),
}
BOX_CASES = {name: case for name, case in CASES.items() if isinstance(case.action_space, spaces.Box)}
SDE_CASES = {name: case for name, case in BOX_CASES.items() if "use_sde" in inspect.signature(case.algorithm).parameters}
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_box = pytest.mark.parametrize("case", BOX_CASES.values(), ids=BOX_CASES)
each_sde = pytest.mark.parametrize("case", SDE_CASES.values(), ids=SDE_CASES)


def settings(case: Case, **changes: Any) -> dict[str, Any]:
    common: dict[str, Any] = dict(
        sequence_length=4, learning_starts=20, train_freq=4, batch_size=4, buffer_size=1000, seed=0, device="cpu"
    )
    merged = common | case.kwargs | changes
    return merged | dict(policy_kwargs=dict(lstm_hidden_size=8, net_arch=[8]) | changes.get("policy_kwargs", {}))


def random_envs(
    case: Case, n_envs: int = 1, observation_space: spaces.Space = OBSERVATIONS, action_space: spaces.Space | None = None
) -> VecEnv:
    return make_vec_env(lambda: RandomEnv(observation_space, action_space or case.action_space), n_envs, seed=0)


def model_of(case: Case, env: Any = None, policy: str = "MlpLstmPolicy", **kwargs: Any) -> Any:
    algorithm: Any = case.algorithm
    return algorithm(policy, random_envs(case) if env is None else env, **settings(case, **kwargs))


def some_observations(n: int = 10) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n, 2)).astype(np.float32)


def greedy(model_or_policy: Any) -> np.ndarray:
    return model_or_policy.predict(some_observations(), deterministic=True)[0]


def noise(*shape: int) -> NormalActionNoise:
    return NormalActionNoise(np.zeros(shape), 0.2 * np.ones(shape))


def assert_same(a: Any, b: Any) -> None:
    """Of nested dicts, lists, tensors and numbers; NaN is NaN."""
    for x, y in zip(*map(th.utils._pytree.tree_leaves, (a, b)), strict=True):
        if isinstance(x, th.Tensor):
            th.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
        else:
            assert x == y


def randomized(parameters: dict[str, Any]) -> dict[str, Any]:
    """What networks share has several names, and one value under all of them."""
    drawn: dict[int, th.Tensor] = {}
    for value in parameters.values():
        drawn[value.data_ptr()] = th.rand_like(value) if value.is_floating_point() else value.clone()
    return {name: drawn[value.data_ptr()] for name, value in parameters.items()}


def learned(model: Any) -> list[th.Tensor]:
    """Copies of whatever has an optimizer."""
    optimizers = [recursive_getattr(model, name) for name in model._get_torch_save_params()[0] if "optimizer" in name]
    return [parameter.detach().clone() for each in optimizers for group in each.param_groups for parameter in group["params"]]


class StrictEnv(RandomEnv):
    """Takes actions of its space only, and keeps them."""

    def __init__(self, action_space: spaces.Space):
        super().__init__(OBSERVATIONS, action_space)
        self.actions: list[np.ndarray] = []

    def step(self, action: Any) -> Any:
        action = np.asarray(action)
        assert action.shape == self.action_space.shape, f"{action.shape} instead of {self.action_space.shape}"
        assert self.action_space.contains(action)
        self.actions.append(action)
        return super().step(action)


def box_of(shape: tuple[int, ...], dtype: Any = np.float32) -> spaces.Box:
    """Bounds differ from each other and between entries."""
    lows = np.asarray(-1.0 - np.arange(np.prod(shape)).reshape(shape))
    return spaces.Box(lows.astype(dtype), np.asarray(1 - 3 * lows).astype(dtype), shape, dtype)


def small_cnn(**policy_kwargs: Any) -> dict[str, Any]:
    return policy_kwargs | dict(features_extractor_kwargs=dict(features_dim=8))
