"""
RecurrentTQC on a Pendulum that observes its angle only, in two runs: the second one goes on from the saved files.

Saved with its replay buffer, the model learns from all its experience. Above -200 the pendulum swings up and stays up.
"""

import rl_zoo3.import_envs  # noqa: F401  registers PendulumNoVel-v1
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_recurrent_offpolicy import RecurrentTQC


def main(total_timesteps: int = 20_000) -> None:
    """:param total_timesteps: steps to train for"""
    env = make_vec_env("PendulumNoVel-v1", seed=0)
    # The file has room for the whole buffer, filled or not: a million steps would take much more
    model = RecurrentTQC("MlpLstmPolicy", env, buffer_size=20_000, seed=0)
    model.learn(total_timesteps, progress_bar=True)
    model.save("logs/recurrent_tqc_pendulum")
    model.save_replay_buffer("logs/recurrent_tqc_pendulum_buffer")

    model = RecurrentTQC.load("logs/recurrent_tqc_pendulum", env=env)
    model.load_replay_buffer("logs/recurrent_tqc_pendulum_buffer")
    model.learn(total_timesteps // 4, reset_num_timesteps=False, progress_bar=True)
    mean, std = evaluate_policy(model, env, n_eval_episodes=10)
    print(f"mean return after {model.num_timesteps} steps {mean:.0f} +- {std:.0f}")


if __name__ == "__main__":
    main()
