"""RL Zoo knows us, through the start-up hook and without it."""

import io
import os
import pickle
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
import pytest
import torch as th
import yaml
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv
from matplotlib import pyplot as plt
from stable_baselines3.common.monitor import load_results

from sb3_recurrent_offpolicy import R2D2
from sb3_recurrent_offpolicy.training_state import manifests
from sb3_recurrent_offpolicy.zoo import ALGORITHMS, HYPERPARAMS, SEARCH_SPACES, convert_recurrent_params, main

ENV = "PendulumNoVel-v1"
# Where actions must be discrete
ENVS = {"r2d2": "CartPoleNoVel-v1"}
OURS = {
    "r2d2": "BanditTrial-v0",
    "recurrent_ddpg": "PendulumFlicker-v0",
    "recurrent_sac": "PassiveTMaze-v0",
    "recurrent_td3": "HiddenWindReach-v0",
    "recurrent_tqc": "PendulumVelocityOnly-v0",
}
FEW_UPDATES = ("n_envs:2", "learning_starts:50", "buffer_size:2000", "train_freq:8", "gradient_steps:1")
SMALL = ("--num-threads", "1", "-params", *FEW_UPDATES)
SHORT = ("-n", "100", "--eval-freq", "-1", *SMALL)


def python(*arguments: str, **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=os.environ | environment, timeout=300
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout + process.stderr


def zoo(script: str, *arguments: str) -> str:
    """Run ``python -m rl_zoo3.SCRIPT`` in this process, which has imported torch, and return what it prints."""
    printed = io.StringIO()
    threads = th.get_num_threads()
    try:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
            patch.setattr(sys, "argv", [script, *arguments])
            # With a display it would wait for someone to close the window
            patch.setattr(plt, "show", lambda: None)
            runpy.run_module(f"rl_zoo3.{script}", run_name="__main__", alter_sys=True)
    finally:
        th.set_num_threads(threads)
        print(printed.getvalue())
    return printed.getvalue()


class Runs(NamedTuple):
    """Two runs of ``train``, the second of which continues the first, and what they printed."""

    algo: str
    env: str
    folder: Path
    printed: tuple[str, str]

    @property
    def named(self) -> tuple[str, ...]:
        return ("--algo", self.algo, "--env", self.env, "-f", str(self.folder))

    def path(self, number: int) -> Path:
        return self.folder / self.algo / f"{self.env}_{number}"

    def model(self, number: int) -> Any:
        return ALGORITHMS[self.algo].load(self.path(number) / f"{self.env}.zip")


@pytest.fixture(scope="module", params=ALGORITHMS)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(request.param, ENVS.get(request.param, ENV), tmp_path_factory.mktemp("logs"), ("", ""))
    train = (*runs.named, "-n", "400", "--eval-freq", "200", "--eval-episodes", "2", *SMALL)
    kept = ("--save-freq", "200", "--save-replay-buffer", "--tensorboard-log", str(runs.folder / "tensorboard"))
    first = zoo("train", *kept, "-P", *train)
    second = zoo("train", "-i", str(runs.path(1) / f"{runs.env}.zip"), *train)
    return runs._replace(printed=(first, second))


def test_training_takes_our_hyperparameters_and_shows_progress(runs: Runs) -> None:
    assert f"hyperparams/{runs.algo}.yml" in runs.printed[0].replace(os.sep, "/")
    assert "400/400" in runs.printed[0]


def test_training_leaves_what_was_asked_for(runs: Runs) -> None:
    left = {path.name for path in runs.path(1).iterdir()}
    assert left >= {
        f"{runs.env}.zip",
        "best_model.zip",
        "rl_model_200_steps.zip",
        "rl_model_400_steps.zip",
        "replay_buffer.pkl",
    }
    assert list((runs.folder / "tensorboard").rglob("events.out.tfevents.*"))


def test_training_goes_on_with_model_and_buffer(runs: Runs) -> None:
    assert "Loading pretrained agent" in runs.printed[1] and "Loading replay buffer" in runs.printed[1]
    assert runs.model(2)._n_updates > runs.model(1)._n_updates > 0


@pytest.mark.parametrize("algo", ["recurrent_sac", "r2d2"])
def test_a_run_that_was_stopped_is_resumed(algo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = ENVS.get(algo, ENV)
    callback = "callback:[{'sb3_recurrent_offpolicy.checkpoint.CompleteCheckpoint': {'save_freq': 100}}]"
    named = ("--algo", algo, "--env", env, "-f", str(tmp_path), "-n", "300", "--eval-freq", "-1")
    zoo("train", *named, *SMALL, "normalize:{'norm_obs':True,'norm_reward':False}", callback)
    run = tmp_path / algo / f"{env}_1"
    # As if it had been killed before the last checkpoint
    newest = manifests(run / "checkpoint")[-1]
    assert newest[1]["num_timesteps"] >= 300
    newest[0].unlink()
    (run / f"{env}.zip").unlink()
    (run / env / "vecnormalize.pkl").unlink()
    main(["resume", str(run)])
    assert re.search(r"Going on at 2\d\d of 300 steps", capsys.readouterr().out)
    assert ALGORITHMS[algo].load(run / f"{env}.zip").num_timesteps >= 300
    assert (run / env / "vecnormalize.pkl").exists()
    # A run that is complete is left as it is
    main(["resume", str(run)])
    assert ALGORITHMS[algo].load(run / f"{env}.zip").num_timesteps >= 300
    with pytest.raises(SystemExit, match=r"holds no checkpoint\. Train with --hyperparams callback"):
        main(["resume", str(tmp_path)])
    with pytest.raises(SystemExit, match="usage"):
        main(["resume"])


def test_enjoy_shows_the_newest_run(runs: Runs) -> None:
    printed = zoo("enjoy", *runs.named, "-n", "200", "--no-render")
    assert f"Loading {runs.path(2) / runs.env}.zip" in printed and "Mean reward" in printed


@pytest.mark.parametrize(
    ("wanted", "name"),
    [(["--load-best"], "best_model.zip"), (["--load-checkpoint", "200"], "rl_model_200_steps.zip")],
    ids=["best", "checkpoint"],
)
def test_enjoy_shows_what_is_wanted(runs: Runs, wanted: list[str], name: str) -> None:
    assert f"Loading {runs.path(1) / name}" in zoo("enjoy", *runs.named, "--exp-id", "1", "-n", "10", "--no-render", *wanted)


@pytest.fixture
def black_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    # In place of pygame
    for env in (CartPoleEnv, PendulumEnv):
        monkeypatch.setattr(env, "render", lambda self: np.zeros((32, 32, 3), dtype=np.uint8))


@pytest.mark.usefixtures("black_frames")
def test_record_video(runs: Runs, tmp_path: Path) -> None:
    zoo("record_video", *runs.named, "-n", "10", "-o", str(tmp_path))
    (video,) = tmp_path.glob(f"final-model-{runs.algo}-{runs.env}-*.mp4")
    assert video.stat().st_size > 0


@pytest.fixture
def no_figures() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


@pytest.mark.usefixtures("no_figures")
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_plot_train_draws_the_returns_of_both_runs(runs: Runs) -> None:
    zoo("plots.plot_train", "-a", runs.algo, "-e", runs.env, "-f", str(runs.folder), "-w", "1")
    drawn = [np.size(line.get_ydata()) for line in plt.gca().get_lines()]
    assert sorted(drawn) == sorted(len(load_results(str(runs.path(number)))) for number in (1, 2))


@pytest.mark.usefixtures("no_figures")
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_all_plots_and_plot_from_file_show_the_evaluations_of_both_runs(runs: Runs, tmp_path: Path) -> None:
    gathered = str(tmp_path / "gathered")
    zoo("plots.all_plots", "-a", runs.algo, "-e", runs.env, "-f", str(runs.folder), "-l", "logs", "-o", gathered)
    results = pickle.loads(Path(gathered + ".pkl").read_bytes())[runs.env][f"{runs.algo.upper()}-logs"]
    assert results["timesteps"].tolist() == [200, 400] and results["mean_per_eval"].shape == (2, 2)

    zoo("plots.plot_from_file", "-i", gathered, "-o", gathered + ".svg")
    assert Path(gathered + ".svg").stat().st_size > 0


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_our_tasks_in_subprocesses(algo: str, tmp_path: Path) -> None:
    common = ("--algo", algo, "--env", OURS[algo], "-f", str(tmp_path), "--gym-packages", "sb3_recurrent_offpolicy.envs")
    assert "Using 'default' hyperparameters" in zoo("train", *common, "--vec-env", "subproc", *SHORT)
    assert "Mean reward" in zoo("enjoy", *common, "-n", "200", "--no-render")


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_file_of_the_users_wins_and_may_name_our_wrappers(algo: str, tmp_path: Path) -> None:
    env = ENVS.get(algo, ENV)
    wrappers = [
        {"sb3_recurrent_offpolicy.envs.Flicker": {"period": 3}},
        {"sb3_recurrent_offpolicy.envs.PreviousActionReward": {"action": False}},
        {"sb3_recurrent_offpolicy.envs.MaskObservation": {"drop": [0]}},
        {"sb3_recurrent_offpolicy.envs.RL2Trial": {"n_episodes": 2}},
    ]
    mine = tmp_path / "mine.yml"
    mine.write_text(yaml.dump({env: {"n_timesteps": 1e3, "policy": "MlpGruPolicy", "env_wrapper": wrappers}}))
    common = ("--algo", algo, "--env", env, "-f", str(tmp_path))
    assert str(mine) in zoo("train", *common, "-conf", str(mine), *SHORT)
    assert "Mean reward" in zoo("enjoy", *common, "-n", "400", "--no-render")


def test_a_file_of_the_users_that_is_missing_is_an_error(tmp_path: Path) -> None:
    common = ("--algo", "recurrent_td3", "--env", ENV, "-f", str(tmp_path))
    for name in ("missing.yml", "hyperparams/recurrent_td3.yml"):
        with pytest.raises(FileNotFoundError, match=name):
            zoo("train", *common, "-conf", str(tmp_path / name), *SHORT)


@pytest.mark.parametrize("arguments", [[], ["--conf-file", "r2d2_paper.yml"]], ids=["atari", "paper"])
def test_atari_from_single_frames(arguments: list[str], tmp_path: Path) -> None:
    printed = zoo(
        *("train", "--algo", "r2d2", "--env", "PongNoFrameskip-v4", "-f", str(tmp_path), *arguments),
        *("-n", "320", "--eval-freq", "-1", "--num-threads", "1"),
        *("-params", "n_envs:2", "learning_starts:300", "buffer_size:2000", "batch_size:2", "train_freq:20"),
    )
    assert f"hyperparams/{'r2d2_paper' if arguments else 'r2d2'}.yml" in printed.replace(os.sep, "/")
    model = R2D2.load(tmp_path / "r2d2" / "PongNoFrameskip-v4_1" / "PongNoFrameskip-v4.zip")
    assert model.observation_space.shape == (1, 84, 84) and model._n_updates > 0


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_optimize_and_train_with_what_a_trial_found(algo: str, tmp_path: Path) -> None:
    env = ENVS.get(algo, ENV)
    common = ("--algo", algo, "--env", env, "-f", str(tmp_path), "--num-threads", "1", "--seed", "0")
    study = ("--storage", str(tmp_path / "study.log"), "--study-name", "study")
    # A trial may draw large networks and batches: a few updates must do
    small = ("-params", "n_envs:4", "learning_starts:380", "gradient_steps:1")
    search = ("-optimize", "--n-trials", "2", "--n-startup-trials", "1", "--n-evaluations", "1", "--eval-episodes", "1")
    zoo("train", *common, *study, *search, "--pruner", "none", "--no-optim-plots", "-n", "400", *small)
    (report,) = (tmp_path / algo).glob("report_*.csv")
    trials = pd.read_csv(report)
    # Without a pruner, RL Zoo still prunes a trial that raises ValueError
    assert list(trials["state"]) == ["COMPLETE", "COMPLETE"]

    zoo("train", *common, *study, "--trial-id", "1", "--eval-freq", "-1", "-n", "400", *small)
    (saved,) = (tmp_path / algo).rglob(f"{env}.zip")
    model: Any = ALGORITHMS[algo].load(saved)
    assert model.gamma == pytest.approx(1 - trials["params_one_minus_gamma"][1])


# RL Zoo tells 0 where actions are Discrete
@pytest.mark.parametrize(
    ("algo", "n_actions"), [*((algo, 1) for algo in ALGORITHMS if algo != "r2d2"), ("recurrent_sac", 0), ("r2d2", 0)]
)
def test_the_search_space_makes_a_model(algo: str, n_actions: int) -> None:
    study = optuna.create_study()
    for _ in range(5):
        trial = study.ask()
        hyperparams = SEARCH_SPACES[algo](trial, n_actions, 4, {})
        env = "Pendulum-v1" if n_actions else "CartPole-v1"
        model: Any = ALGORITHMS[algo](policy="MlpLstmPolicy", env=env, device="cpu", **hyperparams)
        converted = convert_recurrent_params(trial.params)
        assert converted["gamma"] == model.gamma
        is_deterministic = algo in ("recurrent_td3", "recurrent_ddpg")
        assert ("action_noise" in converted) == (model.action_noise is not None) == is_deterministic


def test_the_hook_is_enough_in_a_new_process(tmp_path: Path) -> None:
    common = ("--algo", "recurrent_td3", "--env", "HiddenWindReach-v0", "-f", str(tmp_path))
    packages = ("--gym-packages", "sb3_recurrent_offpolicy.envs")
    python("-m", "rl_zoo3.train", *common, *packages, *SHORT)
    assert "Mean reward" in python("-m", "rl_zoo3.enjoy", *common, *packages, "-n", "100", "--no-render")


def test_without_the_hook(tmp_path: Path) -> None:
    common = ("--algo", "recurrent_td3", "--env", ENV, "-f", str(tmp_path))
    python("-m", "sb3_recurrent_offpolicy.zoo", "train", *common, *SHORT, SB3_RECURRENT_NO_ZOO="1")
    others = [
        ("enjoy", *common, "-n", "200", "--no-render"),
        ("record_video", *common, "-n", "10"),
        ("plots.plot_train", "-a", "recurrent_td3", "-e", ENV, "-f", str(tmp_path)),
    ]
    code = f"""
import numpy as np
from gymnasium.envs.classic_control import PendulumEnv
from sb3_recurrent_offpolicy.zoo import main

PendulumEnv.render = lambda self: np.zeros((32, 32, 3), dtype=np.uint8)
for arguments in {others}:
    main(list(arguments))
"""
    assert "Mean reward" in python("-c", code, SB3_RECURRENT_NO_ZOO="1", MPLBACKEND="agg")
    assert list(tmp_path.rglob("final-model-*.mp4"))


def test_without_a_script_there_is_help() -> None:
    with pytest.raises(SystemExit, match="SCRIPT being train, enjoy, record_video"):
        main([])


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_shipped_files_have_a_default(algo: str) -> None:
    entries = yaml.safe_load((HYPERPARAMS / f"{algo}.yml").read_text())
    # All else is the constructor's, so that both learn the same
    assert set(entries["default"]) == {"n_timesteps", "policy"}
