"""Models, policies and replay buffers saved to whatever can be written to, and loaded with and without changes."""

import base64
import inspect
import io
import json
import pathlib
import warnings
import zipfile
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor

from tests.envs import RandomEnv
from tests.sb3_behaviours.cases import (
    OBSERVATIONS,
    Case,
    assert_same,
    each,
    greedy,
    learned,
    model_of,
    random_envs,
    randomized,
    settings,
    some_observations,
)

BOX_OF_THREE = spaces.Box(-1, 1, (3,), np.float32)
STORAGES: dict[str, Callable[[pathlib.Path], Any]] = {
    "str": lambda folder: str(folder / "saved"),
    "path in a new folder": lambda folder: folder / "new" / "saved.zip",
    "bytes": lambda folder: io.BytesIO(),
    "file": lambda folder: (folder / "saved").open("w+b"),
}


@each
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.filterwarnings("ignore:Path '.*' does not exist")
def test_save_to_and_load_from(case: Case, storage: str, tmp_path: pathlib.Path) -> None:
    path = STORAGES[storage](tmp_path)
    model = model_of(case).learn(60)
    model.policy.load_state_dict(randomized(model.policy.state_dict()))
    with warnings.catch_warnings():
        # Neither unclosed files nor anything else, apart from the folder that is made
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Path '.*' does not exist")
        model.save(path)
        if not isinstance(path, (str, pathlib.Path)):
            assert not path.closed
            path.seek(0)
        loaded: Any = case.algorithm.load(path, device="auto")
    assert loaded.device.type == loaded.policy.device.type == ("cuda" if th.cuda.is_available() else "cpu")
    loaded = loaded if loaded.device.type == "cpu" else case.algorithm.load(path, device="cpu")
    assert_same(model.get_parameters(), loaded.get_parameters())
    assert_same(
        [getattr(model, name) for name in model._get_torch_save_params()[1]],
        [getattr(loaded, name) for name in loaded._get_torch_save_params()[1]],
    )
    np.testing.assert_array_equal(greedy(model), greedy(loaded))
    if not isinstance(path, (str, pathlib.Path)):
        path.close()


@each
def test_load_without_environment(case: Case, tmp_path: pathlib.Path) -> None:
    model_of(case).learn(40).save(tmp_path / "model")
    loaded: Any = case.algorithm.load(tmp_path / "model")
    assert loaded.get_env() is None
    loaded.predict(some_observations())
    with pytest.raises(AssertionError, match="set the environment"):
        loaded.learn(10)
    loaded.set_env(RandomEnv(OBSERVATIONS, case.action_space))
    before = learned(loaded)
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded.num_timesteps == 80
    assert not all(map(th.equal, before, learned(loaded)))


@each
def test_load_and_set_env_check_spaces(case: Case, tmp_path: pathlib.Path) -> None:
    model = model_of(case)
    model.save(tmp_path / "model")
    for other in (random_envs(case, 1, BOX_OF_THREE), random_envs(case, 1, OBSERVATIONS, BOX_OF_THREE)):
        with pytest.raises(ValueError, match="spaces do not match"):
            model.set_env(other)
        with pytest.raises(ValueError, match="spaces do not match"):
            case.algorithm.load(tmp_path / "model", env=other)
    with pytest.raises(AssertionError, match="number of environments"):
        model.set_env(random_envs(case, 2))


@each
def test_set_env(case: Case, tmp_path: pathlib.Path) -> None:
    model = model_of(case).learn(40)
    model.set_env(random_envs(case), force_reset=True)
    assert model._last_obs is None
    model.learn(40)
    assert model.num_timesteps == 40
    # One that is no VecEnv is wrapped
    model.set_env(RandomEnv(OBSERVATIONS, case.action_space))
    assert model.get_env().env_is_wrapped(Monitor) == [True]
    model.learn(40)
    # The same again goes on
    model.set_env(model.get_env(), force_reset=False)
    assert model._last_obs is not None
    model.learn(40, reset_num_timesteps=False)
    assert model.num_timesteps == 80

    model.save(tmp_path / "model")
    for env, force_reset in ((model.get_env(), False), (random_envs(case), True), (random_envs(case, 2), True)):
        loaded: Any = case.algorithm.load(tmp_path / "model", env=env, force_reset=force_reset)
        assert (loaded._last_obs is None) == force_reset
        loaded.learn(40, reset_num_timesteps=False)
        assert loaded.num_timesteps == 120


