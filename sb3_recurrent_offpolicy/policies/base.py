"""Policies: (observation, state, episode_start) -> (action, state) to act; networks, targets and optimizers to learn."""

from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

from sb3_recurrent_offpolicy.checks import check_integers, check_numbers
from sb3_recurrent_offpolicy.cores import RecurrentCore, get_core
from sb3_recurrent_offpolicy.networks import (
    HistoryEncoder,
    RecurrentActor,
    RecurrentCritic,
    RecurrentQNetwork,
    RunningNormExtractor,
)
from sb3_recurrent_offpolicy.optimizing import make_optimizer
from sb3_recurrent_offpolicy.policies.following import Followers, averaging_rate
from sb3_recurrent_offpolicy.policies.memories import check_memory, forget
from sb3_recurrent_offpolicy.policies.trace import Trace, trace
from sb3_recurrent_offpolicy.preprocessing import encode_actions
from sb3_recurrent_offpolicy.type_aliases import CoreState, Memory, PolicyStep, RNNStates


class RecurrentPolicy(BasePolicy):
    """
    Networks with memory, copies that follow some of them, and how to act: what all policies share.

    :param observation_space: observation space
    :param action_space: action space
    :param lr_schedule: learning rate schedule (could be constant)
    :param net_arch: hidden layers behind the memory. Default: [64, 64], enough because the memory comes before it
    :param activation_fn: activation function of these layers
    :param features_extractor_class: features extractor to use before the memory. The default normalises vectors and
        has no layer: one in front of the memory slows learning. SB3's ``FlattenExtractor`` passes them as they are
    :param features_extractor_kwargs: keyword arguments to pass to the features extractor
    :param normalize_images: whether to divide images by 255
    :param optimizer_class: the optimizer to use
    :param optimizer_kwargs: additional keyword arguments, excluding the learning rate. To those of Adam and AdamW
        ``fused=True`` is added, the same steps in a single kernel
    :param lstm_hidden_size: number of hidden units of each memory layer, whatever its kind
    :param n_lstm_layers: number of memory layers
    :param core: the kind of memory, "lstm", "gru" or another name in :data:`~sb3_recurrent_offpolicy.cores.CORES`, or your own
        :class:`~sb3_recurrent_offpolicy.cores.RecurrentCore`. Default: "lstm", which torch runs faster than "gru" on a CPU
    :param core_kwargs: additional keyword arguments for the memory
    :param lstm_kwargs: sb3-contrib's name of ``core_kwargs``
    :param core_class: the same as ``core``, as a class
    :param memory_lr_scale: learning rate of the memories relative to everything else, under any schedule. Long tasks want it
        far below 1: a small change of weights moves a long unroll a lot (Luo et al. 2024, RESeL: 1e-5 against 3e-4)
    :param average_decay: ``predict`` acts with an exponential moving average of the learned weights, this decay per update, so
        that a few bad updates do not undo what a saved or evaluated policy can do. Exploration and learning do not know of it.
        0: the learned weights themselves
    """

    # Each has a copy that follows it, named NAME_target
    networks_with_target: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] = RunningNormExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        lstm_hidden_size: int = 64,
        n_lstm_layers: int = 1,
        core: str | type[RecurrentCore] | None = None,
        core_kwargs: dict[str, Any] | None = None,
        lstm_kwargs: dict[str, Any] | None = None,
        core_class: type[RecurrentCore] | None = None,
        memory_lr_scale: float = 1.0,
        average_decay: float = 0.999,
    ):
        if not 0 <= average_decay < 1:
            raise ValueError(f"average_decay={average_decay} must be at least 0, which means no average, and less than 1")
        check_integers(1, lstm_hidden_size=lstm_hidden_size, n_lstm_layers=n_lstm_layers)
        check_numbers(0, memory_lr_scale=memory_lr_scale, learning_rate=lr_schedule(1))
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=isinstance(action_space, spaces.Box),
            normalize_images=normalize_images,
        )
        self.net_arch = [64, 64] if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.lstm_hidden_size = lstm_hidden_size
        self.n_lstm_layers = n_lstm_layers
        for name, value, other, other_value in (
            ("core", core, "core_class", core_class),
            ("core_kwargs", core_kwargs, "lstm_kwargs", lstm_kwargs),
        ):
            if value is not None and other_value is not None:
                raise ValueError(
                    f"{name}={value!r} and {other}={other_value!r} are two names of one setting: give one of them"
                )
        self.core = get_core(core or core_class or "lstm")
        self.core_kwargs = core_kwargs or lstm_kwargs or {}
        self.memory_lr_scale = memory_lr_scale
        self.average_decay = average_decay
        self.action_encoding_dim = int(get_flattened_obs_dim(action_space))

        self._build(lr_schedule)

    def _build(self, lr_schedule: Schedule) -> None:
        """Make networks, their targets and optimizers."""
        raise NotImplementedError

    @property
    def acting_network(self) -> RecurrentActor | RecurrentQNetwork:
        """The network that chooses actions."""
        raise NotImplementedError

    @property
    def value_network(self) -> RecurrentCritic | RecurrentQNetwork:
        """The network that values them."""
        raise NotImplementedError

    @property
    def predicting_network(self) -> RecurrentActor | RecurrentQNetwork:
        """The network behind ``predict``: the average, if there is one."""
        return self.acting_network if self.averaged_network is None else self.averaged_network  # type: ignore[return-value]

    def _make_followers(self) -> None:
        """After the networks were made, and before their optimizers: copies do not learn by themselves."""
        self.targets = Followers([getattr(self, name) for name in self.networks_with_target])
        for name, target in zip(self.networks_with_target, self.targets.copies, strict=True):
            setattr(self, f"{name}_target", target)
        self.average = Followers([self.acting_network] if self.average_decay > 0 else [])
        self.averaged_network: nn.Module | None = next(iter(self.average.copies), None)

    def make_encoder(
        self, features_extractor: BaseFeaturesExtractor, core: type[RecurrentCore], detach_features: bool = False
    ) -> HistoryEncoder:
        """
        :param features_extractor: what comes before the memory
        :param core: the kind of memory
        :param detach_features: another network trains the features extractor
        :return: features extractor and memory
        """
        input_size = int(features_extractor.features_dim + self.action_encoding_dim)
        memory = core(input_size, self.lstm_hidden_size, self.n_lstm_layers, **self.core_kwargs)  # type: ignore[arg-type]
        return HistoryEncoder(
            self.observation_space,
            self.action_space,
            features_extractor,
            memory,
            detach_features=detach_features,
            normalize_images=self.normalize_images,
        )

    def _make_optimizer(
        self, parameters: list[nn.Parameter], core: RecurrentCore, lr_schedule: Schedule
    ) -> th.optim.Optimizer:
        kwargs = {"lr": lr_schedule(1)} | self.optimizer_kwargs
        optimizer = make_optimizer(self.optimizer_class, parameters, set(core.parameters()), **kwargs)
        self.slow_memory_down(optimizer)
        return optimizer

    def slow_memory_down(self, optimizer: th.optim.Optimizer) -> None:
        """
        Apply ``memory_lr_scale``, after all parameters were given one learning rate; SB3's schedules know no more than one.

        :param optimizer: one of the policy's
        """
        for group in optimizer.param_groups:
            if group.get("is_memory", False):
                group["lr"] *= self.memory_lr_scale

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            lr_schedule=self._dummy_schedule,  # not needed for loading the policy alone
            features_extractor_class=self.features_extractor_class,
            features_extractor_kwargs=self.features_extractor_kwargs,
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
            lstm_hidden_size=self.lstm_hidden_size,
            n_lstm_layers=self.n_lstm_layers,
            core=self.core,
            core_kwargs=self.core_kwargs,
            memory_lr_scale=self.memory_lr_scale,
            average_decay=self.average_decay,
        )
        return data

    def set_training_mode(self, mode: bool) -> None:
        """
        Put the networks in training or evaluation mode; targets and averages stay in evaluation mode.

        :param mode: if true, set to training mode, else set to evaluation mode
        """
        # Walking through all modules costs as much as a layer
        if mode == self.training:
            return
        for name, network in self.named_children():
            if not name.endswith("_target") and name != "averaged_network":
                network.train(mode)
        self.training = mode

    def update_targets(self, tau: float) -> None:
        """
        Move the targets towards the networks they follow.

        :param tau: 0 leaves the targets, 1 copies
        """
        self.targets.follow(tau)

    def update_average(self, n_updates: int) -> None:
        """
        Let the averaged network know the learned weights, after an update of them.

        :param n_updates: made so far
        """
        if self.averaged_network is not None:
            self.average.follow(averaging_rate(self.average_decay, n_updates))

    # ----------------------------------------------------------------- acting

    @property
    def device(self) -> th.device:
        """Device of the networks. BaseModel looks it up by walking all modules, which costs as much as a layer."""
        return self.targets.followed[0].device

    def initial_states(self, n_envs: int) -> RNNStates:
        """
        :param n_envs: number of environments
        :return: all memories at the start of an episode: zeros, each (n_layers, n_envs, hidden). ``vf`` is ``pi`` itself
            where there is one memory only
        """
        raise NotImplementedError

    @property
    def state_size(self) -> int:
        """Floats that the memories of one environment take in the replay buffer."""
        pi, vf = self.initial_states(1)
        return sum(array.numel() for part in ((pi,) if vf is pi else (pi, vf)) for array in part)

    def initial_memory(self, n_envs: int) -> Memory:
        """
        :param n_envs: number of environments
        :return: what is remembered at the start of an episode: nothing
        """
        return Memory(self.initial_states(n_envs), th.zeros(n_envs, self.action_encoding_dim, device=self.device))

    def forward(
        self,
        observation: PyTorchObs,
        state: CoreState,
        previous_actions: th.Tensor,
        deterministic: bool = False,
        noise: th.Tensor | None = None,
    ) -> PolicyStep:
        """
        Advance the memory that acts by one step.

        :param observation: (n_envs, *obs), or a dict of them
        :param state: memory before the step, zero where an episode starts
        :param previous_actions: (n_envs, A), zero where an episode starts
        :param deterministic: the most likely action rather than a sampled one
        :param noise: standard normal numbers to sample Gaussian actions with, (n_envs, action_dim); None to draw them
        :return: actions, and the memory after the step, as tensors
        """
        raise NotImplementedError

    def _predict(  # type: ignore[override]
        self, observation: PyTorchObs, state: CoreState, previous_actions: th.Tensor, deterministic: bool = False
    ) -> tuple[th.Tensor, CoreState]:
        network = self.predicting_network
        latents, state = network.encoder.step(*network.encoder.inputs(observation, previous_actions), state)
        return network(latents, deterministic), state

    @th.inference_mode()
    def act(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: CoreState,
        previous_actions: th.Tensor,
        episode_starts: np.ndarray,
        noise: np.ndarray | None = None,
    ) -> PolicyStep:
        """
        Act as in training, on what a ``VecEnv`` returns.

        :param observation: (n_envs, *obs), or a dict of them
        :param state: memory before the step
        :param previous_actions: (n_envs, A)
        :param episode_starts: (n_envs,), state and previous action are forgotten there
        :param noise: standard normal numbers to sample Gaussian actions with, (n_envs, action_dim); None to draw them
        :return: actions and Q-values as arrays, and the memory after the step
        """
        # Dropout and statistics of a batch are for learning
        self.set_training_mode(False)
        if episode_starts.any():
            state, (previous_actions,) = (forget(part, episode_starts) for part in (state, (previous_actions,)))
        numbers = None if noise is None else th.as_tensor(noise, device=self.device)
        step = self.forward(obs_as_tensor(observation, self.device), state, previous_actions, noise=numbers)
        q_values = None if step.q_values is None else step.q_values.cpu().numpy()
        return PolicyStep(step.actions.cpu().numpy(), step.state, q_values, step.critic_inputs)

    def trace(self, observations: Any, actions: np.ndarray, episode_starts: np.ndarray) -> Trace:
        """
        What this policy remembers, values and would do along recorded episodes, in evaluation mode and by the latest weights,
        those that explore and learn.

        :param observations: as the policy sees them, normalised if it was trained so: (T, n_envs, *obs), or a dict of them
        :param actions: that were taken, as the environment took them: (T, n_envs, *action)
        :param episode_starts: (T, n_envs), the observation is the first of an episode
        :return: memories, actions, distributions and values, time-major
        :raises ValueError: if lengths differ
        """
        return trace(self, observations, actions, episode_starts)

    def scale_action(self, action: np.ndarray) -> np.ndarray:
        """
        :param action: as the environment takes it
        :return: as the replay buffer stores it: Box actions in [-1, 1], others as they are
        """
        return super().scale_action(action) if isinstance(self.action_space, spaces.Box) else action

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """
        :param scaled_action: as the replay buffer stores it
        :return: as the environment takes it
        """
        return super().unscale_action(scaled_action) if isinstance(self.action_space, spaces.Box) else scaled_action

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Get the action for an observation, given the memory of what came before it.

        Nothing is kept between calls: what must be remembered travels in ``state``. It holds the memory and, last, the
        previous action; pass on what the call before returned.

        :param observation: the input observation, of one environment or of several
        :param state: what the previous call returned, None at the very beginning
        :param episode_start: (n_envs,) bool, an episode begins with this observation: its part of ``state`` is forgotten
        :param deterministic: whether to return deterministic actions
        :return: the action and the next state, each array (n_layers, n_envs, hidden)
        :raises ValueError: if ``state`` or ``episode_start`` do not fit the policy and the observation
        """
        self.set_training_mode(False)

        # Same check as in SB3: a tuple is never an observation
        if isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict):
            raise ValueError(
                "You have passed a tuple to the predict() function instead of a Numpy array or a Dict. "
                "You are probably mixing Gym API with SB3 VecEnv API: `obs, info = env.reset()` (Gym) "
                "vs `obs = vec_env.reset()` (SB3 VecEnv)."
            )
        observation_tensor, vectorized_env = self.obs_to_tensor(observation)
        entries = observation_tensor.values() if isinstance(observation_tensor, dict) else (observation_tensor,)
        n_envs = next(iter(entries)).shape[0]
        sizes = [*self.acting_network.encoder.core.state_shapes, (1, self.action_encoding_dim)]
        state, episode_starts = check_memory(state, episode_start, n_envs, sizes)

        device = self.device
        with th.no_grad():
            tensors = tuple(th.as_tensor(array, dtype=th.float32, device=device) for array in state)
            *core_state, previous_actions = forget(tensors, episode_starts)
            actions, new_state = self._predict(observation_tensor, tuple(core_state), previous_actions[0], deterministic)
            new_previous_actions = encode_actions(actions.reshape(n_envs, -1), self.action_space)[None]

        unscaled = self.unscale_action(actions.cpu().numpy().reshape((-1, *self.action_space.shape)))  # type: ignore[misc]
        if not vectorized_env:
            unscaled = unscaled.squeeze(axis=0)
        return unscaled, tuple(array.cpu().numpy() for array in (*new_state, new_previous_actions))
