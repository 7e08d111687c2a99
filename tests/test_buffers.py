"""The replay buffer against a brute-force oracle, and each of its promises by itself."""

import pickle
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.type_aliases import RNNStates
from tests.envs import RandomEnv
from tests.recorder import (
    ACTION_SPACE,
    CONTINUES,
    OBSERVATION_SPACE,
    RESETS,
    TERMINATES,
    TRUNCATES,
    Recorder,
    make_buffer,
)


def record(buffer: RecurrentSequenceReplayBuffer, episodes: list[list[tuple[int, int]]]) -> Recorder:
    """Episodes (length, ending) of each environment; what is left of longer lists is cut off."""
    streams = [[e for length, ending in env for e in [CONTINUES] * (length - 1) + [ending]] for env in episodes]
    recorder = Recorder(buffer)
    for endings in zip(*streams, strict=False):
        recorder.add(list(endings))
    return recorder


episodes_of_one_env = st.lists(
    st.tuples(st.integers(1, 25), st.sampled_from([TERMINATES, TRUNCATES, RESETS])), min_size=1, max_size=12
)


def check_against_the_record(integer: Callable[[int, int], int]) -> None:
    """
    T1, T3, T4, T10: random episode lengths, environments, wraps and resets that leave no done.

    :param integer: draws one between two others
    """
    stride = integer(1, 4)
    sequence_length = [None, stride, 2 * stride, 3 * stride, 4 * stride][integer(0, 4)]
    burn_in = 0 if sequence_length is None else integer(0, sequence_length)
    n_envs = integer(1, 3)
    rows = integer(burn_in + (sequence_length or stride) + 1, 60)
    seed = integer(0, 1000)
    np.random.seed(seed)
    buffer = make_buffer(
        rows * n_envs,
        n_envs,
        seed=seed,
        sequence_length=sequence_length,
        burn_in=burn_in,
        stride=stride,
        state_init=["stored", "zero"][integer(0, 1)],
    )
    endings = [TERMINATES, TRUNCATES, RESETS]
    episodes = [[(integer(1, 25), endings[integer(0, 2)]) for _ in range(integer(1, 12))] for _ in range(n_envs)]
    recorder = record(buffer, episodes)

    samples = buffer.sample(integer(1, 20))
    rows_found = recorder.check(samples)

    T, B = samples.mask.shape
    assert len(rows_found) == B and max(length for _, _, length, _ in rows_found) == T, "no longer than the longest row"
    assert sequence_length is None or sequence_length >= T
    assert samples.previous_actions.shape == (T + 1, B, 3)
    for env, first, length, burned in rows_found:
        history = recorder.history[env]
        if sequence_length is None and first + length < len(history):
            assert history[first + length].starts, "whole episodes end where they end"
        if history[first].starts and sequence_length is not None:
            full = min(first + sequence_length, len(history))
            end = next((t for t in range(first + 1, full) if history[t].starts), full)
            assert first + length == end, "a sequence that begins with its episode has full length"
        if not history[first].starts and buffer.state_init == "stored" and not burned:
            assert first % stride == 0, "states are stored on the lattice only"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_samples_equal_the_record(data: Any) -> None:
    check_against_the_record(lambda low, high: data.draw(st.integers(low, high)))


@pytest.mark.slow
def test_samples_of_100000_histories_equal_the_record() -> None:
    for seed in range(100_000):
        try:
            check_against_the_record(random.Random(seed).randint)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