@each
def test_exclude_include_and_custom_objects(case: Case, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of(case, verbose=2)
    model.save(tmp_path / "model", exclude=["verbose"])
    assert case.algorithm.load(tmp_path / "model").verbose == 0
    model.learn(40).save(tmp_path / "model", exclude=["verbose"], include=["verbose", "replay_buffer"])
    capsys.readouterr()
    loaded: Any = case.algorithm.load(
        tmp_path / "model", custom_objects=dict(learning_rate=2e-5, unknown=1.0), print_system_info=True
    )
    printed = capsys.readouterr().out
    assert "CURRENT SYSTEM INFO" in printed and "SAVED MODEL SYSTEM INFO" in printed and "Stable-Baselines3" in printed
    assert loaded.verbose == 2 and loaded.replay_buffer.size() == model.replay_buffer.size() == 40
    assert loaded.learning_rate == loaded.lr_schedule(1.0) == 2e-5
    # Only what was saved is replaced
    assert not hasattr(loaded, "unknown")


@each
def test_settings_survive(case: Case, tmp_path: pathlib.Path) -> None:
    """All of them, or what became of them."""
    changes: dict[str, Any] = dict(
        gamma=0.9,
        tau=0.1,
        gradient_steps=3,
        n_steps=2,
        stats_window_size=7,
        train_freq=(2, "episode"),
        overlap_updates=True,
    )
    model = model_of(case, learning_rate=0.002, max_grad_norm=3.0, reward_scale=0.5, state_init="zero", **changes)
    model.save(tmp_path / "model")
    loaded = case.algorithm.load(tmp_path / "model")
    names = set(inspect.signature(case.algorithm).parameters) - {"policy", "env"}
    # SB3 hides one of them
    kept = {name.lstrip("_"): name for name in (*names, "_stats_window_size") if hasattr(model, name)}
    assert {*changes, "learning_rate", "max_grad_norm", "reward_scale", "state_init", "batch_size", "seed"} <= set(kept)
    for name in kept.values():
        before, after = getattr(model, name), getattr(loaded, name)
        if name == "action_noise":
            # Two noises are never equal
            before, after = repr(before), repr(after)
        # Files know no tuples
        assert after == before or after == list(before), name
    train_freq: Any = loaded.train_freq
    assert train_freq.frequency == 2 and train_freq.unit.value == "episode"


@each
def test_load_with_the_constructors_arguments(case: Case, tmp_path: pathlib.Path) -> None:
    """As in ``load(path, env=env, **kwargs)``, where ``kwargs`` made the model."""
    env, kwargs = random_envs(case), settings(case)
    algorithm: Any = case.algorithm
    algorithm("MlpLstmPolicy", env, **kwargs).save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=env, **kwargs).learn(40)
    assert loaded._n_updates > 0
    with pytest.raises(ValueError, match="was saved with other policy_kwargs"):
        algorithm.load(tmp_path / "model", policy_kwargs=dict(net_arch=[5]))


@each
@pytest.mark.parametrize("train_freq", [4, (4, "step"), (1, "episode")])
def test_train_freq_when_loading(case: Case, train_freq: Any, tmp_path: pathlib.Path) -> None:
    model = model_of(case, train_freq=train_freq).learn(30)
    model.save(tmp_path / "model")
    for kwargs in ({}, dict(train_freq=train_freq)):
        loaded: Any = case.algorithm.load(tmp_path / "model", env=model.get_env(), **kwargs)
        assert loaded.train_freq == model.train_freq
        n_updates = loaded._n_updates
        loaded.learn(30)
        assert loaded._n_updates > n_updates


