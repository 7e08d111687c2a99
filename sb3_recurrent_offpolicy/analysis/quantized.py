"""A policy whose observations and memory pass through ternary codes."""

import copy
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from torch import nn

from sb3_recurrent_offpolicy.analysis.bottlenecks import Bottleneck
from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy, State, n_of
from sb3_recurrent_offpolicy.files import (
    check_seal,
    read_array,
    reading,
    sealed_archive,
    with_suffix,
    write_arrays,
    written_aside,
)
from sb3_recurrent_offpolicy.policies.memories import check_memory
from sb3_recurrent_offpolicy.type_aliases import CoreState

OBSERVATION = "observation"
OUTPUT = "output"
_FORMAT = "sb3_recurrent_offpolicy quantized policy 1"


def as_code(tensor: th.Tensor) -> np.ndarray:
    """
    :param tensor: ternary, (n, code)
    :return: the same as small integers, comparable byte by byte
    """
    return np.ascontiguousarray(tensor.detach().cpu().numpy().round().astype(np.int8))


class Quantized(NamedTuple):
    """One step of B environments."""

    outputs: th.Tensor
    """What actions are chosen by, (B, O)"""
    state: CoreState
    """Memory after the step, as its codes keep it: (n_layers, B, hidden) each"""
    memory_code: th.Tensor
    """(B, code)"""
    observation_code: th.Tensor
    """Of the observation, with the previous action where the memory sees it: (B, code)"""


