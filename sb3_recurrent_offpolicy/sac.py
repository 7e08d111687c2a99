"""RecurrentSAC: maximum-entropy learning with automatic temperature and twin critics, with memory."""

import math
from functools import reduce
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import GymEnv, Schedule, TensorDict

from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.networks import CategoricalActor, RecurrentCritic, SquashedGaussianActor
from sb3_recurrent_offpolicy.noise import PinkActionNoise
from sb3_recurrent_offpolicy.optimizing import FusedAdam, step_if_finite
from sb3_recurrent_offpolicy.policies import RecurrentSACPolicy
from sb3_recurrent_offpolicy.settings import ExploringSettings, Unpack, passed_on
from sb3_recurrent_offpolicy.targets import masked_mean, mean_item, n_step_targets
from sb3_recurrent_offpolicy.type_aliases import ActionLogProbs, Encoded, RecurrentSequenceSamples

# Of the entropy of the uniform policy; see target_entropy
DISCRETE_ENTROPY_RATIO = 0.5
# See tau
BOX_TAU, DISCRETE_TAU = 0.1, 0.3


class RecurrentSAC(RecurrentOffPolicyAlgorithm):
    """
    Soft Actor-Critic with a recurrent actor and a recurrent critic.

    SAC: Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905. Discrete actions: Christodoulou 2019,
    https://arxiv.org/abs/1910.07207, expectations over actions being exact. gSDE: Raffin et al. 2021,
    https://arxiv.org/abs/2005.05719. Recurrent replay: Kapturowski et al. 2019 (R2D2); Ni et al. 2022,
    https://arxiv.org/abs/2110.05038

    The parameters are those of SB3's SAC, in its order, and after them our own. Where a default differs from SB3's, the reason
    stands beside it.

    :param policy: "MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy", the same with Gru, or a policy class
    :param env: the environment to learn from (if registered in Gym, can be str), with Box or Discrete actions
    :param learning_rate: learning rate for Adam, of all networks and the entropy coefficient; can be a function of the
        remaining progress (from 1 to 0)
    :param buffer_size: size of the replay buffer in steps, over all environments
    :param learning_starts: how many steps to collect with random actions before learning starts. Default 1000: the scales of
        rewards and observations are those of the first batches
    :param batch_size: number of sequences per update. Default 8, of 64 steps each, so that every step is replayed 128 times.
        16 solve Pendulum and CartPole too, at 1.3 to 1.5 times the cost, see ``benchmarks/results/defaults/tuning``
    :param tau: the soft update coefficient ("Polyak update", between 0 and 1). None: 0.3 for Discrete actions, 0.1 for Box
        ones, SB3's being 0.005. Values travel back one step of an episode in some 1 / tau updates, and there are fewer
        updates. With 0.3 and Box actions Pendulum is not learned: the actor exploits the errors of a critic that
        bootstraps from itself. See ``docs/settings.md``
    :param gamma: the discount factor
    :param train_freq: update the model every ``train_freq`` steps, or ``(n, "step")`` or ``(n, "episode")``
    :param gradient_steps: how many updates after each rollout, or ``-n``: one for every n steps that all environments together
        have made. Default -4, so that learning does not depend on the number of environments; -1 is as in SB3
    :param action_noise: noise added to Box actions, besides that of the policy; a number is the standard deviation of
        Gaussian noise of ``noise_color``, actions reaching from -1 to 1
    :param replay_buffer_class: a subclass of RecurrentSequenceReplayBuffer
    :param replay_buffer_kwargs: keyword arguments to pass to the replay buffer on creation, e.g. ``stride``
    :param optimize_memory_usage: without effect, observations are always stored once
    :param n_steps: steps before the bootstrap, inside a sequence. As in SB3, entropy counts at the bootstrap only. Default 1:
        where each reward depends on one action alone, the rewards of the actions that follow are noise
    :param ent_coef: entropy coefficient (temperature): a number, or "auto" to learn it, "auto_0.1" to learn it from 0.1 on.
        Default "auto_0.1": scaled by ``reward_scale="auto"``, returns have deviation one, and SB3's initial 1 outweighs them
    :param target_update_interval: update the target network every this many updates
    :param target_entropy: target entropy when learning ``ent_coef``: a number in nats, "auto", or "auto_0.3" for 0.3 times the
        reference. The reference is minus the number of action dimensions for Box and the entropy log(n) of the uniform
        policy for Discrete, of which "auto" means 1 and 0.5 times. For less random actions "auto_2" with Box, "auto_0.3"
        with Discrete
    :param use_sde: explore by generalized state-dependent noise (gSDE), one noise function per environment. Box actions only
    :param sde_sample_freq: sample new noise functions every n steps when using gSDE; -1: at the beginning of a rollout only,
        which with ``train_freq=1`` is every step
    :param use_sde_at_warmup: use gSDE instead of uniform sampling before learning starts
    :param stats_window_size: window size for the rollout logging, in episodes
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments to be passed to the policy on creation, see
        :class:`~sb3_recurrent_offpolicy.policies.RecurrentSACPolicy`
    :param verbose: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: seed for the pseudo random generators
    :param device: device (cpu, cuda, ...) on which the code should be run
    :param settings: ``sequence_length``, ``burn_in``, ``state_init``, ``refresh_states``, ``reward_scale``,
        ``overlap_updates``, ``max_grad_norm``, ``noise_color``, see
        :class:`~sb3_recurrent_offpolicy.algorithm.RecurrentOffPolicyAlgorithm`
    :param _init_setup_model: whether or not to build the network at the creation of the instance
    :raises ValueError: if ``ent_coef`` or ``target_entropy`` is neither a number nor "auto" with an optional number, or
        ``target_entropy`` is more than the actions can have
    """

    policy_type = RecurrentSACPolicy
    known_action_spaces: ClassVar[tuple[type[spaces.Space], ...]] = (spaces.Box, spaces.Discrete)
    count_parameters = (*RecurrentOffPolicyAlgorithm.count_parameters, "target_update_interval")
    default_settings: ClassVar[ExploringSettings] = {**RecurrentOffPolicyAlgorithm.default_settings, "noise_color": "pink"}

    policy: RecurrentSACPolicy
    actor: SquashedGaussianActor | CategoricalActor
    critic: RecurrentCritic
    critic_target: RecurrentCritic

    def __init__(
        self,
        policy: str | type[RecurrentSACPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 1000,
        batch_size: int = 8,
        tau: float | None = None,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = -4,
        action_noise: ActionNoise | float | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: str | float = "auto_0.1",
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        use_sde_at_warmup: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        **settings: Unpack[ExploringSettings],
    ):
        shared = passed_on(locals(), "ent_coef", "target_update_interval", "target_entropy")
        super().__init__(**shared, supported_action_spaces=self.known_action_spaces)
        self.ent_coef = ent_coef
        self.target_update_interval = target_update_interval
        self.target_entropy = target_entropy
        self.log_ent_coef: th.Tensor | None = None
        self.ent_coef_optimizer: th.optim.Optimizer | None = None

        if _init_setup_model:
            self._setup_model()

    def _check_settings(self) -> None:
        if self.tau is None:
            self.tau = DISCRETE_TAU if isinstance(self.action_space, spaces.Discrete) else BOX_TAU
        super()._check_settings()
        automatic, initial_value = _parse_auto("ent_coef", self.ent_coef, 1.0)
        if automatic and not initial_value > 0.0:
            raise ValueError(f"ent_coef={self.ent_coef!r} must begin above 0")
        if initial_value < 0.0:
            raise ValueError(f"ent_coef={self.ent_coef!r} must not be negative")

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.use_sde:
            # On the device of the policy, one noise function per environment
            self.policy.reset_noise(self.n_envs)
        self._resolved_target_entropy = self._resolve_target_entropy()

        automatic, initial_value = _parse_auto("ent_coef", self.ent_coef, 1.0)
        if automatic:
            # Note: we optimize the log of the entropy coeff which is slightly different from the paper
            # as discussed in https://github.com/rail-berkeley/softlearning/issues/37
            self.log_ent_coef = th.full((1,), np.log(initial_value), device=self.device, requires_grad=True)
            self.ent_coef_optimizer = FusedAdam([self.log_ent_coef], lr=self.lr_schedule(1))
        else:
            self.ent_coef_tensor = th.tensor(initial_value, device=self.device)

    def _seed_generators(self, seed: int) -> None:
        super()._seed_generators(seed)
        if self.noise_color == "pink" and isinstance(self.action_space, spaces.Box) and not self.use_sde:
            shape = (self.n_envs, get_action_dim(self.action_space))
            generator = np.random.default_rng([1, seed])
            self.behavior.policy_noise = PinkActionNoise(np.zeros(shape), np.ones(shape), generator=generator)

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Load parameters from a given zip-file or a nested dictionary; parameters as in SB3.

        :param load_path_or_dict: location of the saved data (path or file-like), or the dictionary itself
        :param exact_match: whether each module must be given
        :param device: device on which the code should run
        :raises ValueError: if the temperature was learned there and is fixed here, or the reverse
        """
        parameters = self._parameters_of(load_path_or_dict, device)
        learned = "ent_coef_optimizer" in parameters
        if exact_match and learned != (self.ent_coef_optimizer is not None):
            raise ValueError(
                f"ent_coef={self.ent_coef!r} does not fit a temperature that was {'learned' if learned else 'fixed'}: choose "
                f"{'auto' if learned else 'a number'}"
            )
        super().set_parameters(parameters, exact_match, device)

    def _resolve_target_entropy(self) -> float:
        if isinstance(self.action_space, spaces.Discrete):
            largest = float(np.log(self.action_space.n))
            reference, default = largest, DISCRETE_ENTROPY_RATIO
        else:
            n_dimensions = get_action_dim(self.action_space)
            # Of the uniform distribution on [-1, 1], in which actions are learned
            largest = n_dimensions * float(np.log(2))
            reference, default = -n_dimensions, 1.0
        automatic, value = _parse_auto("target_entropy", self.target_entropy, default)
        resolved = value * reference if automatic else value
        if resolved > largest:
            raise ValueError(
                f"target_entropy={self.target_entropy!r} asks for {resolved:.4g} nats, but actions of {self.action_space} "
                f"have {largest:.4g} at most, and ent_coef would grow without end: lower it"
            )
        return resolved

    def _update(self, gradient_steps: int, batch_size: int) -> None:
        # Switch to train mode (this affects batch norm / dropout)
        self.policy.set_training_mode(True)

        # Update learning rate according to lr schedule
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)

        ent_coef_losses, ent_coefs = [], []
        actor_losses, critic_losses = [], []
        for _ in range(gradient_steps):
            self._n_updates += 1
            samples = self._sample_sequences(batch_size)

            # One unroll per network over o_0 .. o_T; what is said of step t stands at [:-1], of its successor at [1:]. Only a
            # critic whose memory acts too is asked of o_T
            critic = self.critic.encode(samples, with_successor=self.policy.shared_lstm)
            self._diagnose(samples, critic.latents)
            # Actions by the current policy: for the actor loss and, without gradient, for the bootstrap
            actor = self.actor.encode(samples, critic)
            policy = self.actor.action_log_prob(actor.latents)
            self._refresh_states(samples, actor, critic)
            current_policy, next_policy = policy.steps(slice(-1)), policy.steps(slice(1, None))

            # Optimize entropy coefficient, also called
            # entropy temperature or alpha in the paper
            ent_coef, ent_coef_loss = self._update_temperature(samples, current_policy)
            ent_coefs.append(ent_coef)
            if ent_coef_loss is not None:
                ent_coef_losses.append(ent_coef_loss)

            # Optimize the critic
            targets = self._targets(samples, next_policy, ent_coef)
            critic_loss, errors = self._critic_loss(samples, critic, targets)
            critic_losses.append(critic_loss.detach())
            self._minimize(critic_loss, self.critic.optimizer)
            self._update_priorities(samples, errors)

            # Optimize the actor
            actor_loss = self._actor_loss(samples, critic, current_policy, ent_coef)
            actor_losses.append(actor_loss.detach())
            self._minimize(actor_loss, self.actor.optimizer)

            # Update target networks
            if self._n_updates % self.target_update_interval == 0:
                self.policy.update_targets(self.tau)
            self.policy.update_average(self._n_updates)

        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/ent_coef", mean_item(ent_coefs))
        self.logger.record("train/actor_loss", mean_item(actor_losses))
        self.logger.record("train/critic_loss", mean_item(critic_losses))
        if len(ent_coef_losses) > 0:
            self.logger.record("train/ent_coef_loss", mean_item(ent_coef_losses))

    def _update_temperature(
        self, samples: RecurrentSequenceSamples, policy: ActionLogProbs
    ) -> tuple[th.Tensor, th.Tensor | None]:
        """The entropy coefficient before a step on its loss, and this loss, if it is learned."""
        if self.log_ent_coef is None or self.ent_coef_optimizer is None:
            return self.ent_coef_tensor, None
        # Important: detach the variable from the graph
        # so we don't change it with other losses
        # see https://github.com/rail-berkeley/softlearning/issues/60
        ent_coef = th.exp(self.log_ent_coef.detach())
        log_prob = policy.expectation(policy.log_probs).detach()
        missing_entropy = masked_mean(log_prob + self._resolved_target_entropy, samples.mask)
        loss = -self.log_ent_coef.detach() * missing_entropy
        # The loss is linear: its slope is known without autograd
        self.log_ent_coef.grad = -missing_entropy.view(1)
        step_if_finite(self.ent_coef_optimizer, self.log_ent_coef.grad.norm())
        return ent_coef, loss

    @th.no_grad()
    def _targets(self, samples: RecurrentSequenceSamples, next_policy: ActionLogProbs, ent_coef: th.Tensor) -> th.Tensor:
        """Soft values of what the policy would do next, by the lowest target critic: (T, B)."""
        next_latents = self.critic_target.encode(samples).latents[1:]
        next_q_values = self._policy_q_values(self.critic_target, next_latents, next_policy)
        # add entropy term
        next_values = next_policy.expectation(next_q_values - ent_coef * next_policy.log_probs)
        return n_step_targets(samples.rewards, samples.terminated, samples.mask, next_values, self.gamma, self.n_steps)

    def _critic_loss(
        self, samples: RecurrentSequenceSamples, critic: Encoded, targets: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        """The loss, and the error of each step for its priority: (T, B)."""
        current_q_values = self.critic(critic.latents[: len(samples.actions)], samples.actions)
        squares = sum((current_q - targets) ** 2 for current_q in current_q_values)
        return 0.5 * masked_mean(squares * samples.weights, samples.mask), (squares / len(current_q_values)).sqrt()

    def _actor_loss(
        self, samples: RecurrentSequenceSamples, critic: Encoded, policy: ActionLogProbs, ent_coef: th.Tensor
    ) -> th.Tensor:
        # The critic's memory is given, not to be changed by it
        q_values = self._policy_q_values(self.critic, critic.latents[: len(samples.actions)].detach(), policy)
        return masked_mean(policy.expectation(ent_coef * policy.log_probs - q_values), samples.mask)

    def _policy_q_values(self, critic: RecurrentCritic, latents: th.Tensor, policy: ActionLogProbs) -> th.Tensor:
        """Values of the actions that a policy considers, (T, B, N): min over all critic networks."""
        return reduce(th.minimum, critic.policy_values(latents, policy))

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        if self.ent_coef_optimizer is not None:
            return [*state_dicts, "ent_coef_optimizer"], [*tensors, "log_ent_coef"]
        return state_dicts, tensors

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "ent_coef_tensor"]


def _parse_auto(name: str, value: str | float, default: float) -> tuple[bool, float]:
    """Whether ``value`` is "auto" or "auto_NUMBER", and the number (of the latter, or itself, or ``default``)."""
    automatic = str(value).startswith("auto")
    try:
        number = default if value == "auto" else float(str(value).removeprefix("auto_"))
        if math.isfinite(number):
            return automatic, number
    except ValueError:
        pass
    raise ValueError(f"{name}={value!r} must be a number, 'auto', or 'auto_NUMBER' such as 'auto_0.1'")
