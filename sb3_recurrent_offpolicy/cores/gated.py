"""LSTM and GRU, as torch has them."""

import math
from typing import Any, ClassVar

import torch as th
from torch import nn

from sb3_recurrent_offpolicy.cores.core import RecurrentCore
from sb3_recurrent_offpolicy.type_aliases import CoreState

# The forget gate keeps 0.73 of the memory at each step. At 0 it keeps half, and what lies 30 steps back is not found; at 3 it
# keeps 0.95, and velocities, which change at each step, are learned late (benchmarks/results/cores)
DEFAULT_MEMORY_BIAS = 1.0


class _TorchCore(RecurrentCore):
    """What LSTM and GRU share: one fused call to unroll, bare cells on the same weights to step."""

    rnn_class: ClassVar[type[nn.LSTM] | type[nn.GRU]]
    n_state_arrays: ClassVar[int]
    rnn: nn.LSTM | nn.GRU

    def __init__(self, input_size: int, hidden_size: int, n_layers: int = 1, memory_bias: float | None = None, **kwargs: Any):
        has_biases = kwargs.get("bias", True)
        if memory_bias is None:
            memory_bias = DEFAULT_MEMORY_BIAS if has_biases else 0.0
        if not math.isfinite(memory_bias):
            raise ValueError(f"memory_bias={memory_bias} must be a finite number, e.g. 1.0")
        if memory_bias != 0 and not has_biases:
            raise ValueError(f"memory_bias={memory_bias} needs biases, bias=False leaves them out: remove one of the two")
        for name in ("bidirectional", "batch_first", "proj_size"):
            if kwargs.get(name):
                raise ValueError(
                    f"core_kwargs={{'{name}': {kwargs[name]!r}}} is not supported: a policy sees no future, data is "
                    f"time-major and the state has hidden_size units. Remove '{name}' from core_kwargs."
                )
        super().__init__(input_size, hidden_size, ((n_layers, hidden_size),) * self.n_state_arrays)
        self.rnn = self.rnn_class(input_size, hidden_size, n_layers, **kwargs)
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
            else:
                for gate in parameter.chunk(parameter.shape[0] // hidden_size):
                    nn.init.orthogonal_(gate)
            if name.startswith("bias_ih"):
                # Torch's order: gates i, f, g, o of an LSTM, r, z, n of a GRU
                nn.init.constant_(parameter[hidden_size : 2 * hidden_size], memory_bias)

    def _call_arguments(self) -> tuple[Any, ...]:
        """What the module passes to torch's fused call, behind inputs and state; its own checks cost as much as a layer."""
        rnn = self.rnn
        return rnn._flat_weights, rnn.bias, rnn.num_layers, rnn.dropout, self.training, False, False

    def _cell(self, inputs: th.Tensor, state: CoreState, weights: list[th.Tensor]) -> CoreState:
        """One layer, one step: inputs (B, D) and state arrays (B, H) to the new state, its first array being the output."""
        raise NotImplementedError

    def step(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        # Flat as torch keeps them: ``all_weights`` looks each up by name, which costs a tenth of the step
        weights: Any = self.rnn._flat_weights
        if self.rnn.num_layers == 1:
            new_state = self._cell(inputs, tuple(array[0] for array in state), weights)
            return new_state[0], tuple(array[None] for array in new_state)
        layers = []
        per_layer = len(weights) // self.rnn.num_layers
        for layer, layer_state in enumerate(zip(*(array.unbind() for array in state), strict=True)):
            layers.append(self._cell(inputs, layer_state, weights[layer * per_layer : (layer + 1) * per_layer]))
            inputs = layers[-1][0]
        return inputs, tuple(th.stack(arrays) for arrays in zip(*layers, strict=True))


class LSTMCore(_TorchCore):
    """
    Long short-term memory (Hochreiter & Schmidhuber 1997); state (h, c).

    Weights start orthogonal, gate by gate, and other biases at zero (Ni et al. 2022, "Recurrent model-free RL can be a strong
    baseline for many POMDPs").

    :param input_size: number of inputs per step
    :param hidden_size: number of hidden units per layer
    :param n_layers: number of layers
    :param memory_bias: initial bias of the forget gate, whose sigmoid is the part of the memory that a step keeps: 0.5 at 0,
        0.73 at 1, the default, 0.95 at 3. A memory of n steps wants it near log(n); high values delay velocities
    :param kwargs: further arguments of ``torch.nn.LSTM``, e.g. ``bias`` or ``dropout`` (between layers, while learning)
    :raises ValueError: for ``bidirectional``, ``batch_first`` and ``proj_size``, which change what a state means, and for
        ``memory_bias`` if it is infinite or comes with ``bias=False``
    """

    rnn_class = nn.LSTM
    n_state_arrays = 2

    def unroll(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        outputs, hidden, cell = th.lstm(inputs, state, *self._call_arguments())
        return outputs, (hidden, cell)

    def _cell(self, inputs: th.Tensor, state: CoreState, weights: list[th.Tensor]) -> CoreState:
        return th.lstm_cell(inputs, state, *weights)


class GRUCore(_TorchCore):
    """
    Gated recurrent unit (Cho et al. 2014); state (h,). On a CPU torch does not fuse it: an LSTM is faster there.

    Weights start orthogonal, gate by gate, and other biases at zero (Ni et al. 2022, "Recurrent model-free RL can be a strong
    baseline for many POMDPs").

    :param input_size: number of inputs per step
    :param hidden_size: number of hidden units per layer
    :param n_layers: number of layers
    :param memory_bias: initial bias of the update gate, whose sigmoid is the part of the memory that a step keeps: 0.5 at 0,
        0.73 at 1, the default, 0.95 at 3. A memory of n steps wants it near log(n); high values delay velocities
    :param kwargs: further arguments of ``torch.nn.GRU``, e.g. ``bias`` or ``dropout`` (between layers, while learning)
    :raises ValueError: for ``bidirectional``, ``batch_first`` and ``proj_size``, which change what a state means, and for
        ``memory_bias`` if it is infinite or comes with ``bias=False``
    """

    rnn_class = nn.GRU
    n_state_arrays = 1

    def unroll(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        outputs, hidden = th.gru(inputs, state[0], *self._call_arguments())
        return outputs, (hidden,)

    def _cell(self, inputs: th.Tensor, state: CoreState, weights: list[th.Tensor]) -> CoreState:
        return (th.gru_cell(inputs, state[0], *weights),)
