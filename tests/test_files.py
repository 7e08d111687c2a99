"""Files are whole or not there; damage is found and named; files from strangers run nothing."""

import base64
import io
import json
import os
import pickle
import random
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from sb3_recurrent_offpolicy import R2D2, RecurrentSAC, RecurrentTD3, files, segments
from sb3_recurrent_offpolicy.buffer_files import load_buffer, save_buffer
from sb3_recurrent_offpolicy.noise import PinkActionNoise
from sb3_recurrent_offpolicy.plain import NotPlainError, from_plain, to_plain
from tests.envs import PARTS, RandomEnv
from tests.recorder import make_buffer
from tests.test_buffers import episodes_of_one_env, record
from tests.test_policies import observations, roll
from tests.training import RUNS, make_run, of_buffer, state_of

each_run = pytest.mark.parametrize("name", RUNS)


# ---------------------------------------------------------------- whole or not there


def test_a_file_that_fails_leaves_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "file"
    with files.written_aside(path) as file:
        file.write(b"good")
    with pytest.raises(KeyboardInterrupt), files.written_aside(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"good" and list(path.parent.iterdir()) == [path]

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    model = make_run("td3", 2).learn(60)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    assert {path.name for path in before} == {"model.zip", "buffer.pkl"}
    monkeypatch.setattr(files.os, "fsync", full)
    for save in (lambda: model.save(tmp_path / "model"), lambda: model.save_replay_buffer(tmp_path / "buffer")):
        with pytest.raises(OSError, match="No space left"):
            save()
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_a_link_goes_on_pointing_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with files.written_aside(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"new"


# ------------------------------------------------------------------ replay buffers


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_loaded_buffer_is_the_saved_one(data: Any) -> None:
    """Random histories, rings that were overwritten, several rings, segments of any length."""
    stride = data.draw(st.integers(1, 4))
    sequence_length = 2 * stride
    n_envs, priority_alpha = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([0.0, 0.7]))
    kwargs: dict[str, Any] = dict(sequence_length=sequence_length, stride=stride, priority_alpha=priority_alpha)
    kwargs["state_init"] = data.draw(st.sampled_from(["stored", "zero"]))
    rows = data.draw(st.integers(sequence_length + 1, 60))
    np.random.seed(data.draw(st.integers(0, 1000)))
    buffer = make_buffer(rows * n_envs, n_envs, **kwargs)
    recorder = record(buffer, [data.draw(episodes_of_one_env) for _ in range(n_envs)])
    if data.draw(st.booleans()):
        buffer.add_ring(2)
    for _ in range(data.draw(st.integers(0, 2))):
        samples = buffer.sample(4)
        buffer.update_priorities(samples, th.rand(samples.mask.shape))
    file = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "SEGMENT_BYTES", data.draw(st.integers(1, 2000)))
        save_buffer(buffer, file)
        loaded = make_buffer(rows * n_envs, n_envs, **kwargs)
        load_buffer(loaded, file)
    assert of_buffer(loaded) == of_buffer(buffer)
    assert (loaded.pos, loaded.full, loaded.size()) == (buffer.pos, buffer.full, buffer.size())
    samples = loaded.sample(8)
    recorder.check(samples)
    for a, b in zip(*(th.utils._pytree.tree_leaves(each) for each in (samples, buffer.sample(8))), strict=True):
        np.testing.assert_array_equal(a, b)


def test_images_and_dicts_are_saved_and_numpy_reads_them(tmp_path: Path) -> None:
    env = make_vec_env(lambda: RandomEnv(PARTS, spaces.Discrete(3)), 2, seed=0)
    model = RecurrentSAC("MultiInputLstmPolicy", env, buffer_size=60, sequence_length=8, learning_starts=1000, device="cpu")
    model.learn(100)
    # In a ring of its own
    seen = {key: np.stack([PARTS[key].sample()] * 4) for key in PARTS.spaces}
    model.add_episode(seen, np.zeros(3, dtype=int), np.ones(3), True)
    model.save_replay_buffer(tmp_path / "buffer.npz")
    expected = of_buffer(model.replay_buffer)
    other = RecurrentSAC("MultiInputLstmPolicy", env, buffer_size=60, sequence_length=8, device="cpu")
    other.load_replay_buffer(tmp_path / "buffer.npz")
    assert of_buffer(other.replay_buffer) == expected and other.replay_buffer.recorded_ring == 1
    arrays = np.load(tmp_path / "buffer.npz", allow_pickle=False)
    assert sum(len(arrays[name]) for name in arrays if name.startswith("steps.0") and name.endswith("rewards")) == 30


