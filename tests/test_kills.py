"""Training that is killed at random moments goes on as if it had not been."""

import os
import random
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_recurrent_offpolicy.checkpoint import CompleteCheckpoint
from tests.training import RUNS, make_run, state_of

CASES = [(name, n_envs, priority_alpha) for name in RUNS for n_envs in (1, 4) for priority_alpha in (0.0, 0.9)]


class Saves(BaseCallback):
    """
    Save model and replay buffer, again and again over the same files.

    :param folder: of the files
    """

    model: OffPolicyAlgorithm

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def _on_step(self) -> bool:
        if self.n_calls % 10 == 0:
            self.model.save(self.folder / "model")
            self.model.save_replay_buffer(self.folder / "buffer")
        return True


def train(model: Any, folder: Path, total: int) -> Any:
    callbacks = [CompleteCheckpoint(20, folder / "run"), Saves(folder)]
    return model.learn(total - model.num_timesteps, callback=callbacks, reset_num_timesteps=False)


def killed_after(seconds: float, case: tuple[str, int, float], folder: Path, total: int) -> bool:
    """Train in a process that is killed so long after its first checkpoint; whether it was still at it."""
    child = os.fork()
    if child == 0:
        # No exception, no exit handler and no output of the parent's are this process's business
        try:
            train(make_run(*case), folder, total)
        finally:
            os._exit(0)
    while not list((folder / "run").glob("checkpoint_*")):
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def assert_survives(case: tuple[str, int, float], n_kills: int, folder: Path, seed: int, total: int, killed: float) -> None:
    """
    :param total: steps of the run
    :param killed: in which fraction of it
    """
    # What a process does once is not counted
    train(make_run(*case), folder / "first", 60)
    began = time.perf_counter()
    expected = state_of(train(make_run(*case), folder / "whole", total))
    duration = time.perf_counter() - began
    generator = random.Random(seed)
    n_killed = 0
    for index in range(n_kills):
        place = folder / str(index)
        n_killed += killed_after(generator.uniform(0.0, killed) * duration, case, place, total)
        with warnings.catch_warnings():
            # Not even the newest checkpoint is damaged
            warnings.simplefilter("error")
            if (place / "model.zip").exists():
                assert RUNS[case[0]].algorithm.load(place / "model", device="cpu").num_timesteps > 0
            if (place / "buffer.pkl").exists():
                other = make_run(*case)
                other.load_replay_buffer(place / "buffer")
                assert other.replay_buffer.size() > 0
            # Last, because it restores the streams that those have drawn from
            model = RUNS[case[0]].algorithm.resume(place / "run")
        assert state_of(train(model, place, total)) == expected, (case, index)
    # One that was faster than the first has ended before
    print(case, f"{n_killed} of {n_kills} killed")


@pytest.mark.parametrize("case", [("td3", 1, 0.0), ("r2d2", 4, 0.9)], ids=str)
def test_kills(case: tuple[str, int, float], tmp_path: Path) -> None:
    assert_survives(case, 3, tmp_path, seed=0, total=200, killed=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_216_kills(case: tuple[str, int, float], tmp_path: Path) -> None:
    """And goes on for 500 steps."""
    assert_survives(case, 9, tmp_path, seed=1, total=700, killed=0.28)
