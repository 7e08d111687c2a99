"""``evaluate_policy``, and normalisation that changes between training and evaluation."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from tests.envs import RandomEnv
from tests.sb3_behaviours.cases import OBSERVATIONS, Case, each, learned, model_of, random_envs


@each
@pytest.mark.parametrize("direct", [False, True], ids=["model", "policy"])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_evaluate_policy(case: Case, direct: bool, n_envs: int) -> None:
    """As many episodes as asked for, each acted in with the memory of that episode alone."""
    model = model_of(case, random_envs(case, n_envs)).learn(60)
    env = random_envs(case, n_envs)
    steps: list[list[tuple[np.ndarray, np.ndarray, bool]]] = [[] for _ in range(n_envs)]

    def record(local: dict[str, Any], _: dict[str, Any]) -> None:
        i = local["i"]
        steps[i].append((local["observations"][i].copy(), local["actions"][i].copy(), bool(local["done"])))

    acting = model.policy if direct else model
    rewards, lengths = evaluate_policy(acting, env, 7, callback=record, return_episode_rewards=True)
    assert isinstance(rewards, list) and isinstance(lengths, list)
    assert len(rewards) == len(lengths) == 7 and sum(lengths) <= sum(map(len, steps))
    for of_env in steps:
        state = None
        for observation, action, done in of_env:
            expected, state = model.predict(observation, state, deterministic=True)
            np.testing.assert_allclose(action, expected, atol=1e-5)
            state = None if done else state

    with pytest.raises(AssertionError, match="below threshold"):
        evaluate_policy(acting, env, 2, reward_threshold=1e9)
    with pytest.warns(UserWarning, match="Monitor"):
        evaluate_policy(acting, RandomEnv(OBSERVATIONS, case.action_space), 2)


@each
def test_changing_normalisation(case: Case) -> None:
    env = VecNormalize(random_envs(case))
    eval_env = VecNormalize(random_envs(case), training=False, norm_reward=False)
    model = model_of(case, env)
    assert model.get_vec_normalize_env() is env
    model.set_env(eval_env)
    assert model.get_vec_normalize_env() is eval_env
    model.learn(12)
    assert eval_env.obs_rms.count < 1, "no training, no statistics"
    model.set_env(env)
    model.learn(60)
    assert model.get_vec_normalize_env() is env and env.obs_rms.count > 60
    assert model._n_updates > 0 and all(th.isfinite(parameter).all() for parameter in learned(model))
    # Without one nothing is normalised
    assert model_of(case).get_vec_normalize_env() is None
