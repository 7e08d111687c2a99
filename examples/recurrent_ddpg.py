"""
RecurrentDDPG on a Pendulum that observes its angle only, evaluated while it trains; the best model is kept.

SB3's TD3, which has no memory, stays near -1200 here. Above -200 the pendulum swings up and stays up.
"""

import rl_zoo3.import_envs  # noqa: F401  registers PendulumNoVel-v1
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_recurrent_offpolicy import RecurrentDDPG


def main(total_timesteps: int = 20_000) -> None:
    """:param total_timesteps: steps to train for"""
    model = RecurrentDDPG("MlpLstmPolicy", "PendulumNoVel-v1", seed=0)
    eval_env = make_vec_env("PendulumNoVel-v1", n_envs=5, seed=1)
    callback = EvalCallback(eval_env, eval_freq=total_timesteps // 5, best_model_save_path="logs/recurrent_ddpg_pendulum")
    model.learn(total_timesteps, callback=callback, progress_bar=True)

    best = RecurrentDDPG.load("logs/recurrent_ddpg_pendulum/best_model")
    mean, std = evaluate_policy(best, eval_env, n_eval_episodes=10)
    print(f"mean return of the best model {mean:.0f} +- {std:.0f}")


if __name__ == "__main__":
    main()
