"""Memory, files and threads of runs of any length."""

from pathlib import Path
from typing import Any

import psutil
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_recurrent_offpolicy.checkpoint import CompleteCheckpoint
from tests.envs import RandomEnv
from tests.recorder import OBSERVATION_SPACE
from tests.training import RUNS, make_run


class Resources(BaseCallback):
    """
    What the process holds, now and then.

    :param every: steps in between
    """

    def __init__(self, every: int):
        super().__init__()
        self.every = every
        self.process = psutil.Process()
        self.points: list[tuple[float, int, int]] = []

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.every * (len(self.points) + 1):
            megabytes = self.process.memory_info().rss / 2**20
            self.points.append((megabytes, self.process.num_fds(), self.process.num_threads()))
        return True


def assert_flat(name: str, n_steps: int, folder: Path, megabytes: float) -> None:
    """Short episodes, a ring that is overwritten again and again, checkpoints and replaced files all along."""
    space: Any = RUNS[name].action_space if isinstance(RUNS[name].action_space, spaces.Discrete) else spaces.Box(-1, 1, (3,))
    # Without Monitor, which keeps the return of every episode
    env = DummyVecEnv([lambda: RandomEnv(OBSERVATION_SPACE, space, lengths=(1, 2, 3, 4, 5))] * 4)
    model = make_run(name, env=env, priority_alpha=0.9, buffer_size=4000, gradient_steps=-400)
    resources = Resources(n_steps // 20)
    model.learn(n_steps, callback=[resources, CompleteCheckpoint(n_steps // 40, folder)])
    # After a fifth everything has been there once
    settled, last = resources.points[3], resources.points[-1]
    assert last[0] <= settled[0] + megabytes, resources.points
    assert last[1:] == settled[1:], resources.points
    assert len(model.replay_buffer.rings[0].final_observations) <= 4000
    assert len(list((folder / "files").iterdir())) < 20


def test_resources_stay_flat(tmp_path: Path) -> None:
    assert_flat("r2d2", 8_000, tmp_path, megabytes=8.0)


@pytest.mark.slow
def test_resources_stay_flat_over_a_million_steps(tmp_path: Path) -> None:
    assert_flat("r2d2", 1_000_000, tmp_path, megabytes=8.0)
