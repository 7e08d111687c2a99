"""Policies of RecurrentTD3 and RecurrentDDPG."""

from functools import partialmethod

from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN

from sb3_recurrent_offpolicy.cores import GRUCore
from sb3_recurrent_offpolicy.networks import DeterministicActor, HistoryEncoder, RecurrentContinuousCritic
from sb3_recurrent_offpolicy.policies.actor_critic import RecurrentActorCriticPolicy


class RecurrentTD3Policy(RecurrentActorCriticPolicy):
    """Policy for RecurrentTD3 and RecurrentDDPG; parameters as for :class:`RecurrentActorCriticPolicy`."""

    actor: DeterministicActor
    actor_target: DeterministicActor
    critic: RecurrentContinuousCritic
    critic_target: RecurrentContinuousCritic
    followed = ("actor", "critic")

    def _make_actor(self, encoder: HistoryEncoder, net_arch: list[int]) -> DeterministicActor:
        return DeterministicActor(encoder, self.shared_lstm, net_arch, self.activation_fn)


class TD3CnnLstmPolicy(RecurrentTD3Policy):
    """As :class:`RecurrentTD3Policy`, for images."""

    __init__ = partialmethod(RecurrentTD3Policy.__init__, features_extractor_class=NatureCNN)


class TD3MultiInputLstmPolicy(RecurrentTD3Policy):
    """As :class:`RecurrentTD3Policy`, for dict observations."""

    __init__ = partialmethod(RecurrentTD3Policy.__init__, features_extractor_class=CombinedExtractor)


class TD3MlpGruPolicy(RecurrentTD3Policy):
    """As :class:`RecurrentTD3Policy`, remembering with a GRU."""

    __init__ = partialmethod(RecurrentTD3Policy.__init__, core_class=GRUCore)


class TD3CnnGruPolicy(RecurrentTD3Policy):
    """As :class:`RecurrentTD3Policy`, for images, remembering with a GRU."""

    __init__ = partialmethod(RecurrentTD3Policy.__init__, features_extractor_class=NatureCNN, core_class=GRUCore)


class TD3MultiInputGruPolicy(RecurrentTD3Policy):
    """As :class:`RecurrentTD3Policy`, for dict observations, remembering with a GRU."""

    __init__ = partialmethod(RecurrentTD3Policy.__init__, features_extractor_class=CombinedExtractor, core_class=GRUCore)
