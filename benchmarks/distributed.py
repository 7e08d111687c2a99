"""
How fast actors on Ray collect, what they cost, and how much one learner can take in.

    python -m benchmarks.distributed            # all
    python -m benchmarks.distributed --report   # tables from the results so far

Slow environments sleep in each step, as a simulator on a core of its own would let the learner's core be.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger

from benchmarks.overlap import Sleeps
from benchmarks.report import markdown
from benchmarks.timing import processor
from sb3_recurrent_offpolicy import R2D2
from sb3_recurrent_offpolicy.distributed import RayActors
from sb3_recurrent_offpolicy.distributed.actor import Actor
from sb3_recurrent_offpolicy.distributed.messages import Delivery, Order, Weights

RESULTS = Path(__file__).parent / "results" / "distributed"
ENV_ID = "CartPoleNoVel-v1"
SECONDS_PER_STEP = 0.005
N_ACTORS = (1, 2, 4, 8)
STEPS_PER_ACTOR = 2_000
# Of actors that sleep and deliver
ENVS_PER_SLEEPER, STRETCH_LENGTH, SECONDS_PER_STRETCH = 8, 128, 0.04
# Of an actor, and of the one process that it is compared with
N_ENVS = 4
# Transitions per update, so that updates take less than half of the learner's core
TRANSITIONS_PER_UPDATE = 64


def slow_env(seconds: float) -> gym.Env:
    return Sleeps(gym.make(ENV_ID), seconds)


class Means(KVWriter):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.found = dict(key_values)

    def close(self) -> None:
        pass


def slow_model(n_envs: int, gradient_steps: int, seconds: float) -> R2D2:
    env = make_vec_env(partial(slow_env, seconds), n_envs=n_envs)
    # Updates begin at once
    return R2D2(
        "MlpLstmPolicy", env, seed=0, device="cpu", gradient_steps=gradient_steps, buffer_size=200_000, learning_starts=100
    )


def steps_per_second(model: R2D2, n_steps: int) -> tuple[float, float]:
    """
    :param model: with or without actors
    :param n_steps: to be measured, after a while of warm-up, when all actors have made their models
    :return: steps per second, and the share of the time in which this process computed
    """
    model.learn(500)
    fleet: Any = model.deliveries
    while fleet is not None and min(member.n_delivered for member in fleet.members) < 3:
        model.learn(500, reset_num_timesteps=False)
    begin, computed_before, before = time.perf_counter(), time.process_time(), model.num_timesteps
    model.learn(n_steps, reset_num_timesteps=False)
    seconds = time.perf_counter() - begin
    return (model.num_timesteps - before) / seconds, (time.process_time() - computed_before) / seconds


def throughput() -> list[dict[str, Any]]:
    """
    :return: rows: one process and fleets, without and with updates
    """
    rows: list[dict[str, Any]] = []
    for name, gradient_steps in (("without updates", 0), ("with updates", -TRANSITIONS_PER_UPDATE)):
        one, _ = steps_per_second(slow_model(N_ENVS, gradient_steps, SECONDS_PER_STEP), STEPS_PER_ACTOR)
        rows.append({"what": name, "actors": 0, "steps/s": one, "ratio": 1.0})
        for n_actors in N_ACTORS:
            # One stays behind, which never acts
            model, means = slow_model(1, gradient_steps, SECONDS_PER_STEP), Means()
            model.set_logger(Logger(None, [means]))
            env = partial(slow_env, SECONDS_PER_STEP)
            with RayActors(model, env, n_actors=n_actors, envs_per_actor=N_ENVS):
                rate, _ = steps_per_second(model, STEPS_PER_ACTOR * n_actors)
                model.dump_logs()
            row = {"what": name, "actors": n_actors, "steps/s": rate, "ratio": rate / one}
            rows.append(row | {key: value for key, value in means.found.items() if key.startswith("distributed/")})
            print(rows[-1], flush=True)
    return rows


def handing_over() -> dict[str, float]:
    """
    :return: of an actor whose learner makes no updates: share of its time that is not spent on steps; bytes of a step
    """
    model = slow_model(1, 0, SECONDS_PER_STEP)
    deliveries: list[Delivery] = []
    with RayActors(model, partial(slow_env, SECONDS_PER_STEP), n_actors=1, envs_per_actor=N_ENVS) as actors:
        store = actors.fleet._store

        def noted(member: Any, delivery: Delivery) -> Any:
            deliveries.append(delivery)
            return store(member, delivery)

        # Listens in where deliveries are stored
        actors.fleet._store = noted  # type: ignore[method-assign]
        model.learn(6_000)
    # The first one makes the model, the second finds its order waiting
    steady = deliveries[2:]
    waited, worked = (sum(getattr(each, name) for each in steady) for name in ("seconds_waiting", "seconds"))
    n_bytes = [len(cloudpickle.dumps(each)) / each.dones.size for each in steady]
    return {"share of an actor's time": waited / (waited + worked), "bytes per step": float(np.mean(n_bytes))}


class SleepingActor(Actor):
    """Delivers one stretch of steps again and again, at the pace of its environments."""

    def collect(self, order: Order, weights: Weights) -> Delivery:
        if self.model is None:
            # It begins with new episodes, each time
            self.delivery = super().collect(order, weights)
        else:
            time.sleep(SECONDS_PER_STRETCH)
            self.delivery = self.delivery._replace(number=self.delivery.number + 1, version=order.version)
        return self.delivery


class SleepingActors(RayActors):
    actor_class = SleepingActor


def ingest() -> list[dict[str, Any]]:
    """
    :return: rows: fleets that offer more and more steps, and what the learner takes in, without updates
    """
    rows = []
    per_stretch = ENVS_PER_SLEEPER * STRETCH_LENGTH
    for n_actors in N_ACTORS:
        model = slow_model(1, 0, 0.0)
        with SleepingActors(model, partial(slow_env, 0.0), n_actors, ENVS_PER_SLEEPER, stretch_length=STRETCH_LENGTH):
            rate, busy = steps_per_second(model, 100 * n_actors * per_stretch)
        offered = n_actors * per_stretch / SECONDS_PER_STRETCH
        rows.append({"actors": n_actors, "offered steps/s": offered, "steps/s": rate, "learner busy": busy})
        print(rows[-1], flush=True)
    return rows


def write(name: str, measure: Callable[[], Any]) -> None:
    """
    :param name: of the file
    :param measure: gives what it holds
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    command = f"python -m benchmarks.distributed --part {name}"
    result = {"command": command, "processor": processor(), "found": measure()}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def _read(name: str) -> Any:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["found"] if path.exists() else None


