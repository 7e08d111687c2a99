"""
Learning while the environments compute, for simulators that are slow.

SB3 updates, acts and steps the environments in turn, so one side always waits for the other. Here the updates that are due
after a rollout wait until ``step_async`` has sent the next actions to the environments, and are made before ``step_wait`` asks
what came of them. The replay buffer then holds what it held when they became due. So only acting differs from SB3's order: its
weights lack the updates that became due just before.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from stable_baselines3.common.type_aliases import RolloutReturn
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_recurrent_offpolicy.replaying import ReplayingAlgorithm


@VecEnv.register
class UpdatesDuringStep:
    """
    What SB3's ``collect_rollouts`` needs of environments. No ``VecEnvWrapper``: making one asks every process for its render
    mode, and this object lives for one rollout.

    :param venv: the environments
    :param make_updates: called while they compute
    """

    def __init__(self, venv: VecEnv, make_updates: Callable[[], None]):
        self.venv = venv
        self.make_updates = make_updates

    def step(self, actions: np.ndarray) -> VecEnvStepReturn:
        self.venv.step_async(actions)
        try:
            self.make_updates()
        except BaseException:
            # Otherwise the results would be taken for the answer to what the environments are asked next. Processes that
            # Ctrl-C has ended give none
            with suppress(Exception):
                self.venv.step_wait()
            raise
        return self.venv.step_wait()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.venv, name)


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

    def at_rest(self, task: Callable[[], None]) -> None:
        """
        :param task: called before the next rollout, when all steps are stored and all updates that do not wait for a step are
            made. Callbacks are called in mid-step
        """
        self._task_at_rest = task

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> RolloutReturn:
        self._rollout_follows = False
        if self._task_at_rest is not None:
            task, self._task_at_rest = self._task_at_rest, None
            task()
        if self._due_updates > 0:
            env = UpdatesDuringStep(env, self._make_due_updates)  # type: ignore[assignment]
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
