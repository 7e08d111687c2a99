"""What acts: actions of every shape, copies at every hook, random numbers of its own, exceptions that are caught."""

import copy
import pathlib
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise

from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3, RecurrentTQC
from sb3_recurrent_offpolicy.acting import CriticMemory
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.cores import LSTMCore
from sb3_recurrent_offpolicy.policies.memories import forget
from tests.envs import RandomEnv
from tests.recorder import ACTION_SPACE, OBSERVATION_SPACE
from tests.setup import model_on, noise, random_envs

WITH_BOX_ACTIONS = [RecurrentTD3, RecurrentDDPG, RecurrentSAC, RecurrentTQC]
ALGORITHMS: list[tuple[type[RecurrentOffPolicyAlgorithm], dict[str, Any]]] = [
    (RecurrentTD3, dict(action_noise=noise())),
    (RecurrentDDPG, {}),
    (RecurrentSAC, {}),
    (RecurrentSAC, dict(use_sde=True)),
    (RecurrentTQC, {}),
    (RecurrentSAC, dict(env=spaces.Discrete(3))),
    (R2D2, dict(env=spaces.Discrete(3), burn_in=0)),
    (R2D2, dict(env=spaces.Discrete(3), burn_in=0, policy_kwargs=dict(average_decay=0.9, net_arch=[7]))),
]


def make(algorithm: type[RecurrentOffPolicyAlgorithm], kwargs: dict[str, Any], n_envs: int = 2) -> Any:
    kwargs = kwargs.copy()
    return model_on(random_envs(n_envs, action_space=kwargs.pop("env", ACTION_SPACE)), algorithm, **kwargs)


class ActionRecorder(RandomEnv):
    """Remembers what it was given."""

    def __init__(self, action_space: spaces.Space):
        super().__init__(OBSERVATION_SPACE, action_space, lengths=(1_000,))
        self.received: list[np.ndarray] = []

    def step(self, action: Any) -> Any:
        self.received.append(np.array(action))
        return super().step(action)


@pytest.mark.parametrize("shape", [(), (1, 3), (3, 1), (2, 3)])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("algorithm", WITH_BOX_ACTIONS)
def test_actions_of_every_shape_reach_the_environment_as_they_are_stored(
    shape: tuple[int, ...], n_envs: int, algorithm: type[RecurrentOffPolicyAlgorithm]
) -> None:
    """In the random warm-up and after it; bounds differ from dimension to dimension."""
    low = -1.0 - np.arange(np.prod(shape, dtype=int)).reshape(shape)
    action_space = spaces.Box(np.array(low), np.array(low + 5.0), shape, dtype=np.float64)
    env = make_vec_env(lambda: ActionRecorder(action_space), n_envs, seed=0)
    model = model_on(env, algorithm, learning_starts=10 * n_envs, train_freq=1).learn(25 * n_envs)
    for index, received in enumerate(env.env_method("get_wrapper_attr", "received")):
        assert len(received) == 25 and all(action.shape == shape for action in received)
        assert all(action_space.contains(action) for action in received)
        stored = model.replay_buffer.rings[0].actions[:25, index].reshape(25, *shape)
        np.testing.assert_allclose(np.array(received), low + 5.0 * (stored + 1) / 2, atol=1e-5)
    action, _ = model.predict(env.observation_space.sample())
    assert np.shape(action) == shape and action_space.contains(np.asarray(action, dtype=np.float64))


class CopyEverywhere(BaseCallback):
    """Copies and pickles policy and model at every hook."""

    def __init__(self) -> None:
        super().__init__()
        self.hooks: set[str] = set()

    def _copy(self, hook: str) -> None:
        self.hooks.add(hook)
        policy: Any = copy.deepcopy(self.model.policy)
        again: Any = pickle.loads(pickle.dumps(policy))
        observation = np.zeros((2, 2), dtype=np.float32)
        expected = self.model.predict(observation, deterministic=True)[0]
        behavior: Any = self.model.behavior  # type: ignore[attr-defined]
        for each_behavior in (copy.deepcopy(behavior), pickle.loads(pickle.dumps(behavior))):
            assert (each_behavior.staged is None) == (behavior.staged is None)
            assert th.equal(each_behavior.memory.previous_actions, behavior.memory.previous_actions)
        for each in (policy, again, copy.deepcopy(self.model)):
            np.testing.assert_array_equal(each.predict(observation, deterministic=True)[0], expected)

    def _on_training_start(self) -> None:
        self._copy("training_start")

    def _on_rollout_start(self) -> None:
        self._copy("rollout_start")

    def _on_step(self) -> bool:
        self._copy("step")
        return True

    def _on_rollout_end(self) -> None:
        self._copy("rollout_end")

    def _on_training_end(self) -> None:
        self._copy("training_end")


