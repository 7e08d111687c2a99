"""What a batch tells of the health of replay: how stale its stored states are, how much of it is padding."""

from typing import Protocol

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.networks import HistoryEncoder
from sb3_recurrent_offpolicy.preprocessing import map_observation
from sb3_recurrent_offpolicy.type_aliases import RecurrentSequenceSamples


class ValueNetwork(Protocol):
    """A memory and the values behind it."""

    encoder: HistoryEncoder

    def q_vectors(self, latents: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Values at each step, (..., n), of (..., latent_dim) latents and (..., action_dim) actions."""


@th.no_grad()
def state_staleness(
    network: ValueNetwork, samples: RecurrentSequenceSamples, latents: th.Tensor, buffer: RecurrentSequenceReplayBuffer
) -> dict[str, float]:
    """
    How far stored memory states lie from recomputed ones, seen by the values (Kapturowski et al. 2019, R2D2, section 3.2):

    .. math:: \\Delta Q_t = \\frac{\\lVert q(\\hat h_t) - q(h_t) \\rVert_2}{\\max_{j, a} |q(\\hat h_j)_a|}

    with h the memory stored when the step was made and h-hat the one that today's weights reach from the beginning of the
    sequence (of its burn-in where it has one). States are stored on a lattice only: the last learned step is the last on it.

    :param network: the values and their memory
    :param samples: a batch from the buffer
    :param latents: what ``network`` made of it, o_0 .. o_{T-1} or further: (T, B, latent_dim)
    :param buffer: where the stored states are
    :return: mean numerator over mean denominator of the rows that have such a state: at the "first" learned step, if burn-in
        leads to it, and at the "last"
    """
    if buffer.state_init != "stored" or not network.encoder.core.state_shapes:
        return {}
    device = latents.device
    n_rows = samples.mask.shape[1]
    n_envs = np.array([ring.n_envs for ring in buffer.rings])[samples.rings]
    first_times, envs = (th.as_tensor(array, device=device) for array in np.divmod(samples.indices, n_envs))
    q_values = network.q_vectors(latents[: len(samples.actions)], samples.actions)
    largest = (q_values.abs().amax(dim=-1) * samples.mask).amax(dim=0)

    rows = th.arange(n_rows, device=device)
    has_burn_in = rows < (0 if samples.burn_in is None else samples.burn_in.previous_actions.shape[1])
    last_steps = samples.mask.sum(dim=0).long() - 1
    # Down to the lattice
    last_steps = last_steps - (first_times + last_steps) % buffer.stride
    found = {}
    for name, steps, usable in (
        ("first", th.zeros_like(last_steps), has_burn_in & (first_times % buffer.stride == 0)),
        ("last", last_steps, last_steps > 0),
    ):
        if not usable.any():
            continue
        chosen, at = rows[usable], steps[usable]

        def at_step(values: th.Tensor, at: th.Tensor = at, chosen: th.Tensor = chosen) -> th.Tensor:
            return values[at, chosen]

        observations: PyTorchObs = map_observation(at_step, samples.observations)
        inputs = network.encoder.inputs(observations, at_step(samples.previous_actions))
        times = first_times[usable] + at
        in_rings = samples.rings[usable.cpu().numpy()]
        stored = buffer.stored_states(in_rings, times.cpu().numpy(), envs[usable].cpu().numpy()).vf
        stored_latents, _ = network.encoder.step(*inputs, stored)
        difference = network.q_vectors(stored_latents, at_step(samples.actions)) - at_step(q_values)
        # The ratio of the means: a mean of ratios is ruled by the rows whose values are near zero
        found[name] = (difference.norm(dim=-1).mean() / largest[usable].mean().clamp(min=1e-8)).item()
    return found
