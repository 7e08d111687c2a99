"""Acting with memory inside SB3's loop: what is stored, when memory is reset, what survives what."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_recurrent_offpolicy import R2D2, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from tests.envs import RandomEnv
from tests.recorder import ACTION_SPACE, OBSERVATION_SPACE
from tests.setup import KWARGS, model_on, noise, random_envs


def replayed_states(model: Any, n_steps: int) -> np.ndarray:
    """Memory before each step as it follows from what is stored otherwise, as rows of the buffer: (T, n_envs, state_size)."""
    ring, policy = model.replay_buffer.rings[0], model.policy
    actions = ring.actions[:n_steps].reshape(n_steps, ring.n_envs, *model.action_space.shape)
    states = policy.trace(
        ring.observations[:n_steps], policy.unscale_action(actions), ring.episode_steps[:n_steps] == 0
    ).lstm_states
    arrays = states.pi if states.vf is states.pi else (*states.pi, *states.vf)
    return th.cat([array.transpose(1, 2).flatten(start_dim=2) for array in arrays], dim=-1).numpy()


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("stride", [1, 5])
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
    stride: int,
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
        sequence_length=5,
        replay_buffer_kwargs=dict(stride=stride),
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
    goes_on = buffer.rings[0].episode_steps[:n_steps:stride] > 0
    expected = replayed_states(model, n_steps)[::stride][goes_on]
    np.testing.assert_allclose(buffer.rings[0].states[: n_steps // stride][goes_on], expected, atol=1e-6)
    assert (np.abs(expected).max(axis=1) > 0).all(), "the warm-up advances the memory too"


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


def test_set_env_starts_a_new_episode() -> None:
    model = model_on(random_envs(2), gradient_steps=0)
    model.learn(40)
    model.set_env(random_envs(2))
    model.learn(20, reset_num_timesteps=False)
    np.testing.assert_array_equal(model.replay_buffer.rings[0].episode_steps[20], 0)


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
