"""The replay buffer: which stretches of the recorded time become the sequences of a batch."""

from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize
from torch.utils._pytree import tree_map

from sb3_recurrent_offpolicy.checks import check_integers, check_numbers
from sb3_recurrent_offpolicy.preprocessing import map_observation
from sb3_recurrent_offpolicy.priorities import WindowLattice, WindowPriorities
from sb3_recurrent_offpolicy.storage import StepRing
from sb3_recurrent_offpolicy.type_aliases import BurnIn, RecurrentSequenceSamples, RNNStates

# Without a sequence length to derive it from (whole episodes), states are only needed where a ring has cut an episode's
# head off
WHOLE_EPISODE_STRIDE = 16
# Windows drawn for a batch, at the least. Of one window that yields two pieces a batch of one keeps one: steps near an episode
# start would be trained on less often than others
FEWEST_WINDOWS = 32


def _divisor_up_to_a_quarter(length: int) -> int:
    return max(divisor for divisor in range(1, max(length // 4, 1) + 1) if length % divisor == 0)


class _Pieces(NamedTuple):
    """Sequences to be read: one entry of each array per row of the batch."""

    begins: np.ndarray
    """Time at which the row begins, with its burn-in if it has one"""
    envs: np.ndarray
    burn_in: np.ndarray
    """Whether it has one"""
    ends: np.ndarray
    """Time before which the row ends; an episode start may end it sooner"""
    weights: np.ndarray
    """Importance weights"""

    def select(self, rows: np.ndarray) -> "_Pieces":
        return _Pieces(*(array[rows] for array in self))


def _until_first(ends: np.ndarray, starts: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Ends, in each of the columns moved to the first of its ``starts``."""
    ends = ends.copy()
    np.minimum.at(ends, columns, starts)
    return ends


class RecurrentSequenceReplayBuffer(StepRing):
    """
    Replay buffer of sequences for recurrent off-policy algorithms, for every observation space that SB3 knows.

    Sampling lays windows of ``sequence_length`` steps uniformly on the recorded time and cuts them where an episode begins.
    Each piece becomes a row of the batch, and a piece that begins with its episode is extended to full length. So every
    step of a long episode is trained on about equally often (at most twice as often as any other, but for chance), first and
    last ones included. Sequences begin where memory states are stored, every ``stride`` steps, and at episode starts.

    Nothing crosses an episode start, an environment, or the write head. How steps are kept: :class:`StepRing`.

    :param buffer_size: number of steps to keep, over all environments
    :param observation_space: Box, Discrete, MultiDiscrete, MultiBinary, image, or a Dict of them
    :param action_space: any space that SB3 supports
    :param device: device of the sampled tensors
    :param n_envs: number of parallel environments
    :param optimize_memory_usage: accepted for compatibility; observations are always stored once
    :param handle_timeout_termination: tell time limits (``info["TimeLimit.truncated"]``) from terminal states, as in SB3
    :param sequence_length: steps T per sequence, None for whole episodes
    :param burn_in: steps K replayed before a sequence to refresh its stored state, at most ``sequence_length``. Sequences that
        begin with their episode have none; others begin at step K of their episode at the earliest
    :param state_init: "stored" begins a sequence with the memory that acted there (Kapturowski et al. 2019, R2D2),
        "zero" with zeros
    :param stride: steps between possible sequence starts, a divisor of ``sequence_length``. Memory for states is divided by
        it. Default: the largest divisor up to a quarter of ``sequence_length`` (1 for a prime), so that a step is met in four
        or more different positions; ``sequence_length`` itself is the coarsest lattice
    :param priority_alpha: draw windows in proportion to their priority to this power (Schaul et al. 2016; 0.9 in R2D2);
        0 draws uniformly. Priorities come from :meth:`update_priorities`
    :param priority_eta: the priority of a window is eta times the largest plus (1 - eta) times the mean absolute
        temporal-difference error of its steps
    :param importance_beta: exponent of the importance weights that undo the bias of priorities, 1 for all of it; 0 gives ones
    :param refresh_states: let :meth:`write_states` replace stored states by those that burn-in has recomputed
    :param seed: of the generator that sequences are drawn with; None takes one from the operating system
    :raises ValueError: for impossible settings, naming parameter, value and remedy
    """

    # In which a loaded buffer must agree with the one it replaces
    settings: ClassVar[tuple[str, ...]] = (
        "buffer_size",
        "handle_timeout_termination",
        "sequence_length",
        "burn_in",
        "state_init",
        "stride",
        "priority_alpha",
        "priority_eta",
        "importance_beta",
        "refresh_states",
    )

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        sequence_length: int | None = 32,
        burn_in: int = 0,
        state_init: Literal["stored", "zero"] = "stored",
        stride: int | None = None,
        priority_alpha: float = 0.0,
        priority_eta: float = 0.9,
        importance_beta: float = 0.0,
        refresh_states: bool = False,
        seed: int | None = None,
    ):
        check_integers(1, buffer_size=buffer_size)
        if sequence_length is not None:
            check_integers(1, sequence_length=sequence_length)
        check_integers(0, burn_in=burn_in)
        if burn_in > (sequence_length or 0):
            raise ValueError(
                f"burn_in={burn_in} must not exceed sequence_length={sequence_length}: "
                + (
                    "whole episodes begin with zero memory and need none, use burn_in=0"
                    if sequence_length is None
                    else "raise sequence_length or lower burn_in"
                )
            )
        if state_init not in ("stored", "zero"):
            raise ValueError(f"state_init={state_init!r} must be 'stored' or 'zero'")
        if stride is None:
            stride = WHOLE_EPISODE_STRIDE if sequence_length is None else _divisor_up_to_a_quarter(sequence_length)
        check_integers(1, stride=stride)
        if (sequence_length or stride) % stride != 0:
            raise ValueError(
                f"stride={stride} must be a divisor of sequence_length={sequence_length}, "
                "or some steps would be trained on more often than others; leave it None for a sensible default"
            )
        check_numbers(0, priority_alpha=priority_alpha)
        check_numbers(0, 1, priority_eta=priority_eta, importance_beta=importance_beta)
        if priority_alpha > 0 and sequence_length is None:
            raise ValueError(
                f"priority_alpha={priority_alpha} ranks windows of equal length, sequence_length=None replays whole episodes: "
                "choose a sequence_length, or priority_alpha=0"
            )
        if refresh_states and (state_init != "stored" or burn_in == 0 or burn_in % stride != 0):
            raise ValueError(
                f"refresh_states={refresh_states} writes the states that burn-in leads to back to where states are stored. "
                f"With state_init={state_init!r}, burn_in={burn_in} and stride={stride} it cannot: use state_init='stored' "
                "and a burn_in that is a positive multiple of stride"
            )
        n_rows, needed = buffer_size // n_envs, burn_in + (sequence_length or stride) + 1
        # 1 is what those ask for who only want to predict
        if buffer_size > 1 and n_rows < needed:
            raise ValueError(
                f"buffer_size={buffer_size} keeps {n_rows} steps for each of {n_envs} environment(s), fewer than one sequence "
                f"with its burn-in and the step before it ({needed}): raise buffer_size to {needed * n_envs} or more, or "
                "shorten sequence_length; 1 makes a buffer for a model that only predicts"
            )
        self.sequence_length = sequence_length
        self.burn_in = burn_in
        self.priority_alpha = priority_alpha
        self.priority_eta = priority_eta
        self.importance_beta = importance_beta
        self.refresh_states = refresh_states
        self._lattice = WindowLattice(sequence_length or stride, burn_in, stride)
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            optimize_memory_usage,
            handle_timeout_termination,
            state_init,
            stride,
        )
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        """
        :param seed: of the generator that sequences are drawn with; None takes one from the operating system
        """
        self._generator = np.random.default_rng(seed)

    def reset(self) -> None:
        """Forget everything; the next :meth:`add` makes new arrays."""
        super().reset()
        self._priorities: WindowPriorities | None = None

    def estimate_nbytes(self, state_size: int = 0) -> int:
        """As :meth:`StepRing.estimate_nbytes`, with the priorities."""
        nbytes = super().estimate_nbytes(state_size)
        if self.priority_alpha > 0:
            nbytes += WindowPriorities.estimate_nbytes(self.buffer_size, self.n_envs, self._lattice)
        return nbytes

    def _allocate(self, lstm_states: RNNStates) -> None:
        if self.buffer_size == 1:
            raise ValueError("buffer_size=1 is for a model that only predicts: make or load it with a larger one to learn")
        super()._allocate(lstm_states)
        if self.priority_alpha > 0:
            self._priorities = WindowPriorities(
                self.buffer_size, self.n_envs, self._lattice, self.priority_alpha, self.priority_eta
            )

    def add(self, *args: Any, **kwargs: Any) -> None:
        """As :meth:`StepRing.add`; until its error is known, a new step counts as much as the largest so far."""
        super().add(*args, **kwargs)
        if self._priorities is not None:
            self._priorities.add((self.n_added - 1) % self.buffer_size)

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None, importance_beta: float | None = None
    ) -> RecurrentSequenceSamples:
        """
        Draw sequences, uniformly over recorded time or by priority.

        :param batch_size: number of sequences B
        :param env: normalises observations and rewards, which are stored raw
        :param importance_beta: instead of the buffer's own, because it is annealed
        :return: a time-major batch, no longer than its longest row
        :raises ValueError: if nothing has been added yet
        """
        if self.n_added == 0:
            raise ValueError("The replay buffer is empty: add steps before sampling (raise learning_starts)")
        if self.sequence_length is None:
            pieces = self._draw_episodes(batch_size)
        else:
            pieces = self._draw(batch_size, self.importance_beta if importance_beta is None else importance_beta)
        # Rows with a burn-in prefix come first, so that a slice selects them
        return self._get_sequences(pieces.select(np.argsort(~pieces.burn_in, kind="stable")), env)

    def update_priorities(self, samples: RecurrentSequenceSamples, errors: th.Tensor) -> None:
        """
        Make known what was learned about a batch; without effect if replay is uniform. Only steps with ``mask`` 1 count:
        neither padding nor burn-in has an error.

        :param samples: the batch
        :param errors: absolute temporal-difference errors, (T, B)
        """
        if self._priorities is None:
            return
        begins, envs = np.divmod(samples.indices, self.n_envs)
        times = begins + np.arange(len(errors))[:, None]
        first = self._first_usable()
        # Another thread or machine may have overwritten them meanwhile
        counted = (samples.mask.cpu().numpy() > 0) & (times >= first)
        values = errors.detach().abs().cpu().numpy()
        envs = np.broadcast_to(envs, times.shape)
        self._priorities.record(times[counted], envs[counted], values[counted], first, self.n_added)

    def set_newest_errors(self, errors: np.ndarray) -> None:
        """
        Initial priorities of the steps added last, where acting has computed what is needed; otherwise a new step counts as
        much as the largest error so far.

        :param errors: absolute temporal-difference errors, (n_envs,)
        """
        if self._priorities is not None:
            self._priorities.record_newest(self.n_added - 1, errors)

    def write_states(self, samples: RecurrentSequenceSamples, states: RNNStates) -> None:
        """
        Replace stored states by recomputed ones, which today's weights lead to; without effect if ``refresh_states`` is off.
        States are stored on a lattice: a burn-in that begins with its episode, off the lattice, ends off it too, and what it
        leads to is dropped.

        :param samples: the batch
        :param states: memory at the first learned step of its rows with burn-in: (n_layers, B', hidden) each
        """
        if not self.refresh_states or samples.burn_in is None:
            return
        times, envs = np.divmod(samples.indices[: samples.burn_in.previous_actions.shape[1]], self.n_envs)
        stored = (times % self.stride == 0) & (times >= self._first_usable())
        columns = th.as_tensor(np.flatnonzero(stored))
        self.states[self._slot(times[stored]), envs[stored]] = self._pack(tree_map(lambda array: array[:, columns], states))

    def priority_statistics(self) -> dict[str, float]:
        """
        :return: mean and largest priority of the windows that can be drawn; empty if replay is uniform
        """
        return {} if self._priorities is None else self._priorities.statistics(self._first_usable(), self.n_added)

    def _draw_episodes(self, batch_size: int) -> _Pieces:
        """The episodes of steps drawn uniformly, from their first step, or from the first that the ring still holds."""
        first = self._first_usable()
        times = self._generator.integers(first, self.n_added, size=batch_size)
        envs = self._generator.integers(self.n_envs, size=batch_size)
        begins = np.maximum(times - self._steps_into_episode(times, envs), first)
        ones = np.ones(batch_size, dtype=np.float32)
        return _Pieces(begins, envs, np.zeros(batch_size, dtype=bool), np.full(batch_size, self.n_added), ones)

    def _draw_windows(self, n_windows: int, beta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lattice points and environments of windows that touch recorded time, and their importance weights."""
        first, last = self._first_usable(), self.n_added
        if self._priorities is None:
            points = self._generator.integers(*self._lattice.touching(first, last), size=n_windows)
            return points, self._generator.integers(self.n_envs, size=n_windows), np.ones(n_windows, dtype=np.float32)
        points, envs, relative_probabilities = self._priorities.sample(self._generator, n_windows, first, last)
        weights = relative_probabilities**-beta
        return points, envs, (weights / weights.max()).astype(np.float32)

    def _draw(self, batch_size: int, beta: float) -> _Pieces:
        """Lay windows on the recorded time, cut them at episode starts, keep ``batch_size`` of the pieces."""
        assert self.sequence_length is not None
        first, last, length, burn_in = self._first_usable(), self.n_added, self.sequence_length, self.burn_in
        points, envs, weights = self._draw_windows(max(batch_size, FEWEST_WINDOWS), beta)
        windows = self._lattice.begins(points)
        heads, ends = np.maximum(windows, first), np.minimum(windows + length, last)
        starts, columns = self._episode_starts(heads, ends, envs)

        # What lies before the first episode start continues an episode: it needs a stored state or burn-in
        tail_ends = _until_first(ends, starts, columns)
        known = np.maximum(heads - self._steps_into_episode(heads, envs), first)
        begins = np.maximum(heads - burn_in, known)
        # Too short for its burn-in: learn from the first step that is known
        has_burn_in = (begins + burn_in < tail_ends) & (burn_in > 0)
        tails = np.flatnonzero(tail_ends > heads)

        pieces = _Pieces(
            np.concatenate([begins[tails], starts]),
            np.concatenate([envs[tails], envs[columns]]),
            np.concatenate([has_burn_in[tails], np.zeros(len(starts), dtype=bool)]),
            np.concatenate([tail_ends[tails], np.minimum(starts + length, last)]),
            np.concatenate([weights[tails], weights[columns]]),
        )
        # A window always yields a piece, one with an episode start in it yields more
        return pieces.select(self._generator.permutation(len(pieces.begins))[:batch_size])

    def _get_sequences(self, pieces: _Pieces, vec_normalize: VecNormalize | None) -> RecurrentSequenceSamples:
        begins, envs, prefixed, ends, weights = pieces
        n_burn_in = int(prefixed.sum())
        firsts = begins + self.burn_in * prefixed

        ends = np.minimum(firsts + (self.sequence_length or self._max_episode_length()), ends)
        lengths = _until_first(ends, *self._episode_starts(firsts + 1, ends, envs)) - firsts
        steps = np.arange(lengths.max() + 1)[:, None]
        successor_cells = self._cells(firsts + np.minimum(steps, lengths), envs)
        # Padding holds what follows in the ring: values of the right kind that the mask takes out
        cells = successor_cells[:-1]

        is_start = self._steps_into_episode(begins, envs) == 0
        burn_in = None
        if n_burn_in > 0:
            prefix = begins[:n_burn_in] + np.arange(-1, self.burn_in)[:, None]
            prefix_cells = self._cells(prefix, envs[:n_burn_in])
            burn_in = BurnIn(
                self._observations_to_torch(self._read_observations(prefix_cells[1:]), vec_normalize),
                self._previous_actions(self._read(self.actions, prefix_cells[:-1]), is_start[:n_burn_in]),
            )
        actions = self._read(self.actions, cells)
        action_before = self._read(self.actions, self._cells(firsts - 1, envs))
        return RecurrentSequenceSamples(
            observations=self._observations_to_torch(
                self._observations_with_successor(successor_cells, firsts + lengths, lengths, envs), vec_normalize
            ),
            previous_actions=self._previous_actions(np.concatenate([action_before[None], actions]), is_start & ~prefixed),
            actions=self.to_torch(actions, copy=False),
            rewards=self.to_torch(self._normalize_reward(self._read(self.rewards, cells), vec_normalize), copy=False),
            terminated=self.to_torch(self._read(self.terminated, cells).astype(np.float32), copy=False),
            mask=self.to_torch((steps[:-1] < lengths).astype(np.float32), copy=False),
            initial_states=self._unpack(self._initial_states(begins, envs, is_start)),
            burn_in=burn_in,
            weights=self.to_torch(weights, copy=False),
            indices=firsts * self.n_envs + envs,
        )

    def _observations_to_torch(self, observations: Any, vec_normalize: VecNormalize | None) -> Any:
        return map_observation(
            lambda value: self.to_torch(value, copy=False), self._normalize_obs(observations, vec_normalize)
        )
