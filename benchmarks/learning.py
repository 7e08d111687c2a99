"""
What is learned where something is hidden, with the controls that a score of a memory needs.

    python -m benchmarks.learning --algo recurrent_td3 --seeds 0 1 2
    python -m benchmarks.learning --algo recurrent_sac --env CartPoleNoVel-v1 --seeds 0 1 2
    python -m benchmarks.learning --algo r2d2 --env CartPoleNoVel-v1 --seeds 0 1 2 --set refresh_states=true
    python -m benchmarks.learning --algo td3 --seeds 0 1 2                      # control: SB3, no memory
    python -m benchmarks.learning --algo td3 --seeds 0 1 2 --set frame_stack=4  # control: the last observations for a memory
    python -m benchmarks.learning --algo recurrent_ppo --seeds 0 1 2            # sb3-contrib as RL Zoo has tuned it

Each run trains with the hyper-parameters of ``hyperparams/ALGO.yml`` or, where the default has become as good,
``benchmarks/hyperparams/ALGO.yml``, but for those set here (``policy_kwargs.n_critics=1``
sets one of the inner entries), and scores the *final* model on fixed starts that no training and no tuning has seen.
Controls: the observation is asserted to hold nothing but what may be seen, and the same model is scored with its memory
(and previous action) zeroed at every step. Runs that have a result file are not repeated; with ``--resumable`` an interrupted
one goes on where its curve ended. ``benchmarks.report`` makes tables and figures.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import rl_zoo3
import torch as th
import yaml
from rl_zoo3.utils import get_wrapper_class
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize, unwrap_vec_wrapper
from torch import nn

from benchmarks.checkpoint import Checkpoint
from benchmarks.tasks import TASKS, assert_state_is_hidden
from benchmarks.timing import processor
from sb3_recurrent_offpolicy.zoo import ALGORITHMS, HYPERPARAMS

RESULTS = Path(__file__).parent / "results"
STUDIED = Path(__file__).parent / "hyperparams"
CHECKPOINTS = Path("runs")
# Final models
MODELS = CHECKPOINTS / "models"
EVALUATION_SEED, CURVE_SEED, CURVE_STARTS = 1_000_000, 2_000_000, 100

# SB3's, each with the environments, exploration and number of updates of ours, its own batch and networks
MEMORYLESS: dict[str, type[BaseAlgorithm]] = {"td3": TD3, "sac": SAC}
SHARED_SETTINGS = (
    "learning_rate",
    "gamma",
    "tau",
    "n_steps",
    "learning_starts",
    "train_freq",
    "gradient_steps",
    "action_noise",
)
# As RL Zoo has tuned them
OTHERS: dict[str, type[BaseAlgorithm]] = {"dqn": DQN, "recurrent_ppo": RecurrentPPO}
# Hyper-parameter files that are not named after the algorithm
FILES = {"td3": "recurrent_td3", "sac": "recurrent_sac", "recurrent_ppo": "ppo_lstm"}
# What it has tuned them for, where that is another environment
TUNED_FOR = {
    "dqn": {"CartPoleNoVel-v1": "CartPole-v1", "LunarLanderNoVel-v3": "LunarLander-v3"},
    "recurrent_ppo": {
        "PendulumFlicker-v0": "PendulumNoVel-v1",
        "PendulumVelocityOnly-v0": "PendulumNoVel-v1",
        "PendulumUnknown-v0": "PendulumNoVel-v1",
        "CartPoleUnknown-v1": "CartPoleNoVel-v1",
        "LunarLanderNoVel-v3": "LunarLanderNoVel-v2",
        "LunarLanderContinuousNoVel-v3": "LunarLanderContinuousNoVel-v2",
    },
}
# Settings for noise as SB3's SAC and the paper of TD3 have it
WHITE = {
    "recurrent_sac": ["noise_color=white"],
    "recurrent_tqc": ["noise_color=white"],
    "recurrent_td3": ["action_noise=0.1", "noise_color=white"],
    "recurrent_ddpg": ["action_noise=0.1", "noise_color=white"],
}
# Of a hyper-parameter file, for environments without an entry of their own
DEFAULT_ENTRY = "default"
Wrapper = Callable[[gym.Env], gym.Env]
NOISES = {"normal": NormalActionNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise}
# The second leaves out what the process waits for, such as other processes
CLOCKS = {"seconds": time.perf_counter, "processor_seconds": time.process_time}
# Logged by the algorithm, averaged from one point of the curve to the next
DIAGNOSTICS = ("delta_q_first", "delta_q_last")


def score(
    model: BaseAlgorithm,
    env_id: str,
    n_starts: int,
    seed: int,
    wrapper: Wrapper | None = None,
    env_kwargs: dict[str, Any] | None = None,
    zero_memory: bool = False,
) -> np.ndarray:
    """
    :param model: which acts deterministically, its state carried as users carry it
    :param env_id: the environment
    :param n_starts: episodes, one from each start; all run side by side
    :param seed: of the starts
    :param wrapper: put around each environment; those around all of them are the model's own
    :param env_kwargs: of the environment
    :param zero_memory: whether every step is told to be an episode's first
    :return: of each episode, (n_starts,)
    """
    envs: VecEnv = make_vec_env(env_id, n_envs=n_starts, seed=seed, wrapper_class=wrapper, env_kwargs=env_kwargs)
    if normalizer := model.get_vec_normalize_env():
        envs = VecNormalize(envs, training=False, norm_obs=normalizer.norm_obs, norm_reward=False)
        envs.obs_rms = normalizer.obs_rms
    if (trained_in := model.get_env()) and (stack := unwrap_vec_wrapper(trained_in, VecFrameStack)):
        envs = VecFrameStack(envs, stack.stacked_obs.n_stack)
    observations: Any = envs.reset()
    # A recurrent state is more than the arrays that SB3's signature knows
    state: Any = None
    episode_starts = np.ones(n_starts, dtype=bool)
    running = np.ones(n_starts, dtype=bool)
    returns = np.zeros(n_starts)
    n_steps = 0
    while running.any():
        actions, state = model.predict(observations, state, episode_starts, deterministic=True)
        observations, rewards, dones, _ = envs.step(actions)
        returns += rewards * running * (n_steps >= TASKS[env_id].scored_from)
        running &= ~dones
        episode_starts = np.ones(n_starts, dtype=bool) if zero_memory else dones
        n_steps += 1
    return returns


def scores(model: BaseAlgorithm, *episodes: Any) -> dict[str, np.ndarray]:
    """Returns of ``score`` and, where averaged weights act, those of the latest weights."""
    returns = {"return": score(model, *episodes)}
    policy: Any = model.policy
    average = getattr(policy, "averaged_network", None)
    if average is not None:
        policy.averaged_network = None
        returns["return_of_latest_weights"] = score(model, *episodes)
        policy.averaged_network = average
    return returns


class Curve(BaseCallback):
    """
    Score the model every so many steps.

    :param env_id: the environment
    :param wrapper: put around each environment, None for none
    :param checkpoint: to be saved at each point, None for none
    :param env_kwargs: of the environment
    """

    def __init__(
        self,
        env_id: str,
        wrapper: Wrapper | None = None,
        checkpoint: Checkpoint | None = None,
        env_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.env_id = env_id
        self.wrapper = wrapper
        self.env_kwargs = env_kwargs
        self.checkpoint = checkpoint
        self.points: list[dict[str, float]] = []
        self.diagnostics: dict[str, list[float]] = {name: [] for name in DIAGNOSTICS}

    def _on_training_start(self) -> None:
        last = self.points[-1] if self.points else {}
        self.spent = {name: last.get(name, 0.0) for name in CLOCKS}
        self.steps_before = int(self.points[-1]["steps"]) if self.points else 0
        self._resume()

    def _resume(self) -> None:
        self.resumed = {name: clock() for name, clock in CLOCKS.items()}

    def _on_step(self) -> bool:
        for name, values in self.diagnostics.items():
            if f"train/{name}" in self.logger.name_to_value:
                values.append(self.logger.name_to_value[f"train/{name}"])
        if self.num_timesteps % TASKS[self.env_id].curve_every == 0:
            for name, clock in CLOCKS.items():
                self.spent[name] += clock() - self.resumed[name]
            returns = scores(self.model, self.env_id, CURVE_STARTS, CURVE_SEED, self.wrapper, self.env_kwargs)
            means = {name: round(float(values.mean()), 3) for name, values in returns.items()}
            # Beneath wrappers that repeat actions: steps of the environment, not of the agent
            steps = self.steps_before + sum(self.training_env.env_method("get_total_steps"))
            spent = {name: round(seconds, 1) for name, seconds in self.spent.items()}
            self.points.append({"steps": steps, **spent, **means})
            for name, values in self.diagnostics.items():
                if values:
                    self.points[-1][name] = round(float(np.mean(values)), 4)
                    values.clear()
            print(self.points[-1], flush=True)
            if self.checkpoint:
                self.checkpoint.save(self.model, self.points)
            self.model.policy.set_training_mode(False)
            self._resume()
        return True


def entries_of(algo: str) -> dict[str, dict[str, Any]]:
    """
    :param algo: the algorithm
    :return: hyper-parameters by environment, those of ``benchmarks/hyperparams`` too, which users are not given
    """
    folders = [Path(rl_zoo3.__file__).parent / "hyperparams"] if algo in OTHERS else [HYPERPARAMS, STUDIED]
    paths = [folder / f"{FILES.get(algo, algo)}.yml" for folder in folders]
    return {env_id: entry for path in paths if path.exists() for env_id, entry in yaml.safe_load(path.read_text()).items()}


def stated_hyperparams(algo: str, env_id: str) -> dict[str, Any]:
    """As they stand in the files; the default where the environment has no entry, as in RL Zoo."""
    entries = entries_of(algo)
    env_id = TUNED_FOR.get(algo, {}).get(env_id, env_id)
    return entries.get(env_id, entries[DEFAULT_ENTRY])


def set_entry(hyperparams: dict[str, Any], setting: str) -> None:
    """
    :param hyperparams: changed in place
    :param setting: ``name=value``, or ``name.name=value`` for an entry of an entry; the value as in a hyper-parameter file
    """
    name, value = setting.split("=", 1)
    *outer, name = name.split(".")
    for entry in outer:
        hyperparams = hyperparams.setdefault(entry, {})
    hyperparams[name] = yaml.safe_load(value)


def make_model(algo: str, env_id: str, seed: int, hyperparams: dict[str, Any]) -> tuple[BaseAlgorithm, int]:
    """
    :param algo: the algorithm
    :param env_id: the environment
    :param seed: of training
    :param hyperparams: an entry of a hyper-parameter file, as RL Zoo understands it
    :return: the model and its training steps
    """
    kwargs = hyperparams.copy()
    n_steps, n_envs = int(kwargs.pop("n_timesteps")), kwargs.pop("n_envs", 1)
    wrapper = get_wrapper_class(kwargs)
    kwargs.pop("env_wrapper", None)
    env_kwargs = kwargs.pop("env_kwargs", None)
    env: VecEnv = make_vec_env(env_id, n_envs=n_envs, seed=seed, env_kwargs=env_kwargs, wrapper_class=wrapper)
    # RL Zoo's files write some entries as Python
    kwargs = {
        key: eval(value, {"nn": nn}) if key in ("normalize", "policy_kwargs") and isinstance(value, str) else value
        for key, value in kwargs.items()
    }
    for name in ("learning_rate", "clip_range"):
        if isinstance(kwargs.get(name), str):
            kwargs[name] = LinearSchedule(float(kwargs[name].removeprefix("lin_")), 0.0, 1.0)
    if settings := kwargs.pop("normalize", None):
        env = VecNormalize(env, **(settings if isinstance(settings, dict) else {}), gamma=kwargs.get("gamma", 0.99))
    if n_stack := kwargs.pop("frame_stack", None):
        env = VecFrameStack(env, n_stack)
    if noise := kwargs.pop("noise_type", None):
        action = np.ones(env.action_space.shape or ())
        kwargs["action_noise"] = NOISES[noise](0 * action, kwargs.pop("noise_std") * action)
    common: dict[str, Any] = dict(env=env, seed=seed, device="cpu")
    if algo in MEMORYLESS:
        kwargs = {"policy": "MlpPolicy"} | {key: kwargs[key] for key in SHARED_SETTINGS if key in kwargs}
    return (ALGORITHMS | MEMORYLESS | OTHERS)[algo](**common, **kwargs), n_steps


def model_path(algo: str, env_id: str, seed: int, settings: Sequence[str] = (), entry: str | None = None) -> Path:
    """
    :param algo: the algorithm
    :param env_id: the environment
    :param seed: of training
    :param settings: ``name=value`` in place of what the hyper-parameter file says
    :param entry: of the hyper-parameter file, None for that of the environment
    :return: of the file that keeps the final model, for what opens it
    """
    return MODELS / (entry or "tuned") / env_id / f"{','.join([algo, *settings])}_{seed}.zip"


def keep(model: BaseAlgorithm, path: Path) -> None:
    """
    :param model: to be kept
    :param path: of the file; statistics of VecNormalize go beside it
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    if normalizer := model.get_vec_normalize_env():
        normalizer.save(str(path.with_suffix(".pkl")))


