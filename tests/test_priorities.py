"""Prioritised replay against brute force: which windows there are, what they weigh, how often they are drawn."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_recurrent_offpolicy import R2D2
from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.priorities import draw_by_weight, sequence_priorities
from tests.recorder import CONTINUES, RESETS, TERMINATES, TRUNCATES, Recorder, make_buffer


def filled(n_steps: int, buffer_size: int, n_envs: int = 2, **kwargs: Any) -> tuple[RecurrentSequenceReplayBuffer, Recorder]:
    settings: dict[str, Any] = dict(sequence_length=6, stride=2, priority_alpha=0.7, priority_eta=0.8)
    buffer = make_buffer(buffer_size, n_envs, **settings | kwargs)
    recorder = Recorder(buffer)
    for _ in range(n_steps):
        endings = np.random.choice([CONTINUES, TERMINATES, TRUNCATES, RESETS], p=[0.85, 0.05, 0.05, 0.05], size=n_envs)
        recorder.add(endings.tolist())
    return buffer, recorder


def windows(buffer: RecurrentSequenceReplayBuffer) -> dict[tuple[int, int], list[int]]:
    """Lattice point and environment of every window with a step that can be sampled, and these steps."""
    assert buffer.sequence_length is not None
    times = range(buffer.rings[0].first_usable(), buffer.rings[0].n_added)
    found: dict[tuple[int, int], list[int]] = {}
    for env in range(buffer.n_envs):
        for point in range(-100, buffer.rings[0].n_added):
            begin = point * buffer.stride + buffer.burn_in
            inside = [t for t in range(begin, begin + buffer.sequence_length) if t in times]
            if inside:
                found[point, env] = inside
    return found


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_priorities_equal_brute_force(data: Any) -> None:
    """Random wraps, updates and errors set while acting; every window knows the newest error of each of its steps."""
    seed = data.draw(st.integers(0, 1000))
    np.random.seed(seed)
    stride = data.draw(st.integers(1, 3))
    length = stride * data.draw(st.integers(1, 4))
    burn_in = data.draw(st.integers(0, length))
    n_envs = data.draw(st.integers(1, 3))
    rows = data.draw(st.integers(burn_in + length + 1, 40))
    alpha, eta = data.draw(st.sampled_from([(0.9, 0.9), (0.5, 0.0), (1.0, 1.0)]))
    buffer, recorder = filled(
        1,
        rows * n_envs,
        n_envs,
        sequence_length=length,
        stride=stride,
        burn_in=burn_in,
        priority_alpha=alpha,
        priority_eta=eta,
    )
    # None where it is not known yet
    errors: dict[Any, Any] = {(0, env): None for env in range(n_envs)}
    ever_recorded = [1.0]
    stand_ins = {1.0}
    for _ in range(data.draw(st.integers(1, 60))):
        action = data.draw(st.sampled_from(["add", "add", "add", "set", "update", "sample"]))
        if action == "add":
            errors.update({(buffer.rings[0].n_added, env): None for env in range(n_envs)})
            recorder.add(np.random.choice([CONTINUES, TERMINATES], p=[0.8, 0.2], size=n_envs).tolist())
        elif action == "set":
            values = np.random.exponential(size=n_envs).astype(np.float32)
            buffer.set_newest_errors(values[None])
            errors.update({(buffer.rings[0].n_added - 1, env): float(values[env]) for env in range(n_envs)})
            ever_recorded.extend(values)
        else:
            samples = buffer.sample(data.draw(st.integers(1, 4)))
            if action == "update":
                found = th.as_tensor(np.random.exponential(size=samples.mask.shape).astype(np.float32))
                # The same step may be in several rows: then let all say the same
                begins, envs = np.divmod(samples.indices, n_envs)
                for t, row in zip(*np.nonzero(samples.mask.numpy()), strict=True):
                    key = int(begins[row] + t), int(envs[row])
                    errors[key] = float(1 + key[0] % 7 + key[1])
                    found[t, row] = errors[key]
                    ever_recorded.append(errors[key])
                found[samples.mask == 0] = 1e6
                buffer.update_priorities(samples, found)
        assert buffer.priorities is not None
        stand_ins.add(buffer.priorities[0].largest_error)
    for _ in range(2):
        buffer.sample(1)
        assert buffer.priorities is not None
        stand_ins.add(buffer.priorities[0].largest_error)
    priorities = buffer.priorities[0]
    first = buffer.rings[0].first_usable()
    known = {key: error for key, error in errors.items() if error is not None}
    if any(time >= first for time, _ in known):
        assert priorities.largest_error in np.array([*known.values()], dtype=np.float32)
    else:
        # The largest error stays what it was when windows were last drawn, also if a newer error has replaced it since
        assert priorities.largest_error in np.array(ever_recorded, dtype=np.float32)
    for (point, env), inside in windows(buffer).items():
        # What is not known counted as much as the largest known error, when the window was last looked at
        possible = []
        for stand_in in stand_ins:
            values = np.array([stand_in if errors[t, env] is None else errors[t, env] for t in inside])
            possible.append((eta * values.max() + (1 - eta) * values.mean() + 1e-6) ** alpha)
        weight = priorities.weights[point % len(priorities.weights), env]
        if inside[0] > first or inside[0] == point * stride + burn_in:
            assert np.isclose(weight, possible, rtol=1e-5).any()
        else:
            # The ring's oldest window loses steps that still count until it is touched again
            assert weight > 0


def test_sequence_priorities() -> None:
    errors = np.array([[1.0, 2.0], [3.0, 0.0], [100.0, 7.0]])
    mask = np.array([[True, True], [True, True], [False, True]])
    np.testing.assert_allclose(sequence_priorities(errors, mask, 0.9), [0.9 * 3 + 0.1 * 2, 0.9 * 7 + 0.1 * 3])


def test_windows_are_drawn_in_proportion() -> None:
    buffer, _ = filled(50, 60)
    samples = buffer.sample(40)
    buffer.update_priorities(samples, th.rand(samples.mask.shape) * 5)
    buffer.sample(1)
    priorities = buffer.priorities[0]
    keys = list(windows(buffer))
    weights = np.array([priorities.weights[point % len(priorities.weights), env] for point, env in keys])
    low, live = priorities.live_weights(buffer.rings[0].first_usable(), buffer.rings[0].n_added)
    _, points, envs, relative = draw_by_weight(buffer.generator, 200_000, [live])
    points = low + points
    counts: dict[tuple[int, int], int] = {}
    for key in zip(points.tolist(), envs.tolist(), strict=True):
        counts[key] = counts.get(key, 0) + 1
    assert set(counts) <= set(keys)
    frequencies = np.array([counts.get(key, 0) / 200_000 for key in keys])
    np.testing.assert_allclose(frequencies, weights / weights.sum(), atol=0.003)
    by_key = {key: value for key, value in zip(zip(points.tolist(), envs.tolist(), strict=True), relative, strict=True)}
    for key, weight in zip(keys, weights, strict=True):
        assert key not in by_key or by_key[key] == pytest.approx(weight / weights.mean())


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_importance_weights(beta: float) -> None:
    """(N P)^-beta over the largest in the batch, each piece with the weight of its window."""
    buffer, recorder = filled(40, 200, importance_beta=beta)
    samples = buffer.sample(40)
    buffer.update_priorities(samples, th.rand(samples.mask.shape) * 5)
    buffer.seed(2)
    samples = buffer.sample(64)
    buffer.seed(2)
    other = buffer.sample(64, importance_beta=2 * beta)
    assert samples.weights.shape == (samples.mask.shape[1],)
    if beta == 0.0:
        assert th.equal(samples.weights, th.ones(64))
    else:
        assert samples.weights.max() <= 1 and len(samples.weights.unique()) > 5
        th.testing.assert_close(other.weights, samples.weights**2)
    samples = samples._replace(weights=th.ones(64))
    recorder.check(samples)


def test_padding_and_burn_in_have_no_priority() -> None:
    buffer, recorder = filled(60, 200, burn_in=4)
    for _ in range(20):
        samples = buffer.sample(16)
        priorities = buffer.priorities[0]
        assert priorities is not None
        priorities.errors[:] = np.nan
        learned = {(first + t, env) for env, first, length, _ in recorder.check(samples) for t in range(length)}
        buffer.update_priorities(samples, th.where(samples.mask > 0, th.rand(samples.mask.shape), th.inf))
        changed = {(int(t), int(env)) for t, env in np.argwhere(np.isfinite(priorities.errors))}
        assert changed == learned


def test_survives_a_round_trip() -> None:
    buffer, _ = filled(90, 100)
    samples = buffer.sample(16)
    buffer.update_priorities(samples, th.rand(samples.mask.shape) * 5)
    loaded = pickle.loads(pickle.dumps(buffer))
    batches = []
    for each in (buffer, loaded):
        each.seed(3)
        batches.append(each.sample(32))
    for a, b in zip(*map(th.utils._pytree.tree_leaves, batches), strict=True):
        np.testing.assert_array_equal(a, b)
    buffer.reset()
    assert not buffer.priorities[0].allocated


def test_uniform_replay_needs_no_errors() -> None:
    buffer, _ = filled(30, 100, priority_alpha=0.0)
    samples = buffer.sample(8)
    buffer.update_priorities(samples, th.ones(samples.mask.shape))
    buffer.set_newest_errors(np.ones((1, 2)))
    assert not buffer.priorities and th.equal(samples.weights, th.ones(8))


def test_memory_is_counted() -> None:
    buffer, _ = filled(30, 1000)
    priorities = buffer.priorities[0]
    plain, _ = filled(30, 1000, priority_alpha=0.0)
    assert buffer.estimate_nbytes(12) - plain.estimate_nbytes(12) == (
        priorities.errors.nbytes + priorities.weights.nbytes + priorities.peaks.nbytes
    )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(priority_alpha=-0.1), "priority_alpha=-0.1 must be a finite number of at least 0"),
        (dict(priority_eta=1.1), "priority_eta=1.1 must be a finite number between 0 and 1"),
        (dict(importance_beta=-1.0), "importance_beta=-1.0 must be a finite number between 0 and 1"),
        (dict(priority_alpha=0.9, sequence_length=None), "choose a sequence_length, or priority_alpha=0"),
    ],
)
def test_impossible_settings(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_buffer(100, **kwargs)


@pytest.mark.parametrize("error", [1e6, np.inf])
def test_one_huge_error_is_forgotten(error: float) -> None:
    """A finite one with its step, an infinite one at once; until then batches hold many sequences all the same."""
    buffer, recorder = filled(60, 100, n_envs=1, priority_alpha=0.9)
    samples = buffer.sample(8)
    found = th.ones(samples.mask.shape)
    found[0, 0] = error
    buffer.update_priorities(samples, found)
    for _ in range(3 * buffer.buffer_size):
        recorder.add([CONTINUES])
        samples = buffer.sample(16)
        buffer.update_priorities(samples, th.ones(samples.mask.shape))
    priorities = buffer.priorities[0]
    assert priorities.largest_error == 1.0
    assert len({int(index) for index in buffer.sample(16).indices}) >= 12
    again = pickle.loads(pickle.dumps(buffer))
    assert np.nanmax(again.priorities[0].errors) == 1.0


def test_an_infinite_error_found_while_acting_counts_as_the_largest_finite_one() -> None:
    buffer, _ = filled(60, 100, n_envs=1)
    buffer.set_newest_errors(np.array([[3.0]]))
    buffer.sample(1)
    buffer.sample(1)
    buffer.set_newest_errors(np.array([[np.inf]]))
    assert buffer.priorities is not None
    assert np.nanmax(buffer.priorities[0].errors) == 3.0
    # A reward of 1e23 overflows a squared error in float32
    settings: dict[str, Any] = dict(buffer_size=2_000, learning_starts=10**6, priority_alpha=0.9)
    model = R2D2("MlpLstmPolicy", "CartPole-v1", policy_kwargs=dict(lstm_hidden_size=4), **settings)
    model.learn(200)
    model.replay_buffer.rings[0].rewards[50] = 1e23
    samples = model._sample_sequences(8)
    errors = th.full(samples.mask.shape, float("inf"))
    model._update_priorities(samples, errors)
    assert model.replay_buffer.priorities is not None
    assert np.isfinite(model.replay_buffer.priorities[0].weights).all()
