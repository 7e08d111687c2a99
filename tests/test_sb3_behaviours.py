"""
What Stable-Baselines3 and sb3-contrib demand of their algorithms in their own tests, demanded of ours.

A new algorithm takes one line in ``CASES``. What is peculiar to memory is tested elsewhere.
"""

import base64
import inspect
import io
import json
import pathlib
import warnings
import zipfile
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnv, IdentityEnvBox
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import CSVOutputFormat, HParam, HumanOutputFormat, TensorBoardOutputFormat, configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
    is_vecenv_wrapped,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3, RecurrentTQC
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from tests.envs import RandomEnv, RecallEnv

OBSERVATIONS = spaces.Box(-1, 1, (2,), np.float32)
BOX = spaces.Box(np.array([-2, 0], dtype=np.float32), np.array([1, 5], dtype=np.float32))
BOX_OF_THREE = spaces.Box(-1, 1, (3,), np.float32)
DISCRETE = spaces.Discrete(3)


class Case(NamedTuple):
    """An algorithm, actions it takes, a registered environment that has such actions, and its own settings."""

    algorithm: type[RecurrentOffPolicyAlgorithm]
    action_space: spaces.Space
    env_id: str
    kwargs: dict[str, Any] = {}  # noqa: RUF012


CASES = {
    "td3": Case(RecurrentTD3, BOX, "Pendulum-v1"),
    "ddpg": Case(RecurrentDDPG, BOX, "Pendulum-v1"),
    "sac": Case(RecurrentSAC, BOX, "Pendulum-v1"),
    "tqc": Case(RecurrentTQC, BOX, "Pendulum-v1"),
    "discrete_sac": Case(RecurrentSAC, DISCRETE, "CartPole-v1"),
    "r2d2": Case(R2D2, DISCRETE, "CartPole-v1", dict(burn_in=2, target_update_interval=20)),
}
BOX_CASES = {name: case for name, case in CASES.items() if isinstance(case.action_space, spaces.Box)}
SDE_CASES = {name: case for name, case in BOX_CASES.items() if "use_sde" in inspect.signature(case.algorithm).parameters}

each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_box = pytest.mark.parametrize("case", BOX_CASES.values(), ids=BOX_CASES)
each_sde = pytest.mark.parametrize("case", SDE_CASES.values(), ids=SDE_CASES)


def settings(case: Case, **changes: Any) -> dict[str, Any]:
    common: dict[str, Any] = dict(
        sequence_length=4, learning_starts=20, train_freq=4, batch_size=4, buffer_size=1000, seed=0, device="cpu"
    )
    merged = common | case.kwargs | changes
    return merged | dict(policy_kwargs=dict(lstm_hidden_size=8, net_arch=[8]) | changes.get("policy_kwargs", {}))


def random_envs(
    case: Case, n_envs: int = 1, observation_space: spaces.Space = OBSERVATIONS, action_space: spaces.Space | None = None
) -> VecEnv:
    return make_vec_env(lambda: RandomEnv(observation_space, action_space or case.action_space), n_envs, seed=0)


def model_of(case: Case, env: Any = None, policy: str = "MlpLstmPolicy", **kwargs: Any) -> Any:
    algorithm: Any = case.algorithm
    return algorithm(policy, random_envs(case) if env is None else env, **settings(case, **kwargs))


def some_observations(n: int = 10) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n, 2)).astype(np.float32)


def greedy(model_or_policy: Any) -> np.ndarray:
    return model_or_policy.predict(some_observations(), deterministic=True)[0]


def noise(*shape: int) -> NormalActionNoise:
    return NormalActionNoise(np.zeros(shape), 0.2 * np.ones(shape))


def assert_same(a: Any, b: Any) -> None:
    """Of nested dicts, lists, tensors and numbers."""
    for x, y in zip(*map(th.utils._pytree.tree_leaves, (a, b)), strict=True):
        assert th.equal(x, y) if isinstance(x, th.Tensor) else x == y


def randomized(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: th.rand_like(value) if value.is_floating_point() else value.clone() for name, value in parameters.items()}


def learned(model: Any) -> list[th.Tensor]:
    """Copies of whatever has an optimizer."""
    optimizers = [recursive_getattr(model, name) for name in model._get_torch_save_params()[0] if "optimizer" in name]
    return [parameter.detach().clone() for each in optimizers for group in each.param_groups for parameter in group["params"]]


# ------------------------------------------------------------------------ parameters, saving and loading


