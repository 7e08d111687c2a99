"""
A page about the memory of a trained model, as one HTML file.

    python -m sb3_recurrent_offpolicy.analysis --algo r2d2 --model m.zip --env MemoryLength-v0 --quantity "cue=context[0]" \\
        -o report.html

A model in a folder of the RL Zoo is played with the wrappers, the arguments and the statistics that stand beside it.
"""

import argparse
import ast
import importlib
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

import sb3_recurrent_offpolicy.envs  # noqa: F401  registers the tasks
from sb3_recurrent_offpolicy.analysis.findings import findings_of
from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy
from sb3_recurrent_offpolicy.analysis.page import NEEDED, verdict, write_page
from sb3_recurrent_offpolicy.analysis.playing import EnvLike, envs_of, reader
from sb3_recurrent_offpolicy.checks import check_installed
from sb3_recurrent_offpolicy.files import with_suffix
from sb3_recurrent_offpolicy.names import ALGORITHMS

# The last is the RL Zoo's own
OPENED: dict[str, type[BaseAlgorithm]] = {**ALGORITHMS, "ppo_lstm": RecurrentPPO}

Wrapper = Callable[[gym.Env], gym.Env]


def zoo_env(env_id: str, env_kwargs: dict[str, Any], wrapper: Wrapper | None) -> gym.Env:
    """
    :param env_id: registered
    :param env_kwargs: its arguments
    :param wrapper: around it, None for none
    :return: the environment, which draws images if it can
    """
    try:
        env = gym.make(env_id, **{"render_mode": "rgb_array", **env_kwargs})
    except TypeError:
        env = gym.make(env_id, **env_kwargs)
    return env if wrapper is None else wrapper(env)


def kept_by_zoo(folder: Path) -> tuple[dict[str, Any], Wrapper | None]:
    """
    :param folder: in which the RL Zoo keeps how a model was trained, if it has trained it
    :return: arguments of the environment, and what it is wrapped in
    :raises SystemExit: if the RL Zoo is needed to read that, and not there
    """
    if not (folder / "config.yml").exists():
        return {}, None
    try:
        import yaml
        from rl_zoo3.utils import get_saved_hyperparams, get_wrapper_class
    except ImportError:
        raise SystemExit(
            f"--model: {folder} tells how its environment is wrapped, which the RL Zoo reads: "
            'pip install "sb3_recurrent_offpolicy[zoo]"'
        ) from None
    hyperparams, _ = get_saved_hyperparams(str(folder))
    env_kwargs = hyperparams.get("env_kwargs") or {}
    if (folder / "args.yml").exists():
        # As RL Zoo reads its own file, which has tags of Python
        env_kwargs = yaml.load((folder / "args.yml").read_text(), Loader=yaml.UnsafeLoader).get("env_kwargs") or env_kwargs
    return env_kwargs, get_wrapper_class(hyperparams)


def _env_kwargs(given: list[str]) -> dict[str, Any]:
    found = {}
    for argument in given:
        key, colon, value = argument.partition(":")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            colon = ""
        if not colon:
            raise SystemExit(f"--env-kwargs {argument}: must be like memory_length:20, or name:\"'text'\"")
    return found


def _quantities(given: list[str]) -> dict[str, str]:
    found = {}
    for argument in given:
        name, equals, quantity = argument.partition("=")
        if not (name and equals):
            raise SystemExit(f"--quantity {argument}: must be like velocity=state[1]")
        try:
            reader(quantity)
        except ValueError as error:
            raise SystemExit(f"--quantity {argument}: {error}") from None
        found[name] = quantity
    return found


def _check_env(env_id: str) -> None:
    if env_id not in gym.registry and find_spec("rl_zoo3") is not None:
        # PendulumNoVel-v1 and others
        importlib.import_module("rl_zoo3.import_envs")
    try:
        gym.spec(env_id)
    except gym.error.Error as error:
        raise SystemExit(f"--env {env_id}: {error} --gym-packages names modules that register others") from None


def _env(arguments: argparse.Namespace) -> EnvLike:
    env_kwargs, wrapper = kept_by_zoo(arguments.model.parent / arguments.env)
    env_kwargs = env_kwargs | _env_kwargs(arguments.env_kwargs)
    env = partial(zoo_env, arguments.env, env_kwargs, wrapper)
    try:
        env().close()
    except Exception as error:
        raise SystemExit(f"--env {arguments.env} cannot be made with --env-kwargs {env_kwargs}: {error}") from error
    return env


def _check_together(model: Any, env: EnvLike, quantities: dict[str, str], arguments: argparse.Namespace) -> None:
    """Before anything is computed: model and environment belong together, and every quantity can be read."""
    try:
        with envs_of(OpenedPolicy(model), env, 1, arguments.seed) as envs:
            envs.reset()
            for name, quantity in quantities.items():
                try:
                    reader(quantity)(envs, list(envs.unwrapped.reset_infos))
                except Exception as error:
                    raise SystemExit(
                        f"--quantity {name}={quantity} cannot be read from {arguments.env} ({type(error).__name__}: {error}): "
                        'name an attribute of the environment, like "state[1]", or what it tells at each reset and step, like '
                        '"info.physics.length"'
                    ) from error
    except ValueError as error:
        raise SystemExit(f"--env {arguments.env}: {error}") from error


