"""Who is replayed: pieces of the recorded time of several rings, drawn uniformly or by priority."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sb3_recurrent_offpolicy.priorities import WindowPriorities, draw_by_weight
from sb3_recurrent_offpolicy.storage import StepRing
from sb3_recurrent_offpolicy.windows import Pieces, WindowLattice, cut_windows, whole_episodes

# Pieces of several rings, with the index of each
RingPieces = list[tuple[int, Pieces]]
# Of each clock of a ring: the first number to be drawn, and the one after the last
Ranges = tuple[np.ndarray, np.ndarray]


def draw_episodes(generator: np.random.Generator, rings: Mapping[int, StepRing], size: int) -> RingPieces:
    """
    :param generator: of random numbers
    :param rings: with at least one step each, by index
    :param size: number of episodes
    :return: the episodes of steps drawn uniformly
    """

    def times(ring: StepRing) -> Ranges:
        return ring.clocks()

    return [(i, whole_episodes(ring, *drawn)) for i, ring, drawn in _draw(generator, rings, size, times)]


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

    def windows(ring: StepRing) -> Ranges:
        firsts, lasts = ring.clocks()
        lows, highs = lattice.touching(firsts, lasts)
        # Where nothing has been added yet, there is no window either
        return lows, np.where(lasts > firsts, highs, lows)

    return [
        (i, cut_windows(ring, lattice, points, envs, np.ones(len(points), dtype=np.float32), burn_in))
        for i, ring, (points, envs) in _draw(generator, rings, size, windows)
    ]


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
    live: list[Any] = [
        (index, member, *priorities[index + member].live_weights(first, last))
        for index, ring in rings.items()
        for member, (first, last) in enumerate(zip(*map(np.ndarray.tolist, ring.clocks()), strict=True))
        if last > 0
    ]
    positions, points, envs, relative = draw_by_weight(generator, size, [weights for *_, weights in live])
    importance = relative**-beta
    importance = (importance / importance.max()).astype(np.float32)
    indices, members, lows = (np.array([each[part] for each in live])[positions] for part in range(3))
    points = points + lows
    drawn = []
    for index, ring in rings.items():
        own = np.flatnonzero(indices == index)
        if len(own) > 0:
            columns = members[own] * ring.envs_per_clock + envs[own]
            lattice = priorities[index].lattice
            drawn.append((index, cut_windows(ring, lattice, points[own], columns, importance[own], burn_in)))
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


def _draw(
    generator: np.random.Generator,
    rings: Mapping[int, StepRing],
    size: int,
    choices: Callable[[StepRing], Ranges],
) -> Iterator[tuple[int, StepRing, tuple[np.ndarray, np.ndarray]]]:
    """Numbers from the ranges of each clock of each ring, and environments of that clock: every choice is as likely."""
    ranges = {index: choices(ring) for index, ring in rings.items()}
    shares = [size]
    if len(rings) > 1:
        n_choices = np.array([(ranges[i][1] - ranges[i][0]).sum() * ring.envs_per_clock for i, ring in rings.items()])
        shares = generator.multinomial(size, n_choices / n_choices.sum()).tolist()
    for (index, ring), share in zip(rings.items(), shares, strict=True):
        if share == 0:
            continue
        lows, highs = ranges[index]
        if len(lows) == 1:
            numbers = generator.integers(lows[0], highs[0], size=share)
            yield index, ring, (numbers, generator.integers(ring.n_envs, size=share))
            continue
        ends = (highs - lows).cumsum()
        chosen = generator.integers(ends[-1], size=share)
        clocks = ends.searchsorted(chosen, side="right")
        envs = clocks * ring.envs_per_clock + generator.integers(ring.envs_per_clock, size=share)
        yield index, ring, (chosen - ends[clocks] + highs[clocks], envs)
