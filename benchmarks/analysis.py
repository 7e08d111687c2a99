"""
What the tools of ``sb3_recurrent_offpolicy.analysis`` say of trained policies.

    python -m benchmarks.analysis memory_use                 # does it use its memory, does it need it, how much of it?
    python -m benchmarks.analysis machines                   # as finite-state machines: sizes, returns, what is kept
    python -m benchmarks.analysis probes                     # what can be read from the memory, beside the controls
    python -m benchmarks.analysis pages                      # the HTML pages of docs/
    python -m benchmarks.analysis memory_use --task "TD3, Pendulum-v1"

Models are those of ``benchmarks.trained``: trained where no file keeps them, by the default of the algorithm where nothing
else is said. A part that has a result file is not repeated. ``benchmarks.analysis_report`` makes the tables.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from benchmarks.analysis_report import path_of, write_report
from benchmarks.learning import DEFAULT_ENTRY
from benchmarks.trained import trained
from sb3_recurrent_offpolicy.analysis import (
    MooreMachine,
    completed,
    draw_machine,
    extract_machine,
    findings_of,
    learned,
    memory_use,
    minimized,
    probe,
    quantize,
    write_page,
)
from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy
from sb3_recurrent_offpolicy.analysis.playing import PolicyPlayer, envs_of, returns_of
from sb3_recurrent_offpolicy.zoo import ALGORITHMS

PAGES = Path(__file__).parents[1] / "docs" / "analysis"
# Starts of what is scored here, which no part of the analysis has fitted or chosen by
SCORE_SEED = 9_000_011
N_SCORED = 200
# Learning a machine from walks takes long on long ones
N_LEARNED = 100
MOST_DRAWN = 60
MOST_ENTRIES = 1_000_000


class Opened(NamedTuple):
    """
    A model to open.

    :param algo: the algorithm
    :param env_id: the environment
    :param settings: of its training
    :param seed: of its training
    :param is_tuned: by the environment's entry, not the default
    :param env_kwargs: of the environment
    """

    algo: str
    env_id: str
    settings: tuple[str, ...] = ()
    seed: int = 0
    is_tuned: bool = False
    env_kwargs: tuple[tuple[str, Any], ...] = ()

    def model(self) -> Any:
        settings = [*self.settings, *(f"env_kwargs.{name}={value}" for name, value in self.env_kwargs)]
        return trained(self.algo, self.env_id, self.seed, settings, None if self.is_tuned else DEFAULT_ENTRY)

    def env(self) -> Any:
        return lambda: gym.make(self.env_id, **dict(self.env_kwargs))


def _default(algo: str, env_id: str, n_timesteps: int, *settings: str, **kwargs: Any) -> Opened:
    return Opened(algo, env_id, (f"n_timesteps={n_timesteps}", *settings), **kwargs)


MODELS = {
    "TD3, Pendulum-v1": _default("recurrent_td3", "Pendulum-v1", 20_000),
    "TD3, PendulumNoVel-v1": _default("recurrent_td3", "PendulumNoVel-v1", 20_000),
    "RecurrentPPO, PendulumNoVel-v1": Opened("recurrent_ppo", "PendulumNoVel-v1", is_tuned=True),
    "TD3, PendulumVelocityOnly-v0": _default("recurrent_td3", "PendulumVelocityOnly-v0", 30_000, "n_envs=1", seed=1),
    "TD3, PendulumFlicker-v0": _default("recurrent_td3", "PendulumFlicker-v0", 36_000, "n_envs=1", seed=1),
    "R2D2, CartPoleNoVel-v1": _default("r2d2", "CartPoleNoVel-v1", 100_000),
    "SAC, CartPoleNoVel-v1": _default("recurrent_sac", "CartPoleNoVel-v1", 50_000),
    "R2D2, MemoryLength-v0 (10)": _default("r2d2", "MemoryLength-v0", 40_000),
    "R2D2, MemoryLength-v0 (20)": _default("r2d2", "MemoryLength-v0", 100_000, env_kwargs=(("memory_length", 20),)),
    "R2D2, PassiveTMaze-v0": _default("r2d2", "PassiveTMaze-v0", 40_000),
    "R2D2, popgym-RepeatPreviousEasy-v0": Opened("r2d2", "popgym-RepeatPreviousEasy-v0", is_tuned=True),
    "R2D2, popgym-NoisyPositionOnlyCartPoleEasy-v0": _default("r2d2", "popgym-NoisyPositionOnlyCartPoleEasy-v0", 100_000),
    "SAC, HiddenWindReach-v0": _default("recurrent_sac", "HiddenWindReach-v0", 320_000, "n_envs=8"),
    "SAC, PendulumUnknown-v0": _default("recurrent_sac", "PendulumUnknown-v0", 100_000, "n_envs=8"),
    "TD3, PendulumUnknown-v0": _default("recurrent_td3", "PendulumUnknown-v0", 40_000, "n_envs=1"),
    "RecurrentPPO, PendulumUnknown-v0": Opened("recurrent_ppo", "PendulumUnknown-v0", is_tuned=True),
    "R2D2, CartPoleUnknown-v1": _default("r2d2", "CartPoleUnknown-v1", 150_000, "n_envs=8"),
    "RecurrentPPO, CartPoleUnknown-v1": Opened("recurrent_ppo", "CartPoleUnknown-v1", is_tuned=True),
}
PHYSICS = {
    "PendulumUnknown-v0": {"mass": "info.physics.m", "length": "info.physics.l"},
    "CartPoleUnknown-v1": {
        "half length of the pole": "info.physics.length",
        "mass of the pole": "info.physics.masspole",
        "mass of the cart": "info.physics.masscart",
        "force": "info.physics.force_mag",
    },
}
PROBED: dict[str, dict[str, Any]] = {
    "TD3, PendulumNoVel-v1": {"velocity": "state[1]"},
    "RecurrentPPO, PendulumNoVel-v1": {"velocity": "state[1]"},
    "R2D2, MemoryLength-v0 (10)": {"cue": "context[0]"},
    **{
        name: PHYSICS[env_id]
        for env_id in PHYSICS
        for name in (f"{'TD3' if 'Pendulum' in env_id else 'R2D2'}, {env_id}", f"RecurrentPPO, {env_id}")
    },
}
# The model, and the sizes of the codes of observation and memory
MACHINES: dict[str, tuple[str, dict[str, Any]]] = {
    "R2D2, MemoryLength-v0 (10)": ("R2D2, MemoryLength-v0 (10)", dict(observation_code=4, memory_code=4)),
    "R2D2, PassiveTMaze-v0": ("R2D2, PassiveTMaze-v0", dict(observation_code=4, memory_code=4)),
    "R2D2, CartPoleNoVel-v1": ("R2D2, CartPoleNoVel-v1", dict(observation_code=8, memory_code=12, n_rounds=20)),
    "TD3, PendulumNoVel-v1": ("TD3, PendulumNoVel-v1", dict(observation_code=8, memory_code=16)),
    "TD3, PendulumNoVel-v1, large codes": ("TD3, PendulumNoVel-v1", dict(observation_code=16, memory_code=64)),
}
PAGES_OF = {
    "R2D2, MemoryLength-v0 (10)": "memory_length.html",
    "TD3, PendulumNoVel-v1": "pendulum_no_vel.html",
}


def mean_of(player: Any, opened: Opened, model: Any, n_episodes: int = N_SCORED) -> float:
    """
    :param player: acts, as a model does
    :param opened: whose task it is
    :param model: that the task is shown to as it was in training
    :param n_episodes: to be played
    :return: mean return
    """
    with envs_of(OpenedPolicy(model), opened.env(), n_episodes, SCORE_SEED) as envs:
        return float(returns_of(envs, PolicyPlayer(OpenedPolicy(player)), n_episodes).mean())


def use_memory(name: str) -> dict[str, Any]:
    found = memory_use(MODELS[name].model(), MODELS[name].env(), n_episodes=100, show_progress=True)
    print(found)
    return {
        "intervals": {way: [round(value, 4) for value in interval] for way, interval in found.intervals().items()},
        "uses_memory": found.uses_memory,
        "needs_memory": found.needs_memory,
        "smallest_memory": found.smallest_memory,
    }


def make_machines(name: str) -> dict[str, Any]:
    model_name, codes = MACHINES[name]
    opened = MODELS[model_name]
    model = opened.model()
    quantized, report = quantize(model, opened.env(), **codes, show_progress=True)
    print(report)
    machine, walks = extract_machine(quantized, opened.env(), n_episodes=N_SCORED)
    machines = {"as seen": machine}
    if machine.n_states * machine.n_symbols <= MOST_ENTRIES:
        machines["completed"] = completed(machine)
        machines["minimised"] = minimized(machines["completed"])
    machines["learned"] = learned(machine, walks[:N_LEARNED])
    zeroed = report.zeroed.mean()
    original = mean_of(model, opened, model)
    rows = {}
    for kind, each in machines.items():
        each.reset_counts()
        mean = mean_of(each, opened, model)
        rows[kind] = {
            "states": each.n_states - 1,
            "symbols": len({symbol for _, symbol in each.table}),
            "mean": round(mean, 3),
            "kept": round(float((mean - zeroed) / (original - zeroed)), 4),
            "asked": round(each.asked, 4),
        }
        print(kind, rows[kind], flush=True)
    if machine.n_states <= MOST_DRAWN:
        draw_machine(machine, path_of("machines", name).with_suffix(".png"), walks)
    found = {
        "codes": codes,
        "original": round(original, 3),
        "zeroed": round(float(zeroed), 3),
        "quantized": round(mean_of(quantized, opened, model), 3),
        "inserted": {kind: round(float(returns.mean()), 3) for kind, returns in report.alone.items()}
        | {"all": round(float(report.inserted.mean()), 3), "all, fine-tuned": round(float(report.tuned.mean()), 3)},
        "agreement": round(report.agreement, 4),
        "machines": rows,
    }
    if opened.env_id == "MemoryLength-v0":
        found["cue_from_state"] = {kind: cue_accuracy(machines[kind], opened) for kind in ("as seen", "minimised")}
        print(found["cue_from_state"])
    return found


def cue_accuracy(machine: MooreMachine, opened: Opened) -> float:
    """
    :param machine: of MemoryLength
    :param opened: whose task it is
    :return: accuracy of the cue guessed from the machine's state, at all steps: the guess is the cue that the state was seen
        with more often, in other episodes
    """
    counts = np.zeros((machine.n_states, 2))
    for n_episodes, seed in ((N_SCORED, SCORE_SEED), (N_SCORED, SCORE_SEED + N_SCORED)):
        envs = make_vec_env(opened.env(), n_envs=n_episodes, seed=seed)
        observations: Any = envs.reset()
        cues = np.array([context[0] for context in envs.get_attr("context")])
        state, right = None, []
        for t in range(11):
            actions, state = machine.predict(observations, state, np.full(n_episodes, t == 0))
            nodes = state[0][0, :, 0]
            if seed == SCORE_SEED:
                np.add.at(counts, (nodes, cues), 1)
            else:
                right.append((counts[nodes].argmax(axis=1) == cues).mean())
            observations, *_ = envs.step(actions)
    return round(float(np.mean(right)), 4)


def probe_memory(name: str) -> dict[str, Any]:
    opened = MODELS[name]
    # A body has one mass in an episode
    n_episodes = 600 if opened.env_id in PHYSICS else 200
    found = probe(opened.model(), opened.env(), PROBED[name], n_episodes=n_episodes, show_progress=True)
    print(found)
    return {
        quantity: {
            source: {
                "linear": round(kinds["linear"].score(), 4),
                "mlp": round(kinds["mlp"].score(), 4),
                "from step 10": round(max(kind.score(10) for kind in kinds.values()), 4),
                "by step": [round(float(score), 4) for score in found.best(quantity, source).by_step()],
            }
            for source, kinds in sources.items()
        }
        for quantity, sources in found.decoded.items()
    }


def make_page(name: str) -> None:
    opened = MODELS[name]
    PAGES.mkdir(parents=True, exist_ok=True)
    _, codes = MACHINES[name]
    findings = findings_of(
        opened.model(),
        # An id gives pictures of the episode
        opened.env_id,
        quantities=PROBED[name],
        title=f"{ALGORITHMS[opened.algo].__name__} on {opened.env_id}",
        show_progress=True,
        **codes,
    )
    write_page(PAGES / PAGES_OF[name], findings)


PARTS: dict[str, tuple[Callable[[str], dict[str, Any]], list[str]]] = {
    "memory_use": (use_memory, [name for name in MODELS if "RecurrentPPO" not in name]),
    "machines": (make_machines, list(MACHINES)),
    "probes": (probe_memory, list(PROBED)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "pages"])
    parser.add_argument("--task", choices=[*MODELS, *(MACHINES.keys() - MODELS.keys())], nargs="+", help="some of the models")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    if arguments.part == "pages":
        for name in arguments.task or PAGES_OF:
            make_page(name)
        return
    make, names = PARTS[arguments.part]
    for name in arguments.task or names:
        path = path_of(arguments.part, name)
        if path.exists():
            print(f"{path} is there already")
            continue
        begin = time.perf_counter()
        found = make(name)
        command = f'python -m benchmarks.analysis {arguments.part} --task "{name}"'
        path.parent.mkdir(parents=True, exist_ok=True)
        seconds = round(time.perf_counter() - begin, 1)
        path.write_text(json.dumps({"command": command, "model": name, "seconds": seconds, "found": found}, indent=1) + "\n")
    write_report()


if __name__ == "__main__":
    main()
