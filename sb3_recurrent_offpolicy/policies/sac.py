"""Policies of RecurrentSAC."""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule

from sb3_recurrent_offpolicy.networks import (
    CategoricalActor,
    HistoryEncoder,
    RecurrentCritic,
    RecurrentDiscreteCritic,
    SquashedGaussianActor,
)
from sb3_recurrent_offpolicy.policies.actor_critic import RecurrentActorCriticPolicy


class RecurrentSACPolicy(RecurrentActorCriticPolicy):
    """
    Policy for RecurrentSAC: a squashed Gaussian for Box actions, a categorical policy for Discrete ones.

    :param observation_space: observation space
    :param action_space: action space
    :param lr_schedule: learning rate schedule (could be constant)
    :param use_sde: whether to use generalized state-dependent exploration (gSDE), for Box actions
    :param log_std_init: initial value of the log standard deviation with gSDE
    :param use_expln: with gSDE, ``expln()`` instead of ``exp()`` to ensure a positive standard deviation
    :param clip_mean: with gSDE, clip the mean before tanh to this absolute value
    :param kwargs: as for :class:`RecurrentActorCriticPolicy`
    """

    actor: SquashedGaussianActor | CategoricalActor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        use_sde: bool = False,
        log_std_init: float = -3,
        use_expln: bool = False,
        clip_mean: float = 2.0,
        **kwargs: Any,
    ):
        self.sde_kwargs: dict[str, Any] = dict(
            use_sde=use_sde, log_std_init=log_std_init, use_expln=use_expln, clip_mean=clip_mean
        )
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _make_actor(self, encoder: HistoryEncoder, net_arch: list[int]) -> SquashedGaussianActor | CategoricalActor:
        if isinstance(self.action_space, spaces.Discrete):
            return CategoricalActor(encoder, self.shared_lstm, net_arch, self.activation_fn)
        return SquashedGaussianActor(encoder, self.shared_lstm, net_arch, self.activation_fn, **self.sde_kwargs)

    def _make_critic(self, encoder: HistoryEncoder, net_arch: list[int]) -> RecurrentCritic:
        if isinstance(self.action_space, spaces.Discrete):
            return RecurrentDiscreteCritic(encoder, net_arch, self.activation_fn, self.n_critics)
        return super()._make_critic(encoder, net_arch)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self.sde_kwargs

    def reset_noise(self, batch_size: int = 1) -> None:
        """
        Draw new noise functions, with gSDE.

        :param batch_size: one per environment
        """
        for actor in filter(None, (self.actor, self.averaged_network)):
            assert isinstance(actor, SquashedGaussianActor), "gSDE is for Box actions"
            actor.reset_noise(batch_size=batch_size)
