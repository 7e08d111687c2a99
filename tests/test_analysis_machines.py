"""Machines do what the policies do that they were read off."""

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aalpy.automata import MooreMachine as AalpyMachine
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_recurrent_offpolicy.analysis import (
    MooreMachine,
    QuantizedPolicy,
    completed,
    extract_machine,
    learned,
    minimized,
    quantize,
)
from sb3_recurrent_offpolicy.analysis.machine import START
from tests.memories import Counter, EchoEnv, model_with

N_COUNTS, LENGTH = 4, 12


def make_env() -> EchoEnv:
    return EchoEnv(3, LENGTH)


@pytest.fixture(scope="module")
def counter() -> QuantizedPolicy:
    """A policy that counts to four, and acts by the count and the observation."""
    model = model_with(Counter, N_COUNTS, make_env(), seed=3)
    quantized, report = quantize(model, make_env, observation_code=4, memory_code=4, n_episodes=20, n_rounds=0)
    assert report.agreement == 1.0
    return quantized


@pytest.fixture(scope="module")
def extracted(counter: QuantizedPolicy) -> Any:
    return extract_machine(counter, make_env, n_episodes=60)


def word_actions(machine: MooreMachine, word: list[int]) -> list[Any]:
    """Actions of a machine along a sequence of symbols, until the table has no entry."""
    state, actions = START, []
    for symbol in word:
        if (state, symbol) not in machine.table:
            break
        state = machine.table[state, symbol]
        actions.append(machine.actions[state].tolist())
    return actions


def test_states_of_a_counter_are_its_counts(counter: QuantizedPolicy, extracted: Any) -> None:
    machine, walks = extracted
    counts = {code.tobytes() for code in machine.memory_codes[1:]}
    assert len(counts) == N_COUNTS
    # Codes come round after as many steps
    for walk in walks:
        codes = [machine.memory_codes[state].tobytes() for _, state in walk]
        assert codes[N_COUNTS:] == codes[:-N_COUNTS] and len(walk) == LENGTH
    assert machine.visits[START] == len(walks) and machine.visits[1:].sum() == len(walks) * LENGTH


def test_machine_acts_as_the_quantized_policy(counter: QuantizedPolicy, extracted: Any) -> None:
    machine, _ = extracted
    machine.reset_counts()
    returns = [
        evaluate_policy(each, make_vec_env(make_env, n_envs=5, seed=77), 20, return_episode_rewards=True)[0]
        for each in (counter, machine)
    ]
    assert returns[0] == returns[1]
    assert machine.n_steps == 4 * LENGTH * 5 and machine.asked == 0.0


def test_unseen_pairs_are_answered_by_the_network_and_counted(counter: QuantizedPolicy, extracted: Any) -> None:
    """Without its table the machine is the quantized policy; it is back on the map at each step."""
    whole, _ = extracted
    states = sorted(whole.table)
    gappy = copy.copy(whole)
    gappy.table = {entry: whole.table[entry] for entry in states[::2]}
    gappy.reset_counts()
    env = make_vec_env(make_env, n_envs=3, seed=5)
    observations: Any = env.reset()
    state: Any = None
    of_policy: Any = None
    starts = np.ones(3, dtype=bool)
    for _ in range(3 * LENGTH):
        actions, state = gappy.predict(observations, state, starts)
        wanted, of_policy = counter.predict(observations, of_policy, starts)
        np.testing.assert_array_equal(actions, wanted)
        assert (state[0] >= 0).all()
        observations, _, starts, _ = env.step(actions)
    assert 0.1 < gappy.asked < 0.9


def test_observation_of_an_unknown_symbol(counter: QuantizedPolicy, extracted: Any) -> None:
    """Whatever is observed, the machine acts, and as the quantized policy does."""
    machine, _ = extracted
    machine.reset_counts()
    for value in np.linspace(-1, 1, 41, dtype=np.float32):
        observation = np.array([[value]])
        np.testing.assert_array_equal(machine.predict(observation)[0], counter.predict(observation)[0])
    assert machine.n_steps == 41


def test_one_observation_gives_one_action(counter: QuantizedPolicy, extracted: Any) -> None:
    for each in (counter, extracted[0]):
        action, _ = each.predict(np.ones(1, dtype=np.float32))
        assert np.shape(action) == ()
        with pytest.raises(ValueError, match="state has arrays of shapes"):
            each.predict(np.ones((2, 1), dtype=np.float32), (np.zeros((1, 2, 3)),))


def test_completed_machine_is_never_in_doubt_and_minimal_one_does_the_same(extracted: Any) -> None:
    machine, _ = extracted
    whole = completed(machine)
    assert len(whole.table) == whole.n_states * whole.n_symbols
    assert {entry: whole.table[entry] for entry in machine.table} == machine.table
    smallest = minimized(whole)
    rng = np.random.default_rng(0)
    for _ in range(50):
        word = rng.integers(machine.n_symbols, size=20).tolist()
        assert word_actions(smallest, word) == word_actions(whole, word)
    assert smallest.visits.sum() == machine.visits.sum()
    np.testing.assert_allclose(smallest.visits @ smallest.observations, machine.visits @ machine.observations, atol=1e-6)
    with pytest.raises(ValueError, match="complete it first"):
        minimized(MooreMachine(**vars_of(whole) | dict(table=dict(list(whole.table.items())[:-1]))))


