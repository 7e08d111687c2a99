"""What the losses of all actor-critic algorithms have in common."""

import copy
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor

from sb3_recurrent_offpolicy import R2D2
from sb3_recurrent_offpolicy.networks import HistoryEncoder, RunningNormExtractor
from sb3_recurrent_offpolicy.rewards import RewardNormalizer
from tests.models import ACTOR_CRITICS, SAC, TD3, VARIANTS, LinearExtractor, Variant, losses, optimizers, random_env_model


@pytest.mark.parametrize("features_extractor_class", [FlattenExtractor, RunningNormExtractor])
@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_has_no_effect(
    variant: Variant, features_extractor_class: type[BaseFeaturesExtractor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """T7: whatever stands in padding changes neither losses nor gradients."""
    model = random_env_model(variant, n_steps=2, policy_kwargs=dict(features_extractor_class=features_extractor_class))
    samples: Any = model._sample_sequences(17)
    padding = samples.mask == 0
    assert padding.any()
    after = th.cat([th.zeros(1, 17, dtype=th.bool), padding])
    disturbed = samples._replace(
        observations=th.where(after[..., None], 100.0, samples.observations),
        previous_actions=th.where(after[..., None], 7.0, samples.previous_actions),
        actions=th.where(padding[..., None], samples.actions.max(), samples.actions),
        rewards=th.where(padding, 1e6, samples.rewards),
        terminated=th.where(padding, 1.0, samples.terminated),
    )
    statistics = copy.deepcopy(model.policy.state_dict())
    a = losses(model, samples, monkeypatch)
    model.policy.load_state_dict(statistics)
    b = losses(model, disturbed, monkeypatch)
    assert a.losses == pytest.approx(b.losses, rel=1e-6)
    for x, y in zip(a.gradients, b.gradients, strict=True):
        th.testing.assert_close(x, y)


@pytest.mark.parametrize("variant", VARIANTS)
def test_burn_in_refreshes_each_network_with_its_own_weights_and_gives_no_gradient(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T8: the same as a batch without prefix whose states were computed beforehand, outside the graph."""
    model = random_env_model(variant, burn_in=4)
    samples: Any = model._sample_sequences(17)
    a = losses(model, samples, monkeypatch)
    assert samples.burn_in is not None
    n_rows = samples.burn_in.previous_actions.shape[1]
    warm = {}
    for name in model.network_names:
        encoder = getattr(model, name).encoder
        state = samples.initial_states.vf if name.startswith("critic") else samples.initial_states.pi
        with th.no_grad():
            inputs, _ = encoder.read(*samples.burn_in)
            _, refreshed = encoder.core.unroll(inputs, tuple(array[:, :n_rows] for array in state))
        warm[encoder] = refreshed
    monkeypatch.setattr(HistoryEncoder, "burn_in", lambda self, burn_in, state: warm[self])
    b = losses(model, samples, monkeypatch)
    assert a.losses == pytest.approx(b.losses, rel=1e-6)
    for x, y in zip(a.gradients, b.gradients, strict=True):
        th.testing.assert_close(x, y)


@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
@pytest.mark.parametrize("variant", VARIANTS)
def test_burn_in_neither_drops_out_nor_counts_in_batch_norm(variant: Variant) -> None:
    """What it leads to may be written back: it must be what acting would have led to."""
    policy_kwargs = dict(lstm_kwargs=dict(dropout=0.5), features_extractor_class=BatchNormExtractor)
    model = random_env_model(variant, burn_in=4, policy_kwargs=policy_kwargs)
    samples: Any = model._sample_sequences(17)
    model.policy.set_training_mode(True)
    encoder = model.policy.value_network.encoder
    statistics = [buffer.clone() for buffer in encoder.buffers()]
    warm_states = [encoder.burn_in(samples.burn_in, samples.initial_states.vf) for _ in range(2)]
    for a, b in zip(*warm_states, strict=True):
        assert th.equal(a, b)
    assert statistics and all(map(th.equal, statistics, encoder.buffers()))
    assert encoder.training and encoder.core.training


@pytest.mark.parametrize(
    "policy_kwargs", [{}, dict(shared_lstm=True, enable_critic_lstm=False), dict(share_features_extractor=True)]
)
@pytest.mark.parametrize("variant", ACTOR_CRITICS)
def test_each_loss_changes_its_own_networks(
    policy_kwargs: dict[str, Any], variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T13: and what actor and critic share belongs to the critic."""
    model = random_env_model(variant, policy_kwargs=policy_kwargs | dict(features_extractor_class=LinearExtractor))
    monkeypatch.setattr(model, "policy_delay", 1, raising=False)
    monkeypatch.setattr(model.policy, "update_targets", lambda tau: None)
    minimize = model._minimize
    named = dict(model.policy.named_parameters())
    critic_names = {name for name in named if name.startswith("critic.")}
    critic_tensors = set(model.critic.parameters())
    shared_names = {name for name, value in named.items() if name.startswith("actor.") and value in critic_tensors}
    actor_names = {name for name in named if name.startswith("actor.")} - shared_names
    assert bool(shared_names) == bool(policy_kwargs)

    for network, expected in ((model.actor, actor_names), (model.critic, critic_names | shared_names)):
        before = {name: parameter.clone() for name, parameter in named.items()}

        def only(loss: th.Tensor, optimizer: th.optim.Optimizer, network: Any = network) -> None:
            if optimizer is network.optimizer:
                minimize(loss, optimizer)

        monkeypatch.setattr(model, "_minimize", only)
        model.train(1, 17)
        assert {name for name, value in named.items() if not th.equal(value, before[name])} == expected


@pytest.mark.parametrize("variant", ACTOR_CRITICS)
def test_polyak_counts_shared_parameters_once(variant: Variant) -> None:
    model = random_env_model(variant, tau=0.1, policy_kwargs=dict(shared_lstm=True, enable_critic_lstm=False))
    assert (
        len(model.policy.targets.parameters) == len(set(model.policy.targets.parameters)) == len(model.policy.targets.followed)
    )
    assert model.actor.encoder is model.critic.encoder is not model.critic_target.encoder
    assert variant is not TD3 or model.actor_target.encoder is model.critic_target.encoder


@pytest.mark.parametrize("variant", VARIANTS)
def test_modes(variant: Variant) -> None:
    """Targets always evaluate; what is differentiated through trains."""
    model = random_env_model(variant)
    modes: list[bool] = []
    for name in model.network_names:
        encoder, trains = getattr(model, name).encoder, not name.endswith("target")
        original = encoder.core.unroll

        def unroll(*args: Any, encoder: Any = encoder, trains: bool = trains, original: Any = original) -> Any:
            modes.append(encoder.training == trains)
            return original(*args)

        encoder.core.unroll = unroll
    model.train(2, 8)
    assert modes and all(modes)
    model.predict(np.zeros(2, dtype=np.float32))
    assert not model.policy.acting_network.training


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_clipped(variant: Variant) -> None:
    model = random_env_model(variant, max_grad_norm=1e-3)
    model.train(2, 8)
    for optimizer in optimizers(model).values():
        gradients = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
        assert th.nn.utils.get_total_norm(gradients) <= 1.01e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_learning_rate_follows_the_schedule(variant: Variant) -> None:
    model = random_env_model(variant, learning_rate=lambda progress: 0.01 * progress, policy_kwargs=dict(memory_lr_scale=0.1))
    model._current_progress_remaining = 0.5
    model.train(1, 8)
    for name, optimizer in optimizers(model).items():
        rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
        memory = set(getattr(model, name).encoder.core.parameters())
        assert memory and all(
            rate == pytest.approx(0.0005 if parameter in memory else 0.005) for parameter, rate in rates.items()
        )


def test_reward_scale() -> None:
    """Automatic: rewards a thousand times larger are learned from as if they were not."""
    models = []
    for factor in (1.0, 1000.0):
        model = random_env_model(SAC, reward_scale="auto")
        model.replay_buffer.rings[0].rewards *= factor
        model.reward_normalizer = RewardNormalizer()
        statistics = model._return_statistics(0)
        for rewards, steps in zip(
            model.replay_buffer.rings[0].rewards[:150], model.replay_buffer.rings[0].episode_steps, strict=False
        ):
            statistics.add(rewards, steps == 0, model.gamma)
        models.append(model)
    batches = []
    for model in models:
        model.replay_buffer.seed(0)
        batches.append(model._sample_sequences(8).rewards)
    th.testing.assert_close(*batches, rtol=1e-3, atol=1e-5)

    fixed = random_env_model(SAC, reward_scale=0.5)
    fixed.replay_buffer.seed(0)
    raw = fixed.replay_buffer.sample(8).rewards
    fixed.replay_buffer.seed(0)
    th.testing.assert_close(fixed._sample_sequences(8).rewards, 0.5 * raw)


class BatchNormExtractor(LinearExtractor):
    """A features extractor with running statistics, and with a layer that is not to be trained."""

    def __init__(self, observation_space: Any):
        super().__init__(observation_space)
        self.linear.requires_grad_(False)
        self.norm = th.nn.BatchNorm1d(self.features_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.norm(super().forward(observations))


@pytest.mark.parametrize("variant", VARIANTS)
def test_extractors_may_be_frozen_and_diagnosis_leaves_their_statistics(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for every in (1, 1000):
        monkeypatch.setattr("sb3_recurrent_offpolicy.algorithm.UPDATES_PER_DIAGNOSIS", every)
        model = random_env_model(variant, policy_kwargs=dict(features_extractor_class=BatchNormExtractor), max_grad_norm=1.0)
        model.train(1, 8)
        extractor = model.policy.value_network.encoder.features_extractor
        before = extractor.linear.weight.clone(), extractor.norm.weight.clone()
        model.train(2, 8)
        assert th.equal(extractor.linear.weight, before[0]) and not th.equal(extractor.norm.weight, before[1])
        assert ("train/delta_q_last" in model.logger.name_to_value) == (every == 1)
        seen.append((extractor.norm.num_batches_tracked, extractor.norm.running_mean))
    for watched, unwatched in zip(*seen, strict=True):
        assert th.equal(watched, unwatched)


@pytest.mark.parametrize("variant", VARIANTS)
def test_priorities_follow_the_errors(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every algorithm can replay by priority: what it learned last counts, for the steps it was learned of and no others."""
    prioritised: dict[str, Any] = dict(priority_alpha=0.9, importance_beta=0.4)
    kwargs = prioritised if variant.algorithm is R2D2 else dict(replay_buffer_kwargs=prioritised)
    model = random_env_model(variant, **kwargs)
    model._current_progress_remaining = 0.5
    batches: list[Any] = []
    sample = model.replay_buffer.sample

    def recorded(*args: Any, **kwargs: Any) -> Any:
        assert kwargs["importance_beta"] == pytest.approx(0.7), "annealed"
        batches.append(sample(*args, **kwargs))
        return batches[-1]

    monkeypatch.setattr(model.replay_buffer, "sample", recorded)
    model.replay_buffer.priorities[0].errors[:] = np.nan
    model.train(1, 17)
    after = model.replay_buffer.priorities[0].errors
    times, envs = np.divmod(batches[0].indices, 3)
    learned = {(int(times[row] + t), int(envs[row])) for t, row in zip(*np.nonzero(batches[0].mask.numpy()), strict=True)}
    assert {(int(t), int(env)) for t, env in np.argwhere(np.isfinite(after))} == learned
    assert not (after < 0).any()
