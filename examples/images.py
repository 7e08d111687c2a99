"""
Single images, without a frame stack: catch a ball that is visible in the first image only.

The best return is 1. A policy that knows the latest image only catches half of the balls at best.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_recurrent_offpolicy import RecurrentSAC

SIZE = 6  # columns and rows, of 6 x 6 pixels each: SB3's CNN takes 36 x 36 at least


class Catch(gym.Env[np.ndarray, np.int64]):
    """Actions 0, 1 and 2 move the paddle to the left, not at all, and to the right."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (6 * SIZE, 6 * SIZE, 1), np.uint8)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.paddle, self.ball = 0, SIZE // 2, int(self.np_random.integers(SIZE))
        return self.image(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.paddle = int(np.clip(self.paddle + action - 1, 0, SIZE - 1))
        over = self.time == SIZE - 1
        return self.image(), float(over and self.paddle == self.ball), over, False, {}

    def image(self) -> np.ndarray:
        """:return: the paddle in the last row and, at first, the ball in the first row"""
        cells = np.zeros((SIZE, SIZE, 1), dtype=np.uint8)
        cells[-1, self.paddle] = 255
        if self.time == 0:
            cells[0, self.ball] = 255
        return cells.repeat(6, axis=0).repeat(6, axis=1)


def main(total_timesteps: int = 20_000) -> None:
    """:param total_timesteps: steps to train for"""
    env = make_vec_env(Catch, n_envs=8, seed=0)
    # A million steps, the default, would take 1.3 GB of memory; an episode has SIZE - 1 steps
    model = RecurrentSAC("CnnLstmPolicy", env, buffer_size=20_000, sequence_length=SIZE - 1, seed=0)
    model.learn(total_timesteps, progress_bar=True)
    mean, std = evaluate_policy(model, env, n_eval_episodes=100)
    print(f"mean return {mean:.2f} +- {std:.2f}")


if __name__ == "__main__":
    main()
