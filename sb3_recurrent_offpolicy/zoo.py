"""
Registers our algorithms with RL Zoo: names, shipped hyper-parameters, search spaces.

Called by the start-up hook ``sb3_recurrent_offpolicy_zoo``. Without the hook, the same goes through this module::

    python -m sb3_recurrent_offpolicy.zoo train --algo recurrent_td3 --env PendulumNoVel-v1
"""

import importlib
import inspect
import runpy
import sys
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sb3_recurrent_offpolicy.checkpoint import CompleteCheckpoint
from sb3_recurrent_offpolicy.names import ALGORITHMS
from sb3_recurrent_offpolicy.training_state import manifests

if TYPE_CHECKING:
    import optuna

# Folder in that of a run
CHECKPOINTS = "checkpoint"

_PACKAGE = Path(__file__).parent
# In the package once installed, beside it in a checkout
HYPERPARAMS = next(path for path in (_PACKAGE / "hyperparams", _PACKAGE.parent / "hyperparams") if path.is_dir())


def register(module: ModuleType) -> None:
    """
    Make a module of RL Zoo know our algorithms. What it knows already stays as it is.

    :param module: ``rl_zoo3.utils`` or ``rl_zoo3.exp_manager``
    """
    for name, algorithm in ALGORITHMS.items():
        module.ALGOS.setdefault(name, algorithm)
    if not hasattr(module, "ExperimentManager"):
        return
    for name, sample in SEARCH_SPACES.items():
        module.HYPERPARAMS_SAMPLER.setdefault(name, sample)
        module.HYPERPARAMS_CONVERTER.setdefault(name, convert_recurrent_params)
    _ship_hyperparams(module.ExperimentManager)
    _place_checkpoints(module.ExperimentManager)


def _ship_hyperparams(manager: Any) -> None:
    original = manager.read_hyperparameters

    @wraps(original)
    def read_hyperparameters(self: Any) -> Any:
        config = Path(self.config)
        shipped = HYPERPARAMS / config.name
        # RL Zoo's own default path, at which it has no file for our algorithms, or a bare name; a file that is there wins
        may_be_ours = config.parent in (Path(inspect.getfile(manager)).parent / "hyperparams", Path())
        if may_be_ours and not config.exists() and shipped.exists():
            self.config = str(shipped)
        return original(self)

    manager.read_hyperparameters = read_hyperparameters


def _place_checkpoints(manager: Any) -> None:
    original = manager.create_callbacks

    @wraps(original)
    def create_callbacks(self: Any) -> None:
        for callback in self.callbacks:
            if isinstance(callback, CompleteCheckpoint) and callback.path is None:
                callback.path = Path(self.save_path) / CHECKPOINTS
        original(self)

    manager.create_callbacks = create_callbacks


def _suggest_shared(trial: "optuna.Trial") -> None:
    trial.suggest_float("one_minus_gamma", 0.003, 0.1, log=True)
    trial.suggest_float("learning_rate", 1e-4, 2e-3, log=True)
    trial.suggest_int("batch_size_pow", 3, 6)
    trial.suggest_int("sequence_length_pow", 3, 7)
    trial.suggest_categorical("burn_in_fraction", [0.0, 0.5])
    trial.suggest_int("train_freq", 1, 8)
    trial.suggest_int("n_steps", 1, 10, log=True)
    trial.suggest_float("memory_lr_scale", 0.03, 1.0, log=True)
    trial.suggest_int("lstm_hidden_size_pow", 5, 8)


def sample_recurrent_td3_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Search space of RecurrentTD3 and RecurrentDDPG for ``rl_zoo3.train -optimize``.

    :param trial: the Optuna trial
    :param n_actions: number of action dimensions
    :param n_envs: number of environments
    :param additional_args: what RL Zoo tells about hindsight replay, which recurrent replay excludes
    :return: keyword arguments of the algorithm
    """
    _suggest_shared(trial)
    trial.suggest_float("tau", 0.002, 0.2, log=True)
    trial.suggest_float("preactivation_penalty", 1e-4, 0.1, log=True)
    trial.suggest_float("action_noise", 0.05, 1.0, log=True)
    return convert_recurrent_params(trial.params)


def sample_recurrent_sac_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Search space of RecurrentSAC for ``rl_zoo3.train -optimize``.

    :param trial: the Optuna trial
    :param n_actions: number of action dimensions, 0 for Discrete actions
    :param n_envs: number of environments
    :param additional_args: what RL Zoo tells about hindsight replay, which recurrent replay excludes
    :return: keyword arguments of the algorithm
    """
    _suggest_shared(trial)
    trial.suggest_float("tau", 0.002, 1.0, log=True)
    trial.suggest_categorical("ent_coef", ["auto_1.0", "auto_0.1", "auto_0.01"])
    # Fractions of the uniform policy's entropy, or multiples of a negative one: less random to the right
    target_entropies = ["auto_0.5", "auto", "auto_2.0"] if n_actions else ["auto", "auto_0.25", "auto_0.1"]
    trial.suggest_categorical("target_entropy", target_entropies)
    return convert_recurrent_params(trial.params)


