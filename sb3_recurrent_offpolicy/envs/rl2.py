"""Several episodes of one task, to learn how to learn."""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

from sb3_recurrent_offpolicy.checks import check_integers
from sb3_recurrent_offpolicy.envs.previous_action_reward import PreviousActionReward


def wants_new_task(options: dict[str, Any] | None) -> bool:
    """
    :param options: ``options`` of ``reset``
    :return: whether to draw a new task; yes, unless ``{"new_task": False}`` asks to keep the one there is
    """
    return options is None or options.get("new_task", True)


class RL2Trial(PreviousActionReward):
    """
    K episodes of one task make one episode, a trial, as in RL^2 (Duan et al. 2016, https://arxiv.org/abs/1611.02779). What an
    agent must learn is to explore in the first episodes for the sake of the last.

    * Observation (o_t, a_{t-1}, r_{t-1}, d_{t-1}) as in :class:`PreviousActionReward`, with zeros for a, r and d at the first
      step of the trial only. Where an inner episode ends, o_t is the first observation of the next one and d_{t-1} = 1
    * The trial ends with its last inner episode, and in the same way: terminated or truncated. Other ends are not passed on;
      their observation and info are ``info["final_obs"]`` and ``info["final_info"]`` of that step
    * A trial begins with ``reset(options={"new_task": True})``, the next inner episodes with ``{"new_task": False}``. An
      environment with many tasks draws one when asked for a new one or when it has none, and keeps it otherwise
      (:func:`wants_new_task`). One that ignores these options has a single task; what it draws at every reset differs
      between inner episodes

    Time limits of inner episodes belong beneath this wrapper. A ``Monitor`` beneath, as with ``env_wrapper`` of the RL Zoo,
    reports the return of the last inner episode; above, as with a registered trial, that of the whole trial.

    :param env: environment with a Box (n,) as observation
    :param n_episodes: K, inner episodes in a trial
    :raises ValueError: if ``n_episodes`` is less than 1 or the observation is not a flat Box
    """

    def __init__(self, env: gym.Env, n_episodes: int):
        gym.utils.RecordConstructorArgs.__init__(self, n_episodes=n_episodes)
        super().__init__(env, done=True)
        check_integers(1, n_episodes=n_episodes)
        self.n_episodes = n_episodes

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.n_finished = 0
        return super().reset(seed=seed, options={"new_task": True} | (options or {}))

    def step(self, action: Any) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        self.n_finished += terminated or truncated
        if (terminated or truncated) and self.n_finished < self.n_episodes:
            final = {"final_obs": observation, "final_info": info}
            observation, info = self.env.reset(options={"new_task": False})
            return self.append(observation, action, reward, True), reward, False, False, info | final
        return observation, reward, terminated, truncated, info
