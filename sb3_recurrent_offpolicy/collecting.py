"""
How steps are collected inside SB3's loop: made here, or delivered by others.

:class:`~sb3_recurrent_offpolicy.acting.BehaviorPolicy` acts and remembers. SB3's ``collect_rollouts`` asks for an action
(stage), makes the step, calls callbacks, and stores the transition (commit). With deliveries, the same loop goes through steps
that have been made elsewhere and are in the replay buffer already: it counts them, calls callbacks, and updates.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_recurrent_offpolicy.acting import BehaviorPolicy
from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.overlap import OverlappingAlgorithm


class FleetPlace(NamedTuple):
    """Which environments are these among all that explore for one learner."""

    first: int
    """Number of the first one"""
    n_envs: int
    """Of all together"""


@VecEnv.register
class Deliveries:
    """
    Steps that others have made, one after the other. To SB3's loop they are the environments.

    :param num_envs: environments that advance together
    """

    def __init__(self, num_envs: int):
        self.num_envs = num_envs

    @property
    def unwrapped(self) -> "Deliveries":
        """These are no environments in processes of SB3."""
        return self

    def next_actions(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Wait until there is a step, and go on to it. It is in the replay buffer.

        :return: its actions as the environments take them, and as the replay buffer stores them, (num_envs, *action) each
        """
        raise NotImplementedError

    def step_async(self, actions: np.ndarray) -> None:
        """
        :param actions: from :meth:`next_actions`; they have been done
        """

    def step_wait(self) -> VecEnvStepReturn:
        """
        :return: what came of the actions
        """
        raise NotImplementedError

    def step(self, actions: np.ndarray) -> VecEnvStepReturn:
        """
        :param actions: from :meth:`next_actions`
        :return: what came of them
        """
        self.step_async(actions)
        return self.step_wait()


class CollectingAlgorithm(OverlappingAlgorithm):
    """An off-policy algorithm that collects steps, or is given them."""

    behavior: BehaviorPolicy
    _last_episode_starts: np.ndarray
    # In place of the model's environments. Of this process, and not saved
    deliveries: Deliveries | None = None
    # Where the model's environments, or those that deliver, stand; None: they are all that there is
    fleet_place: FleetPlace | None = None
    # Steps that were delivered, which are in the replay buffer and not in ``num_timesteps`` yet
    uncounted_steps: int = 0

    def count_delivered_steps(self) -> None:
        """Count the steps that were delivered last, where SB3's loop does not go on with them: after a run was resumed."""
        self.num_timesteps += self.uncounted_steps
        self.uncounted_steps = 0

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        if self.deliveries is None:
            self.count_delivered_steps()
        return super()._setup_learn(*args, **kwargs)

    def _set_exploration(self) -> None:
        """Before each step: tell :attr:`behavior` how to explore."""

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        self._set_exploration()
        if self.deliveries is not None:
            return self.deliveries.next_actions()
        assert self._last_obs is not None, "self._last_obs was not set"
        warm_up = self.num_timesteps < learning_starts and not (self.use_sde and self.use_sde_at_warmup)
        self.behavior.action_noise = action_noise
        return self.behavior.act(self._last_obs, self._last_episode_starts, warm_up)

    def _store_transition(self, *step: Any, **named: Any) -> None:
        # What is delivered is stored already
        if self.deliveries is None:
            self._store_own_step(*step, **named)

    def _store_own_step(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store a step that was made here; parameters are those of SB3's ``_store_transition``."""
        # SB3 sorts out terminal observations and raw values, and calls nothing but add: it is given what we know besides
        assert isinstance(replay_buffer, RecurrentSequenceReplayBuffer)
        states = self.behavior.catch_up() if replay_buffer.rings[0].wants_states else None
        add = partial(replay_buffer.add, episode_starts=self._last_episode_starts, lstm_states=states)
        super()._store_transition(SimpleNamespace(add=add), buffer_action, new_obs, reward, dones, infos)  # type: ignore[arg-type]
        if self.reward_scale == "auto":
            # As they will be sampled: with VecNormalize, after its own scaling
            self.reward_normalizer.statistics[0].add(reward, self._last_episode_starts, self.gamma)
        self.behavior.commit()
        self._last_episode_starts = dones

    def collect_rollouts(  # type: ignore[override]
        self, env: VecEnv, callback: BaseCallback, train_freq: TrainFreq, replay_buffer: ReplayBuffer, **kwargs: Any
    ) -> RolloutReturn:
        if self.deliveries is not None:
            env, kwargs["action_noise"] = self.deliveries, None  # type: ignore[assignment]
        try:
            rollout = super().collect_rollouts(env, callback, train_freq, replay_buffer, **kwargs)
            if not rollout.continue_training:
                # SB3 drops the step at which a callback stops. The environment has made it: to go on later, so must we
                step = callback.locals
                self._store_transition(
                    replay_buffer, step["buffer_actions"], step["new_obs"], step["rewards"], step["dones"], step["infos"]
                )
                self._update_info_buffer(step["infos"], step["dones"])
                self._episode_num += int(step["dones"].sum())
        except BaseException:
            # Between the environment's step and its storage: who catches this and goes on begins a new episode
            self._last_obs = None
            raise
        return rollout
