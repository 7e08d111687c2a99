"""What cannot be done without memory is learned; seconds in CI, minutes where marked slow."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise

from benchmarks.learning import run
from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3, RecurrentTQC
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from tests.envs import RandomEnv, RecallEnv
from tests.recorder import ACTION_SPACE, OBSERVATION_SPACE

RECALL: dict[str, Any] = dict(
    sequence_length=6,
    batch_size=32,
    gamma=0.8,
    learning_starts=200,
    policy_kwargs=dict(lstm_hidden_size=32, net_arch=[32]),
    device="cpu",
    seed=0,
)


@pytest.mark.parametrize(
    ("algorithm", "reward_factor", "discrete"),
    [
        (RecurrentTD3, 1.0, False),
        (RecurrentTD3, 1e-4, False),
        (RecurrentDDPG, 1.0, False),
        (RecurrentDDPG, 1e4, False),
        (RecurrentSAC, 1.0, False),
        (RecurrentSAC, 1e4, False),
        (RecurrentSAC, 1e-4, True),
        (RecurrentTQC, 1.0, False),
        (R2D2, 1.0, True),
    ],
)
def test_recalls_the_first_observation(
    algorithm: type[RecurrentOffPolicyAlgorithm], reward_factor: float, discrete: bool
) -> None:
    """At any size of the rewards, with the same settings. The best without memory is -1.8 an episode, -3.6 if discrete."""
    th.set_num_threads(1)
    env = make_vec_env(RecallEnv, 4, seed=0, env_kwargs=dict(reward_factor=reward_factor, discrete=discrete))
    settings: dict[str, Any] = dict(learning_rate=1e-3, tau=0.02)
    if algorithm is R2D2:
        settings |= dict(burn_in=0, train_freq=1)
    elif algorithm not in (RecurrentSAC, RecurrentTQC):
        settings["action_noise"] = NormalActionNoise(np.zeros(1), 0.2 * np.ones(1))
    model = algorithm("MlpLstmPolicy", env, **RECALL | settings).learn(3_000)
    test_env = make_vec_env(RecallEnv, 4, seed=99, env_kwargs=dict(discrete=discrete))
    mean, _ = evaluate_policy(model, test_env, n_eval_episodes=40, deterministic=True)
    assert isinstance(mean, float) and mean > -0.9

    observations: Any = test_env.reset()
    returns = np.zeros(4)
    for _ in range(60):
        actions, _ = model.predict(observations, deterministic=True)
        observations, rewards, _, _ = test_env.step(actions)
        returns += rewards
    assert returns.mean() / 10 < -1.5, "the same model without its memory"


@pytest.mark.parametrize(("penalty", "saturated"), [(0.0, True), (None, False)])
def test_the_actor_does_not_saturate(penalty: float | None, saturated: bool) -> None:
    """Where the critic always wants more, an actor without penalty ends at the bounds, where no gradient brings it back."""
    settings: dict[str, Any] = {} if penalty is None else dict(preactivation_penalty=penalty)
    env = make_vec_env(lambda: RandomEnv(OBSERVATION_SPACE, ACTION_SPACE, lengths=(20,)), 2, seed=0)
    policy_kwargs = dict(lstm_hidden_size=8, net_arch=[16])
    model = RecurrentTD3("MlpLstmPolicy", env, learning_starts=10**6, seed=0, policy_kwargs=policy_kwargs, **settings)
    model.learn(400)
    # A reward that grows with the action
    model.replay_buffer.rings[0].rewards[:] = model.replay_buffer.rings[0].actions.sum(axis=-1)
    model._update_learning_rate([model.actor.optimizer, model.critic.optimizer])
    model.train(600, 8)
    samples = model._sample_sequences(32)
    with th.no_grad():
        preactivations = model.actor.mu(model.actor.encode(samples, model.critic.encode(samples)).latents)
    # Below about 4 a float32 tanh still passes a gradient of more than one thousandth
    assert (preactivations.abs().median() > 4) == saturated


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["recurrent_td3", "recurrent_ddpg", "recurrent_sac", "recurrent_tqc"])
def test_pendulum_without_velocity(algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed of ``benchmarks.learning``, four minutes each; the committed results hold the others."""
    th.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    run(algo, "PendulumNoVel-v1", seed=3, folder=tmp_path)
    result = json.loads((tmp_path / "PendulumNoVel-v1" / f"{algo}_3.json").read_text())
    assert result["mean"] > (-220 if algo == "recurrent_ddpg" else -180)
    assert result["mean_with_memory_zeroed"] < -700


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["MemoryLength-v0", "popgym-RepeatPreviousEasy-v0"])
def test_a_cue_is_remembered(env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, one to two minutes each."""
    th.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    run("r2d2", env_id, seed=3, folder=tmp_path)
    result = json.loads((tmp_path / env_id / "r2d2_3.json").read_text())
    assert result["mean"] > 0.9
    assert result["mean_with_memory_zeroed"] < 0.3
