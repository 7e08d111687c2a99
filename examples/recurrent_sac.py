"""
RecurrentSAC on a Pendulum that observes its velocity only; the last torque and reward tell of the angle.

SB3's SAC, which has no memory, stays near -1250 here. Above -200 the pendulum swings up and stays up.
"""

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_recurrent_offpolicy.envs  # noqa: F401  registers PendulumVelocityOnly-v0
from sb3_recurrent_offpolicy import RecurrentSAC


def main(total_timesteps: int = 30_000) -> None:
    """:param total_timesteps: steps to train for"""
    env = make_vec_env("PendulumVelocityOnly-v0", seed=0)
    model = RecurrentSAC("MlpLstmPolicy", env, seed=0)
    model.learn(total_timesteps, progress_bar=True)
    mean, std = evaluate_policy(model, env, n_eval_episodes=10)
    print(f"mean return {mean:.0f} +- {std:.0f}")


if __name__ == "__main__":
    main()
