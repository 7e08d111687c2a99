"""Physics that differ from episode to episode."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator

from sb3_recurrent_offpolicy.envs.rl2 import wants_new_task

Ranges = Mapping[str, Sequence[float]]


def _derive_cartpole(env: Any) -> None:
    env.total_mass = env.masscart + env.masspole
    env.polemass_length = env.masspole * env.length


def _derive_mujoco(env: Any) -> None:
    import mujoco

    mujoco.mj_setConst(env.model, env.data)


# What an environment computes once from its attributes, by the name of its class or of a base: gymnasium.envs.mujoco cannot be
# imported where MuJoCo is missing. Acrobot, Pendulum and both MountainCars derive nothing but their spaces
DERIVED: dict[str, Callable[[Any], None]] = {"CartPoleEnv": _derive_cartpole, "MujocoEnv": _derive_mujoco}


class RandomizePhysics(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """
    Draws attributes of the environment at every reset, as dynamics randomization does (Peng et al. 2018,
    https://arxiv.org/abs/1710.06537). Observations do not show them: memory can tell them from what actions do.

    * Each value is drawn from U(low, high), by itself, and is there before the environment resets. ``info["physics"]`` tells
      what was drawn at every reset and step, by name
    * Names are those of numbers, "masspole", and of arrays of floats, "model.opt.gravity[2]": a path from the unwrapped
      environment with an index. In arrays of a MuJoCo model a name can stand for the first index, "model.body_mass[torso]" or
      "model.geom_friction[floor, 0]", where the model looks such names up: ``model.body("torso").id``. Joints have names, the
      degrees of freedom of "model.dof_damping[3]" do not
    * What the environment has computed from its attributes is computed again, if ``DERIVED`` says how: the total mass of
      CartPole, the constants of MuJoCo (``mj_setConst``). Spaces stay as they are, whatever bounds are drawn
    * ``reset(options={"new_task": False})`` keeps the values, so the inner episodes of :class:`RL2Trial` share them

    The draws have a random stream of their own, which ``reset(seed=...)`` starts again: the environment draws the same numbers
    as it does without the wrapper. Wrappers around each other are independent if they draw other attributes.

    :param env: environment whose attributes are numbers or arrays; a vectorised one is not supported
    :param ranges: (low, high) of every attribute drawn, in its own unit
    :param relative: whether ranges are factors of the values found now, as is usual for MuJoCo, whose masses differ. A row
        ("model.geom_friction[floor]") or a whole array is scaled by one factor, and ``info["physics"]`` tells the factors.
        If False, a name must be that of a single number
    :raises ValueError: if there are no ranges, one is not two finite numbers in order, or a name is not that of numbers
    """

    def __init__(self, env: gym.Env, ranges: Ranges, relative: bool = False):
        gym.utils.RecordConstructorArgs.__init__(self, ranges=ranges, relative=relative)
        super().__init__(env)
        if not isinstance(ranges, Mapping) or not ranges:
            raise ValueError(f'ranges={ranges!r} must name what is drawn: {{"attribute": (low, high)}}')
        self.ranges = {name: _bounds(name, bounds) for name, bounds in ranges.items()}
        self.relative = relative
        self.nominal = {name: self._nominal(name) for name in self.ranges}
        self.random = np.random.default_rng()
        self.physics: dict[str, float] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            # The environment's own generator begins with the seed itself, that of another wrapper with other names
            key = tuple(",".join(self.ranges).encode())
            self.random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
        if wants_new_task(options) or not self.physics:
            self.physics = {name: float(self.random.uniform(*bounds)) for name, bounds in self.ranges.items()}
        # Those that are kept too: a copy of an environment of MuJoCo begins with the nominal values
        for name, value in self.physics.items():
            self._set(name, self.nominal[name] * value if self.relative else value)
        for base in type(self.unwrapped).__mro__:
            if derive := DERIVED.get(base.__name__):
                derive(self.unwrapped)
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._tell(info)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, self._tell(info)

    def _tell(self, info: dict[str, Any]) -> dict[str, Any]:
        return info | {"physics": info.get("physics", {}) | self.physics}

    def _nominal(self, name: str) -> Any:
        owner, attribute, index = _locate(self.unwrapped, name)
        values = np.array(getattr(owner, attribute))
        try:
            nominal = values[index]
        except IndexError as error:
            raise ValueError(f'ranges["{name}"]: no such entry in an array of shape {values.shape}') from error
        if not self.relative and nominal.shape:
            raise ValueError(f'ranges["{name}"] is {nominal.size} numbers: index one, or scale all of them with relative=True')
        if self.relative and not nominal.any():
            raise ValueError(f'ranges["{name}"] is 0, which no factor changes: use relative=False')
        return nominal

    def _set(self, name: str, value: Any) -> None:
        owner, attribute, index = _locate(self.unwrapped, name)
        values = getattr(owner, attribute)
        if isinstance(values, np.ndarray):
            # A copy: an array of a class belongs to other environments too
            values = values.copy()
            values[index] = value
        setattr(owner, attribute, values if isinstance(values, np.ndarray) else float(value))


def randomized(entry_point: str, ranges: Ranges, relative: bool = False, **kwargs: Any) -> RandomizePhysics:
    """
    :param entry_point: of an environment, "module:Class"
    :param ranges: see :class:`RandomizePhysics`
    :param relative: see :class:`RandomizePhysics`
    :param kwargs: arguments of the environment
    :return: the environment with random physics. Registered as an entry point, it makes ``ranges`` an argument of ``gym.make``
    """
    create: Any = load_env_creator(entry_point)
    return RandomizePhysics(create(**kwargs), ranges, relative)


def _bounds(name: str, bounds: Any) -> tuple[float, float]:
    try:
        low, high = map(float, bounds)
    except (TypeError, ValueError):
        low = high = np.nan
    if not -np.inf < low <= high < np.inf:
        raise ValueError(f'ranges["{name}"]={bounds!r} must be two finite numbers, low <= high')
    return low, high


def _locate(env: Any, name: str) -> tuple[Any, str, tuple[int, ...]]:
    """The object that has the attribute, the attribute's own name, and the index into it."""
    path, bracket, index = name.partition("[")
    owner, (*objects, attribute) = env, path.split(".")
    for part in objects:
        if not hasattr(owner, part):
            attribute = part
            break
        owner = getattr(owner, part)
    if not _is_number(owner, attribute):
        numbers = [other for other in dir(owner) if not other.startswith("_") and _is_number(owner, other)]
        raise ValueError(f'ranges["{name}"]: "{attribute}" is no number that can be set, choose from {numbers}')
    parts = index.removesuffix("]").split(",") if bracket else []
    return owner, attribute, tuple(_position(owner, attribute, part.strip(), name) for part in parts)


def _is_number(owner: Any, attribute: str) -> bool:
    field = getattr(type(owner), attribute, None)
    if isinstance(field, property) and field.fset is None:
        return False
    value = getattr(owner, attribute, None)
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "f"
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _position(owner: Any, attribute: str, part: str, name: str) -> int:
    try:
        return int(part)
    except ValueError:
        # "body" of "body_mass", as MuJoCo calls its look-ups
        kind = attribute.partition("_")[0]
    try:
        return int(getattr(owner, kind)(part).id)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f'ranges["{name}"]: {kind}("{part}").id is not to be found, use a number: {error}') from error
