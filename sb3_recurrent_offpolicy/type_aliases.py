"""The shapes that data takes on its way through the package: memory states, sampled sequences, what a policy would do."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch as th
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.type_aliases import PyTorchObs

__all__ = [
    "ActionLogProbs",
    "BurnIn",
    "CoreState",
    "Encoded",
    "Memory",
    "PolicyStep",
    "RNNStates",
    "RecurrentSequenceSamples",
    "Stretch",
]

# State of one recurrent core: any number of tensors (n_layers, batch, hidden); (h, c) for an LSTM, (h,) for a GRU
CoreState = tuple[th.Tensor, ...]


class Stretch(NamedTuple):
    """T consecutive steps of the N environments of a ring, to be added at once."""

    observations: Any
    """o_0 .. o_{T-1}: (T, N, *obs), or a dict of them"""
    next_observations: Any
    """What followed the last step, the last observation of an episode that ended there: (N, *obs)"""
    final_observations: Mapping[tuple[int, int], Any]
    """(t, env): what followed step t of an environment, where the next step begins another episode"""
    actions: np.ndarray
    """(T, N, action_dim), Box actions scaled to [-1, 1]"""
    rewards: np.ndarray
    """(T, N)"""
    terminated: np.ndarray
    """(T, N), the episode ended for good"""
    episode_starts: np.ndarray
    """(T, N), the observation is the first of an episode"""
    lstm_states: RNNStates
    """Memory before the P steps at ``StepRing.state_offsets(T)``: (P, n_layers, N, hidden) each"""


class BurnIn(NamedTuple):
    """
    The K steps before a sequence, replayed without gradient to refresh a stored memory state.

    Only the first ``B'`` rows of a batch have such a prefix; a row that begins with its episode needs none.
    """

    observations: PyTorchObs
    """(K, B', *obs), or a dict of them"""
    previous_actions: th.Tensor
    """(K, B', A)"""


class RecurrentSequenceSamples(NamedTuple):
    """A time-major batch of B sequences of T steps; padding sits at the end of a row and has ``mask`` 0."""

    observations: PyTorchObs
    """o_0 .. o_T: (T+1, B, *obs), or a dict of them. o_{t+1} is the true successor of step t, terminal ones included"""
    previous_actions: th.Tensor
    """a_{-1} .. a_{T-1}, encoded as network input: (T+1, B, A); zeros at the first step of an episode"""
    actions: th.Tensor
    """a_0 .. a_{T-1} as stored: (T, B, action_dim)"""
    rewards: th.Tensor
    """(T, B)"""
    terminated: th.Tensor
    """(T, B), 1 where the episode ended for good: no bootstrap. A time limit does not count"""
    mask: th.Tensor
    """(T, B), 1 where there is a step to learn from"""
    initial_states: RNNStates
    """Memory at the first step of each row (of its burn-in prefix where it has one): (n_layers, B, hidden) each"""
    burn_in: BurnIn | None
    """Prefix of the first B' rows, None if no row has one"""
    weights: th.Tensor
    """(B,) importance weights, ones for uniform replay"""
    rings: np.ndarray
    """(B,) ring of the replay buffer that each sequence comes from"""
    indices: np.ndarray
    """(B,) identity within the ring: time of the first learned step * n_envs + environment"""


class Memory(NamedTuple):
    """What is remembered of each environment from one step to the next."""

    lstm_states: RNNStates
    """(n_layers, n_envs, hidden) each"""
    previous_actions: th.Tensor
    """Encoded as network input, (n_envs, A)"""


class PolicyStep(NamedTuple):
    """What a policy makes of one observation of each environment."""

    actions: Any
    """As the replay buffer stores them: (n_envs, action_dim) in [-1, 1] for Box, (n_envs,) for Discrete"""
    state: CoreState
    """Memory that acts, after the step: (n_layers, n_envs, hidden) each"""
    q_values: Any = None
    """Of all actions, (n_envs, n_actions), where the policy acts by them"""
    critic_inputs: th.Tensor | None = None
    """What a memory of the critic's own is to see of the step: (n_envs, inputs)"""


class Encoded(NamedTuple):
    """What a memory made of a batch."""

    latents: th.Tensor
    """Of o_0 .. o_T: (T+1, B, latent_dim); (T, B, latent_dim) where nobody asks for o_T"""
    warm_state: CoreState
    """Memory that burn-in led to, at the first learned step of the rows that have one: (n_layers, B', hidden) each"""
    inputs: th.Tensor
    """Of the memory, at o_0 .. o_T: (T+1, B, F + A)"""
    features: th.Tensor
    """In these inputs: (T+1, B, F)"""


class ActionLogProbs(NamedTuple):
    """
    The N actions that a stochastic policy considers at each step: one sampled (N = 1), or every one of a discrete space.
    """

    actions: th.Tensor | None
    """The sampled action, (T, B, action_dim); None where every action is considered"""
    log_probs: th.Tensor
    """(T, B, N)"""
    probs: th.Tensor | None = None
    """Probabilities, (T, B, N), where every action is considered; None for a sampled one"""

    def steps(self, selected: slice) -> "ActionLogProbs":
        """
        :param selected: part of the time axis
        :return: the same for these steps
        """
        return ActionLogProbs(*(None if array is None else array[selected] for array in self))  # type: ignore[arg-type]

    def expectation(self, values: th.Tensor) -> th.Tensor:
        """
        :param values: (T, B, N)
        :return: their mean under the policy, (T, B): the exact one, or the value of the sampled action, which estimates it
        """
        return values.squeeze(-1) if self.probs is None else (self.probs * values).sum(dim=-1)
