"""Autoencoders with a code of few numbers, each -1, 0 or 1: Koul et al. 2019 (https://arxiv.org/abs/1811.12530)."""

import numpy as np
import torch as th
from torch import nn

# Of the layers beside the code, relative to it; theirs
WIDTH = 8
# Rows that one is fitted to, because more take long; fine-tuning sees all steps
MOST_ROWS = 20_000
# Of an epoch
LEAST_UPDATES = 25


class TernaryTanh(nn.Module):
    """
    1.5 tanh(x) + 0.5 tanh(-3x), which is flat around -1, 0 and 1, rounded to these. Gradients pass as if it were not rounded.
    """

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: (..., B)
        :return: -1, 0 or 1 each, (..., B)
        """
        smooth = 1.5 * th.tanh(inputs) + 0.5 * th.tanh(-3 * inputs)
        return smooth + (smooth.round() - smooth).detach()


class Bottleneck(nn.Module):
    """
    D numbers to a code of B ternary ones, and back.

    Numbers are put in units of their spread: no limits of their own are assumed, those of a hidden state or of an observation.

    :param dim: D
    :param code_size: B; 3^B codes can be told apart
    """

    mean: th.Tensor
    std: th.Tensor

    def __init__(self, dim: int, code_size: int):
        super().__init__()
        wide = WIDTH * code_size
        self.code_size = code_size
        self.register_buffer("mean", th.zeros(dim))
        self.register_buffer("std", th.ones(dim))
        self.encoder = nn.Sequential(nn.Linear(dim, wide), nn.Tanh(), nn.Linear(wide, code_size), TernaryTanh())
        self.decoder = nn.Sequential(nn.Linear(code_size, wide), nn.Tanh(), nn.Linear(wide, dim))

    def set_scale(self, rows: th.Tensor) -> None:
        """
        :param rows: typical ones, (n, D)
        """
        self.mean.copy_(rows.mean(dim=0))
        # What hardly varies stays as it is, rather than being blown up
        self.std.copy_(rows.std(dim=0).clamp(min=1e-2))

    def encode(self, rows: th.Tensor) -> th.Tensor:
        """
        :param rows: (..., D)
        :return: (..., B)
        """
        return self.encoder((rows - self.mean) / self.std)

    def decode(self, codes: th.Tensor) -> th.Tensor:
        """
        :param codes: (..., B)
        :return: (..., D)
        """
        return self.decoder(codes) * self.std + self.mean

    def forward(self, rows: th.Tensor) -> th.Tensor:
        """
        :param rows: (..., D)
        :return: what the code keeps of them, (..., D)
        """
        return self.decode(self.encode(rows))

    def loss(self, rows: th.Tensor) -> th.Tensor:
        """
        :param rows: (n, D)
        :return: mean squared error in units of the spread
        """
        return ((self(rows) - rows) / self.std).square().mean()


def fit(
    bottleneck: Bottleneck,
    rows: th.Tensor,
    held_out: th.Tensor,
    max_epochs: int = 100,
    patience: int = 5,
    learning_rate: float = 1e-3,
    batch_size: int = 256,
    seed: int = 0,
) -> float:
    """
    Adam on the squared error, until held-out rows have not been met better for some epochs; the best weights are kept.

    :param bottleneck: fitted in place
    :param rows: (n, D)
    :param held_out: of other episodes, (m, D)
    :param max_epochs: at most
    :param patience: epochs without a better one
    :param learning_rate: of Adam
    :param batch_size: rows of an update, at most
    :param seed: of the order of rows
    :return: error on the held-out rows
    """
    rng = np.random.default_rng(seed)
    rows = rows[rng.permutation(len(rows))[:MOST_ROWS]]
    bottleneck.set_scale(rows)
    optimizer = th.optim.Adam(bottleneck.parameters(), lr=learning_rate)
    best, best_weights, waited = np.inf, None, 0
    for _ in range(max_epochs):
        # An epoch of few rows would be over after an update or two, and patience with it
        n_updates = max(len(rows) // batch_size, min(len(rows), LEAST_UPDATES))
        for batch in np.array_split(rng.permutation(len(rows)), n_updates):
            optimizer.zero_grad()
            bottleneck.loss(rows[batch]).backward()
            optimizer.step()
        with th.no_grad():
            error = bottleneck.loss(held_out).item()
        if error < best:
            best, waited = error, 0
            best_weights = {name: tensor.clone() for name, tensor in bottleneck.state_dict().items()}
        elif (waited := waited + 1) > patience:
            break
    if best_weights is not None:
        bottleneck.load_state_dict(best_weights)
    return best
