"""
R2D2 on a task for memory alone: a cue is shown at the first step and asked for 10 steps later.

The best return is 1. An agent that forgets the cue gets 0 on average.
"""

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_recurrent_offpolicy.envs  # noqa: F401  registers MemoryLength-v0
from sb3_recurrent_offpolicy import R2D2


def main(total_timesteps: int = 200_000) -> None:
    """:param total_timesteps: steps to train for"""
    # From 8 environments on, each explores at a rate of its own
    env = make_vec_env("MemoryLength-v0", n_envs=8, seed=0, env_kwargs=dict(memory_length=10))
    model = R2D2("MlpLstmPolicy", env, seed=0)
    model.learn(total_timesteps, progress_bar=True)
    mean, std = evaluate_policy(model, env, n_eval_episodes=100)
    print(f"mean return {mean:.2f} +- {std:.2f}")


if __name__ == "__main__":
    main()
