"""RecurrentTQC: sb3-contrib's TQC without memory, its loss as a loop over single steps, what it drops."""

import pathlib
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TQC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_recurrent_offpolicy import RecurrentTQC
from sb3_recurrent_offpolicy.tqc import RecurrentTQCPolicy
from tests.models import TQC_VARIANT, latents_step_by_step, losses, n_step_target, random_env_model
from tests.setup import random_envs
from tests.test_sac import considered_actions


@pytest.mark.parametrize("top_quantiles_to_drop_per_net", [0, 2])
def test_without_memory_it_is_sb3_contribs_tqc(top_quantiles_to_drop_per_net: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences of length 1 and a core that remembers nothing: the same losses and the same weights, update by update."""
    # Torch draws normal numbers in blocks of 16: so many at once are the same as so many in two calls
    batch_size, n_updates = 32, 6
    network: dict[str, Any] = dict(net_arch=[16, 12], n_quantiles=7, n_critics=3)
    common: dict[str, Any] = dict(
        learning_rate=3e-3, tau=0.05, gamma=0.9, ent_coef="auto_0.5", seed=0, device="cpu", learning_starts=10**6
    )
    common |= dict(top_quantiles_to_drop_per_net=top_quantiles_to_drop_per_net)
    recurrent: Any = RecurrentTQC(
        "MlpLstmPolicy",
        make_vec_env("Pendulum-v1", 2),
        sequence_length=1,
        reward_scale=1.0,
        policy_kwargs=network | dict(core="none", enable_critic_lstm=False),
        **common,
    )
    plain = TQC("MlpPolicy", make_vec_env("Pendulum-v1", 2), policy_kwargs=network, **common)
    recurrent.learn(600)
    for name in ("actor", "critic", "critic_target"):
        for parameter, weight in zip(getattr(plain, name).parameters(), getattr(recurrent, name).parameters(), strict=True):
            parameter.data.copy_(weight.data)

    batches = [recurrent._sample_sequences(batch_size) for _ in range(n_updates)]

    def transitions(samples: Any) -> ReplayBufferSamples:
        assert samples.mask.shape == (1, batch_size)
        observations = samples.observations
        return ReplayBufferSamples(
            observations[0], samples.actions[0], observations[1], samples.terminated.T, samples.rewards.T
        )

    stream, plain_stream = iter(batches), iter(batches)
    monkeypatch.setattr(recurrent, "_sample_sequences", lambda batch_size: next(stream))
    monkeypatch.setattr(ReplayBuffer, "sample", lambda *args, **kwargs: transitions(next(plain_stream)))
    plain.set_logger(configure(None, []))
    for update in range(n_updates):
        for model in (recurrent, plain):
            th.manual_seed(update)
            model.train(1, batch_size)
        for key in ("critic_loss", "actor_loss", "ent_coef", "ent_coef_loss"):
            ours, theirs = (model.logger.name_to_value[f"train/{key}"] for model in (recurrent, plain))
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6), key
    for name in ("actor", "critic", "critic_target"):
        for a, b in zip(getattr(recurrent, name).parameters(), getattr(plain, name).parameters(), strict=True):
            th.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


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
            mean = float(th.cat(model.critic(vf[t][None], action), dim=-1).mean())
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
