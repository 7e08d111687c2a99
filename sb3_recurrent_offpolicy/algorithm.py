"""
What all algorithms share: act with memory (stage), store (commit), sample sequences.

The memory of training lives here, never in the policy, whose ``predict`` is pure: callbacks evaluate the policy in the
middle of a step. A step *stages* the memory it leads to and commits it together with its transition, so that memory and
``_last_obs`` never disagree, whatever a callback does in between.
"""

import copy
import inspect
import io
import pathlib
import warnings
from collections.abc import Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_pkl
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn, Schedule, TrainFreq
from stable_baselines3.common.vec_env import VecEnv
from torch.utils._pytree import tree_map

from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.checks import check_integers, check_numbers, check_positive
from sb3_recurrent_offpolicy.diagnostics import state_staleness
from sb3_recurrent_offpolicy.policies import RecurrentPolicy
from sb3_recurrent_offpolicy.preprocessing import encode_actions
from sb3_recurrent_offpolicy.rewards import RewardNormalizer
from sb3_recurrent_offpolicy.type_aliases import Encoded, RecurrentSequenceSamples, RNNStates

SelfRecurrentOffPolicyAlgorithm = TypeVar("SelfRecurrentOffPolicyAlgorithm", bound="RecurrentOffPolicyAlgorithm")

# A diagnosis costs between a tenth and a fifth of an update
UPDATES_PER_DIAGNOSIS = 100


