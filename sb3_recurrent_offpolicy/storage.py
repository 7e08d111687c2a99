"""
How steps are kept: a ring of them, observations once, memory states now and then.

Time is counted per ring, not per row: step i of every environment is written at time i and lives in row ``i % n_rows``
until time ``i + n_rows``. All arithmetic happens on times, so the ring's seam appears in one place only.
"""

import math
import warnings
from typing import Any

import numpy as np
import psutil
import torch as th

from sb3_recurrent_offpolicy.checks import check_finite
from sb3_recurrent_offpolicy.layout import StepLayout
from sb3_recurrent_offpolicy.preprocessing import map_observation
from sb3_recurrent_offpolicy.type_aliases import RNNStates, Stretch


class StepRing:
    """
    Steps of environments that advance together: add one of each, or a stretch of them, read any that is still there.

    Observations are stored once: the successor of an observation is the next row, and only the last observation of an
    episode is kept beside the ring. Memory states are stored every ``stride`` steps; at an episode start they are zero by
    definition. Boundaries come from ``episode_starts``, never from ``dones``: a reset in mid-episode leaves no ``done``
    behind.

    Arrays are allocated by the first step, so that a saved model loads for evaluation without claiming memory.

    :param layout: what a step is made of
    :param n_rows: steps of each environment to keep
    :param n_envs: number of environments
    :param stores_states: keep memory states, or do without
    :param stride: steps between stored memory states
    """

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    episode_steps: np.ndarray
    states: np.ndarray

    def __init__(self, layout: StepLayout, n_rows: int, n_envs: int, stores_states: bool, stride: int):
        self.layout = layout
        self.n_rows, self.n_envs = n_rows, n_envs
        self.stores_states = stores_states
        self.stride = stride
        # Environments that advance together
        self.envs_per_clock = n_envs
        self.n_added = 0
        self.allocated = False
        # Last observations of episodes that a reset has followed, by time * n_envs + environment
        self.final_observations: dict[int, Any] = {}
        self.longest_episode = 0

    def _arrays(self, state_size: int) -> list[tuple[tuple[int, ...], Any]]:
        # One slot more than fits the ring's steps: the lattice need not begin with the ring
        n_slots = math.ceil(self.n_rows / self.stride) + 1 if self.stores_states else 0
        return self.layout.arrays(self.n_rows, self.n_envs, n_slots, state_size)

    def estimate_nbytes(self, state_size: int) -> int:
        """
        :param state_size: floats per stored memory state of one environment
        :return: bytes of all arrays; final observations of episodes come on top
        """
        return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in self._arrays(state_size))

    def allocate(self, state_shapes: list[list[tuple[int, ...]]], shared_state: bool) -> None:
        """
        Make the arrays.

        :param state_shapes: of the memory states of actor and critic, (n_layers, n_envs, hidden) each
        :param shared_state: whether the two share one memory, which is stored once
        :raises ValueError: if they belong to another number of environments
        """
        self.state_shapes, self.shared_state = state_shapes, shared_state
        if any(shape[1] != self.n_envs for part in state_shapes for shape in part):
            raise ValueError(f"lstm_states have the shapes {state_shapes}, but there are {self.n_envs} environments")
        state_size = sum(layers * hidden for part in self._stored_shapes for layers, _, hidden in part)
        required, available = self.estimate_nbytes(state_size), psutil.virtual_memory().available
        if required > available:
            warnings.warn(
                f"The replay buffer will take {required / 1e9:.1f} GB when full and {available / 1e9:.1f} GB are free: lower "
                f"buffer_size={self.n_rows * self.n_envs}, or raise stride={self.stride} to store fewer memory states"
            )
        self._keep_arrays(self._make_arrays(state_size))
        # Nothing precedes the first step; if it does not begin an episode, it is not the first one
        self.next_episode_steps = np.ones(self.n_envs, dtype=np.int32)
        self.allocated = True

    def _make_arrays(self, state_size: int) -> list[np.ndarray]:
        return [np.zeros(shape, dtype=dtype) for shape, dtype in self._arrays(state_size)]

    def _keep_arrays(self, arrays: list[np.ndarray]) -> None:
        self.actions, self.rewards, self.terminated, self.episode_steps, self.states, *observations = arrays
        entries = dict(zip(self.layout.observations, observations, strict=True))
        self.observations = entries if self.layout.has_dict_observations else entries[None]

    def _allocate_for(self, lstm_states: RNNStates) -> None:
        self.allocate(self._shapes(lstm_states), lstm_states.vf is lstm_states.pi)

    # ------------------------------------------------------------ memory states

    @property
    def _stored_shapes(self) -> list[list[tuple[int, ...]]]:
        return self.state_shapes[:1] if self.shared_state else self.state_shapes

    def _pack(self, lstm_states: RNNStates) -> np.ndarray:
        """(..., n_layers, B, hidden) tensors to one row per column: (..., B, state_size)."""
        arrays = lstm_states.pi if self.shared_state else (*lstm_states.pi, *lstm_states.vf)
        flat = [array.transpose(-3, -2).flatten(start_dim=-2) for array in arrays]
        return th.cat(flat, dim=-1).cpu().numpy() if flat else np.zeros((1, 0), dtype=np.float32)

    def unpack(self, packed: th.Tensor) -> RNNStates:
        """
        :param packed: from :meth:`packed_states`, (B, state_size)
        :return: the same as tensors (n_layers, B, hidden)
        """
        offset, parts = 0, []
        for part in self._stored_shapes:
            arrays = []
            for layers, _, hidden in part:
                array = packed[:, offset : offset + layers * hidden].reshape(-1, layers, hidden)
                arrays.append(array.transpose(0, 1).contiguous())
                offset += layers * hidden
            parts.append(tuple(arrays))
        return RNNStates(parts[0], parts[-1])

    def check_states(self, lstm_states: RNNStates) -> None:
        """
        :param lstm_states: memory states of a policy, one per environment
        :raises ValueError: if they are of other shapes than the stored ones
        """
        shapes, is_shared = self._shapes(lstm_states), lstm_states.vf is lstm_states.pi
        if shapes != self.state_shapes or is_shared != self.shared_state:
            whose = {True: "of a shared memory", False: "of two memories"}
            raise ValueError(
                f"lstm_states {whose[is_shared]} have the shapes {shapes}, this buffer holds states "
                f"{whose[self.shared_state]} with the shapes {self.state_shapes}: it belongs to a policy with another "
                "memory or another number of environments. Load the buffer that was saved with this model."
            )

    @staticmethod
    def _shapes(lstm_states: RNNStates) -> list[list[tuple[int, ...]]]:
        return [[tuple(array.shape[-3:]) for array in part] for part in lstm_states]

    @property
    def wants_states(self) -> bool:
        """Whether the next step has to come with its memory states: they are stored, or tell what will be."""
        return not self.allocated or (self.stores_states and self.n_added % self.stride == 0)

    def state_offsets(self, n_steps: int) -> np.ndarray:
        """
        :param n_steps: length T of a stretch that is to be added
        :return: steps of it whose memory state will be stored, (P,)
        """
        return np.arange(-self.n_added % self.stride, n_steps, self.stride) if self.stores_states else np.arange(0)

    def packed_states(self, begins: np.ndarray, envs: np.ndarray, is_start: np.ndarray) -> np.ndarray:
        """
        Memory as it was when steps were made.

        :param begins: times, divisible by ``stride`` where no episode starts: (B,)
        :param envs: (B,)
        :param is_start: whether an episode starts there, (B,)
        :return: (B, state_size); zeros at the start of an episode, and everywhere if no states are stored
        """
        if not self.stores_states:
            return np.zeros((len(begins), self.states.shape[2]), dtype=np.float32)
        return np.where(is_start[:, None], np.float32(0.0), self.states[self.slot(begins), envs])

    def write_states(self, times: np.ndarray, envs: np.ndarray, lstm_states: RNNStates) -> None:
        """
        Replace stored states. What lies off the lattice, or is overwritten by now, is dropped.

        :param times: (B,)
        :param envs: (B,)
        :param lstm_states: (n_layers, B, hidden) each
        """
        if self.states.shape[2] == 0:
            return
        stored = (times % self.stride == 0) & (times >= self.first_usable())
        self.states[self.slot(times[stored]), envs[stored]] = self._pack(lstm_states)[stored]

    def slot(self, times: Any) -> Any:
        """Where memory states of times divisible by ``stride`` are stored."""
        return (times // self.stride) % len(self.states)

    # ------------------------------------------------------------------- adding

    def add(
        self,
        observations: Any,
        next_observations: Any,
        actions: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        episode_starts: np.ndarray,
        lstm_states: RNNStates | None,
    ) -> None:
        """
        Add one step of every environment; parameters as the fields of :class:`Stretch`, without their time axis. Memory states
        have no effect, and can be None, unless :attr:`wants_states`.

        :raises ValueError: if a number is not finite or the states do not fit; nothing is stored then
        """
        if not rewards.shape == terminated.shape == episode_starts.shape == (self.n_envs,):
            shapes = rewards.shape, terminated.shape, episode_starts.shape
            raise ValueError(f"rewards, dones and episode_starts have the shapes {shapes}, expected ({self.n_envs},) each")
        check_finite(0, rewards=rewards, actions=actions, observations=observations, next_observations=next_observations)
        stored_states = None
        if self.wants_states:
            if lstm_states is None:
                raise ValueError(f"lstm_states=None at step {self.n_added}, whose memory states are stored: pass them")
            if not self.allocated:
                self._allocate_for(lstm_states)
            self.check_states(lstm_states)
            stored_states = lstm_states if self.stores_states else None
        row = self.n_added % self.n_rows
        # What may not fit comes first: until time moves on, the row is nobody's
        map_observation(lambda ring, value: self._write(ring, row, value), self.observations, observations)
        self._write(self.actions, row, actions)
        if stored_states is not None:
            self.states[self.slot(self.n_added)] = self._pack(stored_states)
        oldest = self.n_added - self.n_rows
        if oldest >= 0:
            # Of episodes that ended with the steps that are overwritten
            for env in np.flatnonzero(self.episode_steps[(row + 1) % self.n_rows] == 0).tolist():
                self.final_observations.pop(oldest * self.n_envs + env, None)
        if episode_starts.any():
            self._begin_episodes(np.flatnonzero(episode_starts))

        self.rewards[row] = rewards
        self.terminated[row] = terminated
        self.episode_steps[row] = self.next_episode_steps
        self.next_episode_steps += 1
        self.next_observations = map_observation(np.array, next_observations)
        self.n_added += 1

    def _begin_episodes(self, envs: np.ndarray) -> None:
        if self.n_added > 0:
            # Where an episode ended, the next row holds another one: keep its last observation apart
            for env in envs.tolist():
                self.final_observations[(self.n_added - 1) * self.n_envs + env] = self.next_observation(env)
                self.longest_episode = max(self.longest_episode, int(self.next_episode_steps[env]))
        self.next_episode_steps[envs] = 0

    def extend(self, steps: Stretch) -> None:
        """
        Add many steps of every environment, as :meth:`add` would one after the other.

        :param steps: as many as the ring keeps at most
        :raises ValueError: if a number is not finite, states do not fit, or there are too many steps: then nothing is added
        """
        n_steps = len(steps.rewards)
        offsets = self.state_offsets(n_steps)
        if not 0 < n_steps <= self.n_rows:
            raise ValueError(
                f"{n_steps} steps are more than the {self.n_rows} that are kept, or none: add them in several stretches"
            )
        self.layout.check(steps, self.n_envs, len(offsets) if self.stores_states else None)
        parts = {name: getattr(steps, name) for name in ("rewards", "actions", "observations")}
        check_finite(1, **parts)
        check_finite(0, next_observations=steps.next_observations)
        if not self.allocated:
            self._allocate_for(steps.lstm_states)
        elif len(offsets) > 0:
            self.check_states(steps.lstm_states)
        if len(offsets) > 0:
            self.states[self.slot(self.n_added + offsets)] = self._pack(steps.lstm_states)

        oldest = self.n_added + n_steps - self.n_rows
        for key in [key for key in self.final_observations if key < oldest * self.n_envs]:
            del self.final_observations[key]
        times = np.arange(n_steps)[:, None]
        last_starts = np.maximum.accumulate(np.where(steps.episode_starts, times, -1), axis=0)
        episode_steps = np.where(last_starts >= 0, times - last_starts, self.next_episode_steps + times)
        for t, env in np.argwhere(steps.episode_starts).tolist():
            time = self.n_added + t - 1
            if time >= max(oldest, 0):
                final = steps.final_observations[t - 1, env] if t > 0 else self.next_observation(env)
                self.final_observations[time * self.n_envs + env] = final
            length = episode_steps[t - 1, env] + 1 if t > 0 else self.next_episode_steps[env]
            self.longest_episode = max(self.longest_episode, int(length) if time >= 0 else 0)

        rows = (self.n_added + np.arange(n_steps)) % self.n_rows
        map_observation(lambda ring, value: self._write(ring, rows, value, n_steps), self.observations, steps.observations)
        self._write(self.actions, rows, steps.actions, n_steps)
        self.rewards[rows] = steps.rewards
        self.terminated[rows] = steps.terminated
        self.episode_steps[rows] = episode_steps
        self.next_episode_steps = (episode_steps[-1] + 1).astype(np.int32)
        self.next_observations = map_observation(np.array, steps.next_observations)
        self.n_added += n_steps

    @staticmethod
    def _write(ring: np.ndarray, rows: Any, value: Any, *leading: int) -> None:
        ring[rows] = np.asarray(value).reshape(*leading, *ring.shape[1:])

    # ------------------------------------------------------------------ reading

    def first_usable(self) -> int:
        """
        The first time of which all is known: memory (a lattice point) and previous action (the step before it is there).
        """
        if self.n_added < self.n_rows:
            return 0
        return math.ceil((self.n_added - self.n_rows + 1) / self.stride) * self.stride

    def clocks(self) -> tuple[np.ndarray, np.ndarray]:
        """
        :return: the first usable time, and the time after the newest step, of each ``envs_per_clock`` environments
        """
        return np.array([self.first_usable()]), np.array([self.n_added])

    def rows_in_order(self) -> np.ndarray:
        """Rows of all steps, the oldest first."""
        return np.arange(max(self.n_added - self.n_rows, 0), self.n_added) % self.n_rows

    def max_episode_length(self) -> int:
        """No episode in the ring is longer, the running ones included."""
        return min(max(self.longest_episode, int(self.next_episode_steps.max())), self.n_rows)

    def cells(self, times: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """Where in an array, its first two axes flattened, times and environments are; :meth:`read` wraps around."""
        return (times - self.n_added // self.n_rows * self.n_rows) * self.n_envs + envs

    @staticmethod
    def read(ring: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """What an array holds there, (*cells.shape, *ring.shape[2:])."""
        # ``take`` on one flat axis is faster than indexing two, and wrapping there faster than a remainder
        return ring.reshape(-1, *ring.shape[2:]).take(cells, axis=0, mode="wrap")

    def steps_into_episode(self, times: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """Steps made in the episode before each time, 0 where it starts."""
        return self.read(self.episode_steps, self.cells(times, envs))

    def episode_starts(self, begins: np.ndarray, ends: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Times of the episode starts in ``begins <= time < ends`` and the column of each."""
        # Most sequences hold none, and their last step tells so: the others alone are searched
        lasts = ends - 1
        crossed = np.flatnonzero(lasts - self.steps_into_episode(lasts, envs) >= begins)
        begins, ends, envs = begins[crossed], ends[crossed], envs[crossed]
        times = begins + np.arange((ends - begins).max(initial=0))[:, None]
        offsets, columns = np.nonzero((self.steps_into_episode(times, envs) == 0) & (times < ends))
        return begins[columns] + offsets, crossed[columns]

    def next_observation(self, env: int) -> Any:
        """What followed the newest step of an environment."""
        return map_observation(lambda value: value[env].copy(), self.next_observations)

    def final_observation(self, time: int, env: int) -> Any:
        """What followed a step with which an episode ended, and another one followed."""
        return self.final_observations[time * self.n_envs + env]

    def read_observations(self, cells: np.ndarray) -> Any:
        """Observations there."""
        return map_observation(lambda ring: self.read(ring, cells), self.observations)

    def observations_with_successor(self, cells: np.ndarray, lasts: np.ndarray, lengths: np.ndarray, envs: np.ndarray) -> Any:
        """
        o_0 .. o_T of sequences; padding repeats the last one.

        :param cells: of the observations, (T+1, B), those after the end of a sequence repeating the one that follows it
        :param lasts: time after the last step of each sequence, (B,)
        :param lengths: steps of each sequence, (B,)
        :param envs: (B,)
        :return: (T+1, B, *obs), or a dict of them
        """
        observations = self.read_observations(cells)
        is_newest = lasts == self.clocks()[1][envs // self.envs_per_clock]
        followed_by_start = self.steps_into_episode(lasts, envs) == 0
        columns = np.flatnonzero(is_newest | followed_by_start)
        if len(columns) == 0:
            return observations
        successors = [
            self.next_observation(env) if newest else self.final_observation(last - 1, env)
            for env, newest, last in zip(
                envs[columns].tolist(), is_newest[columns].tolist(), lasts[columns].tolist(), strict=True
            )
        ]
        steps, which = np.nonzero(np.arange(len(cells))[:, None] >= lengths[columns])

        def write(read: np.ndarray, *values: Any) -> None:
            read[steps, columns[which]] = np.stack(values).reshape(-1, *read.shape[2:])[which]

        map_observation(write, observations, *successors)
        return observations
