"""Impossible settings are errors that name parameter and value, when a model is made and when it is loaded."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3, RecurrentTQC
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from tests.recorder import ACTION_SPACE
from tests.setup import model_on, random_envs

NAN = float("nan")
ALL: list[tuple[str, Any]] = [
    *(("gamma", value) for value in (1.5, -0.5, NAN)),
    *(("tau", value) for value in (2, -1, NAN)),
    *(("overlap_updates", value) for value in (1, "yes", None)),
    *(("reward_scale", value) for value in (np.inf, NAN, 0.0)),
    *(("max_grad_norm", value) for value in (0, -1, NAN, "median")),
    *(("learning_rate", value) for value in (-1e-3, NAN)),
    *(("sequence_length", value) for value in (4.0, 0, "4")),
    *(("burn_in", value) for value in (2.5, -1)),
    *(("batch_size", value) for value in (0, 2.5)),
    *(("n_steps", value) for value in (0, 1.5)),
    *(("gradient_steps", value) for value in (-1.5, "4")),
    ("buffer_size", 0),
]
OWN: dict[type[RecurrentOffPolicyAlgorithm], list[tuple[str, Any]]] = {
    RecurrentTD3: [
        ("preactivation_penalty", NAN),
        ("target_policy_noise", -0.1),
        ("target_noise_clip", NAN),
        ("policy_delay", 0),
    ],
    RecurrentDDPG: [("preactivation_penalty", -1.0)],
    RecurrentSAC: [
        *(("ent_coef", value) for value in (NAN, -1, "auto_nan", "auto_-1")),
        *(("target_entropy", value) for value in (NAN, "auto_inf")),
        ("target_update_interval", 0.5),
    ],
    RecurrentTQC: [("top_quantiles_to_drop_per_net", -1), ("ent_coef", NAN)],
    R2D2: [
        *(("exploration_initial_eps", value) for value in (5, -1, NAN)),
        *(("exploration_final_eps", value) for value in (5, -1)),
        ("exploration_fraction", 1.5),
        *(("exploration_ladder", value) for value in (0.4, (1.4, 7.0), (0.4, -1.0), (NAN, 7.0))),
        *(("priority_alpha", value) for value in (NAN, -0.1)),
        ("priority_eta", 2.0),
        ("importance_beta", NAN),
    ],
}
CASES = [(algorithm, name, value) for algorithm, own in OWN.items() for name, value in [*ALL, *own]]


def make(algorithm: type[RecurrentOffPolicyAlgorithm], **kwargs: Any) -> Any:
    env = random_envs(1, action_space=spaces.Discrete(3) if algorithm is R2D2 else ACTION_SPACE)
    return model_on(env, algorithm, **dict(burn_in=0) | kwargs)


@pytest.mark.parametrize(("algorithm", "name", "value"), CASES)
def test_impossible_settings(algorithm: type[RecurrentOffPolicyAlgorithm], name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}")):
        make(algorithm, **{name: value})


@pytest.mark.parametrize("algorithm", OWN)
def test_impossible_settings_when_loading(algorithm: type[RecurrentOffPolicyAlgorithm], tmp_path: Path) -> None:
    make(algorithm).save(tmp_path / "model")
    for name, value in [*ALL, *OWN[algorithm]]:
        with pytest.raises(ValueError, match=re.escape(f"model cannot be loaded as {algorithm.__name__}: {name}={value!r}")):
            algorithm.load(tmp_path / "model", **{name: value})
    with pytest.raises(ValueError, match=r"load does not know \['burnin'\]; settings that can be replaced: .*'burn_in'"):
        algorithm.load(tmp_path / "model", burnin=3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(sequence_length=0), "sequence_length=0"),
        (dict(burn_in=-1), "burn_in=-1"),
        (dict(n_steps=0), "n_steps=0"),
        (dict(batch_size=0), "batch_size=0"),
        (dict(policy_delay=0), "policy_delay=0"),
        (dict(reward_scale=-1.0), "reward_scale=-1.0 must be a finite number above 0 or 'auto'"),
        (dict(reward_scale="big"), "reward_scale='big'"),
        (
            dict(max_grad_norm="median"),
            "max_grad_norm='median' must be a finite number above 0 or 'auto', or None not to clip",
        ),
        (dict(replay_buffer_class=HerReplayBuffer), "replay_buffer_class=HerReplayBuffer .* leave it None"),
        (dict(replay_buffer_class=ReplayBuffer), "replay_buffer_class=ReplayBuffer"),
        (dict(replay_buffer_kwargs=dict(burn_in=2)), r"\['burn_in'\]: pass them to RecurrentTD3 itself"),
        (dict(policy_kwargs=dict(shared_lstm=True)), "exclude each other"),
        (dict(policy_kwargs=dict(n_lstm_layers=0)), "n_lstm_layers=0 must be at least 1"),
        (dict(train_freq=(1, "epoch")), "must be either 'step' or 'episode'"),
    ],
)
def test_bad_settings(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_on(random_envs(1), **kwargs)


def test_a_buffer_too_small_for_a_sequence() -> None:
    with pytest.raises(ValueError, match="raise buffer_size"):
        model_on(random_envs(1), buffer_size=3)


def test_a_learning_rate_that_turns_bad_later_is_named_too() -> None:
    model = make(RecurrentTD3, learning_rate=lambda progress: 1e-3 if progress > 0.5 else NAN)
    with pytest.raises(ValueError, match="learning_rate=nan"):
        model.learn(100)


def test_actions_that_leave_no_choice() -> None:
    env = random_envs(1, action_space=spaces.Box(np.array([-1.0, 0.5]), np.array([1.0, 0.5]), dtype=np.float64))
    for algorithm in (RecurrentTD3, RecurrentSAC):
        with pytest.raises(ValueError, match="low is not below their high"):
            model_on(env, algorithm)


def test_action_noise_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match=r"action_noise=NormalActionNoise.* gave .*nan"):
        make(RecurrentTD3, action_noise=NormalActionNoise(np.zeros(3), np.full(3, NAN))).learn(10)


@pytest.mark.parametrize("n_steps", [4, 100_000])
def test_more_steps_than_a_sequence_has_are_all_of_them(n_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch as th

    from sb3_recurrent_offpolicy.targets import n_step_targets

    generator = th.Generator().manual_seed(0)
    rewards, values = th.rand(4, 3, generator=generator), th.rand(4, 3, generator=generator)
    additions: list[int] = []
    original = th.Tensor.__add__

    def counted(*args: Any) -> Any:
        additions.append(1)
        return original(*args)

    monkeypatch.setattr(th.Tensor, "__add__", counted)
    targets = n_step_targets(rewards, th.zeros(4, 3), th.ones(4, 3), values, 0.9, n_steps)
    assert len(additions) == 4, "the loop ends with the sequence"
    expected = sum(0.9**k * rewards[k] for k in range(4)) + 0.9**4 * values[3]
    th.testing.assert_close(targets[0], expected)


def test_r2d2_has_no_critic_beside_its_network() -> None:
    for name in ("enable_critic_lstm", "shared_lstm", "n_critics", "share_features_extractor"):
        with pytest.raises(ValueError, match=rf"policy_kwargs has \['{name}'\], which R2D2 does not know"):
            make(R2D2, policy_kwargs={name: True})


def test_a_shared_memory_shares_its_features() -> None:
    shared = dict(shared_lstm=True, enable_critic_lstm=False)
    with pytest.raises(ValueError, match="share_features_extractor=False does not go with shared_lstm=True"):
        make(RecurrentTD3, policy_kwargs=shared | dict(share_features_extractor=False))
    model = make(RecurrentTD3, policy_kwargs=shared)
    assert model.actor.encoder is model.critic.encoder


def test_exploration_without_a_schedule_begins_with_the_final_rate() -> None:
    model = make(R2D2, exploration_fraction=0.0, exploration_final_eps=0.3)
    assert model.exploration_rates() == 0.3
    model.learn(30)
    assert model.exploration_rate == 0.3


def test_few_environments_follow_the_schedule_and_many_the_ladder() -> None:
    for n_envs in (1, 2, 7, 8):
        model = model_on(random_envs(n_envs, action_space=spaces.Discrete(3)), R2D2, burn_in=0, exploration_initial_eps=0.6)
        expected = 0.4 ** (1 + np.arange(8)) if n_envs == 8 else np.full(n_envs, 0.6)
        np.testing.assert_allclose(model.exploration_rates(), expected)
