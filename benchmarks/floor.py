"""
What an update cannot do without: its recurrent calls and the layers of its heads, forward and backward, in the shapes of the
update, called one by one with nothing in between.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm


class Memories(NamedTuple):
    """
    Unrolls of ``nn.LSTM``.

    :param n: how many
    :param successors: steps beyond the learned ones: 1 where the last observation is asked for
    :param trained: backward too
    """

    n: int
    successors: int
    trained: bool


class Heads(NamedTuple):
    """
    Passes of heads over all learned steps.

    :param n: how many
    :param kind: key of what :func:`_head_sizes` returns
    :param weights: gradients of the weights are wanted
    :param inputs: gradients of the inputs are wanted
    :param successors: as for :class:`Memories`
    """

    n: int
    kind: str
    weights: bool
    inputs: bool
    successors: int = 0


class Floor(NamedTuple):
    """
    The work of some updates.

    :param n_updates: how many
    :param memories: their recurrent calls
    :param heads: their heads
    """

    n_updates: int
    memories: tuple[Memories, ...]
    heads: tuple[Heads, ...]


FLOORS: dict[type[RecurrentOffPolicyAlgorithm], Floor] = {
    # The actor is updated every second time, through one head of the critic
    RecurrentTD3: Floor(
        2,
        (Memories(4, 1, False), Memories(3, 0, True)),
        (
            Heads(2, "actor", False, False),
            Heads(4, "critic", False, False),
            Heads(4, "critic", True, True),
            Heads(1, "actor", True, True),
            Heads(1, "critic", False, True),
        ),
    ),
    RecurrentDDPG: Floor(
        1,
        (Memories(2, 1, False), Memories(2, 0, True)),
        (
            Heads(1, "actor", False, False),
            Heads(1, "critic", False, False),
            Heads(1, "critic", True, True),
            Heads(1, "actor", True, True),
            Heads(1, "critic", False, True),
        ),
    ),
    # One pass of the actor for its own loss and for the targets
    RecurrentSAC: Floor(
        1,
        (Memories(1, 1, False), Memories(1, 0, True), Memories(1, 1, True)),
        (
            Heads(2, "critic", False, False),
            Heads(2, "critic", True, True),
            Heads(1, "stochastic actor", True, True, 1),
            Heads(2, "critic", False, True),
        ),
    ),
    # The target values what was done and what comes after it
    R2D2: Floor(
        1,
        (Memories(1, 1, False), Memories(1, 1, True)),
        tuple(Heads(1, kind, trained, trained, 1) for kind in ("value", "advantages") for trained in (False, True)),
    ),
}


def _head_sizes(model: Any) -> dict[str, tuple[int, int]]:
    """Numbers of inputs and outputs."""
    latent = model.policy.value_network.encoder.latent_dim
    if isinstance(model, R2D2):
        return {"value": (latent, 1), "advantages": (latent, get_flattened_obs_dim(model.action_space))}
    actions = get_action_dim(model.action_space)
    return {"critic": (latent + actions, 1), "actor": (latent, actions), "stochastic actor": (latent, 2 * actions)}


def floor(model: Any, length: int, batch: int) -> Callable[[], None]:
    """
    :param model: whose updates are meant
    :param length: steps T of each sequence
    :param batch: sequences B
    :return: does the work of ``FLOORS[type(model)].n_updates`` updates
    """
    device, work = model.device, FLOORS[type(model)]
    core, sizes = model.policy.value_network.encoder.core, _head_sizes(model)
    forward: list[tuple[Any, th.Tensor, list[th.Tensor]]] = []
    backward: list[tuple[Any, th.Tensor, list[th.Tensor]]] = []
    for memories in work.memories:
        inputs = th.randn(length + memories.successors, batch, core.input_size, device=device)
        for _ in range(memories.n):
            lstm = nn.LSTM(core.input_size, core.output_size, device=device)
            call = _first(lstm)
            (backward if memories.trained else forward).append((call, inputs, list(lstm.parameters())))
    for heads in work.heads:
        for _ in range(heads.n):
            n_inputs, n_outputs = sizes[heads.kind]
            inputs = th.randn((length + heads.successors) * batch, n_inputs, device=device, requires_grad=heads.inputs)
            head = nn.Sequential(*create_mlp(n_inputs, n_outputs, model.policy.net_arch, nn.ReLU)).to(device)
            wanted = [*head.parameters()] * heads.weights + [inputs] * heads.inputs
            (backward if wanted else forward).append((head, inputs, wanted))
    gradients = [th.randn_like(call(inputs)) for call, inputs, _ in backward]

    def updates() -> None:
        with th.no_grad():
            for call, inputs, _ in forward:
                call(inputs)
        for (call, inputs, wanted), gradient in zip(backward, gradients, strict=True):
            th.autograd.grad(call(inputs), wanted, gradient)

    return updates


def _first(lstm: nn.LSTM) -> Callable[[th.Tensor], th.Tensor]:
    return lambda inputs: lstm(inputs)[0]
