"""
Whether what actors on Ray deliver is learned from as in one process, and what becomes of actors that are killed.

    python -m benchmarks.distributed_learning           # 3 seeds, beside one process; goes on where an interrupted run ended
    python -m benchmarks.distributed_learning --kills   # 8 actors killed within 50,000 steps
    python -m benchmarks.distributed_learning --report  # tables from the results so far

Hyper-parameters are those of the entries in hyperparams/, with one update per so many transitions, whatever the number of
environments. Time is that of training, without scoring; that of Ray's beginning stands apart.
"""

import argparse
import json
import os
import signal
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.learning import CURVE_SEED, EVALUATION_SEED, make_model, score, stated_hyperparams
from benchmarks.report import markdown
from benchmarks.tasks import TASKS
from benchmarks.timing import processor
from sb3_recurrent_offpolicy import R2D2
from sb3_recurrent_offpolicy.distributed import RayActors
from tests.fleet import NumberedEnv, check_fleet

RESULTS = Path(__file__).parent / "results" / "distributed"
SEEDS = (0, 1, 2)
N_KILLS = 8
CARTPOLE = "CartPoleNoVel-v1"


class Run(NamedTuple):
    """
    A task for actors.

    :param algo: the algorithm, with the entry of the task in hyperparams/
    :param env_id: the task
    :param n_timesteps: training steps
    :param n_envs: environments of each of 2 actors; one process has all of them
    :param gradient_steps: updates per transition, as the entry has them
    """

    algo: str
    env_id: str
    n_timesteps: int
    n_envs: int
    gradient_steps: int


RUNS = [Run("r2d2", CARTPOLE, 100_000, 8, -3), Run("recurrent_sac", "PendulumNoVel-v1", 20_000, 2, -2)]


class Returns(BaseCallback):
    """
    Scores the model now and then, and leaves the time for it out.

    :param env_id: the task
    """

    def __init__(self, env_id: str):
        super().__init__()
        self.env_id = env_id
        self.every = TASKS[env_id].curve_every
        self.points: list[dict[str, float]] = []
        self.seconds = 0.0
        self.since: float | None = None
        self.began = time.perf_counter()

    def _on_step(self) -> bool:
        if self.since is None:
            # Time runs from the first step on
            self.since = time.perf_counter()
            self.start_up = self.since - self.began
        if self.num_timesteps >= self.every * (len(self.points) + 1):
            self.seconds += time.perf_counter() - self.since
            found = float(score(self.model, self.env_id, 50, CURVE_SEED).mean())
            self.points.append({"steps": self.num_timesteps, "seconds": round(self.seconds, 1), "return": round(found, 2)})
            print(self.points[-1], flush=True)
            self.model.policy.set_training_mode(False)
            self.since = time.perf_counter()
        return True


def path_of(run: Run, where: str, seed: int) -> Path:
    return RESULTS / f"{run.algo},{run.env_id},{where.replace(' ', '_')}_{seed}.json"


def learn(run: Run, where: str, seed: int) -> None:
    """
    Train and write the result, unless there is one.

    :param run: one of ``RUNS``
    :param where: "actors" or "one process"
    :param seed: of training
    """
    path = path_of(run, where, seed)
    if path.exists():
        return
    hyperparams = stated_hyperparams(run.algo, run.env_id) | {"n_timesteps": run.n_timesteps}
    hyperparams |= {"n_envs": 1 if where == "actors" else 2 * run.n_envs, "gradient_steps": run.gradient_steps}
    model: Any = make_model(run.algo, run.env_id, seed, hyperparams)[0]
    returns = Returns(run.env_id)
    fleet: Any = RayActors(model, run.env_id, 2, run.n_envs) if where == "actors" else nullcontext()
    with fleet:
        model.learn(run.n_timesteps, callback=returns)
    result = {
        "command": "python -m benchmarks.distributed_learning",
        "where": where,
        "seed": seed,
        "start_up_seconds": round(returns.start_up, 1),
        "mean": round(float(score(model, run.env_id, TASKS[run.env_id].n_starts, EVALUATION_SEED).mean()), 2),
        "n_updates": model._n_updates,
        "num_timesteps": model.num_timesteps,
        "hyperparams": hyperparams,
        "processor": processor(),
        "curve": returns.points,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result) + "\n")


class Killer(BaseCallback):
    """
    Kills the process of a random actor now and then.

    :param actors: of the learner
    :param at: numbers of steps
    :param generator: of random numbers
    """

    def __init__(self, actors: RayActors, at: list[int], generator: np.random.Generator):
        super().__init__()
        self.actors, self.at, self.generator = actors, at, generator

    def _on_step(self) -> bool:
        if self.at and self.num_timesteps >= self.at[0]:
            running = self.actors.transport.actors
            actor = running[self.generator.integers(len(running))]
            # One that is dead, and has not been missed yet, cannot be killed again: at a later step then
            with suppress(ray.exceptions.RayActorError):
                os.kill(ray.get(actor.__ray_call__.remote(_process_of)), signal.SIGKILL)
                self.at.pop(0)
        return True


