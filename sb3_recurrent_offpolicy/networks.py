"""
Networks with memory: what actor and critic are made of.

Every network reads the history through a memory and the present directly::

    m_t = core(m_{t-1}, [features(o_t), a_{t-1}])      what was observed and done
    actor:   pi(m_t, features(o_t))
    critic:  Q(m_t, features(o_t), a_t)                a_t joins behind the memory, never inside it
"""

import copy
import inspect
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import nn

from sb3_recurrent_offpolicy.cores import RecurrentCore
from sb3_recurrent_offpolicy.preprocessing import map_observation
from sb3_recurrent_offpolicy.type_aliases import ActionLogProbs, BurnIn, CoreState, Encoded, RecurrentSequenceSamples


class SavedNetwork(BaseModel):
    """A part of a policy that ``save`` and ``load`` know by itself, because it keeps what it was constructed from."""

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}


class HistoryEncoder(SavedNetwork):
    """
    Features extractor and memory: turns observations and previous actions into latents ``[m_t, features(o_t)]``.

    :param observation_space: observation space
    :param action_space: action space
    :param features_extractor: network to extract features
    :param core: memory over ``[features(o_t), a_{t-1}]``
    :param detach_features: let no gradient into the features extractor, because another network trains it
    :param normalize_images: divide images by 255
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        features_extractor: BaseFeaturesExtractor,
        core: RecurrentCore,
        detach_features: bool = False,
        normalize_images: bool = True,
    ):
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.core = core
        self.detach_features = detach_features
        self.latent_dim = int(core.output_size + features_extractor.features_dim)

    def inputs(self, observations: PyTorchObs, previous_actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param observations: (B, *obs), or a dict of them
        :param previous_actions: (B, A)
        :return: inputs of the memory (B, F + A), and the features in them (B, F)
        """
        features = self.extract_features(observations, self.features_extractor)
        if self.detach_features:
            features = features.detach()
        return th.cat([features, previous_actions], dim=-1), features

    def step(self, inputs: th.Tensor, features: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        """
        Advance by one step, to act.

        :param inputs: (B, F + A), from :meth:`inputs`
        :param features: (B, F), from :meth:`inputs`
        :param state: memory before the step, each (n_layers, B, hidden)
        :return: latents (B, latent_dim) and the memory after the step
        """
        memory, state = self.core.step(inputs, state)
        return th.cat([memory, features], dim=-1), state

    def unroll(self, observations: PyTorchObs, previous_actions: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        """
        Run over sequences, to learn.

        :param observations: (T, B, *obs), or a dict of them
        :param previous_actions: (T, B, A)
        :param state: memory before the first step, each (n_layers, B, hidden)
        :return: latents (T, B, latent_dim) and the memory after the last step
        """
        sizes = previous_actions.shape[:2]
        flat = map_observation(lambda array: array.flatten(end_dim=1), observations)
        inputs, features = self.inputs(flat, previous_actions.flatten(end_dim=1))
        memory, state = self.core.unroll(inputs.unflatten(0, sizes), state)
        return th.cat([memory, features.unflatten(0, sizes)], dim=-1), state

    def encode(self, samples: RecurrentSequenceSamples, state: CoreState) -> Encoded:
        """
        Run over a batch from the replay buffer, after its burn-in with this network's own weights.

        :param samples: the batch
        :param state: this network's part of ``samples.initial_states``
        :return: latents of o_0 .. o_T, and the memory that burn-in led to
        """
        warm_state: CoreState = ()
        if samples.burn_in is not None:
            warm_state = self.burn_in(samples.burn_in, state)
            n_rows = samples.burn_in.previous_actions.shape[1]
            state = tuple(th.cat([warm, array[:, n_rows:]], dim=1) for warm, array in zip(warm_state, state, strict=True))
        return Encoded(self.unroll(samples.observations, samples.previous_actions, state)[0], warm_state)

    @th.no_grad()
    def burn_in(self, burn_in: BurnIn, state: CoreState) -> CoreState:
        """
        :param burn_in: the steps before the first B' rows of a batch
        :param state: memory at the first step of each row of the batch, (n_layers, B, hidden) each
        :return: memory after these steps, (n_layers, B', hidden) each
        """
        n_rows = burn_in.previous_actions.shape[1]
        # As when acting: dropout must not enter memories, nor batch norm count the prefix
        training = self.training
        self.train(False)
        _, state = self.unroll(*burn_in, tuple(array[:, :n_rows].contiguous() for array in state))
        self.train(training)
        return state


class Head(nn.Sequential):
    """
    The layers behind a memory. They see time and batch as one axis: then ReLU can work in place, which on a view of
    another shape would cost autograd a copy instead of sparing one.

    :param input_dim: number of inputs
    :param output_dim: number of outputs
    :param net_arch: hidden layers
    :param activation_fn: activation function
    """

    def __init__(self, input_dim: int, output_dim: int, net_arch: list[int], activation_fn: type[nn.Module]):
        super().__init__(*create_mlp(input_dim, output_dim, net_arch, activation_fn))
        for layer in self:
            if isinstance(layer, nn.ReLU):
                layer.inplace = True

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: (..., input_dim)
        :return: (..., output_dim)
        """
        if inputs.dim() == 2:
            return super().forward(inputs)
        return super().forward(inputs.flatten(end_dim=-2)).unflatten(0, inputs.shape[:-1])


class RecurrentActor(SavedNetwork):
    """
    What actors share: a memory, and what to say of the actions behind it.

    :param encoder: memory of the actor; the critic's, if ``shared_lstm``
    :param shared_lstm: the memory belongs to the critic, which alone trains it
    :param net_arch: hidden layers behind the memory
    :param activation_fn: activation function
    """

    def __init__(self, encoder: HistoryEncoder, shared_lstm: bool, net_arch: list[int], activation_fn: type[nn.Module]):
        super().__init__(encoder.observation_space, encoder.action_space, normalize_images=encoder.normalize_images)
        self.encoder = encoder
        self.shared_lstm = shared_lstm
        self.net_arch = net_arch
        self.activation_fn = activation_fn

    def encode(self, samples: RecurrentSequenceSamples, critic_encoded: Encoded) -> Encoded:
        """
        :param samples: a batch from the replay buffer
        :param critic_encoded: what the critic's memory made of it, reused if that is the actor's memory too
        :return: latents of o_0 .. o_T, and the memory that burn-in led to
        """
        if self.shared_lstm:
            return critic_encoded._replace(latents=critic_encoded.latents.detach())
        return self.encoder.encode(samples, samples.initial_states.pi)

    def forward(self, latents: th.Tensor, deterministic: bool = False) -> th.Tensor:
        """
        :param latents: (B, latent_dim)
        :param deterministic: the most likely action rather than a sampled one
        :return: actions as the replay buffer stores them: (B, action_dim) in [-1, 1] for Box, (B,) for Discrete
        """
        raise NotImplementedError


class DeterministicActor(RecurrentActor):
    """
    Deterministic policy, for TD3 and DDPG.

    :param encoder: memory of the actor; the critic's, if ``shared_lstm``
    :param shared_lstm: the memory belongs to the critic, which alone trains it
    :param net_arch: hidden layers behind the memory
    :param activation_fn: activation function
    """

    def __init__(self, encoder: HistoryEncoder, shared_lstm: bool, net_arch: list[int], activation_fn: type[nn.Module]):
        super().__init__(encoder, shared_lstm, net_arch, activation_fn)
        self.mu = Head(encoder.latent_dim, get_action_dim(self.action_space), net_arch, activation_fn)

    def forward(self, latents: th.Tensor, deterministic: bool = True) -> th.Tensor:
        """
        :param latents: (..., latent_dim)
        :param deterministic: without effect
        :return: actions in [-1, 1]: (..., action_dim)
        """
        return th.tanh(self.mu(latents))


class SquashedGaussianActor(RecurrentActor):
    """
    Gaussian policy squashed by tanh, for SAC with Box actions; the distributions are SB3's.

    :param encoder: memory of the actor; the critic's, if ``shared_lstm``
    :param shared_lstm: the memory belongs to the critic, which alone trains it
    :param net_arch: hidden layers behind the memory
    :param activation_fn: activation function
    :param use_sde: generalized state-dependent exploration (Raffin et al. 2021, gSDE): the noise is a function of the last
        hidden layer, drawn now and then, one function per environment
    :param log_std_init: initial value of the log standard deviation with gSDE
    :param use_expln: ``expln()`` instead of ``exp()`` to get a positive standard deviation with gSDE
    :param clip_mean: clip the mean before tanh to this absolute value with gSDE; 0 not to
    """

    action_dist: SquashedDiagGaussianDistribution | StateDependentNoiseDistribution
    mu: nn.Module
    # A parameter with gSDE, a layer without
    log_std: Any

    def __init__(
        self,
        encoder: HistoryEncoder,
        shared_lstm: bool,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        use_sde: bool,
        log_std_init: float,
        use_expln: bool,
        clip_mean: float,
    ):
        super().__init__(encoder, shared_lstm, net_arch, activation_fn)
        action_dim = get_action_dim(self.action_space)
        self.latent_pi = Head(encoder.latent_dim, -1, net_arch, activation_fn)
        last_layer_dim = net_arch[-1] if net_arch else encoder.latent_dim
        self.use_sde = use_sde
        self.log_std_init = log_std_init
        self.use_expln = use_expln
        self.clip_mean = clip_mean
        if use_sde:
            self.action_dist = StateDependentNoiseDistribution(
                action_dim, use_expln=use_expln, learn_features=True, squash_output=True
            )
            self.mu, self.log_std = self.action_dist.proba_distribution_net(last_layer_dim, log_std_init)
            if clip_mean > 0.0:
                self.mu = nn.Sequential(self.mu, nn.Hardtanh(min_val=-clip_mean, max_val=clip_mean))
        else:
            self.action_dist = SquashedDiagGaussianDistribution(action_dim)
            self.mu = nn.Linear(last_layer_dim, action_dim)
            self.log_std = nn.Linear(last_layer_dim, action_dim)

    def reset_noise(self, batch_size: int = 1) -> None:
        """
        Draw new noise functions, with gSDE.

        :param batch_size: how many, one per environment
        """
        assert isinstance(self.action_dist, StateDependentNoiseDistribution), "reset_noise() is only available with gSDE"
        with th.no_grad():
            self.action_dist.sample_weights(self.log_std, batch_size=batch_size)

    def get_std(self) -> th.Tensor:
        """
        :return: standard deviations of the noise function's weights with gSDE, (last layer, action_dim); SB3 logs their mean
        """
        assert isinstance(self.action_dist, StateDependentNoiseDistribution), "get_std() is only available with gSDE"
        return self.action_dist.get_std(self.log_std)

    def _distribution_parameters(self, latents: th.Tensor) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        """Mean, log standard deviation and what gSDE needs besides, of (B, latent_dim) latents."""
        latent_pi = self.latent_pi(latents)
        if self.use_sde:
            return self.mu(latent_pi), self.log_std, {"latent_sde": latent_pi}
        return self.mu(latent_pi), self.log_std(latent_pi).clamp(LOG_STD_MIN, LOG_STD_MAX), {}

    def forward(self, latents: th.Tensor, deterministic: bool = False) -> th.Tensor:
        mean_actions, log_std, kwargs = self._distribution_parameters(latents)
        distribution = copy.copy(self.action_dist)
        return distribution.actions_from_params(mean_actions, log_std, deterministic=deterministic, **kwargs)

    def action_log_prob(self, latents: th.Tensor) -> ActionLogProbs:
        """
        :param latents: (T, B, latent_dim)
        :return: one sampled action per step; with gSDE, by a new noise function
        """
        # SB3's distributions keep what they computed, and with it the graph: it must not stay behind in the network
        distribution = copy.copy(self.action_dist)
        if isinstance(distribution, StateDependentNoiseDistribution):
            # New at each update, because the deviation it was drawn with may have changed
            distribution.sample_weights(self.log_std)
        # The distributions know one batch axis, and noise functions by environment must not meet time there
        mean_actions, log_std, kwargs = self._distribution_parameters(latents.flatten(end_dim=1))
        actions, log_probs = distribution.log_prob_from_params(mean_actions, log_std, **kwargs)
        sizes = latents.shape[:2]
        log_probs = log_probs.unflatten(0, sizes).unsqueeze(-1)
        return ActionLogProbs(actions.unflatten(0, sizes), log_probs, th.ones_like(log_probs))


class CategoricalActor(RecurrentActor):
    """
    Categorical policy, for SAC with Discrete actions.

    :param encoder: memory of the actor; the critic's, if ``shared_lstm``
    :param shared_lstm: the memory belongs to the critic, which alone trains it
    :param net_arch: hidden layers behind the memory
    :param activation_fn: activation function
    """

    def __init__(self, encoder: HistoryEncoder, shared_lstm: bool, net_arch: list[int], activation_fn: type[nn.Module]):
        super().__init__(encoder, shared_lstm, net_arch, activation_fn)
        n_actions = get_flattened_obs_dim(self.action_space)
        self.action_dist = CategoricalDistribution(n_actions)
        self.logits = Head(encoder.latent_dim, n_actions, net_arch, activation_fn)

    def forward(self, latents: th.Tensor, deterministic: bool = False) -> th.Tensor:
        return copy.copy(self.action_dist).actions_from_params(self.logits(latents), deterministic=deterministic)

    def action_log_prob(self, latents: th.Tensor) -> ActionLogProbs:
        """
        :param latents: (T, B, latent_dim)
        :return: every action, with its probability
        """
        log_probs = th.log_softmax(self.logits(latents), dim=-1)
        return ActionLogProbs(None, log_probs, log_probs.exp())


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

    def encode(self, samples: RecurrentSequenceSamples) -> Encoded:
        """
        :param samples: a batch from the replay buffer
        :return: latents of o_0 .. o_T, and the memory that burn-in led to
        """
        return self.encoder.encode(samples, samples.initial_states.vf)

    def forward(self, latents: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        :param latents: (T, B, latent_dim)
        :param actions: actions as the replay buffer stores them: (T, B, action_dim)
        :return: their value, by each head: (T, B)
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
        :return: all that this network says of a step: the value of the action by each head, (..., n_critics)
        """
        return th.stack(self(latents, actions), dim=-1)


class RecurrentContinuousCritic(RecurrentCritic):
    """
    Q(m_t, features(o_t), a_t).

    :param encoder: memory of the critic
    :param net_arch: hidden layers of each head
    :param activation_fn: activation function
    :param n_critics: number of heads
    """

    def __init__(self, encoder: HistoryEncoder, net_arch: list[int], activation_fn: type[nn.Module], n_critics: int):
        input_dim = encoder.latent_dim + get_action_dim(encoder.action_space)
        super().__init__(encoder, input_dim, 1, net_arch, activation_fn, n_critics)

    def forward(self, latents: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        inputs = th.cat([latents, actions], dim=-1)
        return tuple(q_network(inputs).squeeze(-1) for q_network in self.q_networks)

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

    def forward(self, latents: th.Tensor, deterministic: bool = True) -> th.Tensor:
        """
        :param latents: (B, latent_dim)
        :param deterministic: without effect, exploration is the algorithm's
        :return: the best actions: (B,)
        """
        return self.q_values(latents).argmax(dim=-1)
