"""Observations and actions of every space, with the policies that take them, and spaces that none takes."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_recurrent_offpolicy import R2D2, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from tests.envs import RandomEnv
from tests.recorder import ACTION_SPACE
from tests.setup import KWARGS, noise, random_envs


def observation_spaces() -> dict[str, spaces.Space]:
    return {
        "Mlp-box": spaces.Box(-1, 1, (3,), np.float32),
        "Mlp-float64": spaces.Box(-1, 1, (2, 2), np.float64),
        "Mlp-discrete": spaces.Discrete(4),
        "Mlp-multi_discrete": spaces.MultiDiscrete([3, 4]),
        "Mlp-multi_binary": spaces.MultiBinary(3),
        "Cnn-image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
        "MultiInput-dict": spaces.Dict(
            {"vector": spaces.Box(-1, 1, (3,), np.float32), "image": spaces.Box(0, 255, (36, 36, 1), np.uint8)}
        ),
    }


@pytest.mark.parametrize("core", ["Lstm", "Gru"])
@pytest.mark.parametrize("name", observation_spaces())
@pytest.mark.parametrize(
    ("algorithm", "action_space"),
    [
        (RecurrentTD3, spaces.Box(np.array([-2.0, 0.0]), np.array([1.0, 5.0]), dtype=np.float64)),
        (RecurrentSAC, spaces.Box(np.array([-2.0, 0.0]), np.array([1.0, 5.0]), dtype=np.float64)),
        (R2D2, spaces.Discrete(3)),
    ],
)
@pytest.mark.parametrize("n_envs", [1, 2])
def test_observation_spaces_and_policies(
    core: str, name: str, n_envs: int, algorithm: type[RecurrentOffPolicyAlgorithm], action_space: spaces.Space
) -> None:
    space = observation_spaces()[name]
    env = make_vec_env(lambda: RandomEnv(space, action_space), n_envs=n_envs)
    model: Any = algorithm(f"{name.split('-')[0]}{core}Policy", env, burn_in=2, **KWARGS).learn(30 * n_envs)
    assert model._n_updates > 0
    observations: Any = env.reset()
    state = None
    for _ in range(3):
        actions, state = model.predict(observations, state, np.zeros(n_envs, dtype=bool))
        assert actions.shape == (n_envs, *action_space.shape)  # type: ignore[misc]
        assert all(action_space.contains(action.astype(action_space.dtype)) for action in actions)
        observations, *_ = env.step(actions)
    # One plain observation, as a user without VecEnv has it: images channel-last
    action, state = model.predict(space.sample())
    assert action.shape == action_space.shape
    evaluate_policy(model, env, n_eval_episodes=2, warn=False)


def test_bad_spaces() -> None:
    with pytest.raises(AssertionError, match="only supports"):
        RecurrentTD3("MlpLstmPolicy", "CartPole-v1")
    for action_space in (spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)):
        with pytest.raises(AssertionError, match="only supports"):
            RecurrentSAC("MlpLstmPolicy", random_envs(1, action_space=action_space))
    with pytest.raises(ValueError, match="must start at 0"):
        RecurrentSAC("MlpLstmPolicy", random_envs(1, action_space=spaces.Discrete(3, start=1)))
    with pytest.raises(ValueError, match=r"action_noise=.* cannot be added to actions of Discrete"):
        RecurrentSAC("MlpLstmPolicy", random_envs(1, action_space=spaces.Discrete(3)), action_noise=noise())
    dict_env = make_vec_env(lambda: RandomEnv(observation_spaces()["MultiInput-dict"], ACTION_SPACE))
    for name in ("MlpLstmPolicy", "CnnGruPolicy"):
        with pytest.raises(ValueError, match=f"policy='{name}'.*MultiInput(Lstm|Gru)Policy"):
            RecurrentTD3(name, dict_env)
    with pytest.raises(ValueError, match=r"policy='MultiInputLstmPolicy'.*Dict"):
        RecurrentTD3("MultiInputLstmPolicy", random_envs(1))
    with pytest.raises(ValueError, match="MlpPolicy"):
        RecurrentTD3("MlpPolicy", random_envs(1))