@each
def test_set_parameters_of_another_model(case: Case) -> None:
    """Optimizers among them."""
    model, other = model_of(case).learn(60), model_of(case, seed=7)
    assert not np.array_equal(greedy(model), greedy(other)) or isinstance(case.action_space, spaces.Discrete)
    parameters = model.get_parameters()
    assert set(parameters) == set(model._get_torch_save_params()[0]) >= {"policy", *case.algorithm.optimizer_names}
    other.set_parameters(deepcopy(parameters))
    assert_same(parameters, other.get_parameters())
    np.testing.assert_array_equal(greedy(model), greedy(other))

    # In place, from a zip too
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    policy = other.policy
    other.policy.load_state_dict(randomized(policy.state_dict()))
    other.set_parameters(file, exact_match=True, device="cpu")
    assert other.policy is policy
    assert_same(parameters, other.get_parameters())


@each
def test_set_parameters_that_do_not_fit(case: Case) -> None:
    model = model_of(case).learn(40)
    parameters = deepcopy(model.get_parameters())
    for exact_match in (True, False):
        with pytest.raises(ValueError, match="not_an_object"):
            model.set_parameters(parameters | {"not_an_object": "nor_a_tensor"}, exact_match=exact_match)
    for missing in parameters:
        with pytest.raises(ValueError):
            model.set_parameters({name: value for name, value in parameters.items() if name != missing}, exact_match=True)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.set_parameters(parameters | {"policy": dict(list(parameters["policy"].items())[:-1])}, exact_match=True)
    assert_same(parameters, model.get_parameters())


@each
def test_set_some_parameters(case: Case) -> None:
    model = model_of(case)
    before = deepcopy(model.get_parameters())
    last = list(before["policy"])[-1]
    new = randomized(before["policy"])
    kept = new.pop(last)
    assert not th.equal(kept, before["policy"][last])
    model.set_parameters({"policy": new}, exact_match=False)
    after = model.get_parameters()
    assert_same(after["policy"], new | {last: before["policy"][last]})
    assert_same(
        {name: value for name, value in after.items() if name != "policy"},
        {name: value for name, value in before.items() if name != "policy"},
    )


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
        gamma=0.9, tau=0.1, gradient_steps=3, n_steps=2, stats_window_size=7, train_freq=(2, "episode")
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
def test_copy_of_the_policy(case: Case) -> None:
    model = model_of(case).learn(60)
    policy = deepcopy(model.policy)
    expected = greedy(model)
    assert_same(model.policy.state_dict(), policy.state_dict())
    model.policy.load_state_dict(randomized(policy.state_dict()))
    np.testing.assert_array_equal(greedy(policy), expected)
    assert not any(map(th.equal, model.policy.parameters(), policy.parameters()))
    # The copy's targets follow the copy
    policy.update_targets(1.0)
    for name in policy.networks_with_target:
        assert_same(getattr(policy, name).state_dict(), getattr(policy, f"{name}_target").state_dict())


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
        content = {name: archive.read(name) for name in archive.namelist()}
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


# ------------------------------------------------------------------------ spaces


class StrictEnv(RandomEnv):
    """Takes actions of its space only, and keeps them."""

    def __init__(self, action_space: spaces.Space):
        super().__init__(OBSERVATIONS, action_space)
        self.actions: list[np.ndarray] = []

    def step(self, action: Any) -> Any:
        action = np.asarray(action)
        assert action.shape == self.action_space.shape, f"{action.shape} instead of {self.action_space.shape}"
        assert self.action_space.contains(action)
        self.actions.append(action)
        return super().step(action)


def box_of(shape: tuple[int, ...], dtype: Any = np.float32) -> spaces.Box:
    """Bounds differ from each other and between entries."""
    lows = np.asarray(-1.0 - np.arange(np.prod(shape)).reshape(shape))
    return spaces.Box(lows.astype(dtype), np.asarray(1 - 3 * lows).astype(dtype), shape, dtype)


@each_box
@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (3, 1), (2, 1, 2), ()])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_shapes_of_actions(case: Case, shape: tuple[int, ...], n_envs: int) -> None:
    """Action noise has the shape of the action, as in SB3, whose noise is never without any."""
    action_space, n_actions = box_of(shape), int(np.prod(shape))
    env: Any = make_vec_env(lambda: StrictEnv(action_space), n_envs, seed=0)
    model = model_of(case, env, learning_starts=20 * n_envs, action_noise=noise(*shape) if shape else None)
    model.learn(40 * n_envs)
    buffer = model.replay_buffer
    assert buffer.size() == 40 and buffer.rings[0].actions.shape[1:] == (n_envs, n_actions)
    # What was done is what is replayed, in the random warm-up as after it
    scaled = buffer.rings[0].actions[:40].reshape(40, n_envs, *shape)
    for index in range(n_envs):
        done = np.stack(env.envs[index].unwrapped.actions)
        expected = action_space.low + (scaled[:, index] + 1) / 2 * (action_space.high - action_space.low)
        np.testing.assert_allclose(done, expected, atol=1e-5)
        assert len(np.unique(done[20:].round(5))) > 1
    # Predicted ones too
    mean, _ = evaluate_policy(model, env, n_eval_episodes=2 * n_envs, deterministic=False)
    assert np.isfinite(mean)
    assert model.predict(OBSERVATIONS.sample())[0].shape == shape
    assert model.predict(some_observations(4))[0].shape == (4, *shape)


