"""
Learning while the environments compute, for simulators that are slow.

SB3 updates, acts and steps the environments in turn, so one side always waits for the other. Here the updates that are due
after a rollout wait until ``step_async`` has sent the next actions to the environments, and are made before ``step_wait`` asks
what came of them. The replay buffer then holds what it held when they became due. So only acting differs from SB3's order: its
weights lack the updates that became due just before.
"""

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.type_aliases import RolloutReturn
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sb3_recurrent_offpolicy.replaying import ReplayingAlgorithm
from sb3_recurrent_offpolicy.stepping import SupervisedStep


class OverlappingAlgorithm(ReplayingAlgorithm):
    """An off-policy algorithm that can learn while its environments compute."""

    overlap_updates: bool
    # Updates that wait for the next step. Saved with the model, because a callback may save before that step
    _due_updates: int = 0
    # Fewer than one update is due for
    _steps_without_update: int = 0
    # What SB3's loop calls next is train, and then another rollout
    _rollout_follows: bool = False
    # To be done before the next rollout
    _task_at_rest: Callable[[], None] | None = None

    def at_rest(self, task: Callable[[], None] | None) -> None:
        """
        :param task: called once, before the next rollout, when all steps are stored and all updates made that do not wait for
            a step; callbacks are called in mid-step. None: nothing is to be called after all
        """
        self._task_at_rest = task

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> RolloutReturn:
        self._rollout_follows = False
        if self._task_at_rest is not None:
            task, self._task_at_rest = self._task_at_rest, None
            task()
        if self._due_updates > 0 or isinstance(env.unwrapped, SubprocVecEnv):
            env = SupervisedStep(env, self._make_due_updates)  # type: ignore[assignment]
        rollout = super().collect_rollouts(env, *args, **kwargs)
        if self.gradient_steps < 0:
            # SB3 makes as many updates as it is told that steps were made
            self._steps_without_update += rollout.episode_timesteps
            n_updates, self._steps_without_update = divmod(self._steps_without_update, -self.gradient_steps)
            rollout = rollout._replace(episode_timesteps=n_updates)
        self._rollout_follows = rollout.continue_training and self.num_timesteps < self._total_timesteps
        return rollout

    def train(self, gradient_steps: int, batch_size: int | None = None) -> None:
        """
        Sample the replay buffer and do the updates. With ``overlap_updates``, those after a rollout of ``learn`` wait for the
        next step of the environments, if there is one.

        :param gradient_steps: number of updates
        :param batch_size: sequences per update; None: the model's
        """
        if self.overlap_updates and self._rollout_follows:
            self._due_updates, self._rollout_follows = gradient_steps, False
        else:
            self._update(gradient_steps, self.batch_size if batch_size is None else batch_size)
            self._check_updates()

    def _check_updates(self) -> None:
        """
        :raises FloatingPointError: if one of the latest updates could not be made, because a gradient was not finite
        """
        raise NotImplementedError()

    def _update(self, gradient_steps: int, batch_size: int) -> None:
        """
        Do the updates, now.

        :param gradient_steps: number of updates
        :param batch_size: sequences per update
        """
        raise NotImplementedError()

    def _make_due_updates(self) -> None:
        due_updates, self._due_updates = self._due_updates, 0
        # A model that was loaded without its replay buffer has nothing to learn from yet
        if due_updates > 0 and self.replay_buffer.size() > 0:
            self._update(due_updates, self.batch_size)
            self._check_updates()
            # SB3 does so at the beginning of a rollout only, which is over
            self.policy.set_training_mode(False)
