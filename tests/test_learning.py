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

from sb3_recurrent_offpolicy import RecurrentDDPG, RecurrentTD3
from tests.envs import RandomEnv, RecallEnv
from tests.recorder import ACTION_SPACE, OBSERVATION_SPACE

RECALL: dict[str, Any] = dict(
    sequence_length=6,
    batch_size=32,
    gamma=0.8,
    tau=0.02,
    learning_starts=200,
    policy_kwargs=dict(lstm_hidden_size=32, net_arch=[32]),
    device="cpu",
    seed=0,
)


@pytest.mark.parametrize(
    ("algorithm", "reward_factor"), [(RecurrentTD3, 1.0), (RecurrentTD3, 1e-4), (RecurrentDDPG, 1.0), (RecurrentDDPG, 1e4)]
)
def test_recalls_the_first_observation(algorithm: type[RecurrentTD3], reward_factor: float) -> None:
    """The best without memory is -1.8 an episode; at any size of the rewards, with the same settings."""
    th.set_num_threads(1)
    env = make_vec_env(RecallEnv, 4, seed=0, env_kwargs=dict(reward_factor=reward_factor))
    noise = NormalActionNoise(np.zeros(1), 0.2 * np.ones(1))
    model = algorithm("MlpLstmPolicy", env, action_noise=noise, **RECALL).learn(3_000)
    test_env = make_vec_env(RecallEnv, 4, seed=99)
    mean, _ = evaluate_policy(model, test_env, n_eval_episodes=40)
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
    model.replay_buffer.rewards[:] = model.replay_buffer.actions.sum(axis=-1)
    model._update_learning_rate([model.actor.optimizer, model.critic.optimizer])
    model.train(600, 8)
    samples = model._sample_sequences(32)
    with th.no_grad():
        preactivations = model.actor.mu(model.actor.encode(samples, model.critic.encode(samples)))
    # Below about 4 a float32 tanh still passes a gradient of more than one thousandth
    assert (preactivations.abs().median() > 4) == saturated


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["recurrent_td3", "recurrent_ddpg"])
def test_pendulum_without_velocity(algo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed of ``benchmarks/learning.py``, four minutes each; the committed results hold the others."""
    import benchmarks.learning as learning

    monkeypatch.setattr(learning, "RESULTS", tmp_path)
    th.set_num_threads(1)
    learning.run(algo, seed=3)
    result = json.loads((tmp_path / f"{algo}_3.json").read_text())
    assert result["mean"] > (-180 if algo == "recurrent_td3" else -220)
    assert result["mean_with_memory_zeroed"] < -700
