"""What can be read from the memory."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy, State, flat
from sb3_recurrent_offpolicy.analysis.playing import EnvLike, Episode, Quantity, envs_of, record, side_by_side
from sb3_recurrent_offpolicy.analysis.progress import progress
from sb3_recurrent_offpolicy.analysis.small_networks import MOST_SAMPLES, small_network
from sb3_recurrent_offpolicy.checks import check_installed, check_integers
from sb3_recurrent_offpolicy.policies import RecurrentPolicy

MEMORY, UNTRAINED, OBSERVATION, STACK, SHUFFLED = (
    "memory",
    "untrained memory",
    "current observation",
    "last observations",
    "shuffled target",
)


class Decoded(NamedTuple):
    """What a probe has made of episodes that it was not fitted to."""

    targets: np.ndarray
    """(n,)"""
    predictions: np.ndarray
    """(n,)"""
    steps: np.ndarray
    """(n,), since the episode began"""
    is_class: bool
    """Scores are accuracies, not R2"""

    def score(self, from_step: int = 0) -> float:
        """
        :param from_step: leave out what comes before
        :return: R2, or accuracy; nan where there is nothing to explain
        """
        chosen = self.steps >= from_step
        return _score(self.targets[chosen], self.predictions[chosen], self.is_class)

    def by_step(self, least: int = 10) -> np.ndarray:
        """
        :param least: episodes that a score needs; nan where fewer are still running
        :return: scores over episodes, at each step, (T,)
        """
        found = np.full(int(self.steps.max()) + 1, np.nan)
        for step in range(len(found)):
            at_step = self.steps == step
            if at_step.sum() >= least:
                found[step] = _score(self.targets[at_step], self.predictions[at_step], self.is_class)
        return found


def _score(targets: np.ndarray, predictions: np.ndarray, is_class: bool) -> float:
    if len(targets) == 0:
        return np.nan
    if is_class:
        return float((targets == predictions).mean())
    spread = np.square(targets - targets.mean()).sum()
    return float(1 - np.square(targets - predictions).sum() / spread) if spread > 1e-12 else np.nan


class Probes(NamedTuple):
    """What :func:`probe` has found."""

    decoded: dict[str, dict[str, dict[str, Decoded]]]
    """By quantity, source ("memory" and the controls) and kind of probe ("linear", "mlp")"""

    def best(self, quantity: str, source: str) -> Decoded:
        """
        :param quantity: its name
        :param source: "memory" or a control
        :return: of the probe that reads more of it
        """
        return max(self.decoded[quantity][source].values(), key=lambda found: found.score())

    def __str__(self) -> str:
        rows = [["quantity", "read from", "linear", "mlp", "mlp, from step 10"]]
        for quantity, sources in self.decoded.items():
            for source, kinds in sources.items():
                scores = [kinds["linear"].score(), kinds["mlp"].score(), kinds["mlp"].score(10)]
                rows.append([quantity, source, *(f"{score:.3f}" for score in scores)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


def probe(
    model: Any,
    env: EnvLike,
    quantities: Mapping[str, Quantity],
    n_episodes: int = 200,
    n_stack: int = 4,
    test_share: float = 0.3,
    deterministic: bool = True,
    seed: int = 0,
    show_progress: bool = False,
) -> Probes:
    """
    Decode hidden quantities from the memory, by a linear probe (ridge regression, or logistic regression for classes) and by
    a small network, and say how well at each step since the episode began.

    A score alone means little: a random recurrent network keeps much of what it sees. Four controls tell what the memory adds:
    the current observation, the last few, a target that belongs to another episode (1/n for n classes, R2 of 0 at most, if
    nothing leaks from one episode to the other), and the memory of an untrained policy of the same size that sees the same
    episodes. Episodes are either fitted or scored, never both.

    :param model: with sb3-contrib's recurrent ``predict``; the untrained control is for policies of this package and of
        ``RecurrentPPO``
    :param env: id, function or environment; see :func:`~sb3_recurrent_offpolicy.analysis.playing.envs_of`
    :param quantities: by name: "state[1]" for an attribute of the environment, "info.physics.length" for what it tells in
        ``info``, or a function, see :func:`~sb3_recurrent_offpolicy.analysis.playing.reader`. Integers, bools and strings are
        classes, floats are numbers
    :param n_episodes: to be played. What is the same throughout an episode, as a mass, is seen once in each: some 600 are
        needed to tell what can be read from what was learned by heart
    :param n_stack: observations of the stack
    :param test_share: of the episodes, for scoring
    :param deterministic: the most likely actions
    :param seed: of starts, split and probes
    :param show_progress: show a progress bar
    :return: scores by quantity, source and kind of probe
    :raises ValueError: if a quantity is not a number for each environment, or hardly anything is left to score
    """
    check_installed("analysis", "sklearn")
    check_integers(1, n_stack=n_stack)
    check_integers(4, n_episodes=n_episodes)
    if not quantities:
        raise ValueError('quantities is empty: name what is hidden, e.g. {"velocity": "state[1]"}')
    n_test = round(test_share * n_episodes)
    if not 0 < n_test < n_episodes:
        raise ValueError(f"test_share={test_share} of {n_episodes} episodes leaves none to fit or to score: choose 0.3, say")
    opened = OpenedPolicy(model)
    with progress("probes", show_progress, total=len(quantities) * 5 + 1) as advance:
        advance("episodes")
        with envs_of(opened, env, n_episodes, seed) as envs:
            episodes = record(opened, envs, n_episodes, quantities, deterministic)
        for name, values in episodes[0].quantities.items():
            if values.ndim != 1:
                raise ValueError(f"quantities[{name!r}] has the shape {values.shape[1:]} at a step: pick one of its entries")
        rng = np.random.default_rng(seed)
        order = rng.permutation(n_episodes)
        is_test = np.isin(np.arange(n_episodes), order[:n_test])
        sources = _sources(opened, episodes, n_stack, seed)
        decoded: dict[str, dict[str, dict[str, Decoded]]] = {}
        for name in quantities:
            targets = [episode.quantities[name] for episode in episodes]
            decoded[name] = {}
            for source, inputs in sources.items():
                advance(f"{name}, {source}")
                decoded[name][source] = _fit(inputs, targets, is_test, seed)
            advance(f"{name}, {SHUFFLED}")
            decoded[name][SHUFFLED] = _fit(*_shuffled(sources[MEMORY], targets), is_test, seed)
    return Probes(decoded)


def _sources(opened: OpenedPolicy, episodes: list[Episode], n_stack: int, seed: int) -> dict[str, list[np.ndarray]]:
    """What probes are given, (T, D) of each episode."""
    observed = [flat(episode.observations) for episode in episodes]
    sources = {MEMORY: [episode.memories for episode in episodes]}
    if (fresh := _untrained(opened, seed)) is not None:
        sources[UNTRAINED] = memories_of(fresh, episodes)
    sources[OBSERVATION] = observed
    sources[STACK] = [
        # Zeros before the beginning, as SB3's VecFrameStack has them
        np.concatenate([np.pad(rows, ((lag, 0), (0, 0)))[: len(rows)] for lag in range(n_stack)], axis=1)
        for rows in observed
    ]
    return sources


def _shuffled(inputs: list[np.ndarray], targets: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each episode with the target of the next one, as long as both last."""
    pairs = list(zip(inputs, np.roll(np.arange(len(targets)), 1), strict=True))
    lengths = [min(len(rows), len(targets[other])) for rows, other in pairs]
    return (
        [rows[:length] for (rows, _), length in zip(pairs, lengths, strict=True)],
        [targets[other][:length] for (_, other), length in zip(pairs, lengths, strict=True)],
    )


