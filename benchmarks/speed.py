"""
What a step costs, measured side by side in one process: alternating runs, medians, ratios.

    python -m benchmarks.speed                 # table, figure, profile: benchmarks/results/speed_<device>.*
    python -m benchmarks.speed --device cuda

* one gradient update against its floor, the recurrent calls and the heads that it cannot do without, called alone; against
  skrl's recurrent agents at equal work; and per trained transition against sb3-contrib's RecurrentPPO
* a GRU update against an LSTM update, two threads against one
* collecting without training against SB3's feed-forward TD3 and RecurrentPPO
* sampling against the update it is for, uniform and prioritised, from a million steps
* bytes per transition in the replay buffer against the bytes of its fields
* how all of it grows (figure), and where an update and an acting step spend their time (profile)
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from tqdm import tqdm

from benchmarks.floor import FLOORS, floor
from benchmarks.growth import BASE, HEADS, draw, grow_buffer, grow_updates, held_bytes, model_to_update
from benchmarks.profiling import profile_acting, profile_update
from benchmarks.skrl_agents import skrl_agent
from benchmarks.timing import Row, heading, machine, row, side_by_side, summary, table
from sb3_recurrent_offpolicy import R2D2, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.type_aliases import RNNStates

RESULTS = Path(__file__).parent / "results"
BATCH = BASE["batch"]


SKRL: dict[type[RecurrentOffPolicyAlgorithm], str] = {RecurrentTD3: "TD3_RNN", RecurrentSAC: "SAC_RNN"}
# Of the examples, and of most tuned entries of hyperparams/: sequence length, hidden units, heads
SIZES = ((64, 128, [128, 128]), (32, 64, [64, 64]))
# Calls of a contender before the next one's turn: in training, too, an update finds its code and its weights in the caches
REPETITIONS = 5


def _repeated(call: Callable[[], Any]) -> None:
    for _ in range(REPETITIONS):
        call()


def benchmark_update(rounds: int, device: str) -> list[Row]:
    rows = []
    for (length, hidden, heads), n_threads in product(SIZES, (1, 2) if device == "cpu" else (th.get_num_threads(),)):
        before = th.get_num_threads()
        th.set_num_threads(n_threads)
        for algorithm, work in FLOORS.items():
            model = model_to_update(BASE | dict(length=length, hidden=hidden), device, algorithm, heads=heads)
            contenders: dict[str, Callable[[], Any]] = {
                algorithm.__name__: partial(model.train, work.n_updates, BATCH),
                "floor": floor(model, length, BATCH),
            }
            if algorithm in SKRL and device == "cpu":
                agent = skrl_agent(SKRL[algorithm], model.observation_space, model.action_space, BATCH, length, hidden, heads)
                agent.cfg.gradient_steps = work.n_updates
                contenders[f"skrl {SKRL[algorithm]}"] = partial(agent.update, timestep=0, timesteps=1)
            repeated = {name: partial(_repeated, call) for name, call in contenders.items()}
            seconds = side_by_side(repeated, rounds, device)
            ours, *others = (summary(values, 1e3 / work.n_updates / REPETITIONS) for values in seconds.values())
            what = f"{algorithm.__name__} update, T {length}, hidden {hidden}, {n_threads} thread(s) (ms)"
            rows += [row(what, ours, name, theirs) for name, theirs in zip(list(contenders)[1:], others, strict=True)]
        th.set_num_threads(before)
    return rows


def benchmark_trained_transition(rounds: int, device: str, length: int = 64, hidden: int = 128) -> list[Row]:
    """RecurrentPPO trains on each transition of a rollout ``n_epochs`` times, in batches as large as ours."""
    ours = model_to_update(BASE | dict(length=length, hidden=hidden), device)
    ppo = RecurrentPPO(
        "MlpLstmPolicy",
        make_vec_env("Pendulum-v1", n_envs=4, seed=0),
        n_steps=1024,
        batch_size=BATCH * length,
        n_epochs=2,
        device=device,
        policy_kwargs=dict(lstm_hidden_size=hidden, net_arch=HEADS),
    )
    ppo.set_logger(configure(None, []))
    ppo.learn(4096)
    seconds = side_by_side({"RecurrentSAC": partial(ours.train, 1, BATCH), "RecurrentPPO": ppo.train}, rounds, device)
    n_ours, n_theirs = BATCH * length, ppo.n_epochs * ppo.n_envs * ppo.n_steps
    return [
        row(
            "RecurrentSAC update per trained transition (µs)",
            summary(seconds["RecurrentSAC"], 1e6 / n_ours),
            "RecurrentPPO",
            summary(seconds["RecurrentPPO"], 1e6 / n_theirs),
        )
    ]


def benchmark_variants(rounds: int, device: str) -> list[Row]:
    """Other cores against the LSTM, and what a second thread and coarser matrix products bring."""
    rows = []
    for hidden in (128, 512):
        models = {
            core: model_to_update(BASE | dict(length=64, hidden=hidden), device, core=core)
            for core in ("gru", "mingru", "rtu", "lstm")
        }
        updates = {core: partial(model.train, 1, BATCH) for core, model in models.items()}
        *others, lstm = ((core, summary(s, 1e3)) for core, s in side_by_side(updates, rounds, device).items())
        what = f"RecurrentSAC update, T 64, hidden {hidden}"
        rows += [row(f"{what}, {core} (ms)", ours, *lstm) for core, ours in others]
    update = partial(model_to_update(BASE | dict(length=64), device).train, 1, BATCH)
    seconds = side_by_side(
        {
            p: partial(_under, th.get_float32_matmul_precision, th.set_float32_matmul_precision, p, update)
            for p in ("medium", "highest")
        },
        rounds,
        device,
    )
    coarse, exact = (summary(values, 1e3) for values in seconds.values())
    rows.append(row('RecurrentSAC update, float32_matmul_precision "medium" (ms)', coarse, '"highest"', exact))
    if device == "cpu":
        seconds = side_by_side(
            {f"{n} thread(s)": partial(_under, th.get_num_threads, th.set_num_threads, n, update) for n in (2, 1)}, rounds
        )
        two, one = (summary(values, 1e3) for values in seconds.values())
        rows.append(row("RecurrentSAC update, 2 threads (ms)", two, "1 thread", one))
    return rows


def _under(get: Callable[[], Any], change: Callable[[Any], None], value: Any, call: Callable[[], Any]) -> None:
    """Call with a global setting of torch changed."""
    before = get()
    change(value)
    call()
    change(before)


def benchmark_collection(rounds: int, device: str, n_steps: int = 2_048) -> list[Row]:
    """Steps per second without training. RecurrentPPO's rollout is its ``collect_rollouts`` alone."""
    rows = []
    for n_envs in (1, 8, 32):
        never = 10**9
        off_policy: dict[str, Any] = dict(
            learning_starts=0, train_freq=n_steps // n_envs, gradient_steps=0, device=device, seed=0
        )
        models: dict[str, Any] = {
            "RecurrentTD3": RecurrentTD3(
                "MlpLstmPolicy", make_vec_env("Pendulum-v1", n_envs), buffer_size=100_000, **off_policy
            ),
            "TD3": TD3("MlpPolicy", make_vec_env("Pendulum-v1", n_envs), buffer_size=100_000, **off_policy),
            "RecurrentPPO": RecurrentPPO(
                "MlpLstmPolicy",
                make_vec_env("Pendulum-v1", n_envs),
                n_steps=n_steps // n_envs,
                device=device,
                policy_kwargs=dict(lstm_hidden_size=128),
            ),
        }
        contenders: dict[str, Callable[[], Any]] = {}
        for name, model in models.items():
            model.set_logger(configure(None, []))
            _, callback = model._setup_learn(never)
            if name == "RecurrentPPO":
                arguments: dict[str, Any] = dict(
                    env=model.env, callback=callback, rollout_buffer=model.rollout_buffer, n_rollout_steps=n_steps // n_envs
                )
            else:
                arguments = dict(
                    env=model.env, callback=callback, train_freq=model.train_freq, replay_buffer=model.replay_buffer
                )
            contenders[name] = partial(model.collect_rollouts, **arguments)
        seconds = side_by_side(contenders, rounds, device)
        per_second = {name: summary([n_steps / value for value in values]) for name, values in seconds.items()}
        what = f"collecting, {n_envs} env(s) (steps/s)"
        rows += [row(what, per_second["RecurrentTD3"], rival, per_second[rival]) for rival in ("TD3", "RecurrentPPO")]
    return rows