def _process_of(actor: Any) -> int:
    return os.getpid()


def kill_actors(model: Any, make_env: Any, seed: int) -> dict[str, Any]:
    """
    :param model: the learner, which learns 50,000 steps
    :param make_env: makes an environment
    :param seed: of what is killed, and when
    :return: what was killed and what was counted
    """
    generator, n_steps = np.random.default_rng(seed), 50_000
    at = sorted(generator.integers(1_000, n_steps - 1_000, N_KILLS).tolist())
    with RayActors(model, make_env, n_actors=2, envs_per_actor=8) as actors:
        model.learn(n_steps, callback=Killer(actors, list(at), generator))
        restarts = actors.fleet.records.n_restarts
    in_buffer = sum(ring.n_added * ring.n_envs for ring in model.replay_buffer.rings)
    return {"killed at step": at, "restarts": restarts, "steps counted": model.num_timesteps, "steps stored": in_buffer}


def kills() -> dict[str, Any]:
    """
    :return: of numbered environments, with every step in the replay buffer checked, and of CartPole
    """
    numbered = R2D2("MlpLstmPolicy", NumberedEnv(), seed=0, device="cpu", gradient_steps=-64, buffer_size=200_000)
    found = {"numbered environments": kill_actors(numbered, NumberedEnv, 0)}
    check_fleet(numbered)
    hyperparams = stated_hyperparams("r2d2", CARTPOLE) | {"n_envs": 1, "gradient_steps": RUNS[0].gradient_steps}
    model: Any = make_model("r2d2", CARTPOLE, 0, hyperparams)[0]
    found[CARTPOLE] = kill_actors(model, CARTPOLE, 1)
    found[CARTPOLE]["return"] = float(score(model, CARTPOLE, TASKS[CARTPOLE].n_starts, EVALUATION_SEED).mean())
    return {"command": "python -m benchmarks.distributed_learning --kills", "processor": processor(), "found": found}


def learning_table() -> list[str]:
    """
    :return: of the runs so far
    """
    rows = []
    for run in RUNS:
        threshold = TASKS[run.env_id].threshold
        for where in ("actors", "one process"):
            paths = [path_of(run, where, seed) for seed in SEEDS]
            results = [json.loads(path.read_text()) for path in paths if path.exists()]
            if not results:
                continue
            means = [result["mean"] for result in results]
            solved = [
                next((point["seconds"] for point in result["curve"] if point["return"] >= threshold), None)
                for result in results
            ]
            seconds = ", ".join("never" if at is None else f"{at:.0f} s" for at in solved)
            end = np.mean([result["curve"][-1]["seconds"] for result in results])
            start_up = np.mean([result["start_up_seconds"] for result in results])
            name = "2 actors" if where == "actors" else where
            told = [f"{np.mean(means):.1f} ({min(means):.1f})", seconds, f"{end:.0f} s", f"{start_up:.0f} s"]
            what = f"{run.algo}, {run.env_id}, {2 * run.n_envs} environments"
            rows.append([what, name, f"{run.n_timesteps:,}", str(len(results)), *told])
    header = [
        "task",
        "where",
        "steps",
        "seeds",
        "final models, mean (worst seed)",
        "time to the threshold, by seed",
        "all steps",
    ]
    return markdown([*header, "start-up"], rows) if rows else []


def write_report() -> None:
    """Write the tables."""
    lines = [*learning_table(), ""]
    path = RESULTS / "kills.json"
    if path.exists():
        lines += [f"{N_KILLS} actors killed within 50,000 steps:", ""]
        for name, told in json.loads(path.read_text())["found"].items():
            lines.append(f"* {name}: " + ", ".join(f"{what}: {value}" for what, value in told.items()))
        lines.append("")
    (RESULTS / "learning.md").write_text("\n".join(lines))
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--where", nargs="+", choices=["actors", "one process"], default=["actors", "one process"])
    parser.add_argument("--kills", action="store_true", help="in place of learning")
    parser.add_argument("--report", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    if arguments.kills:
        (RESULTS / "kills.json").write_text(json.dumps(kills(), indent=1) + "\n")
    elif not arguments.report:
        for seed in arguments.seeds:
            for run in RUNS:
                for where in arguments.where:
                    learn(run, where, seed)
    write_report()


if __name__ == "__main__":
    main()
