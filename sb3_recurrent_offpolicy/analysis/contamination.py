"""How long a single odd observation stays in the memory."""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy, State
from sb3_recurrent_offpolicy.analysis.playing import EnvLike, PolicyPlayer, envs_of, play, record, returns_of
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
    The policy, which sees something odd at one step.

    :param opened: the policy
    :param at: the step
    :param odd: makes it of n environments
    """

    def __init__(self, opened: OpenedPolicy, at: int, odd: "_Odd"):
        self.player = PolicyPlayer(opened)
        self.at = at
        self.odd = odd
        self._age: np.ndarray | None = None

    def act(self, observations: Any, episode_starts: np.ndarray) -> np.ndarray:
        self._age = np.where(episode_starts, 0, 0 if self._age is None else self._age + 1)
        return self.player.act(self.odd.where(self._age == self.at, observations), episode_starts)


class _Odd:
    """
    Observations far off: the mean plus or minus so many standard deviations for floats, drawn from the space for others.

    :param space: of the observations
    :param observations: that were seen, (n, *obs), or a dict of them
    :param size: standard deviations
    :param seed: of signs and draws
    """

    def __init__(self, space: spaces.Space, observations: Any, size: float, seed: int):
        self.space = space
        self.size = size
        self.rng = np.random.default_rng(seed)
        self.mean, self.std = (
            map_observation(lambda array, of=of: of(array, axis=0), observations) for of in (np.mean, np.std)
        )
        space.seed(seed)

    def where(self, odd: np.ndarray, observations: Any) -> Any:
        """
        :param odd: (n,), which ones
        :param observations: (n, *obs), or a dict of them
        :return: the observations, odd ones in these places
        """
        if not odd.any():
            return observations
        if isinstance(self.space, spaces.Dict):
            return {
                key: self._replaced(odd, array, self.space[key], self.mean[key], self.std[key])
                for key, array in observations.items()
            }
        return self._replaced(odd, observations, self.space, self.mean, self.std)

    def _replaced(
        self, odd: np.ndarray, array: np.ndarray, space: spaces.Space, mean: np.ndarray, std: np.ndarray
    ) -> np.ndarray:
        array = array.copy()
        for i in np.flatnonzero(odd):
            if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
                array[i] = mean + self.size * std * self.rng.choice([-1, 1], size=np.shape(mean))
            else:
                array[i] = space.sample()
        return array


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
    seen = map_observation(lambda *arrays: np.concatenate(arrays), *(episode.observations for episode in episodes))

    def odd() -> _Odd:
        return _Odd(opened.observation_space, seen, size, seed)

    with envs_of(opened, env, n_episodes, seed) as envs:
        clean_returns = returns_of(envs, PolicyPlayer(opened), n_episodes)
    with envs_of(opened, env, n_episodes, seed) as envs:
        returns = returns_of(envs, _Disturbed(opened, at, odd()), n_episodes)
    with envs_of(opened, env, n_episodes, seed) as envs:
        clean, disturbed = PolicyPlayer(opened), _Disturbed(opened, at, odd())
        sums, counts = np.zeros(max(lengths)), np.zeros(max(lengths))
        for step in play(envs, clean, n_episodes):
            would = disturbed.act(step.observations, step.episode_starts)
            state: State | None = disturbed.player.state
            assert state is not None and disturbed._age is not None
            disturbed.player.state = opened.with_actions(state, step.actions)
            lags = disturbed._age - at
            after = step.counted & (lags >= 0) & (lags < len(sums))
            np.add.at(sums, lags[after], _differences(opened, step.actions, would)[after])
            np.add.at(counts, lags[after], 1)
    n_lags = int(np.flatnonzero(counts)[-1]) + 1
    return Contamination(at, sums[:n_lags] / np.maximum(counts[:n_lags], 1), clean_returns, returns, is_paired)


def _differences(opened: OpenedPolicy, actions: np.ndarray, others: np.ndarray) -> np.ndarray:
    if opened.is_discrete:
        return (actions != others).astype(float)
    box: Any = opened.action_space
    return (np.abs(actions - others) / (box.high - box.low)).reshape(len(actions), -1).mean(axis=1)
