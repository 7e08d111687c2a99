"""
Resident memory of a long run: flat once the replay buffer's ring is full.

    python benchmarks/memory.py            # writes benchmarks/results/memory.json and memory.png

RecurrentSAC, 200,000 steps on Pendulum-v1 with 4 environments and a buffer of 50,000: the ring is overwritten three times.
"""

import argparse
import gc
import json
from pathlib import Path
from typing import Any

import psutil
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_recurrent_offpolicy import RecurrentSAC

RESULTS = Path(__file__).parent / "results"
N_STEPS, BUFFER_SIZE, N_ENVS, EVERY = 200_000, 50_000, 4, 1_000
SETTINGS: dict[str, Any] = dict(buffer_size=BUFFER_SIZE, train_freq=8, learning_starts=1_000, seed=0, device="cpu")


class ResidentMemory(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.process = psutil.Process()
        self.points: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        if self.num_timesteps % EVERY == 0:
            gc.collect()
            self.points.append((self.num_timesteps, self.process.memory_info().rss / 2**20))
        return True


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    th.set_num_threads(1)
    memory = ResidentMemory()
    model = RecurrentSAC("MlpLstmPolicy", make_vec_env("Pendulum-v1", N_ENVS, seed=0), **SETTINGS)
    model.learn(N_STEPS, callback=memory, progress_bar=True)

    full = [megabytes for step, megabytes in memory.points if step >= BUFFER_SIZE]
    result = {
        "command": "python benchmarks/memory.py",
        "setting": {"steps": N_STEPS, "n_envs": N_ENVS, **SETTINGS},
        "updates": model._n_updates,
        "buffer_mib": round(model.replay_buffer.estimate_nbytes(model.policy.state_size) / 2**20, 2),
        "resident_mib_when_full": round(full[0], 1),
        "resident_mib_at_the_end": round(full[-1], 1),
        "growth_mib_after_full": round(full[-1] - full[0], 1),
        "curve": [[step, round(megabytes, 1)] for step, megabytes in memory.points],
    }
    (RESULTS / "memory.json").write_text(json.dumps(result) + "\n")

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.plot(*zip(*memory.points, strict=True), linewidth=2)
    axes.axvline(BUFFER_SIZE, color="gray", linestyle="--", linewidth=1)
    axes.annotate("ring full", (BUFFER_SIZE, 0), xytext=(4, 6), textcoords="offset points", color="gray")
    axes.set(xlabel="environment steps", ylabel="resident memory (MiB)", title="RecurrentSAC, buffer of 50,000 steps", ylim=0)
    axes.grid(alpha=0.3)
    figure.savefig(RESULTS / "memory.png", dpi=150)
    print({key: value for key, value in result.items() if key != "curve"})


if __name__ == "__main__":
    main()
