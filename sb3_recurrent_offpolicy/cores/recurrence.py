"""An elementwise linear recurrence: the loop that is left of a memory whose gates do not read the memory."""

from typing import Any

import torch as th
from torch.autograd.function import once_differentiable


class _Recurrence(th.autograd.Function):
    """
    One operator per step and direction, into arrays that exist already. Autograd would keep a node and allocate a gradient for
    each step: forward and backward together then take up to 1.5 times as long.
    """

    @staticmethod
    def forward(ctx: Any, keep: th.Tensor, new: th.Tensor, state: th.Tensor) -> th.Tensor:
        states = new.new_empty(len(new) + 1, *state.shape)
        states[0] = state
        rows = states.unbind()
        for keep_t, new_t, before, after in zip(keep.unbind(), new.unbind(), rows, rows[1:], strict=False):
            th.addcmul(new_t, keep_t, before, out=after)
        ctx.save_for_backward(keep, states)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        keep, states = ctx.saved_tensors
        keeps, of_states = keep.conj().resolve_conj().unbind(), gradient.clone()
        rows = of_states.unbind()
        for t in reversed(range(len(rows) - 1)):
            rows[t].addcmul_(keeps[t + 1], rows[t + 1])
        return of_states * states[:-1].conj(), of_states, keeps[0] * rows[0]


def linear_recurrence(keep: th.Tensor, new: th.Tensor, state: th.Tensor) -> th.Tensor:
    """
    h_t = keep_t * h_{t-1} + new_t, elementwise, of real or complex numbers.

    :param keep: (T, B, H)
    :param new: (T, B, H)
    :param state: h_0, (B, H)
    :return: h_1 .. h_T, (T, B, H)
    """
    return _Recurrence.apply(keep, new, state)
