"""What all algorithms share: their settings, what is built from them, and what surrounds an update."""

import copy
import inspect
import warnings
from operator import attrgetter
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_recurrent_offpolicy.acting import BehaviorPolicy
from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.checks import check_actions, check_integers, check_numbers, check_positive, check_switches
from sb3_recurrent_offpolicy.collecting import CollectingAlgorithm
from sb3_recurrent_offpolicy.diagnostics import state_staleness
from sb3_recurrent_offpolicy.noise import PinkActionNoise
from sb3_recurrent_offpolicy.optimizing import keep_freed_memory, latest_norms, minimize, take_n_refused
from sb3_recurrent_offpolicy.policies import POLICY_NAMES, RecurrentPolicy, check_policy_name, named_policy_kwargs
from sb3_recurrent_offpolicy.rewards import RewardNormalizer
from sb3_recurrent_offpolicy.settings import MaxGradNorm, NoiseColor, RecurrentSettings, signature_with_settings
from sb3_recurrent_offpolicy.stepping import check_alive
from sb3_recurrent_offpolicy.type_aliases import Encoded, RecurrentSequenceSamples, RNNStates

SelfRecurrentOffPolicyAlgorithm = TypeVar("SelfRecurrentOffPolicyAlgorithm", bound="RecurrentOffPolicyAlgorithm")

# A parameter whose gradient has long been far below it hardly moves. At Adam's own 1e-8 it moves as far as any other, in the
# direction of noise. R2D2's 1e-3 holds up what rewards far below 1, or a cue far back, would teach
ADAM_EPSILON = 1e-5
# A diagnosis costs between a tenth and a fifth of an update
UPDATES_PER_DIAGNOSIS = 100


