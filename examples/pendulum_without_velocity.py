"""Train on Pendulum without its velocity, save, load, act with memory: the README's example, runnable."""

from typing import Any

import numpy as np
import rl_zoo3.import_envs  # noqa: F401  registers PendulumNoVel-v1
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise

from sb3_recurrent_offpolicy import RecurrentTD3


def main(total_timesteps: int = 20_000) -> float:
    env = make_vec_env("PendulumNoVel-v1", n_envs=4, seed=0)
    noise = NormalActionNoise(mean=np.zeros(1), sigma=0.1 * np.ones(1))
    model = RecurrentTD3("MlpLstmPolicy", env, gamma=0.95, tau=0.01, gradient_steps=2, action_noise=noise, seed=0)
    model.learn(total_timesteps, progress_bar=True)
    model.save("recurrent_td3_pendulum")

    model = RecurrentTD3.load("recurrent_td3_pendulum")
    obs: Any = env.reset()
    state, episode_start = None, np.ones(env.num_envs, dtype=bool)
    returns = np.zeros(env.num_envs)
    for _ in range(200):
        action, state = model.predict(obs, state=state, episode_start=episode_start, deterministic=True)
        obs, rewards, episode_start, _ = env.step(action)
        returns += rewards
    print("returns of one episode in each environment:", returns.round())
    return float(returns.mean())


if __name__ == "__main__":
    main()
