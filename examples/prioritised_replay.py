"""
Prioritised replay for RecurrentSAC: sequences with large errors are replayed more often.

The goal of the task pays, nothing else does, and a hidden wind blows. train/priority_mean and train/priority_max are logged.
"""

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_recurrent_offpolicy.envs  # noqa: F401  registers HiddenWindReach-v0
from sb3_recurrent_offpolicy import RecurrentSAC


def main(total_timesteps: int = 100_000) -> None:
    """:param total_timesteps: steps to train for"""
    env = make_vec_env("HiddenWindReach-v0", n_envs=8, seed=0)
    # alpha 0 replays uniformly, 1 in proportion to the errors; beta corrects for it with importance weights
    priorities = dict(priority_alpha=0.6, importance_beta=0.4)
    model = RecurrentSAC("MlpLstmPolicy", env, replay_buffer_kwargs=priorities, seed=0, verbose=1)
    model.learn(total_timesteps, log_interval=100)
    mean, std = evaluate_policy(model, env, n_eval_episodes=40)
    print(f"mean return {mean:.1f} +- {std:.1f}, at best 62.2 on average")


if __name__ == "__main__":
    main()
