"""Who is replayed: pieces of the recorded time of several rings, drawn uniformly or by priority."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from sb3_recurrent_offpolicy.priorities import WindowPriorities, draw_by_weight
from sb3_recurrent_offpolicy.storage import StepRing
from sb3_recurrent_offpolicy.windows import Pieces, WindowLattice, cut_windows, whole_episodes

# Pieces of several rings, with the index of each
RingPieces = list[tuple[int, Pieces]]


def draw_episodes(generator: np.random.Generator, rings: Mapping[int, StepRing], size: int) -> RingPieces:
    """
    :param generator: of random numbers
    :param rings: with at least one step each, by index
    :param size: number of episodes
    :return: the episodes of steps drawn uniformly
    """
    drawn = []
    for index, ring, share in _shares(generator, rings, size, lambda ring: ring.n_added - ring.first_usable()):
        times = generator.integers(ring.first_usable(), ring.n_added, size=share)
        drawn.append((index, whole_episodes(ring, times, generator.integers(ring.n_envs, size=share))))
    return drawn


def draw_uniformly(
    generator: np.random.Generator, rings: Mapping[int, StepRing], size: int, lattice: WindowLattice, burn_in: int
) -> RingPieces:
    """
    :param generator: of random numbers
    :param rings: with at least one step each, by index
    :param size: number of windows
    :param lattice: the windows
    :param burn_in: steps before a piece that does not begin with its episode
    :return: the pieces of windows drawn uniformly
    """
    drawn = []
    for index, ring, share in _shares(
        generator, rings, size, lambda ring: lattice.n_touching(ring.first_usable(), ring.n_added)
    ):
        points = generator.integers(*lattice.touching(ring.first_usable(), ring.n_added), size=share)
        envs, weights = generator.integers(ring.n_envs, size=share), np.ones(share, dtype=np.float32)
        drawn.append((index, cut_windows(ring, lattice, points, envs, weights, burn_in)))
    return drawn


def draw_by_priority(
    generator: np.random.Generator,
    rings: Mapping[int, StepRing],
    size: int,
    priorities: Sequence[WindowPriorities],
    beta: float,
    burn_in: int,
) -> RingPieces:
    """
    :param generator: of random numbers
    :param rings: with at least one step each, by index
    :param size: number of windows
    :param priorities: of the windows of all rings, by index
    :param beta: exponent of the importance weights that undo the bias of priorities
    :param burn_in: steps before a piece that does not begin with its episode
    :return: the pieces of windows drawn in proportion to their weights
    """
    live = {index: priorities[index].live_weights(ring.first_usable(), ring.n_added) for index, ring in rings.items()}
    positions, points, envs, relative = draw_by_weight(generator, size, [weights for _, weights in live.values()])
    importance = relative**-beta
    importance = (importance / importance.max()).astype(np.float32)
    drawn = []
    for position, (index, (low, _)) in enumerate(live.items()):
        own = slice(None) if len(live) == 1 else np.flatnonzero(positions == position)
        if len(points[own]) > 0:
            lattice = priorities[index].lattice
            drawn.append((index, cut_windows(rings[index], lattice, low + points[own], envs[own], importance[own], burn_in)))
    return drawn


def keep(generator: np.random.Generator, drawn: RingPieces, size: int) -> RingPieces:
    """
    A window yields a piece or more: keep as many as asked for, whichever.

    :param generator: of random numbers
    :param drawn: pieces
    :param size: how many to keep
    :return: these
    """
    sizes = [len(pieces.begins) for _, pieces in drawn]
    kept = generator.permutation(sum(sizes))[:size]
    if len(drawn) == 1:
        ((index, pieces),) = drawn
        return [(index, pieces.select(kept))]
    found, first = [], 0
    for (index, pieces), n_pieces in zip(drawn, sizes, strict=True):
        own = kept[(kept >= first) & (kept < first + n_pieces)] - first
        if len(own) > 0:
            found.append((index, pieces.select(own)))
        first += n_pieces
    return found


def _shares(
    generator: np.random.Generator, rings: Mapping[int, StepRing], size: int, n_choices: Callable[[StepRing], int]
) -> Iterator[tuple[int, StepRing, int]]:
    """How many of ``size`` draws fall to each ring, in proportion to what there is to choose of each of its environments."""
    if len(rings) == 1:
        ((index, ring),) = rings.items()
        yield index, ring, size
        return
    choices = np.array([n_choices(ring) * ring.n_envs for ring in rings.values()])
    shares = generator.multinomial(size, choices / choices.sum()).tolist()
    for (index, ring), share in zip(rings.items(), shares, strict=True):
        if share > 0:
            yield index, ring, share
