"""Networks that choose actions."""

import copy
import math
from typing import Any

import torch as th
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import nn

from sb3_recurrent_offpolicy.networks.encoder import Head, HistoryEncoder, SavedNetwork
from sb3_recurrent_offpolicy.type_aliases import ActionLogProbs, Encoded, RecurrentSequenceSamples


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

    def encode(self, samples: RecurrentSequenceSamples, critic_encoded: Encoded, with_successor: bool = True) -> Encoded:
        """
        :param samples: a batch from the replay buffer
        :param critic_encoded: what the critic's memory made of it, reused if that is the actor's memory too; if not, its
            features are, where they are the actor's too
        :param with_successor: go on to o_T, which only targets need
        :return: latents of o_0 .. o_T (o_{T-1} without the successor), and the memory that burn-in led to
        """
        if self.shared_lstm:
            return critic_encoded._replace(latents=critic_encoded.latents.detach())
        shared = critic_encoded if self.encoder.detach_features else None
        return self.encoder.encode(samples, samples.initial_states.pi, with_successor, shared)

    def forward(self, latents: th.Tensor, deterministic: bool = False, noise: th.Tensor | None = None) -> th.Tensor:
        """
        :param latents: (B, latent_dim)
        :param deterministic: the most likely action rather than a sampled one
        :param noise: standard normal numbers to sample Gaussian actions with, (B, action_dim); None to draw them
        :return: actions as the replay buffer stores them: (B, action_dim) in [-1, 1] for Box, (B,) for Discrete
        """
        raise NotImplementedError

    def distribution(self, latents: th.Tensor) -> dict[str, th.Tensor]:
        """
        :param latents: (B, latent_dim)
        :return: parameters of the distribution of actions, by name: "mean" (before tanh) and "log_std", or "log_probs";
            none for a deterministic policy
        """
        return {}


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

    def forward(self, latents: th.Tensor, deterministic: bool = True, noise: th.Tensor | None = None) -> th.Tensor:
        """
        :param latents: (..., latent_dim)
        :param deterministic: without effect
        :param noise: without effect
        :return: actions in [-1, 1]: (..., action_dim)
        """
        return th.tanh(self.mu(latents))


class SquashedGaussian(SquashedDiagGaussianDistribution):
    """SB3's distribution in a third of the operators: the density of a Gaussian at its own sample is known from the noise."""

    def actions_from_params(
        self,
        mean_actions: th.Tensor,
        log_std: th.Tensor,
        deterministic: bool = False,
        noise: th.Tensor | float | None = None,
    ) -> th.Tensor:
        """
        :param mean_actions: before tanh, (N, action_dim)
        :param log_std: (N, action_dim)
        :param deterministic: the most likely actions
        :param noise: standard normal numbers, (N, action_dim); None to draw them
        :return: (N, action_dim)
        """
        if deterministic:
            noise = 0.0
        elif noise is None:
            noise = th.randn_like(mean_actions)
        return th.tanh(mean_actions + log_std.exp() * noise)

    def log_prob_from_params(self, mean_actions: th.Tensor, log_std: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param mean_actions: before tanh, (N, action_dim)
        :param log_std: (N, action_dim)
        :return: sampled actions, (N, action_dim), and their log probabilities, (N,)
        """
        noise = th.randn_like(mean_actions)
        actions = th.tanh(mean_actions + log_std.exp() * noise)
        log_gaussian = -0.5 * (noise.square() + math.log(2 * math.pi)) - log_std
        # tanh changes the density by its slope; SB3's epsilon avoids log(0)
        return actions, (log_gaussian - th.log(1 - actions.square() + self.epsilon)).sum(dim=-1)


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

    action_dist: SquashedGaussian | StateDependentNoiseDistribution
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
            # The noise functions that it draws would belong to a graph, and could not be copied
            with th.no_grad():
                self.mu, self.log_std = self.action_dist.proba_distribution_net(last_layer_dim, log_std_init)
            if clip_mean > 0.0:
                self.mu = nn.Sequential(self.mu, nn.Hardtanh(min_val=-clip_mean, max_val=clip_mean))
        else:
            self.action_dist = SquashedGaussian(action_dim)
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

    def distribution(self, latents: th.Tensor) -> dict[str, th.Tensor]:
        mean_actions, log_std, kwargs = self._distribution_parameters(latents)
        if kwargs:
            # The deviation of gSDE's noise at these latents
            log_std = (kwargs["latent_sde"].square() @ self.get_std().square()).add(1e-6).log() / 2
        return {"mean": mean_actions, "log_std": log_std}

    def forward(self, latents: th.Tensor, deterministic: bool = False, noise: th.Tensor | None = None) -> th.Tensor:
        mean_actions, log_std, kwargs = self._distribution_parameters(latents)
        if noise is not None:
            kwargs["noise"] = noise
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
        return ActionLogProbs(actions.unflatten(0, sizes), log_probs.unflatten(0, sizes).unsqueeze(-1))


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

    def forward(self, latents: th.Tensor, deterministic: bool = False, noise: th.Tensor | None = None) -> th.Tensor:
        return copy.copy(self.action_dist).actions_from_params(self.logits(latents), deterministic=deterministic)

    def action_log_prob(self, latents: th.Tensor) -> ActionLogProbs:
        """
        :param latents: (T, B, latent_dim)
        :return: every action, with its probability
        """
        log_probs = th.log_softmax(self.logits(latents), dim=-1)
        return ActionLogProbs(None, log_probs, log_probs.exp())

    def distribution(self, latents: th.Tensor) -> dict[str, th.Tensor]:
        return {"log_probs": th.log_softmax(self.logits(latents), dim=-1)}
