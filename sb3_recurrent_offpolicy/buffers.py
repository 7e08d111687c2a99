"""
The replay buffer: add a step, sample sequences.

Time is counted per buffer, not per ring row: step i of every environment is written at time i and lives in row ``i % rows``
until time ``i + rows``. All arithmetic happens on times, so the ring's seam appears in one place only.
"""

import math
import warnings
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import psutil
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch.utils._pytree import tree_map

from sb3_recurrent_offpolicy.preprocessing import encode_actions, map_observation
from sb3_recurrent_offpolicy.priorities import WindowLattice, WindowPriorities
from sb3_recurrent_offpolicy.type_aliases import BurnIn, RecurrentSequenceSamples, RNNStates

# Without a sequence length to derive it from (whole episodes), states are only needed where a ring has cut an episode's
# head off
WHOLE_EPISODE_STRIDE = 16


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


class RecurrentSequenceReplayBuffer(ReplayBuffer):
    """
    Replay buffer of sequences for recurrent off-policy algorithms, for every observation space that SB3 knows.

    It is a ring of steps per environment, observations stored once: the successor of an observation is the next row, and only
    the last observation of an episode is kept beside the ring. Memory states are stored every ``stride`` steps;
    sequences begin there and at every episode start, where the memory is zero by definition.

    Sampling lays windows of ``sequence_length`` steps uniformly on the recorded time and cuts them where an episode begins.
    Each piece becomes a row of the batch, and a piece that begins with its episode is extended to full length. So every
    step of a long episode is trained on about equally often (at most twice as often as any other), first and last ones
    included.

    Nothing crosses an episode start, an environment, or the write head. Boundaries come from ``episode_starts``, never from
    ``dones``: a reset in mid-episode leaves no ``done`` behind.

    Arrays are allocated by the first :meth:`add`, so that a saved model loads for evaluation without claiming memory.

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
        it. Default: about a quarter of ``sequence_length``, so that a step is met in four different positions;
        ``sequence_length`` itself is the coarsest lattice
    :param priority_alpha: draw windows in proportion to their priority to this power (Schaul et al. 2016; 0.9 in R2D2);
        0 draws uniformly. Priorities come from :meth:`update_priorities`
    :param priority_eta: the priority of a window is eta times the largest plus (1 - eta) times the mean absolute
        temporal-difference error of its steps
    :param importance_beta: exponent of the importance weights that undo the bias of priorities, 1 for all of it; 0 gives ones
    :param refresh_states: let :meth:`write_states` replace stored states by those that burn-in has recomputed
    :raises ValueError: for impossible settings, naming parameter, value and remedy
    """

    observations: Any
    terminated: np.ndarray
    episode_steps: np.ndarray
    states: np.ndarray

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
    ):
        if sequence_length is not None and sequence_length < 1:
            raise ValueError(f"sequence_length={sequence_length} must be at least 1, or None for whole episodes")
        if burn_in < 0:
            raise ValueError(f"burn_in={burn_in} must not be negative; 0 means no burn-in")
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
            stride = (
                WHOLE_EPISODE_STRIDE if sequence_length is None else math.gcd(sequence_length, max(sequence_length // 4, 1))
            )
        if stride < 1 or (sequence_length or stride) % stride != 0:
            raise ValueError(
                f"stride={stride} must be a positive divisor of sequence_length={sequence_length}, "
                "or some steps would be trained on more often than others; leave it None for a sensible default"
            )
        if priority_alpha < 0:
            raise ValueError(f"priority_alpha={priority_alpha} must not be negative; 0 means uniform replay")
        for name, value in (("priority_eta", priority_eta), ("importance_beta", importance_beta)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must lie between 0 and 1")
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
        # The arrays of ReplayBuffer are not wanted: they hold every observation twice
        BaseBuffer.__init__(self, max(buffer_size // n_envs, 1), observation_space, action_space, device, n_envs=n_envs)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self.sequence_length = sequence_length
        self.burn_in = burn_in
        self.state_init = state_init
        self.stride = stride
        self.priority_alpha = priority_alpha
        self.priority_eta = priority_eta
        self.importance_beta = importance_beta
        self.refresh_states = refresh_states
        self._lattice = WindowLattice(sequence_length or stride, burn_in, stride)
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next :meth:`add` makes new arrays."""
        super().reset()
        self.n_added = 0
        # Last observations of episodes that a reset has followed, by time * n_envs + environment
        self._final_observations: dict[int, Any] = {}
        self._longest_episode = 0
        self._priorities: WindowPriorities | None = None
        self.allocated = False

    # ---------------------------------------------------------------- storage

    def estimate_nbytes(self, state_size: int = 0) -> int:
        """
        Bytes that the buffer will occupy when full, known before anything is allocated.

        :param state_size: floats per stored memory state of one environment, ``model.policy.state_size``
        :return: bytes; final observations of episodes, one each, come on top
        """
        nbytes = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in self._layout(state_size))
        if self.priority_alpha > 0:
            nbytes += WindowPriorities.estimate_nbytes(self.buffer_size, self.n_envs, self._lattice)
        return nbytes

    def _layout(self, state_size: int) -> list[tuple[tuple[int, ...], Any]]:
        """Shape and dtype of each array: actions, rewards, terminated, episode_steps, states, then the observations."""
        steps = (self.buffer_size, self.n_envs)
        # One slot more than fits the ring's steps: the lattice need not begin with the ring
        slots = math.ceil(self.buffer_size / self.stride) + 1 if self.state_init == "stored" else 0
        return [
            ((*steps, self.action_dim), self._maybe_cast_dtype(self.action_space.dtype)),
            (steps, np.float32),
            (steps, np.bool_),
            (steps, np.int32),
            ((slots, self.n_envs, state_size), np.float32),
            *((((*steps, *shape)), dtype) for shape, dtype in self._observation_entries().values()),
        ]

    def _observation_entries(self) -> dict[str | None, tuple[tuple[int, ...], Any]]:
        if isinstance(self.observation_space, spaces.Dict):
            return {key: (self.obs_shape[key], space.dtype) for key, space in self.observation_space.spaces.items()}  # type: ignore[call-overload]
        return {None: (self.obs_shape, self.observation_space.dtype)}

    def _allocate(self, lstm_states: RNNStates) -> None:
        needed = self.burn_in + (self.sequence_length or self.stride) + 1
        if self.buffer_size < needed:
            raise ValueError(
                f"buffer_size={self.buffer_size * self.n_envs} keeps {self.buffer_size} steps for each of {self.n_envs} "
                f"environment(s), fewer than one sequence with its burn-in and the step before it "
                f"({needed}): raise buffer_size to {needed * self.n_envs} or more, or shorten sequence_length"
            )
        # A memory that actor and critic share is stored once
        self._shared_state = lstm_states.vf is lstm_states.pi
        self._state_shapes = self._shapes(lstm_states)
        state_size = self._pack(lstm_states).shape[1]
        required, available = self.estimate_nbytes(state_size), psutil.virtual_memory().available
        if required > available:
            warnings.warn(
                f"The replay buffer will take {required / 1e9:.1f} GB when full and {available / 1e9:.1f} GB are free: lower "
                f"buffer_size={self.buffer_size * self.n_envs}, or raise stride={self.stride} to store fewer memory states"
            )
        arrays = [np.zeros(shape, dtype=dtype) for shape, dtype in self._layout(state_size)]
        self.actions, self.rewards, self.terminated, self.episode_steps, self.states, *observations = arrays
        entries = dict(zip(self._observation_entries(), observations, strict=True))
        self.observations = entries if isinstance(self.observation_space, spaces.Dict) else entries[None]
        if self.priority_alpha > 0:
            self._priorities = WindowPriorities(
                self.buffer_size, self.n_envs, self._lattice, self.priority_alpha, self.priority_eta
            )
        # Nothing precedes the first step; if it does not begin an episode, it is not the first one
        self._next_episode_steps = np.ones(self.n_envs, dtype=np.int32)
        self.allocated = True

    def _pack(self, lstm_states: RNNStates) -> np.ndarray:
        """(n_layers, B, hidden) tensors to one row per column: (B, state_size)."""
        arrays = lstm_states.pi if self._shared_state else (*lstm_states.pi, *lstm_states.vf)
        flat = [array.transpose(0, 1).flatten(start_dim=1) for array in arrays]
        return th.cat(flat, dim=1).cpu().numpy() if flat else np.zeros((1, 0), dtype=np.float32)

    def _unpack(self, packed: np.ndarray) -> RNNStates:
        """The inverse: (B, state_size) to tensors (n_layers, B, hidden)."""
        tensor, offset, parts = self.to_torch(packed, copy=False), 0, []
        for part in self._state_shapes[:1] if self._shared_state else self._state_shapes:
            arrays = []
            for layers, _, hidden in part:
                array = tensor[:, offset : offset + layers * hidden].reshape(-1, layers, hidden)
                arrays.append(array.transpose(0, 1).contiguous())
                offset += layers * hidden
            parts.append(tuple(arrays))
        return RNNStates(parts[0], parts[-1])

    def _check_states(self, lstm_states: RNNStates) -> None:
        shapes = self._shapes(lstm_states)
        if shapes != self._state_shapes:
            raise ValueError(
                f"lstm_states have the shapes {shapes}, this buffer holds states of shapes {self._state_shapes}: it "
                "belongs to a policy with another memory or another number of environments. Load the buffer that was saved "
                "with this model."
            )

    @staticmethod
    def _shapes(lstm_states: RNNStates) -> list[list[tuple[int, ...]]]:
        return [[tuple(array.shape) for array in part] for part in lstm_states]

    def add(  # type: ignore[override]
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
        episode_starts: np.ndarray,
        lstm_states: RNNStates,
    ) -> None:
        """
        Add one step of every environment.

        :param obs: o_t, (n_envs, *obs) or a dict of them
        :param next_obs: o_{t+1}, the terminal observation where the episode ended
        :param action: a_t, (n_envs, action_dim), Box actions scaled to [-1, 1]
        :param reward: r_t, (n_envs,)
        :param done: (n_envs,), the episode ended, for good or by a time limit
        :param infos: ``TimeLimit.truncated`` tells the two apart
        :param episode_starts: (n_envs,), o_t is the first observation of an episode
        :param lstm_states: memory before the step, that is, what the policy was given together with o_t
        :raises ValueError: if a reward is not finite or the states do not fit; nothing is stored then
        """
        if not math.isfinite(reward.sum()):
            raise ValueError(
                f"reward={reward} of the environment(s) {np.flatnonzero(~np.isfinite(reward)).tolist()} is not finite. "
                "The step was not stored; check the environment (VecCheckNan finds the step that produced it)."
            )
        if not self.allocated:
            self._allocate(lstm_states)
        row = self.n_added % self.buffer_size
        if self.state_init == "stored" and self.n_added % self.stride == 0:
            self._check_states(lstm_states)
            self.states[self._slot(self.n_added)] = self._pack(lstm_states)
        if self.n_added >= self.buffer_size:
            for env in range(self.n_envs):
                self._final_observations.pop((self.n_added - self.buffer_size) * self.n_envs + env, None)
        starting = np.flatnonzero(episode_starts)
        if self.n_added > 0:
            self._begin_episodes(starting)

        map_observation(lambda ring, value: self._write(ring, row, value), self.observations, obs)
        self._write(self.actions, row, action)
        self.rewards[row] = reward
        self.terminated[row] = done
        for env in np.flatnonzero(done).tolist():
            if self.handle_timeout_termination and infos[env].get("TimeLimit.truncated", False):
                self.terminated[row, env] = False
        self._next_episode_steps[starting] = 0
        self.episode_steps[row] = self._next_episode_steps
        self._next_episode_steps += 1
        if self._priorities is not None:
            self._priorities.add(row)
        self._next_observations = map_observation(np.array, next_obs)

        self.n_added += 1
        self.pos = self.n_added % self.buffer_size
        self.full = self.n_added >= self.buffer_size

    def _begin_episodes(self, envs: np.ndarray) -> None:
        """Where an episode ended, the row after its last step will hold another one: keep its last observation apart."""
        for env in envs.tolist():
            self._final_observations[(self.n_added - 1) * self.n_envs + env] = self._next_observation(env)
            self._longest_episode = max(self._longest_episode, int(self._next_episode_steps[env]))

    @staticmethod
    def _write(ring: np.ndarray, row: int, value: Any) -> None:
        ring[row] = np.asarray(value).reshape(ring.shape[1:])

    def _cells(self, times: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """Where in a ring, its first two axes flattened, times and environments are; :meth:`_read` wraps around."""
        return (times - (self.n_added - self.pos)) * self.n_envs + envs

    @staticmethod
    def _read(ring: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """What a ring holds there, (*cells.shape, *ring.shape[2:])."""
        # ``take`` on one flat axis is faster than indexing two, and wrapping there faster than a remainder
        return ring.reshape(-1, *ring.shape[2:]).take(cells, axis=0, mode="wrap")

    def _steps_into_episode(self, times: np.ndarray, envs: np.ndarray) -> np.ndarray:
        return self._read(self.episode_steps, self._cells(times, envs))

    def _slot(self, times: Any) -> Any:
        return (times // self.stride) % len(self.states)

    def _next_observation(self, env: int) -> Any:
        return map_observation(lambda value: value[env].copy(), self._next_observations)

    # --------------------------------------------------------------- sampling

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

    def _first_usable(self) -> int:
        """
        The first time of which all is known: memory (a lattice point) and previous action (the step before it is there).
        """
        if not self.full:
            return 0
        return math.ceil((self.n_added - self.buffer_size + 1) / self.stride) * self.stride

    def _max_episode_length(self) -> int:
        """No episode in the buffer is longer, the running ones included."""
        return min(max(self._longest_episode, int(self._next_episode_steps.max())), self.buffer_size)

    def _draw_episodes(self, batch_size: int) -> _Pieces:
        """The episodes of steps drawn uniformly, from their first step, or from the first that the ring still holds."""
        first = self._first_usable()
        times = np.random.randint(first, self.n_added, size=batch_size)
        envs = np.random.randint(self.n_envs, size=batch_size)
        begins = np.maximum(times - self._steps_into_episode(times, envs), first)
        ones = np.ones(batch_size, dtype=np.float32)
        return _Pieces(begins, envs, np.zeros(batch_size, dtype=bool), np.full(batch_size, self.n_added), ones)

    def _draw_windows(self, batch_size: int, beta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lattice points and environments of windows that touch recorded time, and their importance weights."""
        first, last = self._first_usable(), self.n_added
        if self._priorities is None:
            points = np.random.randint(*self._lattice.touching(first, last), size=batch_size)
            return points, np.random.randint(self.n_envs, size=batch_size), np.ones(batch_size, dtype=np.float32)
        points, envs, relative_probabilities = self._priorities.sample(batch_size, first, last)
        weights = relative_probabilities**-beta
        return points, envs, (weights / weights.max()).astype(np.float32)

    def _draw(self, batch_size: int, beta: float) -> _Pieces:
        """Lay windows on the recorded time, cut them at episode starts, keep ``batch_size`` of the pieces."""
        assert self.sequence_length is not None
        first, last, length, burn_in = self._first_usable(), self.n_added, self.sequence_length, self.burn_in
        points, envs, weights = self._draw_windows(batch_size, beta)
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
        return pieces.select(np.random.permutation(len(pieces.begins))[:batch_size])

    def _episode_starts(self, begins: np.ndarray, ends: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Times of the episode starts in ``begins <= time < ends`` and the column of each."""
        # Most sequences hold none, and their last step tells so: the others alone are searched
        lasts = ends - 1
        crossed = np.flatnonzero(lasts - self._steps_into_episode(lasts, envs) >= begins)
        begins, ends, envs = begins[crossed], ends[crossed], envs[crossed]
        times = begins + np.arange((ends - begins).max(initial=0))[:, None]
        offsets, columns = np.nonzero((self._steps_into_episode(times, envs) == 0) & (times < ends))
        return begins[columns] + offsets, crossed[columns]

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

    def stored_states(self, times: np.ndarray, envs: np.ndarray) -> RNNStates:
        """
        Memory as it was when a step was made.

        :param times: divisible by ``stride``, still in the ring: (N,)
        :param envs: (N,)
        :return: each (n_layers, N, hidden); zeros at the beginning of an episode
        """
        return self._unpack(self._initial_states(times, envs, self._steps_into_episode(times, envs) == 0))

    def priority_statistics(self) -> dict[str, float]:
        """
        :return: mean and largest priority of the windows that can be drawn; empty if replay is uniform
        """
        return {} if self._priorities is None else self._priorities.statistics(self._first_usable(), self.n_added)

    def _initial_states(self, begins: np.ndarray, envs: np.ndarray, is_start: np.ndarray) -> np.ndarray:
        if self.state_init == "zero":
            return np.zeros((len(begins), self.states.shape[2]), dtype=np.float32)
        return np.where(is_start[:, None], np.float32(0.0), self.states[self._slot(begins), envs])

    def _previous_actions(self, actions: np.ndarray, first_is_start: np.ndarray) -> th.Tensor:
        """Encoded actions, each one step before what it is fed with; none precedes the start of an episode."""
        previous = encode_actions(self.to_torch(actions, copy=False), self.action_space)
        no_action = self.to_torch(first_is_start[:, None], copy=False)
        return th.cat([previous[:1].masked_fill(no_action, 0.0), previous[1:]])

    def _read_observations(self, cells: np.ndarray) -> Any:
        return map_observation(lambda ring: self._read(ring, cells), self.observations)

    def _observations_with_successor(self, cells: np.ndarray, lasts: np.ndarray, lengths: np.ndarray, envs: np.ndarray) -> Any:
        """o_0 .. o_T of each row; padding repeats the last one."""
        observations = self._read_observations(cells)
        is_newest = lasts == self.n_added
        followed_by_start = self._steps_into_episode(lasts, envs) == 0
        for column in np.flatnonzero(is_newest | followed_by_start).tolist():
            env, length = int(envs[column]), lengths[column]
            successor = (
                self._next_observation(env)
                if is_newest[column]
                else self._final_observations[int(lasts[column] - 1) * self.n_envs + env]
            )
            map_observation(partial(self._write_successor, length=length, column=column), observations, successor)
        return observations

    @staticmethod
    def _write_successor(observations: np.ndarray, successor: Any, length: int, column: int) -> None:
        observations[length:, column] = np.asarray(successor).reshape(observations.shape[2:])

    def _observations_to_torch(self, observations: Any, vec_normalize: VecNormalize | None) -> Any:
        return map_observation(
            lambda value: self.to_torch(value, copy=False), self._normalize_obs(observations, vec_normalize)
        )