@pytest.mark.parametrize(
    ("sequence_length", "burn_in", "stride"), [(8, 0, 1), (8, 0, 2), (8, 4, 2), (8, 8, 1), (9, 5, 3), (8, 0, 8), (6, 2, None)]
)
@pytest.mark.parametrize(("n_episode_steps", "batch_size"), [(20, 256), (37, 256), (20, 1)])
def test_every_step_is_trained_on_about_equally_often(
    sequence_length: int, burn_in: int, stride: int | None, n_episode_steps: int, batch_size: int
) -> None:
    buffer = make_buffer(1200, 2, sequence_length=sequence_length, burn_in=burn_in, stride=stride)
    recorder = record(buffer, [[(n_episode_steps, TERMINATES)] * 20, [(5, TRUNCATES)] + [(n_episode_steps, TERMINATES)] * 20])
    position = {}
    for env, history in enumerate(recorder.history):
        starts = np.maximum.accumulate([t * step.starts for t, step in enumerate(history)])
        complete = [t for t in range(len(history)) if starts[t] > 5 and starts[t] + n_episode_steps <= len(history)]
        position.update({(env, t): t - starts[t] for t in complete})

    counts: Counter[int] = Counter()
    for _ in range(min(38_400 // batch_size, 12_000)):
        samples = buffer.sample(batch_size)
        times, envs = np.divmod(samples.indices, buffer.n_envs)
        for env, first, length in zip(envs, times, samples.mask.sum(dim=0).int().tolist(), strict=True):
            counts.update(position[env, t] for t in range(first, first + length) if (env, t) in position)
    assert set(counts) == set(range(n_episode_steps))
    # 2 in expectation, a little more for chance
    assert max(counts.values()) / min(counts.values()) <= (2.1 if batch_size > 1 else 2.3)


def test_sequences_begin_at_many_phases() -> None:
    buffer = make_buffer(400, sequence_length=8)
    recorder = record(buffer, [[(90, TERMINATES)] * 4])
    firsts = {first % 90 for _ in range(50) for _, first, _, _ in recorder.check(buffer.sample(32))}
    assert len(firsts) >= 40, "at stride 2 every second step of an episode, whatever the phase of the episode in the ring"


def test_length_one_episodes_and_a_single_step() -> None:
    buffer = make_buffer(100, 2, sequence_length=4)
    recorder = record(buffer, [[(1, TERMINATES)], [(1, CONTINUES)]])
    recorder.check(buffer.sample(5))
    for _ in range(130):
        recorder.add([TERMINATES, TRUNCATES])
    samples = buffer.sample(64)
    assert samples.mask.shape == (1, 64)
    recorder.check(samples)


def test_final_observations_are_forgotten_with_their_steps() -> None:
    buffer = make_buffer(40, 2, sequence_length=4)
    record(buffer, [[(2, TERMINATES)] * 200, [(3, TERMINATES)] * 200])
    assert len(buffer.rings[0].final_observations) <= 2 * 20


def test_time_limits_can_count_as_terminal() -> None:
    buffer = make_buffer(40, sequence_length=4, handle_timeout_termination=False)
    recorder = Recorder(buffer)
    recorder.add([TRUNCATES])
    assert buffer.sample(1).terminated.item() == 1


def test_round_trip_changes_nothing() -> None:
    """T11"""
    buffer = make_buffer(60, 2, sequence_length=4, burn_in=2)
    recorder = record(buffer, [[(7, TERMINATES)] * 20, [(9, TRUNCATES)] * 20])
    copy = pickle.loads(pickle.dumps(buffer))
    batches = []
    for each in (buffer, copy):
        each.seed(3)
        batches.append(each.sample(16))
        recorder.check(batches[-1])
    for a, b in zip(*batches, strict=True):
        flat_a, flat_b = (th.utils._pytree.tree_leaves(value) for value in (a, b))
        assert all(np.array_equal(x, y) for x, y in zip(flat_a, flat_b, strict=True))


def test_reset_forgets_everything() -> None:
    buffer = make_buffer(60, sequence_length=4)
    record(buffer, [[(7, TERMINATES)] * 20])
    buffer.reset()
    assert buffer.size() == 0 and not buffer.full
    with pytest.raises(ValueError, match="empty"):
        buffer.sample(1)
    recorder = record(buffer, [[(7, TERMINATES)] * 2])
    recorder.check(buffer.sample(8))


def test_size_and_position_count_as_in_sb3() -> None:
    buffer = make_buffer(21, 2, sequence_length=4)
    assert (buffer.buffer_size, buffer.size(), buffer.pos, buffer.full) == (10, 0, 0, False)
    recorder = record(buffer, [[(4, TERMINATES)], [(4, CONTINUES)]])
    assert (buffer.size(), buffer.pos, buffer.full) == (4, 4, False)
    for _ in range(9):
        recorder.add([CONTINUES, CONTINUES])
    assert (buffer.size(), buffer.pos, buffer.full) == (10, 3, True)


def test_observations_are_stored_once() -> None:
    """Close to 4d + actions + reward + flags per transition, plus the stored memory states."""
    d, steps, state_size = 50, 10_000, 6
    space = spaces.Box(-1, 1, (d,), np.float32)
    buffer = RecurrentSequenceReplayBuffer(steps, space, ACTION_SPACE, device="cpu", sequence_length=32)
    estimate = buffer.estimate_nbytes(state_size)
    fields = steps * (4 * d + 3 * 4 + 4 + 1 + 4)
    assert fields <= estimate <= 1.02 * (fields + steps * state_size * 4 / buffer.stride)
    states = RNNStates((th.zeros(1, 1, 2),), (th.zeros(2, 1, 2),))
    observation = np.zeros((1, d))
    buffer.add(observation, observation, np.zeros((1, 3)), np.zeros(1), np.zeros(1), [{}], np.ones(1), states)
    arrays = [value for value in vars(buffer.rings[0]).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) == estimate + buffer.rings[0].next_episode_steps.nbytes + 4 * d * 2


def test_nothing_is_allocated_before_the_first_step() -> None:
    buffer = RecurrentSequenceReplayBuffer(10**9, spaces.Box(0, 255, (3, 640, 480), np.uint8), ACTION_SPACE, device="cpu")
    assert not any(isinstance(value, np.ndarray) for value in vars(buffer.rings[0]).values())
    assert buffer.estimate_nbytes() > 10**9 * 640 * 480 * 3


def test_warning_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    with pytest.warns(UserWarning, match=r"lower buffer_size=500.*raise stride=8"):
        Recorder(make_buffer(500)).add([CONTINUES])


SPACES: dict[str, spaces.Space] = {
    "box": spaces.Box(-1, 1, (2, 3), np.float32),
    "float64": spaces.Box(-1, 1, (3,), np.float64),
    "image": spaces.Box(0, 255, (3, 36, 36), np.uint8),
    "discrete": spaces.Discrete(5),
    "multi_discrete": spaces.MultiDiscrete([3, 4]),
    "multi_binary": spaces.MultiBinary(4),
    "dict": spaces.Dict({"vector": spaces.Box(-1, 1, (3,), np.float32), "level": spaces.Discrete(4)}),
}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(
    "action_space", [ACTION_SPACE, spaces.Discrete(4), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)]
)
def test_every_space(name: str, action_space: spaces.Space) -> None:
    space, n_envs = SPACES[name], 2
    space.seed(0)
    buffer = RecurrentSequenceReplayBuffer(60, space, action_space, device="cpu", n_envs=n_envs, sequence_length=5, stride=5)
    states = RNNStates((th.zeros(1, n_envs, 2),), ())

    def draw() -> Any:
        values = [space.sample() for _ in range(n_envs)]
        return {k: np.stack([v[k] for v in values]) for k in values[0]} if isinstance(space, spaces.Dict) else np.stack(values)

    observations, actions = [draw()], []
    for t in range(20):
        observations.append(draw())
        actions.append(np.stack([action_space.sample() for _ in range(n_envs)]))
        done = np.full(n_envs, t == 19)
        buffer.add(
            observations[t], observations[t + 1], actions[t], np.zeros(n_envs), done, [{}] * 2, np.array([t == 0] * 2), states
        )
    samples: Any = buffer.sample(7)
    for row in range(samples.mask.shape[1]):
        first, env = divmod(int(samples.indices[row]), n_envs)
        for t in range(int(samples.mask[:, row].sum()) + 1):
            for key in space.spaces if isinstance(space, spaces.Dict) else [None]:
                stored = samples.observations if key is None else samples.observations[key]
                given = observations[first + t] if key is None else observations[first + t][key]
                np.testing.assert_array_equal(stored[t, row].flatten(), given[env].flatten())
            if t > 0:
                expected = spaces.flatten(action_space, actions[first + t - 1][env])
                np.testing.assert_array_equal(samples.previous_actions[t, row], expected)
    if name == "image":
        assert buffer.rings[0].observations.dtype == np.uint8 and samples.observations.dtype == th.uint8


def test_normalised_when_sampled_raw_when_stored() -> None:
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(OBSERVATION_SPACE, ACTION_SPACE)]))
    statistics: Any = env.obs_rms
    statistics.mean[:], statistics.var[:], env.ret_rms.var = 3.0, 4.0, np.array(25.0)
    buffer = make_buffer(50, sequence_length=4, burn_in=4)
    record(buffer, [[(40, TERMINATES)]])
    buffer.seed(0)
    raw = buffer.sample(16)
    buffer.seed(0)
    normal = buffer.sample(16, env=env)
    assert raw.burn_in is not None and normal.burn_in is not None
    for observations, normalised in [
        (raw.observations, normal.observations),
        (raw.burn_in.observations, normal.burn_in.observations),
    ]:
        th.testing.assert_close(normalised, th.as_tensor(env.normalize_obs(np.asarray(observations))))
    th.testing.assert_close(normal.rewards, raw.rewards / 5, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(sequence_length=0), r"sequence_length=0 must be at least 1"),
        (dict(burn_in=-1), r"burn_in=-1 must be at least 0"),
        (dict(sequence_length=4.0), r"sequence_length=4.0 must be an integer"),
        (dict(burn_in=2.5), r"burn_in=2.5 must be an integer"),
        (dict(buffer_size=0), r"buffer_size=0 must be at least 1"),
        (dict(sequence_length=8, burn_in=9), r"burn_in=9 must not exceed sequence_length=8.*raise sequence_length"),
        (dict(sequence_length=None, burn_in=1), r"burn_in=1 .*whole episodes"),
        (dict(sequence_length=8, stride=3), r"stride=3 must be a divisor of sequence_length=8"),
        (dict(stride=0), r"stride=0"),
        (dict(state_init="learned"), r"state_init='learned' must be 'stored' or 'zero'"),
    ],
)
def test_impossible_settings(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_buffer(**dict(buffer_size=100) | kwargs)


@pytest.mark.parametrize(("length", "stride"), [(1, 1), (6, 1), (13, 1), (16, 4), (21, 3), (25, 5), (32, 8), (50, 10)])
def test_the_default_stride_is_about_a_quarter(length: int, stride: int) -> None:
    assert make_buffer(400, sequence_length=length).stride == stride


def test_buffer_smaller_than_a_sequence() -> None:
    with pytest.raises(ValueError, match=r"buffer_size=40 keeps 20 steps .* raise buffer_size to 50"):
        make_buffer(40, 2, sequence_length=16, burn_in=8)
    only_predicts = make_buffer(1)
    with pytest.raises(ValueError, match="buffer_size=1 is for a model that only predicts"):
        Recorder(only_predicts).add([CONTINUES])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rewards_that_are_no_numbers_store_nothing(bad: float) -> None:
    buffer = make_buffer(40, 2, sequence_length=4)
    recorder = record(buffer, [[(3, CONTINUES)]] * 2)
    states = recorder.as_states(np.zeros((2, 3)))
    zeros = np.zeros((2, 2))
    with pytest.raises(ValueError, match=r"environment\(s\) \[1\] is not finite"):
        buffer.add(zeros, zeros, np.zeros((2, 3)), np.array([0.0, bad]), np.zeros(2), [{}, {}], np.zeros(2), states)
    assert buffer.size() == 3
    recorder.check(buffer.sample(8))


def test_huge_rewards_are_finite_even_where_their_sum_is_not() -> None:
    buffer = make_buffer(40, 2, sequence_length=4)
    recorder = record(buffer, [[(1, CONTINUES)]] * 2)
    zeros, rewards = np.zeros((2, 2)), np.full(2, 3e38, dtype=np.float32)
    states = recorder.as_states(np.zeros((2, 3)))
    buffer.add(zeros, zeros, np.zeros((2, 3)), rewards, np.zeros(2), [{}, {}], np.zeros(2), states)
    np.testing.assert_array_equal(buffer.rings[0].rewards[1], rewards)


def test_states_of_another_policy() -> None:
    buffer = make_buffer(40, 2, sequence_length=4)
    record(buffer, [[(3, CONTINUES)]] * 2)
    zeros = np.zeros((2, 2))
    states = RNNStates((th.zeros(1, 2, 8),), (th.zeros(1, 2, 8),))
    with pytest.raises(ValueError, match="another memory"):
        buffer.add(zeros, zeros, np.zeros((2, 3)), np.zeros(2), np.zeros(2), [{}, {}], np.zeros(2), states)
    assert buffer.size() == 3
