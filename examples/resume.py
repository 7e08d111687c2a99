"""
A run that can be killed anywhere: start this script again, and it goes on where its last checkpoint was.

Delete logs/run to start from the beginning.
"""

from pathlib import Path

import rl_zoo3.import_envs  # noqa: F401  registers PendulumNoVel-v1
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_recurrent_offpolicy import RecurrentSAC
from sb3_recurrent_offpolicy.checkpoint import CompleteCheckpoint


def main(total_timesteps: int = 20_000) -> None:
    """:param total_timesteps: steps to train for, over all starts of this script"""
    run = Path("logs/run")
    if run.exists():
        model = RecurrentSAC.resume(run)
        print(f"going on after {model.num_timesteps} steps")
    else:
        env = VecNormalize(make_vec_env("PendulumNoVel-v1", n_envs=2, seed=0))
        model = RecurrentSAC("MlpLstmPolicy", env, seed=0)
    # Networks, replay buffer, environments, VecNormalize, random streams
    callback = CompleteCheckpoint(save_freq=5_000, path=run)
    n_left = total_timesteps - model.num_timesteps
    model.learn(n_left, callback=callback, reset_num_timesteps=False, progress_bar=True)


if __name__ == "__main__":
    main()
