"""
One way into every recurrent policy: ours, and those of sb3-contrib.

What only needs ``predict`` uses the first class here; what needs gradients or sets the memory to something else goes through
a :class:`MemoryNetwork`, one small adapter per family of policies.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy as ContribPolicy
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.preprocessing import preprocess_obs

from sb3_recurrent_offpolicy.cores import RecurrentCore
from sb3_recurrent_offpolicy.networks import DeterministicActor, RecurrentQNetwork, SquashedGaussianActor
from sb3_recurrent_offpolicy.policies import RecurrentPolicy
from sb3_recurrent_offpolicy.preprocessing import encode_actions
from sb3_recurrent_offpolicy.type_aliases import CoreState

# As ``predict`` takes and returns it
State = tuple[np.ndarray, ...]


def n_of(observations: Any) -> int:
    """
    :param observations: (n, *obs), or a dict of them
    :return: n
    """
    return len(next(iter(observations.values())) if isinstance(observations, dict) else observations)


def flat(observations: Any) -> np.ndarray:
    """
    :param observations: (n, *obs), or a dict of them
    :return: floats in one row each, (n, D)
    """
    arrays = observations.values() if isinstance(observations, dict) else [observations]
    return np.concatenate([np.asarray(array, dtype=np.float32).reshape(len(array), -1) for array in arrays], axis=1)


class MemoryNetwork(NamedTuple):
    """
    What acts, taken apart: observation -> inputs -> memory -> outputs -> action.
    """

    inputs: Callable[[Any, th.Tensor], th.Tensor]
    """Of the memory, (B, I), from observations (B, *obs) and encoded previous actions (B, A)"""
    n_features: int
    """Inputs that come from the observation; those behind them are the previous action"""
    core: RecurrentCore
    """The memory"""
    outputs: Callable[[th.Tensor, th.Tensor], th.Tensor]
    """What the memory gives out, (..., H), and its inputs, (..., I), to what actions are chosen by, (..., O): values or
    log-probabilities of each of a discrete space, or the action itself, scaled to [-1, 1]"""
    module: th.nn.Module
    """Whose weights all this depends on"""


class OpenedPolicy:
    """
    A trained policy that acts with a memory.

    :param model: an algorithm of this package, sb3-contrib's ``RecurrentPPO``, or whatever has their ``predict`` (observation,
        state, episode_start, deterministic) and their two spaces; the tools that need gradients ask for one of the former
    :raises ValueError: if it has no such ``predict``
    """

    def __init__(self, model: Any):
        for name in ("predict", "observation_space", "action_space"):
            if not hasattr(model, name):
                raise ValueError(f"model={model!r} has no {name}: pass a model of Stable-Baselines3, or one that acts like it")
        self.model = model
        self.policy: Any = getattr(model, "policy", model)
        self.observation_space: spaces.Space = model.observation_space
        self.action_space: spaces.Space = model.action_space
        if not isinstance(self.action_space, (spaces.Box, spaces.Discrete)):
            raise ValueError(f"action_space={self.action_space} is not supported: actions must be Box or Discrete")
        # The state of our policies ends with the previous action
        self.remembers_actions = isinstance(self.policy, RecurrentPolicy)

    @property
    def is_discrete(self) -> bool:
        return isinstance(self.action_space, spaces.Discrete)

    def predict(
        self, observations: Any, state: State | None, episode_starts: np.ndarray, deterministic: bool = True
    ) -> tuple[np.ndarray, State]:
        """
        :param observations: of n environments, normalised where the model was trained so
        :param state: what the call before returned, None at first
        :param episode_starts: (n,)
        :param deterministic: the most likely actions
        :return: actions (n, *action) and the state, each array (n_layers, n, hidden)
        :raises ValueError: if the model has no memory
        """
        actions, state = self.model.predict(
            observations, state=state, episode_start=episode_starts, deterministic=deterministic
        )
        if state is None:
            raise ValueError(f"{type(self.model).__name__} returns no state: it has no memory to look into")
        return actions, state

    def with_actions(self, state: State, actions: np.ndarray) -> State:
        """
        :param state: of n environments
        :param actions: that were taken, in place of those that ``predict`` chose: (n, *action)
        :return: the state, which remembers these where it remembers actions
        """
        return (*state[:-1], self.encoded(actions)[None]) if self.remembers_actions else state

    def encoded(self, actions: np.ndarray) -> np.ndarray:
        """
        :param actions: as an environment takes them, (n, *action)
        :return: as a memory sees them, (n, A); (n, 0) where it does not
        """
        if not self.remembers_actions:
            return np.zeros((len(actions), 0), dtype=np.float32)
        stored = th.as_tensor(self.policy.scale_action(np.asarray(actions))).reshape(len(actions), -1)
        return encode_actions(stored, self.action_space).numpy()

    def memory(self, state: State) -> np.ndarray:
        """
        :param state: of n environments
        :return: memories of each in one row, (n, M), without previous actions
        """
        arrays = state[:-1] if self.remembers_actions else state
        return np.concatenate([np.moveaxis(np.asarray(array), 1, 0).reshape(array.shape[1], -1) for array in arrays], axis=1)

    def unscaled(self, outputs: th.Tensor) -> np.ndarray:
        """
        :param outputs: of a :class:`MemoryNetwork`, (n, O)
        :return: the actions that they stand for, as an environment takes them: (n, *action)
        """
        if self.is_discrete:
            return outputs.argmax(dim=-1).cpu().numpy()
        box: Any = self.action_space
        scaled = outputs.detach().cpu().numpy().clip(-1, 1).reshape(-1, *box.shape)
        return (box.low + 0.5 * (scaled + 1) * (box.high - box.low)).astype(box.dtype)

    def network(self) -> MemoryNetwork:
        """
        :return: the network behind ``predict``
        :raises ValueError: if this kind of policy is unknown
        """
        families: dict[Any, Callable[[Any], MemoryNetwork]] = {RecurrentPolicy: _of_ours, ContribPolicy: _of_contrib}
        for family, taken_apart in families.items():
            if isinstance(self.policy, family):
                self.policy.set_training_mode(False)
                return taken_apart(self.policy)
        raise ValueError(
            f"gradients of {type(self.policy).__name__} are not known: only policies of this package and of sb3-contrib's "
            "RecurrentPPO can be unrolled. memory_use, contamination and probe need predict() only"
        )


def _of_ours(policy: RecurrentPolicy) -> MemoryNetwork:
    acting = policy.predicting_network
    encoder = acting.encoder
    n_features = encoder.latent_dim - encoder.core.output_size

    def inputs(observations: Any, previous_actions: th.Tensor) -> th.Tensor:
        return encoder.inputs(observations, previous_actions)[0]

    def outputs(memory: th.Tensor, inputs: th.Tensor) -> th.Tensor:
        latents = th.cat([memory, inputs[..., :n_features]], dim=-1)
        if isinstance(acting, RecurrentQNetwork):
            return acting.q_values(latents)
        if isinstance(acting, (DeterministicActor, SquashedGaussianActor)):
            return acting(latents, deterministic=True)
        return acting.distribution(latents)["log_probs"]

    return MemoryNetwork(inputs, n_features, encoder.core, outputs, acting)


class _ContribCore(RecurrentCore):
    """
    The memory of sb3-contrib's policies.

    :param lstm: torch's
    """

    def __init__(self, lstm: th.nn.LSTM):
        super().__init__(lstm.input_size, lstm.hidden_size, ((lstm.num_layers, lstm.hidden_size),) * 2)
        self.lstm = lstm

    def unroll(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        return self.lstm(inputs, state)


def _of_contrib(policy: ContribPolicy) -> MemoryNetwork:
    def inputs(observations: Any, _: th.Tensor) -> th.Tensor:
        preprocessed = preprocess_obs(observations, policy.observation_space, normalize_images=policy.normalize_images)
        return policy.pi_features_extractor(preprocessed)

    def outputs(memory: th.Tensor, _: th.Tensor) -> th.Tensor:
        distribution = policy._get_action_dist_from_latent(policy.mlp_extractor.forward_actor(memory))
        if isinstance(distribution, CategoricalDistribution):
            return distribution.distribution.logits
        # Of a Gaussian, with gSDE or without
        mean = distribution.mode()
        if policy.squash_output:
            return mean
        box: Any = policy.action_space
        low, high = (th.as_tensor(bound, device=mean.device) for bound in (box.low, box.high))
        return 2 * (mean - low) / (high - low) - 1

    core = _ContribCore(policy.lstm_actor)
    return MemoryNetwork(inputs, core.input_size, core, outputs, policy)
