"""Complete checkpoints: a run that is resumed goes on as one that never stopped."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_recurrent_offpolicy import segments
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.checkpoint import CompleteCheckpoint
from sb3_recurrent_offpolicy.envs import ResumableEnv
from sb3_recurrent_offpolicy.training_state import manifests
from tests.recorder import OBSERVATION_SPACE
from tests.test_exact_pickle import Simulator
from tests.training import RUNS, folder_digest, make_envs, make_run, state_of

TOTAL = 420


class Copies(BaseCallback):
    """
    Copy a folder of checkpoints as it is at some step.

    :param folder: of the checkpoints
    :param at: the step
    """

    def __init__(self, folder: Path, at: int):
        super().__init__()
        self.folder, self.at, self.copy = folder, at, folder.with_name(f"{folder.name}_copy")

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.at and not self.copy.exists():
            shutil.copytree(self.folder, self.copy)
        return True


def learn_on(model: Any, folder: Path, total: int = TOTAL) -> Any:
    return model.learn(total - model.num_timesteps, callback=CompleteCheckpoint(90, folder), reset_num_timesteps=False)


# The other pairs: tests/test_kills.py
@pytest.mark.parametrize(("n_envs", "priority_alpha"), [(1, 0.0), (4, 0.9)])
@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_is_the_run_that_never_stopped(name: str, priority_alpha: float, n_envs: int, tmp_path: Path) -> None:
    model = make_run(name, n_envs, priority_alpha)
    copies = Copies(tmp_path / "run", at=300)
    model.learn(TOTAL, callback=[CompleteCheckpoint(90, tmp_path / "run"), copies])
    expected = state_of(model)
    resumed = type(model).resume(copies.copy)
    assert 180 <= resumed.num_timesteps < 300
    assert learn_on(resumed, copies.copy).num_timesteps == model.num_timesteps
    assert state_of(resumed) == expected


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("td3", dict(overlap_updates=True)),
        ("sac", dict(use_sde=True, action_noise=None)),
        ("sac", dict(use_sde=True, sde_sample_freq=4, action_noise=None, train_freq=5)),
        ("td3", dict(train_freq=(1, "episode"), gradient_steps=2)),
        ("r2d2", dict(burn_in=3, refresh_states=True)),
        ("td3", dict(sequence_length=None)),
    ],
)
def test_other_settings(name: str, kwargs: dict[str, Any], tmp_path: Path) -> None:
    model = make_run(name, priority_alpha=0.0 if kwargs.get("sequence_length", 1) is None else 0.9, **kwargs)
    copies = Copies(tmp_path / "run", at=300)
    model.learn(TOTAL, callback=[CompleteCheckpoint(90, tmp_path / "run"), copies])
    resumed = learn_on(type(model).resume(copies.copy), copies.copy)
    assert state_of(resumed) == state_of(model)


def test_equal_states_mean_something() -> None:
    model = make_run("td3", 2).learn(200)
    before = state_of(model)
    assert state_of(model) == before
    model.learn(60, reset_num_timesteps=False)
    after = state_of(model)
    assert [name for name in before if after[name] == before[name]] == []


def test_monitor_files_go_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    """Episodes that ended after it end again."""
    logs = [tmp_path / name for name in ("whole", "resumed")]
    models = [make_run("sac", env=make_envs(RUNS["sac"].action_space, 2, monitor_dir=str(log))) for log in logs]
    for model, log in zip(models, logs, strict=True):
        copies = Copies(log / "run", at=300)
        model.learn(TOTAL, callback=[CompleteCheckpoint(90, log / "run"), copies])
    resumed = type(model).resume(copies.copy)
    assert learn_on(resumed, copies.copy).num_timesteps == TOTAL
    for index in range(2):
        whole, gone_on = ([line.split(",")[:2] for line in (log / f"{index}.monitor.csv").open()][2:] for log in logs)
        assert whole == gone_on and len(whole) > 20


def test_environments_in_processes_go_on(tmp_path: Path) -> None:
    def envs() -> Any:
        return make_envs(RUNS["td3"].action_space, 2, vec_env_cls=SubprocVecEnv, wrapper_class=ResumableEnv)

    streams = []
    for stop in (None, 240):
        model = make_run("td3", env=envs())
        model.learn(stop or TOTAL, callback=CompleteCheckpoint(100, tmp_path / f"run{stop}"))
        if stop is not None:
            with pytest.raises(ValueError, match="does not hold its environments: pass env"):
                type(model).resume(tmp_path / f"run{stop}")
            model.env.close()
            model = type(model).resume(tmp_path / f"run{stop}", env=envs())
            # Schedules know how long the run was to be
            learn_on(model, tmp_path / f"run{stop}")
        streams.append([model._last_obs, model.replay_buffer.rings[0].rewards, *model.policy.parameters()])
        model.env.close()
    assert all(np.array_equal(np.asarray(a.data), np.asarray(b.data)) for a, b in zip(*streams, strict=True))


@pytest.mark.parametrize("vec_env_cls", [DummyVecEnv, SubprocVecEnv])
def test_environments_that_cannot_be_saved_begin_new_episodes(vec_env_cls: Any, tmp_path: Path) -> None:
    class Unpicklable(ResumableEnv):
        def __init__(self, env: Any):
            super().__init__(env)
            self.generator = (number for number in range(3))

    def envs() -> Any:
        return make_envs(
            RUNS["td3"].action_space, 2, vec_env_cls=vec_env_cls, wrapper_class=lambda env: ResumableEnv(Unpicklable(env))
        )

    model = make_run("td3", env=envs())
    with pytest.warns(UserWarning, match="begins new episodes.*generator"):
        model.learn(200, callback=CompleteCheckpoint(100, tmp_path / "run"))
    model.env.close()
    with pytest.raises(ValueError, match="does not hold its environments: pass env"):
        type(model).resume(tmp_path / "run")
    with pytest.warns(UserWarning, match="begin new episodes.*generator"):
        resumed = type(model).resume(tmp_path / "run", env=envs())
    np.testing.assert_array_equal(resumed.env.obs_rms.mean, model.env.obs_rms.mean)
    resumed.learn(40, reset_num_timesteps=False)
    np.testing.assert_array_equal(resumed.replay_buffer.rings[0].episode_steps[100], 0)
    resumed.env.close()


def test_simulators_begin_new_episodes_and_are_seeded(tmp_path: Path) -> None:
    env = make_vec_env(lambda: Simulator(OBSERVATION_SPACE, RUNS["td3"].action_space), 2, seed=1)
    model = make_run("td3", env=env)
    with pytest.warns(UserWarning, match="begins new episodes.*generator"):
        model.learn(200, callback=CompleteCheckpoint(100, tmp_path / "run"))
    found = []
    for _ in range(2):
        with pytest.warns(UserWarning, match="begin new episodes.*generator"):
            resumed = type(model).resume(tmp_path / "run")
        resumed.learn(40, reset_num_timesteps=False)
        found.append(state_of(resumed))
    assert resumed.replay_buffer.rings[0].episode_steps[100].tolist() == [0, 0]
    assert found[0]["steps 0"] == found[1]["steps 0"] and found[0]["parameters"] == found[1]["parameters"]


def test_one_folder_one_run(tmp_path: Path) -> None:
    make_run("td3").learn(60, callback=CompleteCheckpoint(30, tmp_path / "run"))
    before = folder_digest(tmp_path)
    with pytest.raises(ValueError, match=r"holds checkpoints of another run, checkpoint_.*choose another folder.*resume"):
        make_run("td3").learn(60, callback=CompleteCheckpoint(30, tmp_path / "run"))
    with pytest.raises(ValueError, match=r"written by RecurrentTD3: use RecurrentTD3\.resume"):
        type(make_run("sac")).resume(tmp_path / "run")
    with pytest.raises(ValueError, match="holds no checkpoint"):
        type(make_run("sac")).resume(tmp_path / "nothing")
    assert folder_digest(tmp_path) == before
    with pytest.raises(ValueError, match="path=None"):
        make_run("td3").learn(60, callback=CompleteCheckpoint(30))
    with pytest.raises(ValueError, match="save_freq=0 must be at least 1"):
        CompleteCheckpoint(0, tmp_path)
    with pytest.raises(ValueError, match="keep=0 must be at least 1"):
        CompleteCheckpoint(1, tmp_path, keep=0)


def test_checkpoints_and_files_that_are_not_needed_any_more_are_deleted(tmp_path: Path) -> None:
    model = make_run("r2d2", 2, 0.9)
    model.learn(900, callback=CompleteCheckpoint(50, tmp_path / "run", keep=3))
    found = manifests(tmp_path / "run")
    assert [manifest["num_timesteps"] for _, manifest in found] == [800, 850, 900]
    # Head, training state, steps and memory states of each
    assert len(list((tmp_path / "run" / "files").iterdir())) <= 3 * 4


def test_a_full_disk_and_a_folder_that_vanishes_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_recurrent_offpolicy import files

    model, folder = make_run("td3"), tmp_path / "run"
    model.learn(100, callback=CompleteCheckpoint(50, folder))
    expected = state_of(type(model).resume(folder))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="No checkpoint at .*No space left.*Training goes on"):
        patch.setattr(files.os, "fsync", full)
        model.learn(100, callback=CompleteCheckpoint(50, folder), reset_num_timesteps=False)
    assert model.num_timesteps == 200
    assert state_of(type(model).resume(folder)) == expected

    class Vanish(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 260:
                shutil.rmtree(folder)
            return True

    model.learn(100, callback=[CompleteCheckpoint(50, folder), Vanish()], reset_num_timesteps=False)
    assert state_of(type(model).resume(folder)) == state_of(model)


def test_where_the_newest_checkpoint_is_damaged_the_one_before_it_serves(tmp_path: Path) -> None:
    model, folder = make_run("sac"), tmp_path / "run"
    model.learn(200, callback=CompleteCheckpoint(60, folder))
    (_, older), (newest, manifest) = manifests(folder)
    path = folder / "files" / manifest["head"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=rf"{newest.name} is damaged, and the one before it is used.*{path.name}.*checksum"):
        assert type(model).resume(folder).num_timesteps == older["num_timesteps"]
    newest.write_text(newest.read_text().replace("200", "201"))
    with pytest.warns(UserWarning, match=rf"{newest.name} is damaged"):
        assert type(model).resume(folder).num_timesteps == older["num_timesteps"]


def test_what_cannot_be_saved_shows_at_the_beginning(tmp_path: Path) -> None:
    model = make_run("td3")
    model.mistake = (number for number in range(3))
    with pytest.raises(TypeError, match="generator"):
        model.learn(100, callback=CompleteCheckpoint(50, tmp_path / "run"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        make_run("td3").learn(100, callback=CompleteCheckpoint(50, tmp_path / "file"))


def test_saving_changes_nothing(tmp_path: Path) -> None:
    models = [make_run("r2d2", 2, 0.9) for _ in range(2)]
    models[0].learn(200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models[1].learn(200, callback=CompleteCheckpoint(20, tmp_path / "run"))
    assert state_of(models[0]) == state_of(models[1])


def test_a_model_is_saved_while_a_checkpoint_is_due(tmp_path: Path) -> None:
    """The callback, and with it the model, its logger and its files, are not what is saved."""

    class Save(BaseCallback):
        def _on_step(self) -> bool:
            self.model.save(tmp_path / f"model{self.num_timesteps}")
            return True

    model = make_run("td3")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(60, callback=[CompleteCheckpoint(20, tmp_path / "run"), Save()])
    sizes = [path.stat().st_size for path in tmp_path.glob("*.zip")]
    assert len(sizes) == 60 and max(sizes) < 1.5 * min(sizes)
    assert type(model).load(tmp_path / "model20")._task_at_rest is None


def test_steps_of_a_buffer_that_was_emptied_are_gone(tmp_path: Path) -> None:
    class Empty(BaseCallback):
        model: RecurrentOffPolicyAlgorithm

        def _on_step(self) -> bool:
            if self.num_timesteps == 205:
                self.model.replay_buffer.reset()
            return True

    model = make_run("r2d2", priority_alpha=0.9, buffer_size=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "SEGMENT_BYTES", 500)
        model.learn(300, callback=[Empty(), CompleteCheckpoint(50, tmp_path / "run")])
        assert 90 < model.replay_buffer.size() < 100
        assert state_of(type(model).resume(tmp_path / "run")) == state_of(model)


def test_segments_that_are_complete_are_written_once(tmp_path: Path) -> None:
    model = make_run("td3", buffer_size=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "SEGMENT_BYTES", 500)
        model.learn(300, callback=CompleteCheckpoint(50, tmp_path / "run"))
        found = [manifest["segments"][0] for _, manifest in manifests(tmp_path / "run")]
        complete = [entry for entry in found[0] if entry["complete"]]
        assert len(complete) > 10 and found[1][: len(complete)] == complete
        # Also by a run that was resumed
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "files").iterdir()}
        resumed = type(model).resume(tmp_path / "run")
        resumed.learn(60, callback=CompleteCheckpoint(50, tmp_path / "run"), reset_num_timesteps=False)
        names = {entry["steps"] for entry in complete[:5]}
        assert all((tmp_path / "run" / "files" / name).stat().st_mtime_ns in before.values() for name in names)
        assert state_of(type(model).resume(tmp_path / "run")) == state_of(resumed)


def test_a_file_that_was_damaged_meanwhile_is_written_again(tmp_path: Path) -> None:
    model, folder = make_run("sac"), tmp_path / "run"
    model.learn(200, callback=CompleteCheckpoint(60, folder))
    newest = manifests(folder)[-1][1]
    (folder / "files" / newest["head"]).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="is damaged"):
        resumed = type(model).resume(folder)
    learn_on(resumed, folder, 200)
    assert state_of(type(model).resume(folder)) == state_of(resumed) == state_of(model)
