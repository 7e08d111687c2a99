"""Memories whose recurrence is elementwise: all matrices are applied to all steps at once."""

import math
from collections.abc import Callable

import torch as th
from torch import nn

from sb3_recurrent_offpolicy.checks import check_integers
from sb3_recurrent_offpolicy.cores.core import RecurrentCore
from sb3_recurrent_offpolicy.cores.recurrence import linear_recurrence
from sb3_recurrent_offpolicy.type_aliases import CoreState

# Outputs, and the memory after the last of them
Advanced = tuple[th.Tensor, th.Tensor]


def _time_scales(n_units: int, longest: float) -> th.Tensor:
    """Log-uniform, (n_units,): differences of successive steps and memories of many are there from the start."""
    if not 1 < longest < math.inf:
        raise ValueError(f"longest={longest} must be a finite number of steps above 1, e.g. 1000")
    return longest ** th.linspace(0, 1, n_units)


def _tanh(values: th.Tensor) -> th.Tensor:
    # On a CPU torch takes ten times as long for tanh as for the sigmoid: as long as for all the rest of a step
    return 2 * th.sigmoid(2 * values) - 1


class _MinGRULayer(nn.Module):
    def __init__(self, input_size: int, hidden_size: int, longest: float):
        super().__init__()
        self.linear = nn.Linear(input_size, 2 * hidden_size)
        keep = th.exp(-1 / _time_scales(hidden_size, longest))
        with th.no_grad():
            for part in self.linear.weight.chunk(2):
                nn.init.orthogonal_(part)
            self.linear.bias.zero_()
            self.linear.bias[:hidden_size] = th.logit(keep)

    def _gates(self, inputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        keep, candidate = self.linear(inputs).chunk(2, dim=-1)
        keep = keep.sigmoid()
        return keep, th.addcmul(candidate, keep, candidate, value=-1)

    def unroll(self, inputs: th.Tensor, memory: th.Tensor) -> Advanced:
        memories = linear_recurrence(*self._gates(inputs), memory)
        return _tanh(memories), memories[-1]

    def step(self, inputs: th.Tensor, memory: th.Tensor) -> Advanced:
        keep, new = self._gates(inputs)
        memory = th.addcmul(new, keep, memory)
        return _tanh(memory), memory


class _RTULayer(nn.Module):
    def __init__(self, input_size: int, hidden_size: int, longest: float):
        super().__init__()
        if hidden_size % 2 != 0:
            raise ValueError(f"hidden_size={hidden_size} must be even, units turn in pairs: use {hidden_size + 1}")
        self.linear = nn.Linear(input_size, hidden_size, bias=False)
        nn.init.orthogonal_(self.linear.weight)
        # r = exp(-exp(nu)) = exp(-1 / time scale)
        self.nu = nn.Parameter(-_time_scales(hidden_size // 2, longest).log())
        self.theta = nn.Parameter(2 * math.pi * th.rand(hidden_size // 2))

    def _rotation(self) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """r cos(theta) and r sin(theta), and the weights of the inputs times gamma = sqrt(1 - r^2)."""
        rate = self.nu.exp()
        r, gamma = th.exp(-rate), th.sqrt(-th.expm1(-2 * rate))
        return r * self.theta.cos(), r * self.theta.sin(), self.linear.weight * gamma.repeat_interleave(2)[:, None]

    def unroll(self, inputs: th.Tensor, memory: th.Tensor) -> Advanced:
        cosine, sine, weight = self._rotation()
        # To turn a pair is to multiply a complex number: one operator per step in place of four
        new = th.view_as_complex(nn.functional.linear(inputs, weight).unflatten(-1, (-1, 2)))
        turn = th.complex(cosine, sine).expand_as(new)
        memories = linear_recurrence(turn, new, th.complex(*memory.unflatten(-1, (-1, 2)).unbind(dim=-1)))
        outputs = th.view_as_real(memories).flatten(start_dim=-2)
        return outputs, outputs[-1]

    def step(self, inputs: th.Tensor, memory: th.Tensor) -> Advanced:
        cosine, sine, weight = self._rotation()
        # In real numbers: exported graphs know no others
        first, second = memory.unflatten(-1, (-1, 2)).unbind(dim=-1)
        turned = th.stack([cosine * first - sine * second, sine * first + cosine * second], dim=-1)
        memory = nn.functional.linear(inputs, weight) + turned.flatten(start_dim=-2)
        return memory, memory


class _ElementwiseCore(RecurrentCore):
    """Layers on top of each other; between them what both papers put there: normalisation, and a shortcut around each."""

    def __init__(
        self,
        layer_class: type[_MinGRULayer] | type[_RTULayer],
        input_size: int,
        hidden_size: int,
        n_layers: int,
        longest: float,
    ):
        check_integers(1, hidden_size=hidden_size, n_layers=n_layers)
        super().__init__(input_size, hidden_size, ((n_layers, hidden_size),))
        self.layer_class = layer_class
        sizes = [input_size] + [hidden_size] * (n_layers - 1)
        self.layers = nn.ModuleList(layer_class(size, hidden_size, longest) for size in sizes)
        # What comes first has another size, and is for the features extractor or VecNormalize to normalise
        self.norms = nn.ModuleList([nn.Identity(), *(nn.LayerNorm(hidden_size) for _ in sizes[1:])])

    def _run(self, inputs: th.Tensor, state: CoreState, advance: Callable[..., Advanced]) -> Advanced:
        memories = []
        for index, (layer, norm, memory) in enumerate(zip(self.layers, self.norms, state[0].unbind(), strict=True)):
            outputs, memory = advance(layer, norm(inputs), memory)
            memories.append(memory)
            inputs = outputs if index == 0 else inputs + outputs
        return inputs, th.stack(memories)

    def unroll(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        outputs, memories = self._run(inputs, state, self.layer_class.unroll)
        return outputs, (memories,)

    def step(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        output, memories = self._run(inputs, state, self.layer_class.step)
        return output, (memories,)


class MinGRUCore(_ElementwiseCore):
    """
    A GRU whose gates read the inputs only (Feng et al. 2024, "Were RNNs all we needed?", https://arxiv.org/abs/2410.01201,
    section 3.1), with an LSTM's tanh behind it; state (h,).

    h_t = (1 - z_t) h_{t-1} + z_t W x_t with z_t = sigmoid(W_z x_t + b_z), output tanh(h_t)

    Layers after the first read what is normalised and add to it. b_z starts so that the time scales of the units, the steps
    after which 1 / e of an input is left, are log-uniform from 1 step to ``longest``: the "chrono initialisation" of Tallec &
    Ollivier 2018 (https://arxiv.org/abs/1804.11188).

    :param input_size: number of inputs per step
    :param hidden_size: number of units per layer
    :param n_layers: number of layers. Gates of the first see the present input only, those of the next what led to it
    :param longest: initial time scale of the slowest unit, in steps. The slower a unit, the less a single step changes it:
        with 1000, few units are left for what changes fast
    :raises ValueError: if a size is below 1, or ``longest`` not above 1
    """

    def __init__(self, input_size: int, hidden_size: int, n_layers: int = 1, longest: float = 100.0):
        super().__init__(_MinGRULayer, input_size, hidden_size, n_layers, longest)


class RTUCore(_ElementwiseCore):
    """
    Linear recurrent trace units (Elelimy et al. 2024, https://arxiv.org/abs/2409.01449): pairs of units that turn and shrink.
    They are the real form of a linear recurrent unit (Orvieto et al. 2023, https://arxiv.org/abs/2303.06349); state (h,).

    (h1, h2)_t = r R(theta) (h1, h2)_{t-1} + gamma W x_t with r = exp(-exp(nu)), gamma = sqrt(1 - r^2), R a rotation by theta

    Layers after the first read what is normalised and add to it. The angles start uniform on the circle, so that slow pairs
    too feel what changes fast; nu starts so that the time scales, the steps after which 1 / e of an input is left, are
    log-uniform from 1 step to ``longest``.

    :param input_size: number of inputs per step
    :param hidden_size: number of units per layer, even
    :param n_layers: number of layers
    :param longest: initial time scale of the slowest pair, in steps. The default exceeds most sequences that are replayed
    :raises ValueError: if a size is below 1, ``hidden_size`` is odd, or ``longest`` not above 1
    """

    def __init__(self, input_size: int, hidden_size: int, n_layers: int = 1, longest: float = 1000.0):
        super().__init__(_RTULayer, input_size, hidden_size, n_layers, longest)
