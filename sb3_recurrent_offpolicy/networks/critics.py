"""Networks that value actions."""

import torch as th
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim
from torch import nn

from sb3_recurrent_offpolicy.networks.encoder import Head, HistoryEncoder, SavedNetwork
from sb3_recurrent_offpolicy.type_aliases import ActionLogProbs, Encoded, RecurrentSequenceSamples


class RecurrentCritic(SavedNetwork):
    """
    What critics share: Q-value heads on one memory.

    :param encoder: memory of the critic
    :param input_dim: number of inputs of each head
    :param output_dim: number of outputs of each head
    :param net_arch: hidden layers of each head
    :param activation_fn: activation function
    :param n_critics: number of heads
    """

    def __init__(
        self,
        encoder: HistoryEncoder,
        input_dim: int,
        output_dim: int,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        n_critics: int,
    ):
        super().__init__(encoder.observation_space, encoder.action_space, normalize_images=encoder.normalize_images)
        self.encoder = encoder
        self.net_arch = net_arch
        self.activation_fn = activation_fn
        self.n_critics = n_critics
        self.q_networks = nn.ModuleList(Head(input_dim, output_dim, net_arch, activation_fn) for _ in range(n_critics))

    def encode(self, samples: RecurrentSequenceSamples, with_successor: bool = True) -> Encoded:
        """
        :param samples: a batch from the replay buffer
        :param with_successor: go on to o_T, which only targets need
        :return: latents of o_0 .. o_T (o_{T-1} without the successor), and the memory that burn-in led to
        """
        return self.encoder.encode(samples, samples.initial_states.vf, with_successor)

    def forward(self, latents: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        :param latents: (T, B, latent_dim)
        :param actions: actions as the replay buffer stores them: (T, B, action_dim)
        :return: their value, by each head: (T, B); quantiles of it, (T, B, n_quantiles), where heads predict distributions
        """
        raise NotImplementedError

    def policy_values(self, latents: th.Tensor, policy: ActionLogProbs) -> tuple[th.Tensor, ...]:
        """
        :param latents: (T, B, latent_dim)
        :param policy: actions that a policy considers there
        :return: their values, by each head: (T, B, N)
        """
        raise NotImplementedError

    def q_vectors(self, latents: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param latents: (..., latent_dim)
        :param actions: (..., action_dim)
        :return: all that this network says of a step: the value of the action by each head, (..., n_critics), or all quantiles
        """
        return th.stack(self(latents, actions), dim=-1)


class RecurrentContinuousCritic(RecurrentCritic):
    """
    Q(m_t, features(o_t), a_t).

    :param encoder: memory of the critic
    :param net_arch: hidden layers of each head
    :param activation_fn: activation function
    :param n_critics: number of heads
    :param n_quantiles: number of quantiles of the distribution that each head predicts; None: each predicts a value
    """

    def __init__(
        self,
        encoder: HistoryEncoder,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        n_critics: int,
        n_quantiles: int | None = None,
    ):
        input_dim = encoder.latent_dim + get_action_dim(encoder.action_space)
        super().__init__(encoder, input_dim, n_quantiles or 1, net_arch, activation_fn, n_critics)
        self.n_quantiles = n_quantiles

    def forward(self, latents: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        inputs = th.cat([latents, actions], dim=-1)
        outputs = tuple(q_network(inputs) for q_network in self.q_networks)
        return tuple(output.squeeze(-1) for output in outputs) if self.n_quantiles is None else outputs

    def q_vectors(self, latents: th.Tensor, actions: th.Tensor) -> th.Tensor:
        if self.n_quantiles is None:
            return super().q_vectors(latents, actions)
        return th.cat(self(latents, actions), dim=-1)

    def policy_values(self, latents: th.Tensor, policy: ActionLogProbs) -> tuple[th.Tensor, ...]:
        assert policy.actions is not None, "the values of all actions of a continuous space cannot be enumerated"
        return tuple(values.unsqueeze(-1) for values in self(latents, policy.actions))

    def q1_forward(self, latents: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param latents: (T, B, latent_dim)
        :param actions: (T, B, action_dim)
        :return: the value of the first head only: (T, B)
        """
        return self.q_networks[0](th.cat([latents, actions], dim=-1)).squeeze(-1)


class RecurrentDiscreteCritic(RecurrentCritic):
    """
    Q(m_t, features(o_t), .), one output per action.

    :param encoder: memory of the critic
    :param net_arch: hidden layers of each head
    :param activation_fn: activation function
    :param n_critics: number of heads
    """

    def __init__(self, encoder: HistoryEncoder, net_arch: list[int], activation_fn: type[nn.Module], n_critics: int):
        n_actions = get_flattened_obs_dim(encoder.action_space)
        super().__init__(encoder, encoder.latent_dim, n_actions, net_arch, activation_fn, n_critics)

    def forward(self, latents: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        return tuple(q_network(latents).gather(-1, actions.long()).squeeze(-1) for q_network in self.q_networks)

    def policy_values(self, latents: th.Tensor, policy: ActionLogProbs) -> tuple[th.Tensor, ...]:
        return tuple(q_network(latents) for q_network in self.q_networks)


class RecurrentQNetwork(SavedNetwork):
    """
    Q(m_t, features(o_t), .), one output per action, that also acts: for Q-learning.

    With dueling heads, Q = V + A - mean(A) over actions (Wang et al. 2016, eq. 9): the mean makes V and A identifiable.

    :param encoder: the memory
    :param net_arch: hidden layers of each head
    :param activation_fn: activation function
    :param dueling: one head for the value, one for the advantages
    """

    def __init__(self, encoder: HistoryEncoder, net_arch: list[int], activation_fn: type[nn.Module], dueling: bool):
        super().__init__(encoder.observation_space, encoder.action_space, normalize_images=encoder.normalize_images)
        self.encoder = encoder
        self.net_arch = net_arch
        self.activation_fn = activation_fn
        self.dueling = dueling
        n_actions = get_flattened_obs_dim(self.action_space)
        self.advantages = Head(encoder.latent_dim, n_actions, net_arch, activation_fn)
        self.value = Head(encoder.latent_dim, 1, net_arch, activation_fn) if dueling else None

    def encode(self, samples: RecurrentSequenceSamples) -> Encoded:
        """
        :param samples: a batch from the replay buffer
        :return: latents of o_0 .. o_T, and the memory that burn-in led to
        """
        return self.encoder.encode(samples, samples.initial_states.pi)

    def q_values(self, latents: th.Tensor) -> th.Tensor:
        """
        :param latents: (..., latent_dim)
        :return: (..., n_actions)
        """
        advantages = self.advantages(latents)
        if self.value is None:
            return advantages
        return self.value(latents) + advantages - advantages.mean(dim=-1, keepdim=True)

    def q_vectors(self, latents: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param latents: (..., latent_dim)
        :param actions: without effect
        :return: all that this network says of a step: the values of all actions, (..., n_actions)
        """
        return self.q_values(latents)

    def distribution(self, latents: th.Tensor) -> dict[str, th.Tensor]:
        """
        :param latents: (B, latent_dim)
        :return: none, as of any deterministic policy
        """
        return {}

    def forward(self, latents: th.Tensor, deterministic: bool = True) -> th.Tensor:
        """
        :param latents: (B, latent_dim)
        :param deterministic: without effect, exploration is the algorithm's
        :return: the best actions: (B,)
        """
        return self.q_values(latents).argmax(dim=-1)
