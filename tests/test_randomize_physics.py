"""Physics drawn at every reset: from which stream, what they change, and what is told of them."""

import copy
import pickle
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_recurrent_offpolicy import exact_pickle
from sb3_recurrent_offpolicy.envs import RandomizePhysics, ResumableEnv, RL2Trial
from tests.envs import Clock

CARTPOLE = dict(length=(0.3, 0.9), masspole=(0.1, 0.4), masscart=(0.5, 2.0), gravity=(5.0, 15.0))


class Model:
    """As MuJoCo's: rows of arrays by number, their numbers by name."""

    def __init__(self) -> None:
        self.body_mass = np.array([0.0, 2.0, 4.0])
        self.geom_friction = np.array([[1.0, 0.1, 0.01], [2.0, 0.2, 0.02]], dtype=np.float32)
        self.body_parentid = np.array([0, 0, 1])
        self.dof_damping = np.ones(2)
        self.opt = SimpleNamespace(gravity=np.array([0.0, 0.0, -9.81]))

    def body(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(id={"world": 0, "torso": 1, "leg": 2}[name])

    def geom(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(id=["floor", "torso_geom"].index(name))


class MujocoEnv(Clock):
    """Named after the base class of Gymnasium's environments of MuJoCo."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.data = Model(), object()
        self.told = True

    @property
    def dt(self) -> float:
        return 0.1


@pytest.fixture
def constants(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Mass of the torso whenever MuJoCo's constants are computed."""
    seen: list[float] = []
    mujoco = SimpleNamespace(mj_setConst=lambda model, data: seen.append(model.body_mass[1]))
    monkeypatch.setitem(sys.modules, "mujoco", mujoco)
    return seen


def episode(env: gym.Env, seed: int | None = None, n_steps: int = 8) -> tuple[list[np.ndarray], list[Any]]:
    """Observations and what is told of the physics; actions are the same every time."""
    observation, info = env.reset(seed=seed)
    observations, told = [observation], [info.get("physics")]
    env.action_space.seed(0)
    for _ in range(n_steps):
        observation, *_, info = env.step(env.action_space.sample())
        observations.append(observation)
        told.append(info.get("physics"))
    return observations, told


def same(first: Any, second: Any) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_draws() -> None:
    """A seed starts the stream; every episode has values of its own, told at every step."""
    envs = [RandomizePhysics(gym.make("CartPole-v1"), CARTPOLE) for _ in range(2)]
    runs = [[episode(env, seed) for seed in (3, None, None)] for env in envs]
    draws = [told[0] for _, told in runs[0]]
    assert all(told == [told[0]] * 9 for _, told in runs[0])
    assert draws == [told[0] for _, told in runs[1]]
    assert len({draw["length"] for draw in draws}) == 3
    assert episode(envs[0], 3)[1][0] == draws[0] != episode(envs[0], 4)[1][0]
    for env in envs:
        assert all(getattr(env.unwrapped, name) == value for name, value in env.physics.items())
        env.reset()

    drawn = np.array([list(envs[0].reset()[1]["physics"].values()) for _ in range(500)])
    low, high = np.array(list(CARTPOLE.values())).T
    assert (low <= drawn).all() and (drawn <= high).all()
    np.testing.assert_allclose(drawn.mean(axis=0), (low + high) / 2, atol=0.06 * (high - low).max())
    assert (np.abs(np.corrcoef(drawn.T) - np.eye(4)) < 0.2).all()


@pytest.mark.parametrize(
    ("env_id", "ranges", "derive"),
    [
        (
            "CartPole-v1",
            CARTPOLE,
            lambda env: env.__dict__.update(total_mass=env.masspole + env.masscart, polemass_length=env.masspole * env.length),
        ),
        ("Pendulum-v1", dict(m=(0.2, 0.8), l=(0.5, 0.8), g=(5, 9)), lambda env: None),
        ("Acrobot-v1", dict(LINK_LENGTH_1=(1.2, 2), LINK_MASS_2=(1.5, 2)), lambda env: None),
        ("MountainCar-v0", dict(gravity=(0.001, 0.002), force=(0.002, 0.003)), lambda env: None),
        ("MountainCarContinuous-v0", dict(power=(0.002, 0.003)), lambda env: None),
    ],
)
def test_dynamics(env_id: str, ranges: dict[str, tuple[float, float]], derive: Callable[[Any], None]) -> None:
    """They are those of an environment set by hand, which starts from the same state as one that nobody has changed."""
    env, by_hand, plain = RandomizePhysics(gym.make(env_id), ranges), gym.make(env_id), gym.make(env_id)
    for seed in (5, None):
        seen, told = episode(env, seed)
        for name, value in told[0].items():
            setattr(by_hand.unwrapped, name, value)
        derive(by_hand.unwrapped)
        assert same(seen, episode(by_hand, seed)[0])
        unchanged = episode(plain, seed)[0]
        assert same(seen[:1], unchanged[:1]) and not same(seen, unchanged)
    assert env.np_random.random() == plain.np_random.random()


def test_names_in_a_model(constants: list[float]) -> None:
    ranges = {
        "model.body_mass[torso]": (3, 5),
        "model.body_mass[2]": (1, 2),
        "model.geom_friction[floor, 0]": (0.4, 0.6),
        "model.geom_friction[-1,2]": (3, 3),
        "model.opt.gravity[2]": (-12, -6),
    }
    env = RandomizePhysics(MujocoEnv(), ranges)
    for n_resets in (1, 2):
        model, physics = env.unwrapped.model, env.reset()[1]["physics"]  # type: ignore[attr-defined]
        assert list(physics) == list(ranges)
        assert all(low <= physics[name] <= high for name, (low, high) in ranges.items())
        mass, other_mass, friction, _, gravity = physics.values()
        assert model.body_mass.tolist() == [0, mass, other_mass]
        assert model.opt.gravity.tolist() == [0, 0, gravity]
        np.testing.assert_allclose(model.geom_friction, [[friction, 0.1, 0.01], [2, 0.2, 3]], rtol=1e-6)
        assert model.geom_friction.dtype == np.float32
        assert len(constants) == n_resets and constants[-1] == mass


def test_relative(constants: list[float]) -> None:
    """One factor for all that a name stands for, of the values at the beginning; the factors are told."""
    ranges = {"model.body_mass": (0.5, 2), "model.geom_friction[1]": (3, 4), "model.opt.gravity[2]": (0.9, 1.1)}
    env = RandomizePhysics(MujocoEnv(), ranges, relative=True)
    for _ in range(3):
        model, told = env.unwrapped.model, env.reset()[1]["physics"]  # type: ignore[attr-defined]
        assert all(low <= told[name] <= high for name, (low, high) in ranges.items())
        np.testing.assert_allclose(model.body_mass, told["model.body_mass"] * np.array([0, 2, 4]))
        scaled = told["model.geom_friction[1]"] * np.array([2, 0.2, 0.02])
        np.testing.assert_allclose(model.geom_friction, [[1, 0.1, 0.01], scaled], rtol=1e-6)
        assert model.opt.gravity[2] == told["model.opt.gravity[2]"] * -9.81
    assert env.step(0)[4] == {"time": 1, "physics": told}

    cart: Any = RandomizePhysics(gym.make("CartPole-v1"), dict(masspole=(2, 2)), relative=True)
    assert cart.reset()[1]["physics"] == dict(masspole=2)
    assert (cart.unwrapped.masspole, cart.unwrapped.total_mass) == (0.2, 1.2)


def test_around_each_other() -> None:
    """All that was drawn is told, and the streams are independent."""
    inner = RandomizePhysics(gym.make("CartPole-v1"), dict(length=(0, 1)))
    env = RandomizePhysics(inner, dict(gravity=(0, 1)))
    physics = env.reset(seed=0)[1]["physics"]
    assert physics == env.step(0)[4]["physics"]
    assert physics == dict(length=inner.unwrapped.length, gravity=inner.unwrapped.gravity)  # type: ignore[attr-defined]
    assert physics["length"] != physics["gravity"]


def test_trial_in_one_world() -> None:
    env = RL2Trial(RandomizePhysics(gym.make("Pendulum-v1", max_episode_steps=2), dict(l=(0.5, 1.5))), n_episodes=3)
    lengths = []
    for trial in range(2):
        first = env.reset(seed=0 if trial == 0 else None)[1]["physics"]
        assert [env.step(np.zeros(1))[4]["physics"] for _ in range(6)] == [first] * 6
        lengths.append(first["l"])
    assert lengths[0] != lengths[1]


@pytest.mark.parametrize("vec_env_cls", [DummyVecEnv, SubprocVecEnv])
def test_vectorised(vec_env_cls: type) -> None:
    """The last step of an episode tells its own physics, the reset after it those of the next."""
    env = make_vec_env(
        "MountainCar-v0",
        n_envs=2,
        seed=1,
        vec_env_cls=vec_env_cls,
        env_kwargs=dict(max_episode_steps=3),
        wrapper_class=lambda env: RandomizePhysics(env, dict(force=(0.001, 0.002))),
    )
    env.reset()
    before = None
    for _ in range(2):
        physics = [info["physics"] for info in env.reset_infos]
        assert physics[0] != physics[1] and physics != before
        for _ in range(3):
            _, _, dones, infos = env.step(np.zeros(2, dtype=int))
            assert [info["physics"] for info in infos] == physics
        assert dones.all()
        assert env.get_attr("force") == [info["physics"]["force"] for info in env.reset_infos]
        before = physics
    env.close()


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env)), lambda env: exact_pickle.loads(exact_pickle.dumps(env))],
    ids=["deepcopy", "pickle", "checkpoint"],
)
def test_copies(duplicate: Callable[[gym.Env], gym.Env]) -> None:
    """They go on in the same physics, draw the same next ones, and leave the original alone."""
    env = RandomizePhysics(gym.make("CartPole-v1"), CARTPOLE, relative=True)
    env.reset(seed=0)
    env.step(0)
    other = duplicate(env)
    for _ in range(3):
        assert same(env.step(1)[0], other.step(1)[0])
    expected = [episode(other) for _ in range(2)]
    for observations, told in expected:
        again = episode(env)
        assert same(again[0], observations) and again[1] == told


