"""Does the policy use its memory, does it need it, and how much of it?"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_recurrent_offpolicy.analysis.imitation import Imitator
from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy
from sb3_recurrent_offpolicy.analysis.playing import EnvLike, Player, PolicyPlayer, envs_of, returns_of
from sb3_recurrent_offpolicy.analysis.progress import progress
from sb3_recurrent_offpolicy.analysis.remembering import Exchanged, Truncated, Zeroed
from sb3_recurrent_offpolicy.analysis.statistics import Interval, difference, interval
from sb3_recurrent_offpolicy.checks import check_installed, check_integers, check_numbers

# Starts that the imitator learns on, far from those that are scored
_IMITATION_SEED = 1_000_003


class MemoryUse(NamedTuple):
    """What :func:`memory_use` has found."""

    returns: dict[str, np.ndarray]
    """Of each episode: with the memory "as it is", "zeroed", "exchanged", of the "imitator without memory", and with the
    "last k steps" only"""
    uses_memory: bool
    """The return falls when the memory is zeroed"""
    needs_memory: bool
    """It falls, too, where a copy of the policy learns to do without"""
    smallest_memory: int | None
    """Steps before the current one that suffice; 0 where no memory is used, None if more than were tried"""
    is_paired: bool
    """All were played from the same starts"""

    def intervals(self) -> dict[str, Interval]:
        """
        :return: means with 95 % intervals over episodes
        """
        return {name: interval(values) for name, values in self.returns.items()}

    def lost(self, name: str) -> Interval:
        """
        :param name: one of ``returns``
        :return: how much is lost against the memory as it is
        """
        return difference(self.returns["as it is"], self.returns[name], self.is_paired)

    def __str__(self) -> str:
        rows = [("memory", "return, 95 % interval")]
        rows += [(name, str(found)) for name, found in self.intervals().items()]
        width = max(len(name) for name, _ in rows)
        verdict = ["uses its memory" if self.uses_memory else "does not use its memory"]
        if self.uses_memory:
            verdict.append("needs memory" if self.needs_memory else "does not need memory: a copy without it does as well")
            steps = "more than were tried" if self.smallest_memory is None else str(self.smallest_memory)
            verdict.append(f"steps of memory that suffice: {steps}")
        return "\n".join([*(f"{name:<{width}}  {found}" for name, found in rows), "; ".join(verdict)])


def memory_use(
    model: Any,
    env: EnvLike,
    n_episodes: int = 100,
    largest_memory: int = 64,
    tolerance: float = 0.05,
    seed: int = 0,
    show_progress: bool = False,
) -> MemoryUse:
    """
    Play with the memory as it is, zeroed at every step, exchanged between environments, cut to the last k steps, and replaced
    by an imitator that sees the current observation only.

    Zeroed memory alone does not tell whether a task needs memory: a policy that has learned with one is used to it, also where
    it could do without (RecurrentTD3 on Pendulum-v1, all observed: -144 as it is, -405 zeroed, and as good as ever with an
    imitator). A policy uses its memory if the return falls when it is zeroed; memory is needed if it falls with the imitator,
    too, by more than ``tolerance`` of that.

    With the last k steps, k is searched for by doubling, then by halving the interval, which assumes that more memory is not
    worse. Actions before these steps would tell of what lies further back; the memory is therefore told the actions that it
    would have chosen itself.

    :param model: with sb3-contrib's recurrent ``predict``
    :param env: id, function or environment; see :func:`~sb3_recurrent_offpolicy.analysis.playing.envs_of`. In a single
        environment memories cannot be exchanged
    :param n_episodes: for each way to remember. 100 keep the interval of a return of 0 or 1 below 0.2
    :param largest_memory: most steps to be tried
    :param tolerance: part of what zeroed memory loses that may be lost where memory is said to suffice
    :param seed: of the starts
    :param show_progress: show a progress bar
    :return: returns and verdicts
    :raises ValueError: if the model has no memory, or spaces differ
    """
    check_installed("analysis", "sklearn")
    check_integers(1, n_episodes=n_episodes, largest_memory=largest_memory)
    check_numbers(0, tolerance=tolerance)
    opened = OpenedPolicy(model)
    returns: dict[str, np.ndarray] = {}
    with progress("memory use", show_progress) as advance:

        def played(name: str, player: Player) -> float:
            with envs_of(opened, env, n_episodes, seed) as envs:
                if isinstance(player, Exchanged) and envs.num_envs == 1:
                    return np.nan
                advance(name)
                returns[name] = returns_of(envs, player, n_episodes)
            return float(returns[name].mean())

        with envs_of(opened, env, n_episodes, seed) as envs:
            is_paired = envs.num_envs >= n_episodes
        full = played("as it is", PolicyPlayer(opened))
        zeroed = played("zeroed", Zeroed(opened))
        played("exchanged", Exchanged(opened))
        advance("imitator")
        imitator = Imitator(opened, seed)
        with envs_of(opened, env, n_episodes, seed + _IMITATION_SEED) as envs:
            imitator.learn(envs, n_episodes)
        played("imitator without memory", imitator)

        found = MemoryUse(returns, False, False, 0, is_paired)
        uses = found.lost("zeroed").low > 0
        by_imitator = found.lost("imitator without memory")
        needs = uses and by_imitator.low > 0 and by_imitator.mean > tolerance * (full - zeroed)
        enough = full - tolerance * (full - zeroed)
        smallest: int | None = 0
        if uses:
            smallest = _smallest(
                lambda k: played(f"last {k} step{'s' * (k > 1)}", Truncated(opened, k)) >= enough, largest_memory
            )
    order = sorted(returns, key=lambda name: int(name.split()[1]) if name.startswith("last") else -1)
    return MemoryUse({name: returns[name] for name in order}, uses, needs, smallest, is_paired)


def _smallest(suffices: Callable[[int], bool], largest: int) -> int | None:
    """
    :param suffices: whether k do
    :param largest: k to be tried
    :return: the smallest k > 0 that does, if all above it do; None if not even the largest does
    """
    too_few, k = 0, 1
    while not suffices(k):
        if k >= largest:
            return None
        too_few, k = k, min(2 * k, largest)
    while k - too_few > 1:
        middle = (too_few + k) // 2
        if suffices(middle):
            k = middle
        else:
            too_few = middle
    return k


class MemoryUseCallback(BaseCallback):
    """
    Log during training what the memory is worth: ``memory/return``, ``memory/return_zeroed`` and
    ``memory/return_exchanged``, as means over episodes that are played deterministically from the same starts each time.

    :param env: id or function; see :func:`~sb3_recurrent_offpolicy.analysis.playing.envs_of`
    :param eval_freq: environment steps between two evaluations
    :param n_episodes: of each
    :param seed: of the starts
    :param verbose: verbosity
    """

    def __init__(self, env: EnvLike, eval_freq: int = 10_000, n_episodes: int = 20, seed: int = 0, verbose: int = 0):
        super().__init__(verbose)
        check_integers(1, eval_freq=eval_freq, n_episodes=n_episodes)
        self.env = env
        self.eval_freq = eval_freq
        self.n_episodes = n_episodes
        self.seed = seed
        self._next = eval_freq

    def _on_step(self) -> bool:
        if self.num_timesteps < self._next:
            return True
        self._next = self.num_timesteps - self.num_timesteps % self.eval_freq + self.eval_freq
        opened = OpenedPolicy(self.model)
        players = {"return": PolicyPlayer, "return_zeroed": Zeroed, "return_exchanged": Exchanged}
        for name, player in players.items():
            with envs_of(opened, self.env, self.n_episodes, self.seed) as envs:
                if player is Exchanged and envs.num_envs == 1:
                    continue
                self.logger.record(f"memory/{name}", float(returns_of(envs, player(opened), self.n_episodes).mean()))
        return True
