"""
A memory of your own in place of the LSTM: running averages, each over a time span of its own, which is learned.

`check_core` finds out whether a core keeps what the algorithms rely on. docs/custom_memory.md tells more.
"""

import rl_zoo3.import_envs  # noqa: F401  registers PendulumNoVel-v1
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_recurrent_offpolicy import RecurrentSAC
from sb3_recurrent_offpolicy.cores import RecurrentCore, check_core


class Averages(RecurrentCore):
    """m_t = k m_{t-1} + (1 - k) tanh(W x_t), with one k in (0, 1) for each unit; always a single layer."""

    def __init__(self, input_size: int, hidden_size: int, n_layers: int = 1):
        super().__init__(input_size, output_size=hidden_size, state_shapes=((1, hidden_size),))
        self.linear = th.nn.Linear(input_size, hidden_size)
        self.logit = th.nn.Parameter(th.linspace(-4, 4, hidden_size))

    def unroll(self, inputs: th.Tensor, state: tuple[th.Tensor, ...]) -> tuple[th.Tensor, tuple[th.Tensor, ...]]:
        keep, (memory,) = self.logit.sigmoid(), state
        outputs = []
        for features in self.linear(inputs).tanh():
            memory = keep * memory + (1 - keep) * features
            outputs.append(memory)
        return th.cat(outputs), (memory,)


def main(total_timesteps: int = 20_000) -> None:
    """:param total_timesteps: steps to train for"""
    check_core(Averages(input_size=5, hidden_size=8))
    env = make_vec_env("PendulumNoVel-v1", seed=0)
    model = RecurrentSAC("MlpLstmPolicy", env, policy_kwargs=dict(core=Averages), seed=0)
    model.learn(total_timesteps, progress_bar=True)
    mean, std = evaluate_policy(model, env, n_eval_episodes=10)
    print(f"mean return {mean:.0f} +- {std:.0f}")


if __name__ == "__main__":
    main()
