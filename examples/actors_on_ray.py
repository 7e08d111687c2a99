"""Two processes act, this one learns. Needs ``pip install 'sb3_recurrent_offpolicy[ray]'``."""

import gymnasium as gym
import rl_zoo3.import_envs  # noqa: F401  registers CartPoleNoVel-v1

from sb3_recurrent_offpolicy import R2D2
from sb3_recurrent_offpolicy.distributed import RayActors


def make_env() -> gym.Env:
    """One environment. It is called in the actors; what this process has registered is known there."""
    return gym.make("CartPoleNoVel-v1")


def main(total_timesteps: int = 60_000) -> None:
    """:param total_timesteps: steps of all actors together"""
    # Its own environment tells the spaces, and stands still
    model = R2D2("MlpLstmPolicy", make_env(), seed=0, verbose=1)
    with RayActors(model, make_env, n_actors=2, envs_per_actor=8):
        model.learn(total_timesteps, log_interval=100, progress_bar=True)
    model.save("logs/r2d2_with_actors")


if __name__ == "__main__":
    main()
