"""Observations, normalised by running statistics of what is replayed."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.env_util import make_vec_env

from sb3_recurrent_offpolicy import R2D2, RecurrentTD3
from sb3_recurrent_offpolicy.networks import RunningNormCombinedExtractor, RunningNormExtractor
from tests.envs import PARTS, RandomEnv
from tests.models import VARIANTS, Variant, losses, random_env_model
from tests.recorder import OBSERVATION_SPACE
from tests.setup import KWARGS, model_on

UNBOUNDED = spaces.Box(-np.inf, np.inf, (3,), np.float32)
NORMALIZED = dict(features_extractor_class=RunningNormExtractor, average_decay=0.9)


def random_batches(n: int, size: int = 6) -> list[th.Tensor]:
    """Each with a mean and a deviation of its own."""
    generator = th.Generator().manual_seed(0)

    def draw(*shape: int) -> th.Tensor:
        return th.randn(shape, generator=generator, dtype=th.float64)

    return [5.0 * draw(3) + draw(3).exp() * draw(size, 3) for _ in range(n)]


def moments(batches: list[th.Tensor], span: float = np.inf) -> tuple[th.Tensor, th.Tensor]:
    """Mean and variance where each batch counts as much, until there are more than ``span``."""
    first = second = th.zeros(batches[0].shape[1], dtype=th.float64)
    for n, batch in enumerate(batches, 1):
        rate = 1.0 / min(n, span)
        first = (1 - rate) * first + rate * batch.mean(dim=0)
        second = (1 - rate) * second + rate * batch.square().mean(dim=0)
    return first, second - first.square()


def counted(extractor: RunningNormExtractor, batch: th.Tensor) -> th.Tensor:
    extractor.count(batch, th.ones(len(batch)))
    return extractor(batch)


def test_statistics_are_those_of_all_batches_together() -> None:
    extractor, batches = RunningNormExtractor(UNBOUNDED), random_batches(20)
    for n, batch in enumerate(batches, 1):
        features = counted(extractor, batch.float())
        seen = th.cat(batches[:n])
        mean, variance = seen.mean(dim=0), seen.var(dim=0, correction=0)
        th.testing.assert_close(extractor.mean, mean.float(), rtol=1e-4, atol=1e-5)
        th.testing.assert_close(extractor.variance, variance.float(), rtol=1e-4, atol=1e-5)
        expected = ((batch - mean) / variance.sqrt()).clamp(-10, 10)
        th.testing.assert_close(features, expected.float(), rtol=1e-3, atol=1e-4)


def test_later_they_follow() -> None:
    extractor, batches = RunningNormExtractor(UNBOUNDED), random_batches(1500)
    for batch in batches:
        counted(extractor, batch.float())
    mean, variance = moments(batches, span=1000)
    assert not th.allclose(mean, moments(batches)[0], rtol=1e-2)
    th.testing.assert_close(extractor.mean, mean.float(), rtol=1e-3, atol=1e-4)
    th.testing.assert_close(extractor.variance, variance.float(), rtol=1e-3, atol=1e-4)


def test_what_never_changes_is_0_and_outliers_are_10() -> None:
    extractor = RunningNormExtractor(spaces.Box(-np.inf, np.inf, (5,), np.float32))
    values = th.tensor([0.0, 0.1, -1234.567, 1e6 + 0.3, 0.0]).repeat(2000, 1)
    values[:, 4] = th.randn(2000)
    for _ in range(20):
        features = counted(extractor, values)
        assert not features[:, :4].any()
    outliers = extractor(th.tensor([[0.0, 0.1, 0.0, 0.0, 1e5], [0.0, 0.1, 0.0, 0.0, -1e5]]))
    assert outliers[:, 4].tolist() == [10.0, -10.0]


def test_what_hardly_changes_is_seen() -> None:
    extractor = RunningNormExtractor(UNBOUNDED)
    features = counted(extractor, th.tensor([[1e-3], [1.0], [1e4]]).T * th.randn(500, 1) + th.tensor([0.0, 10.0, 1e4]))
    th.testing.assert_close(features.std(dim=0), th.ones(3), rtol=1e-2, atol=0)


def test_numbers_of_choices_pass_as_they_are() -> None:
    extractor = RunningNormExtractor(spaces.Discrete(4))
    assert not list(extractor.buffers()) and th.equal(extractor(th.eye(4)), th.eye(4))
    env = make_vec_env(lambda: RandomEnv(spaces.Discrete(4), spaces.Discrete(3)), 2, seed=0)
    model: Any = R2D2("MlpLstmPolicy", env, **KWARGS).learn(40)
    assert model._n_updates > 0
    _, features = model.q_net.encoder.inputs(th.arange(4), th.zeros(4, 3))
    assert th.equal(features, th.eye(4))


def test_vectors_of_dicts_are_normalised() -> None:
    env = make_vec_env(lambda: RandomEnv(PARTS, spaces.Box(-1, 1, (2,))), 1, seed=0)
    kwargs = KWARGS | dict(policy_kwargs=dict(lstm_hidden_size=5, features_extractor_kwargs=dict(cnn_output_dim=8)))
    model: Any = RecurrentTD3("MultiInputLstmPolicy", env, **kwargs)
    model.learn(60)
    # Images have layers to learn: actor and critic have an extractor each
    for network, n_updates in ((model.critic, model._n_updates), (model.actor, model._n_updates // 2)):
        combined = network.encoder.features_extractor
        assert isinstance(combined, RunningNormCombinedExtractor)
        speed, gear = combined.extractors["speed"], combined.extractors["gear"]
        assert isinstance(speed, RunningNormExtractor) and isinstance(gear, RunningNormExtractor)
        assert speed.n_batches == n_updates > 0 and not gear.normalizes
        # Of numbers between 0 and 1
        assert speed.mean.item() == pytest.approx(0.5, abs=0.15)
        assert speed.variance.item() == pytest.approx(1 / 12, abs=0.04)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_update_counts_once(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither acting nor burn-in, diagnosis or predict do. Targets and the average know the same statistics."""
    monkeypatch.setattr("sb3_recurrent_offpolicy.algorithm.UPDATES_PER_DIAGNOSIS", 1)
    interval = dict(target_update_interval=1) if variant.algorithm is R2D2 else {}
    model = random_env_model(variant, burn_in=2, policy_kwargs=NORMALIZED, **interval)
    extractor = model.policy.value_network.encoder.features_extractor
    assert model.policy.acting_network.encoder.features_extractor is extractor
    assert extractor.n_batches == 0 and model.num_timesteps >= 450

    batches: list[Any] = []
    sample = model._sample_sequences

    def recorded(batch_size: int) -> Any:
        batches.append(sample(batch_size))
        return batches[-1]

    monkeypatch.setattr(model, "_sample_sequences", recorded)
    model.train(4, 17)
    assert extractor.n_batches == len(batches) == 4 and all(batch.burn_in is not None for batch in batches)
    # Each observation once, whatever pads the batch
    existing = [th.cat([th.ones(1, 17, dtype=th.bool), batch.mask > 0]) for batch in batches]
    assert not all(each.all() for each in existing)
    mean, variance = moments([batch.observations[each].double() for batch, each in zip(batches, existing, strict=True)])
    th.testing.assert_close(extractor.mean, mean.float(), rtol=1e-4, atol=1e-5)
    th.testing.assert_close(extractor.variance, variance.float(), rtol=1e-4, atol=1e-5)

    model.learn(30, reset_num_timesteps=False)
    model.predict(np.zeros(2, dtype=np.float32))
    model.policy.trace(np.zeros((4, 1, 2)), np.array([[variant.action_space.sample()]] * 4), np.zeros((4, 1), dtype=bool))
    assert extractor.n_batches == 4
    copies = [getattr(model.policy, f"{name}_target") for name in model.policy.networks_with_target]
    for network in (*copies, model.policy.averaged_network):
        assert network.encoder.features_extractor is extractor


