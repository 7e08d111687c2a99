"""Acting with memory inside SB3's loop: what is stored, when memory is reset, what survives what."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.torch_layers import get_actor_critic_arch
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.preprocessing import encode_actions
from sb3_recurrent_offpolicy.type_aliases import Memory, RNNStates
from tests.envs import RandomEnv, RecallEnv
from tests.recorder import ACTION_SPACE, OBSERVATION_SPACE

KWARGS: dict[str, Any] = dict(
    sequence_length=4,
    learning_starts=20,
    train_freq=4,
    batch_size=4,
    buffer_size=1000,
    seed=0,
    device="cpu",
    policy_kwargs=dict(lstm_hidden_size=5, net_arch=[7]),
)


def random_envs(n_envs: int, lengths: tuple[int, ...] = (7, 1, 12, 5), action_space: spaces.Space = ACTION_SPACE) -> VecEnv:
    return make_vec_env(lambda: RandomEnv(OBSERVATION_SPACE, action_space, lengths), n_envs=n_envs, seed=0)


def noise(n_actions: int = 3) -> NormalActionNoise:
    return NormalActionNoise(np.zeros(n_actions), 0.3 * np.ones(n_actions))


def model_on(env: VecEnv, algorithm: type[RecurrentOffPolicyAlgorithm] = RecurrentTD3, **kwargs: Any) -> Any:
    return algorithm("MlpLstmPolicy", env, **KWARGS | kwargs)


def replayed_states(model: Any, env: int, n_steps: int) -> list[RNNStates]:
    """Memory before each step as it follows from the stored observations, actions and episode starts alone."""
    buffer, policy = model.replay_buffer, model.policy
    states, found = policy.initial_states(1), []
    for t in range(n_steps):
        starts = buffer.rings[0].episode_steps[t, env] == 0
        if starts:
            states = policy.initial_states(1)
        previous = (
            th.zeros(1, 3)
            if starts
            else encode_actions(th.as_tensor(buffer.rings[0].actions[t - 1, env][None]), model.action_space)
        )
        found.append(states)
        with th.no_grad():
            states = policy(th.as_tensor(buffer.rings[0].observations[t, env][None]), Memory(states, previous)).lstm_states
    return found


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("policy_kwargs", [{}, dict(n_lstm_layers=2), dict(shared_lstm=True, enable_critic_lstm=False)])
@pytest.mark.parametrize(
    ("algorithm", "action_space"),
    [
        (RecurrentTD3, ACTION_SPACE),
        (RecurrentSAC, ACTION_SPACE),
        (RecurrentSAC, spaces.Discrete(3)),
        (R2D2, spaces.Discrete(3)),
    ],
)
def test_stored_state_is_the_state_used_to_act(
    n_envs: int,
    policy_kwargs: dict[str, Any],
    algorithm: type[RecurrentOffPolicyAlgorithm],
    action_space: spaces.Space,
) -> None:
    """T1, T2, T4: in the random warm-up as after it, over terminations, time limits and a second learn."""
    if algorithm is R2D2 and policy_kwargs.get("shared_lstm"):
        pytest.skip("R2D2 has one memory")
    model = model_on(
        random_envs(n_envs, action_space=action_space),
        algorithm,
        burn_in=0,
        learning_starts=15 * n_envs,
        train_freq=1,
        gradient_steps=0,
        replay_buffer_kwargs=dict(stride=1),
        policy_kwargs=KWARGS["policy_kwargs"] | policy_kwargs,
        **(dict(action_noise=noise()) if action_space is ACTION_SPACE else {}),
    )
    model.learn(30 * n_envs)
    # Resets in mid-episode, without a done
    model.learn(20 * n_envs)
    buffer = model.replay_buffer
    n_steps = buffer.size()
    assert n_steps == 50 and not buffer.full
    np.testing.assert_array_equal(buffer.rings[0].episode_steps[[0, 30]], 0)
    for env in range(n_envs):
        expected = np.stack([buffer_row(model, states) for states in replayed_states(model, env, n_steps)])
        started = buffer.rings[0].episode_steps[:n_steps, env] == 0
        np.testing.assert_allclose(buffer.rings[0].states[:n_steps, env][~started], expected[~started], atol=1e-6)
        assert (np.abs(expected[~started]).max(axis=1) > 0).all(), "the warm-up advances the memory too"


def buffer_row(model: Any, states: RNNStates) -> np.ndarray:
    arrays = states.pi if states.vf is states.pi else (*states.pi, *states.vf)
    return th.cat([array.transpose(0, 1).flatten() for array in arrays]).numpy()


def test_previous_action_is_the_executed_one() -> None:
    model = model_on(random_envs(2, (50,)), action_noise=noise(), gradient_steps=0)
    model.learn(60)
    last_row = (model.replay_buffer.rings[0].n_added - 1) % model.replay_buffer.buffer_size
    np.testing.assert_allclose(
        model.behavior.memory.previous_actions, model.replay_buffer.rings[0].actions[last_row], atol=1e-6
    )
    assert (np.abs(model.replay_buffer.rings[0].actions[:30]) <= 1).all()


def test_time_limits_are_not_terminal_and_keep_their_last_observation() -> None:
    model = model_on(random_envs(1, (5,)), gradient_steps=0)
    model.learn(41)
    buffer = model.replay_buffer
    ends = np.flatnonzero(buffer.rings[0].episode_steps[:41, 0] == 0)[1:] - 1
    assert len(ends) == 8
    # Every second episode of this environment terminates, the others are truncated
    np.testing.assert_array_equal(buffer.rings[0].terminated[ends, 0], [False, True] * 4)
    assert sorted(buffer.rings[0].final_observations) == ends.tolist()


def test_learn_goes_on_with_the_very_episode() -> None:
    """T12: two halves make the same run as one, memory included."""
    runs = []
    for portions in ([120], [50, 70]):
        model = model_on(random_envs(1), action_noise=noise(), train_freq=5)
        for portion in portions:
            model.learn(portion, reset_num_timesteps=False)
        runs.append(model)
    a, b = runs
    assert a.num_timesteps == b.num_timesteps == 120
    for name in ("observations", "actions", "episode_steps", "states"):
        np.testing.assert_array_equal(getattr(a.replay_buffer.rings[0], name), getattr(b.replay_buffer.rings[0], name))
    for x, y in zip(a.policy.parameters(), b.policy.parameters(), strict=True):
        assert th.equal(x, y)


class StopAt(BaseCallback):
    def __init__(self, n_calls: int):
        super().__init__()
        self.stop_at = n_calls

    def _on_step(self) -> bool:
        return self.n_calls != self.stop_at


@pytest.mark.parametrize("wrap", [lambda callback: callback, lambda callback: CallbackList([CallbackList([callback])])])
def test_a_callback_that_stops_loses_nothing(wrap: Any) -> None:
    """The step it stops at is stored, and the run goes on as if it had not been stopped."""
    settings: dict[str, Any] = dict(learning_starts=1000, train_freq=1, action_noise=noise())
    stopped = model_on(random_envs(1, (9,)), **settings).learn(100, callback=wrap(StopAt(31)))
    assert stopped.num_timesteps == stopped.replay_buffer.size() == 31
    stopped.learn(29, reset_num_timesteps=False)
    straight = model_on(random_envs(1, (9,)), **settings).learn(60)
    at_an_end = model_on(random_envs(1, (9,)), **settings).learn(100, callback=wrap(StopAt(18)))
    assert at_an_end._episode_num == len(at_an_end.ep_info_buffer) == 2
    for name in ("observations", "actions", "episode_steps", "states"):
        np.testing.assert_array_equal(
            getattr(stopped.replay_buffer.rings[0], name), getattr(straight.replay_buffer.rings[0], name)
        )


def test_callbacks_see_and_save_a_consistent_model(tmp_path: Any) -> None:
    """EvalCallback predicts and CheckpointCallback saves in the middle of a step: training does not notice."""
    callbacks = [
        EvalCallback(random_envs(1), eval_freq=7, n_eval_episodes=2, verbose=0),
        CheckpointCallback(11, str(tmp_path)),
        EveryNTimesteps(20, StopAt(-1)),
        StopTrainingOnMaxEpisodes(1000),
    ]
    runs = []
    for callback in (None, callbacks):
        model = model_on(random_envs(2), action_noise=noise())
        # The evaluation draws no random numbers of ours; its environment has its own generator
        model.learn(100, callback=callback)
        runs.append(model)
    for name in ("actions", "states"):
        with_callbacks, without = (getattr(model.replay_buffer.rings[0], name) for model in runs)
        np.testing.assert_array_equal(with_callbacks, without)

    saved = RecurrentTD3.load(tmp_path / "rl_model_44_steps")
    assert saved.num_timesteps == 44
    assert saved._last_obs is not None
    # Saved after the environment moved, before the step was stored: memory belongs to _last_obs
    buffer = runs[1].replay_buffer
    np.testing.assert_array_equal(saved._last_obs, buffer.rings[0].observations[21])


def test_same_seed_same_run() -> None:
    runs = [model_on(random_envs(2), action_noise=noise(), seed=3).learn(150) for _ in range(2)]
    for a, b in zip(*(model.policy.parameters() for model in runs), strict=True):
        assert th.equal(a, b)
    np.testing.assert_array_equal(runs[0].replay_buffer.rings[0].actions, runs[1].replay_buffer.rings[0].actions)


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(train_freq=(1, "episode"), gradient_steps=-1),
        dict(train_freq=(3, "step"), gradient_steps=-1),
        dict(gradient_steps=0),
        dict(sequence_length=None),
        dict(state_init="zero", burn_in=4),
        dict(burn_in=2, n_steps=3),
        dict(learning_rate=lambda progress: 1e-3 * progress, max_grad_norm=1.0),
        dict(batch_size=100, learning_starts=0, buffer_size=9),
        dict(action_noise=OrnsteinUhlenbeckActionNoise(np.zeros(3), 0.3 * np.ones(3))),
    ],
)
@pytest.mark.parametrize(
    ("algorithm", "action_space"),
    [
        (RecurrentTD3, ACTION_SPACE),
        (RecurrentDDPG, ACTION_SPACE),
        (RecurrentSAC, ACTION_SPACE),
        (RecurrentSAC, spaces.Discrete(4)),
        (R2D2, spaces.Discrete(4)),
    ],
)
def test_run(kwargs: dict[str, Any], algorithm: type[RecurrentOffPolicyAlgorithm], action_space: spaces.Space) -> None:
    if action_space is not ACTION_SPACE:
        kwargs = {key: value for key, value in kwargs.items() if key != "action_noise"}
    if algorithm is R2D2:
        uniform = dict(priority_alpha=0.0) if kwargs.get("sequence_length", 1) is None else {}
        kwargs = dict(burn_in=0) | kwargs | uniform
    model = model_on(random_envs(1, action_space=action_space), algorithm, **kwargs)
    model.learn(60)
    assert model.num_timesteps >= 60
    if kwargs.get("gradient_steps") == 0:
        assert model._n_updates == 0
    elif kwargs.get("train_freq") == (3, "step"):
        assert model._n_updates == model.num_timesteps - 18
    else:
        assert model._n_updates > 0
    assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())


def test_several_environments_and_their_noise() -> None:
    model = model_on(random_envs(3), action_noise=noise(), gradient_steps=-1, train_freq=5).learn(150)
    assert isinstance(model.action_noise, VectorizedActionNoise)
    assert model._n_updates == 150 - 15


def test_episodic_training_needs_one_environment() -> None:
    with pytest.raises(AssertionError, match="only one env"):
        model_on(random_envs(2), train_freq=(1, "episode")).learn(50)


def test_subprocesses() -> None:
    """The same run as with environments in this process."""
    in_processes: dict[str, Any] = dict(vec_env_cls=SubprocVecEnv, vec_env_kwargs=dict(start_method="spawn"))
    runs: list[Any] = []
    for kwargs in ({}, in_processes):
        env = make_vec_env("Pendulum-v1", 2, seed=0, **kwargs)
        runs.append(RecurrentTD3("MlpLstmPolicy", env, **KWARGS).learn(40))
        env.close()
    np.testing.assert_array_equal(*(model.replay_buffer.rings[0].observations for model in runs))
    for a, b in zip(*(model.policy.parameters() for model in runs), strict=True):
        assert th.equal(a, b)


def test_set_env_starts_a_new_episode() -> None:
    model = model_on(random_envs(2), gradient_steps=0)
    model.learn(40)
    model.set_env(random_envs(2))
    model.learn(20, reset_num_timesteps=False)
    np.testing.assert_array_equal(model.replay_buffer.rings[0].episode_steps[20], 0)


@pytest.mark.parametrize("kwargs", [{}, dict(burn_in=3)])
def test_vec_normalize(kwargs: dict[str, Any]) -> None:
    space = spaces.Box(5.0, 9.0, (2,), np.float32)
    env = VecNormalize(make_vec_env(lambda: RandomEnv(space, ACTION_SPACE), 2), gamma=0.9)
    model = model_on(env, **kwargs).learn(200)
    assert (model.replay_buffer.rings[0].observations[:100] >= 5).all(), "stored raw"
    sampled = model._sample_sequences(64).observations.numpy()
    assert np.abs(sampled.mean(axis=(0, 1))).max() < 0.5 and np.abs(sampled).max() < 3
    evaluate_policy(model, env, n_eval_episodes=2, warn=False)


def test_rewards_that_vec_normalize_scales_are_not_scaled_twice() -> None:
    env = VecNormalize(make_vec_env(lambda: RecallEnv(reward_factor=1000.0), 2), gamma=0.99)
    model = RecurrentTD3("MlpLstmPolicy", env, **KWARGS | dict(gradient_steps=0)).learn(600)
    assert 0.2 < model.reward_factor < 5


def observation_spaces() -> dict[str, spaces.Space]:
    return {
        "Mlp-box": spaces.Box(-1, 1, (3,), np.float32),
        "Mlp-float64": spaces.Box(-1, 1, (2, 2), np.float64),
        "Mlp-discrete": spaces.Discrete(4),
        "Mlp-multi_discrete": spaces.MultiDiscrete([3, 4]),
        "Mlp-multi_binary": spaces.MultiBinary(3),
        "Cnn-image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
        "MultiInput-dict": spaces.Dict(
            {"vector": spaces.Box(-1, 1, (3,), np.float32), "image": spaces.Box(0, 255, (36, 36, 1), np.uint8)}
        ),
    }


@pytest.mark.parametrize("core", ["Lstm", "Gru"])
@pytest.mark.parametrize("name", observation_spaces())
@pytest.mark.parametrize(
    ("algorithm", "action_space"),
    [
        (RecurrentTD3, spaces.Box(np.array([-2.0, 0.0]), np.array([1.0, 5.0]), dtype=np.float64)),
        (RecurrentSAC, spaces.Box(np.array([-2.0, 0.0]), np.array([1.0, 5.0]), dtype=np.float64)),
        (R2D2, spaces.Discrete(3)),
    ],
)
@pytest.mark.parametrize("n_envs", [1, 2])
def test_observation_spaces_and_policies(
    core: str, name: str, n_envs: int, algorithm: type[RecurrentOffPolicyAlgorithm], action_space: spaces.Space
) -> None:
    space = observation_spaces()[name]
    env = make_vec_env(lambda: RandomEnv(space, action_space), n_envs=n_envs)
    model: Any = algorithm(f"{name.split('-')[0]}{core}Policy", env, burn_in=2, **KWARGS).learn(30 * n_envs)
    assert model._n_updates > 0
    observations: Any = env.reset()
    state = None
    for _ in range(3):
        actions, state = model.predict(observations, state, np.zeros(n_envs, dtype=bool))
        assert actions.shape == (n_envs, *action_space.shape)  # type: ignore[misc]
        assert all(action_space.contains(action.astype(action_space.dtype)) for action in actions)
        observations, *_ = env.step(actions)
    # One plain observation, as a user without VecEnv has it: images channel-last
    action, state = model.predict(space.sample())
    assert action.shape == action_space.shape
    evaluate_policy(model, env, n_eval_episodes=2, warn=False)


@pytest.mark.parametrize(
    "policy_kwargs",
    [
        dict(net_arch=dict(pi=[5], qf=[6, 4]), activation_fn=th.nn.Tanh),
        dict(optimizer_class=th.optim.SGD, optimizer_kwargs=dict(momentum=0.9)),
        dict(n_critics=1, share_features_extractor=True),
        dict(lstm_kwargs=dict(bias=False), n_lstm_layers=2),
        dict(net_arch=[]),
    ],
)
def test_policy_kwargs(policy_kwargs: dict[str, Any]) -> None:
    """Each is followed: by layers, activations, heads, biases and the optimiser, all of which are learned."""
    model = model_on(random_envs(1), policy_kwargs=dict(lstm_hidden_size=5) | policy_kwargs)
    before = [parameter.clone() for parameter in (*model.actor.parameters(), *model.critic.parameters())]
    model.learn(40)
    assert not any(map(th.equal, before, (*model.actor.parameters(), *model.critic.parameters())))

    def hidden_sizes(head: Any) -> list[int]:
        return [layer.out_features for layer in head if isinstance(layer, th.nn.Linear)][:-1]

    net_arch = policy_kwargs.get("net_arch", [128, 128])
    actor_arch, critic_arch = get_actor_critic_arch(net_arch)
    assert hidden_sizes(model.actor.mu) == actor_arch
    assert [hidden_sizes(head) for head in model.critic.q_networks] == [critic_arch] * policy_kwargs.get("n_critics", 2)
    activations = {type(layer) for layer in model.critic.q_networks[0] if not isinstance(layer, th.nn.Linear)}
    assert activations == ({policy_kwargs.get("activation_fn", th.nn.ReLU)} if critic_arch else set())
    assert type(model.actor.optimizer) is policy_kwargs.get("optimizer_class", th.optim.Adam)
    assert model.actor.optimizer.defaults.get("momentum", 0.9) == 0.9
    core = model.actor.encoder.core
    assert len(core.state_shapes[0]) == 2 and core.state_shapes[0][0] == policy_kwargs.get("n_lstm_layers", 1)
    assert core.rnn.bias == policy_kwargs.get("lstm_kwargs", {}).get("bias", True)


def test_the_users_policy_kwargs_stay_as_they_are() -> None:
    policy_kwargs = dict(lstm_hidden_size=5)
    for algorithm in (RecurrentSAC, RecurrentDDPG, RecurrentTD3):
        model_on(random_envs(1), algorithm, policy_kwargs=policy_kwargs)
        assert policy_kwargs == dict(lstm_hidden_size=5)


def test_names_and_order_are_sb3s() -> None:
    import inspect

    from stable_baselines3 import DQN, SAC, TD3

    for algorithm, counterpart in ((RecurrentTD3, TD3), (RecurrentSAC, SAC), (R2D2, DQN)):
        theirs = list(inspect.signature(counterpart).parameters)
        ours = list(inspect.signature(algorithm).parameters)
        assert ours[: len(theirs) - 1] == theirs[:-1] and theirs[-1] == "_init_setup_model" in ours
        assert {"sequence_length", "burn_in", "state_init", "refresh_states", "reward_scale", "max_grad_norm"} <= set(ours)
        with pytest.raises(TypeError, match="sequence_lenght"):
            algorithm("MlpLstmPolicy", "Pendulum-v1", sequence_lenght=3)  # type: ignore[call-arg]
    of_td3 = inspect.signature(RecurrentTD3).parameters
    assert set(inspect.signature(RecurrentDDPG).parameters) == set(of_td3)


@pytest.mark.parametrize("algorithm", [RecurrentTD3, RecurrentSAC])
def test_logged_values(algorithm: type[RecurrentOffPolicyAlgorithm], tmp_path: Any) -> None:
    model = model_on(random_envs(1), algorithm, tensorboard_log=str(tmp_path))
    model.learn(60, log_interval=1)
    logged = model.logger.name_to_value
    assert any((tmp_path / f"{algorithm.__name__}_1").iterdir())
    model.train(2, 4)
    expected = {"train/actor_loss", "train/critic_loss", "train/n_updates", "train/learning_rate"}
    if algorithm is RecurrentSAC:
        expected |= {"train/ent_coef", "train/ent_coef_loss"}
    assert expected <= set(logged)


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


def test_bad_spaces() -> None:
    with pytest.raises(AssertionError, match="only supports"):
        RecurrentTD3("MlpLstmPolicy", "CartPole-v1")
    for action_space in (spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)):
        with pytest.raises(AssertionError, match="only supports"):
            RecurrentSAC("MlpLstmPolicy", random_envs(1, action_space=action_space))
    with pytest.raises(ValueError, match="must start at 0"):
        RecurrentSAC("MlpLstmPolicy", random_envs(1, action_space=spaces.Discrete(3, start=1)))
    with pytest.raises(ValueError, match=r"action_noise=.* cannot be added to actions of Discrete"):
        RecurrentSAC("MlpLstmPolicy", random_envs(1, action_space=spaces.Discrete(3)), action_noise=noise())
    dict_env = make_vec_env(lambda: RandomEnv(observation_spaces()["MultiInput-dict"], ACTION_SPACE))
    for name in ("MlpLstmPolicy", "CnnGruPolicy"):
        with pytest.raises(ValueError, match=f"policy='{name}'.*MultiInput(Lstm|Gru)Policy"):
            RecurrentTD3(name, dict_env)
    with pytest.raises(ValueError, match=r"policy='MultiInputLstmPolicy'.*Dict"):
        RecurrentTD3("MultiInputLstmPolicy", random_envs(1))
    with pytest.raises(ValueError, match="MlpPolicy"):
        RecurrentTD3("MlpPolicy", random_envs(1))


def test_a_buffer_too_small_for_a_sequence() -> None:
    with pytest.raises(ValueError, match="raise buffer_size"):
        model_on(random_envs(1), buffer_size=3)


def test_optimize_memory_usage_is_always_on() -> None:
    with pytest.warns(UserWarning, match="has no effect"):
        model = model_on(random_envs(1), optimize_memory_usage=True)
    model.learn(40)
    model.learn(40)


class NanRewards(gym.Wrapper):
    def step(self, action: Any) -> Any:
        observation, _, *rest = self.env.step(action)
        return observation, np.nan, *rest


def test_rewards_that_are_no_numbers() -> None:
    env = DummyVecEnv([lambda: NanRewards(RandomEnv(OBSERVATION_SPACE, ACTION_SPACE))])
    model = model_on(env)
    with pytest.raises(ValueError, match="not finite"):
        model.learn(10)
    assert model.replay_buffer.size() == 0


def test_n_step_warning_of_sb3_does_not_apply(recwarn: pytest.WarningsRecorder) -> None:
    model_on(random_envs(1), n_steps=3)
    assert not [warning for warning in recwarn if "n_steps" in str(warning.message)]


def test_a_subclass_of_the_buffer() -> None:
    class Mine(RecurrentSequenceReplayBuffer):
        pass

    model = model_on(random_envs(1), replay_buffer_class=Mine, replay_buffer_kwargs=dict(stride=4))
    assert isinstance(model.replay_buffer, Mine) and model.replay_buffer.stride == 4