def test_states_of_processes() -> None:
    env, other = (ResumableEnv(RandomizePhysics(gym.make("CartPole-v1"), CARTPOLE)) for _ in range(2))
    env.reset(seed=0)
    state = env.running_state()
    assert isinstance(state, bytes)
    other.restore_running_state(state)
    assert same(env.step(1)[0], other.step(1)[0])
    assert env.reset()[1] == other.reset()[1]


@pytest.mark.parametrize(
    ("ranges", "relative", "message"),
    [
        ({}, False, r"ranges=\{\} must name what is drawn"),
        ([("length", (0, 1))], False, "must name what is drawn"),
        *(
            (dict(length=bounds), False, r'ranges\["length"\]=.* must be two finite numbers, low <= high')
            for bounds in ((1, 0), (0, np.inf), (np.nan, 1), (1,), (1, 2, 3), 1, ("low", "high"), None)
        ),
        (dict(lenght=(0, 1)), False, r'"lenght" is no number that can be set, choose from .*\'length\', \'masscart\''),
        (dict(state=(0, 1)), False, '"state" is no number'),
        (dict(kinematics_integrator=(0, 1)), False, '"kinematics_integrator" is no number'),
        (dict(isopen=(0, 1)), False, '"isopen" is no number'),
        ({"model.opt.gravity[2]": (0, 1)}, False, r'\["model.opt.gravity\[2\]"\]: "model" is no number'),
        ({"length[0]": (0, 1)}, False, r"no such entry in an array of shape \(\)"),
    ],
)
def test_impossible_ranges(ranges: Any, relative: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomizePhysics(gym.make("CartPole-v1"), ranges, relative)


@pytest.mark.parametrize(
    ("name", "relative", "message"),
    [
        (
            "model.body_weight[1]",
            False,
            r'"body_weight" is no number .* \[\'body_mass\', \'dof_damping\', \'geom_friction\'\]',
        ),
        ("model.body_parentid[1]", False, '"body_parentid" is no number'),
        ("dt", False, r'"dt" is no number that can be set, choose from \[.*\]'),
        ("told", False, '"told" is no number'),
        ("model.body_mass[head]", False, r'body\("head"\).id is not to be found, use a number'),
        ("model.dof_damping[knee]", False, r'dof\("knee"\).id is not to be found, use a number'),
        ("model.body_mass[3]", False, r"no such entry in an array of shape \(3,\)"),
        ("model.geom_friction[1]", False, "is 3 numbers: index one, or scale all of them with relative=True"),
        ("model.body_mass", False, "is 3 numbers"),
        ("model.body_mass[world]", True, "is 0, which no factor changes: use relative=False"),
    ],
)
def test_impossible_names(name: str, relative: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomizePhysics(MujocoEnv(), {name: (1, 2)}, relative)
