"""The losses of RecurrentSAC: equal to SB3's without memory, equal to a loop over single steps with it; temperature."""

import pathlib
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC as SB3SAC
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.env_util import make_vec_env

from sb3_recurrent_offpolicy import RecurrentSAC
from sb3_recurrent_offpolicy.type_aliases import ActionLogProbs
from tests.envs import RandomEnv
from tests.equality import assert_same_updates
from tests.models import DISCRETE_SAC, SAC, Variant, latents_step_by_step, losses, n_step_target, random_env_model
from tests.recorder import ACTION_SPACE
from tests.setup import KWARGS

BOTH = [pytest.param(SAC, id="box"), pytest.param(DISCRETE_SAC, id="discrete")]


def considered_actions(model: Any, latent: th.Tensor, sampled: th.Tensor | None) -> list[tuple[float, float, Any]]:
    """(weight, log probability, action) at one step: the one that was sampled, or all of them."""
    if sampled is None:
        probabilities = th.softmax(model.actor.logits(latent[None])[0], dim=0)
        return [(p.item(), p.log().item(), th.tensor([[action]])) for action, p in enumerate(probabilities)]
    hidden = model.actor.latent_pi(latent[None])
    mean, deviation = model.actor.mu(hidden)[0], model.actor.log_std(hidden)[0].clamp(-20, 2).exp()
    gaussian = th.atanh(sampled)
    density = -0.5 * ((gaussian - mean) / deviation) ** 2 - deviation.log() - 0.5 * np.log(2 * np.pi)
    return [(1.0, (density - th.log(1 - sampled**2 + 1e-6)).sum().item(), sampled[None])]


def losses_step_by_step(model: RecurrentSAC, samples: Any, sampled: th.Tensor | None) -> tuple[float, float, float]:
    """SAC with memory written out for single rows and steps."""
    ent_coef = float(model.log_ent_coef.detach().exp())  # type: ignore[union-attr]
    critic_terms, actor_terms, log_probs = [], [], []
    states, shared = samples.initial_states, model.policy.shared_lstm
    for row in range(samples.mask.shape[1]):
        vf_target = latents_step_by_step(model.critic_target.encoder, samples, states.vf, row)
        vf = latents_step_by_step(model.critic.encoder, samples, states.vf, row)
        pi = vf if shared else latents_step_by_step(model.actor.encoder, samples, states.pi, row)

        def soft_value(t: int, critic: Any, latents: th.Tensor, pi: th.Tensor = pi, row: int = row) -> float:
            value = 0.0
            for weight, log_prob, action in considered_actions(model, pi[t], None if sampled is None else sampled[t, row]):
                q_value = min(q.item() for q in critic(latents[t][None], action))
                value += weight * (q_value - ent_coef * log_prob)
            return value

        def next_value(t: int, vf_target: th.Tensor = vf_target, soft_value: Any = soft_value) -> float:
            return soft_value(t, model.critic_target, vf_target)

        for t in range(int(samples.mask[:, row].sum())):
            target = n_step_target(model, samples, row, t, next_value)
            values = model.critic(vf[t][None], samples.actions[t, row][None])
            critic_terms.append(0.5 * sum((value.item() - target) ** 2 for value in values))
            actor_terms.append(-soft_value(t, model.critic, vf))
            considered = considered_actions(model, pi[t], None if sampled is None else sampled[t, row])
            log_probs.append(sum(weight * log_prob for weight, log_prob, _ in considered))
    missing_entropy = np.mean(log_probs) + model._resolved_target_entropy
    return float(np.mean(critic_terms)), float(np.mean(actor_terms)), -float(np.log(ent_coef) * missing_entropy)


