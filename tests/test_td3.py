"""The losses of RecurrentTD3: equal to SB3's without memory, equal to a loop over single steps with it."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DDPG
from stable_baselines3 import TD3 as SB3TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn

from sb3_recurrent_offpolicy import RecurrentDDPG, RecurrentTD3
from sb3_recurrent_offpolicy.cores import NoCore
from tests.models import TD3, latents_step_by_step, losses, n_step_target, random_env_model


def losses_step_by_step(model: RecurrentTD3, samples: Any) -> tuple[float, float]:
    """TD3 with memory written out for single rows and steps."""
    critic_terms, actor_terms = [], []
    states, shared = samples.initial_states, model.policy.shared_lstm
    for row in range(samples.mask.shape[1]):
        vf_target = latents_step_by_step(model.critic_target.encoder, samples, states.vf, row)
        vf = latents_step_by_step(model.critic.encoder, samples, states.vf, row)
        pi_target = vf_target if shared else latents_step_by_step(model.actor_target.encoder, samples, states.pi, row)
        pi = vf if shared else latents_step_by_step(model.actor.encoder, samples, states.pi, row)

        def next_value(t: int, pi_target: th.Tensor = pi_target, vf_target: th.Tensor = vf_target) -> float:
            action = model.actor_target(pi_target[t][None])
            return min(value.item() for value in model.critic_target(vf_target[t][None], action))

        for t in range(int(samples.mask[:, row].sum())):
            target = n_step_target(model, samples, row, t, next_value)
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
        TD3, burn_in=burn_in, n_steps=n_steps, policy_kwargs=policy_kwargs, target_policy_noise=0.0, preactivation_penalty=0.1
    )
    samples: Any = model._sample_sequences(17)
    assert (samples.burn_in is not None) == (burn_in > 0)
    assert samples.mask.sum() < samples.mask.numel() and samples.terminated.any()
    critic_loss, actor_loss = losses_step_by_step(model, samples)
    found = losses(model, samples, monkeypatch)
    assert found.critic == pytest.approx(critic_loss, rel=1e-4)
    assert found.actor == pytest.approx(actor_loss, rel=1e-4)


@pytest.mark.parametrize("ours, theirs", [(RecurrentTD3, SB3TD3), (RecurrentDDPG, DDPG)])
def test_without_memory_it_is_sb3s_td3(
    ours: type[RecurrentTD3], theirs: type[SB3TD3], monkeypatch: pytest.MonkeyPatch
) -> None:
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
            recurrent._torch_generator.manual_seed(update)
            model.train(1, batch_size)
        for key in ("train/critic_loss", "train/actor_loss"):
            if key in plain.logger.name_to_value:
                assert recurrent.logger.name_to_value[key] == pytest.approx(plain.logger.name_to_value[key], rel=1e-5)
    for name in ("actor", "critic", "actor_target", "critic_target"):
        for a, b in zip(getattr(recurrent, name).parameters(), getattr(plain, name).parameters(), strict=True):
            th.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_targets_lag() -> None:
    """T15: tau of the way, once per delayed update, never by gradient."""
    model = random_env_model(TD3, tau=0.1)
    targets = [parameter.clone() for parameter in model.policy._targets]
    model.train(1, 8)
    for target, before in zip(model.policy._targets, targets, strict=True):
        assert th.equal(target, before), "not before the delayed update"
    model.train(1, 8)
    for target, before, online in zip(model.policy._targets, targets, model.policy._online, strict=True):
        assert not target.requires_grad
        th.testing.assert_close(target, 0.9 * before + 0.1 * online)


@pytest.mark.parametrize("n_updates, policy_delay", [(5, 2), (4, 1)])
def test_recurrent_calls_per_update(n_updates: int, policy_delay: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call per network: critic and both targets each time, the actor when it is its turn."""
    model = random_env_model(TD3, policy_delay=policy_delay)
    calls = []
    original = nn.LSTM.forward

    def counted(self: nn.LSTM, *args: Any) -> Any:
        calls.append(1)
        return original(self, *args)

    monkeypatch.setattr(nn.LSTM, "forward", counted)
    model.train(n_updates, 8)
    assert len(calls) == 3 * n_updates + n_updates // policy_delay
    assert model._n_updates == n_updates
