"""
What is learned on PendulumNoVel-v1 (velocity hidden), with the controls that a score of a memory needs.

    python benchmarks/learning.py --algo recurrent_td3 --seeds 0 1 2
    python benchmarks/learning.py --algo td3 --seeds 0 1 2            # control: SB3, no memory
    python benchmarks/learning.py --report                            # table and figure from the results so far

Each run trains with the hyper-parameters of ``hyperparams/ALGO.yml`` and scores the *final* model on 1000 fixed starts that no
training and no tuning has seen. Controls: the observation is asserted to hold no velocity, and the same model is scored
with its memory (and previous action) zeroed at every step. Runs that have a result file are not repeated.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import rl_zoo3.import_envs  # noqa: F401  registers PendulumNoVel-v1
import torch as th
import yaml
from stable_baselines3 import TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise

from sb3_recurrent_offpolicy.zoo import ALGORITHMS, HYPERPARAMS

ENV = "PendulumNoVel-v1"
RESULTS = Path(__file__).parent / "results" / ENV
EVALUATION_SEED = 1_000_000
N_STARTS = 1000
CURVE_EVERY, CURVE_SEED, CURVE_STARTS = 2_000, 2_000_000, 100


def score(model: BaseAlgorithm, n_starts: int, seed: int, zero_memory: bool = False) -> np.ndarray:
    """Returns of one deterministic episode from each start; all run side by side, state carried as users carry it."""
    envs = make_vec_env(ENV, n_envs=n_starts, seed=seed)
    observations: Any = envs.reset()
    state = None
    episode_starts = np.ones(n_starts, dtype=bool)
    returns = np.zeros(n_starts)
    for _ in range(200):
        actions, state = model.predict(observations, state=state, episode_start=episode_starts, deterministic=True)
        observations, rewards, dones, _ = envs.step(actions)
        returns += rewards
        episode_starts = np.ones(n_starts, dtype=bool) if zero_memory else dones
    assert dones.all()
    return returns


def assert_velocity_is_hidden() -> None:
    env = gym.make(ENV)
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        theta, _ = env.unwrapped.state  # type: ignore[attr-defined]
        np.testing.assert_allclose(observation, [np.cos(theta), np.sin(theta), 0.0], atol=1e-6)
        observation, *_ = env.step(env.action_space.sample())


class Curve(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.points: list[dict[str, float]] = []
        self.training_seconds = 0.0

    def _on_training_start(self) -> None:
        self.resumed = time.perf_counter()

    def _on_step(self) -> bool:
        if self.num_timesteps % CURVE_EVERY == 0:
            self.training_seconds += time.perf_counter() - self.resumed
            mean = float(score(self.model, CURVE_STARTS, CURVE_SEED).mean())
            self.points.append(
                {"steps": self.num_timesteps, "seconds": round(self.training_seconds, 1), "return": round(mean, 1)}
            )
            print(self.points[-1], flush=True)
            self.model.policy.set_training_mode(False)
            self.resumed = time.perf_counter()
        return True


def make_model(algo: str, seed: int) -> tuple[BaseAlgorithm, int, dict[str, Any]]:
    """The model, its training steps and the hyper-parameters as they stand in the file."""
    # The control has the same environment, noise and number of updates, SB3's own batch and networks
    stated = yaml.safe_load((HYPERPARAMS / f"{'recurrent_td3' if algo == 'td3' else algo}.yml").read_text())[ENV]
    kwargs = stated.copy()
    n_steps, n_envs = int(kwargs.pop("n_timesteps")), kwargs.pop("n_envs")
    env = make_vec_env(ENV, n_envs=n_envs, seed=seed)
    assert kwargs.pop("noise_type") == "normal"
    kwargs["action_noise"] = NormalActionNoise(np.zeros(1), kwargs.pop("noise_std") * np.ones(1))
    if algo == "td3":
        kept = ("learning_rate", "gamma", "tau", "learning_starts", "train_freq", "gradient_steps", "action_noise")
        return TD3("MlpPolicy", env, seed=seed, device="cpu", **{key: kwargs[key] for key in kept}), n_steps, stated
    return ALGORITHMS[algo](env=env, seed=seed, device="cpu", **kwargs), n_steps, stated


def run(algo: str, seed: int) -> None:
    path = RESULTS / f"{algo}_{seed}.json"
    if path.exists():
        print(f"{path} is there already")
        return
    assert_velocity_is_hidden()
    model, n_steps, hyperparams = make_model(algo, seed)
    curve = Curve()
    model.learn(n_steps, callback=curve)
    returns, zeroed = score(model, N_STARTS, EVALUATION_SEED), score(model, N_STARTS, EVALUATION_SEED, zero_memory=True)
    result = {
        "command": f"python benchmarks/learning.py --algo {algo} --seeds {seed}",
        "algo": algo,
        "seed": seed,
        "steps": n_steps,
        "updates": model._n_updates,
        "training_seconds": curve.points[-1]["seconds"],
        "threads": th.get_num_threads(),
        "mean": round(float(returns.mean()), 2),
        "standard_error": round(float(returns.std() / np.sqrt(N_STARTS)), 2),
        "mean_with_memory_zeroed": round(float(zeroed.mean()), 2),
        "hyperparams": hyperparams,
        "curve": curve.points,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(
        algo,
        seed,
        "final model:",
        result["mean"],
        "+-",
        result["standard_error"],
        "zeroed:",
        result["mean_with_memory_zeroed"],
    )


def report() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    runs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("*_[0-9]*.json")):
        result = json.loads(path.read_text())
        runs.setdefault(result["algo"], []).append(result)
    lines = [
        f"Final models on {ENV}, mean return over {N_STARTS} fixed starts (standard error of each run 2 to 4).",
        "",
        "| algorithm | steps | seeds | mean | worst seed | memory zeroed | training, one core |",
        "|---|---|---|---|---|---|---|",
    ]
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for algo, results in runs.items():
        means = [result["mean"] for result in results]
        zeroed = (
            "no memory" if algo == "td3" else f"{max(result['mean_with_memory_zeroed'] for result in results):.0f} at best"
        )
        lines.append(
            f"| {algo} | {results[0]['steps']} | {len(results)} | {np.mean(means):.1f} | {min(means):.1f} | {zeroed} "
            f"| {np.mean([result['training_seconds'] for result in results]):.0f} s |"
        )
        steps = [point["steps"] for point in results[0]["curve"]]
        curves = np.array([[point["return"] for point in result["curve"]] for result in results])
        (line,) = axes.plot(steps, curves.mean(axis=0), label=algo, linewidth=2)
        axes.fill_between(steps, curves.min(axis=0), curves.max(axis=0), color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel="environment steps", ylabel="return", title=f"{ENV}: mean of the seeds, band from worst to best")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="center right")
    figure.savefig(RESULTS / "curves.png", dpi=150)
    (RESULTS / "README.md").write_text("\n".join([*lines, "", "![curves](curves.png)", ""]))
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", choices=[*ALGORITHMS, "td3"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    # One thread a run: two runs side by side use two cores better than one run does
    th.set_num_threads(1)
    if arguments.algo:
        for seed in arguments.seeds:
            run(arguments.algo, seed)
    if arguments.report:
        report()


if __name__ == "__main__":
    main()
