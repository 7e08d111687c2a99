"""Saved zips: what is restored, what can be changed when loading, and what is refused."""

import pathlib
import zipfile
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import recursive_getattr, save_to_pkl

from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from tests.recorder import ACTION_SPACE, OBSERVATION_SPACE
from tests.test_algorithm import KWARGS, model_on, noise, random_envs
from tests.test_policies import observations, roll


@pytest.mark.parametrize("algorithm", [RecurrentTD3, RecurrentDDPG, RecurrentSAC, R2D2])
@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "MlpGruPolicy"])
@pytest.mark.parametrize("policy_kwargs", [{}, dict(shared_lstm=True, enable_critic_lstm=False, n_lstm_layers=2)])
def test_a_loaded_model_acts_and_learns_on(
    algorithm: type[RecurrentOffPolicyAlgorithm], policy: str, policy_kwargs: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    kwargs = KWARGS | dict(policy_kwargs=KWARGS["policy_kwargs"] | policy_kwargs)
    if algorithm is R2D2:
        action_space: spaces.Space = spaces.Discrete(3)
        kwargs |= dict(burn_in=2, policy_kwargs=KWARGS["policy_kwargs"] | dict(dueling=not policy_kwargs))
    else:
        action_space = ACTION_SPACE
        kwargs["action_noise"] = noise()
    model: Any = algorithm(policy, random_envs(2, action_space=action_space), **kwargs).learn(100)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model")
    stream = observations(6, 3)
    np.testing.assert_array_equal(roll(model.policy, stream), roll(loaded.policy, stream))
    assert loaded.num_timesteps == 104 and loaded._n_updates == model._n_updates
    for name in algorithm.optimizer_names:
        state, loaded_state = (recursive_getattr(each, name).state_dict() for each in (model, loaded))
        for key, values in state["state"].items():
            assert all(th.equal(value, loaded_state["state"][key][field]) for field, value in values.items())

    # Also with another number of environments, any number of times
    for n_envs in (2, 3, 1):
        again = algorithm.load(tmp_path / "model", env=random_envs(n_envs, action_space=action_space))
        again.learn(60, reset_num_timesteps=False)
        assert again.num_timesteps >= 164 and again._n_updates > model._n_updates
        assert again.replay_buffer.n_envs == len(again._last_previous_actions) == n_envs


def test_a_shared_memory_stays_one_when_a_run_continues_from_disk(tmp_path: pathlib.Path) -> None:
    env = random_envs(2, (40,), action_space=spaces.Discrete(3))
    model = model_on(env, R2D2, burn_in=0).learn(30)
    model.save(tmp_path / "model")
    loaded = R2D2.load(tmp_path / "model", env=env, force_reset=False)
    assert loaded._last_lstm_states.vf is loaded._last_lstm_states.pi
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.replay_buffer.states.shape[2] == loaded.policy.state_size == 10


def test_evaluation_claims_no_memory(tmp_path: pathlib.Path) -> None:
    model_on(random_envs(1), buffer_size=10**9).save(tmp_path / "model")
    loaded = RecurrentTD3.load(tmp_path / "model")
    assert not loaded.replay_buffer.allocated
    loaded.predict(np.zeros(2, dtype=np.float32))
    RecurrentTD3.load(tmp_path / "model", buffer_size=1)


def test_settings_can_be_changed_when_loading(tmp_path: pathlib.Path) -> None:
    model_on(random_envs(1), burn_in=1).save(tmp_path / "model")
    loaded = RecurrentTD3.load(
        tmp_path / "model", env=random_envs(1), burn_in=3, sequence_length=6, n_steps=4, state_init="zero"
    )
    buffer = loaded.replay_buffer
    assert (buffer.burn_in, buffer.sequence_length, buffer.state_init, loaded.n_steps) == (3, 6, "zero", 4)
    loaded.learn(40)
    for bad in (dict(n_steps=0), dict(reward_scale=-1.0), dict(policy_delay=0), dict(burn_in=-1)):
        ((name, value),) = bad.items()
        with pytest.raises(ValueError, match=f"{name}={value} must"):
            RecurrentTD3.load(tmp_path / "model", **bad)


def test_the_memory_of_the_running_episode_need_not_be_saved(tmp_path: pathlib.Path) -> None:
    model = model_on(random_envs(2)).learn(30)
    model.save(tmp_path / "model", exclude=["_last_lstm_states"])
    loaded = RecurrentTD3.load(tmp_path / "model", env=random_envs(2))
    assert not any(array.any() for array in loaded._last_lstm_states.pi)
    loaded.learn(20, reset_num_timesteps=False)


def test_a_run_continued_from_disk_is_the_run(tmp_path: pathlib.Path) -> None:
    """Model and replay buffer saved in mid-episode and loaded with the running environment: memory goes on."""
    env = random_envs(2, (40,))
    model = model_on(env, learning_starts=1000, train_freq=1).learn(30)
    model.save(tmp_path / "model")
    loaded = RecurrentTD3.load(tmp_path / "model", env=env, force_reset=False)
    for a, b in zip(
        th.utils._pytree.tree_leaves(model._last_lstm_states),
        th.utils._pytree.tree_leaves(loaded._last_lstm_states),
        strict=True,
    ):
        assert th.equal(a, b)
    assert th.equal(model._last_previous_actions, loaded._last_previous_actions)
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.replay_buffer.episode_steps[0, 0] == 1, "not a new episode for a buffer that did not see it begin"


def test_replay_buffer(tmp_path: pathlib.Path) -> None:
    model = model_on(random_envs(2)).learn(100)
    model.save_replay_buffer(tmp_path / "buffer")
    other = model_on(random_envs(2))
    other.load_replay_buffer(tmp_path / "buffer.pkl")
    batches = []
    for each in (model, other):
        np.random.seed(0)
        batches.append(each.replay_buffer.sample(8))
    for a, b in zip(*map(th.utils._pytree.tree_leaves, batches), strict=True):
        np.testing.assert_array_equal(a, b)
    other.learn(50, reset_num_timesteps=False)
    size = model.replay_buffer.size()
    np.testing.assert_array_equal(other.replay_buffer.episode_steps[size], 0)

    # In the middle of a run: what is added next does not continue the loaded buffer's last episode
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    model.learn(50, reset_num_timesteps=False)
    np.testing.assert_array_equal(model.replay_buffer.episode_steps[size], 0)


def test_foreign_replay_buffers_leave_ours_in_place(tmp_path: pathlib.Path) -> None:
    model = model_on(random_envs(2)).learn(40)
    ours = model.replay_buffer
    save_to_pkl(tmp_path / "plain.pkl", ReplayBuffer(10, OBSERVATION_SPACE, model.action_space, n_envs=2))
    with pytest.raises(ValueError, match="holds a ReplayBuffer, not a RecurrentSequenceReplayBuffer"):
        model.load_replay_buffer(tmp_path / "plain.pkl")
    model_on(random_envs(3)).save_replay_buffer(tmp_path / "three.pkl")
    with pytest.raises(ValueError, match="n_envs=3, this model has n_envs=2"):
        model.load_replay_buffer(tmp_path / "three.pkl")
    save_to_pkl(tmp_path / "text.pkl", "text")
    with pytest.raises(ValueError, match="holds a str"):
        model.load_replay_buffer(tmp_path / "text.pkl")
    kwargs: dict[str, Any]
    for kwargs, message in (
        (dict(sequence_length=6), "sequence_length=6, this model has sequence_length=4.*or go on without it"),
        (dict(burn_in=1), "burn_in=1, this model has burn_in=0"),
        (dict(replay_buffer_kwargs=dict(priority_alpha=0.5)), r"priority_alpha=0\.5, this model has priority_alpha=0\.0"),
        (dict(policy_kwargs=dict(lstm_hidden_size=8)), "a policy with another memory"),
    ):
        model_on(random_envs(2), **kwargs).learn(41).save_replay_buffer(tmp_path / "other.pkl")
        with pytest.raises(ValueError, match=message):
            model.load_replay_buffer(tmp_path / "other.pkl")
    assert model.replay_buffer is ours
    model.learn(10, reset_num_timesteps=False)


def test_set_parameters(tmp_path: pathlib.Path) -> None:
    model, other = model_on(random_envs(1)), model_on(random_envs(1), seed=7)
    stream = observations(4, 2)
    assert not np.allclose(roll(model.policy, stream), roll(other.policy, stream))
    parameters: Any = model.get_parameters()
    other.set_parameters(parameters)
    np.testing.assert_array_equal(roll(model.policy, stream), roll(other.policy, stream))
    model.save(tmp_path / "model")
    other.set_parameters(str(tmp_path / "model"), exact_match=True)
    with pytest.raises(ValueError, match="do not match"):
        other.set_parameters({"policy": parameters["policy"]}, exact_match=True)


def test_foreign_zips(tmp_path: pathlib.Path) -> None:
    TD3("MlpPolicy", "Pendulum-v1", buffer_size=10).save(tmp_path / "td3")
    RecurrentPPO("MlpLstmPolicy", "Pendulum-v1").save(tmp_path / "ppo")
    for name in ("td3", "ppo"):
        with pytest.raises(ValueError, match=r"is no policy of RecurrentTD3.*loaded by the class that saved it"):
            RecurrentTD3.load(tmp_path / name)
    model_on(random_envs(1)).save(tmp_path / "ours")
    with pytest.raises(ValueError, match="RecurrentTD3Policy is no policy of RecurrentSAC"):
        RecurrentSAC.load(tmp_path / "ours")
    with pytest.raises(ValueError, match=r"ours cannot be loaded as R2D2: .*only supports"):
        R2D2.load(tmp_path / "ours", env=random_envs(1))


def test_corrupted_zips(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.zip"
    model_on(random_envs(1)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model\.zip"):
        RecurrentTD3.load(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"model\.zip"):
        RecurrentTD3.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("something", "else")
    with pytest.raises(ValueError, match=r"model\.zip"):
        RecurrentTD3.load(path)
    with pytest.raises(FileNotFoundError):
        RecurrentTD3.load(tmp_path / "missing")
