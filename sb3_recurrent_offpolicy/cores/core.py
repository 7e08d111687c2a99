"""What carries memory from step to step: the interface."""

from typing import Any

import torch as th
from torch import nn

from sb3_recurrent_offpolicy.type_aliases import CoreState


class RecurrentCore(nn.Module):
    """
    Interface of a memory. Subclasses set ``output_size`` and ``state_shapes`` and implement :meth:`unroll`;
    they override :meth:`step` where one step alone can be computed faster.

    A policy constructs it as ``core(input_size, hidden_size, n_layers, **core_kwargs)``.

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
