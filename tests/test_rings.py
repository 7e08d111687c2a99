"""Several rings behind one sampler: stretches added at once, environments at their own pace, recorded episodes."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.sequences import concatenate
from sb3_recurrent_offpolicy.type_aliases import RNNStates, Stretch
from tests.recorder import ACTION_SPACE, CONTINUES, RESETS, TERMINATES, TRUNCATES, Recorder, make_buffer

ENDINGS = st.sampled_from([CONTINUES] * 8 + [TERMINATES, TRUNCATES, RESETS])


def stretch_of(recorder: Recorder, first: int, offsets: np.ndarray) -> Stretch:
    """What a recorder has written down from a time on, as steps to be added at once."""
    history = [env[first:] for env in recorder.history]

    def field(name: str) -> np.ndarray:
        return np.stack([np.stack([np.asarray(getattr(step, name)) for step in env]) for env in history], axis=1)

    finals = {
        (t, env): history[env][t].next_observation
        for env in range(len(history))
        for t in range(len(history[env]) - 1)
        if history[env][t + 1].starts
    }
    states = [recorder.as_states(field("state")[t]) for t in offsets]
    parts = [
        tuple(th.stack(arrays) for arrays in zip(*(getattr(each, part) for each in states), strict=True)) if states else ()
        for part in ("pi", "vf")
    ]
    if not states:
        one = recorder.as_states(field("state")[0])
        parts = [tuple(array.new_zeros(0, *array.shape) for array in part) for part in one]
    return Stretch(
        observations=field("observation"),
        next_observations=np.stack([env[-1].next_observation for env in history]),
        final_observations=finals,
        actions=field("action"),
        rewards=field("reward"),
        terminated=field("terminated"),
        episode_starts=field("starts"),
        lstm_states=RNNStates(*parts),
    )


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_stretch_is_what_its_steps_are_one_by_one(data: Any) -> None:
    """Random lengths, episode ends, seams and wraps: the same ring, array by array, and the same next step."""
    stride = data.draw(st.integers(1, 3))
    n_envs, n_rows = data.draw(st.integers(1, 3)), data.draw(st.integers(13, 25))
    kwargs: dict[str, Any] = dict(sequence_length=3 * stride, stride=stride, burn_in=data.draw(st.integers(0, 3)))
    kwargs |= dict(
        state_init=data.draw(st.sampled_from(["stored", "zero"])), priority_alpha=data.draw(st.sampled_from([0.0, 0.7]))
    )
    single, at_once = (make_buffer(n_rows * n_envs, n_envs, **kwargs) for _ in range(2))
    recorder = Recorder(single)
    for _ in range(data.draw(st.integers(1, 4))):
        first = len(recorder.history[0])
        for _ in range(data.draw(st.integers(1, n_rows))):
            recorder.add([data.draw(ENDINGS) for _ in range(n_envs)])
        n_steps = len(recorder.history[0]) - first
        at_once.extend(stretch_of(recorder, first, at_once.rings[0].state_offsets(n_steps)))
        a, b = single.rings[0], at_once.rings[0]
        assert (single.pos, single.full, a.n_added) == (at_once.pos, at_once.full, b.n_added)
        assert a.max_episode_length() == b.max_episode_length()
        for name in ("observations", "actions", "rewards", "terminated", "episode_steps", "states", "next_episode_steps"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert a.final_observations.keys() == b.final_observations.keys()
        recorder.buffer = at_once
        recorder.check(at_once.sample(8)) if kwargs["priority_alpha"] == 0 else at_once.sample(8)
        recorder.buffer = single


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_sequences_of_rings_at_their_own_pace_equal_the_record(data: Any) -> None:
    """One batch holds rows of all rings; each is checked against what its own ring was given."""
    burn_in, sequence_length = data.draw(st.integers(0, 4)), data.draw(st.sampled_from([4, None]))
    if sequence_length is None:
        burn_in = 0
    kwargs: dict[str, Any] = dict(sequence_length=sequence_length, burn_in=burn_in, stride=2)
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    # Rings of equal size, read as one
    n_members = data.draw(st.sampled_from([0, 1, 2, 3]))
    buffer = make_buffer(30 * sizes[0], sizes[0], seed=data.draw(st.integers(0, 1000)), **kwargs)
    # Each ring's record is kept by a buffer of its own
    if n_members > 0:
        sizes[1:] = [sizes[1]] * n_members
        assert buffer.add_rings(n_members, sizes[1], n_rows=30) == list(range(1, n_members + 1))
    else:
        for n_envs in sizes[1:]:
            buffer.add_ring(n_envs, n_rows=30)
    recorders = [Recorder(make_buffer(30 * n_envs, n_envs, **kwargs)) for n_envs in sizes]
    for _ in range(data.draw(st.integers(1, 8))):
        index = data.draw(st.integers(0, len(sizes) - 1))
        recorder = recorders[index]
        first = len(recorder.history[0])
        for _ in range(data.draw(st.integers(1, 12))):
            recorder.add([data.draw(ENDINGS) for _ in range(sizes[index])])
        n_steps = len(recorder.history[0]) - first
        buffer.extend(stretch_of(recorder, first, buffer.rings[index].state_offsets(n_steps)), index)

    samples = buffer.sample(data.draw(st.integers(1, 30)))
    for index, recorder in enumerate(recorders):
        rows = np.flatnonzero(samples.rings == index)
        if len(rows) > 0:
            recorder.check(rows_of(samples, rows))
    n_burn_in = 0 if samples.burn_in is None else samples.burn_in.previous_actions.shape[1]
    assert (samples.indices[:n_burn_in] >= 0).all() and n_burn_in <= len(samples.indices)


def rows_of(samples: Any, rows: np.ndarray) -> Any:
    """Some rows of a batch, those with burn-in still first."""
    columns = th.as_tensor(rows)
    n_burn_in = 0 if samples.burn_in is None else samples.burn_in.previous_actions.shape[1]
    prefixed = columns[columns < n_burn_in]
    burn_in = samples.burn_in
    if burn_in is not None:
        burn_in = type(burn_in)(burn_in.observations[:, prefixed], burn_in.previous_actions[:, prefixed])
    return samples._replace(
        **{
            name: getattr(samples, name)[:, columns]
            for name in ("observations", "previous_actions", "actions", "rewards", "terminated", "mask")
        },
        initial_states=th.utils._pytree.tree_map(lambda array: array[:, columns], samples.initial_states),
        burn_in=burn_in if len(prefixed) > 0 else None,
        weights=samples.weights[columns],
        rings=samples.rings[rows],
        indices=samples.indices[rows],
    )


def filled_rings(priority_alpha: float = 0.0, n_steps: tuple[int, int] = (50, 150)) -> RecurrentSequenceReplayBuffer:
    buffer = make_buffer(400, 2, sequence_length=4, stride=2, priority_alpha=priority_alpha)
    buffer.add_ring(1)
    for index, (n_envs, length) in enumerate(zip((2, 1), n_steps, strict=True)):
        recorder = Recorder(make_buffer(200 * n_envs, n_envs, sequence_length=4, stride=2))
        for _ in range(length):
            recorder.add([CONTINUES] * n_envs)
        buffer.extend(stretch_of(recorder, 0, buffer.rings[index].state_offsets(length)), index)
    return buffer


def test_rings_are_drawn_from_in_proportion_to_their_steps() -> None:
    buffer = filled_rings()
    drawn = np.concatenate([buffer.sample(100).rings for _ in range(100)])
    assert np.mean(drawn == 1) == pytest.approx(150 / (2 * 50 + 150), abs=0.02)


def test_priorities_are_compared_across_rings() -> None:
    buffer = filled_rings(priority_alpha=1.0, n_steps=(100, 100))
    for _ in range(40):
        samples = buffer.sample(64)
        errors = th.where(th.as_tensor(samples.rings == 1), 8.0, 1.0).expand(samples.mask.shape)
        buffer.update_priorities(samples, errors)
    drawn = np.concatenate([buffer.sample(100).rings for _ in range(50)])
    # One environment of errors 8 against two of errors 1
    assert np.mean(drawn == 1) == pytest.approx(8 / (8 + 2), abs=0.03)
    copy = pickle.loads(pickle.dumps(buffer))
    np.testing.assert_array_equal(copy.sample(32).indices, buffer.sample(32).indices)


def test_refreshed_states_go_back_to_their_rings() -> None:
    buffer = make_buffer(100, sequence_length=4, stride=2, burn_in=2, refresh_states=True)
    buffer.add_ring(2, n_rows=50)
    for index, n_envs in enumerate((1, 2)):
        recorder = Recorder(make_buffer(50 * n_envs, n_envs, sequence_length=4, stride=2))
        for _ in range(40):
            recorder.add([CONTINUES] * n_envs)
        buffer.extend(stretch_of(recorder, 0, buffer.rings[index].state_offsets(40)), index)
    samples: Any = buffer.sample(40)
    n_rows = samples.burn_in.previous_actions.shape[1]
    marks = th.arange(1.0, n_rows + 1)
    states = th.utils._pytree.tree_map(
        lambda array: marks[None, :, None].expand(array.shape[0], n_rows, array.shape[2]), samples.initial_states
    )
    buffer.write_states(samples, states)
    times = samples.indices[:n_rows] // np.array([1, 2])[samples.rings[:n_rows]]
    envs = samples.indices[:n_rows] % np.array([1, 2])[samples.rings[:n_rows]]
    on_lattice = times % 2 == 0
    found = buffer.stored_states(samples.rings[:n_rows][on_lattice], times[on_lattice], envs[on_lattice])
    written = {(r, t, e): m for r, t, e, m in zip(samples.rings, times, envs, marks.tolist(), strict=False)}
    keys = list(zip(samples.rings[:n_rows][on_lattice], times[on_lattice], envs[on_lattice], strict=True))
    np.testing.assert_array_equal(found.pi[0][0, :, 0], [written[key] for key in keys])


def test_batches_of_dict_observations_and_different_lengths_are_joined() -> None:
    def batch(n_steps: int, n_rows: int, index: int) -> Any:
        space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})
        buffer = RecurrentSequenceReplayBuffer(100, space, ACTION_SPACE, device="cpu", sequence_length=None, seed=0)
        states = RNNStates((th.zeros(1, 1, 2),), (th.zeros(1, 1, 3),))
        observation = {"a": np.full((1, 2), index), "b": np.array([index])}
        for t in range(n_steps):
            start = np.array([t == 0])
            buffer.add(observation, observation, np.zeros((1, 3)), np.ones(1), np.zeros(1), [{}], start, states)
        return buffer.sample(n_rows)

    joined = concatenate([batch(3, 2, 1), batch(7, 4, 2)])
    assert joined.mask.shape == (7, 6) and joined.observations["a"].shape == (8, 6, 2)  # type: ignore[index]
    assert joined.mask.sum(dim=0).tolist() == [3, 3, 7, 7, 7, 7]
    assert joined.observations["b"][0].flatten().tolist() == [1, 1, 2, 2, 2, 2]  # type: ignore[index]
    assert joined.initial_states.vf[0].shape == (1, 6, 3)


def test_stretches_that_do_not_fit_leave_the_ring_as_it_is() -> None:
    kwargs: dict[str, Any] = dict(sequence_length=4, stride=2)
    recorder = Recorder(make_buffer(40, 2, **kwargs))
    for ending in (CONTINUES, TERMINATES, CONTINUES, CONTINUES):
        recorder.add([ending, CONTINUES])
    good = stretch_of(recorder, 0, np.array([0, 2]))
    buffer = make_buffer(40, 2, **kwargs)
    buffer.extend(good)
    before = pickle.dumps(buffer)
    too_few, too_small = (
        th.utils._pytree.tree_map(cut, good.lstm_states) for cut in (lambda array: array[:1], lambda array: array[..., :1])
    )
    bad: list[tuple[dict[str, Any], str]] = [
        (dict(final_observations={}), r"no entry for \(step, environment\) \[\(1, 0\)\]"),
        (dict(actions=good.actions[:3]), "steps has arrays of shapes"),
        (dict(terminated=good.terminated[:, :1]), "steps has arrays of shapes"),
        (
            dict(lstm_states=too_few),
            r"has \[1\] states, but 2 are stored",
        ),
        (dict(lstm_states=too_small), "another memory"),
        (dict(observations=good.observations[..., :1]), r"'observations': \(4, 2, 1\)"),
        (dict(next_observations=good.next_observations[:1]), r"'next_observations': \(1, 2\)"),
        (dict(rewards=good.rewards[..., None]), r"'rewards': \(4, 2, 1\)"),
        (dict(rewards=np.full((4, 2), np.nan)), r"environment\(s\) \[0, 1\] is not finite"),
        (dict(rewards=np.zeros((0, 2))), "0 steps are more than the 20 that are kept, or none"),
    ]
    for changes, message in bad:
        with pytest.raises(ValueError, match=message):
            buffer.extend(good._replace(**changes))
        assert pickle.dumps(buffer) == before


@pytest.mark.parametrize("kwargs", [dict(n_envs=0), dict(n_envs=1.5), dict(n_rows=0), dict(n_rows=4)])
def test_rings_in_which_no_sequence_fits(kwargs: dict[str, Any]) -> None:
    buffer = make_buffer(40, sequence_length=4)
    recorder = Recorder(make_buffer(40, sequence_length=4))
    recorder.add([CONTINUES])
    ((name, value),) = kwargs.items()
    with pytest.raises(ValueError, match=f"{name}={value} must be"):
        buffer.add_ring(**kwargs)
    with pytest.raises(ValueError, match=r"ring=1 does not exist: add_ring\(\)"):
        buffer.extend(stretch_of(recorder, 0, np.array([0])), 1)
    assert len(buffer.rings) == 1


def test_steps_that_do_not_fit_leave_the_ring_as_it_is() -> None:
    buffer = make_buffer(40, 2, sequence_length=4)
    recorder = Recorder(buffer)
    for _ in range(5):
        recorder.add([CONTINUES, TERMINATES])
    zeros, states = np.zeros((2, 2)), recorder.as_states(np.zeros((2, 3)))
    good: dict[str, Any] = dict(
        obs=zeros, next_obs=zeros, action=np.zeros((2, 3)), reward=np.zeros(2), done=np.zeros(2), infos=[{}, {}]
    )
    good |= dict(episode_starts=np.ones(2), lstm_states=states)
    ring = buffer.rings[0]
    finals, n_added = dict(ring.final_observations), ring.n_added
    for bad in (
        dict(obs=np.zeros((2, 3))),
        dict(action=np.zeros((2, 2))),
        dict(reward=np.zeros(3)),
        dict(done=np.zeros(1)),
        dict(episode_starts=np.zeros(1)),
    ):
        with pytest.raises(ValueError):
            buffer.add(**good | bad)
        assert (ring.final_observations.keys(), ring.n_added) == (finals.keys(), n_added)
        recorder.check(buffer.sample(8))
    fresh = make_buffer(40, 2, sequence_length=4)
    with pytest.raises(ValueError, match="there are 2 environments"):
        fresh.add(**good | dict(lstm_states=recorder.as_states(np.zeros((1, 3)))))


def test_what_was_done_before_the_first_step_is_not_made_up() -> None:
    """A ring that did not see its first episode begin: action 0 of a Discrete space is an action, not none."""
    buffer = RecurrentSequenceReplayBuffer(
        40, spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(3), "cpu", sequence_length=4, burn_in=0, seed=0
    )
    zeros, states = np.zeros((1, 1)), RNNStates((th.zeros(1, 1, 2),), (th.zeros(1, 1, 2),))
    for _ in range(6):
        buffer.add(zeros, zeros, np.ones((1, 1)), np.zeros(1), np.zeros(1), [{}], np.zeros(1), states)
    samples = buffer.sample(32)
    first = samples.previous_actions[0][th.as_tensor(samples.indices == 0)]
    assert len(first) > 0 and not first.any()
