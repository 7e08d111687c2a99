"""What the learner keeps and tells of its actors: statistics of VecNormalize, numbers for the logger, Monitor's file."""

import time
from typing import Any

import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.distributed.messages import Delivery


class Normalizer:
    """
    Statistics of ``VecNormalize`` from the steps of an actor. Every step is counted once, by the learner.

    :param vec_normalize: of the learner
    :param n_envs: environments of the actor
    """

    def __init__(self, vec_normalize: VecNormalize, n_envs: int):
        self.vec_normalize = vec_normalize
        self._returns = np.zeros(n_envs)

    def update(self, delivery: Delivery) -> None:
        """
        :param delivery: raw steps
        """
        normalize = self.vec_normalize
        if not normalize.training:
            return
        observations = delivery.steps.observations
        if normalize.norm_obs:
            for key, statistics in normalize.obs_rms.items() if isinstance(normalize.obs_rms, dict) else [(None, None)]:
                array = observations if key is None else observations[key]
                (statistics or normalize.obs_rms).update(array.reshape(-1, *array.shape[2:]))
        returns = []
        for rewards, starts in zip(delivery.steps.rewards, delivery.steps.episode_starts, strict=True):
            self._returns = self._returns * normalize.gamma * ~starts + rewards
            returns.append(self._returns)
        normalize.ret_rms.update(np.concatenate(returns))


class Records:
    """
    What is logged under ``distributed/``, and Monitor's file of a run.

    :param model: the learner
    :param n_actors: number of actors
    """

    def __init__(self, model: RecurrentOffPolicyAlgorithm, n_actors: int):
        self.model = model
        self.n_restarts = 0
        self._monitor = _monitor_of(model)
        self._updates_before = model._n_updates
        self._n_steps = 0
        self._steps_per_second = np.full(n_actors, np.nan)

    def note(self, actor: int, delivery: Delivery, age: float, seconds_waited: float, n_in_flight: int) -> None:
        """
        :param actor: index
        :param delivery: that is put into the replay buffer
        :param age: of the weights that it was made with, in seconds
        :param seconds_waited: by the learner for it
        :param n_in_flight: stretches that have been asked for and have not come
        """
        model, logger = self.model, self.model.logger
        lag = model._n_updates - delivery.version
        self._n_steps += delivery.dones.size
        self._steps_per_second[actor] = delivery.dones.size / (delivery.seconds + delivery.seconds_waiting)
        learned = (model._n_updates - self._updates_before) * model.batch_size * (model.sequence_length or 0)
        logger.record_mean("distributed/policy_lag_mean", lag)
        logger.record("distributed/policy_lag_max", max(lag, logger.name_to_value.get("distributed/policy_lag_max", 0)))
        logger.record_mean("distributed/weights_age_s", age)
        logger.record_mean("distributed/learner_wait_s", seconds_waited)
        logger.record_mean("distributed/actor_wait_s", delivery.seconds_waiting)
        logger.record("distributed/stretches_in_flight", n_in_flight)
        logger.record("distributed/restarts", self.n_restarts)
        logger.record("distributed/replay_ratio", learned / self._n_steps)
        logger.record("distributed/steps_per_s_per_actor", float(np.nanmean(self._steps_per_second)))
        logger.record("distributed/steps_per_s_slowest", float(np.nanmin(self._steps_per_second)))
        if self._monitor is not None and self._monitor.results_writer is not None:
            for _, _, info in delivery.infos:
                if "episode" in info:
                    since = {"t": round(time.time() - self._monitor.t_start, 6)}
                    self._monitor.results_writer.write_row(info["episode"] | since)


def _monitor_of(model: RecurrentOffPolicyAlgorithm) -> Monitor | None:
    """That of the learner's own first environment, where it writes a file: the RL Zoo's plots read it."""
    if model.env is None or not isinstance(model.env.unwrapped, DummyVecEnv):
        return None
    env: Any = model.env.unwrapped.envs[0]
    while env is not env.unwrapped:
        if isinstance(env, Monitor):
            return env
        env = env.env
    return None