@pytest.mark.parametrize(("algorithm", "kwargs"), ALGORITHMS)
def test_copies_at_every_hook(algorithm: type[RecurrentOffPolicyAlgorithm], kwargs: dict[str, Any]) -> None:
    """No graph of a computation stays behind in what is copied."""
    callback = CopyEverywhere()
    model = make(algorithm, kwargs).learn(48, callback=callback)
    assert model._n_updates > 0
    assert callback.hooks == {"training_start", "rollout_start", "step", "rollout_end", "training_end"}
    copied = copy.deepcopy(model)
    copied.learn(24, reset_num_timesteps=False)
    assert copied.num_timesteps > model.num_timesteps and copied._n_updates > model._n_updates


class DrawsNumbers(BaseCallback):
    def __init__(self, torch_too: bool):
        super().__init__()
        self.torch_too = torch_too

    def _on_step(self) -> bool:
        np.random.random(3)
        if self.torch_too:
            th.rand(3)
        return True


# SB3 draws action noise from NumPy's global generator, and updates of a stochastic policy draw from PyTorch's
@pytest.mark.parametrize(
    ("algorithm", "kwargs", "torch_too"),
    [
        (RecurrentTD3, dict(action_noise=None), True),
        (RecurrentSAC, {}, False),
        (RecurrentSAC, dict(env=spaces.Discrete(3)), False),
        (R2D2, dict(env=spaces.Discrete(3), burn_in=0), True),
    ],
)
def test_a_callback_that_draws_numbers_changes_nothing(
    algorithm: type[RecurrentOffPolicyAlgorithm], kwargs: dict[str, Any], torch_too: bool
) -> None:
    plain = make(algorithm, kwargs).learn(120)
    drawn = make(algorithm, kwargs).learn(120, callback=DrawsNumbers(torch_too))
    for a, b in zip(plain.policy.parameters(), drawn.policy.parameters(), strict=True):
        assert th.equal(a, b)


def test_two_models_in_one_process_do_not_disturb_each_other() -> None:
    kwargs = dict(env=spaces.Discrete(3), burn_in=0)
    alone = make(R2D2, kwargs).learn(120)
    first, second = make(R2D2, kwargs), make(R2D2, kwargs | dict(seed=1))
    for _ in range(15):
        first.learn(8, reset_num_timesteps=False)
        second.learn(8, reset_num_timesteps=False)
    assert alone.num_timesteps == first.num_timesteps
    np.testing.assert_array_equal(alone.replay_buffer.rings[0].actions, first.replay_buffer.rings[0].actions)
    for a, b in zip(alone.policy.parameters(), first.policy.parameters(), strict=True):
        assert th.equal(a, b)
    assert not np.array_equal(first.replay_buffer.rings[0].actions, second.replay_buffer.rings[0].actions)


def test_seeding_again_repeats_the_draws() -> None:
    model = make(RecurrentTD3, {}).learn(60)
    batches = []
    for _ in range(2):
        model.set_random_seed(5)
        batches.append((model._sample_sequences(8).indices, th.rand(3, generator=model._torch_generator)))
    np.testing.assert_array_equal(batches[0][0], batches[1][0])
    assert th.equal(batches[0][1], batches[1][1])


def test_without_a_seed_the_global_one_decides() -> None:
    runs = []
    for seed in (3, 3, 4):
        np.random.seed(seed)
        th.manual_seed(seed)
        runs.append(make(R2D2, dict(env=spaces.Discrete(3), burn_in=0, seed=None)))
    draws = [model.behavior.epsilon_greedy.generator.random() for model in runs]
    assert draws[0] == draws[1] != draws[2]


class Failing(gym.Wrapper):
    """Fails once, in the middle of a step or after it."""

    fails_at, after_the_step, n_steps = 13, False, 0

    def step(self, action: Any) -> Any:
        self.n_steps += 1
        fails = self.n_steps == self.fails_at
        if fails and not self.after_the_step:
            raise KeyboardInterrupt
        result = self.env.step(action)
        if fails:
            return result[0], np.nan, *result[2:]
        return result


