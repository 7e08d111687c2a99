"""The losses of RecurrentTD3: equal to SB3's without memory, equal to a loop over single steps with it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DDPG, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn

from sb3_recurrent_offpolicy import RecurrentDDPG, RecurrentTD3
from sb3_recurrent_offpolicy.cores import NoCore
from sb3_recurrent_offpolicy.networks import HistoryEncoder
from sb3_recurrent_offpolicy.type_aliases import CoreState
from tests.envs import RandomEnv
from tests.recorder import ACTION_SPACE, OBSERVATION_SPACE

SMALL = dict(lstm_hidden_size=6, net_arch=dict(pi=[9], qf=[8, 7]))


def random_env_model(seed: int = 0, policy_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> RecurrentTD3:
    """A model of odd sizes (T 5, hidden 6, 2 layers, 3 environments), its buffer filled at random, not trained yet."""
    env = make_vec_env(lambda: RandomEnv(OBSERVATION_SPACE, ACTION_SPACE, lengths=(13, 9, 2, 1)), n_envs=3, seed=seed)
    settings: dict[str, Any] = dict(sequence_length=5, buffer_size=900, learning_starts=10**6, reward_scale=1.0, gamma=0.9)
    policy_kwargs = SMALL | dict(n_lstm_layers=2) | (policy_kwargs or {})
    model = RecurrentTD3("MlpLstmPolicy", env, seed=seed, device="cpu", policy_kwargs=policy_kwargs, **settings | kwargs)
    model.learn(450)
    # Apart from their targets, and far enough from zero for every path to matter
    with th.no_grad():
        for parameter in [*model.actor.parameters(), *model.critic.parameters()]:
            parameter.add_(0.3 * th.randn_like(parameter))
    model._update_learning_rate([model.actor.optimizer, model.critic.optimizer])
    return model


def losses(model: RecurrentTD3, samples: Any, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Both losses of one update on a given batch and their gradients; nothing is optimised."""
    found: dict[str, Any] = {}

    def record(loss: th.Tensor, optimizer: th.optim.Optimizer) -> None:
        model.policy.zero_grad()
        name = "actor" if optimizer is model.actor.optimizer else "critic"
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        loss.backward(inputs=parameters)
        found[name] = loss.item()
        found[f"{name}_gradients"] = [parameter.grad.clone() for parameter in parameters]

    with monkeypatch.context() as patch:
        patch.setattr(model, "_sample_sequences", lambda batch_size: samples)
        patch.setattr(model, "_minimize", record)
        patch.setattr(model, "policy_delay", 1)
        patch.setattr(model.policy, "update_targets", lambda tau: None)
        model.train(1, samples.mask.shape[1])
    return SimpleNamespace(**found)


def latents_step_by_step(encoder: HistoryEncoder, samples: Any, state: CoreState, row: int) -> th.Tensor:
    """One row, one step at a time, as when acting."""
    state = tuple(array[:, row : row + 1] for array in state)
    if samples.burn_in is not None and row < samples.burn_in.previous_actions.shape[1]:
        with th.no_grad():
            for observation, action in zip(
                samples.burn_in.observations[:, row], samples.burn_in.previous_actions[:, row], strict=True
            ):
                _, state = encoder.step(*encoder.inputs(observation[None], action[None]), state)
    latents = []
    for t in range(int(samples.mask[:, row].sum()) + 1):
        inputs = encoder.inputs(samples.observations[t, row][None], samples.previous_actions[t, row][None])
        latent, state = encoder.step(*inputs, state)
        latents.append(latent)
    return th.cat(latents)