def vars_of(machine: MooreMachine) -> dict[str, Any]:
    return {
        name: getattr(machine, name)
        for name in ("quantized", "memory_codes", "symbols", "last_symbols", "actions", "table", "visits", "observations")
    }


def test_learned_machine_repeats_all_walks(extracted: Any) -> None:
    machine, walks = extracted
    found = learned(machine, walks)
    assert found.n_states <= machine.n_states
    for walk in walks:
        word = [symbol for symbol, _ in walk]
        assert word_actions(found, word) == [machine.actions[state].tolist() for _, state in walk]


def machine_of(after: list[list[int]], actions: list[int], n_symbols: int) -> MooreMachine:
    """With tables that hypothesis has drawn, and nothing behind them."""
    n_states = len(actions)
    return MooreMachine(
        SimpleNamespace(observation_space=None, action_space=spaces.Discrete(3)),  # type: ignore[arg-type]
        np.arange(n_states, dtype=np.int8)[:, None],
        np.arange(n_symbols, dtype=np.int8)[:, None],
        np.zeros(n_states, dtype=np.int64),
        np.array(actions),
        {(state, symbol): after[state][symbol] for state in range(n_states) for symbol in range(n_symbols)},
        np.arange(n_states)[::-1].copy(),
        np.arange(n_states, dtype=float)[:, None],
    )


@st.composite
def tables(draw: Any) -> MooreMachine:
    n_states, n_symbols = draw(st.integers(2, 9)), draw(st.integers(1, 3))
    # Nothing leads back to the beginning
    row = st.lists(st.integers(1, n_states - 1), min_size=n_symbols, max_size=n_symbols)
    after = draw(st.lists(row, min_size=n_states, max_size=n_states))
    actions = draw(st.lists(st.integers(0, 2), min_size=n_states, max_size=n_states))
    return machine_of(after, actions, n_symbols)


@settings(max_examples=200, deadline=None)
@given(machine=tables(), words=st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=10))
def test_minimal_machine_against_aalpy_and_all_words(machine: MooreMachine, words: list[list[int]]) -> None:
    smallest = minimized(machine)
    setup = {
        f"s{state}": (
            "start" if state == START else int(machine.actions[state]),
            {symbol: f"s{machine.table[state, symbol]}" for symbol in range(machine.n_symbols)},
        )
        for state in range(machine.n_states)
    }
    theirs = AalpyMachine.from_state_setup(setup)
    theirs.minimize()
    assert smallest.n_states == theirs.size
    for word in words:
        word = [symbol % machine.n_symbols for symbol in word]
        assert word_actions(smallest, word) == word_actions(machine, word)


def test_states_that_differ_are_not_merged() -> None:
    machine = machine_of([[1], [2], [1]], [0, 1, 2], 1)
    with pytest.raises(ValueError, match="act differently"):
        machine.merged(np.array([0, 1, 1]))
    machine = machine_of([[1], [2], [3], [3]], [0, 1, 1, 2], 1)
    with pytest.raises(ValueError, match="followed by states of different blocks"):
        machine.merged(np.array([0, 1, 1, 2]))


def test_two_machines_share_nothing(extracted: Any, counter: QuantizedPolicy) -> None:
    machine, _ = extracted
    again, _ = extract_machine(counter, make_env, n_episodes=60)
    assert again.table == machine.table and again.table is not machine.table
    again.table.clear()
    assert machine.table


def test_machine_from_a_file(extracted: Any, counter: QuantizedPolicy, tmp_path: Any) -> None:
    machine, _ = extracted
    machine.save(tmp_path / "machine")
    loaded = MooreMachine.load(tmp_path / "machine", counter)
    assert loaded.table == machine.table and loaded.visits.tolist() == machine.visits.tolist()
    env = make_vec_env(make_env, n_envs=3, seed=5)
    assert evaluate_policy(loaded, env, 6)[0] == evaluate_policy(machine, make_vec_env(make_env, n_envs=3, seed=5), 6)[0]
    (tmp_path / "cut.json").write_text((tmp_path / "machine.json").read_text()[:-20])
    with pytest.raises(ValueError, match=r"cut\.json cannot be read"):
        MooreMachine.load(tmp_path / "cut.json", counter)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="no Moore machine"):
        MooreMachine.load(tmp_path / "other.json", counter)
    other = QuantizedPolicy(counter.model, 5, 6)
    with pytest.raises(ValueError, match="made of another policy"):
        MooreMachine.load(tmp_path / "machine", other)


def test_machine_takes_part_in_other_tools(extracted: Any) -> None:
    from sb3_recurrent_offpolicy.analysis import memory_use

    found = memory_use(extracted[0], make_env, n_episodes=6, largest_memory=2)
    assert set(found.returns) >= {"as it is", "zeroed", "exchanged", "imitator without memory"}
