"""
RecurrentSAC with discrete actions, on CartPole without its velocities.

The best return is 500, where the pole stands to the end. SB3's DQN, which has no memory, stays near 40.
"""

import rl_zoo3.import_envs  # noqa: F401  registers CartPoleNoVel-v1
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_recurrent_offpolicy import RecurrentSAC


def main(total_timesteps: int = 50_000) -> None:
    """:param total_timesteps: steps to train for"""
    env = make_vec_env("CartPoleNoVel-v1", n_envs=8, seed=0)
    model = RecurrentSAC("MlpLstmPolicy", env, seed=0)
    model.learn(total_timesteps, progress_bar=True)
    mean, std = evaluate_policy(model, env, n_eval_episodes=16)
    print(f"mean return {mean:.0f} +- {std:.0f}")


if __name__ == "__main__":
    main()
