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

from sb3_recurrent_offpolicy.cores import RecurrentCore
from sb3_recurrent_offpolicy.policies import RecurrentPolicy
from sb3_recurrent_offpolicy.preprocessing import encode_actions
from sb3_recurrent_offpolicy.type_aliases import CoreState, Memory, PolicyStep, RNNStates

# Steps after which the critic's memory follows even if nobody has asked for it, so that what it has not seen stays small
LONGEST_STRETCH = 64
# Multiplications of an acting step from which on a second thread of torch gains more than waking it up costs
WORTH_A_THREAD = 5_000_000


class StagedStep(NamedTuple):
    """An action that has been chosen, and what led to it."""

    actions: np.ndarray
    """That are done, as the replay buffer stores them: (n_envs, *action)"""
    policy_step: PolicyStep
    """What the policy had in mind"""
    episode_starts: np.ndarray
    """(n_envs,)"""


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


class CriticMemory:
    """
    What the critic remembers of the running episodes. Nobody needs it to act, so it follows in stretches of steps: one call in
    place of one per step, and with newer weights.

    :param state: at the start of the episodes, each (n_layers, n_envs, hidden)
    """

    def __init__(self, state: CoreState):
        self.state = state
        self._unseen: list[tuple[th.Tensor, np.ndarray]] = []

    def __len__(self) -> int:
        return len(self._unseen)

    def append(self, inputs: th.Tensor, episode_starts: np.ndarray) -> None:
        """
        :param inputs: of the memory at a step that has been made, (n_envs, inputs)
        :param episode_starts: (n_envs,), an episode began with this step
        """
        self._unseen.append((inputs, episode_starts))

    @th.inference_mode()
    def after_all_steps(self, core: RecurrentCore) -> CoreState:
        """
        :param core: the memory
        :return: its state after all steps so far, each (n_layers, n_envs, hidden). Nothing is changed
        """
        if not self._unseen:
            return self.state
        inputs, starts = th.stack([step for step, _ in self._unseen]), np.stack([began for _, began in self._unseen])
        if not starts.any():
            return core.unroll(inputs, self.state)[1]
        # What happened before the latest start of an episode is forgotten; -1: the episode has been running all the time
        times = np.arange(len(starts))[:, None]
        latest = np.where(starts, times, -1).max(axis=0)
        found = tuple(array.clone() for array in self.state)
        for begin in np.unique(latest).tolist():
            envs = th.as_tensor(np.flatnonzero(latest == begin), device=inputs.device)
            initial = core.initial_state(len(envs)) if begin >= 0 else tuple(array[:, envs] for array in self.state)
            for array, state in zip(found, core.unroll(inputs[max(begin, 0) :, envs], initial)[1], strict=True):
                array[:, envs] = state
        return found

    def catch_up(self, core: RecurrentCore) -> None:
        """
        :param core: the memory, which sees the steps that it has not seen yet
        """
        self.state = self.after_all_steps(core)
        self._unseen.clear()


class Threads:
    """
    One thread of torch for a small network, as many as there are for others.

    :param network: that acts
    :param n_envs: number of environments
    """

    def __init__(self, network: th.nn.Module, n_envs: int):
        weights = list(network.parameters())
        # A matrix multiplies with each weight once for each environment, a convolution more often
        n_products = n_envs * sum(weight.numel() for weight in weights)
        self.is_small = n_products < WORTH_A_THREAD and all(weight.dim() <= 2 for weight in weights)

    def __enter__(self) -> None:
        self._before = th.get_num_threads()
        if self.is_small:
            th.set_num_threads(1)

    def __exit__(self, *exception: object) -> None:
        th.set_num_threads(self._before)


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
        # Added to actions, and in place of the standard normal numbers that a policy would sample them with
        self.action_noise: ActionNoise | None = None
        self.policy_noise: ActionNoise | None = None
        # Gymnasium has no shape for Dict and Tuple alone
        self._shape = (n_envs, *policy.action_space.shape)  # type: ignore[misc]
        self._threads = Threads(policy.acting_network, n_envs)
        self.staged: StagedStep | None = None
        self.restore(policy.initial_memory(n_envs))

    def restore(self, memory: Memory) -> None:
        """
        Go on in the middle of episodes.

        :param memory: of as many environments, on any device
        """
        (self._state, vf), self._previous_actions = tree_map(lambda tensor: tensor.to(self.policy.device), memory)
        initial = self.policy.initial_states(self.n_envs)
        # Not where actor and critic share one memory
        self._critic = CriticMemory(vf) if initial.vf is not initial.pi else None

    @property
    def memory(self) -> Memory:
        """What is remembered of each environment after the latest committed step."""
        vf = self._state
        if self._critic is not None:
            self.policy.set_training_mode(False)
            vf = self._critic.after_all_steps(self.policy.value_network.encoder.core)
        return Memory(RNNStates(self._state, vf), self._previous_actions)

    def catch_up(self) -> RNNStates:
        """
        Let the critic's memory see all committed steps.

        :return: memories after the latest one
        """
        if self._critic is not None:
            with self._threads:
                self._critic.catch_up(self.policy.value_network.encoder.core)
        return RNNStates(self._state, self._state if self._critic is None else self._critic.state)

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
        numbers = None if self.policy_noise is None else self.policy_noise()
        with self._threads:
            step = self.policy.act(observations, self._state, self._previous_actions, episode_starts, numbers)
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
        self.staged = StagedStep(actions, step, episode_starts)
        return self.policy.unscale_action(actions), actions

    def commit(self) -> StagedStep:
        """
        Remember the staged step: its transition is being stored.

        :return: the step
        """
        assert self.staged is not None, "a step is staged by act() before it is committed"
        step, self.staged = self.staged, None
        actions = th.as_tensor(step.actions, device=self.policy.device).reshape(self.n_envs, -1)
        self._state, self._previous_actions = step.policy_step.state, encode_actions(actions, self.policy.action_space)
        if self._critic is not None and step.policy_step.critic_inputs is not None:
            self._critic.append(step.policy_step.critic_inputs, step.episode_starts)
            if len(self._critic) >= LONGEST_STRETCH:
                self.catch_up()
        return step
