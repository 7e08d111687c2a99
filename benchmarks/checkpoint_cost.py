"""
What a complete checkpoint costs, after replay buffers of 10,000 to 1,000,000 steps, each followed by 10,000 new ones.

    python -m benchmarks.checkpoint_cost        # writes benchmarks/results/checkpoint_cost.md

Beside it the replay buffer as a pickle, written whole each time, without environments and random streams, as SB3 has it.
RecurrentTD3 on Pendulum-v1, uniform and prioritised replay, episodes of 200 steps. Files are flushed to the disk.
"""

import argparse
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from benchmarks.learning import RESULTS
from benchmarks.report import markdown
from benchmarks.timing import processor
from sb3_recurrent_offpolicy import RecurrentTD3
from sb3_recurrent_offpolicy.training_state import write_checkpoint
from sb3_recurrent_offpolicy.type_aliases import RNNStates, Stretch

SIZES = (10_000, 100_000, 1_000_000)
NEW_STEPS, EPISODE, ROUNDS = 10_000, 200, 5


def add_steps(model: Any, n_steps: int) -> None:
    """Random steps of the one environment, and errors of them all where replay is prioritised."""
    generator = np.random.default_rng(0)
    ring = model.replay_buffer.rings[0]
    for _ in range(0, n_steps, NEW_STEPS):
        n_states = len(ring.state_offsets(NEW_STEPS))
        pi, vf = (tuple(th.rand(n_states, *array.shape) for array in part) for part in model.policy.initial_states(1))
        starts = (np.arange(NEW_STEPS) % EPISODE == 0)[:, None]
        observations = generator.normal(size=(NEW_STEPS + 1, 1, 3)).astype(np.float32)
        model.add_steps(
            Stretch(
                observations=observations[:-1],
                next_observations=observations[-1],
                final_observations={(t - 1, 0): observations[t, 0] for t in range(EPISODE, NEW_STEPS, EPISODE)},
                actions=generator.uniform(-1, 1, (NEW_STEPS, 1, 1)).astype(np.float32),
                rewards=generator.normal(size=(NEW_STEPS, 1)).astype(np.float32),
                terminated=np.zeros((NEW_STEPS, 1), dtype=bool),
                episode_starts=starts,
                lstm_states=RNNStates(pi, vf),
            )
        )
        model.num_timesteps += NEW_STEPS
        # What an update leaves behind
        samples = model.replay_buffer.sample(32)
        model.replay_buffer.update_priorities(samples, th.rand(samples.mask.shape))


def size_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def timed(action: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def pickled(model: Any, path: Path) -> None:
    with path.open("wb") as file:
        pickle.dump(model.replay_buffer, file, protocol=pickle.HIGHEST_PROTOCOL)
        file.flush()
        os.fsync(file.fileno())


def row(n_steps: int, priority_alpha: float, folder: Path) -> list[str]:
    """
    :param n_steps: in the buffer, which is full then
    :param priority_alpha: of the replay buffer
    :param folder: for the files
    :return: of the table
    """
    model: Any = RecurrentTD3(
        "MlpLstmPolicy",
        "Pendulum-v1",
        buffer_size=n_steps,
        replay_buffer_kwargs=dict(priority_alpha=priority_alpha),
        seed=0,
        device="cpu",
    )
    # Running episodes are part of a checkpoint
    model.learn(200)
    add_steps(model, n_steps)
    first = timed(lambda: write_checkpoint(model, folder / "run", 2, NEW_STEPS))
    seconds: dict[str, list[float]] = {"checkpoint": [], "arrays": [], "pickle": []}
    new_bytes = []
    for _ in range(ROUNDS):
        add_steps(model, NEW_STEPS)
        before = size_of(folder / "run")
        seconds["checkpoint"].append(timed(lambda: write_checkpoint(model, folder / "run", 2, NEW_STEPS)))
        written = [path for path, inode in size_of(folder / "run").items() if before.get(path) != inode]
        new_bytes.append(sum(path.stat().st_size for path in written))
        seconds["arrays"].append(timed(lambda: model.save_replay_buffer(folder / "buffer.npz")))
        seconds["pickle"].append(timed(lambda: pickled(model, folder / "buffer.pickle")))
    medians = {name: np.median(values) for name, values in seconds.items()}
    fastest, slowest = 1000 * min(seconds["checkpoint"]), 1000 * max(seconds["checkpoint"])
    return [
        f"{n_steps:,}",
        "prioritised" if priority_alpha else "uniform",
        f"{1000 * first:.0f}",
        f"{1000 * medians['checkpoint']:.0f} ({fastest:.0f} to {slowest:.0f})",
        f"{np.median(new_bytes) / 2**20:.1f}",
        f"{medians['arrays'] / medians['pickle']:.2f}",
        f"{(folder / 'buffer.npz').stat().st_size / 2**20:.1f}",
        f"{(folder / 'buffer.pickle').stat().st_size / 2**20:.1f}",
    ]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    th.set_num_threads(1)
    rows = []
    for n_steps in SIZES:
        for priority_alpha in (0.0, 0.9):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(row(n_steps, priority_alpha, Path(folder)))
            print(rows[-1], flush=True)
    header = [
        "steps in the buffer",
        "replay",
        "first checkpoint, ms",
        "one after 10,000 new steps, ms (range of 5)",
        "it writes, MiB",
        "`save_replay_buffer` / a pickle, time",
        "its file, MiB",
        "the pickle, MiB",
    ]
    lines = [f"`python -m benchmarks.checkpoint_cost`, {processor()}, one thread.", "", *markdown(header, rows), ""]
    (RESULTS / "checkpoint_cost.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