def benchmark_sampling(rounds: int, device: str, n_envs: int = 8) -> list[Row]:
    """From a full buffer of a million steps: uniform for RecurrentSAC, prioritised in the paper's batch for R2D2."""
    space = spaces.Box(-1, 1, (8,), np.float32)
    env = make_vec_env(
        lambda: gym.wrappers.TransformObservation(gym.make("CartPole-v1"), lambda o: np.tile(o, 2), space), n_envs
    )
    common: dict[str, Any] = dict(learning_starts=10**9, device=device)
    paper = dict(lstm_hidden_size=512, net_arch=[512])
    rows = []
    for what, batch, model in (
        (
            f"RecurrentSAC's sampling of {BATCH} sequences of 64 (ms)",
            BATCH,
            RecurrentSAC("MlpLstmPolicy", env, sequence_length=64, policy_kwargs=dict(net_arch=HEADS), **common),
        ),
        (
            "R2D2's prioritised sampling of 64 sequences of 80 (ms)",
            64,
            R2D2("MlpLstmPolicy", env, sequence_length=80, burn_in=40, policy_kwargs=paper, **common),
        ),
    ):
        model.learn(n_envs)
        buffer = model.replay_buffer
        observation, zeros = np.zeros((n_envs, 8), dtype=np.float32), np.zeros(n_envs)
        states = model.policy.initial_states(n_envs)
        for step in tqdm(range(buffer.buffer_size), desc="filling the buffer", leave=False):
            start = np.full(n_envs, step % 500 == 0)
            buffer.add(observation, observation, np.zeros((n_envs, 1)), zeros, zeros, [{}] * n_envs, start, states)
        model.train(1, batch)
        update = partial(model.train, 1, batch)
        seconds = side_by_side({"sample": partial(model._sample_sequences, batch), "update": update}, rounds, device)
        ours, theirs = (summary(values, 1e3) for values in seconds.values())
        rows.append(row(what, ours, f"its update, LSTM {model.policy.lstm_hidden_size}", theirs))
    return rows


