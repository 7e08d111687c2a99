"""
Tasks in which something is hidden. Importing this package registers them with Gymnasium; in the RL Zoo,
``--gym-packages sb3_recurrent_offpolicy.envs`` does.
"""

import gymnasium as gym

from sb3_recurrent_offpolicy.envs.memory_length import MemoryLength

__all__ = ["MemoryLength"]

# Without a time limit: an episode has memory_length + 1 steps
gym.register("MemoryLength-v0", entry_point="sb3_recurrent_offpolicy.envs.memory_length:MemoryLength")