@pytest.mark.parametrize("space", [spaces.Discrete(5), spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(3)], ids=str)
def test_steps_that_were_loaded_and_new_ones_are_sampled_together(space: spaces.Space, tmp_path: Path) -> None:
    def make() -> Any:
        env = make_vec_env(lambda: RandomEnv(space, spaces.Discrete(3), (3, 1, 2)), 2, seed=0)
        return R2D2("MlpLstmPolicy", env, learning_starts=20, buffer_size=400, sequence_length=8, device="cpu", seed=0)

    model = make().learn(60)
    model.save_replay_buffer(tmp_path / "buffer")
    other = make()
    other.load_replay_buffer(tmp_path / "buffer")
    other.learn(60)
    assert other._n_updates > 0 and other.replay_buffer.size() == 60


def test_an_empty_buffer_takes_no_room(tmp_path: Path) -> None:
    model = make_run("tqc", buffer_size=1_000_000)
    model.save_replay_buffer(tmp_path / "buffer")
    assert (tmp_path / "buffer.pkl").stat().st_size < 10_000
    model.learn(20)
    model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer.size() == 0


# ------------------------------------------------------------------------- damage


def damaged(content: bytes, generator: random.Random) -> bytes:
    """Cut off, a bit flipped, a stretch overwritten, or nothing but its beginning right."""
    kind, at = generator.randrange(4), generator.randrange(len(content))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes([content[at] ^ (1 << generator.randrange(8))]) + content[at + 1 :]
    if kind == 2:
        return content[:at] + generator.randbytes(min(64, len(content) - at)) + content[at + 64 :]
    return content[: generator.randrange(1, 200)] + generator.randbytes(generator.randrange(500))


def unchanging(model: Any) -> dict[str, str]:
    # SB3 seeds the global streams when it makes another model
    return {name: value for name, value in state_of(model).items() if name != "random"}


def assert_damage_is_named(n_files: int, folder: Path, seed: int) -> None:
    generator = random.Random(seed)
    model = make_run("td3", 2, 0.9).learn(100)
    model.save(folder / "model")
    model.save_replay_buffer(folder / "buffer")
    contents = {name: (folder / name).read_bytes() for name in ("model.zip", "buffer.pkl")}
    before = unchanging(model)
    for _ in range(n_files):
        name = generator.choice(list(contents))
        content = damaged(contents[name], generator)
        if content == contents[name]:
            continue
        (folder / name).write_bytes(content)
        trusted = generator.random() < 0.5
        calls = [partial(RecurrentTD3.load, trusted=trusted), model.set_parameters]
        for call in calls if name == "model.zip" else [model.load_replay_buffer]:
            with pytest.raises(ValueError, match=f"{name} cannot be") as caught:
                call(folder / name)
            assert len(str(caught.value)) < 1500
    assert unchanging(model) == before


def test_damaged_files(tmp_path: Path) -> None:
    assert_damage_is_named(40, tmp_path, seed=0)


