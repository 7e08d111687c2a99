"""
What a step costs, measured side by side in one process: alternating runs, medians, ratios.

    python benchmarks/speed.py                 # prints a Markdown table, writes benchmarks/results/speed_<device>.json
    python benchmarks/speed.py --device cuda

* one gradient update against the bare recurrent calls that it cannot do without
* collecting without training against SB3's feed-forward TD3 and sb3-contrib's RecurrentPPO
* drawing prioritised sequences against the update they are drawn for
* bytes per transition in the replay buffer against the bytes of its fields
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from torch import nn
from tqdm import tqdm

from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.type_aliases import RNNStates

BATCH, LENGTH, HIDDEN, HEADS = 32, 64, 128, [128, 128]


def side_by_side(contenders: dict[str, Callable[[], Any]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds per call of each contender, in rounds A B C A B C, after one round of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in tqdm(range(rounds + 1), desc=" / ".join(contenders), leave=False):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            if device == "cuda":
                th.cuda.synchronize()
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: list[float], scale: float = 1.0) -> dict[str, float]:
    values = sorted(scale * value for value in seconds)
    return {"median": median(values), "low": values[len(values) // 10], "high": values[-1 - len(values) // 10]}


class Calls(NamedTuple):
    """Recurrent calls that some updates of an algorithm cannot do without."""

    n_updates: int
    forward: int
    forward_backward: int


CALLS: dict[type[RecurrentOffPolicyAlgorithm], Calls] = {
    # The actor is updated every second time
    RecurrentTD3: Calls(n_updates=2, forward=4, forward_backward=3),
    RecurrentSAC: Calls(n_updates=1, forward=1, forward_backward=2),
    RecurrentDDPG: Calls(n_updates=1, forward=2, forward_backward=2),
}


def trained_model(algorithm: Callable[..., Any], device: str) -> Any:
    model = algorithm(
        "MlpLstmPolicy",
        make_vec_env("Pendulum-v1", n_envs=4, seed=0),
        batch_size=BATCH,
        sequence_length=LENGTH,
        buffer_size=20_000,
        learning_starts=10**9,
        device=device,
        seed=0,
        policy_kwargs=dict(lstm_hidden_size=HIDDEN, net_arch=HEADS),
    )
    model.set_logger(configure(None, []))
    return model.learn(8_000)


def bare_calls(input_size: int, calls: Calls, device: str) -> Callable[[], None]:
    """Nothing but ``nn.LSTM``."""
    forward, forward_backward = (
        [nn.LSTM(input_size, HIDDEN, device=device) for _ in range(n)] for n in (calls.forward, calls.forward_backward)
    )
    inputs = th.randn(LENGTH + 1, BATCH, input_size, device=device)
    gradient = th.randn(LENGTH + 1, BATCH, HIDDEN, device=device)

    def updates() -> None:
        with th.no_grad():
            for lstm in forward:
                lstm(inputs)
        for lstm in forward_backward:
            lstm.zero_grad()
            lstm(inputs)[0].backward(gradient)

    return updates


def benchmark_update(rounds: int, device: str) -> list[dict[str, Any]]:
    rows = []
    for algorithm, calls in CALLS.items():
        model = trained_model(algorithm, device)
        bare = bare_calls(model.actor.encoder.core.input_size, calls, device)
        seconds = side_by_side(
            {algorithm.__name__: partial(model.train, calls.n_updates, BATCH), "bare LSTM calls": bare}, rounds, device
        )
        ours, floor = (summary(values, 1e3 / calls.n_updates) for values in seconds.values())
        rows.append(
            {
                "what": f"{algorithm.__name__} update (ms)",
                "ours": ours,
                "against": "bare LSTM calls",
                "theirs": floor,
                "ratio": ours["median"] / floor["median"],
            }
        )
    return rows


def benchmark_collection(rounds: int, device: str, n_steps: int = 2_000) -> list[dict[str, Any]]:
    """Steps per second without training. RecurrentPPO's rollout is its ``collect_rollouts`` alone."""
    rows = []
    for n_envs in (1, 8):
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
                policy_kwargs=dict(lstm_hidden_size=HIDDEN),
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
        for rival in ("TD3", "RecurrentPPO"):
            rows.append(
                {
                    "what": f"collecting, {n_envs} env(s) (steps/s)",
                    "ours": per_second["RecurrentTD3"],
                    "against": rival,
                    "theirs": per_second[rival],
                    "ratio": per_second["RecurrentTD3"]["median"] / per_second[rival]["median"],
                }
            )
    return rows


