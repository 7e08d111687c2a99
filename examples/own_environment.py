"""
An environment of your own, with wrappers that hide a part of it and show the last reward.

The goal is hidden, and the reward is minus the distance to it. An agent that remembers what it tried finds the goal; one that
stands still gets -15 on average.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_recurrent_offpolicy import RecurrentSAC
from sb3_recurrent_offpolicy.envs import MaskObservation, PreviousActionReward


class Goal(gym.Env[np.ndarray, np.ndarray]):
    """A point on a line, and a goal. Observes both."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-10, 10, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.point = np.array([0.0, self.np_random.uniform(-1, 1)], dtype=np.float32)
        return self.point.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.point[0] += 0.2 * action[0]
        return self.point.copy(), -float(abs(self.point[0] - self.point[1])), False, False, {}


def make_env() -> gym.Env:
    """:return: the goal hidden, the last reward shown. The last action needs no wrapper: the memory is given it anyway"""
    env = gym.wrappers.TimeLimit(Goal(), max_episode_steps=30)
    return PreviousActionReward(MaskObservation(env, drop=[1]), action=False)


def main(total_timesteps: int = 20_000) -> None:
    """:param total_timesteps: steps to train for"""
    check_env(make_env())
    env = make_vec_env(make_env, n_envs=4, seed=0)
    model = RecurrentSAC("MlpLstmPolicy", env, seed=0)
    model.learn(total_timesteps, progress_bar=True)
    mean, std = evaluate_policy(model, env, n_eval_episodes=20)
    print(f"mean return {mean:.1f} +- {std:.1f}")


if __name__ == "__main__":
    main()
