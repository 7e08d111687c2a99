"""
What ``torch.compile`` does for an update: the heads compiled against the heads as they are, in alternating runs.

    python -m benchmarks.compiled      # table: benchmarks/results/compiled.md

Memories are left alone: Dynamo does not go into ``nn.LSTM``. Batches differ in length, so shapes are dynamic.
"""

import time
from functools import partial
from pathlib import Path

import torch as th

from benchmarks.growth import BASE, model_to_update
from benchmarks.speed import BATCH, SIZES
from benchmarks.timing import heading, machine, row, side_by_side, summary, table
from sb3_recurrent_offpolicy import R2D2, RecurrentSAC
from sb3_recurrent_offpolicy.networks.encoder import Head

ROUNDS = 30


def main() -> None:
    th.set_num_threads(1)
    rows, lines = [], []
    for length, hidden, heads in SIZES:
        for algorithm in (RecurrentSAC, R2D2):
            setting = BASE | dict(length=length, hidden=hidden)
            plain, compiled = (model_to_update(setting, "cpu", algorithm, heads=heads) for _ in range(2))
            for module in compiled.policy.modules():
                if isinstance(module, Head):
                    module.compile(dynamic=True)
            what = f"{algorithm.__name__} update, T {length}, hidden {hidden}"
            start = time.perf_counter()
            compiled.train(5, BATCH)
            lines.append(f"{what}: the first five took {time.perf_counter() - start:.0f} s")
            updates = {"compiled": partial(compiled.train, 5, BATCH), "as they are": partial(plain.train, 5, BATCH)}
            ours, theirs = (summary(seconds, 1e3 / 5) for seconds in side_by_side(updates, ROUNDS).values())
            rows.append(row(f"{what}, heads compiled (ms)", ours, "as they are", theirs))
    text = "\n".join([*heading(machine("cpu", 1)), *(f"{line}  " for line in lines), "", table(rows)]) + "\n"
    (Path(__file__).parent / "results" / "compiled.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
