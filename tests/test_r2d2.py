"""R2D2: its loss as a loop over single steps, SB3's DQN without memory, exploration, initial priorities."""

import pathlib
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn

from sb3_recurrent_offpolicy import R2D2
from sb3_recurrent_offpolicy.cores import NoCore
from sb3_recurrent_offpolicy.targets import rescale_values, unrescale_values
from tests.envs import RandomEnv
from tests.models import PLAIN, Q_LEARNING, latents_step_by_step, losses, n_step_target, random_env_model
from tests.recorder import OBSERVATION_SPACE
from tests.setup import KWARGS

N_ACTIONS = 4


def envs(n_envs: int, lengths: tuple[int, ...] = (7, 1, 12, 5)) -> Any:
    return make_vec_env(lambda: RandomEnv(OBSERVATION_SPACE, spaces.Discrete(N_ACTIONS), lengths), n_envs, seed=0)


def make_model(n_envs: int = 3, **kwargs: Any) -> R2D2:
    return R2D2("MlpLstmPolicy", envs(n_envs), **KWARGS | dict(priority_alpha=0.9) | kwargs)


def loss_step_by_step(model: R2D2, samples: Any) -> tuple[float, np.ndarray]:
    """R2D2 written out for single rows and steps: the loss, and the absolute error of each step."""
    rescale, unrescale = (
        (rescale_values, unrescale_values) if model.value_rescaling else (lambda value: value, lambda value: value)
    )
    terms, errors = [], np.full(samples.mask.shape, np.nan)
    for row in range(samples.mask.shape[1]):
        latents = latents_step_by_step(model.q_net.encoder, samples, samples.initial_states.pi, row)
        target_latents = latents_step_by_step(model.q_net_target.encoder, samples, samples.initial_states.pi, row)

        def next_value(t: int, latents: th.Tensor = latents, target_latents: th.Tensor = target_latents) -> float:
            values = unrescale(model.q_net_target.q_values(target_latents[t][None])[0])
            if model.munchausen_scale > 0:
                policy = (values / model.munchausen_temperature).softmax(dim=-1)
                return float((policy * (values - model.munchausen_temperature * policy.log())).sum())
            return values[model.q_net.q_values(latents[t][None])[0].argmax()].item()

        def bonus(t: int, row: int = row, target_latents: th.Tensor = target_latents) -> float:
            values = unrescale(model.q_net_target.q_values(target_latents[t][None])[0])
            log_policy = (values / model.munchausen_temperature).log_softmax(dim=-1)
            taken = model.munchausen_temperature * float(log_policy[int(samples.actions[t, row])])
            return model.munchausen_scale * max(taken, -1.0)

        for t in range(int(samples.mask[:, row].sum())):
            target = rescale(th.tensor(n_step_target(model, samples, row, t, next_value) + bonus(t))).item()
            errors[t, row] = abs(model.q_net.q_values(latents[t][None])[0, int(samples.actions[t, row])].item() - target)
            terms.append(0.5 * samples.weights[row].item() * errors[t, row] ** 2)
    return float(np.mean(terms)), errors


