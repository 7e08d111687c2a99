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

from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3, RecurrentTQC
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from tests.recorder import ACTION_SPACE, OBSERVATION_SPACE
from tests.setup import KWARGS, model_on, noise, random_envs
from tests.test_policies import observations, roll


@pytest.mark.parametrize("algorithm", [RecurrentTD3, RecurrentDDPG, RecurrentSAC, RecurrentTQC, R2D2])
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
        assert again.replay_buffer.n_envs == len(again.behavior.memory.previous_actions) == n_envs


def test_a_shared_memory_stays_one_when_a_run_continues_from_disk(tmp_path: pathlib.Path) -> None:
    env = random_envs(2, (40,), action_space=spaces.Discrete(3))
    model = model_on(env, R2D2, burn_in=0).learn(30)
    model.save(tmp_path / "model")
    loaded = R2D2.load(tmp_path / "model", env=env, force_reset=False)
    assert loaded.behavior.memory.lstm_states.vf is loaded.behavior.memory.lstm_states.pi
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.replay_buffer.rings[0].states.shape[2] == loaded.policy.state_size == 10


def test_evaluation_claims_no_memory(tmp_path: pathlib.Path) -> None:
    model_on(random_envs(1), buffer_size=10**9).save(tmp_path / "model")
    loaded = RecurrentTD3.load(tmp_path / "model")
    assert not loaded.replay_buffer.rings[0].allocated
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
    model.save(tmp_path / "model", exclude=["_saved_memory"])
    loaded = RecurrentTD3.load(tmp_path / "model", env=random_envs(2))
    assert not any(array.any() for array in loaded.behavior.memory.lstm_states.pi)
    loaded.learn(20, reset_num_timesteps=False)


def test_a_run_continued_from_disk_is_the_run(tmp_path: pathlib.Path) -> None:
    """Model and replay buffer saved in mid-episode and loaded with the running environment: memory goes on."""
    env = random_envs(2, (40,))
    model = model_on(env, learning_starts=1000, train_freq=1).learn(30)
    model.save(tmp_path / "model")
    loaded = RecurrentTD3.load(tmp_path / "model", env=env, force_reset=False)
    for a, b in zip(
        th.utils._pytree.tree_leaves(model.behavior.memory.lstm_states),
        th.utils._pytree.tree_leaves(loaded.behavior.memory.lstm_states),
        strict=True,
    ):
        assert th.equal(a, b)
    assert th.equal(model.behavior.memory.previous_actions, loaded.behavior.memory.previous_actions)
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.replay_buffer.rings[0].episode_steps[0, 0] == 1, "not a new episode for a buffer that did not see it begin"


def test_replay_buffer(tmp_path: pathlib.Path) -> None:
    model = model_on(random_envs(2)).learn(100)
    model.save_replay_buffer(tmp_path / "buffer")
    other = model_on(random_envs(2))
    other.load_replay_buffer(tmp_path / "buffer.pkl")
    batches = []
    for each in (model, other):
        each.replay_buffer.seed(0)
        batches.append(each.replay_buffer.sample(8))
    for a, b in zip(*map(th.utils._pytree.tree_leaves, batches), strict=True):
        np.testing.assert_array_equal(a, b)
    other.learn(50, reset_num_timesteps=False)
    size = model.replay_buffer.size()
    np.testing.assert_array_equal(other.replay_buffer.rings[0].episode_steps[size], 0)

    # In the middle of a run: what is added next does not continue the loaded buffer's last episode
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    model.learn(50, reset_num_timesteps=False)
    np.testing.assert_array_equal(model.replay_buffer.rings[0].episode_steps[size], 0)


