"""Final models of ``benchmarks.learning``, for what opens them: the kept file, or the same training again."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from benchmarks.learning import DEFAULT_ENTRY, MODELS, make_model, set_entry, stated_hyperparams


def path_of(algo: str, env_id: str, seed: int, settings: Sequence[str] = (), entry: str | None = None) -> Path:
    """
    :param algo: the algorithm
    :param env_id: the environment
    :param seed: of training
    :param settings: ``name=value`` in place of what the hyper-parameter file says
    :param entry: of the hyper-parameter file, None for that of the environment
    :return: of the file that keeps the final model
    """
    return MODELS / (entry or "tuned") / env_id / f"{','.join([algo, *settings])}_{seed}.zip"


def save(model: BaseAlgorithm, path: Path) -> None:
    """
    :param model: to be kept
    :param path: of the file; statistics of VecNormalize go beside it
    """
    model.save(path)
    if normalizer := model.get_vec_normalize_env():
        normalizer.save(str(path.with_suffix(".pkl")))


def trained(
    algo: str, env_id: str, seed: int = 0, settings: Sequence[str] = (), entry: str | None = DEFAULT_ENTRY
) -> BaseAlgorithm:
    """
    Parameters as for :func:`path_of`.

    :return: the final model, trained where no file keeps it
    """
    path = path_of(algo, env_id, seed, settings, entry)
    hyperparams = stated_hyperparams(algo, entry or env_id)
    for setting in settings:
        set_entry(hyperparams, setting)
    model, n_steps = make_model(algo, env_id, seed, hyperparams)
    if not path.exists():
        model.learn(n_steps)
        save(model, path)
    env: Any = model.get_env()
    if normalizer := model.get_vec_normalize_env():
        env = VecNormalize.load(str(path.with_suffix(".pkl")), normalizer.venv)
    return type(model).load(path, env=env, device="cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algo", required=True)
    parser.add_argument("--env", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tuned", action="store_true", help="the environment's entry in place of the default")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    trained(arguments.algo, arguments.env, arguments.seed, arguments.set, None if arguments.tuned else DEFAULT_ENTRY)


if __name__ == "__main__":
    main()
