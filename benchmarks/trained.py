"""
Final models of ``benchmarks.learning``, for what opens them: the kept file, or the same training again.

    python -m benchmarks.trained --algo r2d2 --env MemoryLength-v0 --set n_timesteps=40000
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from benchmarks.learning import DEFAULT_ENTRY, keep, make_model, model_path, set_entry, stated_hyperparams


def trained(
    algo: str, env_id: str, seed: int = 0, settings: Sequence[str] = (), entry: str | None = DEFAULT_ENTRY
) -> BaseAlgorithm:
    """
    Parameters as for ``benchmarks.learning.model_path``.

    :return: the final model, trained where no file keeps it
    """
    path = model_path(algo, env_id, seed, settings, entry)
    hyperparams = stated_hyperparams(algo, entry or env_id)
    for setting in settings:
        set_entry(hyperparams, setting)
    model, n_steps = make_model(algo, env_id, seed, hyperparams)
    if not path.exists():
        model.learn(n_steps)
        keep(model, path)
    env: Any = model.get_env()
    if normalizer := model.get_vec_normalize_env():
        env = VecNormalize.load(str(path.with_suffix(".pkl")), normalizer.venv)
    return type(model).load(path, env=env, device="cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