def losses_step_by_step(model: RecurrentTD3, samples: Any) -> tuple[float, float]:
    """TD3 with memory written out for single rows and steps: no masks, no shifts (T5, T6)."""
    critic_terms, actor_terms = [], []
    states, shared = samples.initial_states, model.policy.shared_lstm
    for row in range(samples.mask.shape[1]):
        length = int(samples.mask[:, row].sum())
        vf_target = latents_step_by_step(model.critic_target.encoder, samples, states.vf, row)
        vf = latents_step_by_step(model.critic.encoder, samples, states.vf, row)
        pi_target = vf_target if shared else latents_step_by_step(model.actor_target.encoder, samples, states.pi, row)
        pi = vf if shared else latents_step_by_step(model.actor.encoder, samples, states.pi, row)
        for t in range(length):
            target, discount = 0.0, 1.0
            for k in range(t, min(t + model.n_steps, length)):
                target += discount * samples.rewards[k, row].item()
                discount *= model.gamma
                if samples.terminated[k, row]:
                    break
                last = k
            else:
                action = model.actor_target(pi_target[last + 1][None])
                values = model.critic_target(vf_target[last + 1][None], action)
                target += discount * min(value.item() for value in values)
            values = model.critic(vf[t][None], samples.actions[t, row][None])
            critic_terms.append(sum((value.item() - target) ** 2 for value in values))
            preactivation = model.actor.mu(pi[t][None])
            value = model.critic(vf[t][None], th.tanh(preactivation))[0]
            actor_terms.append((model.preactivation_penalty * (preactivation**2).sum() - value).item())
    return float(np.mean(critic_terms)), float(np.mean(actor_terms))


