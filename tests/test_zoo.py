"""RL Zoo knows us: through the start-up hook, without it, and only while it is wanted."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sb3_recurrent_offpolicy import R2D2
from sb3_recurrent_offpolicy.zoo import ALGORITHMS, HYPERPARAMS, SEARCH_SPACES, convert_recurrent_params

ENV = "PendulumNoVel-v1"
# Where actions must be discrete
ENVS = {"r2d2": "CartPoleNoVel-v1"}
SHORT = ["-n", "200", "--eval-freq", "-1", "--num-threads", "1", "-params", "learning_starts:50", "buffer_size:2000"]


def python(*arguments: str, fails: bool = False, cwd: Path | None = None, **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=os.environ | environment, cwd=cwd, timeout=300
    )
    assert (process.returncode != 0) == fails, process.stdout + process.stderr
    return process.stdout + process.stderr


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_train_continue_enjoy(algo: str, tmp_path: Path) -> None:
    env = ENVS.get(algo, ENV)
    common = ["--algo", algo, "--env", env, "-f", str(tmp_path)]
    output = python("-m", "rl_zoo3.train", *common, *SHORT, "--save-freq", "100", "--save-replay-buffer")
    assert f"hyperparams/{algo}.yml" in output.replace(os.sep, "/")
    run = tmp_path / algo / f"{env}_1"
    assert (run / f"{env}.zip").is_file() and (run / "replay_buffer.pkl").is_file()
    assert list(run.glob("rl_model_*_steps.zip"))

    assert "Mean reward" in python("-m", "rl_zoo3.enjoy", *common, "-n", "300", "--no-render", "--num-threads", "1")

    continued = python("-m", "rl_zoo3.train", *common, *SHORT, "-i", str(run / f"{env}.zip"), "--vec-env", "subproc")
    assert "Loading pretrained agent" in continued and "Loading replay buffer" in continued
    first, second = (ALGORITHMS[algo].load(tmp_path / algo / f"{env}_{number}" / f"{env}.zip") for number in (1, 2))
    assert second._n_updates > first._n_updates > 0


def test_the_default_entry_serves_other_environments(tmp_path: Path) -> None:
    output = python("-m", "rl_zoo3.train", "--algo", "recurrent_td3", "--env", "Pendulum-v1", "-f", str(tmp_path), *SHORT)
    assert "Using 'default' hyperparameters" in output


@pytest.mark.parametrize("arguments", [[], ["--conf-file", "r2d2_paper.yml"]], ids=["atari", "paper"])
def test_atari_from_single_frames(arguments: list[str], tmp_path: Path) -> None:
    output = python(
        *("-m", "rl_zoo3.train", "--algo", "r2d2", "--env", "PongNoFrameskip-v4", "-f", str(tmp_path), *arguments),
        *("-n", "400", "--eval-freq", "-1", "--num-threads", "1"),
        *("-params", "n_envs:2", "learning_starts:300", "buffer_size:2000", "batch_size:2", "train_freq:20"),
    )
    assert f"hyperparams/{'r2d2_paper' if arguments else 'r2d2'}.yml" in output.replace(os.sep, "/")
    model = R2D2.load(tmp_path / "r2d2" / "PongNoFrameskip-v4_1" / "PongNoFrameskip-v4.zip")
    assert model.observation_space.shape == (1, 84, 84) and model._n_updates > 0


def test_a_file_of_the_users_wins(tmp_path: Path) -> None:
    arguments = ["--algo", "recurrent_td3", "--env", ENV, "-f", str(tmp_path), *SHORT]
    mine = tmp_path / "mine.yml"
    mine.write_text(yaml.dump({ENV: {"n_timesteps": 1e3, "policy": "MlpGruPolicy"}}))
    assert str(mine) in python("-m", "rl_zoo3.train", *arguments, "-conf", str(mine))
    missing = python("-m", "rl_zoo3.train", *arguments, "-conf", str(tmp_path / "missing.yml"), fails=True)
    assert "missing.yml" in missing


def test_optimize(tmp_path: Path) -> None:
    python(
        *("-m", "rl_zoo3.train", "--algo", "recurrent_td3", "--env", ENV, "-f", str(tmp_path)),
        *("-n", "400", "--num-threads", "1", "-optimize", "--n-trials", "2", "--n-evaluations", "1", "--no-optim-plots"),
        *("--n-startup-trials", "1", "-params", "learning_starts:50"),
    )
    assert list(tmp_path.rglob("report_*.csv"))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_search_space_makes_a_model(algo: str) -> None:
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study()
    for _ in range(5):
        trial = study.ask()
        hyperparams = SEARCH_SPACES[algo](trial, 1, 4, {})
        env = ENVS.get(algo, ENV).replace("NoVel", "")
        model: Any = ALGORITHMS[algo](policy="MlpLstmPolicy", env=env, device="cpu", **hyperparams)
        converted = convert_recurrent_params(trial.params)
        assert converted["gamma"] == model.gamma
        assert ("noise_type" in converted) == (model.action_noise is not None) == (algo in ("recurrent_td3", "recurrent_ddpg"))


def test_switched_off() -> None:
    known = "import rl_zoo3; print('recurrent_td3' in rl_zoo3.ALGOS)"
    assert python("-c", known).strip() == "True"
    assert python("-c", known, SB3_RECURRENT_NO_ZOO="1").strip() == "False"


def test_without_the_hook(tmp_path: Path) -> None:
    arguments = ["--algo", "recurrent_td3", "--env", ENV, "-f", str(tmp_path), *SHORT]
    python("-m", "sb3_recurrent_offpolicy.zoo", "train", *arguments, SB3_RECURRENT_NO_ZOO="1")
    assert "usage: python -m sb3_recurrent_offpolicy.zoo SCRIPT" in python("-m", "sb3_recurrent_offpolicy.zoo", fails=True)


def test_the_hook_costs_nothing_until_rl_zoo_is_imported() -> None:
    loaded = python("-c", "import sys; print('torch' in sys.modules, 'sb3_recurrent_offpolicy' in sys.modules)")
    assert loaded.split() == ["False", "False"]


def test_a_failing_registration_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "sb3_recurrent_offpolicy").mkdir()
    (tmp_path / "sb3_recurrent_offpolicy" / "__init__.py").write_text("raise RuntimeError('broken installation')")
    output = python("-c", "import rl_zoo3; print(len(rl_zoo3.ALGOS))", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert "could not extend rl_zoo3.utils: RuntimeError('broken installation')" in output
    assert "\n12" in "\n" + output, "RL Zoo works on with its own algorithms"


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_shipped_files_have_a_default(algo: str) -> None:
    entries = yaml.safe_load((HYPERPARAMS / f"{algo}.yml").read_text())
    assert {"default", ENVS.get(algo, ENV)} <= set(entries)