def run(
    algo: str,
    env_id: str,
    seed: int,
    settings: Sequence[str] = (),
    folder: Path = RESULTS,
    checkpoints: Path | None = None,
    entry: str | None = None,
) -> None:
    """
    Train, score and write the result, unless there is one.

    :param algo: the algorithm
    :param env_id: the environment
    :param seed: of training
    :param settings: ``name=value`` in place of what the hyper-parameter file says
    :param folder: of the results
    :param checkpoints: folder from which an interrupted run goes on; None to start from the beginning
    :param entry: of the hyper-parameter file, in place of that of the environment
    """
    label = " ".join([algo, *settings])
    path = folder / env_id / f"{label.replace(' ', ',')}_{seed}.json"
    if path.exists():
        print(f"{path} is there already")
        return
    hyperparams = stated_hyperparams(algo, entry or env_id)
    for setting in settings:
        set_entry(hyperparams, setting)
    env_kwargs = hyperparams.get("env_kwargs")
    assert_state_is_hidden(env_id, env_kwargs)
    model, n_steps = make_model(algo, env_id, seed, hyperparams)
    wrapper = get_wrapper_class(hyperparams)
    checkpoint = Checkpoint(checkpoints / env_id / path.stem) if checkpoints else None
    curve = Curve(env_id, wrapper, checkpoint, env_kwargs)
    if checkpoint and checkpoint.exists():
        model, curve.points = checkpoint.load(model)
        curve.points[-1]["interrupted"] = True
        print("going on after", curve.points[-1], flush=True)
    n_left = n_steps - model.num_timesteps
    model.learn(n_left, callback=curve, reset_num_timesteps=n_left == n_steps, progress_bar=sys.stdout.isatty())
    keep(model, model_path(algo, env_id, seed, settings, entry))
    n_starts = TASKS[env_id].n_starts
    returns = scores(model, env_id, n_starts, EVALUATION_SEED, wrapper, env_kwargs)
    zeroed = score(model, env_id, n_starts, EVALUATION_SEED, wrapper, env_kwargs, zero_memory=True)
    result = {
        "command": f"python -m benchmarks.learning --algo {algo} --env {env_id} --seeds {seed}"
        + (f" --entry {entry}" if entry else "")
        + (f" --set {' '.join(settings)}" if settings else ""),
        "algo": label,
        "seed": seed,
        "steps": curve.points[-1]["steps"],
        "updates": model._n_updates,
        "training_seconds": curve.points[-1]["seconds"],
        "threads": th.get_num_threads(),
        "processor": processor(),
        **{name.replace("return", "mean"): round(float(values.mean()), 2) for name, values in returns.items()},
        "standard_error": round(float(returns["return"].std() / np.sqrt(n_starts)), 2),
        "mean_with_memory_zeroed": round(float(zeroed.mean()), 2),
        "hyperparams": hyperparams,
        "curve": curve.points,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    if checkpoint:
        checkpoint.remove()
    keys = ("algo", "seed", "mean", "standard_error", "mean_with_memory_zeroed")
    print("final model:", {key: result[key] for key in keys})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", choices=[*ALGORITHMS, *MEMORYLESS, *OTHERS], required=True)
    parser.add_argument("--env", choices=TASKS, default="PendulumNoVel-v1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="differ from the hyper-parameter file")
    parser.add_argument("--entry", help="of the hyper-parameter file, in place of the environment's")
    parser.add_argument(
        "--resumable", action="store_true", help=f"keep in {CHECKPOINTS}/ what an interrupted run goes on from"
    )
    arguments = parser.parse_args()
    # One thread a run: two runs side by side use two cores better than one run does
    th.set_num_threads(1)
    for seed in arguments.seeds:
        checkpoints = CHECKPOINTS if arguments.resumable else None
        run(arguments.algo, arguments.env, seed, arguments.set, checkpoints=checkpoints, entry=arguments.entry)


if __name__ == "__main__":
    main()
