"""
What ``overlap_updates`` brings where environments are slow, and what it costs where they are not.

    python -m benchmarks.overlap      # table: benchmarks/results/overlap.*

Environments sleep in each step, as a simulator on a core of its own would let the learner's core be, and run in processes of
their own. The same model learns with and without overlap, one update per step, in alternating runs.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from benchmarks.timing import Row, heading, machine, row, side_by_side, summary, table
from sb3_recurrent_offpolicy import RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm

RESULTS = Path(__file__).parent / "results"
BATCH, LENGTH, HIDDEN, HEADS = 32, 32, 64, [64, 64]
FILLED = 500


class Sleeps(gym.Wrapper):
    """
    Takes its time.

    :param env: the environment
    :param seconds: that a step takes longer
    """

    def __init__(self, env: gym.Env, seconds: float):
        super().__init__(env)
        self.seconds = seconds

    def step(self, action: Any) -> Any:
        if self.seconds > 0:
            time.sleep(self.seconds)
        return self.env.step(action)


def learner(
    algorithm: type[RecurrentOffPolicyAlgorithm], seconds: float, n_envs: int, vec_env_cls: type[DummyVecEnv | SubprocVecEnv]
) -> Any:
    """
    :param algorithm: class of the model
    :param seconds: that a step of the environments takes longer
    :param n_envs: their number
    :param vec_env_cls: where they run
    :return: a model that makes one update per step from now on
    """
    make_env: Callable[[], gym.Env] = partial(_make_env, seconds)
    env: VecEnv = make_vec_env(make_env, n_envs=n_envs, seed=0, vec_env_cls=vec_env_cls)
    model: Any = algorithm(
        "MlpLstmPolicy",
        env,
        learning_rate=1e-3,
        batch_size=BATCH,
        sequence_length=LENGTH,
        learning_starts=FILLED,
        device="cpu",
        seed=0,
        policy_kwargs=dict(lstm_hidden_size=HIDDEN, net_arch=HEADS),
    )
    model.set_logger(configure(None, []))
    return model.learn(FILLED)


def _make_env(seconds: float) -> gym.Env:
    return Sleeps(gym.make("Pendulum-v1"), seconds)


def go_on(model: Any, n_steps: int, **settings: Any) -> None:
    """
    :param model: learns on
    :param n_steps: of each of its environments
    :param settings: of the model, from now on
    """
    for name, value in settings.items():
        setattr(model, name, value)
    model.learn(n_steps * model.n_envs, reset_num_timesteps=False, log_interval=None)


def overlap_against_turns(model: Any, what: str, n_steps: int, rounds: int) -> Row:
    """
    :param model: from :func:`learner`
    :param what: is measured
    :param n_steps: of each environment in one run
    :param rounds: number of runs
    :return: steps per second with overlap against those without
    """
    seconds = side_by_side(
        {
            "overlap": partial(go_on, model, n_steps, overlap_updates=True),
            "in turn": partial(go_on, model, n_steps, overlap_updates=False),
        },
        rounds,
    )
    overlap, in_turn = (summary([n_steps * model.n_envs / value for value in values]) for values in seconds.values())
    return row(f"{what} (steps/s)", overlap, "in turn", in_turn)


def update_against_step(model: Any, what: str, n_steps: int, rounds: int) -> Row:
    """What can overlap: parameters as in :func:`overlap_against_turns`."""
    seconds = side_by_side(
        {
            "update": lambda: [model.train(1) for _ in range(n_steps)],
            "step": partial(go_on, model, n_steps, gradient_steps=0),
        },
        rounds,
    )
    model.gradient_steps = 1
    update, step = (summary(values, 1e3 / n_steps) for values in seconds.values())
    return row(f"{what}, an update (ms)", update, "a step", step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=40, help="in each run")
    parser.add_argument("--milliseconds", type=float, nargs="+", default=[5.0, 10.0], help="that slow environments sleep")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    rows = []
    for algorithm in (RecurrentTD3, RecurrentSAC):
        for n_envs in (1, 4):
            cases: list[tuple[float, type[DummyVecEnv | SubprocVecEnv]]] = [(0.0, DummyVecEnv), (0.0, SubprocVecEnv)]
            cases += [(milliseconds, SubprocVecEnv) for milliseconds in arguments.milliseconds]
            for milliseconds, vec_env_cls in cases:
                model = learner(algorithm, milliseconds / 1e3, n_envs, vec_env_cls)
                what = f"{algorithm.__name__}, {n_envs} x {milliseconds:g} ms in {vec_env_cls.__name__}"
                measured = (model, what, arguments.steps, arguments.rounds)
                if milliseconds > 0:
                    rows.append(update_against_step(*measured))
                rows.append(overlap_against_turns(*measured))
                model.get_env().close()
    stated = machine("cpu", th.get_num_threads())
    stated |= {"setting": f"batch {BATCH}, T {LENGTH}, hidden {HIDDEN}, heads {HEADS}, median (10 % to 90 %)"}
    (RESULTS / "overlap.json").write_text(json.dumps({"machine": stated, "rows": rows}, indent=1) + "\n")
    lines = [*heading(stated), table(rows)]
    (RESULTS / "overlap.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
