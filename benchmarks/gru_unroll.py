"""
Would a GRU of our own be worth it on a CPU, where torch fuses the LSTM only? Forward as a loop into preallocated arrays,
backward by hand, with all that does not depend on the recurrence computed at once; against ``nn.GRU`` and ``nn.LSTM``.

    python -m benchmarks.gru_unroll        # prints a table, writes benchmarks/results/gru_unroll.md
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch as th
from torch import nn
from torch.autograd.function import once_differentiable

from benchmarks.timing import heading, machine, row, side_by_side, summary, table

RESULTS = Path(__file__).parent / "results"
LENGTH, BATCH, INPUTS, HIDDEN = 65, 32, 8, 128


class Unroll(th.autograd.Function):
    """From the input parts of the gates r, z, n (T, B, 3 H) and h_0 (B, H) to h_1 .. h_T (T, B, H)."""

    @staticmethod
    def forward(ctx: Any, inputs: th.Tensor, h0: th.Tensor, weight: th.Tensor, bias: th.Tensor) -> th.Tensor:
        length, batch, hidden = len(inputs), *h0.shape
        states = inputs.new_empty(length + 1, batch, hidden)
        states[0] = h0
        recurrent, gates = th.empty_like(inputs), th.empty_like(inputs)
        transposed = weight.t().contiguous()
        for t in range(length):
            th.addmm(bias, states[t], transposed, out=recurrent[t])
            resets_updates, new = gates[t, :, : 2 * hidden], gates[t, :, 2 * hidden :]
            th.add(inputs[t, :, : 2 * hidden], recurrent[t, :, : 2 * hidden], out=resets_updates).sigmoid_()
            resets, updates = resets_updates.chunk(2, dim=-1)
            th.addcmul(inputs[t, :, 2 * hidden :], resets, recurrent[t, :, 2 * hidden :], out=new).tanh_()
            th.lerp(new, states[t], updates, out=states[t + 1])
        ctx.save_for_backward(states, gates, recurrent[..., 2 * hidden :], weight)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: th.Tensor) -> tuple[th.Tensor, ...]:
        states, gates, recurrent_new, weight = ctx.saved_tensors
        length, batch, hidden = gradient.shape
        resets, updates, new = gates.chunk(3, dim=-1)
        # What turns the gradient of h_t into those of the three gates before their activations
        to_new = (1 - updates) * (1 - new * new)
        to_update = (states[:-1] - new) * updates * (1 - updates)
        factors = th.stack([to_new * recurrent_new * resets * (1 - resets), to_update, to_new * resets], dim=2)
        of_states, of_gates = gradient.clone(), th.empty_like(factors)
        carried = th.zeros(batch, hidden)
        for t in reversed(range(length)):
            of_states[t] += carried
            th.mul(factors[t], of_states[t].unsqueeze(1), out=of_gates[t])
            carried = th.addmm(of_states[t] * updates[t], of_gates[t].flatten(start_dim=1), weight)
        flat = of_gates.view(length * batch, -1)
        of_weight, of_bias = flat.t() @ states[:-1].flatten(end_dim=1), flat.sum(dim=0)
        # Towards the inputs, n is not multiplied by r
        th.mul(to_new, of_states, out=of_gates[:, :, 2])
        return of_gates.flatten(start_dim=2), carried, of_weight, of_bias


def main() -> None:
    gru, lstm = nn.GRU(INPUTS, HIDDEN), nn.LSTM(INPUTS, HIDDEN)
    inputs, gradient = th.randn(LENGTH, BATCH, INPUTS), th.randn(LENGTH, BATCH, HIDDEN)
    input_weight, weight, input_bias, bias = gru.parameters()

    def ours() -> th.Tensor:
        gates = nn.functional.linear(inputs, input_weight, input_bias)
        return Unroll.apply(gates, th.zeros(BATCH, HIDDEN), weight, bias)

    unrolls: dict[str, Callable[[], th.Tensor]] = {
        "GRU by hand": ours,
        "nn.GRU": lambda: gru(inputs)[0],
        "nn.LSTM": lambda: lstm(inputs)[0],
    }
    expected = th.autograd.grad(gru(inputs)[0], list(gru.parameters()), gradient)
    for found, right in zip(th.autograd.grad(ours(), list(gru.parameters()), gradient), expected, strict=True):
        th.testing.assert_close(found, right, rtol=1e-4, atol=1e-3)

    def forward(unroll: Callable[[], th.Tensor]) -> None:
        with th.no_grad():
            unroll()

    def backward(unroll: Callable[[], th.Tensor]) -> None:
        gru.zero_grad()
        lstm.zero_grad()
        unroll().backward(gradient)

    rows = []
    for what, run in (("forward (ms)", forward), ("forward and backward (ms)", backward)):
        seconds = side_by_side({name: partial(run, unroll) for name, unroll in unrolls.items()}, 60)
        by_hand, *others = (summary(values, 1e3) for values in seconds.values())
        rows += [
            row(f"GRU by hand, {what}", by_hand, name, other) for name, other in zip(list(unrolls)[1:], others, strict=True)
        ]
    stated = machine("cpu", th.get_num_threads()) | {"setting": f"T {LENGTH}, batch {BATCH}, hidden {HIDDEN}"}
    text = "\n".join([*heading(stated), table(rows), ""])
    (RESULTS / "gru_unroll.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