@pytest.mark.slow
def test_2000_damaged_files(tmp_path: Path) -> None:
    assert_damage_is_named(2000, tmp_path, seed=1)


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    model = make_run("td3", 2).learn(60)
    before = unchanging(model)
    TD3("MlpPolicy", "Pendulum-v1", buffer_size=10).save(tmp_path / "td3.zip")
    with zipfile.ZipFile(tmp_path / "garbage.zip", "w") as archive:
        archive.writestr("data", "{")
        archive.writestr("policy.pth", b"garbage")
    with zipfile.ZipFile(tmp_path / "list.zip", "w") as archive:
        archive.writestr("data", "[1, 2]")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    (tmp_path / "text.zip").write_text("text")
    (tmp_path / "nothing.zip").write_bytes(b"")
    for path in tmp_path.glob("*.zip"):
        for trusted in (True, False):
            with pytest.raises(ValueError, match=rf"{path.name} cannot be loaded as RecurrentTD3"):
                RecurrentTD3.load(path, trusted=trusted)
        with pytest.raises(ValueError, match=rf"{path.name} cannot be read"):
            model.load_replay_buffer(path)
    model.save(tmp_path / "ours.zip")
    with pytest.raises(ValueError, match=r"ours\.zip cannot be read: .*buffer\.json"):
        model.load_replay_buffer(tmp_path / "ours.zip")
    model.save_replay_buffer(tmp_path / "buffer.zip")
    with pytest.raises(ValueError, match=r"buffer\.zip cannot be loaded"):
        RecurrentTD3.load(tmp_path / "buffer.zip")
    assert unchanging(model) == before


# ---------------------------------------------------------------- files from strangers


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@each_run
def test_without_pickles_a_model_predicts_the_same(name: str, tmp_path: Path) -> None:
    model = make_run(name, 2).learn(100)
    model.save(tmp_path / "model")
    with pytest.warns(UserWarning, match="only a pickle holds them"):
        loaded = RUNS[name].algorithm.load(tmp_path / "model", trusted=False)
    stream = observations(6, 3)
    np.testing.assert_array_equal(roll(model.policy, stream), roll(loaded.policy, stream))
    assert loaded.num_timesteps == model.num_timesteps and loaded.learning_rate == model.learning_rate
    assert loaded.train_freq == model.train_freq and loaded.action_space == model.action_space


