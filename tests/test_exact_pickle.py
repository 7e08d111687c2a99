"""Environments are pickled in the state that they are in."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.utils import EzPickle
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor, VecNormalize, VecTransposeImage

from sb3_recurrent_offpolicy import exact_pickle
from tests.envs import PARTS, RandomEnv
from tests.recorder import ACTION_SPACE, OBSERVATION_SPACE


class Simulator(EzPickle, RandomEnv):
    """What it holds cannot be pickled, but it knows how it was made."""

    def __init__(self, *arguments: Any):
        RandomEnv.__init__(self, *arguments)
        EzPickle.__init__(self, *arguments)
        self.world = (number for number in range(3))


class EzRandomEnv(RandomEnv, EzPickle):
    """As simulators are written, whose pickle is the arguments of their constructor."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        EzPickle.__init__(self, *arguments)


def steps(env: Any, n_steps: int) -> list[Any]:
    np.random.seed(0)
    found = []
    for _ in range(n_steps):
        observation, reward, done, _ = env.step(np.zeros((env.num_envs, 3), dtype=np.float32))
        found.append((th.utils._pytree.tree_map(np.copy, observation), reward.copy(), done.copy()))
    return found


@pytest.mark.parametrize("wrap", [lambda env: env, VecNormalize, VecMonitor, lambda env: VecFrameStack(env, 3)])
@pytest.mark.parametrize("env_class", [RandomEnv, EzRandomEnv])
def test_environments_go_on(env_class: Any, wrap: Any) -> None:
    env = wrap(make_vec_env(lambda: env_class(OBSERVATION_SPACE, ACTION_SPACE), 3, seed=1))
    env.reset()
    steps(env, 10)
    again = exact_pickle.loads(exact_pickle.dumps(env))
    for one, other in zip(steps(env, 30), steps(again, 30), strict=True):
        for a, b in zip(*(th.utils._pytree.tree_leaves(each) for each in (one, other)), strict=True):
            np.testing.assert_array_equal(a, b)
    assert again.get_attr("n_episodes") == env.get_attr("n_episodes") and type(again) is type(env)


def test_images_go_on() -> None:
    env = VecTransposeImage(
        make_vec_env(lambda: gym.wrappers.TimeLimit(RandomEnv(PARTS["image"], ACTION_SPACE, (40,)), 9), 2, seed=1), skip=True
    )
    env.reset()
    again = exact_pickle.loads(exact_pickle.dumps(env))
    for one, other in zip(steps(env, 20), steps(again, 20), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[2], other[2])


def test_what_is_shared_stays_shared() -> None:
    weights = th.arange(6.0)
    first, view, space = exact_pickle.loads(exact_pickle.dumps((weights, weights[2:4], [OBSERVATION_SPACE] * 2)))
    first[2] = 7.0
    assert view[0] == 7.0 and space[0] is space[1]


def test_simulators_are_made_again() -> None:
    env = VecNormalize(make_vec_env(lambda: Simulator(OBSERVATION_SPACE, ACTION_SPACE), 2, seed=1))
    env.reset()
    steps(env, 10)
    with pytest.raises(TypeError, match="generator"):
        exact_pickle.dumps(env)
    again = exact_pickle.loads(exact_pickle.dumps(env, environments="renewed"))
    assert again.get_attr("n_episodes") == [0, 0] and again.ret_rms.count == env.ret_rms.count
    again.reset()
    steps(again, 5)


def test_only_wrappers_where_environments_are_left_out() -> None:
    env = VecNormalize(make_vec_env(lambda: RandomEnv(OBSERVATION_SPACE, ACTION_SPACE), 2, seed=1))
    env.reset()
    steps(env, 10)
    pickled = exact_pickle.dumps(env, environments="left out")
    with pytest.raises(ValueError, match="does not hold its environments: pass env"):
        exact_pickle.loads(pickled)
    given = make_vec_env(lambda: RandomEnv(OBSERVATION_SPACE, ACTION_SPACE), 2, seed=5)
    again = exact_pickle.loads(pickled, given)
    assert again.venv is given and again.ret_rms.count == env.ret_rms.count
    assert len(pickled) < len(exact_pickle.dumps(env))
