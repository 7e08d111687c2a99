"""What a learner and its actors tell each other."""

from typing import Any, NamedTuple

import numpy as np

from sb3_recurrent_offpolicy.type_aliases import Stretch

# Parameters of the networks that act, by name of the network and of the parameter
Weights = dict[str, dict[str, np.ndarray]]


class Order(NamedTuple):
    """Make a stretch of steps, knowing this."""

    version: int
    """Updates that the weights have seen, which come beside the order"""
    num_timesteps: int
    """Steps that the fleet has been asked for before"""
    total_timesteps: int
    """Steps of the whole training run"""
    reward_factor: float
    """Of sampled rewards, for initial priorities"""
    obs_rms: Any
    """Statistics of observations of ``VecNormalize``, None without it"""


class Delivery(NamedTuple):
    """T steps of the N environments of an actor."""

    incarnation: str
    """Of the actor: another one after a restart"""
    number: int
    """Stretches that this incarnation has delivered before"""
    version: int
    """That of the weights"""
    steps: Stretch
    """Observations and rewards raw, as the replay buffer stores them"""
    errors: np.ndarray | None
    """
    Absolute temporal-difference errors of consecutive steps, those after the last step of the delivery before and before the
    last of this one: (T or T - 1, N); None where there are no priorities
    """
    dones: np.ndarray
    """(T, N), the episode ended, for good or by a time limit"""
    infos: list[tuple[int, int, dict[str, Any]]]
    """(step, environment, info), those with something in them that is not always there"""
    following: Any
    """Observation that the next step begins with: (N, *obs), or a dict of them, raw"""
    seconds: float
    """That it took to make the steps"""
    seconds_waiting: float
    """That the actor had nothing to do before"""