@pytest.mark.parametrize("burn_in, n_steps", [(0, 1), (3, 1), (3, 3)])
@pytest.mark.parametrize(
    "policy_kwargs",
    [
        {},
        dict(shared_lstm=True, enable_critic_lstm=False),
        dict(enable_critic_lstm=False),
        dict(n_critics=3, n_lstm_layers=1),
    ],
)
@pytest.mark.parametrize("variant", BOTH)
def test_losses_equal_single_steps(
    burn_in: int, n_steps: int, policy_kwargs: dict[str, Any], variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_env_model(variant, burn_in=burn_in, n_steps=n_steps, policy_kwargs=policy_kwargs, ent_coef="auto_0.7")
    samples: Any = model._sample_sequences(17)
    assert (samples.burn_in is not None) == (burn_in > 0)
    assert samples.mask.sum() < samples.mask.numel() and samples.terminated.any()

    policies: list[ActionLogProbs] = []
    action_log_prob = model.actor.action_log_prob

    def recorded(latents: th.Tensor) -> ActionLogProbs:
        policies.append(action_log_prob(latents))
        return policies[-1]

    monkeypatch.setattr(model.actor, "action_log_prob", recorded)
    if variant is SAC:
        # The oracle takes atanh of sampled actions, which loses digits near the bounds and is infinite at them
        model.actor.log_std.bias.data.sub_(2)
    found = losses(model, samples, monkeypatch)
    sampled = policies[0].actions
    assert len(policies) == 1 and (sampled is None) == (variant is DISCRETE_SAC)
    expected = losses_step_by_step(model, samples, None if sampled is None else sampled.detach())
    assert sampled is None or sampled.abs().max() < 1
    assert (found.critic, found.actor, found.ent_coef) == pytest.approx(expected, rel=1e-3, abs=3e-4)


def test_without_memory_it_is_sb3s_sac(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("critic_loss", "actor_loss", "ent_coef", "ent_coef_loss")
    assert_same_updates(RecurrentSAC, SB3SAC, keys, monkeypatch, ent_coef="auto_0.5")


@pytest.mark.parametrize("variant", BOTH)
def test_recurrent_calls_per_update(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call for each of actor, critic and target critic."""
    model = random_env_model(variant)
    calls = []
    original = th.lstm

    def counted(*args: Any) -> Any:
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(th, "lstm", counted)
    model.train(5, 8)
    assert len(calls) == 3 * 5 and model._n_updates == 5


def test_target_update_interval() -> None:
    model = random_env_model(SAC, tau=0.1, target_update_interval=3)
    targets = [parameter.clone() for parameter in model.policy.targets.parameters]
    for _ in range(2):
        model.train(1, 8)
        assert all(map(th.equal, model.policy.targets.parameters, targets))
    model.train(1, 8)
    for target, before, online in zip(model.policy.targets.parameters, targets, model.policy.targets.followed, strict=True):
        assert not target.requires_grad
        th.testing.assert_close(target, 0.9 * before + 0.1 * online)


@pytest.mark.parametrize("space, expected", [(ACTION_SPACE, 0.1), (spaces.Discrete(6), 0.3)])
def test_the_target_follows_as_the_actions_need(space: spaces.Space, expected: float, tmp_path: pathlib.Path) -> None:
    env = RandomEnv(spaces.Box(-1, 1, (2,)), space)
    model = RecurrentSAC("MlpLstmPolicy", env, **KWARGS)
    assert model.tau == expected
    model.save(tmp_path / "model")
    assert RecurrentSAC.load(tmp_path / "model").tau == expected
    assert RecurrentSAC("MlpLstmPolicy", env, tau=0.5, **KWARGS).tau == 0.5


# ------------------------------------------------------------------ temperature


@pytest.mark.parametrize(
    ("space", "target_entropy", "expected"),
    [
        (ACTION_SPACE, "auto", -3.0),
        (ACTION_SPACE, "auto_0.5", -1.5),
        (ACTION_SPACE, -1.0, -1.0),
        (ACTION_SPACE, "-1.0", -1.0),
        (spaces.Discrete(6), "auto", 0.5 * np.log(6)),
        (spaces.Discrete(6), "auto_0.9", 0.9 * np.log(6)),
        (spaces.Discrete(6), 0.2, 0.2),
    ],
)
def test_target_entropy(space: spaces.Space, target_entropy: Any, expected: float) -> None:
    env = RandomEnv(spaces.Box(-1, 1, (2,)), space)
    model = RecurrentSAC("MlpLstmPolicy", env, target_entropy=target_entropy, **KWARGS)
    assert model._resolved_target_entropy == pytest.approx(expected)


@pytest.mark.parametrize("variant", BOTH)
@pytest.mark.parametrize("rises", [True, False])
def test_temperature_rises_where_entropy_is_missing(variant: Variant, rises: bool) -> None:
    largest = np.log(4) if variant is DISCRETE_SAC else 3 * np.log(2)
    target_entropy = float(largest) if rises else -50.0
    model = random_env_model(variant, ent_coef="auto_0.5", target_entropy=target_entropy, learning_rate=1e-2)
    assert model.log_ent_coef.item() == pytest.approx(np.log(0.5))
    model.train(10, 8)
    assert (model.log_ent_coef.item() > np.log(0.5)) == rises


@pytest.mark.parametrize("variant", BOTH)
def test_a_fixed_temperature_stays(variant: Variant) -> None:
    model = random_env_model(variant, ent_coef=0.3)
    model.train(3, 8)
    assert model.ent_coef_optimizer is None and float(model.ent_coef_tensor) == pytest.approx(0.3)
    assert "train/ent_coef_loss" not in model.logger.name_to_value
    assert model.logger.name_to_value["train/ent_coef"] == pytest.approx(0.3)


@pytest.mark.parametrize("name", ["ent_coef", "target_entropy"])
@pytest.mark.parametrize("value", ["car", "auto_", "auto_x", "auto0.1", "0.1_auto"])
def test_malformed_strings(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name}='{value}' must be a number, 'auto', or"):
        RecurrentSAC("MlpLstmPolicy", "Pendulum-v1", **{name: value})  # type: ignore[arg-type]


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="ent_coef='auto_0' must begin above 0"):
        RecurrentSAC("MlpLstmPolicy", "Pendulum-v1", ent_coef="auto_0")
    with pytest.raises(ValueError, match="target_update_interval=0"):
        RecurrentSAC("MlpLstmPolicy", "Pendulum-v1", target_update_interval=0)
    with pytest.raises(ValueError, match=r"target_entropy=1\.0 asks for 1 nats.*0\.6931 at most"):
        RecurrentSAC("MlpLstmPolicy", "Pendulum-v1", target_entropy=1.0)
    with pytest.raises(ValueError, match=r"target_entropy='auto_2' asks for 1\.386 nats.*0\.6931 at most"):
        RecurrentSAC("MlpLstmPolicy", "CartPole-v1", target_entropy="auto_2")


def test_a_fixed_temperature_can_be_changed_when_loading(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.zip"
    random_env_model(SAC, ent_coef=0.2).save(path)
    assert float(RecurrentSAC.load(path, ent_coef=0.7).ent_coef_tensor) == pytest.approx(0.7)
    with pytest.raises(ValueError, match=r"model\.zip .* ent_coef='auto' does not fit a temperature that was fixed"):
        RecurrentSAC.load(path, ent_coef="auto")
    learned = random_env_model(SAC)
    with pytest.raises(ValueError, match="was fixed"):
        learned.set_parameters(path)
    learned.save(path)
    with pytest.raises(ValueError, match=r"ent_coef=0\.7 does not fit a temperature that was learned: choose auto"):
        RecurrentSAC.load(path, ent_coef=0.7)


@pytest.mark.parametrize("variant", BOTH)
@pytest.mark.parametrize("ent_coef", ["auto_0.4", 0.2])
def test_temperature_is_saved_with_its_optimizer(variant: Variant, ent_coef: Any, tmp_path: pathlib.Path) -> None:
    model = random_env_model(variant, ent_coef=ent_coef)
    model.train(3, 8)
    model.save(tmp_path / "model")
    loaded: Any = RecurrentSAC.load(tmp_path / "model", env=model.env)
    if ent_coef == 0.2:
        assert loaded.ent_coef_optimizer is None and th.equal(loaded.ent_coef_tensor, model.ent_coef_tensor)
    else:
        assert loaded.log_ent_coef.item() == model.log_ent_coef.item() != pytest.approx(np.log(0.4), abs=1e-6)
        theirs, ours = model.ent_coef_optimizer.state_dict(), loaded.ent_coef_optimizer.state_dict()
        assert all(th.equal(value, ours["state"][0][key]) for key, value in theirs["state"][0].items())
    # What is optimised is what the losses use
    loaded.learn(60, reset_num_timesteps=False)
    before = loaded.log_ent_coef.clone() if ent_coef != 0.2 else None
    loaded.train(1, 8)
    assert before is None or not th.equal(before, loaded.log_ent_coef)


# --------------------------------------------------------------------- actions


def test_stochastic_and_deterministic_prediction() -> None:
    for variant in (SAC, DISCRETE_SAC):
        model = random_env_model(variant)
        observation = np.zeros((500, 2), dtype=np.float32)
        greedy, _ = model.predict(observation, deterministic=True)
        # Rows of a batch can differ in their last digit
        np.testing.assert_allclose(greedy, np.broadcast_to(greedy[0], greedy.shape), rtol=1e-5, atol=1e-6)
        sampled, state = model.predict(observation)
        assert not (sampled == sampled[0]).all()
        assert sampled.shape == (500, *variant.action_space.shape)  # type: ignore[misc]
        assert all(variant.action_space.contains(action) for action in sampled)
        if variant is DISCRETE_SAC:
            counts = np.bincount(sampled, minlength=4)
            encoder, start = model.actor.encoder, th.zeros(1, 4)
            latents, _ = encoder.step(*encoder.inputs(th.zeros(1, 2), start), encoder.core.initial_state(1))
            probabilities = th.softmax(model.actor.logits(latents), dim=-1)[0].detach().numpy()
            assert greedy[0] == probabilities.argmax()
            assert np.abs(counts / 500 - probabilities).max() < 0.08
            np.testing.assert_array_equal(state[-1][0], np.eye(4)[sampled])


def test_discrete_actions_are_stored_as_they_are_and_remembered_one_hot() -> None:
    env = make_vec_env(lambda: RandomEnv(spaces.Box(-1, 1, (2,)), spaces.Discrete(4)), 3, seed=0)
    model = RecurrentSAC("MlpLstmPolicy", env, **KWARGS).learn(96)
    actions = model.replay_buffer.rings[0].actions[:32]
    assert (
        model.replay_buffer.rings[0].n_added == 32 and actions.shape == (32, 3, 1) and set(np.unique(actions)) == {0, 1, 2, 3}
    )
    np.testing.assert_array_equal(model.behavior.memory.previous_actions, np.eye(4)[actions[31, :, 0]])
    samples = model._sample_sequences(8)
    inside = samples.mask[:-1] * samples.mask[1:] > 0
    one_hot = th.nn.functional.one_hot(samples.actions[:-1, :, 0].long(), 4).float()
    th.testing.assert_close(samples.previous_actions[1:-1][inside], one_hot[inside])


def test_the_squashed_gaussian_is_sb3s() -> None:
    actor: Any = random_env_model(SAC).actor
    sb3s = SquashedDiagGaussianDistribution(3)
    latents = th.randn(5, 3, actor.encoder.latent_dim)
    mean, log_std, _ = actor._distribution_parameters(latents)
    th.manual_seed(0)
    ours = actor.action_log_prob(latents)
    th.manual_seed(0)
    actions, log_probs = sb3s.log_prob_from_params(mean.flatten(end_dim=1), log_std.flatten(end_dim=1))
    th.testing.assert_close(ours.actions.flatten(end_dim=1), actions)
    th.testing.assert_close(ours.log_probs.flatten(), log_probs, atol=1e-4, rtol=1e-4)
    parameters = [*actor.mu.parameters(), *actor.log_std.parameters()]
    for gradient, expected in zip(
        th.autograd.grad((ours.log_probs.sum() + ours.actions.sum()), parameters),
        th.autograd.grad(log_probs.sum() + actions.sum(), parameters),
        strict=True,
    ):
        th.testing.assert_close(gradient, expected, atol=1e-3, rtol=1e-3)
    for deterministic in (True, False):
        th.manual_seed(0)
        acted = actor(latents[0], deterministic)
        th.manual_seed(0)
        expected = sb3s.actions_from_params(mean[0], log_std[0], deterministic=deterministic)
        th.testing.assert_close(acted, expected)
