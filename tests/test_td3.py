"""The losses of RecurrentTD3: equal to SB3's without memory, equal to a loop over single steps with it."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DDPG
from stable_baselines3 import TD3 as SB3TD3

from sb3_recurrent_offpolicy import RecurrentDDPG, RecurrentTD3
from tests.equality import assert_same_updates
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
    assert_same_updates(ours, theirs, ("critic_loss", "actor_loss"), monkeypatch, ours_only=dict(preactivation_penalty=0.0))


def test_targets_lag() -> None:
    """T15: tau of the way, once per delayed update, never by gradient."""
    model = random_env_model(TD3, tau=0.1)
    targets = [parameter.clone() for parameter in model.policy.targets.parameters]
    model.train(1, 8)
    for target, before in zip(model.policy.targets.parameters, targets, strict=True):
        assert th.equal(target, before), "not before the delayed update"
    model.train(1, 8)
    for target, before, online in zip(model.policy.targets.parameters, targets, model.policy.targets.followed, strict=True):
        assert not target.requires_grad
        th.testing.assert_close(target, 0.9 * before + 0.1 * online)


@pytest.mark.parametrize("n_updates, policy_delay", [(5, 2), (4, 1)])
def test_recurrent_calls_per_update(n_updates: int, policy_delay: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call per network: critic and both targets each time, the actor when it is its turn."""
    model = random_env_model(TD3, policy_delay=policy_delay)
    calls = []
    original = th.lstm

    def counted(*args: Any) -> Any:
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(th, "lstm", counted)
    model.train(n_updates, 8)
    assert len(calls) == 3 * n_updates + n_updates // policy_delay
    assert model._n_updates == n_updates
