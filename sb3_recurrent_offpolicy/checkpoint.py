"""A callback that saves a whole training run now and then, so that it can be killed anywhere and go on."""

import warnings
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback

from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.checks import check_integers
from sb3_recurrent_offpolicy.training_state import CheckpointPosition, manifests, write_checkpoint


class CompleteCheckpoint(BaseCallback):
    """
    Save the whole state of training every ``save_freq`` steps, at its beginning and at its end: networks, optimizers, replay
    buffer with memory states and priorities, running episodes, environments, ``VecNormalize``, all random streams. From
    there ``resume`` of the algorithm goes on bit for bit.

    A checkpoint is written between two rollouts, when the step has been stored. It takes its place when it is complete, and of
    the replay buffer it writes what is new since the last one. If the disk is full or the folder cannot be written, a
    warning says so, training goes on, and the checkpoints that are there stay.

    :param save_freq: steps of all environments together between two checkpoints
    :param path: folder, of one run only. In the RL Zoo it can be left out: ``checkpoint`` in the folder of the run
    :param keep: how many checkpoints stay. Default 2: if the disk damages the newest, the one before it serves
    :param verbose: 1 tells of each checkpoint
    :raises ValueError: at the beginning of training, if the folder holds checkpoints of another run
    """

    model: RecurrentOffPolicyAlgorithm

    def __init__(self, save_freq: int, path: str | Path | None = None, keep: int = 2, verbose: int = 0):
        super().__init__(verbose)
        check_integers(1, save_freq=save_freq, keep=keep)
        self.save_freq, self.keep = save_freq, keep
        self.path = path

    def _on_training_start(self) -> None:
        if not isinstance(self.model, RecurrentOffPolicyAlgorithm):
            raise ValueError(f"CompleteCheckpoint saves recurrent off-policy algorithms, not {type(self.model).__name__}")
        if self.path is None:
            raise ValueError("path=None: name the folder for the checkpoints of this run")
        self.folder = Path(self.path).resolve()
        self._is_asked_for = False
        self._saved_at = self.model.num_timesteps
        position: CheckpointPosition | None = self.model._checkpoint_position
        is_there = position is not None and position.folder == self.folder and position.num_timesteps == self._saved_at
        if not (is_there and manifests(self.folder)):
            # What cannot be saved, and a folder that cannot be written, show now
            reason = write_checkpoint(self.model, self.folder, self.keep, self.save_freq)
            if reason is not None:
                warnings.warn(
                    f"A run that is resumed from these checkpoints begins new episodes, because its environments cannot be "
                    f"pickled as they are: {reason}"
                )

    def _on_step(self) -> bool:
        if self.num_timesteps - self._saved_at >= self.save_freq and not self._is_asked_for:
            self._is_asked_for = True
            self.model.at_rest(self._save)
        return True

    def _on_training_end(self) -> None:
        self.model.at_rest(None)
        if self.model.num_timesteps > self._saved_at:
            self._save()

    def _save(self) -> None:
        self._is_asked_for, self._saved_at = False, self.model.num_timesteps
        try:
            write_checkpoint(self.model, self.folder, self.keep, self.save_freq)
        except OSError as error:
            warnings.warn(f"No checkpoint at {self._saved_at} steps: {error}. Training goes on; the last checkpoint stays")
        else:
            if self.verbose >= 1:
                print(f"Checkpoint at {self._saved_at} steps in {self.folder}")
