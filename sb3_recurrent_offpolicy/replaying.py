"""What an algorithm replays: its own steps, those of others, recorded episodes, a saved buffer; and their rewards' scale."""

from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnvWrapper

from sb3_recurrent_offpolicy.buffer_files import load_buffer, save_buffer
from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.files import reading, with_suffix
from sb3_recurrent_offpolicy.persistence import SavedAlgorithm
from sb3_recurrent_offpolicy.recorded import episode_as_stretch
from sb3_recurrent_offpolicy.rewards import ReturnStatistics, RewardNormalizer
from sb3_recurrent_offpolicy.training_state import CheckpointPosition, read_checkpoint
from sb3_recurrent_offpolicy.type_aliases import RecurrentSequenceSamples, Stretch

SelfReplayingAlgorithm = TypeVar("SelfReplayingAlgorithm", bound="ReplayingAlgorithm")


class ReplayingAlgorithm(SavedAlgorithm):
    """An off-policy algorithm that learns from sequences of its replay buffer, whoever has made their steps."""

    # Our own parameters that the replay buffer is to be told
    buffer_parameters: ClassVar[tuple[str, ...]] = ("sequence_length", "burn_in", "state_init", "refresh_states")

    replay_buffer: RecurrentSequenceReplayBuffer
    reward_normalizer: RewardNormalizer
    reward_scale: float | Literal["auto"]

    # Where the model stands in a folder of checkpoints
    _checkpoint_position: CheckpointPosition | None = None

    @classmethod
    def resume(cls: type[SelfReplayingAlgorithm], path: str | Path, env: GymEnv | None = None) -> SelfReplayingAlgorithm:
        """
        Go on with a training run from its newest checkpoint that is whole, as if it had never stopped::

            model = RecurrentTD3.resume("run")
            model.learn(remaining, callback=CompleteCheckpoint(10_000, "run"), reset_num_timesteps=False)

        Everything is as it was: networks, optimizers, replay buffer, running episodes, environments, random streams, also the
        global ones of Python, NumPy and torch. On the same machine and with the same libraries the run goes on bit for bit.
        This runs pickles that the checkpoint holds: resume only your own.

        :param path: folder that :class:`~sb3_recurrent_offpolicy.checkpoint.CompleteCheckpoint` writes to
        :param env: environments made as for training, where the checkpoint could not hold them: those of a ``SubprocVecEnv``.
            With the wrapper :class:`~sb3_recurrent_offpolicy.envs.ResumableEnv` they go on too, without it they begin new
            episodes. Wrappers around all of them, ``VecNormalize`` say, come from the checkpoint
        :return: the model
        :raises ValueError: if there is no checkpoint that is whole, or another algorithm wrote it, or ``env`` is missing
        """
        if env is not None:
            env = cls._wrap_env(env)
            while isinstance(env, VecEnvWrapper):
                env = env.venv
        return read_checkpoint(Path(path).resolve(), cls._algorithm_name(), lambda: cls.__new__(cls), env)

    def _make_replay_buffer(self) -> RecurrentSequenceReplayBuffer:
        assert self.replay_buffer_class is not None and issubclass(self.replay_buffer_class, RecurrentSequenceReplayBuffer)
        return self.replay_buffer_class(
            self.buffer_size,
            self.observation_space,
            self.action_space,
            device=self.device,
            n_envs=self.n_envs,
            **self.replay_buffer_kwargs,
            **{name: getattr(self, name) for name in self.buffer_parameters},
        )

    def _sample_sequences(self, batch_size: int) -> RecurrentSequenceSamples:
        """
        :param batch_size: number of sequences
        :return: sequences with normalised observations and scaled rewards
        """
        beta = self.replay_buffer.importance_beta
        if beta > 0:
            # Annealed to 1 towards the end of training (Schaul et al. 2016, section 3.4)
            beta = 1.0 - (1.0 - beta) * self._current_progress_remaining
        samples = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env, importance_beta=beta)
        if self.reward_scale == "auto":
            self.reward_normalizer.update()
        self.logger.record("train/reward_factor", self.reward_factor)
        return samples._replace(rewards=samples.rewards * self.reward_factor)

    @property
    def reward_factor(self) -> float:
        """What sampled rewards are multiplied by; logged as ``train/reward_factor``."""
        return self.reward_normalizer.factor if self.reward_scale == "auto" else float(self.reward_scale)

    def add_episode(self, observations: Any, actions: np.ndarray, rewards: np.ndarray, terminated: bool) -> None:
        """
        Add a recorded episode, a demonstration say, to what is replayed. The policy computes its memory states, as it is now;
        ``refresh_states`` keeps them young. Recorded episodes have a ring of their own in the replay buffer, so that only
        recorded episodes overwrite them, and are drawn in proportion to their number of steps.

        :param observations: of all T steps and the last one, as the environment gave them: (T+1, *obs), or a dict of them
        :param actions: as the environment took them, (T, *action)
        :param rewards: (T,)
        :param terminated: the episode ended for good, and not by a time limit
        :raises ValueError: if shapes do not fit the spaces, a number is not finite or out of bounds, or the episode is longer
            than the ring
        """
        vec_normalize, ring = self._vec_normalize_env, self.replay_buffer.recorded_ring
        steps = episode_as_stretch(
            self.policy,
            observations,
            actions,
            rewards,
            terminated,
            self.replay_buffer.rings[ring].state_offsets(len(rewards)),
            vec_normalize.normalize_obs if vec_normalize is not None else lambda seen: seen,
        )
        self.add_steps(steps, ring)

    def add_steps(self, steps: Stretch, ring: int = 0) -> None:
        """
        Add many steps to what is replayed, those of an actor elsewhere, say. Other than ``replay_buffer.extend``, they count
        for ``reward_scale="auto"``.

        :param steps: of all environments of the ring
        :param ring: index from ``replay_buffer.add_ring``
        :raises ValueError: as ``replay_buffer.extend``; then nothing is added
        """
        self.replay_buffer.extend(steps, ring)
        if self.reward_scale == "auto":
            self._count_returns(ring, steps.rewards, steps.episode_starts)

    def _count_returns(self, ring: int, rewards: np.ndarray, episode_starts: np.ndarray) -> None:
        normalizer = self._vec_normalize_env
        if normalizer is not None:
            rewards = normalizer.normalize_reward(rewards)
        statistics = self._return_statistics(ring)
        for of_step, starts in zip(rewards, episode_starts.astype(bool), strict=True):
            statistics.add(of_step, starts, self.gamma)

    def _return_statistics(self, ring: int) -> ReturnStatistics:
        n_envs, n_rows = self.replay_buffer.rings[ring].n_envs, self.replay_buffer.rings[ring].n_rows
        return self.reward_normalizer.statistics.setdefault(ring, ReturnStatistics(n_envs, n_rows))

    def save_replay_buffer(self, path: Any) -> None:
        """
        Save the replay buffer: arrays and JSON in a zip archive that ``numpy.load`` can read too, and no pickle. Only steps
        that have been made are written. The file takes its place when it is complete.

        :param path: path to the file, ".pkl" is added where there is no suffix, as in SB3; or an open file
        :raises OSError: if it cannot be written; what was there before stays in place
        """
        assert self.replay_buffer is not None, "The replay buffer is not defined"
        save_buffer(self.replay_buffer, with_suffix(path, ".pkl"))

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """
        Load a replay buffer from a file of :meth:`save_replay_buffer`. No pickle is run. The next ``learn`` begins a new
        episode: the buffer's last one is not going on.

        :param path: path to the file, or an open one
        :param truncate_last_traj: without effect, for compatibility
        :raises ValueError: if the file is damaged, holds another kind of buffer, or one recorded with other settings; the
            present buffer stays in place
        """
        loaded = self._make_replay_buffer()
        with reading(path, ".pkl") as file:
            load_buffer(loaded, file)
            loaded.check_states(self.policy.initial_states)
        self.replay_buffer = loaded
        self._last_obs = None
        self.reward_normalizer.statistics.clear()
        for index, ring in enumerate(loaded.rings):
            rows = ring.rows_in_order()
            if len(rows) > 0 and self.reward_scale == "auto":
                self._count_returns(index, ring.rewards[rows], ring.episode_steps[rows] == 0)
        self._return_statistics(0).begin_episodes(self.n_envs)
