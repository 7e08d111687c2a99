"""Actors in processes of Ray: begun, killed, replaced, ended. What they deliver is tested in ``test_distributed``."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import psutil
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import load_results

from sb3_recurrent_offpolicy import R2D2
from sb3_recurrent_offpolicy.distributed import RayActors
from tests.fleet import NumberedEnv, check_fleet
from tests.test_distributed import r2d2

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Of this module: to begin one takes seconds."""
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=128 << 20, log_to_driver=False)
    yield
    ray.shutdown()


class ActingEnv(NumberedEnv):
    """Tells in each info which process it is in."""

    def step(self, action: Any) -> Any:
        *found, info = super().step(action)
        return (*found, info | {"process": os.getpid()})


class Kill(BaseCallback):
    """
    Kills the process that made the latest step, now and then.

    :param at: numbers of steps
    """

    def __init__(self, at: list[int], signal_number: int = signal.SIGKILL):
        super().__init__()
        self.at, self.signal_number = at, signal_number
        self.processes: list[int] = []

    def _on_step(self) -> bool:
        process = self.locals["infos"][0]["process"]
        if process not in self.processes:
            self.processes.append(process)
        if self.at and self.num_timesteps >= self.at[0]:
            self.at.pop(0)
            if psutil.pid_exists(process):
                os.kill(process, self.signal_number)
        return True


def test_training_goes_on_after_kills(caplog: Any) -> None:
    model, kill = r2d2(buffer_size=100_000), Kill([150, 500])
    with RayActors(model, ActingEnv, n_actors=2, envs_per_actor=2, stretch_length=8) as actors:
        model.learn(1200, callback=kill)
        # On a busy machine new actors take their time
        while len(kill.processes) < 4 and model.num_timesteps < 50_000:
            model.learn(400, callback=kill, reset_num_timesteps=False)
        assert actors.fleet.records.n_restarts == 2
        assert model._n_updates == pytest.approx((model.num_timesteps - 40) / 4, abs=1)
    check_fleet(model)
    assert len(kill.processes) == 4 and os.getpid() not in kill.processes
    assert "is replaced: ActorLostError" in caplog.text


@pytest.mark.slow
def test_an_actor_that_hangs_is_replaced(caplog: Any) -> None:
    model, stop = r2d2(buffer_size=20_000), Kill([100], signal.SIGSTOP)
    # More than an actor takes to begin
    with RayActors(model, ActingEnv, n_actors=1, envs_per_actor=2, stretch_length=8, time_limit=30) as actors:
        model.learn(400, callback=stop)
        assert actors.fleet.records.n_restarts == 1
    check_fleet(model)
    assert "has delivered nothing for" in caplog.text


def test_an_environment_that_always_fails_ends_the_run_with_its_own_error(monkeypatch: Any) -> None:
    monkeypatch.setattr("sb3_recurrent_offpolicy.distributed.fleet.MOST_FAILURES", 1)
    model = r2d2()
    with pytest.raises(ZeroDivisionError, match="worn out"), RayActors(model, partial(NumberedEnv, 3), 1, 2):
        model.learn(100)
    assert (model.num_timesteps, model.deliveries) == (0, None)


def test_environments_that_this_process_has_registered_are_known_to_actors() -> None:
    gym.register("NumberedInTests-v0", entry_point=lambda **kwargs: NumberedEnv())
    model = r2d2()
    with RayActors(model, "NumberedInTests-v0", n_actors=1, envs_per_actor=2, stretch_length=8):
        model.learn(50)
    check_fleet(model)


def test_without_ray_the_extra_is_named(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'sb3_recurrent_offpolicy\[ray\]'"):
        RayActors(r2d2(), NumberedEnv)


def test_the_package_does_not_import_ray() -> None:
    code = "import sys, sb3_recurrent_offpolicy, sb3_recurrent_offpolicy.distributed; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_command_line_leaves_what_the_rl_zoo_leaves(tmp_path: Path) -> None:
    command = "-m sb3_recurrent_offpolicy.distributed --algo r2d2 --env CartPoleNoVel-v1 --actors 1 --envs-per-actor 2"
    options = f"-n 300 -f {tmp_path} --seed 1 --eval-freq 100 --eval-episodes 1 --stretch-length 16"
    run = subprocess.run([sys.executable, *command.split(), *options.split()], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    folder = tmp_path / "r2d2" / "CartPoleNoVel-v1_1"
    assert {"CartPoleNoVel-v1.zip", "evaluations.npz", "0.monitor.csv"} <= {path.name for path in folder.iterdir()}
    assert len(load_results(str(folder))) > 3
    evaluate = f"-m rl_zoo3.enjoy --algo r2d2 --env CartPoleNoVel-v1 -f {tmp_path} -n 50 --no-render"
    assert subprocess.run([sys.executable, *evaluate.split()], capture_output=True).returncode == 0


SCRIPT = """
import sys
from sb3_recurrent_offpolicy import R2D2
from sb3_recurrent_offpolicy.checkpoint import CompleteCheckpoint
from sb3_recurrent_offpolicy.distributed import RayActors
from tests.test_distributed import SMALL
from tests.fleet import NumberedEnv

if __name__ == "__main__":
    model = R2D2("MlpLstmPolicy", NumberedEnv(), **SMALL | dict(buffer_size=40_000))
    with RayActors(model, NumberedEnv, n_actors=2, envs_per_actor=2, stretch_length=8):
        print("begun", flush=True)
        model.learn(10**6, callback=CompleteCheckpoint(200, sys.argv[1]))
"""


def end_of_script(folder: Path, signal_number: int) -> None:
    """Run the script until it has left some checkpoints, and end it. None of its processes may stay."""
    root = Path(__file__).parents[1]
    learner = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], cwd=root, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("checkpoint_*"))) < 2 or len(list(folder.glob("checkpoint_00000[0-4]*"))) > 0:
        assert learner.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    children = psutil.Process(learner.pid).children(recursive=True)
    assert any("ray::Actor" in " ".join(child.cmdline()) for child in children if child.is_running())
    os.kill(learner.pid, signal_number)
    learner.wait(timeout=60)
    deadline = time.monotonic() + 90
    alive = children
    while alive and time.monotonic() < deadline:
        time.sleep(0.5)
        alive = [child for child in alive if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not alive


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    end_of_script(tmp_path / "run", signal.SIGINT)


@pytest.mark.slow
def test_a_learner_that_was_killed_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    end_of_script(tmp_path / "run", signal.SIGKILL)
    model = R2D2.resume(tmp_path / "run")
    with RayActors(model, NumberedEnv, n_actors=2, envs_per_actor=2, stretch_length=8):
        n_before = model.num_timesteps
        assert n_before >= 800
        model.learn(400, reset_num_timesteps=False)
        assert model.num_timesteps >= n_before + 400
    check_fleet(model)
