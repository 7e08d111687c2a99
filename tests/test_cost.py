"""What an update, a sample and an added step cost, counted rather than timed."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_recurrent_offpolicy import RecurrentDDPG
from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.cores import LSTMCore
from sb3_recurrent_offpolicy.type_aliases import RNNStates
from tests.models import DISCRETE_SAC, Q_LEARNING, SAC, TD3, Variant, random_env_model

SHARED = dict(shared_lstm=True, enable_critic_lstm=False)


@pytest.mark.parametrize(
    ("variant", "policy_kwargs", "n_updates", "expected"),
    [
        # critic, its target, the actor's target; the actor itself every second time
        pytest.param(TD3, {}, 2, 3 + 4, id="td3"),
        pytest.param(TD3, SHARED, 2, 2 + 2, id="td3-shared"),
        pytest.param(TD3, dict(enable_critic_lstm=False), 2, 1 + 2, id="td3-critic-without-memory"),
        pytest.param(Variant(RecurrentDDPG), {}, 1, 4, id="ddpg"),
        # one unroll of the actor for both its losses
        pytest.param(SAC, {}, 1, 3, id="sac"),
        pytest.param(SAC, SHARED, 1, 2, id="sac-shared"),
        pytest.param(DISCRETE_SAC, {}, 1, 3, id="discrete-sac"),
        pytest.param(Q_LEARNING, {}, 1, 2, id="r2d2"),
        pytest.param(Q_LEARNING, dict(average_decay=0.9), 1, 2, id="r2d2-averaged"),
    ],
)
@pytest.mark.parametrize("burn_in", [0, 5])
def test_recurrent_calls_per_update(
    variant: Variant,
    policy_kwargs: dict[str, Any],
    n_updates: int,
    expected: int,
    burn_in: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_env_model(variant, policy_kwargs=policy_kwargs, burn_in=burn_in)
    calls = []
    unroll = LSTMCore.unroll

    def counted(self: LSTMCore, inputs: th.Tensor, state: Any) -> Any:
        calls.append(inputs.shape)
        return unroll(self, inputs, state)

    monkeypatch.setattr(LSTMCore, "unroll", counted)
    model.train(n_updates, 17)
    # Burn-in is one call more for each
    assert len(calls) == expected * (2 if burn_in else 1)
    # Only what targets are made of goes on to the last observation
    assert {shape[0] for shape in calls} <= {5, 6, burn_in}


def filled(n_steps: int, n_envs: int = 2, **kwargs: Any) -> RecurrentSequenceReplayBuffer:
    space = spaces.Box(-1, 1, (3,), np.float32)
    buffer = RecurrentSequenceReplayBuffer(n_steps * n_envs, space, spaces.Discrete(3), "cpu", n_envs, **kwargs)
    add(buffer, n_steps)
    return buffer


def add(buffer: RecurrentSequenceReplayBuffer, n_steps: int) -> None:
    n_envs = buffer.n_envs
    observation, zeros = np.zeros((n_envs, 3), dtype=np.float32), np.zeros(n_envs)
    states = RNNStates(*(((th.zeros(1, n_envs, 4),) * 2,) * 2))
    for _ in range(n_steps):
        starts = np.full(n_envs, buffer.rings[0].n_added % 50 == 0)
        buffer.add(observation, observation, np.zeros((n_envs, 1)), zeros, zeros, [{}] * n_envs, starts, states)


@pytest.mark.parametrize("priority_alpha", [0.0, 0.9])
def test_one_transfer_per_array_of_a_batch(priority_alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long and many the sequences are. Of 16, some have a burn-in prefix."""
    counts = []
    for length, batch in ((4, 16), (20, 64)):
        buffer = filled(600, sequence_length=length, burn_in=4, priority_alpha=priority_alpha)
        transfers: list[Any] = []
        monkeypatch.setattr(
            RecurrentSequenceReplayBuffer,
            "to_torch",
            lambda self, array, copy=True, transfers=transfers: transfers.append(array.shape) or th.as_tensor(array),
        )
        buffer.sample(batch)
        counts.append(len(transfers))
    assert counts[0] == counts[1] <= 14


def peak(call: Callable[[], Any]) -> int:
    """Bytes that a call claims at most, on top of what was there."""
    call()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_cost_does_not_grow_with_the_buffer() -> None:
    peaks: dict[str, list[int]] = {"add": [], "sample": []}
    for n_steps in (500, 50_000):
        buffer = filled(n_steps, sequence_length=8)
        peaks["add"].append(peak(lambda buffer=buffer: add(buffer, 20)))  # type: ignore[misc]
        peaks["sample"].append(peak(lambda buffer=buffer: buffer.sample(32)))  # type: ignore[misc]
    for small, large in peaks.values():
        assert large < 1.5 * small


def test_prioritised_sampling_claims_one_number_per_window() -> None:
    """The cumulative sum is all that grows: a window begins every ``stride`` steps."""
    small, large = (filled(n, sequence_length=8, priority_alpha=0.9) for n in (5_000, 50_000))
    grown = peak(lambda: large.sample(32)) - peak(lambda: small.sample(32))
    windows = (large.buffer_size - small.buffer_size) * large.n_envs / large.stride
    assert grown < 4 * 8 * windows
