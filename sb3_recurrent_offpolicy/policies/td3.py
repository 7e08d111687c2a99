"""Policies of RecurrentTD3 and RecurrentDDPG."""

from sb3_recurrent_offpolicy.networks import DeterministicActor, HistoryEncoder, RecurrentContinuousCritic
from sb3_recurrent_offpolicy.policies.actor_critic import RecurrentActorCriticPolicy


class RecurrentTD3Policy(RecurrentActorCriticPolicy):
    """Policy for RecurrentTD3 and RecurrentDDPG; parameters as for :class:`RecurrentActorCriticPolicy`."""

    actor: DeterministicActor
    actor_target: DeterministicActor
    critic: RecurrentContinuousCritic
    critic_target: RecurrentContinuousCritic
    networks_with_target = ("actor", "critic")

    def _make_actor(self, encoder: HistoryEncoder, net_arch: list[int]) -> DeterministicActor:
        return DeterministicActor(encoder, self.shared_lstm, net_arch, self.activation_fn)
