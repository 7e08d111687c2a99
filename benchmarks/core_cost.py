"""
What the cores cost in seconds of the processor: one unroll, with and without gradient, and one step, against ``nn.LSTM``.

    python -m benchmarks.core_cost        # prints a table, writes benchmarks/results/cores/cost.md
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch as th

from benchmarks.cores import FOLDER
from benchmarks.timing import heading, machine, row, side_by_side, summary, table
from sb3_recurrent_offpolicy.cores import CORES, RecurrentCore

SIZES = ((32, 32, 64), (64, 32, 128), (64, 32, 512))
INPUTS = 16
CONTENDERS: dict[str, tuple[str, int]] = {
    "gru": ("gru", 1),
    "mingru": ("mingru", 1),
    "mingru, 2 layers": ("mingru", 2),
    "rtu": ("rtu", 1),
    "rtu, 2 layers": ("rtu", 2),
    "lstm": ("lstm", 1),
}


def runs(core: RecurrentCore, length: int, batch: int) -> dict[str, Callable[[], Any]]:
    """What is timed of a core, by its name."""
    inputs, state = th.randn(length, batch, INPUTS), core.initial_state(batch)
    gradient = th.randn(length, batch, core.output_size)
    one, one_state = th.randn(1, INPUTS), core.initial_state(1)

    def backward() -> None:
        core.zero_grad()
        core.unroll(inputs, state)[0].backward(gradient)

    return {
        "forward": th.no_grad()(partial(core.unroll, inputs, state)),
        "forward and backward": backward,
        "one step of one environment": th.inference_mode()(partial(core.step, one, one_state)),
    }


def main() -> None:
    th.set_num_threads(1)
    lines = heading(machine("cpu", th.get_num_threads()))
    for length, batch, hidden in SIZES:
        timed: dict[str, dict[str, Any]] = {}
        for name, (core, n_layers) in CONTENDERS.items():
            # These cores take a number of layers where the base class has the sizes of a state
            for what, run in runs(CORES[core](INPUTS, hidden, n_layers), length, batch).items():  # type: ignore[arg-type]
                timed.setdefault(what, {})[name] = run
        rows = []
        for what, contenders in timed.items():
            *ours, lstm = (
                (name, summary(values, 1e3)) for name, values in side_by_side(contenders, 40, clock=time.process_time).items()
            )
            rows += [row(f"{name}, {what} (ms)", timings, *lstm) for name, timings in ours]
        lines += [f"T {length}, batch {batch}, hidden {hidden}, {INPUTS} inputs", "", table(rows), ""]
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "cost.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
