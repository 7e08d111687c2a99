"""How long a single odd observation stays in the memory."""

import copy
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy
from sb3_recurrent_offpolicy.analysis.playing import EnvLike, Episode, PolicyPlayer, envs_of, record, returns_of, side_by_side
from sb3_recurrent_offpolicy.analysis.statistics import Interval, difference
from sb3_recurrent_offpolicy.checks import check_integers, check_positive
from sb3_recurrent_offpolicy.preprocessing import map_observation


class Contamination(NamedTuple):
    """What :func:`contamination` has found."""

    at: int
    """The step of the odd observation"""
    deviation: np.ndarray
    """Of the action at this step and those after it, from what it would have been, (L,): the part of the range for Box, how
    often it differs for Discrete. The odd observation is all that differs"""
    clean_returns: np.ndarray
    """Of each episode"""
    returns: np.ndarray
    """Of each episode, with the odd observation"""
    is_paired: bool
    """Both from the same starts"""

    @property
    def lost(self) -> Interval:
        """How much of the return it costs."""
        return difference(self.clean_returns, self.returns, self.is_paired)


class _Disturbed:
    """
    The policy, which sees something odd at one step of each episode: floats at the mean plus or minus so many standard
    deviations, whatever else drawn from its space.

    :param opened: the policy
    :param at: the step
    :param episodes: whose observations are usual
    :param size: standard deviations
    :param seed: of signs and draws
    """

    def __init__(self, opened: OpenedPolicy, at: int, episodes: list[Episode], size: float, seed: int):
        self.player = PolicyPlayer(opened)
        self.at = at
        self.size = size
        self.rng = np.random.default_rng(seed)
        self.space = copy.deepcopy(opened.observation_space)
        self.space.seed(seed)
        usual = map_observation(lambda *arrays: np.concatenate(arrays), *(episode.observations for episode in episodes))
        self.mean = map_observation(lambda array: array.mean(axis=0), usual)
        self.std = map_observation(lambda array: array.std(axis=0), usual)
        self._ages = np.zeros(0)

    def act(self, observations: Any, episode_starts: np.ndarray) -> np.ndarray:
        self._ages = np.where(episode_starts, 0, np.resize(self._ages, len(episode_starts)) + 1)
        seen = map_observation(np.copy, observations)
        for i in np.flatnonzero(self._ages == self.at):
            odd = self._odd()
            if isinstance(seen, dict):
                for key, array in seen.items():
                    array[i] = odd[key]
            else:
                seen[i] = odd
        return self.player.act(seen, episode_starts)

    def _odd(self) -> Any:
        if not isinstance(self.space, spaces.Dict):
            return self._odd_of(self.space, self.mean, self.std)
        return {key: self._odd_of(space, self.mean[key], self.std[key]) for key, space in self.space.spaces.items()}

    def _odd_of(self, space: spaces.Space, mean: np.ndarray, std: np.ndarray) -> Any:
        if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
            return mean + self.size * std * self.rng.choice([-1, 1], size=np.shape(mean))
        return space.sample()


def contamination(
    model: Any, env: EnvLike, at: int | None = None, size: float = 5.0, n_episodes: int = 100, seed: int = 0
) -> Contamination:
    """
    Show the policy one odd observation and see what comes of it: Wang et al. 2025 (POPGym Arcade,
    https://arxiv.org/abs/2503.01450) find that it reaches far into the future.

    Deviations of actions are taken along undisturbed episodes: what the policy would do if it had seen the odd observation,
    with all others as they are. Returns are those of episodes in which it then does that.

    :param model: with sb3-contrib's recurrent ``predict``
    :param env: id, function or environment; see :func:`~sb3_recurrent_offpolicy.analysis.playing.envs_of`
    :param at: step of the odd observation; None for the middle of a mean episode
    :param size: of floats, in standard deviations from the mean: 5 is hardly ever seen. Other observations are drawn at random
    :param n_episodes: to be played
    :param seed: of the starts
    :return: deviations and returns
    :raises ValueError: if no episode lasts until ``at``
    """
    check_integers(1, n_episodes=n_episodes)
    check_positive(size=size)
    opened = OpenedPolicy(model)
    with envs_of(opened, env, n_episodes, seed) as envs:
        episodes = record(opened, envs, n_episodes)
        is_paired = envs.num_envs >= n_episodes
    lengths = [len(episode.rewards) for episode in episodes]
    at = int(np.mean(lengths)) // 2 if at is None else at
    check_integers(0, at=at)
    if at >= max(lengths):
        raise ValueError(f"at={at} is never reached: the longest of {n_episodes} episodes has {max(lengths)} steps")
    # The same odd observations twice
    one, other = (_Disturbed(opened, at, episodes, size, seed) for _ in range(2))
    with envs_of(opened, env, n_episodes, seed) as envs:
        returns = returns_of(envs, one, n_episodes)
    clean_returns = np.array([episode.rewards.sum() for episode in episodes])
    return Contamination(at, _deviations(opened, episodes, other)[at:], clean_returns, returns, is_paired)


def _deviations(opened: OpenedPolicy, episodes: list[Episode], disturbed: _Disturbed) -> np.ndarray:
    """Mean difference of the actions along episodes, at each step, (T,)."""
    found: list[float] = []
    for observations, actions, running in side_by_side(episodes):
        would = disturbed.act(observations, np.full(len(episodes), not found))
        assert disturbed.player.state is not None
        disturbed.player.state = opened.with_actions(disturbed.player.state, actions)
        found.append(_differences(opened, actions, would)[running].mean())
    return np.array(found)


def _differences(opened: OpenedPolicy, actions: np.ndarray, others: np.ndarray) -> np.ndarray:
    if opened.is_discrete:
        return (actions != others).astype(float)
    box: Any = opened.action_space
    return (np.abs(actions - others) / (box.high - box.low)).reshape(len(actions), -1).mean(axis=1)
