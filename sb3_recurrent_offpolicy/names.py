"""Names of the algorithms, as the RL Zoo and command lines know them."""

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_recurrent_offpolicy.ddpg import RecurrentDDPG
from sb3_recurrent_offpolicy.r2d2 import R2D2
from sb3_recurrent_offpolicy.sac import RecurrentSAC
from sb3_recurrent_offpolicy.td3 import RecurrentTD3
from sb3_recurrent_offpolicy.tqc import RecurrentTQC

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "r2d2": R2D2,
    "recurrent_ddpg": RecurrentDDPG,
    "recurrent_sac": RecurrentSAC,
    "recurrent_td3": RecurrentTD3,
    "recurrent_tqc": RecurrentTQC,
}