class QuantizedPolicy:
    """
    A trained policy with a :class:`~sb3_recurrent_offpolicy.analysis.bottlenecks.Bottleneck` on the input of its memory (the
    observation, and the previous action where the memory sees it) and on every array of the memory. It acts with the same
    signature as the policy, so that ``evaluate_policy`` and every tool here work on it; its state ends with the previous
    action.

    :param model: an algorithm of this package, or ``RecurrentPPO``
    :param observation_code: size of the observation's code
    :param memory_code: size of the code of each array of the memory
    :param seed: of the bottlenecks' weights
    :raises ValueError: if the policy is of another family
    """

    def __init__(self, model: Any, observation_code: int = 8, memory_code: int = 16, seed: int = 0):
        trained = OpenedPolicy(model)
        trained.network()
        self.model = model
        # Fine-tuning leaves the model as it is
        self.opened = OpenedPolicy(copy.deepcopy(trained.policy))
        self.observation_space, self.action_space = trained.observation_space, trained.action_space
        self.network = self.opened.network()
        self.code_sizes = (observation_code, memory_code)
        core = self.network.core
        with th.random.fork_rng():
            th.manual_seed(seed)
            bottlenecks = {OBSERVATION: Bottleneck(core.input_size, observation_code)}
            for name, (layers, hidden) in zip(self.memory_names, core.state_shapes, strict=True):
                bottlenecks[name] = Bottleneck(layers * hidden, memory_code)
            self._output_is_state = self._gives_out_its_state()
            if not self._output_is_state:
                bottlenecks[OUTPUT] = Bottleneck(core.output_size, memory_code)
        self.bottlenecks = nn.ModuleDict(bottlenecks).to(self.opened.policy.device)
        # Those that are inserted; the others let everything pass
        self.inserted = set(bottlenecks)
        # Of the latest call of predict
        self.latest: Quantized | None = None

    @property
    def memory_names(self) -> list[str]:
        n_arrays = len(self.network.core.state_shapes)
        return {1: ["hidden"], 2: ["hidden", "cell"]}.get(n_arrays, [f"memory {i}" for i in range(n_arrays)])

    def _gives_out_its_state(self) -> bool:
        """Whether the output is the last layer of the first array, as in LSTM and GRU; else it gets a code of its own."""
        core = self.network.core
        with th.no_grad():
            device = self.opened.policy.device
            outputs, state = core.step(th.randn(3, core.input_size, device=device), core.initial_state(3))
        return outputs.shape == state[0][-1].shape and th.equal(outputs, state[0][-1])

    def get_vec_normalize_env(self) -> Any:
        """
        :return: that of the model
        """
        return self.model.get_vec_normalize_env()

    def _pass(self, name: str, rows: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """The code of a bottleneck, and what it keeps of rows (B, D)."""
        bottleneck = self.bottlenecks[name]
        assert isinstance(bottleneck, Bottleneck)
        code = bottleneck.encode(rows)
        return code, bottleneck.decode(code) if name in self.inserted else rows

    def step(self, inputs: th.Tensor, state: CoreState) -> Quantized:
        """
        :param inputs: of the memory, (B, I)
        :param state: memory before the step, each (n_layers, B, hidden)
        :return: outputs, memory and codes
        """
        return self._advance(*self._pass(OBSERVATION, inputs), state)

    def _advance(self, observation_code: th.Tensor, inputs: th.Tensor, state: CoreState) -> Quantized:
        outputs, state = self.network.core.step(inputs, state)
        codes, arrays = [], []
        for name, array in zip(self.memory_names, state, strict=True):
            layers, n, hidden = array.shape
            code, kept = self._pass(name, array.movedim(1, 0).reshape(n, -1))
            codes.append(code)
            arrays.append(kept.reshape(n, layers, hidden).movedim(0, 1))
        if self._output_is_state:
            outputs = arrays[0][-1]
        else:
            code, outputs = self._pass(OUTPUT, outputs)
            codes.append(code)
        return Quantized(self.network.outputs(outputs, inputs), tuple(arrays), th.cat(codes, dim=-1), observation_code)

    def state_of(self, memory_code: th.Tensor) -> CoreState:
        """
        :param memory_code: (B, code)
        :return: the memory that it stands for, each (n_layers, B, hidden)
        """
        arrays = []
        size = self.code_sizes[1]
        for index, (name, (layers, hidden)) in enumerate(zip(self.memory_names, self.network.core.state_shapes, strict=True)):
            bottleneck = self.bottlenecks[name]
            assert isinstance(bottleneck, Bottleneck)
            rows = bottleneck.decode(memory_code[:, index * size : (index + 1) * size])
            arrays.append(rows.reshape(-1, layers, hidden).movedim(0, 1))
        return tuple(arrays)

    @property
    def memory_code_size(self) -> int:
        """Of all bottlenecks of the memory together."""
        return self.code_sizes[1] * (len(self.bottlenecks) - 1)

    @th.no_grad()
    def code_of(self, inputs: th.Tensor) -> np.ndarray:
        """
        :param inputs: of the memory, (B, I)
        :return: their codes, (B, code)
        """
        return as_code(self._pass(OBSERVATION, inputs)[0])

    @th.no_grad()
    def after(self, observation_codes: np.ndarray, memory_codes: np.ndarray, is_beginning: np.ndarray) -> Quantized:
        """
        :param observation_codes: (B, code)
        :param memory_codes: of the memory before, (B, code)
        :param is_beginning: (B,), where nothing is remembered yet, for which no code stands
        :return: what follows
        """
        device = self.opened.policy.device
        code, remembered = (
            th.as_tensor(codes, dtype=th.float32, device=device) for codes in (observation_codes, memory_codes)
        )
        nothing = th.as_tensor(is_beginning, device=device)[:, None]
        state = tuple(array.masked_fill(nothing, 0.0) for array in self.state_of(remembered))
        bottleneck = self.bottlenecks[OBSERVATION]
        assert isinstance(bottleneck, Bottleneck)
        return self._advance(code, bottleneck.decode(code), state)

    @th.no_grad()
    def predict(
        self,
        observation: Any,
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, State]:
        """
        As the policy's, greedy whatever ``deterministic`` says: machines are made of greedy episodes.

        :param observation: of one environment or of several
        :param state: what the call before returned, None at first
        :param episode_start: (n,)
        :param deterministic: without effect
        :return: the action and the state
        :raises ValueError: if ``state`` or ``episode_start`` do not fit the policy and the observation
        """
        observations, is_vectorized = self.opened.policy.obs_to_tensor(observation)
        arrays = self.begun(state, episode_start, n_of(observations), self.network.core.state_shapes)
        device = self.opened.policy.device
        *core_state, previous = (th.as_tensor(array, dtype=th.float32, device=device) for array in arrays)
        inputs = self.network.inputs(observations, previous[0])
        self.latest = self.step(inputs, tuple(core_state))
        actions = self.opened.unscaled(self.latest.outputs)
        new_state = (*(array.cpu().numpy() for array in self.latest.state), self.opened.encoded(actions)[None])
        return actions if is_vectorized else actions[0], new_state

    def begun(
        self, state: State | None, episode_start: np.ndarray | None, n: int, sizes: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, ...]:
        """
        :param state: what ``predict`` is given
        :param episode_start: what ``predict`` is given
        :param n: number of environments
        :param sizes: n_layers and hidden of each array but the previous action
        :return: the state, zero where an episode starts, the previous action being its last array: (n_layers, n, hidden) each
        :raises ValueError: if they do not fit
        """
        n_actions = self.network.core.input_size - self.network.n_features
        checked, starts = check_memory(state, episode_start, n, [*sizes, (1, n_actions)])
        return tuple(np.where(starts[:, None], 0, array) for array in checked)

    def save(self, path: str | Path) -> None:
        """
        :param path: of the file; ".zip" is added where there is no suffix. It holds bottlenecks and the network that acts, no
            pickle
        """
        settings = {"format": _FORMAT, "code_sizes": list(self.code_sizes), "inserted": sorted(self.inserted)}
        weights = {
            f"{part}/{name}": tensor.cpu().numpy()
            for part, module in (("bottlenecks", self.bottlenecks), ("network", self.network.module))
            for name, tensor in module.state_dict().items()
        }
        with written_aside(with_suffix(path, ".zip")) as file, sealed_archive(file) as archive:
            archive.writestr("settings.json", json.dumps(settings))
            write_arrays(archive, weights)

    @classmethod
    def load(cls, path: str | Path, model: Any) -> "QuantizedPolicy":
        """
        :param path: of the file
        :param model: that was quantized
        :return: the quantized policy
        :raises ValueError: if the file is damaged, of another kind or of another model
        """
        with reading(path, ".zip") as file, zipfile.ZipFile(file) as archive:
            check_seal(file)
            settings = json.loads(archive.read("settings.json"))
            if settings.get("format") != _FORMAT:
                raise ValueError(f"it is no quantized policy of this version ({settings.get('format')})")
            quantized = cls(model, *settings["code_sizes"])
            for part, module in (("bottlenecks", quantized.bottlenecks), ("network", quantized.network.module)):
                known = module.state_dict()
                found = {name: th.as_tensor(read_array(archive, f"{part}/{name}")) for name in known}
                if differing := [name for name in known if known[name].shape != found[name].shape]:
                    raise ValueError(f"it was made of another model: {differing[0]} has other sizes")
                module.load_state_dict(found)
            quantized.inserted = set(settings["inserted"])
        return quantized
