"""The replay buffer: rings of steps, and the sequences of a batch that are drawn from them."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch.utils._pytree import tree_map

from sb3_recurrent_offpolicy.blocks import RingBlock
from sb3_recurrent_offpolicy.checks import check_integers, check_lattice, check_priorities, check_room, check_sequences
from sb3_recurrent_offpolicy.drawing import draw_by_priority, draw_episodes, draw_uniformly, keep
from sb3_recurrent_offpolicy.layout import StepLayout
from sb3_recurrent_offpolicy.priorities import WindowPriorities
from sb3_recurrent_offpolicy.sequences import SequenceReader, concatenate
from sb3_recurrent_offpolicy.storage import StepRing
from sb3_recurrent_offpolicy.type_aliases import RecurrentSequenceSamples, RNNStates, Stretch
from sb3_recurrent_offpolicy.windows import WindowLattice, default_stride

# Windows drawn for a batch, at the least. Of one window that yields two pieces a batch of one keeps one: steps near an episode
# start would be trained on less often than others
FEWEST_WINDOWS = 32


class RecurrentSequenceReplayBuffer(ReplayBuffer):
    """
    Replay buffer of sequences for recurrent off-policy algorithms, for every observation space that SB3 knows.

    Sampling lays windows of ``sequence_length`` steps uniformly on the recorded time and cuts them where an episode begins.
    Each piece becomes a row of the batch, and a piece that begins with its episode is extended to full length. So every
    step of a long episode is trained on about equally often (at most twice as often as any other, but for chance), first and
    last ones included. Sequences begin where memory states are stored, every ``stride`` steps, and at episode starts.

    Nothing crosses an episode start, an environment, or the write head. Environments that advance together share a ring of
    steps (:class:`~sb3_recurrent_offpolicy.storage.StepRing`); those of the VecEnv have the first one. Others can be added
    (:meth:`add_ring`), for recorded episodes and for actors that go at their own pace; sequences are drawn from all.

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
        check_sequences(sequence_length, burn_in, state_init)
        stride = default_stride(sequence_length) if stride is None else stride
        check_lattice(sequence_length, burn_in, state_init, stride, refresh_states)
        check_priorities(sequence_length, priority_alpha, priority_eta, importance_beta)
        self.sequence_length = sequence_length
        self.burn_in = burn_in
        self.priority_alpha = priority_alpha
        self.priority_eta = priority_eta
        self.importance_beta = importance_beta
        self.refresh_states = refresh_states
        self._lattice = WindowLattice(sequence_length or stride, burn_in, stride)
        check_room(buffer_size, n_envs, self.fewest_rows)
        # The arrays of ReplayBuffer are not wanted: they hold every observation twice
        BaseBuffer.__init__(self, max(buffer_size // n_envs, 1), observation_space, action_space, device, n_envs=n_envs)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self.state_init = state_init
        self.stride = stride
        self._reader = SequenceReader(self, sequence_length, burn_in)
        self.reset()
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        """
        :param seed: of the generator that sequences are drawn with; None takes one from the operating system
        """
        self.generator = np.random.default_rng(seed)

    def reset(self) -> None:
        """Forget everything, rings that were added too; the next step makes new arrays."""
        super().reset()
        self.rings: list[StepRing] = []
        # What sequences are read from, by index of its first ring: a ring, or a block of several
        self.sources: dict[int, StepRing] = {}
        # Of each ring, if replay is prioritised
        self.priorities: list[WindowPriorities] = []
        self.recorded_ring_index: int | None = None
        self.add_ring(self.n_envs)

    # ------------------------------------------------------------------- adding

    def add_ring(self, n_envs: int = 1, n_rows: int | None = None) -> int:
        """
        Make room for environments that advance by themselves: an actor's, or none at all, for recorded episodes.

        :param n_envs: number of environments
        :param n_rows: steps of each to keep; by default as many as of the first ring's environments
        :return: index of the new ring
        :raises ValueError: if no sequence fits
        """
        check_integers(1, n_envs=n_envs)
        if n_rows is not None:
            check_integers(self.fewest_rows, n_rows=n_rows)
        rows = self.buffer_size if n_rows is None else n_rows
        ring = StepRing(StepLayout(self), rows, n_envs, self.state_init == "stored", self.stride)
        return self._add_source(ring, [ring])

    def add_rings(self, n_rings: int, n_envs: int, n_rows: int) -> list[int]:
        """
        Make room for several actors, whose rings are read together: a batch costs the same whatever their number.

        :param n_rings: number of rings
        :param n_envs: environments of each
        :param n_rows: steps of each environment to keep
        :return: indices of the new rings
        :raises ValueError: if no sequence fits
        """
        check_integers(1, n_rings=n_rings, n_envs=n_envs)
        check_integers(self.fewest_rows, n_rows=n_rows)
        block = RingBlock(StepLayout(self), n_rows, n_envs, n_rings, self.state_init == "stored", self.stride)
        first = self._add_source(block, block.members)
        return list(range(first, first + n_rings))

    def _add_source(self, source: StepRing, rings: Sequence[StepRing]) -> int:
        first = len(self.rings)
        self.sources[first] = source
        self.rings.extend(rings)
        if self.priority_alpha > 0:
            settings = (self._lattice, self.priority_alpha, self.priority_eta)
            self.priorities.extend(WindowPriorities(ring.n_rows, ring.n_envs, *settings) for ring in rings)
        return first

    @property
    def fewest_rows(self) -> int:
        """Steps of each environment that a ring keeps at the least: a sequence, its burn-in, and the step before it."""
        return self.burn_in + self._lattice.length + 1

    def add(  # type: ignore[override]
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
        episode_starts: np.ndarray,
        lstm_states: RNNStates | None,
    ) -> None:
        """
        Add one step of every environment of the first ring.

        :param obs: o_t, (n_envs, *obs) or a dict of them
        :param next_obs: o_{t+1}, the terminal observation where the episode ended
        :param action: a_t, (n_envs, action_dim), Box actions scaled to [-1, 1]
        :param reward: r_t, (n_envs,)
        :param done: (n_envs,), the episode ended, for good or by a time limit
        :param infos: ``TimeLimit.truncated`` tells the two apart
        :param episode_starts: (n_envs,), o_t is the first observation of an episode
        :param lstm_states: memory before the step, that is, what the policy was given together with o_t; None will do unless
            ``rings[0].wants_states``
        :raises ValueError: if a number is not finite or the states do not fit; nothing is stored then
        """
        if self.buffer_size == 1:
            raise ValueError("buffer_size=1 is for a model that only predicts: make or load it with a larger one to learn")
        terminated = np.array(done, dtype=bool)
        if self.handle_timeout_termination:
            for env in np.flatnonzero(terminated).tolist():
                terminated[env] = not infos[env].get("TimeLimit.truncated", False)
        ring = self.rings[0]
        ring.add(obs, next_obs, action, reward, terminated, episode_starts, lstm_states)
        self.follow_first_ring()
        if self.priorities:
            self.priorities[0].add((ring.n_added - 1) % ring.n_rows)

    def follow_first_ring(self) -> None:
        """Bring up to date what SB3 knows of a buffer, after steps have been added to the first ring."""
        ring = self.rings[0]
        self.pos, self.full = ring.n_added % ring.n_rows, ring.n_added >= ring.n_rows

    def extend(self, steps: Stretch, ring: int = 0) -> None:
        """
        Add many steps at once.

        :param steps: of all environments of the ring
        :param ring: index from :meth:`add_ring`
        :raises ValueError: if a number is not finite, the states do not fit, or there are more steps than the ring keeps;
            nothing is stored then
        """
        if ring not in range(len(self.rings)):
            raise ValueError(f"ring={ring} does not exist: add_ring() returns the index of a new one")
        target = self.rings[ring]
        target.extend(steps)
        self.follow_first_ring()
        if self.priorities:
            self.priorities[ring].add(np.arange(target.n_added - len(steps.rewards), target.n_added) % target.n_rows)

    def estimate_nbytes(self, state_size: int = 0) -> int:
        """
        Bytes that the buffer will occupy when full, known before anything is allocated.

        :param state_size: floats per stored memory state of one environment, ``model.policy.state_size``
        :return: bytes; final observations of episodes, one each, come on top
        """
        of_steps = sum(ring.estimate_nbytes(state_size) for ring in self.rings)
        return of_steps + sum(priorities.estimate_nbytes() for priorities in self.priorities)

    @property
    def recorded_ring(self) -> int:
        """
        Index of the ring of recorded episodes, of one environment. It keeps as many steps as the first ring does of each of
        its environments, and what is experienced meanwhile does not overwrite them.
        """
        if self.recorded_ring_index is None:
            self.recorded_ring_index = self.add_ring()
        return self.recorded_ring_index

    # ------------------------------------------------------------------ drawing

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
        filled = {index: ring for index, ring in self.sources.items() if ring.clocks()[1].any()}
        if not filled:
            raise ValueError("The replay buffer is empty: add steps before sampling (raise learning_starts)")
        n_windows = max(batch_size, FEWEST_WINDOWS)
        if self.sequence_length is None:
            drawn = draw_episodes(self.generator, filled, batch_size)
        elif self.priorities:
            beta = self.importance_beta if importance_beta is None else importance_beta
            windows = draw_by_priority(self.generator, filled, n_windows, self.priorities, beta, self.burn_in)
            drawn = keep(self.generator, windows, batch_size)
        else:
            windows = draw_uniformly(self.generator, filled, n_windows, self._lattice, self.burn_in)
            drawn = keep(self.generator, windows, batch_size)
        batches = [self._reader.read(filled[index], index, pieces, env) for index, pieces in drawn]
        return batches[0] if len(batches) == 1 else concatenate(batches)

    # ------------------------------------------------------- what was learned

    def update_priorities(self, samples: RecurrentSequenceSamples, errors: th.Tensor) -> None:
        """
        Make known what was learned about a batch; without effect if replay is uniform. Only steps with ``mask`` 1 count:
        neither padding nor burn-in has an error.

        :param samples: the batch
        :param errors: temporal-difference errors, (T, B)
        """
        if not self.priorities:
            return
        values, lengths = errors.detach().abs().cpu().numpy(), samples.mask.sum(dim=0).long().cpu().numpy()
        for index in np.unique(samples.rings).tolist():
            ring, columns = self.rings[index], np.flatnonzero(samples.rings == index)
            begins, envs = np.divmod(samples.indices[columns], ring.n_envs)
            self.priorities[index].record(
                begins, begins + lengths[columns], envs, values[:, columns], ring.first_usable(), ring.n_added
            )

    def set_newest_errors(self, errors: np.ndarray, ring: int = 0, n_newer: int = 0) -> None:
        """
        Initial priorities of the steps added last, where acting has computed what is needed; otherwise a new step counts as
        much as the largest known error.

        :param errors: absolute temporal-difference errors of the last T steps, (T, n_envs)
        :param ring: index from :meth:`add_ring`
        :param n_newer: steps of each environment that are newer still, and whose errors are not known yet
        """
        if self.priorities and len(errors) > 0:
            end = self.rings[ring].n_added - n_newer
            self.priorities[ring].record_newest(np.arange(end - len(errors), end), errors)

    def newest_errors(self, n_steps: int, n_newer: int) -> np.ndarray | None:
        """
        What :meth:`set_newest_errors` was given for the first ring, for another buffer.

        :param n_steps: how many, or as many as there are
        :param n_newer: steps of each environment that are newer, and whose errors are not known yet
        :return: (T, n_envs), None if replay is uniform
        """
        if not self.priorities:
            return None
        ring, end = self.rings[0], self.rings[0].n_added - n_newer
        return self.priorities[0].errors[np.arange(max(end - n_steps, 0), end) % ring.n_rows]

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
        rings = samples.rings[: samples.burn_in.previous_actions.shape[1]]
        for index in np.unique(rings).tolist():
            columns = np.flatnonzero(rings == index)
            times, envs = np.divmod(samples.indices[columns], self.rings[index].n_envs)
            self.rings[index].write_states(times, envs, tree_map(lambda array, at=columns: array[:, at], states))

    def stored_states(self, rings: np.ndarray, times: np.ndarray, envs: np.ndarray) -> RNNStates:
        """
        Memory as it was when steps were made.

        :param rings: (N,)
        :param times: divisible by ``stride``, still in the ring: (N,)
        :param envs: (N,)
        :return: each (n_layers, N, hidden); zeros at the beginning of an episode
        """
        one = self.rings[int(rings[0])]
        packed = np.empty((len(times), one.states.shape[2]), dtype=np.float32)
        for index in np.unique(rings).tolist():
            ring, own = self.rings[index], rings == index
            is_start = ring.steps_into_episode(times[own], envs[own]) == 0
            packed[own] = ring.packed_states(times[own], envs[own], is_start)
        return one.unpack(self.to_torch(packed, copy=False))

    def check_states(self, initial_states: Callable[[int], RNNStates]) -> None:
        """
        :param initial_states: of a policy, for a number of environments
        :raises ValueError: if stored states are of another kind
        """
        for ring in self.rings:
            if ring.allocated:
                ring.check_states(initial_states(ring.n_envs))

    def priority_statistics(self) -> dict[str, float]:
        """
        :return: mean and largest priority of the windows that can be drawn; empty if replay is uniform
        """
        if not self.priorities:
            return {}
        live = [
            priorities.live_weights(ring.first_usable(), ring.n_added)[1].ravel()
            for ring, priorities in zip(self.rings, self.priorities, strict=True)
            if ring.n_added > 0
        ]
        found = np.concatenate(live) ** (1.0 / self.priority_alpha)
        return {"mean": float(found.mean()), "max": float(found.max())}
