"""
What a user gets without tuning: the default of each algorithm on tasks of many kinds, from one environment and from eight.

    python -m benchmarks.defaults                                     # all; goes on where an interrupted run ended
    python -m benchmarks.defaults --task "R2D2, CartPoleNoVel" --seeds 0
    python -m benchmarks.defaults --as-written                        # learn(1e5) as in the README, beside SB3
    python -m benchmarks.defaults --report                            # tables from the results so far

Final models are scored as ``benchmarks.learning`` does, after as many steps as the tuned entry of the task has, where there
is one. "Of the span" says how a default compares with the tuned entry, 100 % being the way from zeroed memory to the best mean
of any run that is committed.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch as th

from benchmarks.as_written import AS_WRITTEN, OTHERS_STEPS, as_written_table, learn_as_written
from benchmarks.learning import CHECKPOINTS, DEFAULT_ENTRY, RESULTS, WHITE, run
from benchmarks.report import Result, markdown, mean_and_worst, number, put_table, results_of
from sb3_recurrent_offpolicy.zoo import ALGORITHMS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = RESULTS / "defaults"
TUNING = FOLDER / "tuning"
SEEDS = (0, 1, 2)
N_ENVS = (1, 8)
README = Path(__file__).parents[1] / "README.md"


class Cell(NamedTuple):
    """
    A task for a default.

    :param algo: the algorithm
    :param env_id: the environment
    :param hidden: what is not observed
    :param n_timesteps: training steps
    :param published: what others report, and where
    :param settings: of the environment
    """

    algo: str
    env_id: str
    hidden: str
    n_timesteps: int
    published: str = ""
    settings: tuple[str, ...] = ()

    @property
    def registered(self) -> bool:
        """Whether the task is the one that its id stands for, so that results of tuned entries and of others compare."""
        return not any(setting.startswith("env_kwargs") for setting in self.settings)


def _cue(steps_back: int, n_timesteps: int) -> Cell:
    settings = (f"env_kwargs.memory_length={steps_back}",)
    return Cell("r2d2", "MemoryLength-v0", f"a cue {steps_back} steps back", n_timesteps, settings=settings)


_RL_ZOO = "{} with RecurrentPPO (RL Zoo)"
# Short runs first
CELLS = {
    "TD3, PendulumNoVel": Cell("recurrent_td3", "PendulumNoVel-v1", "velocity", 20_000, _RL_ZOO.format(-217.9)),
    "SAC, PendulumNoVel": Cell("recurrent_sac", "PendulumNoVel-v1", "velocity", 20_000, _RL_ZOO.format(-217.9)),
    "DDPG, PendulumNoVel": Cell("recurrent_ddpg", "PendulumNoVel-v1", "velocity", 20_000, _RL_ZOO.format(-217.9)),
    "TQC, PendulumNoVel": Cell("recurrent_tqc", "PendulumNoVel-v1", "velocity", 20_000, _RL_ZOO.format(-217.9)),
    "R2D2, PassiveTMaze": Cell("r2d2", "PassiveTMaze-v0", "a goal 10 steps back", 40_000),
    "R2D2, cue 10 back": _cue(10, 40_000),
    "R2D2, RepeatPreviousEasy": Cell("r2d2", "popgym-RepeatPreviousEasy-v0", "the fourth last card", 64_000, "1.0 (POPGym)"),
    "SAC, RepeatPreviousEasy": Cell(
        "recurrent_sac", "popgym-RepeatPreviousEasy-v0", "the fourth last card", 64_000, "1.0 (POPGym)"
    ),
    "R2D2, CartPoleNoVel": Cell("r2d2", "CartPoleNoVel-v1", "velocities", 100_000, _RL_ZOO.format(500)),
    "TD3, PendulumVelocityOnly": Cell("recurrent_td3", "PendulumVelocityOnly-v0", "angle", 30_000),
    "SAC, PendulumVelocityOnly": Cell("recurrent_sac", "PendulumVelocityOnly-v0", "angle", 30_000),
    "TD3, PendulumFlicker": Cell("recurrent_td3", "PendulumFlicker-v0", "two observations of three", 36_000),
    "SAC, PendulumFlicker": Cell("recurrent_sac", "PendulumFlicker-v0", "two observations of three", 36_000),
    "TD3, MountainCarContinuousNoVel": Cell("recurrent_td3", "MountainCarContinuousNoVel-v0", "velocity", 60_000),
    "SAC, MountainCarContinuousNoVel": Cell("recurrent_sac", "MountainCarContinuousNoVel-v0", "velocity", 60_000),
    "SAC, CartPoleNoVel": Cell("recurrent_sac", "CartPoleNoVel-v1", "velocities", 50_000, _RL_ZOO.format(500)),
    "TD3, PendulumUnknown": Cell("recurrent_td3", "PendulumUnknown-v0", "mass and length of the pole", 40_000),
    "SAC, PendulumUnknown": Cell("recurrent_sac", "PendulumUnknown-v0", "mass and length of the pole", 100_000),
    "R2D2, CartPoleUnknown": Cell("r2d2", "CartPoleUnknown-v1", "masses, length, force", 150_000),
    "R2D2, NoisyPositionOnlyCartPoleEasy": Cell(
        "r2d2", "popgym-NoisyPositionOnlyCartPoleEasy-v0", "velocities, noise", 100_000
    ),
    "R2D2, cue 20 back": _cue(20, 100_000),
    "R2D2, cue 40 back": _cue(40, 300_000),
    "SAC, HiddenWindReach": Cell("recurrent_sac", "HiddenWindReach-v0", "wind", 320_000),
    "SAC, LunarLanderContinuousNoVel": Cell("recurrent_sac", "LunarLanderContinuousNoVel-v3", "velocities", 500_000),
    # As its tuned entry has it: what is left between them are the parameters
    "SAC, LunarLanderContinuousNoVel, actions kept for 4 steps": Cell(
        "recurrent_sac",
        "LunarLanderContinuousNoVel-v3",
        "velocities (actions are kept for 4 steps)",
        125_000,
        settings=("env_wrapper=rl_zoo3.wrappers.FrameSkip",),
    ),
    "R2D2, LunarLanderNoVel": Cell("r2d2", "LunarLanderNoVel-v3", "velocities", 400_000),
    "TD3, HiddenWindReach": Cell("recurrent_td3", "HiddenWindReach-v0", "wind", 320_000),
}
# What the runs of each folder in TUNING started from
ROUNDS = {
    "updates_and_priorities": "`R2D2`. Unless stated: `batch_size=32`, `gradient_steps=-4`, `priority_alpha=0.9`, "
    "`n_steps=5`, `learning_rate=5e-4`, `tau=0.01`.",
    "batch_size": "Unless stated: `batch_size=32` (`RecurrentTD3` 16), `gradient_steps=-4` (`RecurrentTD3` -2, `R2D2` -8), "
    "`n_steps=5` on CartPole, and for `R2D2` `priority_alpha=0`, `n_steps=5`, `learning_rate=5e-4`. Runs with "
    "`reward_scale=auto` start from the tuned entry.",
    "target_network": "Unless stated: `tau=0.01`, for `RecurrentSAC` `n_steps=1`, and for `R2D2` `n_steps=5`, "
    "`learning_rate=3e-4`, `max_grad_norm=40`, `exploration_final_eps=0.01`.",
    "munchausen": "Unless stated: today's defaults. All rounds before are of `munchausen_scale=0`.",
    "high_control_rate": "Unless stated: today's defaults. LunarLander is scored every 100,000 steps. In all rounds up to "
    "here, Box actions explored by white noise, that of `RecurrentTD3` and `RecurrentDDPG` of deviation 0.1.",
    "noise": "Unless stated: today's defaults.",
}
# Without memory, by algorithm
STACKED = {
    "recurrent_td3": ("td3",),
    "recurrent_ddpg": ("td3",),
    "recurrent_sac": ("sac", "dqn"),
    "recurrent_tqc": ("sac",),
    "r2d2": ("dqn",),
}


def settings_of(cell: Cell, n_envs: int) -> list[str]:
    return [f"n_timesteps={cell.n_timesteps}", f"n_envs={n_envs}", *cell.settings]


def of_span(default: float, tuned: float, zeroed: float, best: float) -> str:
    """
    :param default: mean return of the default
    :param tuned: that of the tuned entry
    :param zeroed: that of a model whose memory is zeroed
    :param best: the best one that is known
    :return: how much of the span the default lies above the tuned entry
    """
    return f"{100 * (default - tuned) / (best - zeroed):+.1f} %"


def rows_of(name: str) -> list[list[str]]:
    """
    :param name: one of ``CELLS``
    :return: rows of the table, one for each number of environments
    """
    cell = CELLS[name]
    tuned = results_of(RESULTS / cell.env_id).get(cell.algo, []) if cell.registered else []
    found = results_of(FOLDER / cell.env_id)
    known = [result for runs in (*results_of(RESULTS / cell.env_id).values(), *found.values()) for result in runs]
    rows = []
    for n_envs in N_ENVS:
        results: list[Result] = found.get(" ".join([cell.algo, *settings_of(cell, n_envs)]), [])
        if not results:
            continue
        means = [result["mean"] for result in results]
        zeroed = max(result["mean_with_memory_zeroed"] for result in results)
        tuned_means = [result["mean"] for result in tuned]
        best = max(result["mean"] for result in known)
        rows.append(
            [
                name,
                f"{cell.n_timesteps:,}",
                str(n_envs),
                str(len(results)),
                mean_and_worst(results),
                number(zeroed),
                mean_and_worst(tuned),
                of_span(float(np.mean(means)), float(np.mean(tuned_means)), zeroed, best) if tuned else "",
                cell.published,
            ]
        )
    return rows


def noise_table() -> list[str]:
    """
    :return: the defaults beside the same with white noise, where that has been run
    """
    rows = []
    for name, cell in CELLS.items():
        found = results_of(FOLDER / cell.env_id)
        for n_envs in N_ENVS if cell.algo in WHITE else ():
            label = [cell.algo, *settings_of(cell, n_envs)]
            runs = [found.get(" ".join(parts), []) for parts in ([*label, *WHITE[cell.algo]], label)]
            # Those of white noise are shown alone too, so that no failure is left out
            if runs[0]:
                rows.append(
                    [
                        name,
                        f"{cell.n_timesteps:,}",
                        str(n_envs),
                        *map(mean_and_worst, runs),
                        str(len(runs[0])),
                        str(len(runs[1])),
                    ]
                )
    return markdown(["task", "steps", "environments", "white", "pink, the default", "seeds, white", "seeds, pink"], rows)


def readme_table() -> list[str]:
    """
    :return: in short, beside what others reach on the same starts
    """
    rows = []
    for cell in CELLS.values():
        found = results_of(FOLDER / cell.env_id)
        ours = [found.get(" ".join([cell.algo, *settings_of(cell, n_envs)]), []) for n_envs in N_ENVS]
        if not any(ours):
            continue
        others = results_of(RESULTS / cell.env_id) if cell.registered else {}
        stacked = [others[algo] for algo in others if "frame_stack" in algo and algo.split()[0] in STACKED[cell.algo]]
        compared = (stacked[0] if stacked else [], others.get("recurrent_ppo", []))
        zeroed = max(result["mean_with_memory_zeroed"] for results in ours for result in results)
        name, steps = f"`{ALGORITHMS[cell.algo].__name__}`", f"{cell.n_timesteps:,}"
        told = [*map(mean_and_worst, ours), number(zeroed), *map(mean_and_worst, compared)]
        rows.append([cell.env_id, cell.hidden, name, steps, *told])
    header = ["task", "hidden", "", "steps", "one environment", "eight", "memory zeroed", "SB3, stacked", "`RecurrentPPO`"]
    return markdown(header, rows)


def draw_with_and_without_memory() -> None:
    """CartPole without velocities: the default of RecurrentSAC, and DQN on one and on four observations."""
    cell = CELLS["SAC, CartPoleNoVel"]
    ours = results_of(FOLDER / cell.env_id).get(" ".join([cell.algo, *settings_of(cell, 1)]), [])
    others = results_of(RESULTS / cell.env_id)
    lines = {"RecurrentSAC, its defaults": ours, "DQN, last 4 observations": others["dqn frame_stack=4"], "DQN": others["dqn"]}
    figure, axes = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    for (label, results), color in zip(lines.items(), ("tab:blue", "tab:orange", "tab:grey"), strict=True):
        for index, result in enumerate(results):
            steps, returns = zip(*((point["steps"], point["return"]) for point in result["curve"]), strict=True)
            axes.plot(steps, returns, color=color, label=None if index else label)
    axes.set(xlabel="environment steps", ylabel="return", xlim=(0, cell.n_timesteps))
    axes.set_title("CartPole without velocities, each line a seed")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(FOLDER / "with_and_without_memory.png", dpi=110)
    plt.close(figure)


def tuning_table(folder: Path) -> list[str]:
    """
    :param folder: of the runs
    :return: of runs that defaults were chosen by, on other seeds than those reported
    """
    rows = []
    for path in sorted(folder.glob("*/*.json")):
        result = json.loads(path.read_text())
        algo, *settings = result["algo"].split()
        curve = [f"{point['return']:.4g}" for point in result["curve"]]
        thinned = " ".join(curve[:: max(1, len(curve) // 6)])
        name = ALGORITHMS[algo].__name__
        rows.append([path.parent.name, name, " ".join(settings), str(result["seed"]), number(result["mean"]), thinned])
    header = ["task", "algorithm", "settings", "seed", "final model", "return on the way, about every sixth of it"]
    return markdown(header, rows)


def write_report() -> None:
    """Write the tables, that of the project's README too, and its figure."""
    lines = ["What the defaults were chosen by: one run each, on other seeds than those reported. Each file has its command."]
    for folder, base in ROUNDS.items():
        lines += ["", f"## {folder}", "", base, "", *tuning_table(TUNING / folder)]
    (TUNING / "README.md").write_text("\n".join([*lines, ""]))
    header = ["task", "steps", "environments", "seeds", "default", "memory zeroed", "tuned entry", "of the span", "published"]
    lines = [
        "Final models: mean of the seeds and worst of them, of the constructors' defaults.",
        "",
        *markdown(header, [row for name in CELLS for row in rows_of(name)]),
        "",
        "The same with white noise (`noise_color=white`), that of `RecurrentTD3` and `RecurrentDDPG` of deviation 0.1, "
        "as in TD3's paper.",
        "",
        *noise_table(),
        "",
        f'As written, one environment, one core. SB3\'s time for `learn(1e5)` with "MlpPolicy" is that of '
        f"{OTHERS_STEPS:,} steps, half of them before and half after ours in the same process.",
        "",
        *as_written_table(),
        "",
    ]
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "README.md").write_text("\n".join(lines))
    print("\n".join(lines))
    put_table(README, "defaults", readme_table())
    draw_with_and_without_memory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=CELLS, nargs="+", default=list(CELLS))
    parser.add_argument("--n-envs", type=int, choices=N_ENVS, nargs="+", default=N_ENVS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--as-written", action="store_true", help="learn(1e5), in place of the tasks")
    parser.add_argument("--report", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    # One thread a run, as in benchmarks.learning
    th.set_num_threads(1)
    for seed in [] if arguments.report else arguments.seeds:
        if arguments.as_written:
            for algo in AS_WRITTEN:
                learn_as_written(algo, seed)
            continue
        for cell in map(CELLS.__getitem__, arguments.task):
            for n_envs in arguments.n_envs:
                settings = settings_of(cell, n_envs)
                run(cell.algo, cell.env_id, seed, settings, FOLDER, CHECKPOINTS / "defaults", entry=DEFAULT_ENTRY)
    write_report()


if __name__ == "__main__":
    main()