class RecurrentOffPolicyAlgorithm(OffPolicyAlgorithm):
    """
    Base of the recurrent off-policy algorithms. Parameters are those of SB3's ``OffPolicyAlgorithm``, and:

    :param batch_size: number of *sequences* per update; an update learns from up to ``batch_size * sequence_length`` steps
    :param n_steps: steps before the bootstrap inside a sequence (see ``targets.n_step_targets``)
    :param sequence_length: steps per sequence, None for whole episodes. About the span that must be remembered
    :param burn_in: steps replayed without gradient before a sequence that does not begin with its episode
    :param state_init: "stored" begins a sequence with the memory that acted there, "zero" with zeros
    :param refresh_states: replace stored memories by those that burn-in has recomputed
    :param reward_scale: factor on sampled rewards. "auto" divides them by the deviation of the discounted returns that are
        replayed, so that one learning rate fits rewards of any size, see
        :class:`~sb3_recurrent_offpolicy.rewards.RewardNormalizer`
    :param max_grad_norm: clip gradients to this norm, None not to
    :raises ValueError: for impossible settings, naming parameter, value and remedy
    """

    # Networks of the policy that are attributes of the algorithm too, and what has an optimizer among them
    network_names: ClassVar[tuple[str, ...]] = ("actor", "critic", "critic_target")
    optimizer_names: ClassVar[tuple[str, ...]] = ("actor.optimizer", "critic.optimizer")

    # Parameters that count something and cannot be zero
    count_parameters: ClassVar[tuple[str, ...]] = ("batch_size", "n_steps")
    # Our own parameters that the replay buffer is to be told
    buffer_parameters: ClassVar[tuple[str, ...]] = ("sequence_length", "burn_in", "state_init", "refresh_states")

    policy: RecurrentPolicy
    replay_buffer: RecurrentSequenceReplayBuffer
    _last_episode_starts: np.ndarray
    _last_lstm_states: RNNStates
    _last_previous_actions: th.Tensor
    reward_normalizer: RewardNormalizer

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule,
        *,
        batch_size: int,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        policy_kwargs: dict[str, Any] | None = None,
        sequence_length: int | None = 32,
        burn_in: int = 0,
        state_init: Literal["stored", "zero"] = "stored",
        refresh_states: bool = False,
        reward_scale: float | Literal["auto"] = "auto",
        max_grad_norm: float | None = None,
        **kwargs: Any,
    ):
        if replay_buffer_class is not None and not issubclass(replay_buffer_class, RecurrentSequenceReplayBuffer):
            raise ValueError(
                f"replay_buffer_class={replay_buffer_class.__name__} stores no sequences with memory states "
                "(hindsight relabelling would also invalidate them): leave it None, or pass a subclass of "
                "RecurrentSequenceReplayBuffer"
            )
        own = set(self.buffer_parameters) & set(replay_buffer_kwargs or {})
        if own:
            raise ValueError(f"replay_buffer_kwargs has {sorted(own)}: pass them to {type(self).__name__} itself")
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=learning_rate,
            batch_size=batch_size,
            replay_buffer_class=replay_buffer_class or RecurrentSequenceReplayBuffer,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            # SB3 and we add to them; the user's may serve another model next
            policy_kwargs=self.complete_policy_kwargs(copy.deepcopy(policy_kwargs or {})),
            support_multi_env=True,
            **kwargs,
        )
        if (
            isinstance(policy, str)
            and self.env is not None
            and policy.startswith("MultiInput") != isinstance(self.observation_space, spaces.Dict)
        ):
            raise ValueError(
                f"policy='{policy}' does not fit the observation space {self.observation_space}: MultiInputLstmPolicy and "
                "MultiInputGruPolicy are for Dict spaces, and for nothing else"
            )
        self.n_steps = n_steps
        self.sequence_length = sequence_length
        self.burn_in = burn_in
        self.state_init = state_init
        self.refresh_states = refresh_states
        self.reward_scale = reward_scale
        self.max_grad_norm = max_grad_norm
        self.algorithm_name = self._algorithm_name()

    @classmethod
    def complete_policy_kwargs(cls, policy_kwargs: dict[str, Any]) -> dict[str, Any]:
        """
        :param policy_kwargs: as users give them
        :return: with the defaults of this algorithm where they differ from the policy's
        """
        return policy_kwargs

    @classmethod
    def _algorithm_name(cls) -> str:
        """Of the algorithm that this class is, or extends outside of the package."""
        package = __name__.split(".")[0]
        return next(base.__name__ for base in cls.__mro__ if base.__module__.split(".")[0] == package)

    def _check_settings(self) -> None:
        """
        Called before anything is built, by the constructor and when a model is loaded with other settings.

        :raises ValueError: for impossible settings, naming parameter, value and remedy
        """
        check_integers(1, **{name: getattr(self, name) for name in self.count_parameters})
        check_numbers(0, 1, gamma=self.gamma, tau=self.tau)
        if self.reward_scale != "auto":
            check_positive("or 'auto'", reward_scale=self.reward_scale)
        if self.max_grad_norm is not None:
            check_positive("or None not to clip", max_grad_norm=self.max_grad_norm)
        if self.algorithm_name != self._algorithm_name():
            raise ValueError(f"it was saved by {self.algorithm_name}: use {self.algorithm_name}.load")
        own_policy = self.policy_aliases["MlpLstmPolicy"]
        if isinstance(self.policy_class, type) and not issubclass(self.policy_class, own_policy):
            raise ValueError(
                f"policy={self.policy_class.__name__} is no policy of {type(self).__name__}: choose one of "
                f"{sorted(self.policy_aliases)} or a subclass of {own_policy.__name__}. A saved model "
                "is loaded by the class that saved it."
            )
        if isinstance(self.action_space, spaces.Box):
            if not (self.action_space.low < self.action_space.high).all():
                raise ValueError(
                    f"action_space={self.action_space} has dimensions whose low is not below their high, which leaves nothing "
                    "to choose: take them out with gymnasium.wrappers.TransformAction"
                )
        elif self.action_noise is not None:
            raise ValueError(
                f"action_noise={self.action_noise} cannot be added to actions of {self.action_space}: leave it None"
            )
        if isinstance(self.action_space, spaces.Discrete) and self.action_space.start != 0:
            raise ValueError(
                f"action_space={self.action_space} must start at 0: use gymnasium.wrappers.TransformAction to shift it"
            )

    def _setup_model(self) -> None:
        self._check_settings()
        if self.optimize_memory_usage:
            warnings.warn("optimize_memory_usage=True has no effect: observations are always stored once. Leave it out.")
            # Otherwise SB3 looks for arrays that our replay buffer has not
            self.optimize_memory_usage = False
        self.replay_buffer_kwargs = self.replay_buffer_kwargs | {name: getattr(self, name) for name in self.buffer_parameters}
        with warnings.catch_warnings():
            # SB3 leaves n-step returns to the buffer, here they are computed inside the sequences
            warnings.filterwarnings("ignore", message="`n_steps=")
            super()._setup_model()
        # Without a seed, from the global generator: seeding that one is enough to repeat a run
        self._seed_generators(np.random.randint(2**31) if self.seed is None else self.seed)
        self._create_aliases()
        if isinstance(self.action_noise, VectorizedActionNoise) and self.action_noise.n_envs != self.n_envs:
            # Loaded with another number of environments: SB3 vectorises the noise of one anew
            self.action_noise = self.action_noise.base_noise
        initial_states = self.policy.initial_states(self.n_envs)
        episode = ("_last_lstm_states", "_last_previous_actions")
        if all(hasattr(self, name) for name in episode) and len(self._last_previous_actions) == self.n_envs:
            # A loaded model can go on in the middle of an episode (load with force_reset=False)
            memory = self._last_lstm_states, self._last_previous_actions
            states, self._last_previous_actions = tree_map(lambda tensor: tensor.to(self.device), memory)
            # A shared memory is one object, which saving has made two
            self._last_lstm_states = RNNStates(states.pi, states.pi) if initial_states.vf is initial_states.pi else states
        else:
            self._last_lstm_states = initial_states
            self._last_previous_actions = th.zeros(self.n_envs, self.policy.action_encoding_dim, device=self.device)
            if hasattr(self, "reward_normalizer"):
                self.reward_normalizer.begin_episodes(self.n_envs)
        if not hasattr(self, "reward_normalizer"):
            self.reward_normalizer = RewardNormalizer(self.n_envs, self.replay_buffer.buffer_size)
        self.reward_normalizer.n_rows = self.replay_buffer.buffer_size

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Set the seed of the pseudo-random generators: those of Python, NumPy, PyTorch and the spaces, and those of this model.
        Sequences, random actions of R2D2 and target noise are drawn from the latter, which other models do not disturb.

        :param seed: None leaves all generators as they are
        """
        super().set_random_seed(seed)
        if seed is not None and self.replay_buffer is not None:
            self._seed_generators(seed)

    def _seed_generators(self, seed: int) -> None:
        self.replay_buffer.seed(seed)
        # Streams of their own, so that the number of draws from one does not move another
        self._exploration_generator = np.random.default_rng([1, seed])
        self._torch_generator = th.Generator(self.device).manual_seed(seed)

    def _create_aliases(self) -> None:
        for name in self.network_names:
            setattr(self, name, getattr(self.policy, name))

    # ----------------------------------------------------------------- acting

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        # The policy is asked in the random warm-up too: its steps are replayed with the memory they were made with
        buffer_action, self._staged_lstm_states = self._act()
        buffer_action = buffer_action.reshape(n_envs, *self.action_space.shape)  # type: ignore[misc]
        if self.num_timesteps < learning_starts and not (self.use_sde and self.use_sde_at_warmup):
            unscaled_action = np.array([self.action_space.sample() for _ in range(n_envs)])
            buffer_action = self.policy.scale_action(unscaled_action)
        if action_noise is not None:
            noise = action_noise()
            if not np.isfinite(noise).all():
                raise ValueError(
                    f"action_noise={action_noise} gave {noise}, which is not finite: check its mean and deviation"
                )
            buffer_action = np.clip(buffer_action + noise.reshape(buffer_action.shape), -1, 1)
        return self.policy.unscale_action(buffer_action), buffer_action

    def _act(self) -> tuple[np.ndarray, RNNStates]:
        """
        :return: actions of the exploring policy as the replay buffer stores them, and the memories after the step
        """
        assert self._last_obs is not None, "self._last_obs was not set"
        return self.policy.act(self._last_obs, self._last_lstm_states, self._last_previous_actions, self._last_episode_starts)

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        # SB3 sorts out terminal observations and raw values, and calls nothing but add: it is given what we know besides
        assert isinstance(replay_buffer, RecurrentSequenceReplayBuffer)
        add = partial(replay_buffer.add, episode_starts=self._last_episode_starts, lstm_states=self._last_lstm_states)
        super()._store_transition(SimpleNamespace(add=add), buffer_action, new_obs, reward, dones, infos)  # type: ignore[arg-type]

        if self.reward_scale == "auto":
            # As they will be sampled: with VecNormalize, after its own scaling
            self.reward_normalizer.add(reward, self._last_episode_starts, self.gamma)
        self._last_lstm_states = self._staged_lstm_states
        self._last_previous_actions = encode_actions(
            th.as_tensor(buffer_action, device=self.device).reshape(self.n_envs, -1), self.action_space
        )
        self._last_episode_starts = dones

    def collect_rollouts(  # type: ignore[override]
        self, env: VecEnv, callback: BaseCallback, train_freq: TrainFreq, replay_buffer: ReplayBuffer, **kwargs: Any
    ) -> RolloutReturn:
        try:
            rollout = super().collect_rollouts(env, callback, train_freq, replay_buffer, **kwargs)
        except BaseException:
            # Between the environment's step and its storage: who catches this and goes on begins a new episode
            self._last_obs = None
            raise
        if not rollout.continue_training:
            # SB3 drops the step at which a callback stops. The environment has made it: to go on later, so must we
            step = callback.locals
            self._store_transition(
                replay_buffer, step["buffer_actions"], step["new_obs"], step["rewards"], step["dones"], step["infos"]
            )
            self._update_info_buffer(step["infos"], step["dones"])
            self._episode_num += int(step["dones"].sum())
        return rollout

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """
        Load a replay buffer from a pickle file. The next ``learn`` begins a new episode: the buffer's last one is not
        going on.

        :param path: path to the pickled replay buffer
        :param truncate_last_traj: without effect, for compatibility
        :raises ValueError: if the file holds another kind of buffer, or one recorded with other settings; the present buffer
            stays in place
        """
        loaded = load_from_pkl(path, self.verbose)
        if not isinstance(loaded, RecurrentSequenceReplayBuffer):
            raise ValueError(f"{path} holds a {type(loaded).__name__}, not a RecurrentSequenceReplayBuffer")
        # Users drop the present one to have room for another
        present_buffer = self.replay_buffer or self._make_replay_buffer()
        for name in ("n_envs", "observation_space", "action_space", *RecurrentSequenceReplayBuffer.settings):
            recorded, present = getattr(loaded, name), getattr(present_buffer, name)
            if recorded != present:
                raise ValueError(
                    f"{path} was recorded with {name}={recorded}, this model has {name}={present}: load it into a model with "
                    f"{name}={recorded}, or go on without it"
                )
        if loaded.allocated:
            loaded.check_states(self.policy.initial_states(self.n_envs))
        loaded.device = self.device
        self.replay_buffer = loaded
        self._last_obs = None

    def _make_replay_buffer(self) -> RecurrentSequenceReplayBuffer:
        assert self.replay_buffer_class is not None and issubclass(self.replay_buffer_class, RecurrentSequenceReplayBuffer)
        return self.replay_buffer_class(
            self.buffer_size,
            self.observation_space,
            self.action_space,
            device=self.device,
            n_envs=self.n_envs,
            **self.replay_buffer_kwargs,
        )

    # --------------------------------------------------------------- learning

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

    def _sample_sequences(self, batch_size: int) -> RecurrentSequenceSamples:
        """
        :param batch_size: number of sequences
        :return: sequences with normalised observations and scaled rewards
        """
        beta = self.replay_buffer.importance_beta
        if beta > 0:
            # Annealed to 1 towards the end of training (Schaul et al. 2016, section 3.4)
            beta = 1.0 - (1.0 - beta) * self._current_progress_remaining
        samples = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env, importance_beta=beta)
        if self.reward_scale == "auto":
            self.reward_normalizer.update()
        self.logger.record("train/reward_factor", self.reward_factor)
        return samples._replace(rewards=samples.rewards * self.reward_factor)

    def _diagnose(self, samples: RecurrentSequenceSamples, latents: th.Tensor) -> None:
        """
        Log now and then what a batch tells of replay.

        :param samples: the batch
        :param latents: what the value network made of it, (T+1, B, latent_dim)
        """
        if self._n_updates % UPDATES_PER_DIAGNOSIS != 0:
            return
        self.logger.record("train/padding", 1.0 - samples.mask.mean().item())
        # Looking on must not change running statistics
        self.policy.set_training_mode(False)
        for name, value in state_staleness(self.policy.valuing, samples, latents.detach(), self.replay_buffer).items():
            self.logger.record(f"train/delta_q_{name}", value)
        self.policy.set_training_mode(True)
        for name, value in self.replay_buffer.priority_statistics().items():
            self.logger.record(f"train/priority_{name}", value)

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
            self.replay_buffer.update_priorities(samples, errors)

    @property
    def reward_factor(self) -> float:
        """What sampled rewards are multiplied by; logged as ``train/reward_factor``."""
        return self.reward_normalizer.factor if self.reward_scale == "auto" else float(self.reward_scale)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        # The last rollout goes beyond the end, where schedules turn negative
        self._current_progress_remaining = max(self._current_progress_remaining, 0.0)

    def _minimize(self, loss: th.Tensor, optimizer: th.optim.Optimizer) -> None:
        """One step on the parameters of ``optimizer``; no other parameter gets a gradient."""
        parameters = [
            parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.requires_grad
        ]
        optimizer.zero_grad()
        loss.backward(inputs=parameters)
        if self.max_grad_norm is not None:
            th.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        optimizer.step()

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        check_numbers(0, learning_rate=self.lr_schedule(self._current_progress_remaining))
        super()._update_learning_rate(optimizers)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            self.policy.slow_memory_down(optimizer)

    # ------------------------------------------------------------ persistence

    @classmethod
    def load(
        cls: type[SelfRecurrentOffPolicyAlgorithm],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfRecurrentOffPolicyAlgorithm:
        """
        Load the model from a zip-file.

        :param path: path to the file (or a file-like) where to load the model from
        :param env: the environment to run the loaded model on; without one it can predict
        :param device: device on which the code should run
        :param custom_objects: objects to use in place of saved ones, by name
        :param print_system_info: print what system the model was saved on, and the present one
        :param force_reset: begin a new episode before training; False goes on in the episode in which the model was saved
        :param kwargs: settings of the algorithm that replace the saved ones, e.g. ``burn_in=20``
        :return: new model instance with loaded parameters
        :raises ValueError: if the file holds no complete model of this class, or one that what is passed on does not fit
        """
        known = set(inspect.signature(cls).parameters) - {"policy", "env", "device", "_init_setup_model"}
        if unknown := sorted(set(kwargs) - known):
            raise ValueError(f"{cls.__name__}.load does not know {unknown}; settings that can be replaced: {sorted(known)}")
        if "policy_kwargs" in kwargs:
            # SB3 compares them with the saved ones, which are complete
            kwargs["policy_kwargs"] = cls.complete_policy_kwargs(kwargs["policy_kwargs"] or {})
            if "use_sde" in known:
                kwargs["policy_kwargs"] = {"use_sde": kwargs.get("use_sde", False)} | kwargs["policy_kwargs"]
        try:
            return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        except (AssertionError, KeyError, RuntimeError, ValueError) as error:
            # What does not fit makes SB3 look for the optimizer of an older file, which is not there either
            reason = error.__context__ if isinstance(error, KeyError) and error.__context__ else error
            raise ValueError(f"{path} cannot be loaded as {cls.__name__}: {reason}") from error

    def save(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        Save all the attributes of the object and the model parameters in a zip-file.

        :param path: path to the file where the model should be saved
        :param exclude: name of parameters that should be excluded in addition to the default ones
        :param include: name of parameters that might be excluded but should be included anyway
        """
        on_device = self._last_lstm_states, self._last_previous_actions
        # The memory of the running episode must load on machines without this device
        self._last_lstm_states, self._last_previous_actions = tree_map(lambda tensor: tensor.cpu(), on_device)
        try:
            super().save(path, exclude, include)
        finally:
            self._last_lstm_states, self._last_previous_actions = on_device

    def _excluded_save_params(self) -> list[str]:
        generators = ("_exploration_generator", "_torch_generator")
        return [*super()._excluded_save_params(), *self.network_names, *generators, "_staged_lstm_states"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", *self.optimizer_names], []
