"""
Does a policy that has solved its task keep it? The defaults, whose learning rate is constant.

    python -m benchmarks.steadiness                                   # all; goes on where an interrupted run ended
    python -m benchmarks.steadiness --task "SAC, PendulumNoVel" --seeds 0 1
    python -m benchmarks.steadiness --report                          # tables and figure from the results so far

Every 100 updates the policy is scored on 200 fixed starts: as ``predict`` acts, with averaged weights, and with the latest
weights. Studies of one factor differ from the default in what their name says. A task counts as solved from the fifth point
after the first one above its threshold, and as solved for good after the last point below it. The largest fall is the worst
point after half of the best return was reached, against the best one before it, as part of the span from the first point.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.learning import CURVE_SEED, DEFAULT_ENTRY, RESULTS, WHITE, make_model, scores, set_entry, stated_hyperparams
from benchmarks.report import Result, markdown, number, put_table
from benchmarks.tasks import TASKS, kept_from
from benchmarks.timing import processor

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = RESULTS / "steadiness"
DOCS = Path(__file__).parents[1] / "docs" / "steadiness.md"
SEEDS = (0, 1, 2, 3, 4)
UPDATES_PER_POINT, N_STARTS = 100, 200
# Policies are still learning when they first get there
POINTS_TO_SETTLE = 5


class Study(NamedTuple):
    """
    A task to keep.

    :param algo: the algorithm
    :param env_id: the environment
    :param settings: differences from the default
    """

    algo: str
    env_id: str
    settings: tuple[str, ...]


# As defaults once were
WHITE_SAC, WHITE_TD3 = WHITE["recurrent_sac"], WHITE["recurrent_td3"]
SLOW_TARGET = ("n_timesteps=60000", "tau=0.01", "batch_size=32")
# Short runs first
STUDIES = {
    "SAC, PendulumNoVel": Study("recurrent_sac", "PendulumNoVel-v1", ("n_timesteps=30000",)),
    "SAC, PendulumNoVel, white noise": Study("recurrent_sac", "PendulumNoVel-v1", ("n_timesteps=30000", *WHITE_SAC)),
    "TD3, PendulumNoVel": Study("recurrent_td3", "PendulumNoVel-v1", ("n_timesteps=30000",)),
    "TD3, PendulumNoVel, white noise of 0.1": Study("recurrent_td3", "PendulumNoVel-v1", ("n_timesteps=30000", *WHITE_TD3)),
    "TD3, PendulumFlicker": Study("recurrent_td3", "PendulumFlicker-v0", ("n_timesteps=40000",)),
    "TD3, PendulumFlicker, white noise of 0.1": Study(
        "recurrent_td3", "PendulumFlicker-v0", ("n_timesteps=40000", *WHITE_TD3)
    ),
    "R2D2, CartPoleNoVel": Study("r2d2", "CartPoleNoVel-v1", ("n_timesteps=60000",)),
    "R2D2, CartPoleNoVel, munchausen_scale=0": Study(
        "r2d2", "CartPoleNoVel-v1", ("n_timesteps=60000", "munchausen_scale=0.0")
    ),
    "SAC, CartPoleNoVel": Study("recurrent_sac", "CartPoleNoVel-v1", ("n_timesteps=60000",)),
    "SAC, CartPoleNoVel, tau=0.1": Study("recurrent_sac", "CartPoleNoVel-v1", ("n_timesteps=60000", "tau=0.1")),
    "SAC, CartPoleNoVel, tau=0.01, batches of 32": Study("recurrent_sac", "CartPoleNoVel-v1", SLOW_TARGET),
    "SAC, CartPoleNoVel, tau=0.01, batches of 32, clipped": Study(
        "recurrent_sac", "CartPoleNoVel-v1", (*SLOW_TARGET, "max_grad_norm=auto")
    ),
    "SAC, HiddenWindReach": Study("recurrent_sac", "HiddenWindReach-v0", ("n_timesteps=160000", "n_envs=8")),
    "SAC, HiddenWindReach, white noise": Study(
        "recurrent_sac", "HiddenWindReach-v0", ("n_timesteps=160000", "n_envs=8", *WHITE_SAC)
    ),
}
WEIGHTS = {"latest weights": "return_of_latest_weights", "averaged weights": "return"}


class Points(BaseCallback):
    """
    Score the model every 100 updates.

    :param env_id: the environment
    """

    def __init__(self, env_id: str) -> None:
        super().__init__()
        self.env_id = env_id
        self.points: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        if self.model._n_updates >= UPDATES_PER_POINT * (len(self.points) + 1):
            returns = scores(self.model, self.env_id, N_STARTS, CURVE_SEED)
            means = {name: round(float(values.mean()), 3) for name, values in returns.items()}
            self.points.append({"steps": self.num_timesteps, "updates": self.model._n_updates, **means})
            self.model.policy.set_training_mode(False)
        return True


def path_of(study: Study, seed: int) -> Path:
    return FOLDER / study.env_id / f"{','.join([study.algo, *study.settings])}_{seed}.json"


def run(name: str, seed: int) -> None:
    """
    Train and write the curve, unless there is one.

    :param name: one of ``STUDIES``
    :param seed: of training
    """
    study = STUDIES[name]
    path = path_of(study, seed)
    if path.exists():
        return
    hyperparams = stated_hyperparams(study.algo, DEFAULT_ENTRY)
    for setting in study.settings:
        set_entry(hyperparams, setting)
    model, n_steps = make_model(study.algo, study.env_id, seed, hyperparams)
    points = Points(study.env_id)
    model.learn(n_steps, callback=points)
    result = {
        "command": f'python -m benchmarks.steadiness --task "{name}" --seeds {seed}',
        "seed": seed,
        "processor": processor(),
        "hyperparams": hyperparams,
        "curve": points.points,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result) + "\n")
    print(
        name,
        seed,
        {weights: round(steadiness(name, result, key)["worst fall"], 3) for weights, key in WEIGHTS.items()},
    )


def steadiness(name: str, result: Result, key: str) -> dict[str, Any]:
    """
    :param name: one of ``STUDIES``
    :param result: of a run
    :param key: of the returns in its curve
    :return: what the curve tells
    """
    updates = [point["updates"] for point in result["curve"]]
    returns = np.array([point[key] for point in result["curve"]])
    threshold = TASKS[STUDIES[name].env_id].threshold
    above = np.flatnonzero(returns >= threshold)
    solved = returns[above[0] + POINTS_TO_SETTLE :] if len(above) else returns[:0]
    first_kept = kept_from(threshold, returns.tolist())
    span = returns.max() - returns[0]
    half = int(np.flatnonzero(returns >= returns[0] + span / 2)[0])
    best_before = np.maximum.accumulate(returns)
    return {
        "solved at": updates[above[0]] if len(above) else None,
        "for good": updates[first_kept] if first_kept < len(returns) else None,
        "points": len(solved),
        "below": int((solved < threshold).sum()),
        "worst": float(solved.min()) if len(solved) else None,
        "worst fall": float((best_before - returns)[half:].max() / span),
        "final over best": float((returns[-1] - returns[0]) / span),
        "area": float(((returns - returns[0]) / span).mean()),
    }


def results_of(name: str) -> list[Result]:
    paths = [path_of(STUDIES[name], seed) for seed in SEEDS]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def table() -> list[str]:
    """
    :return: of all studies and weights
    """
    rows = []
    for name in STUDIES:
        results = results_of(name)
        for weights, key in WEIGHTS.items() if results else ():
            told = [steadiness(name, result, key) for result in results]
            n_points, n_below = (sum(each[column] for each in told) for column in ("points", "below"))
            worst = [each["worst"] for each in told if each["worst"] is not None]
            rows.append(
                [
                    name,
                    weights,
                    *(", ".join(str(each[column] or "never") for each in told) for column in ("solved at", "for good")),
                    f"{n_below} of {n_points}",
                    number(min(worst)) if worst else "",
                    f"{max(each['worst fall'] for each in told):.2f}",
                    f"{min(each['final over best'] for each in told):.2f}",
                    f"{np.mean([each['area'] for each in told]):.2f}",
                ]
            )
    when = ["updates until solved, by seed", "until solved for good"]
    how_well = ["points below the threshold afterwards", "worst of them", "largest fall", "final over best, worst seed"]
    return markdown(["task", "weights", *when, *how_well, "area under the curve"], rows)


def draw(path: Path) -> None:
    names = [name for name in STUDIES if results_of(name)]
    figure, all_axes = plt.subplots(
        len(names), len(WEIGHTS), figsize=(12, 2.4 * len(names) + 0.5), layout="constrained", squeeze=False, sharey="row"
    )
    for name, row in zip(names, all_axes, strict=True):
        for (weights, key), axes in zip(WEIGHTS.items(), row, strict=True):
            for result in results_of(name):
                curve = result["curve"]
                axes.plot([p["updates"] for p in curve], [p[key] for p in curve], linewidth=0.9)
            axes.axhline(TASKS[STUDIES[name].env_id].threshold, color="grey", linewidth=0.8, linestyle="--")
            axes.set_title(f"{name}: {weights}", fontsize=9)
            axes.grid(alpha=0.3)
    all_axes[-1, 0].set(xlabel="updates", ylabel="return")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=STUDIES, nargs="+", default=list(STUDIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--report", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    # One thread a run, as in benchmarks.learning
    th.set_num_threads(1)
    if not arguments.report:
        for seed in arguments.seeds:
            for name in arguments.task:
                run(name, seed)
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = table()
    put_table(DOCS, "steadiness", rows)
    lines = [*rows, "", "Each line of the figure is a seed.", "", "![curves](curves.png)", ""]
    (FOLDER / "README.md").write_text("\n".join(lines))
    draw(FOLDER / "curves.png")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