@pytest.mark.parametrize("after_the_step", [False, True])
def test_going_on_after_an_exception_begins_an_episode(after_the_step: bool) -> None:
    """Ctrl-C in the environment, or a reward that is no number: the transition is lost, and no other is made up from two."""

    def failing() -> gym.Env:
        env = Failing(RandomEnv(OBSERVATION_SPACE, ACTION_SPACE, lengths=(40,)))
        env.after_the_step = after_the_step
        return env

    model = model_on(make_vec_env(failing, 1, seed=0), train_freq=1)
    with pytest.raises((KeyboardInterrupt, ValueError)):
        model.learn(30)
    buffer = model.replay_buffer
    assert buffer.size() == 12
    model.learn(30, reset_num_timesteps=False)
    assert buffer.rings[0].episode_steps[11, 0] == 11 and buffer.rings[0].episode_steps[12, 0] == 0
    samples = buffer.sample(64)
    ends = samples.indices + samples.mask.sum(dim=0).int().numpy()
    assert not ((samples.indices <= 11) & (ends > 12)).any()


@pytest.mark.parametrize(("algorithm", "kwargs"), ALGORITHMS)
def test_what_acts_can_be_sent_to_another_process(
    algorithm: type[RecurrentOffPolicyAlgorithm], kwargs: dict[str, Any]
) -> None:
    """A copy of it, and what it stages and commits, is all that collecting needs: the same actions, the same memory."""
    model = make(algorithm, kwargs | dict(learning_starts=0)).learn(40)
    sent = pickle.loads(pickle.dumps(model.behavior))
    generator = np.random.default_rng(0)
    starts = np.array([True, False])
    for _ in range(5):
        observations = generator.normal(size=(2, 2)).astype(np.float32)
        acted = []
        for behavior in (model.behavior, sent):
            th.manual_seed(0)
            np.random.seed(0)
            acted.append(behavior.act(observations, starts)[0])
            behavior.commit()
        np.testing.assert_array_equal(*acted)
        starts = generator.random(2) < 0.3
    for a, b in zip(*(th.utils._pytree.tree_leaves(each.memory) for each in (model.behavior, sent)), strict=True):
        assert th.equal(a, b)


def test_a_step_is_committed_once() -> None:
    model = make(RecurrentTD3, {})

    def remembered() -> list[th.Tensor]:
        return th.utils._pytree.tree_leaves(model.behavior.memory)

    before = remembered()
    model.behavior.act(np.ones((2, 2), dtype=np.float32), np.ones(2, dtype=bool))
    assert all(map(th.equal, remembered(), before)), "staged only"
    model.behavior.commit()
    assert not any(map(th.equal, remembered(), before))
    with pytest.raises(AssertionError, match="staged by act"):
        model.behavior.commit()


