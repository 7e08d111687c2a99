"""Actions of any shape and type, odd observations, and spaces that are refused."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from tests.envs import RandomEnv
from tests.sb3_behaviours.cases import (
    OBSERVATIONS,
    Case,
    StrictEnv,
    box_of,
    each,
    each_box,
    greedy,
    model_of,
    noise,
    random_envs,
    some_observations,
)


@each_box
@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (3, 1), (2, 1, 2), ()])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_shapes_of_actions(case: Case, shape: tuple[int, ...], n_envs: int) -> None:
    """Action noise has the shape of the action, as in SB3, whose noise is never without any."""
    action_space, n_actions = box_of(shape), int(np.prod(shape))
    env: Any = make_vec_env(lambda: StrictEnv(action_space), n_envs, seed=0)
    model = model_of(case, env, learning_starts=20 * n_envs, action_noise=noise(*shape) if shape else None)
    model.learn(40 * n_envs)
    buffer = model.replay_buffer
    assert buffer.size() == 40 and buffer.rings[0].actions.shape[1:] == (n_envs, n_actions)
    # What was done is what is replayed, in the random warm-up as after it
    scaled = buffer.rings[0].actions[:40].reshape(40, n_envs, *shape)
    for index in range(n_envs):
        done = np.stack(env.envs[index].unwrapped.actions)
        expected = action_space.low + (scaled[:, index] + 1) / 2 * (action_space.high - action_space.low)
        np.testing.assert_allclose(done, expected, atol=1e-5)
        assert len(np.unique(done[20:].round(5))) > 1
    # Predicted ones too
    mean, _ = evaluate_policy(model, env, n_eval_episodes=2 * n_envs, deterministic=False)
    assert np.isfinite(mean)
    assert model.predict(OBSERVATIONS.sample())[0].shape == shape
    assert model.predict(some_observations(4))[0].shape == (4, *shape)


@each_box
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("policy", "observation_space"),
    [
        ("MlpLstmPolicy", spaces.Box(-1, 1, (2,), np.float64)),
        (
            "MultiInputLstmPolicy",
            spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Box(-1, 1, (2,), np.float64)}),
        ),
    ],
    ids=["box", "dict"],
)
def test_float64(case: Case, dtype: Any, policy: str, observation_space: spaces.Space) -> None:
    env = random_envs(case, 1, observation_space, box_of((2,), dtype))
    model = model_of(case, env, policy).learn(40)
    for deterministic in (True, False):
        assert model.predict(observation_space.sample(), deterministic=deterministic)[0].dtype == dtype
    assert all(parameter.dtype == th.float32 for parameter in model.policy.parameters())


@each
def test_actions_of_no_algorithm(case: Case) -> None:
    for action_space in (spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.MultiBinary([2, 3])):
        with pytest.raises(AssertionError, match="only supports"):
            model_of(case, random_envs(case, action_space=action_space))


@each_box
def test_actions_must_be_bounded(case: Case) -> None:
    for low, high in ((-np.inf, np.inf), (0.0, np.inf), (-np.inf, 0.0)):
        with pytest.raises(AssertionError, match="finite lower and upper bound"):
            model_of(case, random_envs(case, action_space=spaces.Box(low, high, (2,), np.float32)))


class OwnBox(spaces.Box):
    """Somebody's subclass."""


@each
def test_subclassed_spaces(case: Case) -> None:
    action_space = OwnBox(-1, 1, (2,), np.float32) if isinstance(case.action_space, spaces.Box) else case.action_space
    observation_space = OwnBox(-1, 1, (2,), np.float32)
    model = model_of(case, random_envs(case, 1, observation_space, action_space)).learn(40)
    assert action_space.contains(model.predict(observation_space.sample())[0])


@each
@pytest.mark.parametrize(
    "observation_space",
    [
        spaces.MultiBinary((3, 2)),
        spaces.MultiDiscrete([4, 3]),
        spaces.Box(-1, 1, (2, 3, 2), np.float32),
    ],
    ids=str,
)
def test_odd_observations(case: Case, observation_space: spaces.Space) -> None:
    env = random_envs(case, 2, observation_space)
    model = model_of(case, env).learn(60)
    assert model._n_updates > 0
    assert model.predict(observation_space.sample())[0].shape == case.action_space.shape
    assert model.predict(env.reset())[0].shape == (2, *(case.action_space.shape or ()))
    evaluate_policy(model, env, n_eval_episodes=2)


@each
def test_nested_dicts_are_refused(case: Case) -> None:
    nested = spaces.Dict({"vector": OBSERVATIONS, "more": spaces.Dict({"number": spaces.Discrete(4)})})
    with pytest.raises(NotImplementedError):
        model_of(case, RandomEnv(nested, case.action_space), "MultiInputLstmPolicy")


@each
def test_a_dict_of_one_vector_is_that_vector(case: Case) -> None:
    models = []
    for policy, space in (("MultiInputLstmPolicy", spaces.Dict({"vec": OBSERVATIONS})), ("MlpLstmPolicy", OBSERVATIONS)):
        models.append(model_of(case, FixedObservations(space, case.action_space), policy).learn(80))
    of_dict, plain = models
    assert of_dict._n_updates == plain._n_updates > 0
    for a, b in zip(of_dict.policy.parameters(), plain.policy.parameters(), strict=True):
        th.testing.assert_close(a, b)
    of_dict_actions, _ = of_dict.predict({"vec": some_observations()}, deterministic=True)
    np.testing.assert_allclose(of_dict_actions, greedy(plain), atol=1e-5)


class FixedObservations(RandomEnv):
    """The same observations, whether or not they come in a dict."""

    def reset(self, **kwargs: Any) -> Any:
        _, info = super().reset(**kwargs)
        return self._observation(), info

    def step(self, action: Any) -> Any:
        _, *rest = super().step(action)
        return self._observation(), *rest

    def _observation(self) -> Any:
        value = np.array([np.sin(self.time + self.n_episodes), np.cos(2 * self.time)], dtype=np.float32)
        return {"vec": value} if isinstance(self.observation_space, spaces.Dict) else value
