"""Episodes: environments as the model was trained in them, what acts in them, and what is recorded on the way."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy, State
from sb3_recurrent_offpolicy.checks import check_integers
from sb3_recurrent_offpolicy.preprocessing import map_observation

# What tools take for ``env``
EnvLike = str | Callable[[], gym.Env] | gym.Env | VecEnv
# Side by side; more of them cost memory and save little
MOST_ENVS = 200


@contextmanager
def envs_of(opened: OpenedPolicy, env: EnvLike, n_episodes: int, seed: int, n_envs: int | None = None) -> Iterator[VecEnv]:
    """
    Environments to play in, which show what the model was trained on: images with channels first, observations normalised
    by the statistics of training, rewards as they are.

    :param opened: the policy
    :param env: an id, what makes an environment, or an environment. Only of the first two can there be several side by side,
        one for each episode: then all tools play the same starts
    :param n_episodes: that will be played
    :param seed: of the first environment; the others get those after it
    :param n_envs: side by side, None for one for each episode (at most 200)
    :raises ValueError: if the spaces are not those of the model
    """
    check_integers(1, n_episodes=n_episodes)
    is_ours = not isinstance(env, (gym.Env, VecEnv))
    # mypy does not see through the name; SB3 wraps a single environment
    if is_ours:
        envs: VecEnv = make_vec_env(env, n_envs=n_envs or min(n_episodes, MOST_ENVS), seed=seed)  # type: ignore[arg-type]
    else:
        envs = env  # type: ignore[assignment]
    envs = BaseAlgorithm._wrap_env(envs)
    trained_with = getattr(opened.model, "get_vec_normalize_env", lambda: None)()
    normalizer = unwrap_vec_normalize(envs)
    if trained_with is not None and normalizer is None:
        normalizer = envs = VecNormalize(envs, norm_obs=trained_with.norm_obs, clip_obs=trained_with.clip_obs)
        normalizer.obs_rms, normalizer.epsilon = trained_with.obs_rms, trained_with.epsilon
        normalizer.norm_obs_keys = trained_with.norm_obs_keys
    for name in ("observation_space", "action_space"):
        there, trained = getattr(envs, name), getattr(opened, name)
        if there.shape != trained.shape or type(there) is not type(trained):
            raise ValueError(
                f"env has the {name} {there}, the model was trained with {trained}: pass the task it was trained on"
            )
    before = None if normalizer is None else (normalizer.training, normalizer.norm_reward)
    try:
        if normalizer is not None:
            normalizer.training = normalizer.norm_reward = False
        if not is_ours:
            envs.seed(seed)
        yield envs
    finally:
        if normalizer is not None and before is not None:
            normalizer.training, normalizer.norm_reward = before
        if is_ours:
            envs.close()


class Player(Protocol):
    """What acts in n environments, step after step."""

    def act(self, observations: Any, episode_starts: np.ndarray) -> np.ndarray:
        """
        :param observations: (n, *obs), or a dict of them
        :param episode_starts: (n,)
        :return: actions, (n, *action)
        """


class PolicyPlayer:
    """
    The policy as it is.

    :param opened: the policy
    :param deterministic: the most likely actions
    """

    def __init__(self, opened: OpenedPolicy, deterministic: bool = True):
        self.opened = opened
        self.deterministic = deterministic
        self.state: State | None = None

    def act(self, observations: Any, episode_starts: np.ndarray) -> np.ndarray:
        actions, self.state = self.opened.predict(observations, self.state, episode_starts, self.deterministic)
        return actions


# A hidden quantity: what reads it of n environments and what they told last, (n,); or its name, see :func:`reader`
Quantity = str | Callable[[VecEnv, list[dict[str, Any]]], Any]
_NAME = re.compile(r"(?P<path>\w+(\.\w+)*)(\[(?P<index>-?\d+)\])?")


def reader(quantity: Quantity) -> Callable[[VecEnv, list[dict[str, Any]]], np.ndarray]:
    """
    :param quantity: "state[1]" for an entry of an attribute of the environment, "info.physics.length" for what it tells in
        ``info``, or a function of the ``VecEnv`` and the infos
    :return: reads it, (n,)
    :raises ValueError: if the name is not of this form
    """
    if callable(quantity):
        return lambda envs, infos: np.asarray(quantity(envs, infos))
    match = _NAME.fullmatch(quantity)
    if match is None:
        raise ValueError(f'quantity={quantity!r} must be like "state[1]" or "info.physics.length", or a function')
    first, *rest = match["path"].split(".")
    index = None if match["index"] is None else int(match["index"])

    def read(envs: VecEnv, infos: list[dict[str, Any]]) -> np.ndarray:
        values: list[Any] = list(infos) if first == "info" else envs.get_attr(first)
        for name in rest:
            values = [value[name] if isinstance(value, dict) else getattr(value, name) for value in values]
        return np.asarray(values if index is None else [value[index] for value in values])

    return read


class Step(NamedTuple):
    """Of n environments."""

    observations: Any
    """That were acted on: (n, *obs), or a dict of them"""
    episode_starts: np.ndarray
    """(n,)"""
    quantities: dict[str, np.ndarray]
    """Hidden, when the observation was made: (n,) each"""
    actions: np.ndarray
    """(n, *action)"""
    rewards: np.ndarray
    """(n,)"""
    counted: np.ndarray
    """(n,), of an episode that is one of those asked for"""
    ended: np.ndarray
    """(n,), the episode ends with this step"""


def play(envs: VecEnv, player: Player, n_episodes: int, quantities: Mapping[str, Quantity] | None = None) -> Iterator[Step]:
    """
    Play until so many episodes have ended, as many in each environment as in ``evaluate_policy``: where those that end
    first are counted, short episodes count too often.

    :param envs: reset here
    :param player: acts
    :param n_episodes: to be played
    :param quantities: hidden ones, read at each step, by name; None for none
    :return: steps
    """
    n_envs = envs.num_envs
    readers = {name: reader(quantity) for name, quantity in (quantities or {}).items()}
    left = (n_episodes + np.arange(n_envs)) // n_envs
    observations: Any = envs.reset()
    # Wrappers around all environments have empty ones of their own
    infos: list[dict[str, Any]] = list(envs.unwrapped.reset_infos)
    episode_starts = np.ones(n_envs, dtype=bool)
    while left.any():
        # Environments may write the next observation into the same array
        seen = map_observation(np.copy, observations)
        told = {name: read(envs, infos) for name, read in readers.items()}
        actions = player.act(seen, episode_starts)
        observations, rewards, dones, new_infos = envs.step(actions)
        ended = dones.astype(bool)
        yield Step(seen, episode_starts, told, actions, rewards, left > 0, ended)
        left -= ended & (left > 0)
        # What is told of the first state of the next episode is told by its reset
        infos = [envs.unwrapped.reset_infos[i] if ended[i] else new_infos[i] for i in range(n_envs)]
        episode_starts = ended


def returns_of(envs: VecEnv, player: Player, n_episodes: int) -> np.ndarray:
    """
    :return: returns of the episodes, (n_episodes,), in the order of environments, then of time
    """
    sums = np.zeros(envs.num_envs)
    found: list[list[float]] = [[] for _ in range(envs.num_envs)]
    for step in play(envs, player, n_episodes):
        sums += step.rewards
        for i in np.flatnonzero(step.ended):
            if step.counted[i]:
                found[i].append(float(sums[i]))
            sums[i] = 0.0
    return np.array([value for of_env in found for value in of_env])


class Episode(NamedTuple):
    """T steps of one environment."""

    observations: Any
    """As the policy saw them: (T, *obs), or a dict of them"""
    actions: np.ndarray
    """(T, *action)"""
    rewards: np.ndarray
    """(T,)"""
    memories: np.ndarray
    """After each observation was seen, (T, M); without the previous action"""
    quantities: dict[str, np.ndarray]
    """Hidden ones at each step: (T,) each"""


def record(
    opened: OpenedPolicy,
    envs: VecEnv,
    n_episodes: int,
    quantities: Mapping[str, Quantity] | None = None,
    deterministic: bool = True,
) -> list[Episode]:
    """
    :param opened: the policy, which acts
    :param envs: to play in
    :param n_episodes: to be played
    :param quantities: read at each step, None for none
    :param deterministic: the most likely actions
    :return: episodes, in the order of environments, then of time
    """
    player = PolicyPlayer(opened, deterministic)
    rows: list[list[tuple[Any, ...]]] = [[] for _ in range(envs.num_envs)]
    episodes: list[list[Episode]] = [[] for _ in range(envs.num_envs)]
    for step in play(envs, player, n_episodes, quantities):
        assert player.state is not None
        memories = opened.memory(player.state)
        for i in np.flatnonzero(step.counted):
            of_env = map_observation(lambda array, i=i: array[i], step.observations)
            told = {name: values[i] for name, values in step.quantities.items()}
            rows[i].append((of_env, step.actions[i], step.rewards[i], memories[i], told))
            if step.ended[i]:
                observations, actions, rewards, remembered, quantities_of = zip(*rows[i], strict=True)
                episodes[i].append(
                    Episode(
                        map_observation(lambda *arrays: np.stack(arrays), *observations),
                        np.stack(actions),
                        np.stack(rewards),
                        np.stack(remembered),
                        {name: np.array([each[name] for each in quantities_of]) for name in step.quantities},
                    )
                )
                rows[i] = []
    return [episode for of_env in episodes for episode in of_env]


def side_by_side(episodes: Sequence[Episode]) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """
    Recorded episodes, all at once and step by step; those that are over repeat their last step.

    :param episodes: that were recorded
    :return: of each step the observations (n, *obs), the actions (n, *action), and which episodes are not over, (n,)
    """
    lengths = np.array([len(episode.rewards) for episode in episodes])
    for t in range(lengths.max()):
        at_step = list(zip(episodes, np.minimum(t, lengths - 1), strict=True))
        rows = [map_observation(lambda array, t=t: array[t], episode.observations) for episode, t in at_step]
        actions = np.stack([episode.actions[t] for episode, t in at_step])
        yield map_observation(lambda *arrays: np.stack(arrays), *rows), actions, lengths > t
