"""
Normalised observations: train with VecNormalize, save the model and the statistics, load both, evaluate.

CartPole's hidden velocities show in small differences of small numbers. The best return is 500.
"""

import rl_zoo3.import_envs  # noqa: F401  registers CartPoleNoVel-v1
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_recurrent_offpolicy import R2D2


def main(total_timesteps: int = 100_000) -> None:
    """:param total_timesteps: steps to train for"""
    # Rewards stay as they are: each algorithm has its own way to scale them
    env = VecNormalize(make_vec_env("CartPoleNoVel-v1", n_envs=8, seed=0), norm_reward=False)
    model = R2D2("MlpLstmPolicy", env, seed=0)
    model.learn(total_timesteps, progress_bar=True)
    model.save("logs/r2d2_cartpole")
    env.save("logs/r2d2_cartpole_vec_normalize.pkl")

    env = VecNormalize.load("logs/r2d2_cartpole_vec_normalize.pkl", make_vec_env("CartPoleNoVel-v1", n_envs=4, seed=1))
    env.training = False
    model = R2D2.load("logs/r2d2_cartpole")
    mean, std = evaluate_policy(model, env, n_eval_episodes=16)
    print(f"mean return {mean:.0f} +- {std:.0f}")


if __name__ == "__main__":
    main()