@pytest.mark.parametrize("n_steps", [1, 3, 5])
@pytest.mark.parametrize("burn_in", [0, 3])
@pytest.mark.parametrize("value_rescaling", [True, False])
@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize("munchausen_scale", [0.0, 0.9])
def test_loss_and_priorities_equal_single_steps(
    n_steps: int,
    burn_in: int,
    value_rescaling: bool,
    dueling: bool,
    munchausen_scale: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_env_model(
        Q_LEARNING,
        n_steps=n_steps,
        burn_in=burn_in,
        value_rescaling=value_rescaling,
        priority_alpha=0.9,
        importance_beta=0.6,
        munchausen_scale=munchausen_scale,
        munchausen_temperature=0.1,
        policy_kwargs=dict(dueling=dueling),
    )
    samples: Any = model._sample_sequences(17)
    assert (samples.burn_in is not None) == (burn_in > 0)
    assert samples.mask.sum() < samples.mask.numel() and samples.terminated.any()
    assert len(samples.weights.unique()) > 1
    loss, errors = loss_step_by_step(model, samples)
    assert losses(model, samples, monkeypatch).q_net == pytest.approx(loss, rel=1e-4)

    monkeypatch.setattr(model, "_sample_sequences", lambda batch_size: samples)
    model.train(1, 17)
    times, env = np.divmod(samples.indices, 3)
    recorded = model.replay_buffer.priorities[0].errors
    for t, row in zip(*np.nonzero(samples.mask.numpy()), strict=True):
        # A step in two rows keeps one of their errors
        rivals = [
            errors[s, r]
            for s, r in zip(*np.nonzero(samples.mask.numpy()), strict=True)
            if times[r] + s == times[row] + t and env[r] == env[row]
        ]
        assert np.isclose(rivals, recorded[times[row] + t, env[row]], rtol=1e-3, atol=1e-5).any()


def test_without_memory_it_is_sb3s_dqn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences of length 1 and a core that remembers nothing; as long as the target network is a copy, double Q is Q."""
    common: dict[str, Any] = dict(
        learning_rate=3e-3, gamma=0.9, seed=0, device="cpu", learning_starts=10**6, max_grad_norm=0.05
    )
    recurrent = R2D2(
        "MlpLstmPolicy",
        make_vec_env("CartPole-v1", 2),
        sequence_length=1,
        burn_in=0,
        n_steps=1,
        value_rescaling=False,
        munchausen_scale=0.0,
        priority_alpha=0.0,
        policy_kwargs=PLAIN | dict(net_arch=[16, 12], core_class=NoCore, dueling=False, optimizer_kwargs=dict(eps=1e-8)),
        **common,
    ).learn(600)
    plain = DQN("MlpPolicy", make_vec_env("CartPole-v1", 2), policy_kwargs=dict(net_arch=[16, 12]), **common)
    for name in ("q_net", "q_net_target"):
        for parameter, weight in zip(getattr(plain, name).parameters(), recurrent.q_net.parameters(), strict=True):
            parameter.data.copy_(weight.data)
    samples: Any = recurrent._sample_sequences(24)
    # Small errors: SB3's Huber loss is quadratic there
    samples = samples._replace(rewards=0.1 * samples.rewards)
    transitions = ReplayBufferSamples(
        samples.observations[0], samples.actions[0].long(), samples.observations[1], samples.terminated.T, samples.rewards.T
    )
    monkeypatch.setattr(recurrent, "_sample_sequences", lambda batch_size: samples)
    monkeypatch.setattr(ReplayBuffer, "sample", lambda *args, **kwargs: transitions)
    plain.set_logger(configure(None, []))
    for model in (recurrent, plain):
        model.train(1, 24)
    assert recurrent.logger.name_to_value["train/loss"] == pytest.approx(plain.logger.name_to_value["train/loss"], rel=1e-5)
    for a, b in zip(recurrent.q_net.parameters(), plain.q_net.parameters(), strict=True):
        th.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_dueling_heads_are_identifiable() -> None:
    """The mean over actions is the value: a constant moved from one head to the other does not go unnoticed."""
    model = make_model()
    latents = th.randn(5, 2, model.q_net.encoder.latent_dim)
    with th.no_grad():
        q_values = model.q_net.q_values(latents)
        assert isinstance(model.q_net.value, nn.Module)
        th.testing.assert_close(q_values.mean(dim=-1, keepdim=True), model.q_net.value(latents))
        model.q_net.advantages[-1].bias.add_(3.0)  # type: ignore[operator]
        th.testing.assert_close(model.q_net.q_values(latents), q_values)
        model.q_net.value[-1].bias.add_(3.0)  # type: ignore[operator]
        th.testing.assert_close(model.q_net.q_values(latents), q_values + 3.0)


def test_recurrent_calls_and_target_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_env_model(Q_LEARNING, tau=1.0, target_update_interval=3)
    calls = []
    original = th.lstm

    def counted(*args: Any) -> Any:
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(th, "lstm", counted)
    targets = [parameter.clone() for parameter in model.policy.targets.parameters]
    model.train(2, 8)
    assert len(calls) == 4 and all(map(th.equal, model.policy.targets.parameters, targets))
    model.train(1, 8)
    assert all(map(th.equal, model.policy.targets.parameters, model.policy.targets.followed))
    assert not any(parameter.requires_grad for parameter in model.policy.targets.parameters)


# ----------------------------------------------------------------- exploration


def test_one_environment_follows_the_schedule() -> None:
    model = make_model(1, exploration_fraction=0.5, exploration_initial_eps=0.8, exploration_final_eps=0.2)
    for remaining, rate in ((1.0, 0.8), (0.75, 0.5), (0.5, 0.2), (0.0, 0.2)):
        model._current_progress_remaining = remaining
        np.testing.assert_allclose(model.exploration_rates(), [rate])
    model = make_model(3, exploration_ladder=None, exploration_initial_eps=0.8)
    np.testing.assert_allclose(model.exploration_rates(), [0.8] * 3)


def test_the_rate_is_logged() -> None:
    model = make_model(8, exploration_ladder=(0.5, 1.0)).learn(8)
    mean = float(np.mean(0.5 ** (1 + np.arange(8) / 7)))
    assert model.logger.name_to_value["rollout/exploration_rate"] == model.exploration_rate == pytest.approx(mean)


def test_several_environments_form_a_ladder() -> None:
    """Rates, and how often each environment deviates from the best action, with random numbers of its own."""
    model = make_model(8, exploration_ladder=(0.4, 7.0))
    rates = 0.4 ** (1 + np.arange(8))
    np.testing.assert_allclose(model.exploration_rates(), rates)
    greedy, explore = np.zeros(8, dtype=int), model.behavior.epsilon_greedy
    assert explore is not None
    deviates = np.array([explore(greedy, rates) != greedy for _ in range(20_000)])
    # One in four random actions is the best one
    np.testing.assert_allclose(deviates.mean(axis=0), rates * 3 / 4, rtol=0.15, atol=2e-3)
    together = (deviates[:, 0] & deviates[:, 1]).mean()
    assert together == pytest.approx(deviates[:, 0].mean() * deviates[:, 1].mean(), rel=0.3)


def test_random_actions_are_remembered() -> None:
    """In ``predict`` too, the previous action is the one that was taken."""
    model = make_model(1)
    assert model.exploration_rate == 0.0, "as in SB3's DQN, before training"
    model.exploration_rate = 1.0
    observations = np.zeros((400, 2), dtype=np.float32)
    actions, state = model.predict(observations, deterministic=False)
    assert state is not None and set(actions.tolist()) == set(range(N_ACTIONS))
    np.testing.assert_array_equal(state[-1][0], np.eye(N_ACTIONS)[actions])
    greedy, state = model.predict(observations, deterministic=True)
    assert state is not None and len(set(greedy.tolist())) == 1
    action, _ = model.predict(observations[0], deterministic=False)
    assert action.shape == ()
    model.exploration_rate = 0.0
    assert model.predict(observations[0], deterministic=False)[0] == greedy[0]


# ---------------------------------------------------------- initial priorities


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("value_rescaling", [True, False])
@pytest.mark.parametrize("munchausen_scale", [0.0, 0.9])
def test_initial_priorities_are_the_actors_own_errors(n_envs: int, value_rescaling: bool, munchausen_scale: float) -> None:
    temperature = 0.1
    model = make_model(
        n_envs,
        gradient_steps=0,
        value_rescaling=value_rescaling,
        munchausen_scale=munchausen_scale,
        munchausen_temperature=temperature,
        gamma=0.9,
        reward_scale=0.5,
        train_freq=1,
    )
    model.learn(30 * n_envs)
    # A reset in mid-episode, without a done
    model.learn(30 * n_envs)
    buffer = model.replay_buffer
    priorities = buffer.priorities[0]
    assert priorities is not None and buffer.rings[0].n_added == 60
    rescale = rescale_values if value_rescaling else (lambda values: values)
    unrescale = unrescale_values if value_rescaling else (lambda values: values)
    for env in range(n_envs):
        q_values, state = [], model.policy.initial_states(1).pi
        for t in range(60):
            previous = th.zeros(1, N_ACTIONS)
            if buffer.rings[0].episode_steps[t, env] == 0:
                state = model.policy.initial_states(1).pi
            else:
                previous[0, int(buffer.rings[0].actions[t - 1, env, 0])] = 1.0
            with th.no_grad():
                step = model.policy(th.as_tensor(buffer.rings[0].observations[t, env][None]), state, previous)
            state = step.state
            q_values.append(step.q_values[0])
        for t in range(59):
            ended = buffer.rings[0].episode_steps[t + 1, env] == 0
            action = int(buffer.rings[0].actions[t, env, 0])
            next_returns = unrescale(q_values[t if ended else t + 1])
            next_value, bonus = next_returns.max(), th.tensor(0.0)
            if munchausen_scale:
                next_value = temperature * (next_returns / temperature).logsumexp(dim=-1)
                log_policy = (unrescale(q_values[t]) / temperature).log_softmax(dim=-1)[action]
                bonus = munchausen_scale * (temperature * log_policy).clamp(min=-1.0)
            bootstrap = 0.0 if buffer.rings[0].terminated[t, env] else 0.9 * next_value
            target = rescale(0.5 * th.tensor(float(buffer.rings[0].rewards[t, env])) + bonus + bootstrap)
            expected = (target - q_values[t][action]).abs()
            assert priorities.errors[t, env] == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
        assert np.isnan(priorities.errors[59, env]), "not known yet"


def test_a_loaded_buffer_keeps_its_priorities(tmp_path: pathlib.Path) -> None:
    model = make_model(2).learn(200)
    model.save_replay_buffer(tmp_path / "buffer")
    saved = model.replay_buffer.priorities[0]
    assert saved is not None
    model.learn(50, reset_num_timesteps=False)
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    loaded = model.replay_buffer.priorities[0]
    assert loaded is not None
    n_added = model.replay_buffer.rings[0].n_added
    before = loaded.errors.copy()
    # What the model did last is not in this buffer
    model.gradient_steps = 0
    model.learn(8, reset_num_timesteps=False)
    np.testing.assert_array_equal(model.replay_buffer.priorities[0].errors[: n_added - 1], before[: n_added - 1])


# -------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(target_update_interval=0), "target_update_interval=0 must be at least 1"),
        (dict(exploration_ladder=(1.4, 7.0)), r"exploration_ladder=\(1.4, 7.0\) must be"),
        (dict(priority_eta=2.0), "priority_eta=2.0"),
        (dict(munchausen_scale=1.5), "munchausen_scale=1.5"),
        (dict(munchausen_temperature=0.0), "munchausen_temperature=0.0 must be a finite number above 0 .munchausen_scale=0"),
        (dict(munchausen_temperature=float("inf")), "munchausen_temperature=inf must be a finite number above 0"),
        (dict(sequence_length=None), "choose a sequence_length, or priority_alpha=0"),
        (dict(policy_kwargs=dict(net_arch=dict(pi=[4], qf=[4]))), "must be a list"),
        (dict(replay_buffer_kwargs=dict(priority_alpha=0.5)), r"\['priority_alpha'\]: pass them to R2D2 itself"),
    ],
)
def test_bad_settings(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(1, **kwargs)


def test_only_discrete_actions() -> None:
    with pytest.raises(AssertionError, match="only supports"):
        R2D2("MlpLstmPolicy", "Pendulum-v1")


def test_settings_can_be_changed_when_loading(tmp_path: pathlib.Path) -> None:
    make_model(2).learn(100).save(tmp_path / "model")
    loaded = R2D2.load(tmp_path / "model", env=envs(2), priority_alpha=0.5, exploration_final_eps=0.3)
    assert loaded.replay_buffer.priority_alpha == 0.5 and loaded.exploration_schedule(0.0) == 0.3
    loaded.learn(60)
