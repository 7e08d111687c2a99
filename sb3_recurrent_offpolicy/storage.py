"""
The steps that are replayed: a ring of them per environment, observations once, memory states now and then.

Time is counted per ring, not per row: step i of every environment is written at time i and lives in row ``i % rows``
until time ``i + rows``. All arithmetic happens on times, so the ring's seam appears in one place only.
"""

import math
import warnings
from functools import partial
from typing import Any, Literal

import numpy as np
import psutil
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer

from sb3_recurrent_offpolicy.preprocessing import encode_actions, map_observation
from sb3_recurrent_offpolicy.type_aliases import RNNStates


class StepRing(ReplayBuffer):
    """
    Steps of several environments: add one of each, read any that is still there.

    Observations are stored once: the successor of an observation is the next row, and only the last observation of an
    episode is kept beside the ring. Memory states are stored every ``stride`` steps; at an episode start they are zero by
    definition. Boundaries come from ``episode_starts``, never from ``dones``: a reset in mid-episode leaves no ``done``
    behind.

    Arrays are allocated by the first :meth:`add`, so that a saved model loads for evaluation without claiming memory.

    :param buffer_size: number of steps to keep, over all environments
    :param observation_space: Box, Discrete, MultiDiscrete, MultiBinary, image, or a Dict of them
    :param action_space: any space that SB3 supports
    :param device: device of the tensors that are read
    :param n_envs: number of parallel environments
    :param optimize_memory_usage: accepted for compatibility; observations are always stored once
    :param handle_timeout_termination: tell time limits (``info["TimeLimit.truncated"]``) from terminal states, as in SB3
    :param state_init: "stored" keeps memory states, "zero" does without
    :param stride: steps between stored memory states
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
        device: th.device | str,
        n_envs: int,
        optimize_memory_usage: bool,
        handle_timeout_termination: bool,
        state_init: Literal["stored", "zero"],
        stride: int,
    ):
        # The arrays of ReplayBuffer are not wanted: they hold every observation twice
        BaseBuffer.__init__(self, max(buffer_size // n_envs, 1), observation_space, action_space, device, n_envs=n_envs)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self.state_init = state_init
        self.stride = stride
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next :meth:`add` makes new arrays."""
        super().reset()
        self.n_added = 0
        # Last observations of episodes that a reset has followed, by time * n_envs + environment
        self._final_observations: dict[int, Any] = {}
        self._longest_episode = 0
        self.allocated = False

    def estimate_nbytes(self, state_size: int = 0) -> int:
        """
        Bytes that the buffer will occupy when full, known before anything is allocated.

        :param state_size: floats per stored memory state of one environment, ``model.policy.state_size``
        :return: bytes; final observations of episodes, one each, come on top
        """
        return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in self._layout(state_size))

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

    def check_states(self, lstm_states: RNNStates) -> None:
        """
        :param lstm_states: memory states of a policy, one per environment
        :raises ValueError: if they are of other shapes than the stored ones
        """
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
        if not np.isfinite(reward).all():
            raise ValueError(
                f"reward={reward} of the environment(s) {np.flatnonzero(~np.isfinite(reward)).tolist()} is not finite. "
                "The step was not stored; check the environment (VecCheckNan finds the step that produced it)."
            )
        if not self.allocated:
            self._allocate(lstm_states)
        row = self.n_added % self.buffer_size
        if self.state_init == "stored" and self.n_added % self.stride == 0:
            self.check_states(lstm_states)
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

    # ---------------------------------------------------------------- reading

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

    def _episode_starts(self, begins: np.ndarray, ends: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Times of the episode starts in ``begins <= time < ends`` and the column of each."""
        # Most sequences hold none, and their last step tells so: the others alone are searched
        lasts = ends - 1
        crossed = np.flatnonzero(lasts - self._steps_into_episode(lasts, envs) >= begins)
        begins, ends, envs = begins[crossed], ends[crossed], envs[crossed]
        times = begins + np.arange((ends - begins).max(initial=0))[:, None]
        offsets, columns = np.nonzero((self._steps_into_episode(times, envs) == 0) & (times < ends))
        return begins[columns] + offsets, crossed[columns]

    def stored_states(self, times: np.ndarray, envs: np.ndarray) -> RNNStates:
        """
        Memory as it was when a step was made.

        :param times: divisible by ``stride``, still in the ring: (N,)
        :param envs: (N,)
        :return: each (n_layers, N, hidden); zeros at the beginning of an episode
        """
        return self._unpack(self._initial_states(times, envs, self._steps_into_episode(times, envs) == 0))

    def _initial_states(self, begins: np.ndarray, envs: np.ndarray, is_start: np.ndarray) -> np.ndarray:
        if self.state_init == "zero":
            return np.zeros((len(begins), self.states.shape[2]), dtype=np.float32)
        return np.where(is_start[:, None], np.float32(0.0), self.states[self._slot(begins), envs])

    def _slot(self, times: Any) -> Any:
        return (times // self.stride) % len(self.states)

    def _previous_actions(self, actions: np.ndarray, first_is_start: np.ndarray) -> th.Tensor:
        """Encoded actions, each one step before what it is fed with; none precedes the start of an episode."""
        previous = encode_actions(self.to_torch(actions, copy=False), self.action_space)
        no_action = self.to_torch(first_is_start[:, None], copy=False)
        return th.cat([previous[:1].masked_fill(no_action, 0.0), previous[1:]])

    def _next_observation(self, env: int) -> Any:
        return map_observation(lambda value: value[env].copy(), self._next_observations)

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