@pytest.mark.parametrize("burn_in", [0, 3])
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize(
    "policy_kwargs",
    [
        {},
        dict(shared_lstm=True, enable_critic_lstm=False),
        dict(enable_critic_lstm=False),
        dict(n_critics=3, n_lstm_layers=1),
    ],
)
def test_losses_equal_single_steps(
    burn_in: int, n_steps: int, policy_kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_env_model(
        burn_in=burn_in, n_steps=n_steps, policy_kwargs=policy_kwargs, target_policy_noise=0.0, preactivation_penalty=0.1
    )
    samples: Any = model._sample_sequences(17)
    assert (samples.burn_in is not None) == (burn_in > 0)
    assert samples.mask.sum() < samples.mask.numel() and samples.terminated.any()
    critic_loss, actor_loss = losses_step_by_step(model, samples)
    found = losses(model, samples, monkeypatch)
    assert found.critic == pytest.approx(critic_loss, rel=1e-4)
    assert found.actor == pytest.approx(actor_loss, rel=1e-4)


@pytest.mark.parametrize("ours, theirs", [(RecurrentTD3, TD3), (RecurrentDDPG, DDPG)])
def test_without_memory_it_is_sb3s_td3(ours: type[RecurrentTD3], theirs: type[TD3], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences of length 1 and a core that remembers nothing: the same losses and the same weights, update by update."""
    net_arch, batch_size, n_updates = [16, 12], 24, 6
    common: dict[str, Any] = dict(learning_rate=3e-3, tau=0.05, gamma=0.9, seed=0, device="cpu", learning_starts=10**6)
    recurrent = ours(
        "MlpLstmPolicy",
        make_vec_env("Pendulum-v1", 2),
        sequence_length=1,
        reward_scale=1.0,
        preactivation_penalty=0.0,
        policy_kwargs=dict(net_arch=net_arch, core_class=NoCore, enable_critic_lstm=False),
        **common,
    )
    plain = theirs("MlpPolicy", make_vec_env("Pendulum-v1", 2), policy_kwargs=dict(net_arch=net_arch), **common)
    recurrent.learn(600)
    for network, theirs_network in [("actor", plain.actor), ("critic", plain.critic)]:
        for suffix in ("", "_target"):
            weights = list(getattr(recurrent, network + suffix).parameters())
            for parameter, weight in zip(getattr(plain, network + suffix).parameters(), weights, strict=True):
                parameter.data.copy_(weight.data)
        assert len(weights) == len(list(theirs_network.parameters()))

    batches = [recurrent._sample_sequences(batch_size) for _ in range(n_updates)]

    def transitions(samples: Any) -> ReplayBufferSamples:
        assert samples.mask.shape == (1, batch_size)
        return ReplayBufferSamples(
            samples.observations[0],
            samples.actions[0],
            samples.observations[1],
            samples.terminated.T,
            samples.rewards.T,
        )

    stream, plain_stream = iter(batches), iter(batches)
    monkeypatch.setattr(recurrent, "_sample_sequences", lambda batch_size: next(stream))
    monkeypatch.setattr(ReplayBuffer, "sample", lambda *args, **kwargs: transitions(next(plain_stream)))
    plain.set_logger(configure(None, []))
    for update in range(n_updates):
        for model in (recurrent, plain):
            th.manual_seed(update)
            model.train(1, batch_size)
        for key in ("train/critic_loss", "train/actor_loss"):
            if key in plain.logger.name_to_value:
                assert recurrent.logger.name_to_value[key] == pytest.approx(plain.logger.name_to_value[key], rel=1e-5)
    for name in ("actor", "critic", "actor_target", "critic_target"):
        for a, b in zip(getattr(recurrent, name).parameters(), getattr(plain, name).parameters(), strict=True):
            th.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_padding_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """T7: whatever stands in padding changes neither losses nor gradients."""
    model = random_env_model(n_steps=2, target_policy_noise=0.0)
    samples: Any = model._sample_sequences(17)
    padding = samples.mask == 0
    assert padding.any()
    after = th.cat([th.zeros(1, 17, dtype=th.bool), padding])
    disturbed = samples._replace(
        observations=th.where(after[..., None], 100.0, samples.observations),
        previous_actions=th.where(after[..., None], 7.0, samples.previous_actions),
        actions=th.where(padding[..., None], -3.0, samples.actions),
        rewards=th.where(padding, 1e6, samples.rewards),
        terminated=th.where(padding, 1.0, samples.terminated),
    )
    a, b = losses(model, samples, monkeypatch), losses(model, disturbed, monkeypatch)
    assert (a.critic, a.actor) == pytest.approx((b.critic, b.actor), rel=1e-6)
    for x, y in zip(a.actor_gradients + a.critic_gradients, b.actor_gradients + b.critic_gradients, strict=True):
        th.testing.assert_close(x, y)


def test_burn_in_refreshes_each_network_with_its_own_weights_and_gives_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """T8: the same as a batch without prefix whose states were computed beforehand, outside the graph."""
    model = random_env_model(burn_in=4, target_policy_noise=0.0)
    samples: Any = model._sample_sequences(17)
    a = losses(model, samples, monkeypatch)
    assert samples.burn_in is not None
    n_rows = samples.burn_in.previous_actions.shape[1]
    warm = {}
    for name, part in [("actor", "pi"), ("critic", "vf"), ("actor_target", "pi"), ("critic_target", "vf")]:
        encoder, state = getattr(model, name).encoder, getattr(samples.initial_states, part)
        with th.no_grad():
            _, refreshed = encoder.unroll(*samples.burn_in, tuple(array[:, :n_rows] for array in state))
        warm[encoder] = tuple(th.cat([new, old[:, n_rows:]], dim=1) for new, old in zip(refreshed, state, strict=True))
    monkeypatch.setattr(HistoryEncoder, "_burn_in", lambda self, burn_in, state: warm[self])
    b = losses(model, samples, monkeypatch)
    assert (a.critic, a.actor) == pytest.approx((b.critic, b.actor), rel=1e-6)
    for x, y in zip(a.actor_gradients + a.critic_gradients, b.actor_gradients + b.critic_gradients, strict=True):
        th.testing.assert_close(x, y)


@pytest.mark.parametrize(
    "policy_kwargs", [{}, dict(shared_lstm=True, enable_critic_lstm=False), dict(share_features_extractor=True)]
)
def test_each_loss_changes_its_own_networks(policy_kwargs: dict[str, Any]) -> None:
    """T13: and what actor and critic share belongs to the critic."""
    model = random_env_model(policy_kwargs=policy_kwargs | dict(features_extractor_class=LinearExtractor))
    before = {name: parameter.clone() for name, parameter in model.policy.named_parameters()}

    def changed() -> set[str]:
        return {name for name, value in model.policy.named_parameters() if not th.equal(value, before[name])}

    samples: Any = model._sample_sequences(17)
    latents = model.critic.encode(samples).detach()
    actor_loss = -model.critic.q1_forward(latents, model.actor(model.actor.encode(samples, latents))).mean()
    model._minimize(actor_loss, model.actor.optimizer)
    critic_names = {name for name, _ in model.policy.named_parameters() if name.startswith("critic.")}
    critic_tensors = set(model.critic.parameters())
    actor_names = {
        name for name, value in model.policy.named_parameters() if name.startswith("actor.") and value not in critic_tensors
    }
    assert changed() == actor_names

    before = {name: parameter.clone() for name, parameter in model.policy.named_parameters()}
    critic_loss = sum(value.square().mean() for value in model.critic(model.critic.encode(samples)[:-1], samples.actions))
    model._minimize(critic_loss, model.critic.optimizer)
    shared_names = {
        name for name, value in model.policy.named_parameters() if name.startswith("actor.") and value in critic_tensors
    }
    assert changed() == critic_names | shared_names
    assert bool(shared_names) == bool(policy_kwargs)


class LinearExtractor(nn.Module):
    """A features extractor with something to learn."""

    def __init__(self, observation_space: Any):
        super().__init__()
        self.features_dim = 4
        self.linear = nn.Linear(observation_space.shape[0], 4)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.linear(observations)


def test_targets_lag() -> None:
    """T15: tau of the way, once per delayed update, never by gradient."""
    model = random_env_model(tau=0.1)
    targets = [parameter.clone() for parameter in model.policy._targets]
    model.train(1, 8)
    for target, before in zip(model.policy._targets, targets, strict=True):
        assert th.equal(target, before), "not before the delayed update"
    model.train(1, 8)
    for target, before, online in zip(model.policy._targets, targets, model.policy._online, strict=True):
        assert not target.requires_grad
        th.testing.assert_close(target, 0.9 * before + 0.1 * online)


def test_polyak_counts_shared_parameters_once() -> None:
    model = random_env_model(tau=0.1, policy_kwargs=dict(shared_lstm=True, enable_critic_lstm=False))
    assert len(model.policy._targets) == len(set(model.policy._targets)) == len(model.policy._online)
    assert model.actor_target.encoder is model.critic_target.encoder is not model.critic.encoder


def test_modes() -> None:
    """Targets always evaluate; what is differentiated through trains."""
    model = random_env_model()
    modes: list[bool] = []
    for network in (model.actor, model.critic, model.actor_target, model.critic_target):
        network.register_forward_hook(
            lambda module, *_: modes.append((module in (model.actor, model.critic)) == module.training)
        )
    model.train(2, 8)
    assert modes and all(modes)
    modes.clear()
    model.predict(np.zeros(2, dtype=np.float32))
    assert not model.actor.training


@pytest.mark.parametrize("n_updates, policy_delay", [(5, 2), (4, 1)])
def test_recurrent_calls_per_update(n_updates: int, policy_delay: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call per network: critic and both targets each time, the actor when it is its turn."""
    model = random_env_model(policy_delay=policy_delay)
    calls = []
    original = nn.LSTM.forward

    def counted(self: nn.LSTM, *args: Any) -> Any:
        calls.append(1)
        return original(self, *args)

    monkeypatch.setattr(nn.LSTM, "forward", counted)
    model.train(n_updates, 8)
    assert len(calls) == 3 * n_updates + n_updates // policy_delay
    assert model._n_updates == n_updates


def test_gradients_are_clipped() -> None:
    model = random_env_model(max_grad_norm=1e-3)
    model.train(2, 8)
    for network in (model.actor, model.critic):
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        assert th.nn.utils.get_total_norm(gradients) <= 1.01e-3


def test_memory_learning_rate_follows_the_schedule() -> None:
    model = random_env_model(learning_rate=lambda progress: 0.01 * progress, policy_kwargs=dict(memory_lr_scale=0.1))
    model._current_progress_remaining = 0.5
    model.train(1, 8)
    for optimizer, network in ((model.actor.optimizer, model.actor), (model.critic.optimizer, model.critic)):
        rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
        memory = set(network.encoder.core.parameters())
        assert memory and all(
            rate == pytest.approx(0.0005 if parameter in memory else 0.005) for parameter, rate in rates.items()
        )


def test_reward_scale() -> None:
    """Automatic: rewards a thousand times larger are learned from as if they were not."""
    models = []
    for factor in (1.0, 1000.0):
        model = random_env_model(reward_scale="auto")
        model.replay_buffer.rewards *= factor
        model._new_returns = [factor * returns for returns in model._new_returns]
        models.append(model)
    batches = []
    for model in models:
        np.random.seed(0)
        batches.append(model._sample_sequences(8).rewards)
    th.testing.assert_close(*batches, rtol=1e-3, atol=1e-5)

    fixed = random_env_model(reward_scale=0.5)
    np.random.seed(0)
    raw = fixed.replay_buffer.sample(8).rewards
    np.random.seed(0)
    th.testing.assert_close(fixed._sample_sequences(8).rewards, 0.5 * raw)


def test_reward_scale_of_rewards_that_are_all_zero() -> None:
    model = random_env_model(reward_scale="auto")
    model._new_returns = [np.zeros(3)]
    model._return_statistics.var = np.zeros(())
    assert np.isfinite(model._reward_factor())
