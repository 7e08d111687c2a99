"""Machines read off a quantized policy: as it was seen, with as few states as do the same, and learned from what it does."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sb3_recurrent_offpolicy.analysis.machine import START, MooreMachine
from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy, flat
from sb3_recurrent_offpolicy.analysis.playing import EnvLike, PolicyPlayer, envs_of, play
from sb3_recurrent_offpolicy.analysis.quantized import QuantizedPolicy, as_code
from sb3_recurrent_offpolicy.checks import check_installed, check_integers

# Observations and codes of one episode: symbols, and the states that they lead to
Walk = list[tuple[int, int]]


def extract_machine(
    quantized: QuantizedPolicy, env: EnvLike, n_episodes: int = 100, seed: int = 4_000_037
) -> tuple[MooreMachine, list[Walk]]:
    """
    The machine of greedy episodes: a state is what the memory's code was together with the observation's code (actions depend
    on both), a symbol is the observation's code.

    :param quantized: plays
    :param env: id, function or environment; see :func:`~sb3_recurrent_offpolicy.analysis.playing.envs_of`
    :param n_episodes: to be played
    :param seed: of the starts
    :return: the machine as it was seen, not minimised, and the walks through it: (symbol, state) of each step
    """
    check_integers(1, n_episodes=n_episodes)
    states: dict[tuple[bytes, int], int] = {}
    symbols: dict[bytes, int] = {}
    memory_codes = [np.zeros(quantized.memory_code_size, dtype=np.int8)]
    last_symbols, actions = [-1], [np.zeros_like(quantized.action_space.sample())]
    table: dict[tuple[int, int], int] = {}
    walks: list[Walk] = []
    observed: list[list[np.ndarray]] = [[]]
    player = PolicyPlayer(OpenedPolicy(quantized))
    with envs_of(OpenedPolicy(quantized), env, n_episodes, seed) as envs:
        under_way: list[Walk] = [[] for _ in range(envs.num_envs)]
        for step in play(envs, player, n_episodes):
            assert quantized.latest is not None
            codes, observation_codes = as_code(quantized.latest.memory_code), as_code(quantized.latest.observation_code)
            rows = flat(step.observations)
            for i in np.flatnonzero(step.counted):
                symbol = symbols.setdefault(observation_codes[i].tobytes(), len(symbols))
                key = (codes[i].tobytes(), symbol)
                if key not in states:
                    states[key] = len(memory_codes)
                    memory_codes.append(codes[i])
                    last_symbols.append(symbol)
                    actions.append(step.actions[i])
                    observed.append([])
                state = states[key]
                observed[state].append(rows[i])
                before = under_way[i][-1][1] if under_way[i] else START
                table[before, symbol] = state
                under_way[i].append((symbol, state))
                if step.ended[i]:
                    walks.append(under_way[i])
                    under_way[i] = []
    visits = np.array([len(walks), *map(len, observed[1:])])
    width = len(observed[1][0])
    means = np.array([np.mean(each, axis=0) if each else np.zeros(width) for each in observed])
    machine = MooreMachine(
        quantized,
        np.array(memory_codes),
        np.array([np.frombuffer(code, dtype=np.int8) for code in symbols]),
        np.array(last_symbols),
        np.array(actions),
        table,
        visits,
        means,
    )
    return machine, walks


def completed(machine: MooreMachine) -> MooreMachine:
    """
    :param machine: a machine
    :return: the same, each unseen pair of a state and a symbol answered by the quantized policy: by the state that it goes to,
        or, of those that are entered with this symbol, the one with the fewest differing digits
    """
    table = dict(machine.table)
    for symbol in range(machine.n_symbols):
        candidates = np.flatnonzero(machine.last_symbols == symbol)
        missing = np.array([state for state in range(machine.n_states) if (state, symbol) not in table], dtype=np.int64)
        if len(missing) == 0:
            continue
        observation_codes = np.repeat(machine.symbols[symbol][None], len(missing), axis=0)
        answer = machine.quantized.after(observation_codes, machine.memory_codes[missing], missing == START)
        codes = as_code(answer.memory_code)
        distances = (codes[:, None] != machine.memory_codes[candidates]).sum(axis=-1)
        for state, nearest in zip(missing, candidates[distances.argmin(axis=1)], strict=True):
            table[int(state), symbol] = int(nearest)
    return replace(machine, table=table)


def minimized(machine: MooreMachine) -> MooreMachine:
    """
    The smallest machine that does the same on every sequence of symbols: states are told apart by their actions, then by
    the blocks that follow, until nothing changes (Moore 1956). aalpy's ``minimize`` finds the same one state at a time.

    :param machine: with a complete table, from :func:`completed`
    :return: the minimal machine
    :raises ValueError: if the table has gaps: there states that do different things would be merged
    """
    n_entries = machine.n_states * machine.n_symbols
    if len(machine.table) != n_entries:
        raise ValueError(f"the table has {len(machine.table)} of {n_entries} entries: complete it first, with completed()")
    after = np.empty((machine.n_states, machine.n_symbols), dtype=np.int64)
    for (state, symbol), then in machine.table.items():
        after[state, symbol] = then
    actions = machine.actions.reshape(machine.n_states, -1)
    # The beginning has no action, and is like no other state
    is_start = np.arange(machine.n_states) == START
    _, blocks = np.unique(np.column_stack([is_start, actions]), axis=0, return_inverse=True)
    while True:
        _, finer = np.unique(np.column_stack([blocks, blocks[after]]), axis=0, return_inverse=True)
        if finer.max() == blocks.max():
            break
        blocks = finer
    return machine.merged(_in_order(blocks))


def _in_order(blocks: np.ndarray) -> np.ndarray:
    """Numbered as they appear: the beginning stays first."""
    _, first, inverse = np.unique(blocks, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def learned(machine: MooreMachine, walks: Sequence[Walk]) -> MooreMachine:
    """
    A machine learned from what was done, without a look at the memory's codes: RPNI (Oncina & Garcia 1992) by aalpy merges
    states of the tree of all walks as long as no action contradicts. What was never seen is free to be merged, so that few
    states are left; there it may do anything.

    :param machine: from :func:`extract_machine`
    :param walks: through it
    :return: the learned machine; a state stands for the code that led there most often
    """
    check_installed("analysis", "aalpy")
    from aalpy.learning_algs import run_GSM

    names = [tuple(np.atleast_1d(action).tolist()) for action in machine.actions]
    names[START] = ("start",)
    with warnings.catch_warnings():
        # It is not complete, as is said above
        warnings.filterwarnings("ignore", "Automaton is not input-complete")
        found = run_GSM(
            [[names[START], *((symbol, names[state]) for symbol, state in walk)] for walk in walks],
            output_behavior="moore",
            data_format="io_traces",
        )
    numbers = {found.initial_state.state_id: START}
    for state in found.states:
        numbers.setdefault(state.state_id, len(numbers))
    entered = np.zeros((len(numbers), machine.n_states), dtype=np.int64)
    for walk in walks:
        at = found.initial_state
        entered[numbers[at.state_id], START] += 1
        for symbol, state in walk:
            at = at.transitions[symbol]
            entered[numbers[at.state_id], state] += 1
    chosen = entered.argmax(axis=1)
    weights = entered / np.maximum(entered.sum(axis=1, keepdims=True), 1)
    return MooreMachine(
        machine.quantized,
        machine.memory_codes[chosen],
        machine.symbols,
        machine.last_symbols[chosen],
        machine.actions[chosen],
        {
            (numbers[state.state_id], symbol): numbers[then.state_id]
            for state in found.states
            for symbol, then in state.transitions.items()
        },
        entered.sum(axis=1),
        weights @ machine.observations,
    )