def test_foreign_replay_buffers_leave_ours_in_place(tmp_path: pathlib.Path) -> None:
    model = model_on(random_envs(2)).learn(40)
    ours = model.replay_buffer
    save_to_pkl(tmp_path / "plain.pkl", ReplayBuffer(10, OBSERVATION_SPACE, model.action_space, n_envs=2))
    with pytest.raises(ValueError, match=r"plain\.pkl cannot be read: it is no replay buffer.*collect again"):
        model.load_replay_buffer(tmp_path / "plain.pkl")
    model_on(random_envs(3)).save_replay_buffer(tmp_path / "three.pkl")
    with pytest.raises(ValueError, match="n_envs=3, this model has n_envs=2"):
        model.load_replay_buffer(tmp_path / "three.pkl")
    save_to_pkl(tmp_path / "text.pkl", "text")
    with pytest.raises(ValueError, match=r"text\.pkl cannot be read: it is no replay buffer"):
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
        with pytest.raises(ValueError, match=r"cannot be loaded as RecurrentTD3: policy=.*loaded by the class that saved it"):
            RecurrentTD3.load(tmp_path / name)
    model_on(random_envs(1)).save(tmp_path / "ours")
    for other in (RecurrentSAC, RecurrentDDPG):
        with pytest.raises(ValueError, match=rf"ours cannot be loaded as {other.__name__}: it was saved by RecurrentTD3: use"):
            other.load(tmp_path / "ours")
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


def test_replay_buffers_of_other_size_or_other_kind_of_ends_are_named(tmp_path: pathlib.Path) -> None:
    model = model_on(random_envs(2)).learn(40)
    for kwargs, name in (
        (dict(buffer_size=500), "buffer_size=250, this model has buffer_size=500"),
        (dict(replay_buffer_kwargs=dict(handle_timeout_termination=False)), "handle_timeout_termination=False"),
    ):
        settings: dict[str, Any] = kwargs
        model_on(random_envs(2), **settings).learn(40).save_replay_buffer(tmp_path / "other")
        with pytest.raises(ValueError, match=name):
            model.load_replay_buffer(tmp_path / "other")


def test_a_replay_buffer_can_be_loaded_where_there_is_none(tmp_path: pathlib.Path) -> None:
    model = model_on(random_envs(2)).learn(40)
    model.save_replay_buffer(tmp_path / "buffer")
    model.replay_buffer = None
    model.load_replay_buffer(tmp_path / "buffer")
    model.learn(20, reset_num_timesteps=False)
    assert model.replay_buffer.size() > 20
    other = model_on(random_envs(2), sequence_length=6)
    other.replay_buffer = None
    with pytest.raises(ValueError, match="sequence_length=4, this model has sequence_length=6"):
        other.load_replay_buffer(tmp_path / "buffer")


def test_r2d2_writes_nothing_into_another_runs_buffer(tmp_path: pathlib.Path) -> None:
    """Of equal length, at whose newest step this run's error would otherwise be recorded."""
    models = [
        model_on(random_envs(2, action_space=spaces.Discrete(3)), R2D2, burn_in=0, priority_alpha=0.9, seed=seed).learn(48)
        for seed in (0, 1)
    ]
    models[1].save_replay_buffer(tmp_path / "buffer")
    model = models[0]
    model.load_replay_buffer(tmp_path / "buffer")
    model.gradient_steps = 0
    before = model.replay_buffer.priorities[0].errors.copy()
    n_added = model.replay_buffer.rings[0].n_added
    model.learn(2, reset_num_timesteps=False)
    after = model.replay_buffer.priorities[0].errors
    np.testing.assert_array_equal(after[:n_added], before[:n_added])


def test_optimize_memory_usage_when_loading(tmp_path: pathlib.Path) -> None:
    model_on(random_envs(1)).save(tmp_path / "model")
    with pytest.warns(UserWarning, match="has no effect"):
        loaded = RecurrentTD3.load(tmp_path / "model", env=random_envs(1), optimize_memory_usage=True)
    loaded.learn(30)
    loaded.learn(30)
    assert loaded.num_timesteps >= 30


