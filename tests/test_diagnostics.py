"""State staleness against a loop over rows; what is logged, and when."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_recurrent_offpolicy import R2D2
from sb3_recurrent_offpolicy.algorithm import UPDATES_PER_DIAGNOSIS
from sb3_recurrent_offpolicy.diagnostics import state_staleness
from tests.models import Q_LEARNING, SAC, TD3, VARIANTS, Variant, latents_step_by_step, random_env_model
from tests.setup import random_envs


def staleness_row_by_row(model: Any, samples: Any) -> dict[str, float]:
    network, buffer = model.policy.value_network, model.replay_buffer
    found: dict[str, list[tuple[float, float]]] = {"first": [], "last": []}
    for row in range(samples.mask.shape[1]):
        first, env = divmod(int(samples.indices[row]), buffer.n_envs)
        length = int(samples.mask[:, row].sum())
        latents = latents_step_by_step(network.encoder, samples, samples.initial_states.vf, row)
        values = network.q_vectors(latents[:length], samples.actions[:length, row])
        has_burn_in = samples.burn_in is not None and row < samples.burn_in.previous_actions.shape[1]
        on_lattice = [t for t in range(length) if (first + t) % buffer.stride == 0]
        steps = {"first": 0} if has_burn_in and 0 in on_lattice else {}
        if on_lattice and on_lattice[-1] > 0:
            steps["last"] = on_lattice[-1]
        for name, t in steps.items():
            stored = buffer.stored_states(np.array([0]), np.array([first + t]), np.array([env])).vf
            inputs = network.encoder.inputs(samples.observations[t, row][None], samples.previous_actions[t, row][None])
            latent, _ = network.encoder.step(*inputs, stored)
            difference = network.q_vectors(latent, samples.actions[t, row][None])[0] - values[t]
            found[name].append((difference.norm().item(), values.abs().max().item()))
    return {name: float(np.divide(*np.mean(values, axis=0))) for name, values in found.items() if values}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("burn_in", "stride"), [(0, 1), (4, 2), (3, 2), (6, 3)])
def test_staleness_equals_a_loop(variant: Variant, burn_in: int, stride: int) -> None:
    model = random_env_model(variant, burn_in=burn_in, sequence_length=6, replay_buffer_kwargs=dict(stride=stride))
    samples = model._sample_sequences(17)
    latents = model.policy.value_network.encode(samples).latents
    found = state_staleness(model.policy.value_network, samples, latents, model.replay_buffer)
    assert found == pytest.approx(staleness_row_by_row(model, samples), rel=1e-3)
    if burn_in % stride == 0:
        assert ("first" in found) == (burn_in > 0)
    # The weights have changed since
    assert found["last"] > 1e-3


def test_nothing_is_stale_while_the_weights_are_those_that_acted() -> None:
    env = random_envs(3, lengths=(13, 9, 2, 1), action_space=spaces.Discrete(4))
    fresh = R2D2("MlpLstmPolicy", env, learning_starts=10**6, burn_in=4, sequence_length=6, seed=0).learn(450)
    samples = fresh._sample_sequences(32)
    found = state_staleness(fresh.q_net, samples, fresh.q_net.encode(samples).latents, fresh.replay_buffer)
    assert set(found) == {"first", "last"} and max(found.values()) < 1e-5


def test_no_memory_no_staleness() -> None:
    for kwargs in (dict(policy_kwargs=dict(enable_critic_lstm=False)), dict(state_init="zero")):
        model = random_env_model(TD3, **kwargs)
        samples = model._sample_sequences(8)
        assert state_staleness(model.critic, samples, model.critic.encode(samples).latents, model.replay_buffer) == {}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logged_now_and_then(variant: Variant) -> None:
    is_prioritised = variant is Q_LEARNING
    settings: dict[str, Any] = dict(priority_alpha=0.9) if is_prioritised else {}
    model = random_env_model(variant, **settings)
    model._n_updates = UPDATES_PER_DIAGNOSIS - 2
    model.train(1, 17)
    assert "train/padding" not in model.logger.name_to_value
    model.train(1, 17)
    logged = model.logger.name_to_value
    assert 0 < logged["train/padding"] < 1 and logged["train/delta_q_last"] > 0
    assert ("train/priority_mean" in logged) == is_prioritised
    if is_prioritised:
        assert 0 < logged["train/priority_mean"] < logged["train/priority_max"]


def test_diagnosis_changes_nothing() -> None:
    model = random_env_model(SAC)
    samples = model._sample_sequences(8)
    latents = model.critic.encode(samples).latents
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model._n_updates = UPDATES_PER_DIAGNOSIS
    model._diagnose(samples, latents)
    assert latents.requires_grad and all(map(th.equal, before, model.policy.parameters()))
    assert all(parameter.grad is None for parameter in model.policy.parameters())


@pytest.mark.parametrize(
    ("variant", "shared"),
    [(TD3, False), (TD3, True), (SAC, False), (SAC, True), (Q_LEARNING, False)],
    ids=["td3", "td3-shared", "sac", "sac-shared", "r2d2"],
)
def test_refresh_writes_what_burn_in_leads_to(variant: Variant, shared: bool) -> None:
    model = random_env_model(
        variant,
        burn_in=4,
        sequence_length=6,
        refresh_states=True,
        replay_buffer_kwargs=dict(stride=2),
        policy_kwargs=dict(shared_lstm=True, enable_critic_lstm=False) if shared else None,
    )
    buffer, n_updates = model.replay_buffer, getattr(model, "policy_delay", 1)
    samples, before = model._sample_sequences(17), buffer.rings[0].states.copy()
    model._sample_sequences = lambda batch_size: samples
    # The states are those of the weights before the update
    model._minimize = lambda loss, optimizer: None
    model.train(n_updates, 17)

    assert samples.burn_in is not None
    touched = np.zeros_like(before, dtype=bool)
    for row in range(samples.burn_in.previous_actions.shape[1]):
        first, env = divmod(int(samples.indices[row]), buffer.n_envs)
        if first % buffer.stride != 0:
            continue
        slot = buffer.rings[0].slot(first)
        touched[slot, env] = True
        stored = buffer.stored_states(np.array([0]), np.array([first]), np.array([env]))
        for network, part, initial in (
            (model.policy.acting_network, stored.pi, samples.initial_states.pi),
            (model.policy.value_network, stored.vf, samples.initial_states.vf),
        ):
            state = tuple(array[:, row : row + 1] for array in initial)
            for observation, action in zip(
                samples.burn_in.observations[:, row], samples.burn_in.previous_actions[:, row], strict=True
            ):
                _, state = network.encoder.step(*network.encoder.inputs(observation[None], action[None]), state)
            for found, expected in zip(part, state, strict=True):
                th.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert touched.any() and (buffer.rings[0].states[touched] != before[touched]).any()
    np.testing.assert_array_equal(buffer.rings[0].states[~touched], before[~touched])


def test_refreshed_states_are_less_stale() -> None:
    found = {}
    for refresh_states in (False, True):
        model = random_env_model(
            Q_LEARNING, burn_in=4, sequence_length=6, refresh_states=refresh_states, replay_buffer_kwargs=dict(stride=2)
        )
        model.lr_schedule = lambda progress: 0.0
        model.train(100, 32)
        samples = model._sample_sequences(32)
        found[refresh_states] = state_staleness(model.q_net, samples, model.q_net.encode(samples).latents, model.replay_buffer)
    assert found[True]["first"] < 0.5 * found[False]["first"]


@pytest.mark.parametrize(
    "settings", [dict(burn_in=0), dict(burn_in=4, state_init="zero"), dict(burn_in=3, replay_buffer_kwargs=dict(stride=2))]
)
def test_refresh_needs_states_and_a_burn_in_that_ends_where_they_are_stored(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"refresh_states=True .* use state_init='stored'"):
        random_env_model(Q_LEARNING, sequence_length=6, refresh_states=True, **settings)