@each
def test_policy_alone(case: Case, tmp_path: pathlib.Path) -> None:
    model = model_of(case).learn(40)
    model.policy.load_state_dict(randomized(model.policy.state_dict()))
    model.policy.save(tmp_path / "policy.pkl")
    policy = type(model.policy).load(tmp_path / "policy.pkl", device="cpu")
    assert_same(model.policy.state_dict(), policy.state_dict())
    np.testing.assert_array_equal(greedy(model), greedy(policy))


@each
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.filterwarnings("ignore:Path '.*' does not exist")
def test_replay_buffer_to_and_from(case: Case, storage: str, tmp_path: pathlib.Path) -> None:
    """Whether or not the last trajectory counts as finished: it is never continued."""
    path = STORAGES[storage](tmp_path)
    model = model_of(case).learn(60)
    saved = deepcopy(model.replay_buffer)
    model.save_replay_buffer(path)
    for truncate_last_traj in (True, False):
        if not isinstance(path, (str, pathlib.Path)):
            assert not path.closed
            path.seek(0)
        loaded = model_of(case)
        loaded.load_replay_buffer(path, truncate_last_traj=truncate_last_traj)
        buffer = loaded.replay_buffer
        assert buffer.size() == 60 and buffer.pos == saved.pos and buffer.full == saved.full
        for name in ("observations", "actions", "rewards", "terminated", "episode_steps", "states"):
            np.testing.assert_array_equal(getattr(buffer.rings[0], name)[:60], getattr(saved.rings[0], name)[:60])
        assert buffer.device == loaded.device
        loaded.learn(24, reset_num_timesteps=False)
        assert buffer.size() == 84 and buffer.rings[0].episode_steps[60, 0] == 0 and loaded._n_updates > 0
    if not isinstance(path, (str, pathlib.Path)):
        path.close()


@each
def test_replay_buffer_where_there_is_none(case: Case, tmp_path: pathlib.Path) -> None:
    """As after ``model.replay_buffer = None``, with which SB3's users free its memory."""
    model = model_of(case).learn(40)
    model.save_replay_buffer(tmp_path / "buffer")
    model.replay_buffer = None
    model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer.size() == 40
    model.learn(20, reset_num_timesteps=False)
    assert model.replay_buffer.size() == 60


@each
def test_a_saved_object_that_cannot_be_read_here(case: Case, tmp_path: pathlib.Path) -> None:
    """A schedule pickled by another Python, for instance."""
    path = tmp_path / "model.zip"
    model = model_of(case, learning_rate=lambda _: 1.0)
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        # What SB3 writes: with our own entry, the file would have to have its checksum
        content = {name: archive.read(name) for name in archive.namelist() if name != "plain.json"}
    data = json.loads(content["data"])
    pickled = base64.b64decode(data["learning_rate"][":serialized:"])
    assert b"CodeType" in pickled
    data["learning_rate"][":serialized:"] = base64.b64encode(pickled.replace(b"CodeType", b"CodeTyps")).decode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in (content | {"data": json.dumps(data).encode()}).items():
            archive.writestr(name, value)
    with pytest.warns(UserWarning, match="custom_objects"):
        loaded = case.algorithm.load(path)
    np.testing.assert_array_equal(greedy(loaded), greedy(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedules = dict(learning_rate=lambda _: 0.25, lr_schedule=lambda _: 0.25)
        assert case.algorithm.load(path, custom_objects=schedules).lr_schedule(1.0) == 0.25


@each
def test_schedules_return_plain_floats(case: Case, tmp_path: pathlib.Path) -> None:
    model = model_of(case, learning_rate=lambda progress: progress * np.float64(0.01))
    model.save(tmp_path / "model")
    for each_model in (model, case.algorithm.load(tmp_path / "model")):
        assert type(each_model.lr_schedule(1.0)) is float and each_model.lr_schedule(0.5) == 0.005


@each
def test_default_net_arch_named(case: Case, tmp_path: pathlib.Path) -> None:
    model_of(case, policy_kwargs=dict(net_arch=None)).save(tmp_path / "model")
    assert case.algorithm.load(tmp_path / "model").policy.net_arch is not None