def with_payloads(path: Path, mark: Path, generator: random.Random) -> None:
    """Replace entries of a saved model by pickles that do something."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    payload = cloudpickle.dumps(Payload(mark))
    data = json.loads(content["data"])
    for entry in generator.sample(sorted(data), 5):
        data[entry] = {":type:": "payload", ":serialized:": base64.b64encode(payload).decode()}
    content["data"] = json.dumps(data).encode()
    kind = generator.randrange(4)
    if kind == 0:
        file = io.BytesIO()
        th.save({"weight": Payload(mark)}, file)
        content["policy.pth"] = file.getvalue()
    elif kind == 1:
        content["policy.pth"] = payload
    elif kind == 2:
        content["pytorch_variables.pth"] = pickle.dumps(Payload(mark))
    elif kind == 3:
        content["plain.json"] = json.dumps(
            {entry: {"type": "class", "name": "os:mkdir"} for entry in json.loads(content["plain.json"])}
        ).encode()
    with files.written_aside(path) as whole, files.sealed_archive(whole) as archive:
        for name, value in content.items():
            archive.writestr(name, value)


def assert_payloads_never_run(n_files: int, folder: Path) -> None:
    generator = random.Random(0)
    model = make_run("td3", 2).learn(60)
    for index in range(n_files):
        path, mark = folder / "model.zip", folder / f"mark{index}"
        model.save(path)
        with_payloads(path, mark, generator)
        try:
            with pytest.warns(UserWarning):
                RecurrentTD3.load(path, trusted=False)
        except ValueError as error:
            assert "model.zip" in str(error)
        assert not mark.exists()
    # The trusted loader runs them: that is what its docstring says
    model.save(path)
    with_payloads(path, folder / "mark", random.Random(2))
    with pytest.raises(ValueError, match=r"model\.zip"):
        RecurrentTD3.load(path)
    assert (folder / "mark").exists()
    (folder / "buffer.pkl").write_bytes(pickle.dumps(Payload(folder / "of_buffer")))
    with pytest.raises(ValueError, match=r"buffer\.pkl cannot be read: it is no replay buffer of this version.*collect again"):
        model.load_replay_buffer(folder / "buffer.pkl")
    assert not (folder / "of_buffer").exists()


def test_payloads_never_run(tmp_path: Path) -> None:
    assert_payloads_never_run(12, tmp_path)


@pytest.mark.slow
def test_500_payloads_never_run(tmp_path: Path) -> None:
    assert_payloads_never_run(500, tmp_path)


def test_what_only_a_pickle_holds_can_be_given(tmp_path: Path) -> None:
    model = make_run("td3", learning_rate=lambda progress: 1e-3 * progress)
    model.save(tmp_path / "model")
    with pytest.warns(UserWarning, match=r"'learning_rate', 'lr_schedule'"):
        loaded = RecurrentTD3.load(tmp_path / "model", trusted=False)
    assert loaded.learning_rate == 1e-3
    with pytest.warns(UserWarning, match="only a pickle"):
        loaded = RecurrentTD3.load(tmp_path / "model", trusted=False, custom_objects=dict(learning_rate=0.5))
    assert loaded.learning_rate == 0.5


# --------------------------------------------------------------------- plain values


@pytest.mark.parametrize(
    "value",
    [
        None,
        0.1,
        "text",
        [1, (2, {"a": np.float32(0.5)})],
        np.arange(6, dtype=np.int16).reshape(2, 3),
        spaces.Box(-1, np.inf, (2, 3)),
        spaces.Box(0, 255, (3, 8, 8), np.uint8),
        spaces.Box(np.array([-1.0, -2.0]), np.array([1.0, 2.0]), dtype=np.float64),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])),
        spaces.MultiBinary([2, 3]),
        spaces.MultiBinary(4),
        PARTS,
        TrainFreq(3, TrainFrequencyUnit.EPISODE),
        dict(activation_fn=th.nn.ReLU, net_arch=dict(pi=[2], qf=[3])),
    ],
    ids=str,
)
def test_plain_values_come_back(value: Any) -> None:
    found = from_plain(json.loads(json.dumps(to_plain(value))))
    assert type(found) is type(value) or isinstance(value, list)
    if isinstance(value, np.ndarray):
        assert found.dtype == value.dtype and found.flags.writeable
        np.testing.assert_array_equal(found, value)
    else:
        assert found == value


@pytest.mark.parametrize(
    "value",
    [
        FloatSchedule(LinearSchedule(1e-3, 0.0, 0.5)),
        FloatSchedule(0.1),
        ConstantSchedule(0.2),
    ],
    ids=str,
)
def test_schedules_come_back(value: Any) -> None:
    found = from_plain(json.loads(json.dumps(to_plain(value))))
    assert [found(progress) for progress in (1.0, 0.7, 0.0)] == [value(progress) for progress in (1.0, 0.7, 0.0)]


def test_action_noise_comes_back() -> None:
    walk = OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2), theta=0.3)
    plain = [kind(np.zeros(2), 0.3 * np.ones(2)) for kind in (NormalActionNoise, PinkActionNoise)]
    for value in (*plain, walk, VectorizedActionNoise(walk, 3)):
        found = from_plain(json.loads(json.dumps(to_plain(value))))
        draws = []
        for each in (value, found):
            each.reset()
            np.random.seed(0)
            draws.append([each() for _ in range(3)])
        np.testing.assert_array_equal(draws[0], draws[1])


@pytest.mark.parametrize("value", [lambda: 0, object(), {1: 2}, os.mkdir, Payload, np.array([object()])])
def test_what_has_no_plain_form_says_so(value: Any) -> None:
    with pytest.raises(NotPlainError):
        to_plain(value)


@pytest.mark.parametrize(
    "name", ["os:mkdir", "builtins:eval", "torch.nn:functional", "torch.nn.utils:nothing", "torch.hub:load"]
)
def test_other_names_are_not_looked_up(name: str) -> None:
    with pytest.raises(NotPlainError):
        from_plain({"type": "class", "name": name})
