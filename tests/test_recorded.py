"""Recorded episodes and steps of others: replayed like one's own, with memory states, and counted for the scale of rewards."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_recurrent_offpolicy import R2D2, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.algorithm import UPDATES_PER_DIAGNOSIS
from sb3_recurrent_offpolicy.type_aliases import Stretch
from tests.envs import RandomEnv, RecallEnv
from tests.recorder import ACTION_SPACE
from tests.setup import model_on, random_envs


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("algorithm", [RecurrentTD3, RecurrentSAC, R2D2])
def test_recorded_episodes_are_replayed_with_the_states_of_the_policy(algorithm: Any, terminated: bool, n_envs: int) -> None:
    action_space = spaces.Discrete(3) if algorithm is R2D2 else spaces.Box(-2.0, 6.0, (1, 3), np.float32)
    model: Any = model_on(random_envs(n_envs, action_space=action_space), algorithm, burn_in=0, gradient_steps=0)
    generator = np.random.default_rng(0)
    observations = generator.normal(size=(11, 2)).astype(np.float32)
    actions = np.array([action_space.sample() for _ in range(10)])
    rewards = generator.normal(size=10)
    model.add_episode(observations, actions, rewards, terminated)
    samples = model.replay_buffer.sample(64)
    assert (samples.rings == 1).all()
    stored = model.replay_buffer.rings[1]
    assert stored.n_added == 10 and bool(stored.terminated[9, 0]) == terminated and not stored.terminated[:9].any()
    np.testing.assert_allclose(stored.rewards[:10, 0], rewards, rtol=1e-6)
    np.testing.assert_allclose(model.policy.unscale_action(stored.actions[:10, 0].reshape(actions.shape)), actions, atol=1e-6)

    state, starts = None, np.ones(1, dtype=bool)
    for t in range(10):
        if t % stored.stride == 0 and t > 0:
            assert state is not None
            kept = model.replay_buffer.stored_states(np.array([1]), np.array([t]), np.array([0])).pi
            for array, expected in zip(kept, state[:-1], strict=True):
                np.testing.assert_allclose(array, expected, atol=1e-6)
        _, state = model.predict(observations[t][None], state, starts, deterministic=True)
        # What was done is remembered, not what this policy would do
        taken = model.policy.scale_action(actions[t][None]).reshape(1, -1)
        done = np.eye(3)[actions[t]][None] if algorithm is R2D2 else taken
        state, starts = (*state[:-1], done[None].astype(np.float32)), np.zeros(1, dtype=bool)

    # The model's own experience does not overwrite it, and is replayed beside it
    model.gradient_steps = 1
    model.learn(200)
    assert stored.n_added == 10 and {0, 1} <= set(np.unique(model.replay_buffer.sample(512).rings))
    assert model._n_updates > 0


def test_recorded_images_and_normalised_observations() -> None:
    image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    env = make_vec_env(lambda: RandomEnv(image, ACTION_SPACE), 1)
    model = RecurrentTD3("CnnLstmPolicy", env, buffer_size=100, policy_kwargs=dict(lstm_hidden_size=4, net_arch=[4]))
    frames = np.stack([image.sample() for _ in range(5)])
    model.add_episode(frames, np.zeros((4, 3)), np.zeros(4), True)
    np.testing.assert_array_equal(model.replay_buffer.rings[1].observations[:4, 0, 0], frames[:4, :, :, 0])

    normal = VecNormalize(random_envs(1), norm_reward=False)
    statistics: Any = normal.obs_rms
    statistics.mean[:], statistics.var[:] = 3.0, 4.0
    model = model_on(normal)
    observations = np.random.default_rng(0).normal(3, 2, size=(9, 2)).astype(np.float32)
    model.add_episode(observations, np.zeros((8, 3)), np.zeros(8), False)
    np.testing.assert_array_equal(model.replay_buffer.rings[1].observations[:8, 0], observations[:8])
    expected = model.policy.trace(
        normal.normalize_obs(observations[:8, None]), np.zeros((8, 1, 3)), np.arange(8)[:, None] == 0
    )
    kept = model.replay_buffer.stored_states(np.array([1]), np.array([4]), np.array([0]))
    for array, trace in zip(kept.vf, expected.lstm_states.vf, strict=True):
        th.testing.assert_close(array, trace[4])


def test_what_is_no_episode() -> None:
    model = model_on(random_envs(1))
    observations, actions, rewards = np.zeros((5, 2)), np.zeros((4, 3)), np.zeros(4)
    for changes, message in (
        (dict(actions=np.zeros((5, 3))), r"actions has the shape \(5, 3\), an episode of this length has \(4, 3\)"),
        (dict(actions=np.zeros((4, 1))), r"actions has the shape \(4, 1\)"),
        (dict(actions=np.full((4, 3), 9.0)), r"actions holds 9\.0, which does not lie in Box"),
        (dict(actions=np.full((4, 3), np.nan)), "actions holds nan"),
        (dict(observations=np.zeros((4, 2))), r"observations has the shape \(4, 2\)"),
        (dict(observations=np.full((5, 2), np.inf)), "observations holds inf"),
        (dict(rewards=np.zeros((4, 1))), r"rewards has the shape \(4, 1\)"),
        (dict(rewards=np.zeros(0)), r"at least one, \(T,\)"),
        (dict(rewards=np.array([0, np.nan, 0, 0])), "not finite"),
    ):
        episode: dict[str, Any] = dict(observations=observations, actions=actions, rewards=rewards, terminated=False)
        with pytest.raises(ValueError, match=message):
            model.add_episode(**episode | changes)
    with pytest.raises(ValueError, match="1001 steps are more than the 1000"):
        model.add_episode(np.zeros((1_002, 2)), np.zeros((1_001, 3)), np.zeros(1_001), False)
    assert all(ring.n_added == 0 for ring in model.replay_buffer.rings)

    discrete = model_on(random_envs(1, action_space=spaces.Discrete(3)), R2D2, burn_in=0)
    for bad in (np.full(4, 7), np.full(4, -1), np.full(4, 1.5)):
        with pytest.raises(ValueError, match="actions holds values that do not lie in Discrete"):
            discrete.add_episode(observations, bad, rewards, True)
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32)})
    env = make_vec_env(lambda: RandomEnv(space, ACTION_SPACE), 1)
    of_dicts = RecurrentTD3("MultiInputLstmPolicy", env, buffer_size=100)
    for wrong in (observations, {"b": observations}):
        with pytest.raises(ValueError, match=r"observations must be a dict with the keys \['a'\]"):
            of_dicts.add_episode(wrong, actions, rewards, True)


def test_learning_from_demonstrations_alone() -> None:
    model = model_on(random_envs(1, action_space=spaces.Discrete(3)), R2D2, burn_in=0, priority_alpha=0.9)
    model.add_episode(np.zeros((31, 2), dtype=np.float32), np.zeros(30, dtype=int), np.ones(30), True)
    model.set_logger(configure(None, []))
    model.train(UPDATES_PER_DIAGNOSIS, 4)
    assert model.logger.name_to_value["train/priority_max"] > 0


@pytest.mark.parametrize("way", ["demonstrations", "steps of others", "a loaded buffer"])
def test_every_replayed_reward_counts_for_the_factor(way: str, tmp_path: Any) -> None:
    """No reward is scaled beyond 10, wherever it comes from, and as long as it is replayed."""

    def model_with(factor: float) -> Any:
        env = make_vec_env(lambda: RecallEnv(reward_factor=factor), 1, seed=0)
        kwargs: dict[str, Any] = dict(buffer_size=120, sequence_length=4, learning_starts=10, batch_size=4, seed=0)
        return RecurrentTD3("MlpLstmPolicy", env, policy_kwargs=dict(lstm_hidden_size=4, net_arch=[4]), **kwargs)

    model = model_with(1e-3)
    observations, actions, rewards = np.zeros((7, 1)), np.zeros((6, 1)), np.r_[np.zeros(5), 1.0]
    if way == "demonstrations":
        model.add_episode(observations, actions, rewards, True)
    elif way == "steps of others":
        ring = model.replay_buffer.add_ring()
        states = model.policy.initial_states(1)
        kept = th.utils._pytree.tree_map(
            lambda array: array.expand(len(model.replay_buffer.rings[ring].state_offsets(6)), *array.shape), states
        )
        starts, ended = np.arange(6)[:, None] == 0, np.arange(6)[:, None] == 5
        steps = Stretch(observations[:6, None], observations[6:], {}, actions[:, None], rewards[:, None], ended, starts, kept)
        model.add_steps(steps, ring)
    else:
        other = model_with(1.0).learn(100)
        other.save_replay_buffer(tmp_path / "buffer")
        model.load_replay_buffer(tmp_path / "buffer.pkl")
        returns = model.reward_normalizer.statistics[0]
        returns.count()
        assert sum(portion[0] for portion in returns.portions) == 100
    # Longer than the first ring remembers, where the steps are not in it
    model.learn(400 if way != "a loaded buffer" else 60, reset_num_timesteps=False)
    scaled = [model._sample_sequences(16).rewards.abs().max().item() for _ in range(20)]
    assert max(scaled) <= 10.5
