"""
What is learned where something is hidden, with the controls that a score of a memory needs.

    python benchmarks/learning.py --algo recurrent_td3 --seeds 0 1 2
    python benchmarks/learning.py --algo td3 --seeds 0 1 2            # control: SB3, no memory
    python benchmarks/learning.py --algo recurrent_sac --env CartPoleNoVel-v1 --seeds 0 1 2
    python benchmarks/learning.py --algo r2d2 --env CartPoleNoVel-v1 --seeds 0 1 2 --set refresh_states=true
    python benchmarks/learning.py --report                            # table and figure from the results so far

Each run trains with the hyper-parameters of ``hyperparams/ALGO.yml``, but for those set here, and scores the *final* model
on fixed starts that no training and no tuning has seen. Controls: the observation is asserted to hold nothing but what may be
seen, and the same model is scored with its memory (and previous action) zeroed at every step. Runs that have a result file
are not repeated.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import popgym  # noqa: F401  registers its environments
import rl_zoo3.import_envs  # registers the NoVel environments
import torch as th
import yaml
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import nn

import sb3_recurrent_offpolicy.envs  # noqa: F401  registers its environments
from sb3_recurrent_offpolicy.zoo import ALGORITHMS, HYPERPARAMS

RESULTS = Path(__file__).parent / "results"
EVALUATION_SEED, CURVE_SEED, CURVE_STARTS = 1_000_000, 2_000_000, 100


class Task(NamedTuple):
    """
    An environment and how it is scored.

    :param n_starts: episodes of the final score, each from a start of its own
    :param curve_every: steps between two points of the learning curve
    :param control: SB3's algorithm without memory; none where an answer without memory is a guess by construction
    :param threshold: return for which the training time is told, first reached and kept to the end of the curve
    :param visible: the observation that may be made of an environment in its present state
    """

    n_starts: int
    curve_every: int
    control: str | None
    threshold: float
    visible: Callable[[Any], Any]


def _memory_length(env: Any) -> list[float]:
    return [max(1 - env.time / 10, 0), 0.0, (2 * env.context[0] - 1) * (env.time == 0)]


def _pendulum(env: Any) -> np.ndarray:
    angle, velocity = env.unwrapped.state
    return np.array([np.cos(angle), np.sin(angle), velocity])


TASKS = {
    # A mean over 100 of its episodes has a standard error of 8 to 10
    "PendulumNoVel-v1": Task(1000, 2_000, "td3", -200, lambda env: _pendulum(env) * (1, 1, 0)),
    # Its wrapper has counted the step already
    "PendulumFlicker-v0": Task(1000, 2_000, "td3", -200, lambda env: _pendulum(env) * (env.get_wrapper_attr("time") % 3 == 1)),
    "CartPoleNoVel-v1": Task(100, 5_000, "dqn", 475, lambda env: np.array(env.unwrapped.state) * (1, 0, 1, 0)),
    # The cue at the first step only; the query is always that one bit
    "MemoryLength-v0": Task(200, 2_000, None, 1.0, lambda env: _memory_length(env.unwrapped)),
    "popgym-RepeatPreviousEasy-v0": Task(
        200, 8_000, None, 0.9, lambda env: env.unwrapped.deck.show("player", ["suits_idx"])[0, -1]
    ),
}
# To compare with, as RL Zoo has tuned them; SB3's TD3 is treated apart
OTHERS: dict[str, type[BaseAlgorithm]] = {"dqn": DQN, "recurrent_ppo": RecurrentPPO}
# Logged by the algorithm, averaged from one point of the curve to the next
DIAGNOSTICS = ("delta_q_first", "delta_q_last")


def score(model: BaseAlgorithm, env_id: str, n_starts: int, seed: int, zero_memory: bool = False) -> np.ndarray:
    """Returns of one deterministic episode from each start; all run side by side, state carried as users carry it."""
    envs = make_vec_env(env_id, n_envs=n_starts, seed=seed)
    training_env = model.get_vec_normalize_env()
    normalize: Callable[[Any], Any] = (
        training_env.normalize_obs if training_env is not None else lambda observations: observations
    )
    observations = envs.reset()
    state = None
    episode_starts = np.ones(n_starts, dtype=bool)
    running = np.ones(n_starts, dtype=bool)
    returns = np.zeros(n_starts)
    while running.any():
        actions, state = model.predict(normalize(observations), state=state, episode_start=episode_starts, deterministic=True)
        observations, rewards, dones, _ = envs.step(actions)
        returns += rewards * running
        running &= ~dones
        episode_starts = np.ones(n_starts, dtype=bool) if zero_memory else dones
    return returns


def scores(model: BaseAlgorithm, env_id: str, n_starts: int, seed: int) -> dict[str, np.ndarray]:
    """Returns and, where averaged weights act, those of the latest weights."""
    returns = {"return": score(model, env_id, n_starts, seed)}
    policy: Any = model.policy
    average = getattr(policy, "q_net_average", None)
    if average is not None:
        policy.q_net_average = None
        returns["return_of_latest_weights"] = score(model, env_id, n_starts, seed)
        policy.q_net_average = average
    return returns


def assert_state_is_hidden(env_id: str) -> None:
    env = gym.make(env_id)
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        np.testing.assert_allclose(observation, TASKS[env_id].visible(env), atol=1e-6)
        observation, *_ = env.step(env.action_space.sample())


class Curve(BaseCallback):
    def __init__(self, env_id: str) -> None:
        super().__init__()
        self.env_id = env_id
        self.points: list[dict[str, float]] = []
        self.diagnostics: dict[str, list[float]] = {name: [] for name in DIAGNOSTICS}
        self.training_seconds = 0.0

    def _on_training_start(self) -> None:
        self.resumed = time.perf_counter()

    def _on_step(self) -> bool:
        for name, values in self.diagnostics.items():
            if f"train/{name}" in self.logger.name_to_value:
                values.append(self.logger.name_to_value[f"train/{name}"])
        if self.num_timesteps % TASKS[self.env_id].curve_every == 0:
            self.training_seconds += time.perf_counter() - self.resumed
            returns = scores(self.model, self.env_id, CURVE_STARTS, CURVE_SEED)
            means = {name: round(float(values.mean()), 3) for name, values in returns.items()}
            self.points.append({"steps": self.num_timesteps, "seconds": round(self.training_seconds, 1), **means})
            for name, values in self.diagnostics.items():
                if values:
                    self.points[-1][name] = round(float(np.mean(values)), 4)
                    values.clear()
            print(self.points[-1], flush=True)
            self.model.policy.set_training_mode(False)
            self.resumed = time.perf_counter()
        return True


def stated_hyperparams(algo: str, env_id: str) -> dict[str, Any]:
    """As they stand in the file."""
    if algo in ("dqn", "recurrent_ppo"):
        name = {"dqn": "dqn", "recurrent_ppo": "ppo_lstm"}[algo]
        entries = yaml.safe_load((Path(rl_zoo3.__file__).parent / "hyperparams" / f"{name}.yml").read_text())
        # RL Zoo has tuned DQN for the environment whose velocities are seen
        return entries[env_id.replace("NoVel", "") if algo == "dqn" else env_id]
    return yaml.safe_load((HYPERPARAMS / f"{'recurrent_td3' if algo == 'td3' else algo}.yml").read_text())[env_id]


def make_model(algo: str, env_id: str, seed: int, hyperparams: dict[str, Any]) -> tuple[BaseAlgorithm, int]:
    """
    :param algo: the algorithm
    :param env_id: the environment
    :param seed: of training
    :param hyperparams: an entry of a hyper-parameter file
    :return: the model and its training steps
    """
    kwargs = hyperparams.copy()
    n_steps, n_envs = int(kwargs.pop("n_timesteps")), kwargs.pop("n_envs", 1)
    env: VecEnv = make_vec_env(env_id, n_envs=n_envs, seed=seed)
    # RL Zoo's files write some entries as Python
    kwargs = {
        key: eval(value, {"nn": nn}) if key in ("normalize", "policy_kwargs") and isinstance(value, str) else value
        for key, value in kwargs.items()
    }
    for name in ("learning_rate", "clip_range"):
        if isinstance(kwargs.get(name), str):
            kwargs[name] = LinearSchedule(float(kwargs[name].removeprefix("lin_")), 0.0, 1.0)
    if "normalize" in kwargs:
        settings = kwargs.pop("normalize")
        env = VecNormalize(env, **(settings if isinstance(settings, dict) else {}), gamma=kwargs["gamma"])
    if "noise_type" in kwargs:
        assert kwargs.pop("noise_type") == "normal"
        kwargs["action_noise"] = NormalActionNoise(np.zeros(1), kwargs.pop("noise_std") * np.ones(1))
    common: dict[str, Any] = dict(env=env, seed=seed, device="cpu")
    if algo == "td3":
        # The same environment, noise and number of updates, SB3's own batch and networks
        kept = ("learning_rate", "gamma", "tau", "learning_starts", "train_freq", "gradient_steps", "action_noise")
        return TD3("MlpPolicy", **common, **{key: kwargs[key] for key in kept}), n_steps
    return (ALGORITHMS | OTHERS)[algo](**common, **kwargs), n_steps


def run(algo: str, env_id: str, seed: int, settings: Sequence[str] = ()) -> None:
    label = " ".join([algo, *settings])
    path = RESULTS / env_id / f"{label.replace(' ', ',')}_{seed}.json"
    if path.exists():
        print(f"{path} is there already")
        return
    assert_state_is_hidden(env_id)
    hyperparams = stated_hyperparams(algo, env_id)
    for setting in settings:
        name, value = setting.split("=", 1)
        hyperparams[name] = yaml.safe_load(value)
    model, n_steps = make_model(algo, env_id, seed, hyperparams)
    curve = Curve(env_id)
    model.learn(n_steps, callback=curve)
    n_starts = TASKS[env_id].n_starts
    returns = scores(model, env_id, n_starts, EVALUATION_SEED)
    zeroed = score(model, env_id, n_starts, EVALUATION_SEED, zero_memory=True)
    result = {
        "command": f"python benchmarks/learning.py --algo {algo} --env {env_id} --seeds {seed}"
        + (f" --set {' '.join(settings)}" if settings else ""),
        "algo": label,
        "seed": seed,
        "steps": n_steps,
        "updates": model._n_updates,
        "training_seconds": curve.points[-1]["seconds"],
        "threads": th.get_num_threads(),
        **{name.replace("return", "mean"): round(float(values.mean()), 2) for name, values in returns.items()},
        "standard_error": round(float(returns["return"].std() / np.sqrt(n_starts)), 2),
        "mean_with_memory_zeroed": round(float(zeroed.mean()), 2),
        "hyperparams": hyperparams,
        "curve": curve.points,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    keys = ("algo", "seed", "mean", "standard_error", "mean_with_memory_zeroed")
    print("final model:", {key: result[key] for key in keys})


def seconds_to(threshold: float, curve: list[dict[str, Any]]) -> str:
    """Training time at the first point from which on the curve stays above the threshold."""
    below = [index for index, point in enumerate(curve) if point["return"] < threshold]
    first = below[-1] + 1 if below else 0
    return f"{curve[first]['seconds']:.0f} s" if first < len(curve) else "never"


def report(env_id: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    task, results_of_env = TASKS[env_id], RESULTS / env_id
    runs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(results_of_env.glob("*_[0-9]*.json")):
        result = json.loads(path.read_text())
        runs.setdefault(result["algo"], []).append(result)
    errors = [result["standard_error"] for results in runs.values() for result in results]
    lines = [
        f"Final models on {env_id}, mean return over {task.n_starts} fixed starts (standard error of each run up to "
        f"{max(errors):.1f}).",
        "",
        f"| algorithm | steps | seeds | mean | worst seed | memory zeroed | training | to {task.threshold:g}, for good |",
        "|---|---|---|---|---|---|---|---|",
    ]
    figure, axes = plt.subplots(figsize=(7.2, 4.8), layout="constrained")
    for algo, results in runs.items():
        means = [result["mean"] for result in results]
        zeroed = (
            "no memory"
            if algo == task.control
            else f"{max(result['mean_with_memory_zeroed'] for result in results):.0f} at best"
        )
        seconds = np.mean([result["training_seconds"] for result in results])
        lines.append(
            f"| {algo} | {results[0]['steps']} | {len(results)} | {np.mean(means):.1f} | {min(means):.1f} | {zeroed} "
            f"| {seconds:.0f} s, {results[0]['steps'] / seconds:.0f} steps/s "
            f"| {' '.join(seconds_to(task.threshold, result['curve']) for result in results)} |"
        )
        steps = [point["steps"] for point in results[0]["curve"]]
        curves = np.array([[point["return"] for point in result["curve"]] for result in results])
        (line,) = axes.plot(steps, curves.mean(axis=0), label=algo, linewidth=2)
        axes.fill_between(steps, curves.min(axis=0), curves.max(axis=0), color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel="environment steps", ylabel="return", title=f"{env_id}: mean of the seeds, band from worst to best")
    axes.grid(alpha=0.3)
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    figure.savefig(results_of_env / "curves.png", dpi=150)
    (results_of_env / "README.md").write_text("\n".join([*lines, "", "![curves](curves.png)", ""]))
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", choices=[*ALGORITHMS, *OTHERS, "td3"])
    parser.add_argument("--env", choices=TASKS, default="PendulumNoVel-v1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="differ from the hyper-parameter file")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    # One thread a run: two runs side by side use two cores better than one run does
    th.set_num_threads(1)
    if arguments.algo:
        for seed in arguments.seeds:
            run(arguments.algo, arguments.env, seed, arguments.set)
    if arguments.report:
        report(arguments.env)


if __name__ == "__main__":
    main()