@each_box
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("policy", "observation_space"),
    [
        ("MlpLstmPolicy", spaces.Box(-1, 1, (2,), np.float64)),
        (
            "MultiInputLstmPolicy",
            spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Box(-1, 1, (2,), np.float64)}),
        ),
    ],
    ids=["box", "dict"],
)
def test_float64(case: Case, dtype: Any, policy: str, observation_space: spaces.Space) -> None:
    env = random_envs(case, 1, observation_space, box_of((2,), dtype))
    model = model_of(case, env, policy).learn(40)
    for deterministic in (True, False):
        assert model.predict(observation_space.sample(), deterministic=deterministic)[0].dtype == dtype
    assert all(parameter.dtype == th.float32 for parameter in model.policy.parameters())


@each
def test_actions_of_no_algorithm(case: Case) -> None:
    for action_space in (spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.MultiBinary([2, 3])):
        with pytest.raises(AssertionError, match="only supports"):
            model_of(case, random_envs(case, action_space=action_space))


@each_box
def test_actions_must_be_bounded(case: Case) -> None:
    for low, high in ((-np.inf, np.inf), (0.0, np.inf), (-np.inf, 0.0)):
        with pytest.raises(AssertionError, match="finite lower and upper bound"):
            model_of(case, random_envs(case, action_space=spaces.Box(low, high, (2,), np.float32)))


class OwnBox(spaces.Box):
    """Somebody's subclass."""


@each
def test_subclassed_spaces(case: Case) -> None:
    action_space = OwnBox(-1, 1, (2,), np.float32) if isinstance(case.action_space, spaces.Box) else case.action_space
    observation_space = OwnBox(-1, 1, (2,), np.float32)
    model = model_of(case, random_envs(case, 1, observation_space, action_space)).learn(40)
    assert action_space.contains(model.predict(observation_space.sample())[0])


@each
@pytest.mark.parametrize(
    "observation_space",
    [
        spaces.MultiBinary((3, 2)),
        spaces.MultiDiscrete([4, 3]),
        spaces.Box(-1, 1, (2, 3, 2), np.float32),
    ],
    ids=str,
)
def test_odd_observations(case: Case, observation_space: spaces.Space) -> None:
    env = random_envs(case, 2, observation_space)
    model = model_of(case, env).learn(60)
    assert model._n_updates > 0
    assert model.predict(observation_space.sample())[0].shape == case.action_space.shape
    assert model.predict(env.reset())[0].shape == (2, *(case.action_space.shape or ()))
    evaluate_policy(model, env, n_eval_episodes=2)


@each
def test_nested_dicts_are_refused(case: Case) -> None:
    nested = spaces.Dict({"vector": OBSERVATIONS, "more": spaces.Dict({"number": spaces.Discrete(4)})})
    with pytest.raises(NotImplementedError):
        model_of(case, RandomEnv(nested, case.action_space), "MultiInputLstmPolicy")


@each
def test_a_dict_of_one_vector_is_that_vector(case: Case) -> None:
    models = []
    for policy, space in (("MultiInputLstmPolicy", spaces.Dict({"vec": OBSERVATIONS})), ("MlpLstmPolicy", OBSERVATIONS)):
        models.append(model_of(case, FixedObservations(space, case.action_space), policy).learn(80))
    of_dict, plain = models
    assert of_dict._n_updates == plain._n_updates > 0
    for a, b in zip(of_dict.policy.parameters(), plain.policy.parameters(), strict=True):
        th.testing.assert_close(a, b)
    of_dict_actions, _ = of_dict.predict({"vec": some_observations()}, deterministic=True)
    np.testing.assert_allclose(of_dict_actions, greedy(plain), atol=1e-5)


class FixedObservations(RandomEnv):
    """The same observations, whether or not they come in a dict."""

    def reset(self, **kwargs: Any) -> Any:
        _, info = super().reset(**kwargs)
        return self._observation(), info

    def step(self, action: Any) -> Any:
        _, *rest = super().step(action)
        return self._observation(), *rest

    def _observation(self) -> Any:
        value = np.array([np.sin(self.time + self.n_episodes), np.cos(2 * self.time)], dtype=np.float32)
        return {"vec": value} if isinstance(self.observation_space, spaces.Dict) else value


def small_cnn(**policy_kwargs: Any) -> dict[str, Any]:
    return policy_kwargs | dict(features_extractor_kwargs=dict(features_dim=8))