def write_report() -> None:
    """Write the tables."""
    lines = [f"Two cores, {processor()}. Each part of the command writes its own file beside this one.", ""]
    if found := _read("throughput"):
        lines += [f"A step of an environment takes {1000 * SECONDS_PER_STEP:.0f} ms; {N_ENVS} environments per actor.", ""]
        cells = [
            [row["what"], str(row["actors"] or "one process"), f"{row['steps/s']:.0f}", f"{row['ratio']:.2f}"] for row in found
        ]
        lines += [*markdown(["updates", "actors", "steps/s", "of one process"], cells), ""]
    if found := _read("handing_over"):
        share, n_bytes = found["share of an actor's time"], found["bytes per step"]
        lines += [f"Handing over takes {100 * share:.2f} % of an actor's time, {n_bytes:.0f} bytes per step.", ""]
    if found := _read("ingest"):
        cells = [
            [str(r["actors"]), f"{r['offered steps/s']:,.0f}", f"{r['steps/s']:,.0f}", f"{100 * r['learner busy']:.0f} %"]
            for r in found
        ]
        lines += ["Actors that sleep for 40 ms and deliver 128 steps of 8 environments; no updates.", ""]
        lines += [*markdown(["actors", "offered steps/s", "taken in, steps/s", "learner's core busy"], cells), ""]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "speed.md").write_text("\n".join(lines))
    print("\n".join(lines))


def main() -> None:
    measures: dict[str, Callable[[], Any]] = {
        "throughput": throughput,
        "handing_over": handing_over,
        "ingest": ingest,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=measures, nargs="+", default=list(measures))
    parser.add_argument("--report", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    for name in [] if arguments.report else arguments.part:
        write(name, measures[name])
    write_report()


if __name__ == "__main__":
    main()