def test_memory_lr_scale_given_when_loading_counts(tmp_path: pathlib.Path) -> None:
    model = model_on(random_envs(1)).learn(40)
    model.save(tmp_path / "model")
    slower = dict(memory_lr_scale=0.1)
    ways: list[dict[str, Any]] = [
        dict(policy_kwargs=slower),
        dict(custom_objects=dict(policy_kwargs=model.policy_kwargs | slower)),
    ]
    for way in ways:
        loaded: Any = RecurrentTD3.load(tmp_path / "model", random_envs(1), **way)
        loaded.learn(20, reset_num_timesteps=False)
        memory = set(loaded.actor.encoder.core.parameters())
        rates = [group["lr"] for group in loaded.actor.optimizer.param_groups if set(group["params"]) & memory]
        assert rates == pytest.approx([1e-4])
        loaded.save(tmp_path / "again")
        assert RecurrentTD3.load(tmp_path / "again").policy.memory_lr_scale == 0.1


def test_zips_of_the_other_deterministic_algorithm(tmp_path: pathlib.Path) -> None:
    model_on(random_envs(1), RecurrentDDPG).save(tmp_path / "ddpg")
    with pytest.raises(
        ValueError, match=r"ddpg cannot be loaded as RecurrentTD3: it was saved by RecurrentDDPG: use RecurrentDDPG"
    ):
        RecurrentTD3.load(tmp_path / "ddpg")

    class Mine(RecurrentDDPG):
        """A user's own, which is a RecurrentDDPG all the same."""

    assert Mine.load(tmp_path / "ddpg").num_timesteps == 0

    class Passing(RecurrentDDPG):
        def __init__(self, *args: Any, bonus: float = 0.0, **kwargs: Any):
            super().__init__(*args, **kwargs)
            self.bonus = bonus

    Passing("MlpLstmPolicy", random_envs(1), burn_in=1, bonus=2.0, **KWARGS).save(tmp_path / "passing")
    loaded = Passing.load(tmp_path / "passing", bonus=3.0, burn_in=2)
    assert loaded.bonus == 3.0 and loaded.replay_buffer.burn_in == 2
    with pytest.raises(ValueError, match=r"Passing\.load does not know \['bonsu'\]"):
        Passing.load(tmp_path / "passing", bonsu=3.0)


@pytest.mark.parametrize(
    ("algorithm", "action_space", "policy_kwargs"),
    [
        (RecurrentTD3, ACTION_SPACE, {}),
        (RecurrentSAC, ACTION_SPACE, dict(shared_lstm=True, enable_critic_lstm=False)),
        (RecurrentSAC, spaces.Discrete(3), {}),
        (R2D2, spaces.Discrete(3), {}),
    ],
)
def test_networks_by_themselves(
    algorithm: type[RecurrentOffPolicyAlgorithm],
    action_space: spaces.Space,
    policy_kwargs: dict[str, Any],
    tmp_path: pathlib.Path,
) -> None:
    kwargs = KWARGS["policy_kwargs"] | policy_kwargs
    model: Any = model_on(random_envs(1, action_space=action_space), algorithm, burn_in=0, policy_kwargs=kwargs).learn(40)
    samples = model._sample_sequences(4)
    for name in model.network_names:
        network = getattr(model, name)
        network.save(tmp_path / "network")
        loaded = type(network).load(tmp_path / "network", device="cpu")
        for (key, a), (other_key, b) in zip(network.state_dict().items(), loaded.state_dict().items(), strict=True):
            assert key == other_key and th.equal(a, b)
        latents, others = (each.encoder.encode(samples, samples.initial_states.pi).latents for each in (network, loaded))
        th.testing.assert_close(latents, others)


def test_load_has_sb3s_signature() -> None:
    import inspect

    from stable_baselines3.common.base_class import BaseAlgorithm

    theirs, ours = (inspect.signature(each.load).parameters for each in (BaseAlgorithm, RecurrentTD3))
    added = {"trusted"}
    assert [(name, p.default) for name, p in ours.items() if name not in added] == [
        (name, p.default) for name, p in theirs.items()
    ]