def _model(arguments: argparse.Namespace, env: EnvLike) -> Any:
    if arguments.algo not in OPENED:
        raise SystemExit(f"--algo {arguments.algo}: must be one of {', '.join(OPENED)}")
    algorithm: Any = OPENED[arguments.algo]
    path = arguments.model
    if not (path.exists() or Path(with_suffix(path, ".zip")).exists()):
        raise SystemExit(f"--model {path}: there is no such file, pass what model.save has written")
    # Predicts only, and one step at a time, for which no GPU is worth it
    settings: dict[str, Any] = {"buffer_size": 1} if issubclass(algorithm, OffPolicyAlgorithm) else {}
    try:
        model = algorithm.load(path, device="cpu", **settings)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise SystemExit(
            f"--model {path} cannot be loaded as --algo {arguments.algo} ({reason}): name the algorithm that has saved it"
        ) from error
    normalizer = arguments.normalizer or path.parent / arguments.env / "vecnormalize.pkl"
    if arguments.normalizer is not None and not normalizer.exists():
        raise SystemExit(f"--normalizer {normalizer}: there is no such file, pass what VecNormalize.save has written")
    if normalizer.exists():
        # SB3 types a maker of environments more narrowly than it treats it
        envs = make_vec_env(env, n_envs=model.n_envs)  # type: ignore[arg-type]
        try:
            model.set_env(VecNormalize.load(str(normalizer), envs))
        except Exception as error:
            raise SystemExit(
                f"--normalizer {normalizer} does not fit --model {path} and --env {arguments.env} ({error}): pass the task "
                "that the model was trained on"
            ) from error
    return model


def main(given: list[str]) -> None:
    """
    :param given: arguments of the command line
    :raises SystemExit: if one of them is wrong
    """
    parser = argparse.ArgumentParser(
        prog="python -m sb3_recurrent_offpolicy.analysis",
        description=__doc__,
        # Otherwise --env is taken for --env-kwargs
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--algo", required=True, help=f"one of {', '.join(OPENED)}")
    parser.add_argument("--model", required=True, type=Path, help="what model.save has written")
    parser.add_argument("--env", required=True, help="id of the environment")
    parser.add_argument("-o", "--output", type=Path, default=Path("memory.html"), help="of the page, memory.html by default")
    parser.add_argument(
        "--quantity",
        action="append",
        default=[],
        metavar="NAME=SPEC",
        help="hidden, to be decoded from the memory: cue=context[0], length=info.physics.length; again for more of them",
    )
    parser.add_argument("--n-episodes", type=int, default=100, help="that each tool plays, 100 by default")
    parser.add_argument("--no-machine", action="store_true", help="leave out the machine, which takes longest")
    parser.add_argument("--observation-code", type=int, default=8, help="size of the code of observations, 8 by default")
    parser.add_argument("--memory-code", type=int, default=16, help="size of the code of each array of memory, 16 by default")
    parser.add_argument("--seed", type=int, default=0, help="of the starts")
    parser.add_argument("--env-kwargs", nargs="+", default=[], metavar="KEY:VALUE", help="arguments of the environment")
    parser.add_argument("--gym-packages", nargs="+", default=[], metavar="MODULE", help="to be imported, they register tasks")
    parser.add_argument(
        "--normalizer",
        type=Path,
        help="statistics of VecNormalize; by default ENV/vecnormalize.pkl beside the model, if it is there",
    )
    arguments = parser.parse_args(given)
    try:
        # For the progress bars, too
        check_installed("analysis", *NEEDED, "tqdm")
    except ImportError as error:
        raise SystemExit(str(error)) from None
    for package in arguments.gym_packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise SystemExit(f"--gym-packages {package}: {error}. Name a module that can be imported from here") from None
    _check_env(arguments.env)
    quantities = _quantities(arguments.quantity)
    env = _env(arguments)
    model = _model(arguments, env)
    _check_together(model, env, quantities, arguments)
    output = Path(with_suffix(arguments.output, ".html"))
    try:
        findings = findings_of(
            model,
            env,
            quantities,
            arguments.n_episodes,
            not arguments.no_machine,
            arguments.observation_code,
            arguments.memory_code,
            arguments.seed,
            show_progress=True,
            title=f"The memory of {arguments.algo} on {arguments.env}",
        )
    except ValueError as error:
        raise SystemExit(str(error)) from error
    write_page(output, findings)
    print(verdict(findings.use))
    print(f"Wrote {output}")


if __name__ == "__main__":
    main(sys.argv[1:])