def test_what_never_changes_is_0_in_padded_batches_too() -> None:
    extractor = RunningNormExtractor(UNBOUNDED)
    values = th.tensor([0.1, -1234.567, 1e6 + 0.3]).repeat(2000, 1)
    for _ in range(20):
        extractor.count(values, (th.arange(2000) < 1500).float())
        assert not extractor(values).any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_units_do_not_matter(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = dict(learning_starts=10**6, state_init="zero")
    if variant.algorithm is R2D2:
        # What is drawn would depend on what acting made of the observations
        settings["priority_alpha"] = 0.0
    found = []
    for factor, shift in ((1.0, 0.0), (1e4, 0.0), (1.0, 1e3)):

        def make(factor: float = factor, shift: float = shift) -> Any:
            env = RandomEnv(OBSERVATION_SPACE, variant.action_space)
            space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
            return TransformObservation(env, lambda seen: (factor * seen + shift).astype(np.float32), space)

        model = model_on(make_vec_env(make, 2, seed=0), variant.algorithm, **settings).learn(100)
        samples = model._sample_sequences(16)
        model.policy.set_training_mode(True)
        model.policy.value_network.encoder._count(samples)
        found.append(losses(model, samples, monkeypatch))
    for other in found[1:]:
        assert other.losses == pytest.approx(found[0].losses, rel=1e-3)
        for gradient, expected in zip(other.gradients, found[0].gradients, strict=True):
            th.testing.assert_close(gradient, expected, rtol=1e-2, atol=1e-4)
