"""What turns stored observations and actions into network inputs, the same way when acting and when learning."""

from collections.abc import Callable
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs


def map_observation(function: Callable[..., Any], *observations: Any) -> Any:
    """
    Apply a function to an observation, or to every entry of a dict observation.

    :param function: called with one array or tensor of each of ``observations``
    :param observations: arrays or tensors, or dicts of them with the same keys
    :return: what ``function`` returned, in a dict where the observations are dicts
    """
    if isinstance(observations[0], dict):
        return {key: function(*(observation[key] for observation in observations)) for key in observations[0]}
    return function(*observations)


def encode_actions(actions: th.Tensor, action_space: spaces.Space) -> th.Tensor:
    """
    Encode actions as network input: one-hot for discrete spaces, plain floats otherwise.

    :param actions: (..., action_dim), as the replay buffer stores them (Box actions scaled to [-1, 1])
    :param action_space: where they come from
    :return: (..., A), float32
    """
    if isinstance(action_space, spaces.Box):
        return actions.float()
    if isinstance(action_space, spaces.Discrete):
        # In two operators; torch's one_hot looks at every action first
        return (actions == th.arange(int(action_space.n), device=actions.device)).float()
    assert action_space.shape is not None
    flat = preprocess_obs(actions.reshape(-1, *action_space.shape), action_space, normalize_images=False)
    assert isinstance(flat, th.Tensor)
    return flat.reshape(*actions.shape[:-1], -1)
