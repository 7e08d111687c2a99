"""A finite-state machine that acts."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_recurrent_offpolicy.analysis.opened import State, n_of
from sb3_recurrent_offpolicy.analysis.quantized import QuantizedPolicy, as_code
from sb3_recurrent_offpolicy.files import reading, with_suffix, written_aside

# Before the first observation
START = 0
_OFF_THE_MAP = -1
_FORMAT = "sb3_recurrent_offpolicy Moore machine 1"


@dataclass
class MooreMachine:
    """
    States, an action for each, and a table (state, symbol) -> state: a symbol is the code of an observation (and of the
    previous action, where the memory sees it). State 0 is the beginning, before any observation; it has no action.

    It acts through :meth:`predict` with the signature of a model, so that ``evaluate_policy`` scores it. Where the table has
    no entry, the quantized policy is asked, from the code that the state stands for; how often is counted.

    :param quantized: encodes observations, and is asked
    :param memory_codes: that each state stands for, (Q, code)
    :param symbols: the code of each, (S, code)
    :param last_symbols: with which each state is entered most often, (Q,); -1 for the beginning
    :param actions: of each state, as an environment takes them: (Q, *action)
    :param table: (state, symbol) -> state
    :param visits: how often each state was entered, (Q,)
    :param observations: mean of those with which each state was entered, (Q, D)
    """

    quantized: QuantizedPolicy
    memory_codes: np.ndarray
    symbols: np.ndarray
    last_symbols: np.ndarray
    actions: np.ndarray
    table: dict[tuple[int, int], int]
    visits: np.ndarray
    observations: np.ndarray
    n_steps: int = field(default=0, init=False)
    """Steps that it has acted"""
    n_asked: int = field(default=0, init=False)
    """Steps at which the quantized policy was asked"""

    def __post_init__(self) -> None:
        self.observation_space, self.action_space = self.quantized.observation_space, self.quantized.action_space
        self._symbols = {code.tobytes(): index for index, code in enumerate(self.symbols)}
        self._states = {
            (self.memory_codes[state].tobytes(), int(self.last_symbols[state])): state for state in range(1, self.n_states)
        }

    @property
    def n_states(self) -> int:
        """With the beginning."""
        return len(self.memory_codes)

    @property
    def n_symbols(self) -> int:
        return len(self.symbols)

    @property
    def asked(self) -> float:
        """Part of the steps at which the quantized policy was asked, since :meth:`reset_counts`."""
        return self.n_asked / self.n_steps if self.n_steps else 0.0

    def reset_counts(self) -> None:
        """Count from zero."""
        self.n_steps = self.n_asked = 0

    def get_vec_normalize_env(self) -> Any:
        """
        :return: that of the model
        """
        return self.quantized.get_vec_normalize_env()

    @th.no_grad()
    def predict(
        self,
        observation: Any,
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, State]:
        """
        :param observation: of one environment or of several
        :param state: what the call before returned, None at first: states of the machine (1, n, 1), codes (1, n, code), and
            the previous action (1, n, A)
        :param episode_start: (n,)
        :param deterministic: without effect
        :return: the action and the state
        :raises ValueError: if ``state`` or ``episode_start`` do not fit the machine and the observation
        """
        opened, network = self.quantized.opened, self.quantized.network
        observations, is_vectorized = opened.policy.obs_to_tensor(observation)
        sizes = [(1, 1), (1, self.memory_codes.shape[1])]
        nodes, codes, previous = (each[0] for each in self.quantized.begun(state, episode_start, n_of(observations), sizes))
        before = nodes[:, 0].astype(np.int64)
        device = opened.policy.device
        inputs = network.inputs(observations, th.as_tensor(previous, dtype=th.float32, device=device))
        encoded = self.quantized.code_of(inputs)
        symbols = [self._symbols.get(code.tobytes(), -1) for code in encoded]
        found = [self.table.get((int(node), symbol)) for node, symbol in zip(before, symbols, strict=True)]
        unseen = np.array([node is None for node in found])
        self.n_steps += len(found)
        self.n_asked += int(unseen.sum())
        after = np.array([_OFF_THE_MAP if node is None else node for node in found])
        actions, next_codes = self.actions[np.maximum(after, 0)], self.memory_codes[np.maximum(after, 0)]
        if unseen.any():
            # Nothing is remembered at the beginning, for which no code stands
            answer = self.quantized.after(encoded[unseen], codes[unseen], before[unseen] == START)
            actions[unseen] = opened.unscaled(answer.outputs)
            next_codes[unseen] = as_code(answer.memory_code)
            for i in np.flatnonzero(unseen):
                # Back on the map where this state is known
                after[i] = self._states.get((next_codes[i].tobytes(), symbols[i]), _OFF_THE_MAP)
        new_state = (after[None, :, None], next_codes[None], opened.encoded(actions)[None])
        return actions if is_vectorized else actions[0], new_state

    def successors(self) -> dict[int, dict[int, list[int]]]:
        """
        :return: of each state, the states that follow, and the symbols that lead there
        """
        following: dict[int, dict[int, list[int]]] = {state: {} for state in range(self.n_states)}
        for (state, symbol), then in self.table.items():
            following[state].setdefault(then, []).append(symbol)
        return following

    def save(self, path: str | Path) -> None:
        """
        :param path: of the file, JSON; ".json" is added where there is no suffix. The quantized policy is saved by itself
        """
        data = {
            "format": _FORMAT,
            "memory_codes": self.memory_codes.tolist(),
            "symbols": self.symbols.tolist(),
            "last_symbols": self.last_symbols.tolist(),
            "actions": self.actions.tolist(),
            "table": [[state, symbol, then] for (state, symbol), then in sorted(self.table.items())],
            "visits": self.visits.tolist(),
            "observations": np.round(self.observations, 6).tolist(),
        }
        with written_aside(with_suffix(path, ".json")) as file:
            file.write(json.dumps(data).encode())

    @classmethod
    def load(cls, path: str | Path, quantized: QuantizedPolicy) -> "MooreMachine":
        """
        :param path: of the file
        :param quantized: of which it was made
        :return: the machine
        :raises ValueError: if the file is damaged, of another kind or of another policy
        """
        with reading(path, ".json") as file:
            data = json.loads(file.read())
            if not isinstance(data, dict) or data.get("format") != _FORMAT:
                raise ValueError("it is no Moore machine of this version")
            codes = {name: np.array(data[name], dtype=np.int8) for name in ("memory_codes", "symbols")}
            sizes = {name: array.shape[1] for name, array in codes.items()}
            expected = {"memory_codes": quantized.memory_code_size, "symbols": quantized.code_sizes[0]}
            if sizes != expected:
                raise ValueError(f"it was made of another policy: codes have the sizes {sizes}, not {expected}")
            return cls(
                quantized,
                **codes,
                last_symbols=np.array(data["last_symbols"]),
                actions=np.array(data["actions"], dtype=quantized.action_space.dtype),
                table={(state, symbol): then for state, symbol, then in data["table"]},
                visits=np.array(data["visits"]),
                observations=np.array(data["observations"]),
            )

    def merged(self, blocks: np.ndarray) -> "MooreMachine":
        """
        :param blocks: of each state, the number of the one that takes its place, (Q,); that of the beginning is 0, and no
            number is left out
        :return: the machine with one state for each block; entries that disagree are an error
        :raises ValueError: if states of a block act differently, or are followed by states of different blocks
        """
        n_blocks = int(blocks.max()) + 1
        table: dict[tuple[int, int], int] = {}
        for (state, symbol), then in self.table.items():
            entry = (int(blocks[state]), symbol)
            if table.setdefault(entry, int(blocks[then])) != blocks[then]:
                raise ValueError(f"states of block {entry[0]} are followed by states of different blocks")
        # The state of a block that was entered most often stands for it
        order = np.argsort(-self.visits, kind="stable")
        chosen = order[np.unique(blocks[order], return_index=True)[1]]
        for state in range(1, self.n_states):
            if not np.array_equal(self.actions[state], self.actions[chosen[blocks[state]]]):
                raise ValueError(f"states {state} and {chosen[blocks[state]]} act differently, and are in one block")
        visits = np.bincount(blocks, weights=self.visits, minlength=n_blocks).astype(np.int64)
        weights = self.visits / np.maximum(visits[blocks], 1)
        observations = np.zeros((n_blocks, self.observations.shape[1]))
        np.add.at(observations, blocks, weights[:, None] * self.observations)
        return MooreMachine(
            self.quantized,
            self.memory_codes[chosen],
            self.symbols,
            self.last_symbols[chosen],
            self.actions[chosen],
            table,
            visits,
            observations,
        )