def count_unrolls(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of what the critic's memory sees."""
    core, lengths = model.critic.encoder.core, []
    unroll = core.unroll

    def counted(inputs: th.Tensor, state: Any) -> Any:
        lengths.append(len(inputs))
        return unroll(inputs, state)

    monkeypatch.setattr(core, "unroll", counted)
    monkeypatch.setattr(core, "step", None)
    return lengths


def test_the_critics_memory_follows_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call per stored state, and none per step; where an episode begins, what came before is left out."""
    env = random_envs(2, (1_000,))
    model = model_on(env, sequence_length=8, train_freq=1, gradient_steps=0, replay_buffer_kwargs=dict(stride=4))
    lengths = count_unrolls(model, monkeypatch)
    model.learn(2 * 17)
    assert lengths == [4, 4, 4, 4]
    # The reset of a second learn, after one step of a stretch and before three
    model.learn(2 * 4)
    assert lengths == [4, 4, 4, 4, 3]


def test_a_critic_whose_states_are_not_stored_is_not_asked_for_them_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    env = random_envs(2, (1_000,))
    model = model_on(env, state_init="zero", train_freq=1, gradient_steps=0)
    lengths = count_unrolls(model, monkeypatch)
    model.learn(2 * 150)
    assert lengths == [64, 64]
    monkeypatch.undo()
    ring = model.replay_buffer.rings[0]
    actions = model.policy.unscale_action(ring.actions[:150])
    traced = model.policy.trace(ring.observations[:150], actions, ring.episode_steps[:150] == 0).next_lstm_states
    for array, expected in zip(model.behavior.memory.lstm_states.vf, traced.vf, strict=True):
        th.testing.assert_close(array, expected[-1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_the_critics_memory_after_episodes_of_any_length(seed: int) -> None:
    """Several starts in a stretch, of some environments and not of others: the same as step by step."""
    core = LSTMCore(3, 5)
    generator = np.random.default_rng(seed)
    expected = tuple(th.randn(1, 4, 5) for _ in range(2))
    memory = CriticMemory(expected)
    with th.no_grad():
        for _ in range(20):
            inputs, starts = th.randn(4, 3), generator.random(4) < 0.15
            memory.append(inputs, starts)
            expected = core.step(inputs, forget(expected, starts))[1]
            for _again in range(2):
                # To ask is not to change
                for array, other in zip(memory.after_all_steps(core), expected, strict=True):
                    th.testing.assert_close(array, other, atol=1e-5, rtol=0)
            if generator.random() < 0.2:
                memory.catch_up(core)
                assert len(memory) == 0


def test_saving_in_between_does_not_change_the_run(tmp_path: pathlib.Path) -> None:
    class Saves(BaseCallback):
        def _on_step(self) -> bool:
            self.model.save(tmp_path / "model")
            return True

    for algorithm, kwargs in ((RecurrentTD3, {}), (R2D2, dict(env=spaces.Discrete(3), burn_in=0))):
        plain, saved = (make(algorithm, kwargs | dict(seed=0)).learn(60, callback=c) for c in (None, Saves()))
        np.testing.assert_array_equal(plain.replay_buffer.rings[0].states, saved.replay_buffer.rings[0].states)
        for parameter, other in zip(plain.policy.parameters(), saved.policy.parameters(), strict=True):
            assert th.equal(parameter, other)


def test_noise_of_one_number_counts_for_all_dimensions() -> None:
    model = make(RecurrentTD3, dict(action_noise=NormalActionNoise(np.zeros(1), 0.3 * np.ones(1)), gradient_steps=0)).learn(60)
    noisy = model.replay_buffer.rings[0].actions[15:30]
    quiet = make(RecurrentTD3, dict(gradient_steps=0)).learn(60).replay_buffer.rings[0].actions[15:30]
    assert np.abs(noisy - quiet).max() > 0.05


class StopsAtNan(BaseCallback):
    def _on_step(self) -> bool:
        return bool(np.isfinite(self.locals["rewards"]).all())


def test_a_callback_that_stops_at_a_reward_that_is_no_number() -> None:
    """The step cannot be stored: as after any exception, going on begins an episode."""

    def failing() -> gym.Env:
        env = Failing(RandomEnv(OBSERVATION_SPACE, ACTION_SPACE, lengths=(40,)))
        env.after_the_step = True
        return env

    model = model_on(make_vec_env(failing, 1, seed=0), train_freq=1)
    with pytest.raises(ValueError, match="not finite"):
        model.learn(30, callback=StopsAtNan())
    assert model._last_obs is None
    model.learn(20, reset_num_timesteps=False)
    assert model.replay_buffer.rings[0].episode_steps[12, 0] == 0


@pytest.mark.parametrize(("algorithm", "kwargs"), ALGORITHMS)
def test_no_memory_and_refreshed_states(algorithm: type[RecurrentOffPolicyAlgorithm], kwargs: dict[str, Any]) -> None:
    kwargs = kwargs | dict(burn_in=2, refresh_states=True, policy_kwargs=dict(core="none", net_arch=[4]))
    model = make(algorithm, kwargs).learn(60)
    assert model._n_updates > 0 and model.replay_buffer.rings[0].states.shape[2] == 0


@pytest.mark.parametrize(("hidden_size", "n_threads"), [(8, 1), (1200, 2)])
def test_a_small_network_acts_in_one_thread(hidden_size: int, n_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = model_on(random_envs(1), policy_kwargs=dict(lstm_hidden_size=hidden_size, net_arch=[4]))
    seen: list[int] = []
    act = model.policy.act

    def counted(*args: Any) -> Any:
        seen.append(th.get_num_threads())
        if len(seen) == 3:
            raise KeyboardInterrupt
        return act(*args)

    monkeypatch.setattr(model.policy, "act", counted)
    before = th.get_num_threads()
    th.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            model.learn(10)
        assert seen == [n_threads] * 3 and th.get_num_threads() == 2
    finally:
        th.set_num_threads(before)
