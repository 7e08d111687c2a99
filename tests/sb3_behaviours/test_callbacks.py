"""SB3's callbacks: all of them in one run, and those that stop it."""

import pathlib
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from tests.envs import RecallEnv
from tests.sb3_behaviours.cases import Case, each, model_of, random_envs, some_observations


class Counts(BaseCallback):
    """Remembers what the others were told."""

    def _on_step(self) -> bool:
        self.seen = set(self.locals)
        return True


@each
@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_all_callbacks_in_one_run(case: Case, tmp_path: pathlib.Path) -> None:
    env: Any = VecNormalize(random_envs(case, 2))
    eval_env: Any = VecNormalize(random_envs(case), training=False, norm_reward=False)
    called = []

    def count(local: dict[str, Any], _: dict[str, Any]) -> bool:
        called.append(local["self"].num_timesteps)
        return True

    folder = str(tmp_path)
    checkpoint = CheckpointCallback(10, folder, save_replay_buffer=True, save_vecnormalize=True)
    on_event = CheckpointCallback(1, folder, name_prefix="event")
    event = EveryNTimesteps(24, on_event)
    evaluation = EvalCallback(
        eval_env,
        callback_on_new_best=StopTrainingOnRewardThreshold(1e9),
        callback_after_eval=StopTrainingOnNoModelImprovement(1000, min_evals=1000),
        n_eval_episodes=2,
        eval_freq=15,
        log_path=folder,
        best_model_save_path=folder,
        verbose=0,
    )
    counts, log = Counts(), LogEveryNTimesteps(40)
    max_episodes = StopTrainingOnMaxEpisodes(1000)
    function = ConvertCallback(count)
    callbacks = [checkpoint, evaluation, event, log, max_episodes, function, counts, ProgressBarCallback()]
    callback = CallbackList(list(callbacks))
    model = model_of(case, env, train_freq=1).learn(100, callback=callback, log_interval=10**6)

    # All were told the same, and counted the same
    assert {"new_obs", "rewards", "dones", "infos", "actions", "buffer_actions", "replay_buffer", "self"} <= counts.seen
    for each_callback in (*callbacks, on_event):
        assert each_callback.locals["new_obs"] is callback.locals["new_obs"]
    for each_callback in callbacks:
        assert each_callback.n_calls == 50 and each_callback.num_timesteps == model.num_timesteps == 100
    assert called == list(range(2, 101, 2))
    assert event.last_time_trigger == 96 and on_event.n_calls == 4
    assert max_episodes.n_episodes == model._episode_num > 0
    assert len(evaluation.evaluations_timesteps) == 3 and evaluation.evaluations_timesteps[0] == 30
    np.testing.assert_array_equal(np.load(tmp_path / "evaluations.npz")["timesteps"], [30, 60, 90])
    names = {path.name for path in tmp_path.iterdir()}
    assert {f"event_{n}_steps.zip" for n in (24, 48, 72, 96)} | {"best_model.zip"} <= names
    for n in range(20, 101, 20):
        parts = (f"rl_model_{n}_steps.zip", f"rl_model_replay_buffer_{n}_steps.pkl", f"rl_model_vecnormalize_{n}_steps.pkl")
        assert set(parts) <= names
    assert eval_env.obs_rms.count > 40, "statistics followed those of training"

    # From the files of one checkpoint the run goes on
    loaded_env: Any = VecNormalize.load(str(tmp_path / "rl_model_vecnormalize_60_steps.pkl"), random_envs(case, 2))
    assert loaded_env.obs_rms.count < env.obs_rms.count
    loaded: Any = case.algorithm.load(tmp_path / "rl_model_60_steps", env=loaded_env)
    loaded.load_replay_buffer(tmp_path / "rl_model_replay_buffer_60_steps.pkl")
    # Saved while the step it was called at is not stored yet
    assert loaded.num_timesteps == 60 and loaded.replay_buffer.size() == 29
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == 80 and loaded._n_updates > 0
    case.algorithm.load(tmp_path / "best_model").predict(some_observations())

    # None, lists and functions are taken too
    for other in (None, [checkpoint, evaluation], lambda _locals, _globals: True):
        assert model.learn(20, callback=other).num_timesteps == 20, other


def recall_envs(case: Case, n_envs: int = 1) -> VecEnv:
    """Episodes of 6 steps without any reward."""
    discrete = isinstance(case.action_space, spaces.Discrete)
    return make_vec_env(lambda: RecallEnv(reward_factor=0.0, discrete=discrete), n_envs, seed=0)


@each
def test_callbacks_that_stop(case: Case) -> None:
    def on_evaluation(**kwargs: Any) -> EvalCallback:
        return EvalCallback(recall_envs(case, 2), eval_freq=10, n_eval_episodes=2, verbose=0, **kwargs)

    for callback, n_steps in (
        (on_evaluation(callback_on_new_best=StopTrainingOnRewardThreshold(-1.0)), 20),
        (on_evaluation(callback_on_new_best=StopTrainingOnRewardThreshold(1.0)), 200),
        # The first evaluation is the best, two without a better one are too many
        (on_evaluation(callback_after_eval=StopTrainingOnNoModelImprovement(1)), 60),
        # Three episodes in each of two environments
        (StopTrainingOnMaxEpisodes(3), 36),
        (lambda local, _: local["self"].num_timesteps < 50, 50),
        (EveryNTimesteps(30, ConvertCallback(lambda _locals, _globals: False)), 30),
    ):
        model = model_of(case, recall_envs(case, 2), train_freq=1).learn(200, callback=callback)
        assert model.num_timesteps == n_steps
        model.learn(20, reset_num_timesteps=False)
        assert model.num_timesteps == n_steps + 20
