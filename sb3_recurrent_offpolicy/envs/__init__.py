"""
Tasks in which something is hidden, and wrappers that hide it. Importing this package registers the tasks with Gymnasium; in
the RL Zoo, ``--gym-packages sb3_recurrent_offpolicy.envs`` does. A wrapper is put there under ``env_wrapper``, for example
``sb3_recurrent_offpolicy.envs.Flicker: {period: 3}``.
"""

import gymnasium as gym

from sb3_recurrent_offpolicy.envs.bandit import BernoulliBandit
from sb3_recurrent_offpolicy.envs.flicker import Flicker
from sb3_recurrent_offpolicy.envs.hidden_wind_reach import HiddenWindReach
from sb3_recurrent_offpolicy.envs.mask_observation import MaskObservation
from sb3_recurrent_offpolicy.envs.memory_length import MemoryLength
from sb3_recurrent_offpolicy.envs.previous_action_reward import PreviousActionReward
from sb3_recurrent_offpolicy.envs.randomize_physics import RandomizePhysics
from sb3_recurrent_offpolicy.envs.resumable import ResumableEnv
from sb3_recurrent_offpolicy.envs.rl2 import RL2Trial
from sb3_recurrent_offpolicy.envs.tmaze import PassiveTMaze

__all__ = [
    "BernoulliBandit",
    "Flicker",
    "HiddenWindReach",
    "MaskObservation",
    "MemoryLength",
    "PassiveTMaze",
    "PreviousActionReward",
    "RL2Trial",
    "RandomizePhysics",
    "ResumableEnv",
]

# Without a time limit where the task has its own end: memory_length + 1 steps, corridor_length + 1 steps, one pull, 100 pulls
gym.register("MemoryLength-v0", entry_point="sb3_recurrent_offpolicy.envs.memory_length:MemoryLength")
gym.register("PassiveTMaze-v0", entry_point="sb3_recurrent_offpolicy.envs.tmaze:PassiveTMaze")
gym.register("BernoulliBandit-v0", entry_point="sb3_recurrent_offpolicy.envs.bandit:BernoulliBandit")
gym.register(
    "BanditTrial-v0",
    entry_point="sb3_recurrent_offpolicy.envs.bandit:BernoulliBandit",
    additional_wrappers=(RL2Trial.wrapper_spec(n_episodes=100),),
)
gym.register(
    "HiddenWindReach-v0",
    entry_point="sb3_recurrent_offpolicy.envs.hidden_wind_reach:HiddenWindReach",
    max_episode_steps=75,
)

# Rewards tell of the angle: Ni et al. 2022 (https://arxiv.org/abs/2110.05038) give them to every agent
gym.register(
    "PendulumVelocityOnly-v0",
    entry_point="gymnasium.envs.classic_control.pendulum:PendulumEnv",
    max_episode_steps=200,
    additional_wrappers=(MaskObservation.wrapper_spec(keep=[2]), PreviousActionReward.wrapper_spec()),
)
# After https://github.com/NM512/td3-rnn, where the visible steps are t = 2, 5, ..
gym.register(
    "PendulumFlicker-v0",
    entry_point="gymnasium.envs.classic_control.pendulum:PendulumEnv",
    max_episode_steps=200,
    additional_wrappers=(Flicker.wrapper_spec(period=3),),
)

# Swing by swing, the torque of 2 lifts the heaviest and longest pole from below in 155 of the 200 steps, although gravity's is
# g m l / 2 = 11. It accelerates the lightest and shortest one 135 times as much: no controller is right for both
gym.register(
    "PendulumUnknown-v0",
    entry_point="sb3_recurrent_offpolicy.envs.randomize_physics:randomized",
    max_episode_steps=200,
    kwargs=dict(
        entry_point="gymnasium.envs.classic_control.pendulum:PendulumEnv",
        ranges=dict(m=(0.1, 1.5), l=(0.5, 1.5)),
    ),
)
# Forces below 0 push the other way. Were all above 0, one linear policy without memory would balance every cart for 500 steps
gym.register(
    "CartPoleUnknown-v1",
    entry_point="sb3_recurrent_offpolicy.envs.randomize_physics:randomized",
    max_episode_steps=500,
    kwargs=dict(
        entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv",
        ranges=dict(length=(0.25, 1.0), masspole=(0.05, 0.5), masscart=(0.5, 2.0), force_mag=(-15.0, 15.0)),
    ),
)
