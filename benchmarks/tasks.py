"""The tasks of ``benchmarks.learning``: how each is scored, and what of its state may be seen."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import popgym  # noqa: F401  registers its environments
import rl_zoo3.import_envs  # noqa: F401  registers the NoVel environments

import sb3_recurrent_offpolicy.envs  # noqa: F401  registers its environments


class Task(NamedTuple):
    """
    An environment and how it is scored.

    :param n_starts: episodes of the final score, each from a start of its own
    :param curve_every: steps of the agent between two points of the learning curve
    :param threshold: return for which the training time is told, first reached and kept to the end of the curve
    :param visible: what may be seen of an environment in its present state. Actions and rewards that the observation ends with
        are left out
    :param scored_from: step of the episode from which on rewards count
    """

    n_starts: int
    curve_every: int
    threshold: float
    visible: Callable[[Any], Any]
    scored_from: int = 0


def _pendulum(env: Any) -> np.ndarray:
    angle, velocity = env.unwrapped.state
    return np.array([np.cos(angle), np.sin(angle), velocity])


def _lunar_lander_without_velocities(env: Any) -> list[float]:
    lander, legs = env.unwrapped.lander, env.unwrapped.legs
    x, y = lander.position
    # Viewport of 600 x 400 pixels, 30 a metre; legs reach 18 pixels below the centre
    height = (y - env.unwrapped.helipad_y - 18 / 30) / (200 / 30)
    return [x / 10 - 1, height, 0, 0, lander.angle, 0, *(float(leg.ground_contact) for leg in legs)]


def _memory_length(env: Any) -> list[float]:
    return [max(1 - env.time / env.memory_length, 0), 0.0, (2 * env.context[0] - 1) * (env.time == 0)]


def _passive_tmaze(env: Any) -> list[float]:
    return [env.x == env.corridor_length, env.y + env.goal * (env.time == 0)]


TASKS = {
    # A mean over 100 of its episodes has a standard error of 8 to 10
    "PendulumNoVel-v1": Task(1000, 2_000, -200, lambda env: _pendulum(env) * (1, 1, 0)),
    # Its wrapper has counted the step already
    "PendulumFlicker-v0": Task(1000, 2_000, -200, lambda env: _pendulum(env) * (env.get_wrapper_attr("time") % 3 == 1)),
    "PendulumVelocityOnly-v0": Task(1000, 2_000, -200, lambda env: _pendulum(env)[2:]),
    "CartPoleNoVel-v1": Task(100, 5_000, 475, lambda env: np.array(env.unwrapped.state) * (1, 0, 1, 0)),
    "MountainCarContinuousNoVel-v0": Task(100, 5_000, 90, lambda env: np.array(env.unwrapped.state) * (1, 0)),
    "LunarLanderNoVel-v3": Task(100, 20_000, 200, _lunar_lander_without_velocities),
    "LunarLanderContinuousNoVel-v3": Task(100, 25_000, 200, _lunar_lander_without_velocities),
    # Nothing is hidden but the physics. Memory is needed for these returns: one policy for all poles gains about -180
    "PendulumUnknown-v0": Task(200, 2_000, -140, _pendulum),
    "CartPoleUnknown-v1": Task(200, 5_000, 450, lambda env: env.unwrapped.state),
    # The cue at the first step only; the query is always that one bit
    "MemoryLength-v0": Task(200, 2_000, 1.0, lambda env: _memory_length(env.unwrapped)),
    "PassiveTMaze-v0": Task(200, 2_000, 1.0, lambda env: _passive_tmaze(env.unwrapped)),
    "HiddenWindReach-v0": Task(200, 20_000, 50, lambda env: env.unwrapped.position),
    # Who has learned to learn shows it at the end of a trial
    "BanditTrial-v0": Task(1000, 64_000, 15.3, lambda env: [0], scored_from=80),
    # Noise covers what it shows
    "popgym-NoisyPositionOnlyCartPoleEasy-v0": Task(200, 10_000, 0.9, lambda env: []),
    "popgym-RepeatPreviousEasy-v0": Task(200, 8_000, 0.9, lambda env: env.unwrapped.deck.show("player", ["suits_idx"])[0, -1]),
}


def kept_from(threshold: float, returns: list[float]) -> int:
    """
    :param threshold: a return
    :param returns: of a learning curve
    :return: index of the first point from which on no return lies below the threshold; the number of points if there is none
    """
    below = [index for index, value in enumerate(returns) if value < threshold]
    return below[-1] + 1 if below else 0


def assert_state_is_hidden(env_id: str, env_kwargs: dict[str, Any] | None = None) -> None:
    """
    :param env_id: one of ``TASKS``
    :param env_kwargs: of the environment
    :raises AssertionError: if an observation shows more than may be seen
    """
    env = gym.make(env_id, **env_kwargs or {})
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        visible = np.atleast_1d(TASKS[env_id].visible(env))
        np.testing.assert_allclose(np.atleast_1d(observation)[: len(visible)], visible, atol=1e-5)
        observation, *_ = env.step(env.action_space.sample())
