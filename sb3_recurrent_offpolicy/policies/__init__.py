"""What acts: memory, networks and how to ask them."""

from sb3_recurrent_offpolicy.policies.actor_critic import RecurrentActorCriticPolicy
from sb3_recurrent_offpolicy.policies.base import RecurrentPolicy
from sb3_recurrent_offpolicy.policies.r2d2 import (
    R2D2CnnGruPolicy,
    R2D2CnnLstmPolicy,
    R2D2MlpGruPolicy,
    R2D2MultiInputGruPolicy,
    R2D2MultiInputLstmPolicy,
    R2D2Policy,
)
from sb3_recurrent_offpolicy.policies.sac import (
    RecurrentSACPolicy,
    SACCnnGruPolicy,
    SACCnnLstmPolicy,
    SACMlpGruPolicy,
    SACMultiInputGruPolicy,
    SACMultiInputLstmPolicy,
)
from sb3_recurrent_offpolicy.policies.td3 import (
    RecurrentTD3Policy,
    TD3CnnGruPolicy,
    TD3CnnLstmPolicy,
    TD3MlpGruPolicy,
    TD3MultiInputGruPolicy,
    TD3MultiInputLstmPolicy,
)

__all__ = [
    "R2D2CnnGruPolicy",
    "R2D2CnnLstmPolicy",
    "R2D2MlpGruPolicy",
    "R2D2MultiInputGruPolicy",
    "R2D2MultiInputLstmPolicy",
    "R2D2Policy",
    "RecurrentActorCriticPolicy",
    "RecurrentPolicy",
    "RecurrentSACPolicy",
    "RecurrentTD3Policy",
    "SACCnnGruPolicy",
    "SACCnnLstmPolicy",
    "SACMlpGruPolicy",
    "SACMultiInputGruPolicy",
    "SACMultiInputLstmPolicy",
    "TD3CnnGruPolicy",
    "TD3CnnLstmPolicy",
    "TD3MlpGruPolicy",
    "TD3MultiInputGruPolicy",
    "TD3MultiInputLstmPolicy",
]
