"""
Learning to learn: a trial is 30 pulls of five arms, whose means are new in every trial and must be found out by pulling.

Random pulls gain 0.5 each on average, pulls of the best arm 0.83. What is learned within a trial is in the memory alone.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env

from sb3_recurrent_offpolicy import RecurrentSAC
from sb3_recurrent_offpolicy.envs import BernoulliBandit, RL2Trial

N_PULLS = 30


def make_env() -> gym.Env:
    """:return: an environment whose episodes are trials: any environment that can keep its task at a reset will do"""
    return RL2Trial(BernoulliBandit(n_arms=5), n_episodes=N_PULLS)


def main(total_timesteps: int = 50_000) -> None:
    """:param total_timesteps: pulls to train for"""
    env = make_vec_env(make_env, n_envs=16, seed=0)
    # Counting and averaging over a whole trial is slow to learn at the default rate (docs/settings.md)
    model = RecurrentSAC("MlpLstmPolicy", env, learning_rate=4e-3, sequence_length=N_PULLS, seed=0)
    model.learn(total_timesteps, progress_bar=True)

    env = make_vec_env(make_env, n_envs=200, seed=1)
    obs: Any = env.reset()
    state, episode_start = None, np.ones(env.num_envs, dtype=bool)
    gained = []
    for _ in range(N_PULLS):
        action, state = model.predict(obs, state=state, episode_start=episode_start, deterministic=True)
        obs, rewards, episode_start, _ = env.step(action)
        gained.append(rewards.mean())
    print(f"mean reward of the first 5 pulls {np.mean(gained[:5]):.2f}, of the last 10 {np.mean(gained[-10:]):.2f}")


if __name__ == "__main__":
    main()