def benchmark_prioritised_sampling(rounds: int, device: str, n_envs: int = 8) -> list[dict[str, Any]]:
    """The paper's batch and network: 64 sequences of 80 with 512 units, from a full buffer of a million steps."""
    space = spaces.Box(-1, 1, (8,), np.float32)
    env = make_vec_env(
        lambda: gym.wrappers.TransformObservation(gym.make("CartPole-v1"), lambda o: np.tile(o, 2), space), n_envs
    )
    model = R2D2(
        "MlpLstmPolicy",
        env,
        batch_size=64,
        sequence_length=80,
        burn_in=40,
        learning_starts=10**9,
        device=device,
        policy_kwargs=dict(lstm_hidden_size=512, net_arch=[512]),
    ).learn(n_envs)
    buffer = model.replay_buffer
    observation, zeros = np.zeros((n_envs, 8), dtype=np.float32), np.zeros(n_envs)
    states = model.policy.initial_states(n_envs)
    for step in tqdm(range(buffer.buffer_size), desc="filling the buffer", leave=False):
        start = np.full(n_envs, step % 500 == 0)
        buffer.add(observation, observation, np.zeros((n_envs, 1)), zeros, zeros, [{}] * n_envs, start, states)
    model.train(1, 64)
    seconds = side_by_side(
        {"sample": partial(model._sample_sequences, 64), "R2D2 update": partial(model.train, 1, 64)}, rounds, device
    )
    ours, update = (summary(values, 1e3) for values in seconds.values())
    return [
        {
            "what": "prioritised sampling of 64 sequences of 80 from 1,000,000 steps (ms)",
            "ours": ours,
            "against": "one R2D2 update, LSTM 512",
            "theirs": update,
            "ratio": ours["median"] / update["median"],
        }
    ]


def benchmark_memory(n_steps: int = 10_000) -> list[dict[str, Any]]:
    rows = []
    for name, space in (
        ("float32 vector of 50", spaces.Box(-1, 1, (50,), np.float32)),
        ("uint8 image 84x84", spaces.Box(0, 255, (1, 84, 84), np.uint8)),
    ):
        assert space.shape is not None and space.dtype is not None
        action_space = gym.make("Pendulum-v1").action_space
        observation = np.zeros((1, *space.shape), dtype=space.dtype)
        states = RNNStates((th.zeros(1, 1, 64),) * 2, (th.zeros(1, 1, 64),) * 2)
        buffer = RecurrentSequenceReplayBuffer(n_steps, space, action_space, device="cpu")
        for step in range(n_steps):
            start = np.array([step % 200 == 0])
            buffer.add(observation, observation, np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}], start, states)
        held = sum(value.nbytes for value in vars(buffer).values() if isinstance(value, np.ndarray))
        held += sum(value.nbytes for value in buffer._final_observations.values())
        held -= buffer.states.nbytes
        fields = observation.nbytes + 4 + 4 + 1
        rows.append(
            {
                "what": f"bytes per transition, {name}; memory states ({buffer.states.nbytes / n_steps:.0f}) apart",
                "ours": {"median": held / n_steps},
                "against": "observation, action, reward, flag",
                "theirs": {"median": float(fields)},
                "ratio": held / n_steps / fields,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    def cell(value: dict[str, float]) -> str:
        spread = f" ({value['low']:.4g} to {value['high']:.4g})" if "low" in value else ""
        return f"{value['median']:.4g}{spread}"

    lines = ["| what | ours | against | theirs | ratio |", "|---|---|---|---|---|"]
    lines += [f"| {r['what']} | {cell(r['ours'])} | {r['against']} | {cell(r['theirs'])} | {r['ratio']:.2f} |" for r in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    th.set_num_threads(arguments.threads)

    rows = benchmark_update(arguments.rounds, arguments.device)
    rows += benchmark_collection(max(arguments.rounds // 3, 3), arguments.device)
    rows += benchmark_prioritised_sampling(max(arguments.rounds // 6, 3), arguments.device)
    rows += benchmark_memory()
    machine = {
        "device": th.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
        "threads": arguments.threads,
        "processor": platform.processor() or platform.machine(),
        "torch": th.__version__,
        "command": " ".join(["python benchmarks/speed.py", *sys.argv[1:]]),
        "setting": f"batch {BATCH}, sequence {LENGTH}, hidden {HIDDEN}, heads {HEADS}, median (10 % to 90 %)",
    }
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    name = f"speed_{arguments.device}"
    (results / f"{name}.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    (results / f"{name}.md").write_text(
        "\n".join(f"{key}: {value}  " for key, value in machine.items()) + "\n\n" + table(rows) + "\n"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