@each
@pytest.mark.parametrize("channel_first", [False, True])
def test_images(case: Case, channel_first: bool, tmp_path: pathlib.Path) -> None:
    discrete = isinstance(case.action_space, spaces.Discrete)
    env = FakeImageEnv(screen_height=36, screen_width=36, n_channels=1, discrete=discrete, channel_first=channel_first)
    model = model_of(case, env, "CnnLstmPolicy", policy_kwargs=small_cnn()).learn(40)
    assert is_vecenv_wrapped(model.get_env(), VecTransposeImage) == (not channel_first)
    observation, _ = env.reset()
    action, _ = model.predict(observation, deterministic=True)
    assert env.action_space.contains(action)
    model.save(tmp_path / "model")
    # With the environment, which is wrapped first, and without it
    for loaded in (case.algorithm.load(tmp_path / "model", env=env), case.algorithm.load(tmp_path / "model")):
        np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], action)


@each
def test_stacked_and_normalised_dicts(case: Case) -> None:
    space = spaces.Dict({"img": spaces.Box(0, 255, (1, 36, 36), np.uint8), "vec": spaces.Box(5, 9, (3,), np.float32)})
    channels_order: Any = {"img": "first", "vec": None}
    stacked = VecFrameStack(random_envs(case, 2, space), n_stack=2, channels_order=channels_order)
    env = VecNormalize(stacked, norm_obs_keys=["vec"])
    policy_kwargs = dict(features_extractor_kwargs=dict(cnn_output_dim=8))
    model = model_of(case, env, "MultiInputLstmPolicy", n_steps=2, policy_kwargs=policy_kwargs).learn(60)
    assert model._n_updates > 0
    samples = model._sample_sequences(4).observations
    assert samples["img"].shape[2:] == (2, 36, 36) and samples["img"].max() > 1, "as they are"
    assert samples["vec"].shape[2:] == (6,) and samples["vec"].abs().max() < 5, "normalised"
    evaluate_policy(model, env, n_eval_episodes=2)


@each
def test_images_that_are_not_of_bytes(case: Case) -> None:
    """Taken if the policy is told not to divide them by 255."""
    env = VecNormalize(random_envs(case, 1, spaces.Box(0, 255, (1, 36, 36), np.uint8)))
    model = model_of(case, env, "CnnLstmPolicy", policy_kwargs=small_cnn(normalize_images=False)).learn(40)
    assert model._n_updates > 0
    with pytest.raises(AssertionError, match="normalize_images=False"):
        model_of(case, env, "CnnLstmPolicy", policy_kwargs=small_cnn())


@each
def test_policy_kwargs_inside_policy_kwargs_stay_as_they_are(case: Case) -> None:
    """They may serve another model next. SB3 itself adds to them what belongs to the first."""
    env = random_envs(case, 1, spaces.Box(0, 255, (1, 36, 36), np.uint8))
    policy_kwargs = small_cnn(normalize_images=False, optimizer_kwargs=dict(betas=(0.8, 0.99)))
    model_of(case, env, "CnnLstmPolicy", policy_kwargs=policy_kwargs)
    assert policy_kwargs == small_cnn(normalize_images=False, optimizer_kwargs=dict(betas=(0.8, 0.99)))


# ------------------------------------------------------------------------ learning


@each
def test_identity(case: Case) -> None:
    """The action that repeats the observation, out of 4, or within 0.5 of it: chance makes 25 and less than 50 of 100."""
    discrete = isinstance(case.action_space, spaces.Discrete)
    make: Callable[[], gym.Env] = (lambda: IdentityEnv(4)) if discrete else (lambda: IdentityEnvBox(eps=0.5))
    env: Any = make_vec_env(make, 4)
    for seed, each_env in enumerate(env.envs):
        each_env.unwrapped.action_space.seed(seed)
    changes: dict[str, Any] = dict(learning_rate=3e-3, learning_starts=100, batch_size=32, gradient_steps=2, gamma=0.4)
    if not discrete:
        changes["action_noise"] = noise(1)
    model = model_of(case, env, n_steps=1, policy_kwargs=dict(net_arch=[32]), **changes)
    before, _ = evaluate_policy(model, env, n_eval_episodes=4)
    model.learn(2500)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=8)
    assert isinstance(before, float) and isinstance(mean, float)
    assert before < 70 and mean > 90, f"{before} before, {mean} after"
    observation = env.observation_space.sample()
    assert np.shape(model.predict(observation)[0]) == np.shape(observation)


@each
def test_n_steps(case: Case) -> None:
    """They make a difference, the same one every time, also where they reach beyond a sequence."""
    kwargs: dict[str, Any] = dict(seed=3, gradient_steps=2)
    runs = [learned(model_of(case, random_envs(case, 2), n_steps=n_steps, **kwargs).learn(80)) for n_steps in (1, 3, 3, 9)]
    assert all(map(th.equal, runs[1], runs[2]))
    assert not all(map(th.equal, runs[0], runs[1])) and not all(map(th.equal, runs[1], runs[3]))
    assert all(th.isfinite(parameter).all() for run in runs for parameter in run)


