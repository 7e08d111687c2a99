"""Recurrent off-policy reinforcement learning for Stable-Baselines3."""

from pathlib import Path

from sb3_recurrent_offpolicy.ddpg import RecurrentDDPG
from sb3_recurrent_offpolicy.r2d2 import R2D2
from sb3_recurrent_offpolicy.sac import RecurrentSAC
from sb3_recurrent_offpolicy.td3 import RecurrentTD3
from sb3_recurrent_offpolicy.tqc import RecurrentTQC

__version__ = (Path(__file__).parent / "version.txt").read_text().strip()

__all__ = ["R2D2", "RecurrentDDPG", "RecurrentSAC", "RecurrentTD3", "RecurrentTQC"]
