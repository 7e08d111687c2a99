"""What acts: memory, networks and how to ask them."""

from typing import Any

from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN

from sb3_recurrent_offpolicy.policies.actor_critic import RecurrentActorCriticPolicy
from sb3_recurrent_offpolicy.policies.base import RecurrentPolicy
from sb3_recurrent_offpolicy.policies.r2d2 import R2D2Policy
from sb3_recurrent_offpolicy.policies.sac import RecurrentSACPolicy
from sb3_recurrent_offpolicy.policies.td3 import RecurrentTD3Policy
from sb3_recurrent_offpolicy.policies.trace import Trace

__all__ = [
    "POLICY_NAMES",
    "R2D2Policy",
    "RecurrentActorCriticPolicy",
    "RecurrentPolicy",
    "RecurrentSACPolicy",
    "RecurrentTD3Policy",
    "Trace",
]

# What a name stands for: the algorithm's policy class with these policy_kwargs
POLICY_NAMES: dict[str, dict[str, Any]] = {
    "MlpLstmPolicy": {},
    "CnnLstmPolicy": dict(features_extractor_class=NatureCNN),
    "MultiInputLstmPolicy": dict(features_extractor_class=CombinedExtractor),
    "MlpGruPolicy": dict(core="gru"),
    "CnnGruPolicy": dict(features_extractor_class=NatureCNN, core="gru"),
    "MultiInputGruPolicy": dict(features_extractor_class=CombinedExtractor, core="gru"),
}
