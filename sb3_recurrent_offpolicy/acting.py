"""
What acts: a policy, how it explores, and what it remembers of the running episodes.

A step is *staged* when an action is chosen and *committed* when its transition is stored, so that memory and observation never
disagree: callbacks that evaluate, save or stop run between the two. Nothing here knows how the policy learns, so a copy of
this object can act in another process.
"""

import math
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.noise import ActionNoise
from torch.utils._pytree import tree_map

from sb3_recurrent_offpolicy.policies import RecurrentPolicy
from sb3_recurrent_offpolicy.preprocessing import encode_actions
from sb3_recurrent_offpolicy.type_aliases import Memory, PolicyStep, RNNStates


class StagedStep(NamedTuple):
    """An action that has been chosen, and what led to it."""

    actions: np.ndarray
    """That are done, as the replay buffer stores them: (n_envs, *action)"""
    policy_step: PolicyStep
    """What the policy had in mind"""


class EpsilonGreedy:
    """
    Random actions at a rate per environment.

    :param n_actions: number of actions
    :param generator: of random numbers
    """

    def __init__(self, n_actions: int, generator: np.random.Generator):
        self.n_actions = n_actions
        self.generator = generator

    def __call__(self, actions: np.ndarray, rates: np.ndarray | float) -> np.ndarray:
        """
        :param actions: the best ones, (n_envs,)
        :param rates: probability of a random action, of each environment or of all
        :return: (n_envs,)
        """
        random_actions = self.generator.integers(self.n_actions, size=actions.shape)
        return np.where(self.generator.random(actions.shape) < rates, random_actions, actions)


class BehaviorPolicy:
    """
    A policy that explores with a live memory.

    :param policy: whose networks act
    :param n_envs: number of environments
    :param epsilon_greedy: random actions in place of the policy's, for policies that act by values
    """

    def __init__(self, policy: RecurrentPolicy, n_envs: int, epsilon_greedy: EpsilonGreedy | None = None):
        self.policy = policy
        self.n_envs = n_envs
        self.epsilon_greedy = epsilon_greedy
        # Probability of a random action of each environment
        self.exploration_rates: np.ndarray | float = 0.0
        self.action_noise: ActionNoise | None = None
        self._shape = (n_envs, *policy.action_space.shape)  # type: ignore[misc]
        self.memory = policy.initial_memory(n_envs)
        self.staged: StagedStep | None = None

    def restore(self, memory: Memory) -> None:
        """
        Go on in the middle of episodes.

        :param memory: of as many environments, on any device
        """
        (pi, vf), previous_actions = tree_map(lambda tensor: tensor.to(self.policy.device), memory)
        # One memory that actor and critic share is one object, which saving has made two
        is_shared = self.memory.lstm_states.vf is self.memory.lstm_states.pi
        self.memory = Memory(RNNStates(pi, pi if is_shared else vf), previous_actions)

    def act(
        self, observations: np.ndarray | dict[str, np.ndarray], episode_starts: np.ndarray, warm_up: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Choose actions and stage the step.

        :param observations: (n_envs, *obs), or a dict of them
        :param episode_starts: (n_envs,), whether an observation is the first of an episode: its memory is forgotten
        :param warm_up: act at random. The policy is asked all the same: steps are replayed with the memory they were made with
        :return: actions as the environments take them, and as the replay buffer stores them, (n_envs, *action) each
        """
        step = self.policy.act(observations, self.memory, episode_starts)
        actions = step.actions.reshape(self._shape)
        if self.epsilon_greedy is not None:
            actions = self.epsilon_greedy(actions, self.exploration_rates)
        if warm_up:
            space = self.policy.action_space
            actions = self.policy.scale_action(np.array([space.sample() for _ in range(self.n_envs)]))
        if self.action_noise is not None:
            noise = self.action_noise()
            # The sum is finite if every number is; one call per step less than to ask for each
            if not math.isfinite(noise.sum()):
                raise ValueError(f"action_noise={self.action_noise} gave {noise}: check its mean and standard deviation")
            # In the shape of the actions, or one that broadcasts, as in SB3
            if noise.shape != actions.shape and noise.size == actions.size:
                noise = noise.reshape(actions.shape)
            actions = (actions + noise).clip(-1, 1)
        self.staged = StagedStep(actions, step)
        return self.policy.unscale_action(actions), actions

    def commit(self) -> StagedStep:
        """
        Remember the staged step: its transition is being stored.

        :return: the step
        """
        assert self.staged is not None, "a step is staged by act() before it is committed"
        step, self.staged = self.staged, None
        actions = th.as_tensor(step.actions, device=self.policy.device).reshape(self.n_envs, -1)
        encoded = encode_actions(actions, self.policy.action_space)
        self.memory = Memory(step.policy_step.lstm_states, encoded)
        return step
