"""
RecurrentTD3 on a Pendulum that observes its angle only: train, save, load, and act with memory.

SB3's TD3, which has no memory, stays near -1200 here. Above -200 the pendulum swings up and stays up.
"""

from typing import Any

import numpy as np
import rl_zoo3.import_envs  # noqa: F401  registers PendulumNoVel-v1
from stable_baselines3.common.env_util import make_vec_env

from sb3_recurrent_offpolicy import RecurrentTD3


def main(total_timesteps: int = 20_000) -> None:
    """:param total_timesteps: steps to train for"""
    model = RecurrentTD3("MlpLstmPolicy", "PendulumNoVel-v1", seed=0)
    model.learn(total_timesteps, progress_bar=True)
    model.save("logs/recurrent_td3_pendulum")

    model = RecurrentTD3.load("logs/recurrent_td3_pendulum")
    env = make_vec_env("PendulumNoVel-v1", n_envs=4, seed=1)
    obs: Any = env.reset()
    # As with sb3-contrib's RecurrentPPO: the state is passed on, and forgotten where an episode starts
    state, episode_start = None, np.ones(env.num_envs, dtype=bool)
    returns = np.zeros(env.num_envs)
    for _ in range(200):
        action, state = model.predict(obs, state=state, episode_start=episode_start, deterministic=True)
        obs, rewards, episode_start, _ = env.step(action)
        returns += rewards
    print("returns of one episode in each environment:", returns.round())


if __name__ == "__main__":
    main()
