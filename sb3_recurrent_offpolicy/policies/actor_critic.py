"""What the policies of TD3, DDPG and SAC share."""

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import get_actor_critic_arch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from sb3_recurrent_offpolicy.checks import check_integers
from sb3_recurrent_offpolicy.cores import NoCore
from sb3_recurrent_offpolicy.networks import HistoryEncoder, RecurrentActor, RecurrentContinuousCritic, RecurrentCritic
from sb3_recurrent_offpolicy.policies.base import RecurrentPolicy
from sb3_recurrent_offpolicy.type_aliases import CoreState, PolicyStep, RNNStates


class RecurrentActorCriticPolicy(RecurrentPolicy):
    """
    Actor and critic, each with its memory, and their targets: what the actor-critic algorithms share.

    Whatever actor and critic share is trained by the critic loss alone: training a memory with both losses fails (Ni et al.
    2022; Yang & Nguyen 2021).

    :param observation_space: observation space
    :param action_space: action space
    :param lr_schedule: learning rate schedule (could be constant)
    :param share_features_extractor: share it between actor and critic; None shares it where they share the memory
    :param n_critics: number of Q-value heads
    :param shared_lstm: actor and critic share one memory
    :param enable_critic_lstm: give the critic a memory of its own; if neither this nor ``shared_lstm``, the critic sees
        the current observation only
    :param kwargs: as for :class:`RecurrentPolicy`; ``net_arch`` can be ``dict(pi=..., qf=...)``
    """

    actor: RecurrentActor
    critic: RecurrentCritic
    critic_target: RecurrentCritic
    networks_with_target: ClassVar[tuple[str, ...]] = ("critic",)

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        share_features_extractor: bool | None = None,
        n_critics: int = 2,
        shared_lstm: bool = False,
        enable_critic_lstm: bool = True,
        **kwargs: Any,
    ):
        if shared_lstm and enable_critic_lstm:
            raise ValueError(
                "shared_lstm=True and enable_critic_lstm=True exclude each other: choose enable_critic_lstm=False for one "
                "memory, or shared_lstm=False for two"
            )
        if shared_lstm and share_features_extractor is False:
            raise ValueError(
                "share_features_extractor=False does not go with shared_lstm=True: one memory has one input. Leave "
                "share_features_extractor out, or choose shared_lstm=False"
            )
        check_integers(1, n_critics=n_critics)
        self.share_features_extractor = share_features_extractor
        self.n_critics = n_critics
        self.shared_lstm = shared_lstm
        self.enable_critic_lstm = enable_critic_lstm
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        actor_arch, critic_arch = get_actor_critic_arch(self.net_arch)
        critic_has_memory = self.shared_lstm or self.enable_critic_lstm
        critic_encoder = self.make_encoder(self.make_features_extractor(), self.core if critic_has_memory else NoCore)
        actor_encoder = critic_encoder
        if not self.shared_lstm:
            extractor = critic_encoder.features_extractor
            # Without parameters there is nothing to learn apart, and acting extracts features once
            shared = self.share_features_extractor or next(extractor.parameters(), None) is None
            actor_encoder = self.make_encoder(
                extractor if shared else self.make_features_extractor(), self.core, detach_features=shared
            )

        self.actor = self._make_actor(actor_encoder, actor_arch)
        self.critic = self._make_critic(critic_encoder, critic_arch)
        self._make_followers()

        critic_parameters = set(self.critic.parameters())
        own_parameters = [parameter for parameter in self.actor.parameters() if parameter not in critic_parameters]
        self.actor.optimizer = self._make_optimizer(own_parameters, self.actor.encoder.core, lr_schedule)
        self.critic.optimizer = self._make_optimizer(list(self.critic.parameters()), critic_encoder.core, lr_schedule)

    def _make_actor(self, encoder: HistoryEncoder, net_arch: list[int]) -> RecurrentActor:
        raise NotImplementedError

    def _make_critic(self, encoder: HistoryEncoder, net_arch: list[int]) -> RecurrentCritic:
        return RecurrentContinuousCritic(encoder, net_arch, self.activation_fn, self.n_critics)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | dict(
            share_features_extractor=self.share_features_extractor,
            n_critics=self.n_critics,
            shared_lstm=self.shared_lstm,
            enable_critic_lstm=self.enable_critic_lstm,
        )

    @property
    def acting_network(self) -> RecurrentActor:
        return self.actor

    @property
    def value_network(self) -> RecurrentCritic:
        return self.critic

    def initial_states(self, n_envs: int) -> RNNStates:
        pi = self.actor.encoder.core.initial_state(n_envs)
        return RNNStates(pi, pi if self.shared_lstm else self.critic.encoder.core.initial_state(n_envs))

    def forward(
        self,
        observation: PyTorchObs,
        state: CoreState,
        previous_actions: th.Tensor,
        deterministic: bool = False,
        noise: th.Tensor | None = None,
    ) -> PolicyStep:
        actor, critic = self.actor.encoder, self.critic.encoder
        inputs, features = actor.inputs(observation, previous_actions)
        latents, state = actor.step(inputs, features, state)
        actions = self.actor(latents, deterministic, noise)
        if not self.enable_critic_lstm:
            return PolicyStep(actions, state)
        if critic.features_extractor is not actor.features_extractor:
            inputs, _ = critic.inputs(observation, previous_actions)
        return PolicyStep(actions, state, critic_inputs=inputs)