@each
def test_registered_environments(case: Case) -> None:
    """By name or made, wrapped as needed; what is predicted is an action."""
    by_name, made = model_of(case, case.env_id), model_of(case, gym.make(case.env_id))
    for model in (by_name, made):
        assert model.get_env().env_is_wrapped(Monitor) == [True] and model.n_envs == 1
        assert model.learn(60) is model and model._n_updates > 0
    env = gym.make(case.env_id)
    observation, _ = env.reset(seed=0)
    vec_env = DummyVecEnv([lambda: gym.make(case.env_id)] * 2)
    for deterministic in (True, False):
        action, _ = by_name.predict(observation, deterministic=deterministic)
        assert isinstance(action, np.ndarray) and env.action_space.contains(action[()])
        assert by_name.predict(vec_env.reset(), deterministic=deterministic)[0].shape == (2, *(env.action_space.shape or ()))


@each
@pytest.mark.parametrize("train_freq", ["4", ("1", "episode"), "non_sense", (1, "close")])
def test_train_freq_that_is_none(case: Case, train_freq: Any) -> None:
    with pytest.raises(ValueError, match="train_freq"):
        model_of(case, train_freq=train_freq)


@each
@pytest.mark.parametrize("learning_rate", [-1e-3, lambda _: -1e-3], ids=["number", "schedule"])
def test_negative_learning_rates(case: Case, learning_rate: Any) -> None:
    with pytest.raises(ValueError, match=r"-0\.001"):
        model_of(case, learning_rate=learning_rate)


@each
def test_nothing_is_learned_before_learning_starts(case: Case) -> None:
    model = model_of(case, learning_starts=40)
    before = learned(model)
    model.learn(40)
    assert model._n_updates == 0 and all(map(th.equal, before, learned(model)))
    model.learn(8, reset_num_timesteps=False)
    assert model._n_updates > 0 and not any(map(th.equal, before, learned(model)))


@each
def test_every_optimizer_follows_the_schedule(case: Case) -> None:
    """At a rate of 0 nothing learns, and only targets move."""
    model = model_of(case, gradient_steps=0).learn(40)
    model.train(4, 4)
    model.lr_schedule, model.tau, model.target_update_interval = lambda _: 0.0, 0.5, 1
    before, targets = learned(model), [value.clone() for value in model.policy._targets]
    model.train(4, 4)
    assert all(map(th.equal, before, learned(model)))
    assert not any(map(th.equal, targets, model.policy._targets))


@each
def test_runs_repeat(case: Case) -> None:
    """Learning, and acting at random afterwards."""
    box = isinstance(case.action_space, spaces.Box)
    runs = []
    for seed in (5, 5, 6):
        kwargs: dict[str, Any] = dict(action_noise=noise(2)) if box else {}
        model = model_of(case, random_envs(case, 2), seed=seed, **kwargs).learn(100)
        env = model.get_env()
        observations, actions, rewards = env.reset(), [], []
        for _ in range(20):
            action, _ = model.predict(observations, deterministic=False)
            observations, reward, _, _ = env.step(action)
            actions.append(action)
            rewards.append(reward)
        runs.append((np.stack(actions), np.stack(rewards), *(value.numpy() for value in learned(model))))
    same = [all(map(np.array_equal, run, runs[0])) for run in runs]
    assert same == [True, True, False]


@each
def test_no_warnings(case: Case, recwarn: pytest.WarningsRecorder) -> None:
    """Learning once, on, and again, and evaluating."""
    model = model_of(case, random_envs(case, 2), buffer_size=100).learn(150)
    model.learn(50, reset_num_timesteps=False)
    model.learn(50)
    evaluate_policy(model, model.get_env(), n_eval_episodes=2)
    assert not recwarn.list


class BatchNormDropout(BaseFeaturesExtractor):
    """Has statistics that learning changes, and chance that acting must not see."""

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space, get_flattened_obs_dim(observation_space))
        self.layers = th.nn.Sequential(th.nn.Flatten(), th.nn.BatchNorm1d(self.features_dim), th.nn.Dropout(0.5))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


def statistics(model: Any) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items() if "running_" in name}


@each
def test_modes(case: Case) -> None:
    """Learning changes statistics, the targets' with them even where ``tau`` is 0; acting and predicting do not."""
    kwargs: dict[str, Any] = dict(policy_kwargs=dict(features_extractor_class=BatchNormDropout), tau=0.0)
    env = random_envs(case, observation_space=spaces.Box(3, 5, (2,), np.float32))
    acting = model_of(case, env, gradient_steps=0, **kwargs)
    before = statistics(acting)
    assert any("target" in name for name in before) and len(before) >= 4
    acting.learn(60)
    assert_same(before, statistics(acting))
    first = greedy(acting)
    for _ in range(5):
        np.testing.assert_array_equal(greedy(acting), first)
    assert_same(before, statistics(acting))
    assert not acting.policy.training

    learning = model_of(case, env, **kwargs)
    targets = [value.clone() for value in learning.policy._targets]
    if hasattr(learning, "target_update_interval"):
        learning.target_update_interval = 1
    learning.learn(60)
    after = statistics(learning)
    assert not any(th.equal(before[name], after[name]) for name in before)
    assert all(map(th.equal, targets, learning.policy._targets))


