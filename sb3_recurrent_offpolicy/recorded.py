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
    :raises ValueError: if shapes do not fit the spaces, or a number is not finite or out of bounds
    """
    rewards = np.asarray(rewards, dtype=np.float32)
    if rewards.ndim != 1 or len(rewards) == 0:
        raise ValueError(f"rewards has the shape {rewards.shape}: an episode has at least one, (T,)")
    n_steps = len(rewards)
    actions = _checked("actions", actions, policy.action_space, n_steps)
    observations = _in_one_environment(observations, policy.observation_space, n_steps + 1)
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
        terminated=(np.arange(n_steps) == n_steps - 1)[:, None] & bool(terminated),
        episode_starts=starts,
        lstm_states=RNNStates(pi, pi if states.vf is states.pi else vf),
    )


def _in_one_environment(observations: Any, space: spaces.Space, n: int) -> Any:
    """(n, 1, *obs), images with their channels where the networks expect them."""
    if not isinstance(space, spaces.Dict):
        return _checked("observations", maybe_transpose(np.asarray(observations), space), space, n)[:, None]
    if not isinstance(observations, dict) or set(observations) != set(space.spaces):
        raise ValueError(f"observations must be a dict with the keys {sorted(space.spaces)}")
    return {
        key: _checked(f"observations[{key!r}]", maybe_transpose(np.asarray(observations[key]), entry), entry, n)[:, None]
        for key, entry in space.spaces.items()
    }


def _checked(name: str, values: Any, space: spaces.Space, n: int) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (n, *space.shape):  # type: ignore[misc]
        raise ValueError(f"{name} has the shape {values.shape}, an episode of this length has {(n, *space.shape)}")  # type: ignore[misc]
    if isinstance(space, spaces.Box):
        # Rounding apart
        slack = 1e-5 * np.maximum(np.abs(space.low), np.abs(space.high)).clip(max=1e6)
        fits = np.isfinite(values) & (values >= space.low - slack) & (values <= space.high + slack)
        if not fits.all():
            raise ValueError(f"{name} holds {values[~fits].flat[0]}, which does not lie in {space}")
    elif not all(space.contains(value) for value in values):
        raise ValueError(f"{name} holds values that do not lie in {space}")
    return values
