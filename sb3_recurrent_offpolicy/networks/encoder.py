"""The memory of a network, and the layers behind it."""

import inspect
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_recurrent_offpolicy.cores import RecurrentCore
from sb3_recurrent_offpolicy.networks.extractors import RunningNormCombinedExtractor, RunningNormExtractor
from sb3_recurrent_offpolicy.preprocessing import map_observation
from sb3_recurrent_offpolicy.type_aliases import BurnIn, CoreState, Encoded, RecurrentSequenceSamples


class SavedNetwork(BaseModel):
    """A part of a policy that ``save`` and ``load`` know by itself, because it keeps what it was constructed from."""

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}


class HistoryEncoder(SavedNetwork):
    """
    Features extractor and memory: turns observations and previous actions into latents ``[m_t, features(o_t)]``.

    :param observation_space: observation space
    :param action_space: action space
    :param features_extractor: network to extract features
    :param core: memory over ``[features(o_t), a_{t-1}]``
    :param detach_features: let no gradient into the features extractor, because another network trains it
    :param normalize_images: divide images by 255
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        features_extractor: BaseFeaturesExtractor,
        core: RecurrentCore,
        detach_features: bool = False,
        normalize_images: bool = True,
    ):
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.core = core
        self.detach_features = detach_features
        # SB3 finds out at each call what kind of space this is
        self._takes_vectors = (
            isinstance(observation_space, spaces.Box)
            and not (normalize_images and is_image_space(observation_space))
            and type(features_extractor) is RunningNormExtractor
        )
        # By key of a Dict, None elsewhere
        self._normalizers: dict[Any, RunningNormExtractor] = {}
        if isinstance(features_extractor, RunningNormExtractor):
            self._normalizers[None] = features_extractor
        elif isinstance(features_extractor, RunningNormCombinedExtractor):
            self._normalizers |= features_extractor.normalizers
        self.latent_dim = int(core.output_size + features_extractor.features_dim)

    def inputs(self, observations: PyTorchObs, previous_actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param observations: (B, *obs), or a dict of them
        :param previous_actions: (B, A)
        :return: inputs of the memory (B, F + A), and the features in them (B, F)
        """
        if self._takes_vectors:
            assert isinstance(observations, th.Tensor)
            features = self.features_extractor(observations.float())
        else:
            features = self.extract_features(observations, self.features_extractor)
            if self.detach_features:
                features = features.detach()
        return th.cat([features, previous_actions], dim=-1), features

    def step(self, inputs: th.Tensor, features: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        """
        Advance by one step, to act.

        :param inputs: (B, F + A), from :meth:`inputs`
        :param features: (B, F), from :meth:`inputs`
        :param state: memory before the step, each (n_layers, B, hidden)
        :return: latents (B, latent_dim) and the memory after the step
        """
        memory, state = self.core.step(inputs, state)
        return th.cat([memory, features], dim=-1), state

    def read(self, observations: PyTorchObs, previous_actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param observations: (T, B, *obs), or a dict of them
        :param previous_actions: (T, B, A)
        :return: inputs of the memory over sequences (T, B, F + A), and the features in them (T, B, F)
        """
        sizes = previous_actions.shape[:2]
        flat = map_observation(lambda array: array.flatten(end_dim=1), observations)
        inputs, features = self.inputs(flat, previous_actions.flatten(end_dim=1))
        return inputs.unflatten(0, sizes), features.unflatten(0, sizes)

    def encode(
        self,
        samples: RecurrentSequenceSamples,
        state: CoreState,
        with_successor: bool = True,
        shared: Encoded | None = None,
    ) -> Encoded:
        """
        Run over a batch from the replay buffer, after its burn-in with this network's own weights.

        :param samples: the batch
        :param state: this network's part of ``samples.initial_states``
        :param with_successor: go on to o_T, which only targets need
        :param shared: what another memory behind the same features extractor made of the batch
        :return: latents of o_0 .. o_T (o_{T-1} without the successor), and the memory that burn-in led to
        """
        warm_state: CoreState = ()
        if samples.burn_in is not None:
            warm_state = self.burn_in(samples.burn_in, state)
            n_rows = samples.burn_in.previous_actions.shape[1]
            state = tuple(th.cat([warm, array[:, n_rows:]], dim=1) for warm, array in zip(warm_state, state, strict=True))
        if shared is None:
            if self.training:
                self._count(samples)
            inputs, features = self.read(samples.observations, samples.previous_actions)
        else:
            inputs, features = shared.inputs.detach(), shared.features.detach()
        steps = slice(None if with_successor else -1)
        memory, _ = self.core.unroll(inputs[steps], state)
        return Encoded(th.cat([memory, features[steps]], dim=-1), warm_state, inputs, features)

    def _count(self, samples: RecurrentSequenceSamples) -> None:
        """Statistics count what is learned from, once per update: not what acts, burns in, is padding or a target."""
        if not self._normalizers:
            return
        flat = map_observation(lambda array: array.flatten(end_dim=1), samples.observations)
        observations = preprocess_obs(flat, self.observation_space, normalize_images=self.normalize_images)
        exists = th.cat([th.ones_like(samples.mask[:1]), samples.mask]).flatten()
        for key, normalizer in self._normalizers.items():
            normalizer.count(observations if key is None else observations[key], exists)  # type: ignore[arg-type]

    @th.no_grad()
    def burn_in(self, burn_in: BurnIn, state: CoreState) -> CoreState:
        """
        :param burn_in: the steps before the first B' rows of a batch
        :param state: memory at the first step of each row of the batch, (n_layers, B, hidden) each
        :return: memory after these steps, (n_layers, B', hidden) each
        """
        n_rows = burn_in.previous_actions.shape[1]
        # As when acting: dropout must not enter memories, nor batch norm count the prefix
        training = self.training
        self.train(False)
        inputs, _ = self.read(*burn_in)
        _, state = self.core.unroll(inputs, tuple(array[:, :n_rows].contiguous() for array in state))
        self.train(training)
        return state


class Head(nn.Sequential):
    """
    The layers behind a memory. They see time and batch as one axis: then ReLU can work in place, which on a view of
    another shape would cost autograd a copy instead of sparing one.

    :param input_dim: number of inputs
    :param output_dim: number of outputs
    :param net_arch: hidden layers
    :param activation_fn: activation function
    """

    def __init__(self, input_dim: int, output_dim: int, net_arch: list[int], activation_fn: type[nn.Module]):
        super().__init__(*create_mlp(input_dim, output_dim, net_arch, activation_fn))
        for layer in self:
            if isinstance(layer, nn.ReLU):
                layer.inplace = True

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: (..., input_dim)
        :return: (..., output_dim)
        """
        if inputs.dim() == 2:
            return super().forward(inputs)
        return super().forward(inputs.flatten(end_dim=-2)).unflatten(0, inputs.shape[:-1])