def benchmark_memory(n_steps: int = 10_000) -> list[Row]:
    rows = []
    for name, space in (
        ("float32 vector of 50", spaces.Box(-1, 1, (50,), np.float32)),
        ("uint8 image 84x84", spaces.Box(0, 255, (1, 84, 84), np.uint8)),
    ):
        assert space.shape is not None and space.dtype is not None
        observation = np.zeros((1, *space.shape), dtype=space.dtype)
        states = RNNStates((th.zeros(1, 1, 64),) * 2, (th.zeros(1, 1, 64),) * 2)
        buffer = RecurrentSequenceReplayBuffer(n_steps, space, spaces.Box(-1, 1, (1,), np.float32), device="cpu")
        for step in range(n_steps):
            start = np.array([step % 200 == 0])
            buffer.add(observation, observation, np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}], start, states)
        held = held_bytes(buffer) - buffer.rings[0].states.nbytes
        fields = observation.nbytes + 4 + 4 + 1
        what = f"bytes per transition, {name}; memory states ({buffer.rings[0].states.nbytes / n_steps:.0f}) apart"
        rows.append(row(what, {"median": held / n_steps}, "observation, action, reward, flag", {"median": float(fields)}))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    th.set_num_threads(arguments.threads)
    rounds, device = arguments.rounds, arguments.device

    rows = benchmark_update(rounds, device)
    rows += benchmark_trained_transition(max(rounds // 2, 3), device)
    rows += benchmark_variants(rounds, device)
    rows += benchmark_collection(max(rounds // 3, 3), device)
    rows += benchmark_sampling(max(rounds // 3, 3), device)
    rows += benchmark_memory()
    updates, buffers = grow_updates(max(rounds // 3, 3), device), grow_buffer(max(rounds // 3, 3))
    model = model_to_update(BASE | dict(length=64), device)
    profiles = {
        "RecurrentSAC update, T 64, hidden 128": profile_update(model, BATCH),
        "acting step, 8 environments, hidden 128": profile_acting(device),
    }

    stated = machine(device, arguments.threads) | {
        "setting": f"batch {BATCH}, heads {HEADS} ({SIZES[1][2]} at hidden {SIZES[1][1]}), median (10 % to 90 %)"
    }
    name = f"speed_{device}"
    result = {"machine": stated, "rows": rows, "updates": updates, "buffers": buffers, "profiles": profiles}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(updates, buffers, RESULTS / f"{name}_growth.png")
    lines = [*heading(stated), table(rows), "", f"![growth]({name}_growth.png)"]
    for what, parts in profiles.items():
        lines += ["", f"{what}: {parts['total ms']:.2f} ms", "", "| part | share |", "|---|---|"]
        lines += [f"| {part} | {share:.0%} |" for part, share in parts["shares"].items()]
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
