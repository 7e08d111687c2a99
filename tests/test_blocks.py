"""Rings side by side in one block: drawn from, read, saved and restored as if each stood alone."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch as th

from sb3_recurrent_offpolicy.buffer_files import read_buffer_head, restore_buffer_head
from sb3_recurrent_offpolicy.type_aliases import Stretch
from tests.recorder import CONTINUES, TERMINATES, Recorder, make_buffer
from tests.test_rings import stretch_of

KINDS_OF_DRAWS = pytest.mark.parametrize(("sequence_length", "alpha"), [(4, 0.0), (4, 1.0), (None, 0.0)])


@KINDS_OF_DRAWS
def test_the_only_ring_of_a_block_with_steps_is_drawn_from(sequence_length: int | None, alpha: float) -> None:
    buffer = make_buffer(400, 2, sequence_length=sequence_length, stride=2, priority_alpha=alpha)
    index = buffer.add_rings(3, 2, 100)[1]
    recorder = Recorder(make_buffer(500, 2, sequence_length=sequence_length, stride=2))
    for step in range(20):
        recorder.add([TERMINATES if step % 7 == 6 else CONTINUES] * 2)
    buffer.extend(stretch_of(recorder, 0, buffer.rings[index].state_offsets(20)), index)
    samples = buffer.sample(50)
    assert (samples.rings == index).all()
    recorder.check(samples)


@KINDS_OF_DRAWS
def test_rings_of_a_block_are_drawn_from_in_proportion_to_their_steps(sequence_length: int | None, alpha: float) -> None:
    """One has wrapped around, one holds a few steps, one holds none, and so does the first ring."""
    buffer = make_buffer(400, 2, sequence_length=sequence_length, stride=2, priority_alpha=alpha)
    rings = buffer.add_rings(3, 2, 100)
    for index, length in zip(rings, (250, 50, 0), strict=True):
        recorder = Recorder(make_buffer(500, 2, sequence_length=4, stride=2))
        for step in range(length):
            recorder.add([TERMINATES if step % 10 == 9 else CONTINUES] * 2)
        for first in range(0, length, 50):
            steps = stretch_of(recorder, first, buffer.rings[index].state_offsets(50))
            buffer.extend(cut(steps, 50), index)
    drawn = [buffer.sample(100) for _ in range(100)]
    shares = [np.mean(np.concatenate([samples.rings for samples in drawn]) == index) for index in rings]
    np.testing.assert_allclose(shares, [2 / 3, 1 / 3, 0], atol=0.03)
    times = np.concatenate([samples.indices[samples.rings == 1] // 2 for samples in drawn])
    assert times.min() >= 150 and times.max() < 250
    envs = np.concatenate([samples.indices % 2 for samples in drawn])
    assert np.mean(envs) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("in_a_block", [True, False])
def test_rings_are_restored_side_by_side_or_alone(in_a_block: bool) -> None:
    buffer = make_buffer(400, 2, sequence_length=4, stride=2)
    rings = buffer.add_rings(2, 1, 100) if in_a_block else [buffer.add_ring(1, 100) for _ in range(2)]
    recorder = Recorder(make_buffer(100, 1, sequence_length=4, stride=2))
    for _ in range(30):
        recorder.add([CONTINUES])
    buffer.extend(stretch_of(recorder, 0, buffer.rings[rings[1]].state_offsets(30)), rings[1])
    numbers, arrays = read_buffer_head(buffer)
    if not in_a_block:
        # As files of earlier commits
        del numbers["blocks"]
    restored = make_buffer(400, 2, sequence_length=4, stride=2)
    restore_buffer_head(restored, numbers, arrays)
    assert list(restored.sources) == ([0, 1] if in_a_block else [0, 1, 2])
    assert [ring.n_added for ring in restored.rings] == [0, 0, 30]


def test_rings_of_a_block_are_read_at_once(monkeypatch: Any) -> None:
    buffer = make_buffer(400, 2, sequence_length=4, stride=2)
    recorder = Recorder(make_buffer(100, 2, sequence_length=4, stride=2))
    for _ in range(30):
        recorder.add([CONTINUES] * 2)
    for index in buffer.add_rings(16, 2, 100):
        buffer.extend(stretch_of(recorder, 0, buffer.rings[index].state_offsets(30)), index)
    read = mock.Mock(side_effect=buffer._reader.read)
    monkeypatch.setattr(buffer._reader, "read", read)
    assert len(np.unique(buffer.sample(100).rings)) == 16
    read.assert_called_once()


def cut(steps: Stretch, n_steps: int) -> Stretch:
    """The first steps of a stretch."""
    short = {name: getattr(steps, name)[:n_steps] for name in ("observations", "actions", "rewards", "terminated")}
    finals = {key: value for key, value in steps.final_observations.items() if key[0] < n_steps}
    following = steps.observations[n_steps] if len(steps.observations) > n_steps else steps.next_observations
    return steps._replace(
        **short,
        episode_starts=steps.episode_starts[:n_steps],
        final_observations=finals,
        next_observations=np.stack([finals.get((n_steps - 1, env), following[env]) for env in range(len(following))]),
    )


def test_priorities_of_a_block_are_those_of_its_rings() -> None:
    """Windows with large errors are drawn, from whichever ring they are."""
    buffer = make_buffer(400, 2, sequence_length=4, stride=2, priority_alpha=1.0, importance_beta=1.0)
    rings = buffer.add_rings(3, 2, 100)
    for index in rings:
        recorder = Recorder(make_buffer(200, 2, sequence_length=4, stride=2))
        for _ in range(60):
            recorder.add([CONTINUES] * 2)
        buffer.extend(stretch_of(recorder, 0, buffer.rings[index].state_offsets(60)), index)
        errors = np.full((60, 2), 1e-3)
        if index == 2:
            errors[20:24, 1] = 100.0
        buffer.set_newest_errors(errors, index)
    samples = buffer.sample(200)
    times, envs = np.divmod(samples.indices, 2)
    found = (samples.rings == 2) & (envs == 1) & (times > 14) & (times < 26)
    assert found.mean() > 0.97
    buffer.update_priorities(samples, th.zeros_like(samples.rewards))
    assert ((lambda s: (s.rings == 2).mean())(buffer.sample(400))) < 0.6
