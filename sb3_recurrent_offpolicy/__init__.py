"""Recurrent off-policy reinforcement learning for Stable-Baselines3."""

from pathlib import Path

from sb3_recurrent_offpolicy.ddpg import RecurrentDDPG
from sb3_recurrent_offpolicy.sac import RecurrentSAC
from sb3_recurrent_offpolicy.td3 import RecurrentTD3

__version__ = (Path(__file__).parent / "version.txt").read_text().strip()

__all__ = ["RecurrentDDPG", "RecurrentSAC", "RecurrentTD3"]
