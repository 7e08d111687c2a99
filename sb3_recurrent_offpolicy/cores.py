"""
Recurrent cores: what carries memory from step to step.

A core knows two ways forward that must agree: ``step`` for acting and ``unroll`` for learning. Any subclass of
:class:`RecurrentCore` can be plugged into a policy with ``policy_kwargs=dict(core_class=MyCore)``; run
:func:`check_core` on it first, as you run ``check_env`` on an environment.
"""

from typing import Any, ClassVar

import torch as th
from torch import nn

from sb3_recurrent_offpolicy.type_aliases import CoreState


class RecurrentCore(nn.Module):
    """
    Interface of a memory. Subclasses set ``output_size`` and ``state_shapes`` and implement :meth:`unroll`;
    they override :meth:`step` where a single step can be had cheaper.

    A policy constructs it as ``core_class(input_size, hidden_size, n_layers, **lstm_kwargs)``.

    :param input_size: number of inputs per step
    :param output_size: number of outputs per step
    :param state_shapes: (n_layers, hidden) of each array of the state; the batch axis goes between the two
    """

    def __init__(self, input_size: int, output_size: int, state_shapes: tuple[tuple[int, int], ...]):
        super().__init__()
        self.input_size = input_size
        self.output_size = output_size
        self.state_shapes = state_shapes

    def initial_state(self, batch_size: int) -> CoreState:
        """
        :param batch_size: number of independent memories
        :return: the state at the start of an episode: zeros, each (n_layers, batch_size, hidden)
        """
        device = next((parameter.device for parameter in self.parameters()), None)
        return tuple(th.zeros(layers, batch_size, hidden, device=device) for layers, hidden in self.state_shapes)

    def unroll(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        """
        Run over whole sequences of one episode each.

        :param inputs: (T, B, input_size)
        :param state: memory before the first step, each (n_layers, B, hidden)
        :return: outputs (T, B, output_size) and the memory after the last step
        """
        raise NotImplementedError

    def step(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        """
        Advance by one step.

        :param inputs: (B, input_size)
        :param state: memory before the step, each (n_layers, B, hidden)
        :return: output (B, output_size) and the memory after the step
        """
        outputs, state = self.unroll(inputs.unsqueeze(0), state)
        return outputs.squeeze(0), state


class _TorchCore(RecurrentCore):
    """What LSTM and GRU share: one fused call to unroll, bare cells on the same weights to step."""

    rnn_class: ClassVar[type[nn.LSTM] | type[nn.GRU]]
    n_state_arrays: ClassVar[int]
    rnn: nn.LSTM | nn.GRU

    def __init__(self, input_size: int, hidden_size: int, n_layers: int = 1, **kwargs: Any):
        for name in ("bidirectional", "batch_first", "proj_size"):
            if kwargs.get(name):
                raise ValueError(
                    f"lstm_kwargs={{'{name}': {kwargs[name]!r}}} is not supported: a policy sees no future, data is "
                    f"time-major and the state has hidden_size units. Remove '{name}' from lstm_kwargs."
                )
        super().__init__(input_size, hidden_size, ((n_layers, hidden_size),) * self.n_state_arrays)
        self.rnn = self.rnn_class(input_size, hidden_size, n_layers, **kwargs)
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
            else:
                for gate in parameter.chunk(parameter.shape[0] // hidden_size):
                    nn.init.orthogonal_(gate)

    def _cell(self, inputs: th.Tensor, state: CoreState, weights: list[th.Tensor]) -> CoreState:
        """One layer, one step: inputs (B, D) and state arrays (B, H) to the new state, its first array being the output."""
        raise NotImplementedError

    def step(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        layers = []
        # Flat as torch keeps them: ``all_weights`` looks each up by name, which costs a tenth of the step
        weights: list[Any] = self.rnn._flat_weights
        per_layer = len(weights) // self.rnn.num_layers
        for layer, layer_state in enumerate(zip(*(array.unbind() for array in state), strict=True)):
            layers.append(self._cell(inputs, layer_state, weights[layer * per_layer : (layer + 1) * per_layer]))
            inputs = layers[-1][0]
        if len(layers) == 1:
            return inputs, tuple(array.unsqueeze(0) for array in layers[0])
        return inputs, tuple(th.stack(arrays) for arrays in zip(*layers, strict=True))


class LSTMCore(_TorchCore):
    """
    Long short-term memory (Hochreiter & Schmidhuber 1997); state (h, c).

    Weights start orthogonal, gate by gate, and biases at zero (Ni et al. 2022, "Recurrent model-free RL can be a strong
    baseline for many POMDPs").

    :param input_size: number of inputs per step
    :param hidden_size: number of hidden units per layer
    :param n_layers: number of layers
    :param kwargs: further arguments of ``torch.nn.LSTM``, e.g. ``bias`` or ``dropout`` (between layers, while learning)
    :raises ValueError: for ``bidirectional``, ``batch_first`` and ``proj_size``, which change what a state means
    """

    rnn_class = nn.LSTM
    n_state_arrays = 2

    def unroll(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        return self.rnn(inputs, state)

    def _cell(self, inputs: th.Tensor, state: CoreState, weights: list[th.Tensor]) -> CoreState:
        return th.lstm_cell(inputs, state, *weights)


class GRUCore(_TorchCore):
    """
    Gated recurrent unit (Cho et al. 2014); state (h,). On a CPU torch does not fuse it: an LSTM is faster there.

    Weights start orthogonal, gate by gate, and biases at zero (Ni et al. 2022, "Recurrent model-free RL can be a strong
    baseline for many POMDPs").

    :param input_size: number of inputs per step
    :param hidden_size: number of hidden units per layer
    :param n_layers: number of layers
    :param kwargs: further arguments of ``torch.nn.GRU``, e.g. ``bias`` or ``dropout`` (between layers, while learning)
    :raises ValueError: for ``bidirectional``, ``batch_first`` and ``proj_size``, which change what a state means
    """

    rnn_class = nn.GRU
    n_state_arrays = 1

    def unroll(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        outputs, hidden = self.rnn(inputs, state[0])
        return outputs, (hidden,)

    def _cell(self, inputs: th.Tensor, state: CoreState, weights: list[th.Tensor]) -> CoreState:
        return (th.gru_cell(inputs, state[0], *weights),)


class NoCore(RecurrentCore):
    """
    No memory at all: no output, no state. What reads it sees the current observation only.

    :param input_size: number of inputs per step, ignored
    :param hidden_size: ignored
    :param n_layers: ignored
    :param kwargs: ignored
    """

    def __init__(self, input_size: int, hidden_size: int = 0, n_layers: int = 0, **kwargs: Any):
        super().__init__(input_size, 0, ())

    def unroll(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        return inputs[..., :0], state


def check_core(core: RecurrentCore, n_steps: int = 7, batch_size: int = 3, atol: float = 1e-5) -> None:
    """
    Check that a core keeps what the algorithms rely on; the counterpart of ``check_env`` for memories.

    * shapes: outputs and states are as ``output_size`` and ``state_shapes`` promise
    * ``step`` repeated equals ``unroll``, in outputs and in states
    * a sequence unrolled in two halves equals the sequence unrolled at once: the state carries everything
    * no row of a batch influences another
    * a zero state is a fresh start: what the core saw before leaves no trace in it

    :param core: the core to check; it is put into evaluation mode (no dropout)
    :param n_steps: length T of the test sequences, at least 2
    :param batch_size: number of rows B, at least 2
    :param atol: largest absolute difference that counts as equal; float precision of a T-step unroll
    :raises ValueError: naming the property that does not hold
    """
    core.eval()

    def close(a: tuple[th.Tensor, ...], b: tuple[th.Tensor, ...]) -> bool:
        return all(th.allclose(x, y, atol=atol) for x, y in zip(a, b, strict=True))

    def require(condition: bool, broken: str) -> None:
        if not condition:
            raise ValueError(f"{type(core).__name__}: {broken}")

    with th.no_grad():
        zeros = core.initial_state(batch_size)
        inputs = th.randn(n_steps, batch_size, core.input_size, device=zeros[0].device if zeros else None)
        outputs, state = core.unroll(inputs, zeros)

        expected = [(layers, batch_size, hidden) for layers, hidden in core.state_shapes]
        for name, candidate in (("initial_state", zeros), ("unroll", state), ("step", core.step(inputs[0], zeros)[1])):
            shapes = [tuple(array.shape) for array in candidate]
            require(shapes == expected, f"{name} returns a state of shapes {shapes}, state_shapes promises {expected}")
        expected_shape = (n_steps, batch_size, core.output_size)
        require(
            tuple(outputs.shape) == expected_shape,
            f"unroll returns outputs of shape {tuple(outputs.shape)}, expected (T, B, output_size) = {expected_shape}",
        )
        require(all(not array.any() for array in zeros), "initial_state is not zero")

        stepped, step_state = [], zeros
        for step_inputs in inputs:
            output, step_state = core.step(step_inputs, step_state)
            stepped.append(output)
        require(close((th.stack(stepped), *step_state), (outputs, *state)), "step, repeated, differs from unroll")

        half = n_steps // 2
        first, middle = core.unroll(inputs[:half], zeros)
        second, end = core.unroll(inputs[half:], middle)
        require(
            close((th.cat([first, second]), *end), (outputs, *state)),
            "unrolling in two parts differs from unrolling at once: the state does not carry everything",
        )

        disturbed = inputs.clone()
        disturbed[:, 0] += 1.0
        other_outputs, other_state = core.unroll(disturbed, zeros)
        require(
            close((other_outputs[:, 1:], *(s[:, 1:] for s in other_state)), (outputs[:, 1:], *(s[:, 1:] for s in state))),
            "one row of the batch leaks into another",
        )
        again, again_state = core.unroll(inputs, zeros)
        require(close((again, *again_state), (outputs, *state)), "a zero state is no fresh start: earlier inputs left a trace")
