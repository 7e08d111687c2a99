"""
A saved zip: load it, evaluate it, and film an episode.

`evaluate_policy` and `predict` carry the memory from step to step. The video is in logs/videos.
"""

from typing import Any

import numpy as np
import rl_zoo3.import_envs  # noqa: F401  registers PendulumNoVel-v1
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecVideoRecorder

from sb3_recurrent_offpolicy import RecurrentSAC


def main(total_timesteps: int = 20_000) -> None:
    """:param total_timesteps: steps to train for"""
    model = RecurrentSAC("MlpLstmPolicy", "PendulumNoVel-v1", seed=0)
    model.learn(total_timesteps, progress_bar=True)
    model.save("logs/recurrent_sac_pendulum")

    model = RecurrentSAC.load("logs/recurrent_sac_pendulum")
    mean, std = evaluate_policy(model, make_vec_env("PendulumNoVel-v1", n_envs=4, seed=1), n_eval_episodes=20)
    print(f"mean return {mean:.0f} +- {std:.0f}")

    drawn = make_vec_env("PendulumNoVel-v1", seed=2, env_kwargs=dict(render_mode="rgb_array"))
    env = VecVideoRecorder(drawn, "logs/videos", record_video_trigger=lambda step: step == 0, video_length=200)
    obs: Any = env.reset()
    state, episode_start = None, np.ones(1, dtype=bool)
    for _ in range(200):
        action, state = model.predict(obs, state=state, episode_start=episode_start, deterministic=True)
        obs, _, episode_start, _ = env.step(action)
    env.close()


if __name__ == "__main__":
    main()
