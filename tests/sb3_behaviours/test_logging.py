"""What is logged, under which name, and where."""

import pathlib
from typing import Any

import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import CSVOutputFormat, HParam, HumanOutputFormat, TensorBoardOutputFormat, configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.envs import RecallEnv
from tests.sb3_behaviours.cases import Case, each, model_of


class Succeeds(RecallEnv):
    """Tells at the end of an episode that it succeeded."""

    def step(self, action: Any) -> Any:
        *rest, truncated, info = super().step(action)
        return *rest, truncated, info | (dict(is_success=True) if truncated else {})


class Hyperparameters(BaseCallback):
    """Known to TensorBoard only."""

    def _on_training_start(self) -> None:
        values: dict[str, Any] = dict(algorithm=type(self.model).__name__, learning_rate=self.model.learning_rate)
        self.logger.record("hparams", HParam(values, {"rollout/ep_len_mean": 0.0}), exclude=("stdout", "log", "json", "csv"))

    def _on_step(self) -> bool:
        return True


@each
def test_names_in_tensorboard(case: Case, tmp_path: pathlib.Path) -> None:
    discrete = isinstance(case.action_space, spaces.Discrete)
    env = make_vec_env(lambda: Succeeds(discrete=discrete), 2, seed=0)
    model = model_of(case, env, tensorboard_log=str(tmp_path), stats_window_size=5, learning_rate=0.002)
    model.learn(60, callback=Hyperparameters(), log_interval=2)
    model.learn(60, reset_num_timesteps=False, log_interval=2)
    name = case.algorithm.__name__
    # The second went on with the first
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}_1"]
    model.learn(20, log_interval=1, tb_log_name="again")
    model.learn(20, log_interval=1, tb_log_name="again")
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}_1", "again_1", "again_2"}

    events = EventAccumulator(str(tmp_path / f"{name}_1"))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    expected = {"rollout/ep_len_mean", "rollout/ep_rew_mean", "rollout/success_rate", "time/fps", "train/learning_rate"}
    assert expected <= scalars
    assert events.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"
    # Counted elsewhere, left out by SB3 as well
    assert not scalars & {"train/n_updates", "time/episodes", "time/total_timesteps"}
    assert {scalar.value for scalar in events.Scalars("rollout/ep_len_mean")} == {6.0}
    assert {scalar.value for scalar in events.Scalars("rollout/success_rate")} == {1.0}
    assert events.Scalars("train/learning_rate")[-1].value == pytest.approx(0.002)
    steps = [scalar.step for scalar in events.Scalars("time/fps")]
    assert steps == sorted(steps) and steps[-1] > 60, "counted on"
    assert model.ep_info_buffer.maxlen == 5


@each
def test_loggers(case: Case, tmp_path: pathlib.Path) -> None:
    """Those that ``verbose`` and ``tensorboard_log`` ask for, or the one that is set, which stays."""

    def kinds(model: Any) -> list[type]:
        return [type(output) for output in model.logger.output_formats]

    assert kinds(model_of(case).learn(4)) == []
    assert kinds(model_of(case, tensorboard_log=str(tmp_path)).learn(4)) == [TensorBoardOutputFormat]
    both = model_of(case, tensorboard_log=str(tmp_path), verbose=1).learn(4)
    assert kinds(both) == [HumanOutputFormat, TensorBoardOutputFormat]

    own = configure(str(tmp_path / "own"), ["csv"])
    both.set_logger(own)
    for model in (both, model_of(case, verbose=1, tensorboard_log=str(tmp_path))):
        model.set_logger(own)
        model.learn(60, log_interval=1)
        assert model.logger is own and kinds(model) == [CSVOutputFormat]
    own.close()
    header = (tmp_path / "own" / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"train/n_updates", "train/learning_rate", "time/total_timesteps", "rollout/ep_rew_mean"} <= set(header)