# ------------------------------------------------------------------------ callbacks


class Counts(BaseCallback):
    """Remembers what the others were told."""

    def _on_step(self) -> bool:
        self.seen = set(self.locals)
        return True


@each
@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_all_callbacks_in_one_run(case: Case, tmp_path: pathlib.Path) -> None:
    env: Any = VecNormalize(random_envs(case, 2))
    eval_env: Any = VecNormalize(random_envs(case), training=False, norm_reward=False)
    called = []

    def count(local: dict[str, Any], _: dict[str, Any]) -> bool:
        called.append(local["self"].num_timesteps)
        return True

    folder = str(tmp_path)
    checkpoint = CheckpointCallback(10, folder, save_replay_buffer=True, save_vecnormalize=True)
    on_event = CheckpointCallback(1, folder, name_prefix="event")
    event = EveryNTimesteps(24, on_event)
    evaluation = EvalCallback(
        eval_env,
        callback_on_new_best=StopTrainingOnRewardThreshold(1e9),
        callback_after_eval=StopTrainingOnNoModelImprovement(1000, min_evals=1000),
        n_eval_episodes=2,
        eval_freq=15,
        log_path=folder,
        best_model_save_path=folder,
        verbose=0,
    )
    counts, log = Counts(), LogEveryNTimesteps(40)
    max_episodes = StopTrainingOnMaxEpisodes(1000)
    function = ConvertCallback(count)
    callbacks = [checkpoint, evaluation, event, log, max_episodes, function, counts, ProgressBarCallback()]
    callback = CallbackList(list(callbacks))
    model = model_of(case, env, train_freq=1).learn(100, callback=callback, log_interval=10**6)

    # All were told the same, and counted the same
    assert {"new_obs", "rewards", "dones", "infos", "actions", "buffer_actions", "replay_buffer", "self"} <= counts.seen
    for each_callback in (*callbacks, on_event):
        assert each_callback.locals["new_obs"] is callback.locals["new_obs"]
    for each_callback in callbacks:
        assert each_callback.n_calls == 50 and each_callback.num_timesteps == model.num_timesteps == 100
    assert called == list(range(2, 101, 2))
    assert event.last_time_trigger == 96 and on_event.n_calls == 4
    assert max_episodes.n_episodes == model._episode_num > 0
    assert len(evaluation.evaluations_timesteps) == 3 and evaluation.evaluations_timesteps[0] == 30
    np.testing.assert_array_equal(np.load(tmp_path / "evaluations.npz")["timesteps"], [30, 60, 90])
    names = {path.name for path in tmp_path.iterdir()}
    assert {f"event_{n}_steps.zip" for n in (24, 48, 72, 96)} | {"best_model.zip"} <= names
    for n in range(20, 101, 20):
        parts = (f"rl_model_{n}_steps.zip", f"rl_model_replay_buffer_{n}_steps.pkl", f"rl_model_vecnormalize_{n}_steps.pkl")
        assert set(parts) <= names
    assert eval_env.obs_rms.count > 40, "statistics followed those of training"

    # From the files of one checkpoint the run goes on
    loaded_env: Any = VecNormalize.load(str(tmp_path / "rl_model_vecnormalize_60_steps.pkl"), random_envs(case, 2))
    assert loaded_env.obs_rms.count < env.obs_rms.count
    loaded: Any = case.algorithm.load(tmp_path / "rl_model_60_steps", env=loaded_env)
    loaded.load_replay_buffer(tmp_path / "rl_model_replay_buffer_60_steps.pkl")
    # Saved while the step it was called at is not stored yet
    assert loaded.num_timesteps == 60 and loaded.replay_buffer.size() == 29
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == 80 and loaded._n_updates > 0
    case.algorithm.load(tmp_path / "best_model").predict(some_observations())

    # None, lists and functions are taken too
    for other in (None, [checkpoint, evaluation], lambda _locals, _globals: True):
        assert model.learn(20, callback=other).num_timesteps == 20, other


def recall_envs(case: Case, n_envs: int = 1) -> VecEnv:
    """Episodes of 6 steps without any reward."""
    discrete = isinstance(case.action_space, spaces.Discrete)
    return make_vec_env(lambda: RecallEnv(reward_factor=0.0, discrete=discrete), n_envs, seed=0)