class RecurrentOffPolicyAlgorithm(CollectingAlgorithm):
    """
    Base of the recurrent off-policy algorithms. Parameters are those of SB3's ``OffPolicyAlgorithm``, and these keyword
    arguments, whose defaults stand in ``default_settings``:

    :param sequence_length: steps per sequence, None for whole episodes. About the span that must be remembered
    :param burn_in: steps replayed without gradient before a sequence that does not begin with its episode. Worth a try when
        observations are normalised by running statistics: stored states were computed under older ones
    :param state_init: "stored" begins a sequence with the memory that acted there, "zero" with zeros
    :param refresh_states: replace stored memories by those that burn-in has recomputed with today's weights, so that they age
        from their last replay on
    :param reward_scale: factor on sampled rewards. "auto" divides them by the deviation of the discounted returns that are
        replayed, so that one learning rate fits rewards of any size, see
        :class:`~sb3_recurrent_offpolicy.rewards.RewardNormalizer`
    :param overlap_updates: update while the environments compute their next step, for slow simulators in a ``SubprocVecEnv``.
        Off by default, because actions then come from weights that lack the updates after the latest rollout. Data and
        updates are as in SB3's order. Most overlaps with ``train_freq=1``: all updates are made during one step
    :param max_grad_norm: clip the gradients of each optimizer to this norm, None not to. "auto" clips them to the running
        median of their norm, see ``docs/steadiness.md``

    Algorithms with Box actions have one more:

    :param noise_color: of the noise that explores. "pink" (default) changes in part at every step and in part slowly, and
        leads further than "white", which changes at every step, see :class:`~sb3_recurrent_offpolicy.noise.PinkActionNoise`.
        ``RecurrentSAC`` and ``RecurrentTQC`` sample actions with it while they collect, unless by gSDE or among Discrete
        actions; updates and ``predict`` draw as the policy says. A number as ``action_noise`` is the deviation of such noise

    ``batch_size`` counts *sequences*: an update learns from up to ``batch_size * sequence_length`` steps. The ``n_steps``
    before the bootstrap are counted inside a sequence (see ``targets.n_step_targets``).

    :raises ValueError: for impossible settings, naming parameter, value and remedy
    """

    policy_type: ClassVar[type[RecurrentPolicy]]
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {}
    # Networks of the policy that are attributes of the algorithm too, and what has an optimizer among them
    network_names: ClassVar[tuple[str, ...]] = ("actor", "critic", "critic_target")
    optimizer_names: ClassVar[tuple[str, ...]] = ("actor.optimizer", "critic.optimizer")

    # Parameters that count something and cannot be zero
    count_parameters: ClassVar[tuple[str, ...]] = ("batch_size", "n_steps")
    default_settings: ClassVar[RecurrentSettings] = {
        "sequence_length": 64,
        "burn_in": 0,
        "state_init": "stored",
        "refresh_states": False,
        "reward_scale": "auto",
        "overlap_updates": False,
        "max_grad_norm": None,
    }

    policy: RecurrentPolicy
    sequence_length: int | None
    burn_in: int
    max_grad_norm: MaxGradNorm
    # A setting of the algorithms with Box actions only
    noise_color: NoiseColor = "white"

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        # Read by inspect, unknown to mypy
        cls.__signature__ = signature_with_settings(cls.__init__, cls.default_settings)  # type: ignore[attr-defined]
        if "policy_type" in vars(cls) and "policy_aliases" not in vars(cls):
            cls.policy_aliases = dict.fromkeys(POLICY_NAMES, cls.policy_type)

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule,
        *,
        n_steps: int = 1,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        settings = {name: kwargs.pop(name, default) for name, default in self.default_settings.items()}
        if unknown := sorted(set(kwargs) - set(inspect.signature(OffPolicyAlgorithm).parameters)):
            raise TypeError(f"{type(self).__name__}() got unexpected keyword arguments {unknown}")
        if replay_buffer_class is not None and not issubclass(replay_buffer_class, RecurrentSequenceReplayBuffer):
            raise ValueError(
                f"replay_buffer_class={replay_buffer_class.__name__} stores no sequences with memory states "
                "(hindsight relabelling would also invalidate them): leave it None, or pass a subclass of "
                "RecurrentSequenceReplayBuffer"
            )
        # SB3 and we add to them; the user's may serve another model next
        policy_kwargs = named_policy_kwargs(policy, copy.deepcopy(policy_kwargs or {}))
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=learning_rate,
            replay_buffer_class=replay_buffer_class or RecurrentSequenceReplayBuffer,
            replay_buffer_kwargs=replay_buffer_kwargs,
            policy_kwargs=self.complete_policy_kwargs(policy_kwargs),
            support_multi_env=True,
            **kwargs,
        )
        if self.env is not None:
            check_policy_name(policy, self.observation_space)
        for name, value in settings.items():
            setattr(self, name, value)
        self.n_steps = n_steps
        self.algorithm_name = self._algorithm_name()

    @classmethod
    def complete_policy_kwargs(cls, policy_kwargs: dict[str, Any]) -> dict[str, Any]:
        """
        :param policy_kwargs: as users give them
        :return: with the defaults of this algorithm where they differ from the policy's, and those of Adam
        """
        if policy_kwargs.get("optimizer_class", th.optim.Adam) is not th.optim.Adam:
            return policy_kwargs
        return policy_kwargs | {"optimizer_kwargs": {"eps": ADAM_EPSILON} | (policy_kwargs.get("optimizer_kwargs") or {})}

    def _check_settings(self) -> None:
        """
        Called before anything is built, by the constructor and when a model is loaded with other settings.

        :raises ValueError: for impossible settings, naming parameter, value and remedy
        """
        self._check_algorithm()
        if own := sorted(set(self.buffer_parameters) & set(self.replay_buffer_kwargs)):
            raise ValueError(f"replay_buffer_kwargs has {own}: pass them to {type(self).__name__} itself")
        check_integers(1, **{name: getattr(self, name) for name in self.count_parameters})
        check_integers(-(2**31), gradient_steps=self.gradient_steps)
        check_numbers(0, 1, gamma=self.gamma, tau=self.tau)
        check_switches(overlap_updates=self.overlap_updates)
        if self.reward_scale != "auto":
            check_positive("or 'auto'", reward_scale=self.reward_scale)
        if self.max_grad_norm not in ("auto", None):
            check_positive("or 'auto', or None not to clip", max_grad_norm=self.max_grad_norm)
        if isinstance(self.policy_class, type) and not issubclass(self.policy_class, self.policy_type):
            raise ValueError(
                f"policy={self.policy_class.__name__} does not belong to {type(self).__name__}: choose one of "
                f"{sorted(self.policy_aliases)} or a subclass of {self.policy_type.__name__}. A saved model "
                "is loaded by the class that saved it."
            )
        check_actions(self.action_space, self.action_noise)
        if isinstance(self.action_noise, (int, float, np.number)):
            check_numbers(0, action_noise=self.action_noise)
        if self.noise_color not in ("pink", "white"):
            raise ValueError(f"noise_color={self.noise_color!r} is not known: choose 'pink' or 'white'")

    def _setup_model(self) -> None:
        self._check_settings()
        if isinstance(self.action_noise, (int, float, np.number)):
            deviations = np.full(get_action_dim(self.action_space), self.action_noise)
            kind = PinkActionNoise if self.noise_color == "pink" else NormalActionNoise
            self.action_noise = kind(np.zeros_like(deviations), deviations)
        if self.optimize_memory_usage:
            warnings.warn("optimize_memory_usage=True has no effect: observations are always stored once. Leave it out.")
            # Otherwise SB3 looks for arrays that our replay buffer has not
            self.optimize_memory_usage = False
        if self.replay_buffer is None:
            self.replay_buffer = self._make_replay_buffer()
        with warnings.catch_warnings():
            # SB3 leaves n-step returns to the buffer, here they are computed inside the sequences
            warnings.filterwarnings("ignore", message="`n_steps=")
            super()._setup_model()
        keep_freed_memory()
        self._create_aliases()
        self.behavior = BehaviorPolicy(self.policy, self.n_envs)
        # Without a seed, from the global generator: seeding that one is enough to repeat a run
        self._seed_generators(np.random.randint(2**31) if self.seed is None else self.seed)
        if isinstance(self.action_noise, VectorizedActionNoise) and self.action_noise.n_envs != self.n_envs:
            # Loaded with another number of environments: SB3 vectorises the noise of one again
            self.action_noise = self.action_noise.base_noise
        if not hasattr(self, "reward_normalizer"):
            self.reward_normalizer = RewardNormalizer()
        # What a loaded model knows of returns goes on counting, in a ring of today's size
        returns = self._return_statistics(0)
        returns.n_rows = self.replay_buffer.buffer_size
        memory = self._saved_memory
        if memory is not None and len(memory.previous_actions) == self.n_envs:
            # A loaded model can go on in the middle of an episode (load with force_reset=False)
            self.behavior.restore(memory)
        else:
            self._last_obs = None
            returns.begin_episodes(self.n_envs)

    def _create_aliases(self) -> None:
        for name in self.network_names:
            setattr(self, name, getattr(self.policy, name))

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Set the seed of the pseudo-random generators: those of Python, NumPy, PyTorch and the spaces, and those of this model.
        Sequences, random actions of R2D2 and target noise are drawn from the latter, which other models do not disturb.

        :param seed: None leaves all generators as they are
        """
        super().set_random_seed(seed)
        if seed is not None and hasattr(self, "behavior"):
            self._seed_generators(seed)

    def _seed_generators(self, seed: int) -> None:
        # Streams of their own, so that the number of draws from one does not move another
        self.replay_buffer.seed(seed)
        self._torch_generator = th.Generator(self.device).manual_seed(seed)

    # --------------------------------------------------------------- learning

    def _setup_learn(self, total_timesteps: int, callback: MaybeCallback = None, *args: Any, **kwargs: Any) -> Any:
        if self.env is not None and isinstance(self.env.unwrapped, SubprocVecEnv):
            check_alive(self.env.unwrapped)
        # SB3 resets it, although episodes go on
        noise = copy.deepcopy(self.action_noise)
        goes_on = self._last_obs is not None and not (args[0] if args else kwargs.get("reset_num_timesteps", True))
        found = super()._setup_learn(total_timesteps, callback, *args, **kwargs)
        if goes_on:
            self.action_noise = noise
        return found

    def learn(
        self: SelfRecurrentOffPolicyAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfRecurrentOffPolicyAlgorithm:
        """
        Return a trained model; parameters as in SB3.

        :param total_timesteps: the total number of samples (env steps) to train on
        :param callback: callback(s) called at every step with state of the algorithm
        :param log_interval: for how many episodes before logging info
        :param tb_log_name: the name of the run for TensorBoard logging; by default that of the class
        :param reset_num_timesteps: whether or not to reset the current timestep number (used in logging)
        :param progress_bar: display a progress bar using tqdm and rich
        :return: the trained model
        """
        return super().learn(
            total_timesteps,
            callback,
            log_interval,
            tb_log_name or type(self).__name__,
            reset_num_timesteps,
            progress_bar,
        )

    def _diagnose(self, samples: RecurrentSequenceSamples, latents: th.Tensor) -> None:
        """
        Log now and then what a batch tells of replay.

        :param samples: the batch
        :param latents: what the value network made of it, (T, B, latent_dim) or longer
        """
        if self._n_updates % UPDATES_PER_DIAGNOSIS != 0:
            return
        self.logger.record("train/padding", 1.0 - samples.mask.mean().item())
        # Running statistics count what is learned from, once
        self.policy.set_training_mode(False)
        for name, value in state_staleness(self.policy.value_network, samples, latents.detach(), self.replay_buffer).items():
            self.logger.record(f"train/delta_q_{name}", value)
        self.policy.set_training_mode(True)
        for name, value in self.replay_buffer.priority_statistics().items():
            self.logger.record(f"train/priority_{name}", value)
        for name in self.optimizer_names:
            norms, limits = latest_norms(attrgetter(name)(self))
            owner = name.split(".")[0]
            self.logger.record(f"train/grad_norm_{owner}", norms.nanmean().item())
            n_known = max(1, (~norms.isnan()).sum().item())
            self.logger.record(f"train/grad_clipped_{owner}", (norms > limits).sum().item() / n_known)

    def _refresh_states(self, samples: RecurrentSequenceSamples, actor: Encoded, critic: Encoded) -> None:
        """
        :param samples: the batch
        :param actor: what the network that acts made of it
        :param critic: what the network that values made of it
        """
        self.replay_buffer.write_states(samples, RNNStates(actor.warm_state, critic.warm_state))

    def _update_priorities(self, samples: RecurrentSequenceSamples, errors: th.Tensor) -> None:
        """
        :param samples: the batch
        :param errors: temporal-difference errors, (T, B), of several critics the root of their mean square
        """
        if self.replay_buffer.priority_alpha > 0:
            # Errors that are not finite are no priorities
            self._check_updates()
            self.replay_buffer.update_priorities(samples, errors)

    def _check_updates(self) -> None:
        for name in self.optimizer_names:
            if take_n_refused(attrgetter(name)(self)) > 0:
                network = name.split(".")[0].replace("policy", "Q-network")
                raise FloatingPointError(
                    f"Update {self._n_updates}: the loss of the {network}, or its gradient, is not finite. Its step was not "
                    "made, priorities are as before it, and the model can be saved. Lower learning_rate, or look for huge "
                    "rewards and observations (VecCheckNan, VecNormalize)"
                )

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        # The last rollout goes beyond the end, where schedules turn negative
        self._current_progress_remaining = max(self._current_progress_remaining, 0.0)

    def _minimize(self, loss: th.Tensor, optimizer: th.optim.Optimizer) -> None:
        minimize(loss, optimizer, self.max_grad_norm)

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        check_numbers(0, learning_rate=self.lr_schedule(self._current_progress_remaining))
        super()._update_learning_rate(optimizers)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            self.policy.slow_memory_down(optimizer)
