"""
What Thompson sampling (Thompson 1933) gains on the bandits and starts that ``benchmarks.learning`` scores final models on.

    python -m benchmarks.thompson     # benchmarks/results/BanditTrial-v0/thompson.json

It knows what the learned agents must find out: that rewards are Bernoulli, arms independent and their means uniform.
"""

import json
from typing import Any

import numpy as np

from benchmarks.learning import EVALUATION_SEED, RESULTS, score
from benchmarks.tasks import TASKS

ENV_ID = "BanditTrial-v0"


class ThompsonSampling:
    """
    Pulls the arm that is best under means drawn from their posterior.

    :param n_arms: number of arms
    :param seed: of its draws
    """

    def __init__(self, n_arms: int, seed: int):
        self.n_arms = n_arms
        self.rng = np.random.default_rng(seed)

    def predict(
        self, observations: np.ndarray, state: np.ndarray | None, episode_start: np.ndarray, deterministic: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        :param observations: nothing, the last arm (one-hot), its reward, whether a pull came before: (n_envs, n_arms + 3)
        :param state: gains and losses of each arm, (2, n_envs, n_arms)
        :param episode_start: whether a new bandit is played, (n_envs,)
        :param deterministic: without effect
        :return: arms and state
        """
        if state is None:
            state = np.zeros((2, len(observations), self.n_arms))
        arms, rewards = observations[:, 1:-2], observations[:, [-2]]
        state = (state + np.stack([arms * rewards, arms * (1 - rewards)])) * ~episode_start[:, None]
        return self.rng.beta(*(1 + state)).argmax(axis=1), state

    def get_env(self) -> None:
        """It was trained in none."""

    get_vec_normalize_env = get_env


def main() -> None:
    n_starts = TASKS[ENV_ID].n_starts
    player: Any = ThompsonSampling(n_arms=10, seed=0)
    returns = score(player, ENV_ID, n_starts, EVALUATION_SEED)
    result = {
        "command": "python -m benchmarks.thompson",
        "mean": round(float(returns.mean()), 2),
        "standard_error": round(float(returns.std() / np.sqrt(n_starts)), 2),
    }
    (RESULTS / ENV_ID).mkdir(parents=True, exist_ok=True)
    (RESULTS / ENV_ID / "thompson.json").write_text(json.dumps(result, indent=1) + "\n")
    print(result)


if __name__ == "__main__":
    main()
