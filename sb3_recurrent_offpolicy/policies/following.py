"""Networks that follow others: targets to bootstrap from, and the average that ``predict`` acts with."""

import copy
from collections.abc import Sequence

import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class Followers:
    """
    Copies of networks, to be moved towards them.

    :param networks: copied together, so that what they share is shared by the copies too. Features extractors with nothing to
        learn are not copied: all see observations normalised by the same statistics
    """

    def __init__(self, networks: Sequence[nn.Module]):
        self._networks = nn.ModuleList(networks)
        extractors = [module for module in self._networks.modules() if isinstance(module, BaseFeaturesExtractor)]
        shared = {id(each): each for each in extractors if next(each.parameters(), None) is None}
        self.copies = copy.deepcopy(self._networks, shared).requires_grad_(False).eval()
        # Once each, however many networks share them; in the same order for both
        self.followed: list[th.Tensor] = list(self._networks.parameters())
        self.parameters: list[th.Tensor] = list(self.copies.parameters())
        self._has_buffers = set(self.copies.buffers()) != set(self._networks.buffers())

    @th.no_grad()
    def follow(self, rate: float) -> None:
        """
        Move the copies towards the networks (Polyak averaging). Buffers, such as running statistics, are copied.

        :param rate: 0 leaves the copies, 1 copies
        """
        th._foreach_lerp_(self.parameters, self.followed, rate)
        if self._has_buffers:
            th._foreach_copy_(list(self.copies.buffers()), list(self._networks.buffers()))


def averaging_rate(decay: float, n_updates: int) -> float:
    """
    How fast an average follows. At first faster than its decay says, so that it spans the last tenth of the updates and
    forgets how the weights began. TensorFlow's ``ExponentialMovingAverage(num_updates=...)`` has the same rule.

    :param decay: of the average, per update, in the long run
    :param n_updates: made so far
    :return: part of the way that the average moves towards the latest weights
    """
    return max(1.0 - decay, 9.0 / (10.0 + n_updates))
