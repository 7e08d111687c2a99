"""Features extractors that bring vectors of any unit to one scale."""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor
from torch import nn

# Statistics follow what is replayed within this many updates
LONGEST_SPAN = 1000
LARGEST_FEATURE = 10.0


class RunningNormExtractor(BaseFeaturesExtractor):
    """
    Vectors, normalised by the running mean and deviation of what is replayed, so that no default depends on the unit of an
    observation, and what hardly changes is seen too. It has nothing to learn: actor and critic share it. Observations of other
    spaces than Box are passed as they are.

    SimBa has running statistics in front of its networks too (Lee et al. 2024, https://arxiv.org/abs/2410.09754).
    ``VecNormalize`` does the same outside of the model; then this changes little.

    :param observation_space: observation space
    """

    mean: th.Tensor
    variance: th.Tensor
    scale: th.Tensor
    n_batches: th.Tensor

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space, get_flattened_obs_dim(observation_space))
        self.normalizes = isinstance(observation_space, spaces.Box)
        if self.normalizes:
            for name, value in dict(mean=0.0, variance=1.0, scale=1.0).items():
                self.register_buffer(name, th.full((self.features_dim,), value))
            self.register_buffer("n_batches", th.zeros(()))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: (B, *obs)
        :return: (B, features_dim), clipped to 10 deviations
        """
        features = observations.flatten(start_dim=1)
        if not self.normalizes:
            return features
        return ((features - self.mean) * self.scale).clamp(-LARGEST_FEATURE, LARGEST_FEATURE)

    @th.no_grad()
    def count(self, observations: th.Tensor, exists: th.Tensor) -> None:
        """
        Let the statistics know a batch.

        :param observations: (B, *obs)
        :param exists: (B,), 0 where a row pads the batch, 1 elsewhere
        """
        if not self.normalizes:
            return
        features = observations.flatten(start_dim=1)
        self.n_batches += 1
        # Each batch counts as much, until there are many
        rate = self.n_batches.clamp(max=LONGEST_SPAN).reciprocal()
        weights = exists / exists.sum()
        # From the first row on: what never changes has exactly its value as mean
        mean = features[0] + weights @ (features - features[0])
        variance = weights @ (features - mean).square()
        difference = mean - self.mean
        self.mean += rate * difference
        self.variance.lerp_(variance + (1 - rate) * difference.square(), rate)
        self.scale.copy_((self.variance + 1e-8).rsqrt())


class RunningNormCombinedExtractor(CombinedExtractor):
    """
    SB3's extractor of Dict observations, with vectors normalised by :class:`RunningNormExtractor`.

    :param observation_space: observation space
    :param kwargs: as for ``CombinedExtractor``
    """

    def __init__(self, observation_space: spaces.Dict, **kwargs: object):
        super().__init__(observation_space, **kwargs)  # type: ignore[arg-type]
        vectors = [key for key, extractor in self.extractors.items() if isinstance(extractor, nn.Flatten)]
        self.normalizers = {key: RunningNormExtractor(observation_space[key]) for key in vectors}
        self.extractors.update(self.normalizers)
