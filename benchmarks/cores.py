"""
Which memory for what: the cores, each with the setting of the task and otherwise equal.

    python -m benchmarks.cores                           # all tasks; goes on where an interrupted run ended
    python -m benchmarks.cores --task "cue 30 back"      # one
    python -m benchmarks.cores --report                  # tables from the results so far

Final models are scored as ``benchmarks.learning`` does. Seconds are those of the processor in training, scoring left out: what
runs beside changes them less than it changes the time of the clock. ``benchmarks.core_cost`` times the cores alone.
"""

import argparse
from typing import Any, NamedTuple

import numpy as np
import torch as th

from benchmarks.learning import CHECKPOINTS, RESULTS, run
from benchmarks.report import Result, markdown, number, results_of
from benchmarks.tasks import TASKS, kept_from

FOLDER = RESULTS / "cores"
SEEDS = (0, 1, 2)


class Study(NamedTuple):
    """
    A task to compare cores on.

    :param algo: the algorithm
    :param env_id: the environment
    :param settings: differences from the setting of the task that all cores share
    """

    algo: str
    env_id: str
    settings: tuple[str, ...] = ()


def _cue(steps_back: int, n_timesteps: int) -> Study:
    """
    One bit of many decides the reward, so episodes count, not updates: the tuned setting makes eight times as many, and learns
    the actions of single episodes by heart. Gradients of a cue far back are small: Adam's epsilon of R2D2, 1e-3, would hold
    them up.
    """
    settings = (
        "train_freq=4",
        "gradient_steps=1",
        "learning_rate=0.0005",
        f"env_kwargs.memory_length={steps_back}",
        f"sequence_length={steps_back + 1}",
        f"n_timesteps={n_timesteps}",
        "policy_kwargs.optimizer_kwargs.eps=0.00001",
    )
    return Study("r2d2", "MemoryLength-v0", settings)


# Short runs first
STUDIES = {
    "cue 10 back": _cue(10, 32_000),
    "RepeatPrevious": Study("r2d2", "popgym-RepeatPreviousEasy-v0"),
    "Pendulum": Study("recurrent_sac", "PendulumNoVel-v1"),
    "cue 30 back": _cue(30, 96_000),
    "CartPole": Study("r2d2", "CartPoleNoVel-v1", ("n_timesteps=50000",)),
    "flickering Pendulum": Study("recurrent_td3", "PendulumFlicker-v0"),
    "cue 100 back": _cue(100, 192_000),
}

# The last one spends some of the time that an elementwise memory saves on more units
CORES: dict[str, tuple[str, ...]] = {
    "lstm, memory_bias 0": ("policy_kwargs.core_kwargs.memory_bias=0",),
    "lstm, memory_bias 1": ("policy_kwargs.core_kwargs.memory_bias=1",),
    "lstm, memory_bias 3": ("policy_kwargs.core_kwargs.memory_bias=3",),
    "gru, memory_bias 0": ("policy_kwargs.core=gru", "policy_kwargs.core_kwargs.memory_bias=0"),
    "gru, memory_bias 1": ("policy_kwargs.core=gru", "policy_kwargs.core_kwargs.memory_bias=1"),
    "mingru": ("policy_kwargs.core=mingru",),
    "rtu": ("policy_kwargs.core=rtu",),
    "rtu, 256 units": ("policy_kwargs.core=rtu", "policy_kwargs.lstm_hidden_size=256"),
}


def reached(threshold: float, curve: list[dict[str, Any]]) -> tuple[str, str]:
    """
    :param threshold: a return
    :param curve: of one run
    :return: steps and seconds of the point that reached it first, and of the one from which on it was kept
    """
    returns = [point["return"] for point in curve]
    first = next((index for index, value in enumerate(returns) if value >= threshold), len(returns))
    points = [curve[index] if index < len(curve) else None for index in (first, kept_from(threshold, returns))]
    told = [f"{point['steps']:,} ({point['processor_seconds']:.0f} s)" if point else "never" for point in points]
    return told[0], told[1]


def results_by_core(name: str) -> dict[str, list[Result]]:
    """
    :param name: one of ``STUDIES``
    :return: the runs of each core that has any
    """
    study = STUDIES[name]
    found = results_of(FOLDER / study.env_id)
    runs = {core: found.get(" ".join([study.algo, *study.settings, *settings]), []) for core, settings in CORES.items()}
    return {core: results for core, results in runs.items() if results}


def overview() -> list[str]:
    """
    :return: the table of all tasks and cores
    """
    rows = []
    for core in CORES:
        cells = []
        for name in STUDIES:
            means = [result["mean"] for result in results_by_core(name).get(core, [])]
            cells.append(f"{number(np.mean(means))} ({number(min(means))}) {len(means)}" if means else "")
        rows.append([core, *cells])
    return ["Mean (worst seed) number of seeds:", "", *markdown(["core", *STUDIES], rows), ""]


def report(name: str) -> list[str]:
    """
    :param name: one of ``STUDIES``
    :return: the table of the task
    """
    study = STUDIES[name]
    threshold = TASKS[study.env_id].threshold
    rows = []
    for core, results in results_by_core(name).items():
        means = [result["mean"] for result in results]
        seconds = [result["curve"][-1]["processor_seconds"] for result in results]
        first, for_good = zip(*(reached(threshold, result["curve"]) for result in results), strict=True)
        cells = [number(np.mean(means)), number(min(means)), f"{np.mean(seconds):.0f} s"]
        rows.append([core, str(len(results)), *cells, ", ".join(first), ", ".join(for_good)])
    told = f": `{' '.join(study.settings)}`" if study.settings else ""
    header = ["core", "seeds", "mean", "worst", "training", f"first at {threshold:g}", "for good"]
    return [f"## {name}", "", f"{study.algo} on {study.env_id}{told}", "", *markdown(header, rows), ""] if rows else []


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
            for study in map(STUDIES.__getitem__, arguments.task):
                for settings in CORES.values():
                    run(study.algo, study.env_id, seed, [*study.settings, *settings], FOLDER, CHECKPOINTS / "cores")
    lines = [
        "Runs before vectors were normalised inside the model and weights averaged for ``predict``: cores compare with each "
        "other, not with today's defaults.",
        "",
        "Final models: mean of the seeds and worst of them. Seconds are those of the processor in training, one thread, "
        "beside other work. Last two columns: steps and seconds until the learning curve reached the threshold, one a seed.",
        "",
        *overview(),
        *(line for name in STUDIES for line in report(name)),
    ]
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "README.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
