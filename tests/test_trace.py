"""
What a policy remembers, values and would do along recorded episodes: the same as step by step with ``predict``,
where that acts by the latest weights.
"""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_recurrent_offpolicy import R2D2, RecurrentSAC, RecurrentTD3, RecurrentTQC
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from tests.recorder import ACTION_SPACE
from tests.setup import model_on, random_envs

N_STEPS, N_ENVS = 7, 3
WIDE = spaces.Box(-2.0, 6.0, (3,), np.float32)


@pytest.mark.parametrize(
    ("algorithm", "action_space", "kwargs", "distributions", "n_values"),
    [
        (RecurrentTD3, WIDE, {}, set(), 2),
        (RecurrentTD3, WIDE, dict(policy_kwargs=dict(shared_lstm=True, enable_critic_lstm=False)), set(), 2),
        (RecurrentSAC, WIDE, {}, {"mean", "log_std"}, 2),
        (RecurrentSAC, WIDE, dict(use_sde=True), {"mean", "log_std"}, 2),
        (RecurrentSAC, spaces.Discrete(4), {}, {"log_probs"}, 2),
        (RecurrentTQC, WIDE, dict(policy_kwargs=dict(n_quantiles=5)), {"mean", "log_std"}, 10),
        (R2D2, spaces.Discrete(4), dict(burn_in=0), set(), 4),
    ],
)
def test_trace_equals_predict(
    algorithm: type[RecurrentOffPolicyAlgorithm],
    action_space: spaces.Space,
    kwargs: dict[str, Any],
    distributions: set[str],
    n_values: int,
) -> None:
    policy_kwargs = dict(lstm_hidden_size=5, net_arch=[7], average_decay=0.0) | kwargs.get("policy_kwargs", {})
    model: Any = model_on(
        random_envs(N_ENVS, action_space=action_space), algorithm, **kwargs | dict(policy_kwargs=policy_kwargs)
    )
    model.learn(60)
    generator = np.random.default_rng(0)
    observations = generator.normal(size=(N_STEPS, N_ENVS, 2)).astype(np.float32)
    actions = np.array([[action_space.sample() for _ in range(N_ENVS)] for _ in range(N_STEPS)])
    starts = generator.random((N_STEPS, N_ENVS)) < 0.3
    trace = model.policy.trace(observations, actions, starts)

    state: Any = None
    for t in range(N_STEPS):
        if state is not None:
            forgotten = tuple(np.where(starts[t][:, None], 0.0, array) for array in state)
            for before, expected in zip(trace.lstm_states.pi, forgotten[:-1], strict=True):
                np.testing.assert_allclose(before[t], expected, atol=1e-6)
        would, state = model.predict(observations[t], state, starts[t], deterministic=True)
        np.testing.assert_allclose(trace.actions[t], would, atol=1e-5)
        for after, expected in zip(trace.next_lstm_states.pi, state[:-1], strict=True):
            np.testing.assert_allclose(after[t], expected, atol=1e-6)
        # What was done is remembered, not what would have been
        taken = model.policy.scale_action(actions[t])
        done = np.eye(4)[taken] if isinstance(action_space, spaces.Discrete) else taken
        state = (*state[:-1], done[None].astype(np.float32))
    assert trace.q_values.shape == (N_STEPS, N_ENVS, n_values)
    assert set(trace.distributions) == distributions
    if "mean" in distributions:
        np.testing.assert_allclose(
            model.policy.unscale_action(np.tanh(trace.distributions["mean"])), trace.actions, rtol=1e-4, atol=1e-4
        )
        assert trace.distributions["log_std"].shape == (N_STEPS, N_ENVS, 3)
    if "log_probs" in distributions:
        np.testing.assert_allclose(np.exp(trace.distributions["log_probs"]).sum(axis=-1), 1.0, rtol=1e-5)
    if algorithm is R2D2:
        np.testing.assert_array_equal(trace.q_values.argmax(axis=-1), trace.actions)


def test_values_and_states_are_those_of_training() -> None:
    """Along the steps in the replay buffer: the states that acted, and what the critic says of the actions taken."""
    model = model_on(random_envs(2), gradient_steps=0, replay_buffer_kwargs=dict(stride=1)).learn(80)
    ring = model.replay_buffer.rings[0]
    n_steps = ring.n_added
    observations, stored = ring.observations[:n_steps], ring.actions[:n_steps]
    trace = model.policy.trace(observations, model.policy.unscale_action(stored), ring.episode_steps[:n_steps] == 0)
    for t in range(n_steps):
        kept = model.replay_buffer.stored_states(np.zeros(2, dtype=int), np.full(2, t), np.arange(2))
        for part, traced in zip(kept, trace.lstm_states, strict=True):
            for array, expected in zip(part, traced, strict=True):
                th.testing.assert_close(array, expected[t], atol=1e-5, rtol=1e-4)
    samples = model.replay_buffer.sample(16)
    with th.no_grad():
        values = th.stack(model.critic(model.critic.encode(samples).latents[:-1], samples.actions), dim=-1)
    times, envs = np.divmod(samples.indices, 2)
    for row, (time, env) in enumerate(zip(times, envs, strict=True)):
        for t in range(int(samples.mask[:, row].sum())):
            np.testing.assert_allclose(values[t, row], trace.q_values[time + t, env], atol=1e-4)


def test_a_trace_changes_nothing() -> None:
    model = model_on(random_envs(2))
    before = model.behavior.memory
    model.policy.set_training_mode(False)
    model.policy.trace(np.zeros((4, 2, 2)), np.zeros((4, 2, *ACTION_SPACE.shape)), np.zeros((4, 2), dtype=bool))
    assert all(map(th.equal, *(th.utils._pytree.tree_leaves(memory) for memory in (model.behavior.memory, before))))
    assert all(parameter.grad is None for parameter in model.policy.parameters())


def test_lengths_that_differ() -> None:
    model = model_on(random_envs(2))
    zeros, actions, starts = np.zeros((4, 2, 2)), np.zeros((4, 2, *ACTION_SPACE.shape)), np.zeros((4, 2), dtype=bool)
    for arguments in ((zeros[:3], actions, starts), (zeros, actions[:3], starts), (zeros, actions, starts[:, :1])):
        with pytest.raises(ValueError, match=r"first two axes .* all must be \(T, n_envs\)"):
            model.policy.trace(*arguments)
    assert model.policy.trace(zeros, actions, starts.tolist()).q_values.shape == (4, 2, 2)
