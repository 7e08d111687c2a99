"""Recorded episodes, demonstrations say, in the form in which a replay buffer keeps steps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import maybe_transpose

from sb3_recurrent_offpolicy.policies import RecurrentPolicy
from sb3_recurrent_offpolicy.preprocessing import map_observation
from sb3_recurrent_offpolicy.type_aliases import RNNStates, Stretch


def episode_as_stretch(
    policy: RecurrentPolicy,
    observations: Any,
    actions: np.ndarray,
    rewards: np.ndarray,
    terminated: bool,
    state_offsets: np.ndarray,
    normalize: Callable[[Any], Any],
) -> Stretch:
    """
    :param policy: computes the memories
    :param observations: of all T steps and the last one, as an environment gives them: (T+1, *obs), or a dict of them
    :param actions: as an environment takes them, (T, *action)
    :param rewards: (T,)
    :param terminated: the episode ended for good, and not by a time limit
    :param state_offsets: steps whose memory state is wanted, (P,)
    :param normalize: what is done to observations before the policy sees them
    :return: the episode as steps of one environment
    :raises ValueError: if lengths do not fit
    """
    observations = _in_one_environment(observations, policy.observation_space)
    actions, rewards = np.asarray(actions), np.asarray(rewards, dtype=np.float32)
    n_steps = len(rewards)
    n_observations = {len(entry) for entry in (observations.values() if isinstance(observations, dict) else [observations])}
    if n_steps == 0 or len(actions) != n_steps or n_observations != {n_steps + 1}:
        raise ValueError(
            f"rewards={n_steps} steps, actions={len(actions)}, observations={sorted(n_observations)}: an episode has as many "
            "actions as rewards, at least one, and one observation more"
        )
    steps = map_observation(lambda array: array[:-1], observations)
    starts = np.arange(n_steps)[:, None] == 0
    states = policy.trace(normalize(steps), actions[:, None], starts).lstm_states
    offsets = th.as_tensor(state_offsets)
    pi, vf = (tuple(array[offsets] for array in part) for part in states)
    return Stretch(
        observations=steps,
        next_observations=map_observation(lambda array: array[-1], observations),
        final_observations={},
        actions=policy.scale_action(actions).reshape(n_steps, 1, -1),
        rewards=rewards[:, None],
        terminated=(np.arange(n_steps) == n_steps - 1)[:, None] & terminated,
        episode_starts=starts,
        lstm_states=RNNStates(pi, pi if states.vf is states.pi else vf),
    )


def _in_one_environment(observations: Any, space: spaces.Space) -> Any:
    """(T+1, 1, *obs), images with their channels where the networks expect them."""
    if isinstance(space, spaces.Dict):
        return {key: maybe_transpose(np.asarray(observations[key]), entry)[:, None] for key, entry in space.spaces.items()}
    return maybe_transpose(np.asarray(observations), space)[:, None]