@each
def test_callbacks_that_stop(case: Case) -> None:
    def on_evaluation(**kwargs: Any) -> EvalCallback:
        return EvalCallback(recall_envs(case, 2), eval_freq=10, n_eval_episodes=2, verbose=0, **kwargs)

    for callback, n_steps in (
        (on_evaluation(callback_on_new_best=StopTrainingOnRewardThreshold(-1.0)), 20),
        (on_evaluation(callback_on_new_best=StopTrainingOnRewardThreshold(1.0)), 200),
        # The first evaluation is the best, two without a better one are too many
        (on_evaluation(callback_after_eval=StopTrainingOnNoModelImprovement(1)), 60),
        # Three episodes in each of two environments
        (StopTrainingOnMaxEpisodes(3), 36),
        (lambda local, _: local["self"].num_timesteps < 50, 50),
        (EveryNTimesteps(30, ConvertCallback(lambda _locals, _globals: False)), 30),
    ):
        model = model_of(case, recall_envs(case, 2), train_freq=1).learn(200, callback=callback)
        assert model.num_timesteps == n_steps
        model.learn(20, reset_num_timesteps=False)
        assert model.num_timesteps == n_steps + 20


# ------------------------------------------------------------------------ logging


class Succeeds(RecallEnv):
    """Tells at the end of an episode that it succeeded."""

    def step(self, action: Any) -> Any:
        *rest, truncated, info = super().step(action)
        return *rest, truncated, info | (dict(is_success=True) if truncated else {})


class Hyperparameters(BaseCallback):
    """Known to TensorBoard only."""

    def _on_training_start(self) -> None:
        values: dict[str, Any] = dict(algorithm=type(self.model).__name__, learning_rate=self.model.learning_rate)
        self.logger.record("hparams", HParam(values, {"rollout/ep_len_mean": 0.0}), exclude=("stdout", "log", "json", "csv"))

    def _on_step(self) -> bool:
        return True


@each
def test_names_in_tensorboard(case: Case, tmp_path: pathlib.Path) -> None:
    discrete = isinstance(case.action_space, spaces.Discrete)
    env = make_vec_env(lambda: Succeeds(discrete=discrete), 2, seed=0)
    model = model_of(case, env, tensorboard_log=str(tmp_path), stats_window_size=5, learning_rate=0.002)
    model.learn(60, callback=Hyperparameters(), log_interval=2)
    model.learn(60, reset_num_timesteps=False, log_interval=2)
    name = case.algorithm.__name__
    # The second went on with the first
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}_1"]
    model.learn(20, log_interval=1, tb_log_name="again")
    model.learn(20, log_interval=1, tb_log_name="again")
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}_1", "again_1", "again_2"}

    events = EventAccumulator(str(tmp_path / f"{name}_1"))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    expected = {"rollout/ep_len_mean", "rollout/ep_rew_mean", "rollout/success_rate", "time/fps", "train/learning_rate"}
    assert expected <= scalars
    assert events.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"
    # Counted elsewhere, left out by SB3 as well
    assert not scalars & {"train/n_updates", "time/episodes", "time/total_timesteps"}
    assert {scalar.value for scalar in events.Scalars("rollout/ep_len_mean")} == {6.0}
    assert {scalar.value for scalar in events.Scalars("rollout/success_rate")} == {1.0}
    assert events.Scalars("train/learning_rate")[-1].value == pytest.approx(0.002)
    steps = [scalar.step for scalar in events.Scalars("time/fps")]
    assert steps == sorted(steps) and steps[-1] > 60, "counted on"
    assert model.ep_info_buffer.maxlen == 5


@each
def test_loggers(case: Case, tmp_path: pathlib.Path) -> None:
    """Those that ``verbose`` and ``tensorboard_log`` ask for, or the one that is set, which stays."""

    def kinds(model: Any) -> list[type]:
        return [type(output) for output in model.logger.output_formats]

    assert kinds(model_of(case).learn(4)) == []
    assert kinds(model_of(case, tensorboard_log=str(tmp_path)).learn(4)) == [TensorBoardOutputFormat]
    both = model_of(case, tensorboard_log=str(tmp_path), verbose=1).learn(4)
    assert kinds(both) == [HumanOutputFormat, TensorBoardOutputFormat]

    own = configure(str(tmp_path / "own"), ["csv"])
    both.set_logger(own)
    for model in (both, model_of(case, verbose=1, tensorboard_log=str(tmp_path))):
        model.set_logger(own)
        model.learn(60, log_interval=1)
        assert model.logger is own and kinds(model) == [CSVOutputFormat]
    own.close()
    header = (tmp_path / "own" / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"train/n_updates", "train/learning_rate", "time/total_timesteps", "rollout/ep_rew_mean"} <= set(header)


# ------------------------------------------------------------------------ evaluation, normalisation


