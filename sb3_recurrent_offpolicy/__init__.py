"""Recurrent off-policy reinforcement learning for Stable-Baselines3."""

from importlib.metadata import version

from sb3_recurrent_offpolicy.ddpg import RecurrentDDPG
from sb3_recurrent_offpolicy.td3 import RecurrentTD3

__version__ = version("sb3_recurrent_offpolicy")

__all__ = ["RecurrentDDPG", "RecurrentTD3"]
