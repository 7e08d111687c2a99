"""What a policy remembers, values and would do along recorded episodes."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from torch.utils._pytree import tree_map

from sb3_recurrent_offpolicy.policies.memories import forget
from sb3_recurrent_offpolicy.preprocessing import encode_actions, map_observation
from sb3_recurrent_offpolicy.type_aliases import RNNStates


class Trace(NamedTuple):
    """Along T steps of n environments."""

    lstm_states: RNNStates
    """Memories before each step, with which the policy meets its observation: tensors (T, n_layers, n_envs, hidden)"""
    next_lstm_states: RNNStates
    """Memories after each step, which know its observation"""
    actions: np.ndarray
    """What the policy would do, deterministically, as the environment takes it: (T, n_envs, *action)"""
    distributions: dict[str, np.ndarray]
    """Parameters of the policy's distribution over actions, by name, (T, n_envs, ...); none if it is deterministic"""
    q_values: np.ndarray
    """Of the actions that were taken, by each head of the critic: (T, n_envs, n_critics); of all actions for R2D2"""


@th.no_grad()
def trace(policy: Any, observations: Any, actions: np.ndarray, episode_starts: np.ndarray) -> Trace:
    """
    :param policy: a :class:`~sb3_recurrent_offpolicy.policies.RecurrentPolicy`, whose ``trace`` this is
    :param observations: as the policy sees them, normalised if it was trained so: (T, n_envs, *obs), or a dict of them
    :param actions: that were taken, as the environment took them: (T, n_envs, *action)
    :param episode_starts: (T, n_envs), the observation is the first of an episode
    :return: memories, actions, distributions and values, time-major
    :raises ValueError: if lengths differ
    """
    policy.set_training_mode(False)
    episode_starts = np.asarray(episode_starts, dtype=bool)
    entries = observations.values() if isinstance(observations, dict) else [observations]
    sizes = {np.shape(array)[:2] for array in (*entries, actions, episode_starts)}
    if len(sizes) != 1 or episode_starts.ndim != 2:
        raise ValueError(
            f"the first two axes of observations, actions and episode_starts are {sorted(sizes)}: all must be (T, n_envs)"
        )
    n_steps, n_envs = episode_starts.shape
    stored_actions = policy.scale_action(np.asarray(actions)).reshape(n_steps, n_envs, -1)
    taken = th.as_tensor(stored_actions, device=policy.device)
    if taken.is_floating_point():
        taken = taken.float()
    (pi, vf), previous_actions = policy.initial_memory(n_envs)
    is_shared = vf is pi
    acting, valuing = policy.acting_network, policy.value_network
    before, after, chosen, values = [], [], [], []
    distributions: list[dict[str, th.Tensor]] = []
    for t in range(n_steps):
        pi, vf, (previous_actions,) = (forget(part, episode_starts[t]) for part in (pi, vf, (previous_actions,)))
        before.append(RNNStates(pi, vf))
        observation, _ = policy.obs_to_tensor(map_observation(lambda array, t=t: array[t], observations))
        latents, pi = acting.encoder.step(*acting.encoder.inputs(observation, previous_actions), pi)
        chosen.append(acting(latents, deterministic=True))
        distributions.append(acting.distribution(latents))
        latents, vf = valuing.encoder.step(*valuing.encoder.inputs(observation, previous_actions), vf)
        values.append(valuing.q_vectors(latents, taken[t]))
        after.append(RNNStates(pi, vf))
        previous_actions = encode_actions(taken[t], policy.action_space)

    def stacked(states: list[RNNStates]) -> RNNStates:
        pi, vf = (
            tree_map(lambda *arrays: th.stack(arrays), *(getattr(each, part) for each in states)) for part in ("pi", "vf")
        )
        return RNNStates(pi, pi if is_shared else vf)

    would = th.stack(chosen).cpu().numpy().reshape(n_steps, n_envs, *policy.action_space.shape)
    return Trace(
        stacked(before),
        stacked(after),
        policy.unscale_action(would),
        {name: th.stack([each[name] for each in distributions]).cpu().numpy() for name in distributions[0]},
        th.stack(values).cpu().numpy(),
    )
