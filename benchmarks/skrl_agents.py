"""skrl's recurrent agents, for comparison: every network with an LSTM of its own, as its examples have it."""

from typing import Any

import torch as th
from gymnasium import spaces
from skrl.agents.torch.sac import SAC_RNN
from skrl.agents.torch.td3 import TD3_RNN
from skrl.memories.torch import RandomMemory
from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn


class _RecurrentModel(Model):
    """An LSTM over observations, and a head on it that sees the actions too if the model is a critic."""

    def __init__(
        self, observation_space: spaces.Box, action_space: spaces.Box, length: int, hidden: int, heads: list[int], critic: bool
    ):
        super().__init__(observation_space=observation_space, action_space=action_space, device="cpu")
        self.length, self.hidden, self.critic = length, hidden, critic
        self.lstm = nn.LSTM(self.num_observations, hidden, batch_first=True)
        n_inputs = hidden + (self.num_actions if critic else 0)
        self.head = nn.Sequential(*create_mlp(n_inputs, 1 if critic else self.num_actions, heads))

    def get_specification(self) -> dict[str, Any]:
        sizes = [(1, 1, self.hidden)] * 2
        return {"rnn": {"sequence_length": self.length, "sizes": sizes}}

    def encode(self, inputs: dict[str, Any]) -> tuple[th.Tensor, list[th.Tensor]]:
        """One call over all sequences: the case without an episode's end in the batch, in which skrl is fastest."""
        observations = inputs["observations"]
        sequences = observations.unflatten(0, (-1, self.length))
        # The state of the first step of each sequence
        state = tuple(array.unflatten(1, (-1, self.length))[:, :, 0].contiguous() for array in inputs["rnn"])
        outputs, state = self.lstm(sequences, state)
        outputs = outputs.flatten(end_dim=1)
        if self.critic:
            outputs = th.cat([outputs, inputs["taken_actions"]], dim=-1)
        return self.head(outputs), list(state)


class _Deterministic(DeterministicMixin, _RecurrentModel):
    def __init__(self, *args: Any, **kwargs: Any):
        _RecurrentModel.__init__(self, *args, **kwargs)
        DeterministicMixin.__init__(self)

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[th.Tensor, dict[str, Any]]:
        outputs, state = self.encode(inputs)
        return outputs if self.critic else th.tanh(outputs), {"rnn": state}


class _Gaussian(GaussianMixin, _RecurrentModel):
    def __init__(self, *args: Any, **kwargs: Any):
        _RecurrentModel.__init__(self, *args, **kwargs)
        GaussianMixin.__init__(self, clip_actions=True)
        self.log_std = nn.Parameter(th.zeros(self.num_actions))

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[th.Tensor, dict[str, Any]]:
        outputs, state = self.encode(inputs)
        return th.tanh(outputs), {"log_std": self.log_std, "rnn": state}


def skrl_agent(
    name: str, observation_space: spaces.Box, action_space: spaces.Box, batch: int, length: int, hidden: int, heads: list[int]
) -> Any:
    """
    An agent with a filled memory, ready for ``agent.update(timestep=0, timesteps=1)``.

    :param name: "TD3_RNN" or "SAC_RNN"
    :param observation_space: observation space
    :param action_space: action space
    :param batch: sequences per update
    :param length: steps per sequence
    :param hidden: units of each LSTM
    :param heads: layers behind it
    :return: the agent
    """
    agent_class, actor = {"TD3_RNN": (TD3_RNN, _Deterministic), "SAC_RNN": (SAC_RNN, _Gaussian)}[name]
    actors = {"policy"} | ({"target_policy"} if name == "TD3_RNN" else set())
    critics = {"critic_1", "critic_2", "target_critic_1", "target_critic_2"}
    arguments = (observation_space, action_space, length, hidden, heads)
    models = {role: actor(*arguments, critic=False) for role in actors}
    models |= {role: _Deterministic(*arguments, critic=True) for role in critics}
    memory = RandomMemory(memory_size=4 * batch * length, num_envs=1, device="cpu")
    agent = agent_class(
        models=models,
        memory=memory,
        observation_space=observation_space,
        action_space=action_space,
        device="cpu",
        cfg={"batch_size": batch, "experiment": {"write_interval": 0, "checkpoint_interval": 0}},
    )
    agent.init()
    for tensor in memory.tensors.values():
        tensor.copy_(th.zeros_like(tensor) if tensor.dtype == th.bool else th.randn_like(tensor))
    memory.filled = True
    return agent
