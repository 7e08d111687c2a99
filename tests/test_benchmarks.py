"""What the benchmarks measure is what they say."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F
import yaml
from stable_baselines3 import TD3
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks import cores
from benchmarks.ablations import STUDIES, variations
from benchmarks.checkouts import compare
from benchmarks.floor import FLOORS, floor
from benchmarks.growth import BASE, model_to_update
from benchmarks.learning import (
    MEMORYLESS,
    OTHERS,
    TUNED_FOR,
    entries_of,
    make_model,
    run,
    score,
    scores,
    set_entry,
    stated_hyperparams,
)
from benchmarks.learning_time import solved
from benchmarks.one_checkout import arrays
from benchmarks.overlap import FILLED, Sleeps, learner, overlap_against_turns, update_against_step
from benchmarks.speed import benchmark_memory
from benchmarks.tasks import TASKS, assert_state_is_hidden
from benchmarks.trained import trained as trained_model
from sb3_recurrent_offpolicy import RecurrentTD3
from sb3_recurrent_offpolicy.zoo import ALGORITHMS


@pytest.mark.parametrize("env_id", TASKS)
def test_observations_hide_what_they_should(env_id: str) -> None:
    assert_state_is_hidden(env_id)


@pytest.mark.parametrize(
    ("algo", "env_id"),
    [(algo, env_id) for algo in ALGORITHMS for env_id in entries_of(algo) if env_id in TASKS],
)
def test_tuned_settings_make_models(algo: str, env_id: str) -> None:
    model, n_steps = make_model(algo, env_id, 0, stated_hyperparams(algo, env_id) | dict(buffer_size=10_000))
    assert isinstance(model, ALGORITHMS[algo])
    assert n_steps % TASKS[env_id].curve_every == 0, "the curve ends with the final model"


@pytest.mark.parametrize("env_id", STUDIES)
def test_ablations_differ_in_what_they_name(env_id: str) -> None:
    replayed, seen = set(), []
    for settings in variations(env_id).values():
        stated = stated_hyperparams(STUDIES[env_id].algo, env_id) | dict(buffer_size=10_000)
        for setting in settings:
            set_entry(stated, setting)
        make_model(STUDIES[env_id].algo, env_id, 0, stated)
        replayed.add(stated["sequence_length"] * stated["batch_size"])
        assert stated not in seen
        seen.append(stated)
    assert len(replayed) == 1


@pytest.mark.parametrize("study", cores.STUDIES.values(), ids=cores.STUDIES)
def test_cores_are_compared_with_otherwise_equal_settings(study: cores.Study) -> None:
    seen, others = [], []
    for core in cores.CORES.values():
        stated = stated_hyperparams(study.algo, study.env_id) | dict(buffer_size=10_000)
        for setting in (*study.settings, *core):
            set_entry(stated, setting)
        _, n_steps = make_model(study.algo, study.env_id, 0, stated)
        assert n_steps % TASKS[study.env_id].curve_every == 0
        of_core = ("core", "core_kwargs", "lstm_hidden_size", "n_lstm_layers")
        seen.append({name: stated["policy_kwargs"].pop(name, None) for name in of_core})
        others.append(stated)
    assert all(one not in seen[:index] for index, one in enumerate(seen)) and all(one == others[0] for one in others)
    assert_state_is_hidden(study.env_id, others[0].get("env_kwargs"))


def test_when_a_threshold_is_reached() -> None:
    def told(*returns: float) -> tuple[str, str]:
        curve = [dict(steps=1000 * i, processor_seconds=i, **{"return": value}) for i, value in enumerate(returns)]
        return cores.reached(1.0, curve)

    assert told(0, 1, 0, 1, 2) == ("1,000 (1 s)", "3,000 (3 s)")
    assert told(1, 1) == ("0 (0 s)", "0 (0 s)")
    assert told(0, 1, 0) == ("1,000 (1 s)", "never") and told(0, 0) == ("never", "never")


@pytest.mark.parametrize(("algo", "env_id"), [(algo, env_id) for algo in TUNED_FOR for env_id in TUNED_FOR[algo]])
def test_settings_of_others_are_tuned_ones(algo: str, env_id: str) -> None:
    assert stated_hyperparams(algo, env_id) != stated_hyperparams(algo, "none has this name")


@pytest.mark.parametrize("algo", [*MEMORYLESS, *OTHERS])
def test_others_are_scored_through_the_wrappers_they_were_trained_with(algo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env_id = "CartPoleNoVel-v1" if algo in OTHERS else "PendulumNoVel-v1"
    model, _ = make_model(algo, env_id, 0, stated_hyperparams(algo, env_id) | dict(normalize=True, frame_stack=3))
    env: Any = model.get_vec_normalize_env()
    env.obs_rms.mean += 100
    seen = []
    predict = model.predict

    def watched(observations: np.ndarray, *args: Any, **kwargs: Any) -> Any:
        seen.append(observations)
        return predict(observations, *args, **kwargs)

    monkeypatch.setattr(model, "predict", watched)
    score(model, env_id, n_starts=2, seed=0)
    before, latest = np.split(seen[0], [-len(env.obs_rms.mean)], axis=1)
    assert seen[0].shape[1:] == model.observation_space.shape == (3 * latest.shape[1],)
    assert (latest == -env.clip_obs).all() and not before.any()


def test_settings_reach_inner_entries_and_results_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TASKS, "MemoryLength-v0", TASKS["MemoryLength-v0"]._replace(n_starts=5, curve_every=16))
    settings = ["n_timesteps=32", "policy_kwargs.lstm_hidden_size=7"]
    for _ in range(2):
        run("r2d2", "MemoryLength-v0", 0, settings, tmp_path)
    (path,) = (tmp_path / "MemoryLength-v0").iterdir()
    assert len(list((tmp_path / "runs/models/tuned/MemoryLength-v0").iterdir())) == 1
    result = yaml.safe_load(path.read_text())
    assert result["hyperparams"]["policy_kwargs"]["lstm_hidden_size"] == 7
    assert [point["steps"] for point in result["curve"]] == [16, 32]
    assert np.isfinite(result["mean"]) and result["command"].endswith(" ".join(settings))


def test_steps_are_those_of_the_environment_where_actions_are_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env_id = "PendulumNoVel-v1"
    monkeypatch.setitem(TASKS, env_id, TASKS[env_id]._replace(n_starts=2, curve_every=32))
    monkeypatch.setattr("benchmarks.learning.CURVE_STARTS", 2)
    decisions = mock.Mock(wraps=TD3.predict)
    monkeypatch.setattr(TD3, "predict", lambda *args, **kwargs: decisions(*args, **kwargs))
    settings = ["n_timesteps=64", "n_envs=2", "gradient_steps=0", "env_wrapper=[{rl_zoo3.wrappers.FrameSkip: {skip: 5}}]"]
    run("td3", env_id, 0, settings, tmp_path)
    (path,) = (tmp_path / env_id).iterdir()
    result = yaml.safe_load(path.read_text())
    assert [point["steps"] for point in result["curve"]] == [5 * 32, 5 * 64] and result["steps"] == 5 * 64
    # Both points of the curve, the final model with and without memory: 200 steps each
    assert decisions.call_count == 4 * 200 / 5


def test_held_bytes_are_those_of_the_arrays() -> None:
    rows = {row["what"].split(";")[0]: row["ratio"] for row in benchmark_memory(n_steps=500)}
    assert rows["bytes per transition, float32 vector of 50"] == pytest.approx(1.02, abs=0.02)
    assert rows["bytes per transition, uint8 image 84x84"] == pytest.approx(1.0, abs=0.02)


class Interruption(Exception):
    pass


@pytest.mark.parametrize(("algo", "normalize"), [("r2d2", True), ("recurrent_ppo", False)])
def test_interrupted_runs_go_on(algo: str, normalize: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env_id, every = "CartPoleNoVel-v1", 64
    monkeypatch.setitem(TASKS, env_id, TASKS[env_id]._replace(n_starts=2, curve_every=every))
    settings = [f"n_timesteps={4 * every}", f"normalize={str(normalize).lower()}", "n_envs=8"]
    settings += (
        ["learning_starts=16", "buffer_size=800", "gradient_steps=1"]
        if algo == "r2d2"
        else ["n_steps=8", "batch_size=64", "n_epochs=1"]
    )
    monkeypatch.setattr("benchmarks.learning.CURVE_STARTS", 2)
    seen: list[Any] = []

    def interrupted(model: Any, *args: Any) -> dict[str, np.ndarray]:
        seen.append((model.num_timesteps, model._n_updates))
        if len(seen) == 3:
            raise Interruption
        return scores(model, *args)

    monkeypatch.setattr("benchmarks.learning.scores", interrupted)
    with pytest.raises(Interruption):
        run(algo, env_id, 0, settings, tmp_path, tmp_path / "checkpoints")
    run(algo, env_id, 0, settings, tmp_path, tmp_path / "checkpoints")
    (path,) = (tmp_path / env_id).iterdir()
    curve = yaml.safe_load(path.read_text())["curve"]
    assert [point["steps"] for point in curve] == [every, 2 * every, 3 * every, 4 * every]
    assert [point.get("interrupted", False) for point in curve] == [False, True, False, False]
    assert np.all(np.diff([point["seconds"] for point in curve]) >= 0)
    # The third point is reached twice, once by each of the two runs
    assert seen[2][0] == seen[3][0] and seen[3][1] >= seen[1][1] > 0
    assert not any((tmp_path / "checkpoints").glob("*/*"))


def test_comparison_of_checkouts_notices_what_differs() -> None:
    def trained(weight: float, reward: float) -> dict[str, dict[str, np.ndarray]]:
        return {"parameters": {"weight": np.array([1.0, weight])}, "replay": {"rewards": np.array([reward])}}

    same = trained(0.0, 1.0)
    assert compare(same, trained(0.0, 1.0)).startswith("equal") and compare(same, same | {"replay": {}}).startswith("equal")
    assert "by up to 1e-09 (weight)" in compare(same, trained(1e-9, 1.0))
    assert "by up to 0 (weight)" in compare(same, trained(-0.0, 1.0))
    assert "by up to nan (rewards)" in compare(same, trained(0.0, np.nan))
    assert "only one has" in compare(same, same | {"parameters": {}})


def test_comparison_of_checkouts_finds_replayed_arrays_wherever_they_lie() -> None:
    class Part:
        __module__ = "sb3_recurrent_offpolicy.anywhere"

    outer, inner = Part(), Part()
    inner.__dict__ |= {"_rewards": np.ones(2), "whole": outer}
    outer.__dict__ |= {"part": inner, "rings": [{"actions": np.zeros(3)}], "weights": np.zeros(1)}
    assert {name: array.shape for name, array in arrays(outer).items()} == {"rewards": (2,), "actions": (3,)}


def test_overlap_is_measured_with_one_update_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("benchmarks.overlap.time.sleep", slept.append)
    model = learner(RecurrentTD3, 0.005, 2, DummyVecEnv)
    assert model._n_updates == 0 and slept == [0.005] * FILLED
    update_against_step(model, "what", n_steps=3, rounds=1)
    assert model._n_updates == 2 * 3 and len(slept) == FILLED + 2 * 3 * 2
    overlap_against_turns(model, "what", n_steps=3, rounds=1)
    assert model._n_updates == 2 * 3 + 4 * 3 and len(slept) == FILLED + 2 * 3 * 2 + 4 * 3 * 2
    assert model.get_env().env_is_wrapped(Sleeps) == [True] * 2


@pytest.mark.parametrize("algorithm", FLOORS, ids=lambda algorithm: algorithm.__name__)
def test_the_floor_is_the_work_of_an_update(algorithm: Any) -> None:
    """As many steps of memories and multiplications of heads, forward; backward follows from them."""
    model = model_to_update(BASE | dict(length=8, batch=4, hidden=6), "cpu", algorithm, heads=[5, 7])
    samples = model._sample_sequences(4)
    length = len(samples.actions)
    work = []
    for call in (lambda: model.train(FLOORS[algorithm].n_updates, 4), floor(model, length, 4)):
        steps: list[int] = []
        products: list[int] = []

        def lstm(inputs: Any, *args: Any, steps: list[int] = steps, original: Any = th.lstm) -> Any:
            steps.append(len(inputs))
            return original(inputs, *args)

        def linear(inputs: Any, weight: Any, *args: Any, found: list[int] = products, original: Any = F.linear) -> Any:
            found.append(inputs.numel() // inputs.shape[-1] * weight.numel())
            return original(inputs, weight, *args)

        with (
            mock.patch.object(model, "_sample_sequences", lambda batch_size: samples),
            mock.patch.object(th, "lstm", lstm),
            mock.patch.object(th._VF, "lstm", lstm),
            mock.patch.object(F, "linear", linear),
        ):
            call()
        work.append((sorted(steps), sum(products)))
    assert work[0] == work[1]


def test_solved_is_what_stays_solved() -> None:
    curve = [[500, 1.0, -900.0], [1000, 2.0, -150.0], [1500, 3.0, -300.0], [2000, 4.0, -190.0], [2500, 5.0, -160.0]]
    assert solved(curve, -200) == (2000, 4.0)
    assert solved(curve, -155) == (np.inf, np.inf)
    assert solved(curve, -1000) == (500, 1.0)


def test_trained_model_is_kept_with_its_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.learning.MODELS", tmp_path)
    settings = ["n_timesteps=64", "n_envs=2", "normalize=true", "learning_starts=20"]
    first = trained_model("r2d2", "CartPoleNoVel-v1", 5, settings)
    again = trained_model("r2d2", "CartPoleNoVel-v1", 5, settings)
    assert len(list(tmp_path.rglob("*.zip"))) == 1
    for weights, others in zip(first.policy.parameters(), again.policy.parameters(), strict=True):
        assert th.equal(weights, others)
    statistics: Any = [model.get_vec_normalize_env() for model in (first, again)]
    assert statistics[0].obs_rms.count > 60
    np.testing.assert_array_equal(statistics[0].obs_rms.mean, statistics[1].obs_rms.mean)
