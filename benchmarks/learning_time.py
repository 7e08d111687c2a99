"""
Seconds of training until a task is solved, with the code of two checkouts in turn.

    python -m benchmarks.learning_time --before PATH                  # RecurrentSAC, PendulumNoVel-v1, five seeds
    python -m benchmarks.learning_time --before PATH --report         # the table from the results so far

Each run is a process of its own that imports from its checkout, with one thread and the setting of ``hyperparams/`` there; the
two of a seed run one after the other, the next seed in the other order. The model is scored on fixed starts while the clock
stands. Solved is the task at the first point of the curve from which on no score falls below the threshold. Runs that have a
result are not repeated.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning import CURVE_SEED, RESULTS
from benchmarks.tasks import kept_from
from benchmarks.timing import processor

FOLDER = RESULTS / "learning_time"
CURVE_EVERY, N_STARTS = 500, 50

# Uses nothing that the two checkouts might have named differently
TRAIN = """
import json, sys, time
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from benchmarks.learning import make_model, score, stated_hyperparams

algo, env_id, seed, every, n_starts, starts_seed = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
th.set_num_threads(1)

class Curve(BaseCallback):
    def _on_training_start(self):
        self.points, self.spent, self.resumed = [], 0.0, time.process_time()

    def _on_step(self):
        if self.num_timesteps % every == 0:
            self.spent += time.process_time() - self.resumed
            mean = float(score(self.model, env_id, n_starts, starts_seed).mean())
            self.points.append([self.num_timesteps, round(self.spent, 2), round(mean, 1)])
            self.model.policy.set_training_mode(False)
            self.resumed = time.process_time()
        return True

model, n_steps = make_model(algo, env_id, seed, stated_hyperparams(algo, env_id))
curve = Curve()
model.learn(n_steps, callback=curve)
print(json.dumps(curve.points))
"""


def train(checkout: Path, algo: str, env_id: str, seed: int) -> list[list[float]]:
    """
    :param checkout: whose code trains
    :param algo: the algorithm
    :param env_id: the environment
    :param seed: of the run
    :return: steps, seconds of the processor in training, and mean return of each point of the curve
    """
    numbers = (seed, CURVE_EVERY, N_STARTS, CURVE_SEED)
    command = [sys.executable, "-c", TRAIN, algo, env_id, *map(str, numbers)]
    output = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def solved(curve: list[list[float]], threshold: float) -> tuple[float, float]:
    """
    :param curve: from :func:`train`
    :param threshold: a return
    :return: steps and seconds of the first point from which on it is kept; infinite if there is none
    """
    index = kept_from(threshold, [mean for _, _, mean in curve])
    return (curve[index][0], curve[index][1]) if index < len(curve) else (np.inf, np.inf)


def report(runs: list[dict[str, Any]], threshold: float) -> list[str]:
    """
    :param runs: result files
    :param threshold: a return
    :return: the table
    """
    lines = ["| seed | before: seconds (steps) | after: seconds (steps) | ratio | seconds per 1000 steps, ratio |"]
    lines.append("|---|---|---|---|---|")
    ratios, costs = [], []
    for run in runs:
        (steps_before, before), (steps_after, after) = (solved(run[which], threshold) for which in ("before", "after"))
        ratios.append(after / before)
        costs.append(run["after"][-1][1] / run["before"][-1][1])
        cells = f"{before:.1f} ({steps_before:,.0f}) | {after:.1f} ({steps_after:,.0f}) | {ratios[-1]:.2f} | {costs[-1]:.2f}"
        lines.append(f"| {run['seed']} | {cells} |")
    return [*lines, f"| geometric mean | | | {_geometric_mean(ratios):.2f} | {_geometric_mean(costs):.2f} |"]


def _geometric_mean(ratios: list[float]) -> float:
    return float(np.exp(np.mean(np.log(ratios))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--after", type=Path, default=Path.cwd())
    parser.add_argument("--algo", default="recurrent_sac")
    parser.add_argument("--env", default="PendulumNoVel-v1")
    parser.add_argument("--threshold", type=float, default=-200.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--report", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    name = f"{arguments.algo},{arguments.env}"
    checkouts = {"before": arguments.before, "after": arguments.after}
    for turn, seed in enumerate(arguments.seeds):
        path = FOLDER / f"{name}_{seed}.json"
        if path.exists() or arguments.report:
            continue
        run: dict[str, Any] = {"seed": seed, "processor": processor(), "date": time.strftime("%Y-%m-%d")}
        for which in list(checkouts)[:: 1 if turn % 2 == 0 else -1]:
            run[which] = train(checkouts[which], arguments.algo, arguments.env, seed)
        path.write_text(json.dumps(run) + "\n")
    runs = [json.loads(path.read_text()) for path in sorted(FOLDER.glob(f"{name}_*.json"))]
    lines = [
        f"{arguments.algo} on {arguments.env}, {arguments.threshold:g} for good: seconds of one processor core in training.",
        f"Points every {CURVE_EVERY} steps, each the mean of {N_STARTS} starts.",
        "",
        *report(runs, arguments.threshold),
    ]
    (FOLDER / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