def _untrained(opened: OpenedPolicy, seed: int) -> OpenedPolicy | None:
    """A policy of the same size with the weights of its beginning."""
    policy = opened.policy
    if not hasattr(policy, "_get_constructor_parameters"):
        return None
    with th.random.fork_rng():
        th.manual_seed(seed)
        fresh = type(policy)(**policy._get_constructor_parameters()).to(policy.device)
    if isinstance(policy, RecurrentPolicy):
        # Statistics of observations are not learned by gradients: both have the same
        trained, untrained = (each.predicting_network.encoder.features_extractor for each in (policy, fresh))
        if next(trained.parameters(), None) is None:
            untrained.load_state_dict(trained.state_dict())
    return OpenedPolicy(fresh)


def memories_of(opened: OpenedPolicy, episodes: Sequence[Episode]) -> list[np.ndarray]:
    """
    :param opened: a policy
    :param episodes: that another one may have played
    :return: what it remembers after each observation, (T, M) of each episode
    """
    state: State | None = None
    steps: list[np.ndarray] = []
    for observations, actions, _ in side_by_side(episodes):
        _, state = opened.predict(observations, state, np.full(len(episodes), not steps))
        state = opened.with_actions(state, actions)
        steps.append(opened.memory(state))
    memories = np.stack(steps, axis=1)
    return [rows[: len(episode.rewards)] for rows, episode in zip(memories, episodes, strict=True)]


def _fit(inputs: list[np.ndarray], targets: list[np.ndarray], is_test: np.ndarray, seed: int) -> dict[str, Decoded]:
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def chosen(rows: list[np.ndarray], test: bool) -> np.ndarray:
        return np.concatenate([row for row, is_of_test in zip(rows, is_test, strict=True) if is_of_test == test])

    is_class = not np.issubdtype(targets[0].dtype, np.floating)
    known, wanted = chosen(inputs, False), chosen(targets, False)
    samples = np.random.default_rng(seed).permutation(len(known))[:MOST_SAMPLES]
    known, wanted = known[samples], wanted[samples]
    steps = np.concatenate([np.arange(len(row)) for row, is_of_test in zip(targets, is_test, strict=True) if is_of_test])
    found = {}
    # Targets in units of their spread, for the network's learning rate
    middle, spread = (0.0, 1.0) if is_class else (wanted.mean(), wanted.std() or 1.0)
    scaled = wanted if is_class else (wanted - middle) / spread
    linear = LogisticRegression(max_iter=1000) if is_class else RidgeCV(np.logspace(-3, 3, 7))
    probes = {"linear": make_pipeline(StandardScaler(), linear), "mlp": small_network(scaled, is_class, seed)}
    for kind, fitted in probes.items():
        if is_class and len(np.unique(wanted)) == 1:
            fitted = DummyClassifier()
        fitted.fit(known, scaled)
        predictions = fitted.predict(chosen(inputs, True))
        if not is_class:
            predictions = predictions * spread + middle
        found[kind] = Decoded(chosen(targets, True), predictions, steps, is_class)
    return found
