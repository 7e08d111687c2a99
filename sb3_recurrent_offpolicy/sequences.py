"""Sequences of recorded steps as tensors: what a batch is made of."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch.utils._pytree import tree_map

from sb3_recurrent_offpolicy.preprocessing import encode_actions, map_observation
from sb3_recurrent_offpolicy.storage import StepRing
from sb3_recurrent_offpolicy.type_aliases import BurnIn, RecurrentSequenceSamples
from sb3_recurrent_offpolicy.windows import Pieces, until_first


class SequenceReader:
    """
    Reads pieces of rings as batches of sequences.

    :param buffer: knows the spaces, the device, and how to normalise
    :param sequence_length: steps T per sequence, None for whole episodes
    :param burn_in: steps K before a sequence
    """

    def __init__(self, buffer: BaseBuffer, sequence_length: int | None, burn_in: int):
        self.buffer = buffer
        self.sequence_length = sequence_length
        self.burn_in = burn_in

    def read(self, ring: StepRing, index: int, pieces: Pieces, vec_normalize: VecNormalize | None) -> RecurrentSequenceSamples:
        """
        :param ring: where the steps are
        :param index: of the ring, to tell it from others
        :param pieces: of the ring
        :param vec_normalize: normalises observations and rewards, which are stored raw
        :return: a time-major batch, no longer than its longest row
        """
        if self.burn_in > 0:
            # Rows with a burn-in prefix come first, so that a slice selects them
            pieces = pieces.select(np.argsort(~pieces.burn_in, kind="stable"))
        begins, envs, prefixed, ends, weights = pieces
        n_burn_in = int(prefixed.sum())
        firsts = begins + self.burn_in * prefixed

        ends = np.minimum(firsts + (self.sequence_length or ring.max_episode_length()), ends)
        lengths = until_first(ends, *ring.episode_starts(firsts + 1, ends, envs)) - firsts
        steps = np.arange(lengths.max() + 1)[:, None]
        successor_cells = ring.cells(firsts + np.minimum(steps, lengths), envs)
        # Padding holds what follows in the ring: values of the right kind that the mask takes out
        cells = successor_cells[:-1]

        is_start = ring.steps_into_episode(begins, envs) == 0
        burn_in = None
        if n_burn_in > 0:
            prefix = begins[:n_burn_in] + np.arange(-1, self.burn_in)[:, None]
            prefix_cells = ring.cells(prefix, envs[:n_burn_in])
            burn_in = BurnIn(
                self._observations(ring.read_observations(prefix_cells[1:]), vec_normalize),
                self._previous_actions(ring.read(ring.actions, prefix_cells[:-1]), (is_start | (begins == 0))[:n_burn_in]),
            )
        actions = ring.read(ring.actions, cells)
        action_before = ring.read(ring.actions, ring.cells(firsts - 1, envs))
        observations = ring.observations_with_successor(successor_cells, firsts + lengths, lengths, envs)
        # What was done before the ring's first step is not known
        has_none = (is_start & ~prefixed) | (firsts == 0)
        rewards = self.buffer._normalize_reward(ring.read(ring.rewards, cells), vec_normalize)
        return RecurrentSequenceSamples(
            observations=self._observations(observations, vec_normalize),
            previous_actions=self._previous_actions(np.concatenate([action_before[None], actions]), has_none),
            actions=self._tensor(actions),
            rewards=self._tensor(rewards),
            terminated=self._tensor(ring.read(ring.terminated, cells).astype(np.float32)),
            mask=self._tensor((steps[:-1] < lengths).astype(np.float32)),
            initial_states=ring.unpack(self._tensor(ring.packed_states(begins, envs, is_start))),
            burn_in=burn_in,
            weights=self._tensor(weights),
            rings=index + envs // ring.envs_per_clock,
            indices=firsts * ring.envs_per_clock + envs % ring.envs_per_clock,
        )

    def _tensor(self, array: np.ndarray) -> th.Tensor:
        return self.buffer.to_torch(array, copy=False)

    def _previous_actions(self, actions: np.ndarray, first_has_none: np.ndarray) -> th.Tensor:
        """Encoded actions, each one step before what it is fed with; where there is none, zeros."""
        previous = encode_actions(self._tensor(actions), self.buffer.action_space)
        no_action = self._tensor(first_has_none[:, None])
        return th.cat([previous[:1].masked_fill(no_action, 0.0), previous[1:]])

    def _observations(self, observations: Any, vec_normalize: VecNormalize | None) -> Any:
        return map_observation(self._tensor, self.buffer._normalize_obs(observations, vec_normalize))


def concatenate(batches: list[RecurrentSequenceSamples]) -> RecurrentSequenceSamples:
    """
    :param batches: of several rings
    :return: one batch of all rows, those with burn-in first, no longer than the longest row
    """
    n_burn_in = [0 if batch.burn_in is None else batch.burn_in.previous_actions.shape[1] for batch in batches]
    n_steps = max(len(batch.mask) for batch in batches)

    def longer(tensor: th.Tensor, n: int) -> th.Tensor:
        return th.cat([tensor, tensor[-1:].expand(n - len(tensor), *tensor.shape[1:])])

    def rows(*tensors: Any, axis: int = 1) -> Any:
        parts = [t.narrow(axis, 0, n) for t, n in zip(tensors, n_burn_in, strict=True)]
        parts += [t.narrow(axis, n, t.shape[axis] - n) for t, n in zip(tensors, n_burn_in, strict=True)]
        return th.cat(parts, axis)

    def in_time(name: str, n: int = n_steps) -> Any:
        return map_observation(lambda *tensors: rows(*(longer(t, n) for t in tensors)), *(getattr(b, name) for b in batches))

    def row_numbers(name: str) -> np.ndarray:
        return rows(*(th.as_tensor(getattr(batch, name)) for batch in batches), axis=0).numpy()

    prefixes = [batch.burn_in for batch in batches if batch.burn_in is not None]
    burn_in = None
    if prefixes:
        observations = map_observation(lambda *tensors: th.cat(tensors, 1), *(prefix.observations for prefix in prefixes))
        burn_in = BurnIn(observations, th.cat([prefix.previous_actions for prefix in prefixes], 1))
    # Padding is what is added to a shorter batch: nothing to learn from
    mask = rows(*(th.cat([b.mask, b.mask.new_zeros(n_steps - len(b.mask), b.mask.shape[1])]) for b in batches))
    return RecurrentSequenceSamples(
        observations=in_time("observations", n_steps + 1),
        previous_actions=in_time("previous_actions", n_steps + 1),
        actions=in_time("actions"),
        rewards=in_time("rewards"),
        terminated=in_time("terminated"),
        mask=mask,
        initial_states=tree_map(rows, *(batch.initial_states for batch in batches)),
        burn_in=burn_in,
        weights=rows(*(batch.weights for batch in batches), axis=0),
        rings=row_numbers("rings"),
        indices=row_numbers("indices"),
    )
