"""R2D2: Q-learning from sequences, prioritised if wanted, with memory."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

from sb3_recurrent_offpolicy.acting import EpsilonGreedy
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.checks import check_numbers, check_positive
from sb3_recurrent_offpolicy.networks import RecurrentQNetwork
from sb3_recurrent_offpolicy.policies import R2D2Policy
from sb3_recurrent_offpolicy.preprocessing import encode_actions
from sb3_recurrent_offpolicy.settings import MaxGradNorm, ReplaySettings, Unpack, passed_on
from sb3_recurrent_offpolicy.targets import (
    masked_mean,
    mean_item,
    munchausen_bonus,
    n_step_targets,
    rescale_values,
    soft_maximum,
    unrescale_values,
)
from sb3_recurrent_offpolicy.type_aliases import RecurrentSequenceSamples

# Environments from which on they explore at different rates. Fewer would all sit near the ends of the ladder: of two, one at
# 0.4 and one at 0.00066
SMALLEST_LADDER = 8
# Parameters that the base class does not know
OWN_PARAMETERS = (
    "target_update_interval",
    "exploration_fraction",
    "exploration_initial_eps",
    "exploration_final_eps",
    "priority_alpha",
    "priority_eta",
    "importance_beta",
    "value_rescaling",
    "exploration_ladder",
    "munchausen_scale",
    "munchausen_temperature",
)


class _PendingStep(NamedTuple):
    """The newest step of each environment: its error is known once the next observation has been seen."""

    n_added: int
    """Steps of each environment in the ring, this one included"""
    q_values: np.ndarray
    """Of the actions taken, (n_envs,)"""
    values: th.Tensor
    """Of the states, in units of returns, (n_envs,)"""
    bonus: th.Tensor
    """That of the actions taken, beside their rewards, (n_envs,)"""
    rewards: np.ndarray


class R2D2(RecurrentOffPolicyAlgorithm):
    """
    Recurrent Replay Distributed DQN: Q-learning with a recurrent dueling network, n-step targets inside sequences, value
    rescaling, stored states with burn-in, and prioritised sequence replay. Targets are Munchausen's, or those of the paper's
    double Q-learning.

    R2D2: Kapturowski et al. 2019, https://openreview.net/forum?id=r1lyTjAqYX. Double Q-learning: van Hasselt et al. 2016.
    Dueling: Wang et al. 2016. Prioritised replay: Schaul et al. 2016. Value rescaling: Pohlen et al. 2018. Exploration
    ladder: Horgan et al. 2018 (Ape-X). Munchausen: Vieillard et al. 2020, https://arxiv.org/abs/2007.14430

    The parameters are those of SB3's DQN, in its order, and after them our own. Defaults are for one machine and for rewards
    and observations of any size; the paper's, for 256 actors and weeks of Atari, are in ``hyperparams/r2d2_paper.yml``.

    :param policy: "MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy", the same with Gru, or a policy class
    :param env: the environment to learn from (if registered in Gym, can be str), with Discrete actions
    :param learning_rate: learning rate, can be a function of the remaining progress (from 1 to 0). Default 1e-3, as for the
        other algorithms: after 64,000 steps of POPGym's RepeatPrevious the return is 0.98, at 3e-4 0.70
    :param buffer_size: size of the replay buffer in steps, over all environments (paper: 4,000,000)
    :param learning_starts: how many steps to collect with random actions before learning starts. Default 1000: the scales of
        rewards and observations are those of the first batches
    :param batch_size: number of sequences per update (paper: 64). Default 8: with 32, every step is replayed 256 times, and
        noise is learned by heart, see ``benchmarks/results/defaults/tuning``
    :param tau: how far the target network moves when it is updated; 1 copies, as in the paper. Default 0.2: values travel back
        ``n_steps`` steps of an episode in about 1 / tau updates. At 0.01 one-step returns do not learn CartPole without
        velocities, where what an action is good for shows a hundred steps later
    :param gamma: the discount factor (paper: 0.997, for episodes of minutes)
    :param train_freq: update the model every ``train_freq`` steps, or ``(n, "step")`` or ``(n, "episode")``
    :param gradient_steps: how many updates after each rollout, or ``-n``: one for every n steps that all environments together
        have made. Default -8, so that learning does not depend on the number of environments; -1 is as in SB3. Twice as many
        updates of 32 sequences learn CartPole without velocities later, and noise by heart
    :param replay_buffer_class: a subclass of RecurrentSequenceReplayBuffer
    :param replay_buffer_kwargs: keyword arguments to pass to the replay buffer on creation, e.g. ``stride``
    :param optimize_memory_usage: without effect, observations are always stored once
    :param n_steps: steps before the bootstrap, inside a sequence (paper: 5). Default 1: the rewards of the actions that follow
        are noise where each reward depends on one action alone, and POPGym's RepeatPrevious is not learned with 5
    :param target_update_interval: move the target network every this many updates (paper: 2500; SB3's DQN counts steps)
    :param exploration_fraction: fraction of the training over which the exploration rate falls, where there is no ladder; 0
        begins with the final rate
    :param exploration_initial_eps: initial exploration rate, where there is no ladder
    :param exploration_final_eps: final exploration rate, where there is no ladder
    :param max_grad_norm: clip gradients to this norm, "auto" to the running median of their norm, None not to (paper: 40)
    :param stats_window_size: window size for the rollout logging, in episodes
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments to be passed to the policy on creation, see
        :class:`~sb3_recurrent_offpolicy.policies.R2D2Policy` (paper: LSTM and heads of 512 units)
    :param verbose: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: seed for the pseudo random generators
    :param device: device (cpu, cuda, ...) on which the code should be run
    :param priority_alpha: exponent of the priorities (paper: 0.9). Default 0 replays uniformly: where observations are noisy,
        large errors are noise, and CartPole without velocities is learned in a third of the steps
    :param priority_eta: weight of the largest error of a sequence against their mean
    :param importance_beta: initial exponent of the importance weights, annealed to 1; 0, as in the paper, leaves them out
    :param value_rescaling: learn h(Q), h(x) = sign(x)(sqrt(abs(x) + 1) - 1) + 0.001 x, in place of Q
    :param exploration_ladder: (epsilon, alpha): environment i of N explores at the rate epsilon^(1 + alpha i / (N - 1)).
        Applies from 8 environments on, where the schedule above has no effect; None: the schedule, always
    :param munchausen_scale: how much of its log-probability under softmax(Q / temperature) is added to the reward of an
        action, so that values of actions differ more than returns do, and policies change less from update to update: solved
        tasks are lost less often to the noise of Q, see ``docs/steadiness.md``. 0: double Q-learning, as in R2D2's paper
    :param munchausen_temperature: temperature of that softmax, in units of learned returns, whose deviation
        ``reward_scale="auto"`` makes one. Default 0.01 (paper: 0.03, where rewards are between -1 and 1)
    :param settings: ``sequence_length`` (paper: 80 with its burn-in of 40), ``burn_in``, ``state_init``, ``refresh_states``,
        ``reward_scale`` and ``overlap_updates``, see
        :class:`~sb3_recurrent_offpolicy.algorithm.RecurrentOffPolicyAlgorithm`
    :param _init_setup_model: whether or not to build the network at the creation of the instance
    """

    policy_type = R2D2Policy
    network_names = ("q_net", "q_net_target")
    optimizer_names = ("policy.optimizer",)
    count_parameters = (*RecurrentOffPolicyAlgorithm.count_parameters, "target_update_interval")
    buffer_parameters = (
        *RecurrentOffPolicyAlgorithm.buffer_parameters,
        "priority_alpha",
        "priority_eta",
        "importance_beta",
    )

    policy: R2D2Policy
    q_net: RecurrentQNetwork
    q_net_target: RecurrentQNetwork

    def __init__(
        self,
        policy: str | type[R2D2Policy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 1000,
        batch_size: int = 8,
        tau: float = 0.2,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = -8,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        target_update_interval: int = 1,
        exploration_fraction: float = 0.1,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        max_grad_norm: MaxGradNorm = "auto",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        priority_alpha: float = 0.0,
        priority_eta: float = 0.9,
        importance_beta: float = 0.0,
        value_rescaling: bool = True,
        exploration_ladder: tuple[float, float] | None = (0.4, 7.0),
        munchausen_scale: float = 0.9,
        munchausen_temperature: float = 0.01,
        _init_setup_model: bool = True,
        **settings: Unpack[ReplaySettings],
    ):
        super().__init__(**passed_on(locals(), *OWN_PARAMETERS), sde_support=False, supported_action_spaces=(spaces.Discrete,))
        self.target_update_interval = target_update_interval
        self.exploration_fraction = exploration_fraction
        self.exploration_initial_eps = exploration_initial_eps
        self.exploration_final_eps = exploration_final_eps
        self.priority_alpha = priority_alpha
        self.priority_eta = priority_eta
        self.importance_beta = importance_beta
        self.value_rescaling = value_rescaling
        self.exploration_ladder = exploration_ladder
        self.munchausen_scale = munchausen_scale
        self.munchausen_temperature = munchausen_temperature
        # Of the latest step, the mean over environments; ``predict`` explores at this rate, as in SB3's DQN
        self.exploration_rate = 0.0
        self._pending_step: _PendingStep | None = None

        if _init_setup_model:
            self._setup_model()

    def _check_settings(self) -> None:
        super()._check_settings()
        check_numbers(
            0,
            1,
            exploration_fraction=self.exploration_fraction,
            exploration_initial_eps=self.exploration_initial_eps,
            exploration_final_eps=self.exploration_final_eps,
            munchausen_scale=self.munchausen_scale,
        )
        check_positive("(munchausen_scale=0 for plain Q-learning)", munchausen_temperature=self.munchausen_temperature)
        if self.exploration_ladder is not None:
            try:
                epsilon, alpha = self.exploration_ladder
                check_numbers(0, 1, epsilon=epsilon)
                check_numbers(0, alpha=alpha)
                # A list after it was saved
                self.exploration_ladder = (epsilon, alpha)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"exploration_ladder={self.exploration_ladder!r} must be (epsilon, alpha), epsilon between 0 and 1 and "
                    f"alpha not negative, or None: {error}"
                ) from None

    def _setup_model(self) -> None:
        super()._setup_model()
        self._pending_step = None
        self.exploration_schedule: Schedule = ConstantSchedule(self.exploration_final_eps)
        # SB3's schedule divides by the fraction
        if self.exploration_fraction > 0:
            self.exploration_schedule = LinearSchedule(
                self.exploration_initial_eps, self.exploration_final_eps, self.exploration_fraction
            )

    # ----------------------------------------------------------------- acting

    def exploration_rates(self) -> np.ndarray:
        """
        :return: probability of a random action in each environment of the fleet, (n_envs,)
        """
        n_envs = self.n_envs if self.fleet_place is None else self.fleet_place.n_envs
        if self.exploration_ladder is not None and n_envs >= SMALLEST_LADDER:
            epsilon, alpha = self.exploration_ladder
            return epsilon ** (1.0 + alpha * np.arange(n_envs) / (n_envs - 1))
        return np.full(n_envs, self.exploration_schedule(self._current_progress_remaining))

    def _seed_generators(self, seed: int) -> None:
        super()._seed_generators(seed)
        assert isinstance(self.action_space, spaces.Discrete)
        n_actions = int(self.action_space.n)
        self.behavior.epsilon_greedy = EpsilonGreedy(n_actions, np.random.default_rng([1, seed]))
        # Who evaluates in between does not change how training explores
        self._evaluation_epsilon_greedy = EpsilonGreedy(n_actions, np.random.default_rng([2, seed]))

    def _set_exploration(self) -> None:
        rates = self.exploration_rates()
        first = 0 if self.fleet_place is None else self.fleet_place.first
        self.behavior.exploration_rates = rates[first : first + self.n_envs]
        self.exploration_rate = float(rates.mean())
        self.logger.record("rollout/exploration_rate", self.exploration_rate)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Get the action for an observation, given the memory of what came before it.

        :param observation: the input observation, of one environment or of several
        :param state: what the previous call returned, None at the very beginning
        :param episode_start: (n_envs,) bool, an episode begins with this observation: its part of ``state`` is forgotten
        :param deterministic: the best action, always; otherwise a random one at ``exploration_rate``, as in SB3's DQN the
            rate of the latest training step, which can be set
        :return: the action and the next state
        """
        action, state = self.policy.predict(observation, state, episode_start, deterministic)
        if not deterministic:
            assert state is not None
            action = self._evaluation_epsilon_greedy(np.asarray(action), self.exploration_rate)
            # What is done is what will be remembered
            done = encode_actions(th.as_tensor(action.reshape(-1, 1)), self.action_space)
            state = (*state[:-1], done.numpy()[None])
        return action, state

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        super().load_replay_buffer(path, truncate_last_traj)
        # The step whose error was still to come is not in this buffer
        self._pending_step = None

    def _store_own_step(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        assert self.behavior.staged is not None
        if self.priority_alpha == 0:
            super()._store_own_step(replay_buffer, buffer_action, new_obs, reward, dones, infos)
            return
        q_values = th.as_tensor(self.behavior.staged.policy_step.q_values)
        actions = th.as_tensor(buffer_action.reshape(-1, 1), dtype=th.long)
        returns = self._from_learned_scale(q_values)
        values = self._state_values(returns)
        ring = self.replay_buffer.rings[0]
        # A buffer that was reset meanwhile does not hold the step
        if self._pending_step is not None and self._pending_step.n_added == ring.n_added:
            self.replay_buffer.set_newest_errors(self._errors_of(self._pending_step, values)[None])
        super()._store_own_step(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        taken = q_values.gather(-1, actions).squeeze(-1).numpy()
        bonus = self.munchausen_scale * munchausen_bonus(returns, values, actions)
        self._pending_step = _PendingStep(ring.n_added, taken, values, bonus, reward.astype(np.float32))

    def _errors_of(self, step: _PendingStep, next_values: th.Tensor) -> np.ndarray:
        """
        Initial priorities, from the values that acting has computed anyway: one-step errors, with the online network. After a
        time limit the last observation is not acted on, and the value of the one before stands in for its value.
        """
        ring = self.replay_buffer.rings[0]
        terminated = ring.terminated[(ring.n_added - 1) % ring.n_rows]
        next_values = th.where(th.as_tensor(self._last_episode_starts), step.values, next_values)
        rewards = th.as_tensor(step.rewards * self.reward_factor) + step.bonus
        targets = self._to_learned_scale(rewards + self.gamma * th.as_tensor(~terminated) * next_values)
        return np.abs(targets.numpy() - step.q_values)

    def _state_values(self, q_values: th.Tensor) -> th.Tensor:
        """What observations are worth, (...), given values of all actions as returns, (..., n_actions)."""
        if self.munchausen_scale > 0:
            return soft_maximum(q_values, self.munchausen_temperature)
        return q_values.max(dim=-1).values

    def _to_learned_scale(self, values: th.Tensor) -> th.Tensor:
        return rescale_values(values) if self.value_rescaling else values

    def _from_learned_scale(self, values: th.Tensor) -> th.Tensor:
        return unrescale_values(values) if self.value_rescaling else values

    # --------------------------------------------------------------- learning

    def _update(self, gradient_steps: int, batch_size: int) -> None:
        # Switch to train mode (this affects batch norm / dropout)
        self.policy.set_training_mode(True)
        # Update learning rate according to schedule
        self._update_learning_rate(self.policy.optimizer)

        losses, q_means = [], []
        for _ in range(gradient_steps):
            self._n_updates += 1
            samples = self._sample_sequences(batch_size)

            # One unroll per network over o_0 .. o_T; what is said of step t stands at [:-1], of its successor at [1:]
            encoded = self.q_net.encode(samples)
            self._diagnose(samples, encoded.latents)
            self._refresh_states(samples, encoded, encoded)
            q_values = self.q_net.q_values(encoded.latents)
            targets = self._targets(samples, q_values[1:].detach())

            # Get the values of the actions from the replay buffer
            current_q_values = q_values[:-1].gather(-1, samples.actions.long()).squeeze(-1)

            # Compute loss
            errors = current_q_values - targets
            loss = 0.5 * masked_mean(errors**2 * samples.weights, samples.mask)
            losses.append(loss.detach())
            q_means.append(masked_mean(current_q_values.detach(), samples.mask))

            # Optimize the network
            self._minimize(loss, self.policy.optimizer)
            self.policy.update_average(self._n_updates)
            self._update_priorities(samples, errors)

            if self._n_updates % self.target_update_interval == 0:
                self.policy.update_targets(self.tau)

        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", mean_item(losses))
        self.logger.record("train/q_values", mean_item(q_means))

    @th.no_grad()
    def _targets(self, samples: RecurrentSequenceSamples, next_online_values: th.Tensor) -> th.Tensor:
        """
        What the Q-values of the actions taken should be, (T, B). Without Munchausen that is double Q-learning: the online
        network chooses the next action, the target network values it.
        """
        q_values = self._from_learned_scale(self.q_net_target.q_values(self.q_net_target.encode(samples).latents))
        values = self._state_values(q_values)
        next_values = values[1:]
        if self.munchausen_scale == 0:
            next_values = q_values[1:].gather(-1, next_online_values.argmax(dim=-1, keepdim=True)).squeeze(-1)
        targets = n_step_targets(samples.rewards, samples.terminated, samples.mask, next_values, self.gamma, self.n_steps)
        # Of the first action alone: those that follow, random ones among them, are not what it is judged by
        bonus = munchausen_bonus(q_values[:-1], values[:-1], samples.actions.long())
        return self._to_learned_scale(targets + self.munchausen_scale * bonus)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_evaluation_epsilon_greedy", "_pending_step"]
