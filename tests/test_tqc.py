"""RecurrentTQC: sb3-contrib's TQC without memory, its loss as a loop over single steps, what it drops."""

import pathlib
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TQC

from sb3_recurrent_offpolicy import RecurrentTQC
from sb3_recurrent_offpolicy.tqc import RecurrentTQCPolicy
from tests.equality import assert_same_updates
from tests.models import TQC_VARIANT, latents_step_by_step, losses, n_step_target, random_env_model
from tests.setup import random_envs
from tests.test_sac import considered_actions


@pytest.mark.parametrize("top_quantiles_to_drop_per_net", [0, 2])
def test_without_memory_it_is_sb3_contribs_tqc(top_quantiles_to_drop_per_net: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("critic_loss", "actor_loss", "ent_coef", "ent_coef_loss")
    settings: dict[str, Any] = dict(ent_coef="auto_0.5", top_quantiles_to_drop_per_net=top_quantiles_to_drop_per_net)
    network = dict(n_quantiles=7, n_critics=3)
    assert_same_updates(RecurrentTQC, TQC, keys, monkeypatch, policy_kwargs=network, **settings)


@pytest.mark.parametrize(("burn_in", "n_steps"), [(0, 1), (3, 3)])
def test_losses_equal_single_steps(burn_in: int, n_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kuznetsov et al. 2020, equations 10 to 14, for single rows and steps."""
    dropped, n_quantiles = 1, 5
    model: Any = random_env_model(
        TQC_VARIANT,
        burn_in=burn_in,
        n_steps=n_steps,
        ent_coef=0.3,
        top_quantiles_to_drop_per_net=dropped,
        policy_kwargs=dict(n_quantiles=n_quantiles),
    )
    samples: Any = model._sample_sequences(9)
    policies: list[Any] = []
    action_log_prob = model.actor.action_log_prob

    def recorded(latents: th.Tensor) -> Any:
        policies.append(action_log_prob(latents))
        return policies[-1]

    monkeypatch.setattr(model.actor, "action_log_prob", recorded)
    found = losses(model, samples, monkeypatch)
    sampled = policies[0].actions.detach()

    critic_terms, actor_terms = [], []
    for row in range(samples.mask.shape[1]):
        vf, vf_target, pi = (
            latents_step_by_step(network.encoder, samples, state, row)
            for network, state in (
                (model.critic, samples.initial_states.vf),
                (model.critic_target, samples.initial_states.vf),
                (model.actor, samples.initial_states.pi),
            )
        )
        for t in range(int(samples.mask[:, row].sum())):

            def target(index: int, t: int = t, row: int = row, vf_target: Any = vf_target, pi: Any = pi) -> float:
                def next_value(k: int) -> float:
                    ((_, log_prob, action),) = considered_actions(model, pi[k], sampled[k, row])
                    values = th.cat(model.critic_target(vf_target[k][None], action), dim=-1)[0]
                    return float(values.sort().values[index]) - 0.3 * log_prob

                return n_step_target(model, samples, row, t, next_value)

            targets = [target(index) for index in range(2 * n_quantiles - 2 * dropped)]
            terms = []
            for quantiles in model.critic(vf[t][None], samples.actions[t, row][None]):
                for level, quantile in enumerate(quantiles[0].tolist()):
                    for value in targets:
                        error = value - quantile
                        huber = abs(error) - 0.5 if abs(error) > 1 else 0.5 * error**2
                        terms.append(abs((level + 0.5) / n_quantiles - (error < 0)) * huber)
            critic_terms.append(np.mean(terms))
            ((_, log_prob, action),) = considered_actions(model, pi[t], sampled[t, row])
            mean = th.cat(model.critic(vf[t][None], action), dim=-1).mean().item()
            actor_terms.append(0.3 * log_prob - mean)
    # The oracle takes atanh of sampled actions, which loses digits near the bounds
    assert (found.critic, found.actor) == pytest.approx((np.mean(critic_terms), np.mean(actor_terms)), rel=1e-3, abs=3e-4)


def test_signature_is_sb3_contribs_and_ours() -> None:
    import inspect

    theirs, ours = (list(inspect.signature(algorithm).parameters) for algorithm in (TQC, RecurrentTQC))
    assert ours[: len(theirs)] == theirs and {"sequence_length", "burn_in"} <= set(ours)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="top_quantiles_to_drop_per_net=25 leaves nothing of n_quantiles=25"):
        RecurrentTQC("MlpLstmPolicy", "Pendulum-v1", top_quantiles_to_drop_per_net=25)
    with pytest.raises(ValueError, match="top_quantiles_to_drop_per_net=-1 must be at least 0"):
        RecurrentTQC("MlpLstmPolicy", "Pendulum-v1", top_quantiles_to_drop_per_net=-1)
    with pytest.raises(ValueError, match="n_quantiles=0 must be at least 1"):
        RecurrentTQC("MlpLstmPolicy", "Pendulum-v1", policy_kwargs=dict(n_quantiles=0))
    with pytest.raises(AssertionError, match="only supports"):
        RecurrentTQC("MlpLstmPolicy", random_envs(1, action_space=spaces.Discrete(3)))


@pytest.mark.parametrize("n_quantiles", [1, 6])
def test_policies_and_critics_by_themselves(n_quantiles: int, tmp_path: pathlib.Path) -> None:
    kwargs = dict(n_quantiles=n_quantiles, lstm_hidden_size=4, net_arch=[5])
    model: Any = RecurrentTQC(
        "MlpGruPolicy", "Pendulum-v1", policy_kwargs=kwargs, top_quantiles_to_drop_per_net=0, learning_starts=20, seed=0
    ).learn(60)
    model.policy.save(tmp_path / "policy")
    policy: Any = RecurrentTQCPolicy.load(str(tmp_path / "policy"))
    observation = np.ones((2, 3), dtype=np.float32)
    np.testing.assert_array_equal(*(each.predict(observation, deterministic=True)[0] for each in (policy, model)))
    assert policy.n_quantiles == n_quantiles and policy.critic.q_networks[0][-1].out_features == n_quantiles
    latents, actions = th.randn(3, 2, model.critic.encoder.latent_dim), th.zeros(3, 2, 1)
    assert model.critic.q_vectors(latents, actions).shape == (3, 2, 2 * n_quantiles)
