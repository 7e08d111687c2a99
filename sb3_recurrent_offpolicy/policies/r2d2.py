"""Policies of R2D2."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from sb3_recurrent_offpolicy.networks import RecurrentQNetwork
from sb3_recurrent_offpolicy.policies.base import RecurrentPolicy
from sb3_recurrent_offpolicy.type_aliases import CoreState, PolicyStep, RNNStates

# Known to the other algorithms' users, and meaningless here
ACTOR_CRITIC_KWARGS = {"share_features_extractor", "n_critics", "shared_lstm", "enable_critic_lstm"}


class R2D2Policy(RecurrentPolicy):
    """
    Policy for R2D2: Q-values of all actions behind one memory, and their target.

    :param observation_space: observation space
    :param action_space: action space
    :param lr_schedule: learning rate schedule (could be constant)
    :param dueling: values and advantages in heads of their own (Wang et al. 2016)
    :param kwargs: as for :class:`RecurrentPolicy`; ``net_arch`` is a list
    """

    q_net: RecurrentQNetwork
    q_net_target: RecurrentQNetwork
    networks_with_target = ("q_net",)

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        dueling: bool = True,
        **kwargs: Any,
    ):
        if of_actor_critics := sorted(ACTOR_CRITIC_KWARGS & set(kwargs)):
            raise ValueError(
                f"policy_kwargs has {of_actor_critics}, which R2D2 does not know: it has one network with one memory, and no "
                "critic beside it. Leave them out"
            )
        self.dueling = dueling
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        if not isinstance(self.net_arch, list):
            raise ValueError(f"net_arch={self.net_arch} must be a list: there is one network only")
        encoder = self.make_encoder(self.make_features_extractor(), self.core)
        self.q_net = RecurrentQNetwork(encoder, self.net_arch, self.activation_fn, self.dueling)
        self._make_followers()
        self.optimizer = self._make_optimizer(list(self.q_net.parameters()), encoder.core, lr_schedule)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | dict(dueling=self.dueling)

    @property
    def acting_network(self) -> RecurrentQNetwork:
        return self.q_net

    value_network = acting_network

    def initial_states(self, n_envs: int) -> RNNStates:
        state = self.q_net.encoder.core.initial_state(n_envs)
        return RNNStates(state, state)

    def forward(
        self,
        observation: PyTorchObs,
        state: CoreState,
        previous_actions: th.Tensor,
        deterministic: bool = False,
        noise: th.Tensor | None = None,
    ) -> PolicyStep:
        encoder = self.q_net.encoder
        latents, state = encoder.step(*encoder.inputs(observation, previous_actions), state)
        q_values = self.q_net.q_values(latents)
        return PolicyStep(q_values.argmax(dim=-1), state, q_values)