@each
@pytest.mark.parametrize("direct", [False, True], ids=["model", "policy"])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_evaluate_policy(case: Case, direct: bool, n_envs: int) -> None:
    """As many episodes as asked for, each acted in with the memory of that episode alone."""
    model = model_of(case, random_envs(case, n_envs)).learn(60)
    env = random_envs(case, n_envs)
    steps: list[list[tuple[np.ndarray, np.ndarray, bool]]] = [[] for _ in range(n_envs)]

    def record(local: dict[str, Any], _: dict[str, Any]) -> None:
        i = local["i"]
        steps[i].append((local["observations"][i].copy(), local["actions"][i].copy(), bool(local["done"])))

    acting = model.policy if direct else model
    rewards, lengths = evaluate_policy(acting, env, 7, callback=record, return_episode_rewards=True)
    assert isinstance(rewards, list) and isinstance(lengths, list)
    assert len(rewards) == len(lengths) == 7 and sum(lengths) <= sum(map(len, steps))
    for of_env in steps:
        state = None
        for observation, action, done in of_env:
            expected, state = model.predict(observation, state, deterministic=True)
            np.testing.assert_allclose(action, expected, atol=1e-5)
            state = None if done else state

    with pytest.raises(AssertionError, match="below threshold"):
        evaluate_policy(acting, env, 2, reward_threshold=1e9)
    with pytest.warns(UserWarning, match="Monitor"):
        evaluate_policy(acting, RandomEnv(OBSERVATIONS, case.action_space), 2)


@each
def test_changing_normalisation(case: Case) -> None:
    env = VecNormalize(random_envs(case))
    eval_env = VecNormalize(random_envs(case), training=False, norm_reward=False)
    model = model_of(case, env)
    assert model.get_vec_normalize_env() is env
    model.set_env(eval_env)
    assert model.get_vec_normalize_env() is eval_env
    model.learn(12)
    assert eval_env.obs_rms.count < 1, "no training, no statistics"
    model.set_env(env)
    model.learn(60)
    assert model.get_vec_normalize_env() is env and env.obs_rms.count > 60
    assert model._n_updates > 0 and all(th.isfinite(parameter).all() for parameter in learned(model))
    # Without one nothing is normalised
    assert model_of(case).get_vec_normalize_env() is None


# ------------------------------------------------------------------------ gSDE


@each_sde
@pytest.mark.parametrize("policy_kwargs", [{}, dict(use_expln=True), dict(net_arch=[]), dict(clip_mean=0.0, log_std_init=0.5)])
def test_sde(case: Case, policy_kwargs: dict[str, Any]) -> None:
    """Noise depends on the state, its deviation is learned, and greedy actions know nothing of it."""
    model = model_of(case, random_envs(case, 2), use_sde=True, sde_sample_freq=3, policy_kwargs=policy_kwargs)
    log_std = model.actor.log_std.detach().clone()
    model.learn(80)
    assert model._n_updates > 0 and not th.equal(model.actor.log_std, log_std)
    first = greedy(model)
    sampled, _ = model.predict(some_observations(2), deterministic=False)
    again, _ = model.predict(some_observations(2), deterministic=False)
    np.testing.assert_array_equal(sampled, again)
    model.policy.reset_noise(2)
    again, _ = model.predict(some_observations(2), deterministic=False)
    assert not np.array_equal(sampled, again)
    np.testing.assert_array_equal(greedy(model), first)
    assert np.isfinite(evaluate_policy(model, model.get_env(), n_eval_episodes=2)[0])


@each_sde
@pytest.mark.parametrize("shape", [(2, 2), (1, 3), ()])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_sde_of_actions_of_any_shape(case: Case, shape: tuple[int, ...], n_envs: int) -> None:
    env = make_vec_env(lambda: StrictEnv(box_of(shape)), n_envs, seed=0)
    model = model_of(case, env, use_sde=True, sde_sample_freq=2, use_sde_at_warmup=True)
    model.learn(40 * n_envs)
    assert model._n_updates > 0 and model.replay_buffer.size() == 40


@each_sde
@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "CnnLstmPolicy"])
def test_policy_with_sde_alone(case: Case, policy: str, tmp_path: pathlib.Path) -> None:
    images = policy.startswith("Cnn")
    space = spaces.Box(0, 255, (1, 36, 36), np.uint8) if images else OBSERVATIONS
    env = random_envs(case, 1, space)
    model = model_of(case, env, policy, use_sde=True, policy_kwargs=small_cnn() if images else {}).learn(40)
    model.policy.save(tmp_path / "policy.pkl")
    loaded = type(model.policy).load(tmp_path / "policy.pkl", device="cpu")
    assert_same(model.policy.state_dict(), loaded.state_dict())
    observation = space.sample()
    expected, _ = model.predict(observation, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], expected)
    assert case.action_space.contains(loaded.predict(observation, deterministic=False)[0])
