"""RecurrentTD3: target smoothing, delayed actor, clipped double Q-learning, with memory."""

from functools import reduce
from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.checks import check_numbers
from sb3_recurrent_offpolicy.networks import DeterministicActor, RecurrentContinuousCritic
from sb3_recurrent_offpolicy.policies import RecurrentTD3Policy
from sb3_recurrent_offpolicy.settings import ExploringSettings, Unpack, passed_on
from sb3_recurrent_offpolicy.targets import masked_mean, mean_item, n_step_targets
from sb3_recurrent_offpolicy.type_aliases import Encoded, RecurrentSequenceSamples


class RecurrentTD3(RecurrentOffPolicyAlgorithm):
    """
    Twin Delayed DDPG with a recurrent actor and a recurrent critic.

    TD3: Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477. Recurrent replay: Heess et al. 2015 (RDPG),
    https://arxiv.org/abs/1512.04455; Kapturowski et al. 2019 (R2D2); Ni et al. 2022, https://arxiv.org/abs/2110.05038

    The parameters are those of SB3's TD3, in its order, and after them our own. Where a default differs from SB3's, the reason
    stands beside it.

    :param policy: "MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy", the same with Gru, or a policy class
    :param env: the environment to learn from (if registered in Gym, can be str)
    :param learning_rate: learning rate for Adam, of all networks; can be a function of the remaining progress (from 1 to 0)
    :param buffer_size: size of the replay buffer in steps, over all environments
    :param learning_starts: how many steps to collect with random actions before learning starts. Default 1000: the scales of
        rewards and observations are those of the first batches
    :param batch_size: number of sequences per update. Default 16: the delayed actor needs more updates rather than larger ones
    :param tau: the soft update coefficient ("Polyak update", between 0 and 1). Default ten times SB3's: values travel
        back one step of an episode in some 1 / tau updates, and there are fewer updates. See ``docs/settings.md``
    :param gamma: the discount factor
    :param train_freq: update the model every ``train_freq`` steps, or ``(n, "step")`` or ``(n, "episode")``
    :param gradient_steps: how many updates after each rollout, or ``-n``: one for every n steps that all environments together
        have made. Default -2, so that learning does not depend on the number of environments; -1 is as in SB3
    :param action_noise: the action noise; a deterministic policy explores by nothing else. A number is the standard deviation
        of Gaussian noise of ``noise_color``, actions reaching from -1 to 1. Default 0.3: the paper's 0.1 leads less far
        (SB3: none, and nothing new is tried)
    :param replay_buffer_class: a subclass of RecurrentSequenceReplayBuffer
    :param replay_buffer_kwargs: keyword arguments to pass to the replay buffer on creation, e.g. ``stride``
    :param optimize_memory_usage: without effect, observations are always stored once
    :param n_steps: steps before the bootstrap, inside a sequence
    :param policy_delay: policy and target networks are updated once per this many critic updates
    :param target_policy_noise: standard deviation of Gaussian noise added to target actions (smoothing)
    :param target_noise_clip: limit for the absolute value of that noise
    :param stats_window_size: window size for the rollout logging, in episodes
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments to be passed to the policy on creation, see
        :class:`~sb3_recurrent_offpolicy.policies.RecurrentTD3Policy`
    :param verbose: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: seed for the pseudo random generators
    :param device: device (cpu, cuda, ...) on which the code should be run
    :param preactivation_penalty: weight of the squared pre-tanh action in the actor loss. Without it the actor is prone to
        saturate: stuck at the bounds of the action space, where tanh passes no gradient. 0 is the actor loss of the paper
    :param settings: ``sequence_length``, ``burn_in``, ``state_init``, ``refresh_states``, ``reward_scale``,
        ``overlap_updates``, ``max_grad_norm``, ``noise_color``, see
        :class:`~sb3_recurrent_offpolicy.algorithm.RecurrentOffPolicyAlgorithm`
    :param _init_setup_model: whether or not to build the network at the creation of the instance
    """

    policy_type = RecurrentTD3Policy
    network_names = ("actor", "actor_target", "critic", "critic_target")
    count_parameters = (*RecurrentOffPolicyAlgorithm.count_parameters, "policy_delay")
    default_settings: ClassVar[ExploringSettings] = {**RecurrentOffPolicyAlgorithm.default_settings, "noise_color": "pink"}

    policy: RecurrentTD3Policy
    actor: DeterministicActor
    actor_target: DeterministicActor
    critic: RecurrentContinuousCritic
    critic_target: RecurrentContinuousCritic

    def __init__(
        self,
        policy: str | type[RecurrentTD3Policy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 1000,
        batch_size: int = 16,
        tau: float = 0.05,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = -2,
        action_noise: ActionNoise | float | None = 0.3,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        policy_delay: int = 2,
        target_policy_noise: float = 0.2,
        target_noise_clip: float = 0.5,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        preactivation_penalty: float = 0.002,
        _init_setup_model: bool = True,
        **settings: Unpack[ExploringSettings],
    ):
        shared = passed_on(locals(), "policy_delay", "target_policy_noise", "target_noise_clip", "preactivation_penalty")
        super().__init__(**shared, sde_support=False, supported_action_spaces=(spaces.Box,))
        self.policy_delay = policy_delay
        self.target_policy_noise = target_policy_noise
        self.target_noise_clip = target_noise_clip
        self.preactivation_penalty = preactivation_penalty

        if _init_setup_model:
            self._setup_model()

    def _check_settings(self) -> None:
        super()._check_settings()
        check_numbers(
            0,
            target_policy_noise=self.target_policy_noise,
            target_noise_clip=self.target_noise_clip,
            preactivation_penalty=self.preactivation_penalty,
        )

    def _update(self, gradient_steps: int, batch_size: int) -> None:
        # Switch to train mode (this affects batch norm / dropout)
        self.policy.set_training_mode(True)

        # Update learning rate according to lr schedule
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])

        actor_losses, critic_losses = [], []
        for _ in range(gradient_steps):
            self._n_updates += 1
            samples = self._sample_sequences(batch_size)

            # One unroll per network: the targets over o_0 .. o_T, of which [1:] are successors, the others over o_0 .. o_{T-1}
            targets = self._targets(samples)
            critic = self.critic.encode(samples, with_successor=False)
            self._diagnose(samples, critic.latents)

            # Optimize the critics
            critic_loss, errors = self._critic_loss(samples, critic, targets)
            critic_losses.append(critic_loss.detach())
            self._minimize(critic_loss, self.critic.optimizer)
            self._update_priorities(samples, errors)

            # Delayed policy updates
            if self._n_updates % self.policy_delay == 0:
                # Optimize the actor
                actor = self.actor.encode(samples, critic, with_successor=False)
                actor_loss = self._actor_loss(samples, actor, critic)
                actor_losses.append(actor_loss.detach())
                self._minimize(actor_loss, self.actor.optimizer)
                self._refresh_states(samples, actor, critic)

                self.policy.update_targets(self.tau)
            self.policy.update_average(self._n_updates)

        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if len(actor_losses) > 0:
            self.logger.record("train/actor_loss", mean_item(actor_losses))
        self.logger.record("train/critic_loss", mean_item(critic_losses))

    @th.no_grad()
    def _targets(self, samples: RecurrentSequenceSamples) -> th.Tensor:
        """Clipped double Q-learning with smoothed target actions: (T, B)."""
        target = self.critic_target.encode(samples)
        next_latents = target.latents[1:]
        next_actor_latents = self.actor_target.encode(samples, target).latents[1:]

        # Select action according to policy and add clipped noise
        noise = th.randn(samples.actions.shape, generator=self._torch_generator, device=self.device)
        noise = (noise * self.target_policy_noise).clamp(-self.target_noise_clip, self.target_noise_clip)
        next_actions = (self.actor_target(next_actor_latents) + noise).clamp(-1, 1)

        # Compute the next Q-values: min over all critics targets
        next_q_values = reduce(th.minimum, self.critic_target(next_latents, next_actions))
        return n_step_targets(samples.rewards, samples.terminated, samples.mask, next_q_values, self.gamma, self.n_steps)

    def _critic_loss(
        self, samples: RecurrentSequenceSamples, critic: Encoded, targets: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        """The loss, and the error of each step for its priority: (T, B)."""
        current_q_values = self.critic(critic.latents, samples.actions)
        squares = sum((current_q - targets) ** 2 for current_q in current_q_values)
        return masked_mean(squares * samples.weights, samples.mask), (squares / len(current_q_values)).sqrt()

    def _actor_loss(self, samples: RecurrentSequenceSamples, actor: Encoded, critic: Encoded) -> th.Tensor:
        # The critic's memory is given, not to be changed by it
        preactivations = self.actor.mu(actor.latents)
        q_values = self.critic.q1_forward(critic.latents.detach(), th.tanh(preactivations))
        penalty = self.preactivation_penalty * preactivations.square().sum(dim=-1)
        return masked_mean(penalty - q_values, samples.mask)