def sample_recurrent_tqc_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Search space of RecurrentTQC for ``rl_zoo3.train -optimize``: that of RecurrentSAC, and how much of the top is dropped.

    :param trial: the Optuna trial
    :param n_actions: number of action dimensions
    :param n_envs: number of environments
    :param additional_args: what RL Zoo tells about hindsight replay, which recurrent replay excludes
    :return: keyword arguments of the algorithm
    """
    trial.suggest_int("top_quantiles_to_drop_per_net", 0, 5)
    return sample_recurrent_sac_params(trial, n_actions, n_envs, additional_args)


def sample_r2d2_params(trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    Search space of R2D2 for ``rl_zoo3.train -optimize``.

    :param trial: the Optuna trial
    :param n_actions: number of actions
    :param n_envs: number of environments
    :param additional_args: what RL Zoo tells about hindsight replay, which recurrent replay excludes
    :return: keyword arguments of the algorithm
    """
    _suggest_shared(trial)
    trial.suggest_float("tau", 0.002, 1.0, log=True)
    trial.suggest_categorical("priority_alpha", [0.0, 0.5, 0.9])
    trial.suggest_categorical("value_rescaling", [False, True])
    trial.suggest_categorical("munchausen_scale", [0.0, 0.9])
    trial.suggest_float("munchausen_temperature", 0.003, 0.1, log=True)
    return convert_recurrent_params(trial.params)


SEARCH_SPACES = {
    "r2d2": sample_r2d2_params,
    "recurrent_ddpg": sample_recurrent_td3_params,
    "recurrent_sac": sample_recurrent_sac_params,
    "recurrent_td3": sample_recurrent_td3_params,
    "recurrent_tqc": sample_recurrent_tqc_params,
}


def convert_recurrent_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    :param sampled_params: what a trial drew from one of the search spaces
    :return: the same as entries of a hyper-parameter file
    """
    hyperparams = sampled_params.copy()
    hyperparams["gamma"] = 1 - hyperparams.pop("one_minus_gamma")
    hyperparams["batch_size"] = 2 ** hyperparams.pop("batch_size_pow")
    hyperparams["sequence_length"] = 2 ** hyperparams.pop("sequence_length_pow")
    hyperparams["burn_in"] = int(hyperparams.pop("burn_in_fraction") * hyperparams["sequence_length"])
    hyperparams["policy_kwargs"] = {
        "lstm_hidden_size": 2 ** hyperparams.pop("lstm_hidden_size_pow"),
        "memory_lr_scale": hyperparams.pop("memory_lr_scale"),
    }
    return hyperparams


def resume(folder: Path) -> None:
    """
    Go on with a training run that was stopped, to the end that it was to have, and save the model where RL Zoo does.

    :param folder: of the run, in which :class:`~sb3_recurrent_offpolicy.checkpoint.CompleteCheckpoint` has left checkpoints
    :raises SystemExit: if there are none
    """
    checkpoints = folder / CHECKPOINTS
    found = manifests(checkpoints)
    if not found:
        raise SystemExit(
            f"{checkpoints} holds no checkpoint. Train with --hyperparams callback:\"[{{'sb3_recurrent_offpolicy.checkpoint."
            "CompleteCheckpoint': {'save_freq': 10000}}]\""
        )
    newest = found[-1][1]
    algorithm: Any = next(each for each in ALGORITHMS.values() if each.__name__ == newest["algorithm"])
    model = algorithm.resume(checkpoints)
    print(f"Going on at {model.num_timesteps} of {model._total_timesteps} steps")
    callback = CompleteCheckpoint(newest["save_freq"], checkpoints, newest["keep"])
    n_left = max(model._total_timesteps - model.num_timesteps, 0)
    model.learn(n_left, callback=callback, reset_num_timesteps=False, progress_bar=sys.stdout.isatty())
    # RL Zoo numbers the runs of a task
    env_id = folder.resolve().name.rpartition("_")[0]
    model.save(folder / env_id)
    if (normalizer := model.get_vec_normalize_env()) is not None:
        (folder / env_id).mkdir(exist_ok=True)
        normalizer.save(str(folder / env_id / "vecnormalize.pkl"))
    print(f"Saved {folder / env_id}.zip")


def main(arguments: list[str]) -> None:
    """
    Run an RL Zoo script with our algorithms known, hook or no hook.

    :param arguments: name of the script (train, enjoy, record_video, ...) and its arguments; or "resume" and the folder of a
        run
    """
    if not arguments or arguments[0].startswith("-"):
        raise SystemExit(
            "usage: python -m sb3_recurrent_offpolicy.zoo SCRIPT ..., SCRIPT being train, enjoy, record_video, ...\n"
            "       python -m sb3_recurrent_offpolicy.zoo resume FOLDER"
        )
    if arguments[0] == "resume":
        if len(arguments) != 2:
            raise SystemExit("usage: python -m sb3_recurrent_offpolicy.zoo resume FOLDER")
        resume(Path(arguments[1]))
        return
    for name in ("rl_zoo3.utils", "rl_zoo3.exp_manager"):
        register(importlib.import_module(name))
    sys.argv = arguments
    runpy.run_module(f"rl_zoo3.{arguments[0]}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
