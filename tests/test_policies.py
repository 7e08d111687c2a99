"""``predict`` to the letter of sb3-contrib's contract."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import BasePolicy

from sb3_recurrent_offpolicy import R2D2, RecurrentSAC, RecurrentTD3, policies
from sb3_recurrent_offpolicy.cores import GRUCore, LSTMCore, RecurrentCore
from sb3_recurrent_offpolicy.policies import POLICY_NAMES, RecurrentTD3Policy
from tests.envs import RandomEnv
from tests.recorder import ACTION_SPACE, OBSERVATION_SPACE
from tests.test_cores import Accumulator


def make_policy(**kwargs: Any) -> RecurrentTD3Policy:
    settings: dict[str, Any] = dict(lstm_hidden_size=6, net_arch=[9], n_lstm_layers=2)
    return RecurrentTD3Policy(OBSERVATION_SPACE, ACTION_SPACE, lambda _: 1e-3, **settings | kwargs)


def observations(n_steps: int, n_envs: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n_steps, n_envs, 2)).astype(np.float32)


def roll(policy: BasePolicy, stream: np.ndarray, starts: np.ndarray | None = None) -> np.ndarray:
    state, actions = None, []
    for t, observation in enumerate(stream):
        action, state = policy.predict(observation, state, None if starts is None else starts[t], deterministic=True)
        actions.append(action)
    return np.array(actions)


def test_state_is_numpy_with_environments_on_axis_one() -> None:
    actions, state = make_policy().predict(observations(1, 4)[0])
    assert actions.shape == (4, 3) and state is not None
    assert [array.shape for array in state] == [(2, 4, 6), (2, 4, 6), (1, 4, 3)]
    assert all(isinstance(array, np.ndarray) for array in state)
    np.testing.assert_allclose(state[-1][0], actions, atol=1e-6)


def test_memory_matters_and_none_is_zeros() -> None:
    policy, stream = make_policy(), observations(6, 2)
    actions = roll(policy, stream)
    fresh = np.array([policy.predict(observation)[0] for observation in stream])
    np.testing.assert_array_equal(actions[0], fresh[0])
    assert np.abs(actions[1:] - fresh[1:]).max() > 1e-4
    zeros = tuple(np.zeros_like(array) for array in policy.predict(stream[0])[1])  # type: ignore[union-attr]
    np.testing.assert_array_equal(policy.predict(stream[0], zeros)[0], fresh[0])


def test_predict_is_pure() -> None:
    policy, stream = make_policy(), observations(3, 2)
    _, state = policy.predict(stream[0])
    kept = tuple(array.copy() for array in state)  # type: ignore[union-attr]
    first = policy.predict(stream[1], state)[0]
    policy.predict(stream[2])
    np.testing.assert_array_equal(policy.predict(stream[1], state)[0], first)
    for array, copy in zip(state, kept, strict=True):  # type: ignore[arg-type]
        np.testing.assert_array_equal(array, copy)


def test_episode_start_forgets_its_environment_only() -> None:
    policy, stream = make_policy(), observations(7, 3)
    starts = np.zeros((7, 3), dtype=bool)
    starts[0] = True
    starts[4, 1] = True
    actions, straight = roll(policy, stream, starts), roll(policy, stream)
    np.testing.assert_allclose(actions[:, [0, 2]], straight[:, [0, 2]], atol=1e-6)
    np.testing.assert_allclose(actions[4:, 1], roll(policy, stream[4:])[:, 1], atol=1e-6)
    assert np.abs(actions[4:, 1] - straight[4:, 1]).max() > 1e-4


def test_environments_do_not_influence_each_other() -> None:
    policy, stream = make_policy(), observations(5, 3)
    together = roll(policy, stream)
    for env in range(3):
        np.testing.assert_allclose(roll(policy, stream[:, env]), together[:, env], atol=1e-6)


def test_one_plain_observation_gives_one_plain_action() -> None:
    policy, stream = make_policy(), observations(4, 1)
    plain = roll(policy, stream[:, 0])
    assert plain.shape == (4, 3)
    np.testing.assert_allclose(plain, roll(policy, stream)[:, 0], atol=1e-6)
    action, _ = policy.predict(stream[0, 0], episode_start=True)  # type: ignore[arg-type]
    np.testing.assert_allclose(action, plain[0], atol=1e-6)


def test_acting_equals_predicting_without_noise() -> None:
    """What training does at a step and what users do with ``predict`` is the same function."""
    policy, stream = make_policy(), observations(6, 2)
    ((state, _), previous_actions), acted = policy.initial_memory(2), []
    for observation in stream:
        step = policy.act(observation, state, previous_actions, np.zeros(2, dtype=bool))
        state, previous_actions = step.state, th.as_tensor(step.actions)
        acted.append(step.actions)
    np.testing.assert_allclose(acted, roll(policy, stream), atol=1e-6)


def test_critic_state_is_independent_of_the_actors() -> None:
    """T14"""
    policy, stream = make_policy(), observations(4, 2)
    results = []
    for change in (0.0, 1.0):
        with th.no_grad():
            policy.actor.encoder.core.rnn.weight_hh_l0.add_(change)  # type: ignore[union-attr, operator]
        results.append(policy.trace(stream, np.ones((4, 2, 3)), np.zeros((4, 2), dtype=bool)).next_lstm_states)
    assert not th.allclose(results[0].pi[0], results[1].pi[0])
    for a, b in zip(results[0].vf, results[1].vf, strict=True):
        assert th.equal(a, b)


@pytest.mark.parametrize("shape", [(2, 3, 6), (1, 2, 6), (2, 2, 7)])
def test_wrong_state_shapes(shape: tuple[int, ...]) -> None:
    policy, observation = make_policy(), observations(1, 2)[0]
    state = policy.predict(observation)[1]
    assert state is not None
    with pytest.raises(
        ValueError, match=r"state has arrays of shapes .* expects .* pass what the previous predict\(\) returned"
    ):
        policy.predict(observation, (np.zeros(shape), *state[1:]))
    with pytest.raises(ValueError, match="state has arrays"):
        policy.predict(observation, state[:-1])
    with pytest.raises(ValueError, match=r"state=3 is no tuple, this policy expects .* pass what the previous predict"):
        policy.predict(observation, 3)  # type: ignore[arg-type]


def test_wrong_episode_start_and_gym_observation() -> None:
    policy, observation = make_policy(), observations(1, 2)[0]
    with pytest.raises(ValueError, match=r"episode_start has shape \(3,\).*2 environment"):
        policy.predict(observation, episode_start=np.zeros(3))
    with pytest.raises(ValueError, match="mixing Gym API"):
        policy.predict((observation, {}))  # type: ignore[arg-type]


def test_a_users_core_can_be_plugged_in() -> None:
    env = make_vec_env(lambda: RandomEnv(OBSERVATION_SPACE, ACTION_SPACE), 2)
    model = RecurrentTD3("MlpLstmPolicy", env, learning_starts=10, policy_kwargs=dict(core_class=Accumulator, net_arch=[8]))
    model.learn(60)
    assert isinstance(model.actor.encoder.core, RecurrentCore)
    _, state = model.predict(observations(1, 2)[0])
    assert [array.shape for array in state] == [(1, 2, 5), (1, 2, 3)]  # type: ignore[union-attr]


@pytest.mark.parametrize("kwargs", [{}, dict(shared_lstm=True, enable_critic_lstm=False), dict(enable_critic_lstm=False)])
def test_policy_save_and_load(kwargs: dict[str, Any], tmp_path: Any) -> None:
    policy, stream = make_policy(memory_lr_scale=0.5, n_critics=3, **kwargs), observations(4, 2)
    policy.save(tmp_path / "policy.pt")
    loaded = RecurrentTD3Policy.load(tmp_path / "policy.pt", device="cpu")
    np.testing.assert_array_equal(roll(loaded, stream), roll(policy, stream))
    assert loaded.memory_lr_scale == 0.5 and loaded.n_critics == 3


def test_state_size_is_what_the_buffer_stores() -> None:
    assert make_policy().state_size == 2 * 2 * 2 * 6
    assert make_policy(shared_lstm=True, enable_critic_lstm=False).state_size == 2 * 2 * 6
    assert make_policy(enable_critic_lstm=False).state_size == 2 * 2 * 6


@pytest.mark.parametrize(
    ("kwargs", "fused"),
    [
        ({}, True),
        (dict(optimizer_kwargs=dict(eps=1e-4)), True),
        (dict(optimizer_kwargs=dict(fused=False)), False),
        (dict(optimizer_kwargs=dict(foreach=True)), None),
        (dict(optimizer_class=th.optim.RMSprop), None),
    ],
)
def test_adam_is_fused_unless_told_otherwise(kwargs: dict[str, Any], fused: bool | None) -> None:
    optimizer: Any = make_policy(**kwargs).actor.optimizer
    assert optimizer.defaults.get("fused") == fused
    assert optimizer.defaults["eps"] == (1e-4 if "eps" in kwargs.get("optimizer_kwargs", {}) else 1e-8)


@pytest.mark.parametrize("family", ["TD3", "SAC", "R2D2"])
@pytest.mark.parametrize("name", [name for name, kwargs in POLICY_NAMES.items() if kwargs])
def test_policies_by_class(family: str, name: str, tmp_path: Any) -> None:
    policy_class = getattr(policies, family + name)
    assert policy_class is pickle.loads(pickle.dumps(policy_class)) and policy_class.__name__ == family + name
    image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    space = {"Cnn": image, "Mul": spaces.Dict({"image": image})}.get(name[:3], OBSERVATION_SPACE)
    algorithm: Any = {"TD3": RecurrentTD3, "SAC": RecurrentSAC, "R2D2": R2D2}[family]
    env = make_vec_env(lambda: RandomEnv(space, spaces.Discrete(3) if family == "R2D2" else ACTION_SPACE), 1)
    kwargs: dict[str, Any] = dict(buffer_size=1_000, policy_kwargs=dict(lstm_hidden_size=4, net_arch=[4]))
    model = algorithm(policy_class, env, **kwargs)
    assert type(model.policy) is policy_class
    assert isinstance(model.policy.acting_network.encoder.core, GRUCore if "Gru" in name else LSTMCore)
    model.save(tmp_path / "model")
    assert type(algorithm.load(tmp_path / "model").policy) is policy_class


def test_policies_that_do_not_exist() -> None:
    for name in ("TD3MlpLstmPolicy", "TQCCnnLstmPolicy", "TD3CnnLruPolicy"):
        with pytest.raises(AttributeError, match=name):
            getattr(policies, name)