def test_states_of_a_shared_memory_do_not_fit_two(tmp_path: pathlib.Path) -> None:
    shared = KWARGS["policy_kwargs"] | dict(shared_lstm=True, enable_critic_lstm=False)
    models = [model_on(random_envs(2), **kwargs).learn(40) for kwargs in ({}, dict(policy_kwargs=shared))]
    for model, other in (models, models[::-1]):
        model.save_replay_buffer(tmp_path / "buffer")
        with pytest.raises(ValueError, match="another memory"):
            other.load_replay_buffer(tmp_path / "buffer")


def test_states_of_recorded_episodes_must_fit_too(tmp_path: pathlib.Path) -> None:
    small, large = (model_on(random_envs(1), policy_kwargs=dict(lstm_hidden_size=n, net_arch=[4])) for n in (4, 8))
    small.add_episode(np.zeros((6, 2)), np.zeros((5, 3)), np.zeros(5), True)
    small.save_replay_buffer(tmp_path / "buffer")
    with pytest.raises(ValueError, match="another memory"):
        large.load_replay_buffer(tmp_path / "buffer")


def test_a_buffer_that_was_reset_is_learned_into_again() -> None:
    model = model_on(random_envs(2, action_space=spaces.Discrete(3)), R2D2, burn_in=0).learn(60)
    model.replay_buffer.reset()
    model.learn(60)
    assert model.replay_buffer.size() == model.num_timesteps / 2


def test_settings_that_cannot_be_replaced(tmp_path: pathlib.Path) -> None:
    model_on(random_envs(1)).save(tmp_path / "td3")
    model_on(random_envs(1), RecurrentSAC).save(tmp_path / "sac")
    for name in ("use_sde", "support_multi_env", "supported_action_spaces"):
        with pytest.raises(ValueError, match=rf"RecurrentTD3.load does not know \['{name}'\]"):
            RecurrentTD3.load(tmp_path / "td3", **{name: True})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\['use_sde'\] cannot be changed"):
        RecurrentSAC.load(tmp_path / "sac", use_sde=True)
    with pytest.raises(ValueError, match=r"replay_buffer_kwargs has \['burn_in'\]: pass them to RecurrentTD3 itself"):
        RecurrentTD3.load(tmp_path / "td3", replay_buffer_kwargs=dict(burn_in=2))
    with pytest.raises(ValueError, match="memory_lr_scale=-1"):
        RecurrentTD3.load(tmp_path / "td3", policy_kwargs=dict(memory_lr_scale=-1))


def test_another_number_of_environments_begins_new_episodes(tmp_path: pathlib.Path) -> None:
    model_on(random_envs(2)).learn(40).save(tmp_path / "model")
    loaded: Any = RecurrentTD3.load(tmp_path / "model", env=random_envs(3), force_reset=False)
    loaded.learn(30, reset_num_timesteps=False)
    assert not loaded.replay_buffer.rings[0].episode_steps[0].any()


def test_subclasses_as_users_write_them() -> None:
    class Fixed(RecurrentTD3):
        def __init__(self) -> None:
            super().__init__("MlpLstmPolicy", random_envs(1), **KWARGS)

    class Named(RecurrentTD3):
        policy_type = RecurrentTD3.policy_type
        policy_aliases = {"Mine": RecurrentTD3.policy_type}  # noqa: RUF012

    assert Fixed().learn(30).num_timesteps >= 30
    assert Named("Mine", random_envs(1), **KWARGS).learn(30).num_timesteps >= 30
    with pytest.raises(TypeError, match=r"RecurrentTD3\(\) got unexpected keyword arguments \['sequence_lenght'\]"):
        RecurrentTD3("MlpLstmPolicy", random_envs(1), sequence_lenght=3)  # type: ignore[call-arg]
