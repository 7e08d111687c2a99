"""
What of a memory matters: sequence length, stored states, burn-in, a memory for the critic, one for both, the kind of cell.

    python -m benchmarks.ablations                            # all tasks; runs that have a result are not repeated
    python -m benchmarks.ablations --env PendulumFlicker-v0   # one
    python -m benchmarks.ablations --report                   # tables and figure from the results so far

Each variation differs from the tuned setting in what it names and in nothing else, but that shorter sequences come in
larger batches, and longer in smaller ones: all replay the same number of steps. Burn-in is half of the tuned length, or the
whole of a shorter one. Final models are scored as ``benchmarks.learning`` does; the mean of a run's learning curve tells
how fast it learned.
"""

import argparse
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch as th

from benchmarks.learning import RESULTS, run, stated_hyperparams
from benchmarks.report import intervals, markdown, number, results_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import ScalarFormatter, SymmetricalLogLocator

ABLATIONS = RESULTS / "ablations"
SEEDS = (0, 1, 2)


class Study(NamedTuple):
    """
    A task to try variations on.

    :param algo: the algorithm
    :param n_timesteps: a little more than the tuned setting needs
    :param lengths: of sequences, the tuned one and others
    :param settings: other differences from the tuned setting that all variations share
    """

    algo: str
    n_timesteps: int
    lengths: tuple[int, ...]
    settings: tuple[str, ...] = ()


STUDIES = {
    # Run when the tuned learning rate did not decay yet
    "PendulumFlicker-v0": Study("recurrent_td3", 14_000, (32, 8, 64), ("learning_rate=0.001",)),
    "PendulumNoVel-v1": Study("recurrent_sac", 10_000, (32, 8, 64)),
    "MemoryLength-v0": Study("r2d2", 12_000, (11, 4)),
}


def variations(env_id: str) -> dict[str, list[str]]:
    """
    :param env_id: one of ``STUDIES``
    :return: names and settings
    """
    study = STUDIES[env_id]
    tuned = study.lengths[0]
    steps = stated_hyperparams(study.algo, env_id)["batch_size"] * tuned
    zero_states = ["state_init=zero"]
    found = {}
    for length in study.lengths:
        replay = [f"sequence_length={length}", f"batch_size={steps // length}"]
        at_length = [f"n_timesteps={study.n_timesteps}", *study.settings, *replay]
        found[f"T {length}"] = at_length
        if length <= tuned:
            burn_in = [f"burn_in={min(length, tuned // 2)}"]
            found[f"T {length}, zero states"] = [*at_length, *zero_states]
            found[f"T {length}, burn-in"] = [*at_length, *burn_in]
            found[f"T {length}, zero states, burn-in"] = [*at_length, *zero_states, *burn_in]
    at_tuned = found[f"T {tuned}"]
    found["GRU"] = [*at_tuned, "policy=MlpGruPolicy"]
    if study.algo != "r2d2":
        no_memory = "policy_kwargs.enable_critic_lstm=false"
        found["critic without memory"] = [*at_tuned, no_memory]
        found["one memory for both"] = [*at_tuned, no_memory, "policy_kwargs.shared_lstm=true"]
    return found


def report(env_id: str, axes: Any) -> None:
    """
    Write the table of a task, draw its panel.

    :param env_id: one of ``STUDIES``
    :param axes: where to draw
    """
    study = STUDIES[env_id]
    of_settings = {" ".join([study.algo, *settings]): name for name, settings in variations(env_id).items()}
    found = {of_settings[label]: results for label, results in results_of(ABLATIONS / env_id).items() if label in of_settings}
    runs = {name: found[name] for name in of_settings.values() if name in found}
    final = {name: np.array([result["mean"] for result in results]) for name, results in runs.items()}
    whole = {
        name: np.array([np.mean([point["return"] for point in result["curve"]]) for result in results])
        for name, results in runs.items()
    }
    of_final, of_whole = intervals(final), intervals(whole)
    rows = [
        [
            name,
            str(len(final[name])),
            number(final[name].mean()),
            " to ".join(map(number, of_final[name])),
            number(whole[name].mean()),
            " to ".join(map(number, of_whole[name])),
            f"{np.mean([result['training_seconds'] for result in runs[name]]):.0f} s",
        ]
        for name in runs
    ]
    header = ["variation", "seeds", "final model", "95 % interval", "mean of the curve", "95 % interval", "training"]
    title = f"{study.algo} on {env_id}, {study.n_timesteps:,} steps. T: steps of a replayed sequence."
    (ABLATIONS / f"{env_id}.md").write_text("\n".join([title, "", *markdown(header, rows), ""]))
    print("\n".join([title, "", *markdown(header, rows), ""]))

    for place, name in enumerate(runs):
        for of_seeds, interval, colour, shift, label in (
            (final[name], of_final[name], "tab:blue", -0.13, "final model"),
            (whole[name], of_whole[name], "tab:orange", 0.13, "mean of the curve"),
        ):
            axes.plot(interval, [place + shift] * 2, color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
            axes.plot(
                of_seeds, [place + shift] * len(of_seeds), "o", color=colour, markersize=4, label=None if place else label
            )
    axes.set_yticks(range(len(runs)), runs)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    if min(returns.min() for returns in (*final.values(), *whole.values())) < -100:
        # Those who learn differ by tens, those who do not by hundreds
        axes.set_xscale("symlog", linthresh=100)
        axes.xaxis.set_major_locator(SymmetricalLogLocator(linthresh=100, base=10, subs=(1, 1.5, 2, 3, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set(title=f"{env_id}\n{study.algo}, {study.n_timesteps:,} steps", xlabel="return")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=STUDIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--report", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    # One thread a run, as in benchmarks.learning
    th.set_num_threads(1)
    if not arguments.report:
        for seed in arguments.seeds:
            for env_id in [arguments.env] if arguments.env else STUDIES:
                for settings in variations(env_id).values():
                    run(STUDIES[env_id].algo, env_id, seed, settings, ABLATIONS)
    studied = [env_id for env_id in STUDIES if (ABLATIONS / env_id).exists()]
    if not studied:
        parser.error("no study has results yet; run without --report")
    figure, panels = plt.subplots(1, len(studied), figsize=(6.5 * len(studied), 5), layout="constrained", squeeze=False)
    for env_id, axes in zip(studied, panels.flat, strict=True):
        report(env_id, axes)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)
    figure.savefig(ABLATIONS / "ablations.png", dpi=110)


if __name__ == "__main__":
    main()
