"""
Tables and figures from the results of ``benchmarks.learning``.

    python -m benchmarks.report                     # every task that has results, and the table of all
    python -m benchmarks.report PendulumNoVel-v1

Intervals are rliable's (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264): stratified bootstrap over the seeds, 95 %.
With three seeds it cannot reach beyond the best and the worst of them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rliable import library, metrics

from benchmarks.learning import MEMORYLESS, OTHERS, RESULTS
from benchmarks.tasks import TASKS, kept_from

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

HAVE_NO_MEMORY = {*MEMORYLESS, "dqn"}
Result = dict[str, Any]


def results_of(folder: Path) -> dict[str, list[Result]]:
    """
    :param folder: with a file for each run
    :return: runs of each algorithm, ours first
    """
    runs: dict[str, list[Result]] = {}
    for path in sorted(folder.glob("*_[0-9]*.json")):
        result = json.loads(path.read_text())
        runs.setdefault(result["algo"], []).append(result)
    return dict(sorted(runs.items(), key=lambda item: (item[0].split()[0] in HAVE_NO_MEMORY | set(OTHERS), item[0])))


def intervals(values: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """
    :param values: for each algorithm those of its seeds, shape (n_seeds,)
    :return: 95 % interval of their mean
    """
    scores = {name: of_seeds[:, None] for name, of_seeds in values.items()}
    np.random.seed(0)
    _, found = library.get_interval_estimates(scores, lambda runs: np.array([metrics.aggregate_mean(runs)]), reps=5000)
    return {name: (float(low[0]), float(high[0])) for name, (low, high) in found.items()}


def seconds_to(threshold: float, curve: list[dict[str, Any]]) -> str:
    """Training time at the first point from which on the curve stays above the threshold."""
    first = kept_from(threshold, [point["return"] for point in curve])
    return f"{curve[first]['seconds']:.0f} s" if first < len(curve) else "never"


def number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 2 else f"{value:.2f}"


def mean_and_worst(results: list[Result]) -> str:
    """
    :param results: of the seeds
    :return: empty where there are none
    """
    means = [result["mean"] for result in results]
    return f"{number(np.mean(means))} ({number(min(means))})" if means else ""


def row(algo: str, results: list[Result], interval: tuple[float, float]) -> list[str]:
    """Of the table: algorithm, steps, seeds, mean, interval, worst seed, memory zeroed."""
    means = [result["mean"] for result in results]
    has_memory = algo.split()[0] not in HAVE_NO_MEMORY
    zeroed = f"{number(max(result['mean_with_memory_zeroed'] for result in results))} at best" if has_memory else "has none"
    low, high = interval
    spread = f"{number(low)} to {number(high)}" if len(results) > 1 else ""
    steps = f"{max(result['steps'] for result in results):,}"
    return [algo, steps, str(len(results)), number(np.mean(means)), spread, number(min(means)), zeroed]


HEADER = ["algorithm", "steps", "seeds", "mean", "95 % interval", "worst seed", "memory zeroed"]


def put_table(path: Path, name: str, lines: list[str]) -> None:
    """
    :param path: of a text with the marks ``<!-- name -->`` and ``<!-- /name -->``
    :param name: of the table
    :param lines: to stand between the marks
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = path.read_text().split(begin)
    path.write_text(before + "\n".join([begin, *lines, end]) + rest.split(end)[1])


def markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows]]


def draw_curves(env_id: str, runs: dict[str, list[Result]], path: Path) -> None:
    figure, (by_steps, by_seconds) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained", sharey=True)
    for algo, results in runs.items():
        curves, steps, seconds = (
            np.array([[point[name] for point in result["curve"]] for result in results])
            for name in ("return", "steps", "seconds")
        )
        band = intervals({str(index): column for index, column in enumerate(curves.T)})
        low, high = np.array(list(band.values())).T
        for axes, x in ((by_steps, steps.mean(axis=0)), (by_seconds, seconds.mean(axis=0))):
            (line,) = axes.plot(x, curves.mean(axis=0), label=algo if axes is by_steps else None, linewidth=2)
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
            axes.grid(alpha=0.3)
    by_steps.set(xlabel="environment steps", ylabel="return")
    by_seconds.set(xlabel="seconds of training", xscale="log")
    by_seconds.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    by_seconds.xaxis.set_major_formatter(ScalarFormatter())
    by_seconds.xaxis.set_minor_formatter(NullFormatter())
    figure.suptitle(f"{env_id}: mean of the seeds and its 95 % interval")
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def report(env_id: str) -> list[list[str]]:
    """
    Write table and figure of a task.

    :param env_id: one of ``TASKS``
    :return: rows of the table, without training times
    """
    task, folder = TASKS[env_id], RESULTS / env_id
    runs = results_of(folder)
    of_mean = intervals({algo: np.array([result["mean"] for result in results]) for algo, results in runs.items()})
    rows = [row(algo, results, of_mean[algo]) for algo, results in runs.items()]
    timed = []
    for cells, results in zip(rows, runs.values(), strict=True):
        steps, seconds = (np.mean([result[name] for result in results]) for name in ("steps", "training_seconds"))
        reached = " ".join(seconds_to(task.threshold, result["curve"]) for result in results)
        timed.append([*cells, f"{seconds:.0f} s, {steps / seconds:.0f} steps/s", reached])
    error = max(result["standard_error"] for results in runs.values() for result in results)
    what = f"return from step {task.scored_from} on" if task.scored_from else "return"
    processors = {result.get("processor", "one not recorded") for results in runs.values() for result in results}
    lines = [
        f"Final models on {env_id}, mean {what} over {task.n_starts} fixed starts (standard error of each run up to "
        f"{number(error)}). Training times depend on what ran beside, and on the processor: "
        f"{' and '.join(sorted(processors))}.",
        "",
        *markdown([*HEADER, "training", f"to {task.threshold:g}, for good"], timed),
        "",
        "![curves](curves.png)",
        "",
    ]
    draw_curves(env_id, runs, folder / "curves.png")
    (folder / "README.md").write_text("\n".join(lines))
    print("\n".join(lines))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", nargs="*", choices=[*TASKS, []], help="all that have results, if none is named")
    arguments = parser.parse_args()
    for env_id in arguments.env:
        report(env_id)
    if not arguments.env:
        rows = []
        for env_id in TASKS:
            if any((RESULTS / env_id).glob("*_[0-9]*.json")):
                rows += [[f"[{env_id}]({env_id}/README.md)", *cells] for cells in report(env_id)]
        (RESULTS / "README.md").write_text("\n".join([*markdown(["task", *HEADER], rows), ""]))


if __name__ == "__main__":
    main()
