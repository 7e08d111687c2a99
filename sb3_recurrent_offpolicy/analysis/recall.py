"""Which observations of the past an action depends on."""

from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy
from sb3_recurrent_offpolicy.analysis.playing import EnvLike, Episode, envs_of, record
from sb3_recurrent_offpolicy.checks import check_integers


class RecallDensity(NamedTuple):
    """What :func:`recall_density` has found."""

    episodes: list[np.ndarray]
    """Of each episode: the share of each observation o_0 .. o_T in what is known at T, (T + 1,), with sum 1"""

    def by_lag(self) -> np.ndarray:
        """
        :return: mean share of the observation so many steps ago, over the episodes that are that long: (L,)
        """
        longest = max(map(len, self.episodes))
        sums, counts = np.zeros(longest), np.zeros(longest)
        for shares in self.episodes:
            sums[: len(shares)] += shares[::-1]
            counts[: len(shares)] += 1
        return sums / counts


def recall_density(model: Any, env: EnvLike, at: int | None = None, n_episodes: int = 20, seed: int = 0) -> RecallDensity:
    """
    Gradients of what the policy chooses its action by with respect to all observations so far, by autograd through ``unroll``
    (Wang et al. 2025, POPGym Arcade, https://arxiv.org/abs/2503.01450):

    .. math:: d_t \\propto \\sum_{i, j} \\left| \\frac{\\partial y_{T, i}}{\\partial f_j(o_t)} \\right|

    with y the Q-values, log-probabilities or actions, and f the features in the memory's input: with this package's default
    extractor these are normalised observations, so that no unit counts more than another. Previous actions are held fixed.

    A gradient tells of small changes. A memory that has decided, as that of a cue of one bit, can have almost none:
    :func:`memory_use` tells whether something is remembered.

    :param model: of this package, or sb3-contrib's ``RecurrentPPO``
    :param env: id, function or environment; see :func:`~sb3_recurrent_offpolicy.analysis.playing.envs_of`
    :param at: step T; None for the last one of each episode
    :param n_episodes: to be played
    :param seed: of the starts
    :return: shares
    :raises ValueError: if the policy is of another family, or no episode lasts until ``at``
    """
    check_integers(1, n_episodes=n_episodes)
    opened = OpenedPolicy(model)
    opened.network()
    with envs_of(opened, env, n_episodes, seed) as envs:
        episodes = record(opened, envs, n_episodes)
    if at is not None:
        check_integers(0, at=at)
        longest = max(len(episode.rewards) for episode in episodes)
        if at >= longest:
            raise ValueError(f"at={at} is never reached: the longest of {n_episodes} episodes has {longest} steps")
        episodes = [episode for episode in episodes if len(episode.rewards) > at]
    return RecallDensity([shares_of(opened, episode, at) for episode in episodes])


def shares_of(opened: OpenedPolicy, episode: Episode, at: int | None = None) -> np.ndarray:
    """
    :param opened: the policy
    :param episode: that it has played
    :param at: step T, None for the last one
    :return: share of each observation, (T + 1,)
    """
    network = opened.network()
    with th.no_grad():
        inputs = network_inputs(opened, episode)[: None if at is None else at + 1, None]
    features = inputs[..., : network.n_features].clone().requires_grad_(True)
    joined = th.cat([features, inputs[..., network.n_features :]], dim=-1)
    memory, _ = network.core.unroll(joined, network.core.initial_state(1))
    outputs = network.outputs(memory[-1], joined[-1])[0]
    shares = th.zeros(len(features))
    for index in range(len(outputs)):
        (gradient,) = th.autograd.grad(outputs[index], features, retain_graph=True)
        shares += gradient.abs().sum(dim=(1, 2)).cpu()
    total = shares.sum().item()
    return (shares / total if total > 0 else th.full_like(shares, 1 / len(shares))).numpy()


def network_inputs(opened: OpenedPolicy, episode: Episode) -> th.Tensor:
    """
    :param opened: the policy
    :param episode: that was recorded
    :return: inputs of the memory at each step, (T, I)
    """
    previous = opened.encoded(episode.actions)
    observations, _ = opened.policy.obs_to_tensor(episode.observations)
    # The first step has none before it
    shifted = np.concatenate([np.zeros_like(previous[:1]), previous[:-1]])
    return opened.network().inputs(observations, th.as_tensor(shifted, device=opened.policy.device))
