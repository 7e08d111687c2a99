"""Actors and their learner, without Ray: actors in this process, and faults on purpose."""

import io
from functools import partial
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_recurrent_offpolicy import R2D2, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.checkpoint import CompleteCheckpoint
from sb3_recurrent_offpolicy.distributed.actor import Actor, weights_of
from sb3_recurrent_offpolicy.distributed.contract import contract_of
from sb3_recurrent_offpolicy.distributed.fleet import ActorLostError
from sb3_recurrent_offpolicy.distributed.messages import Order
from tests.fleet import NumberedEnv, check_counts, check_fleet, fleet_here

SMALL: dict[str, Any] = dict(
    sequence_length=8,
    buffer_size=1600,
    batch_size=4,
    learning_starts=40,
    seed=0,
    policy_kwargs=dict(lstm_hidden_size=8, net_arch=[8]),
)
make_env = NumberedEnv
make_continuous = partial(NumberedEnv, discrete=False)
ALGORITHMS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "R2D2": (R2D2, make_env, {}),
    "R2D2, prioritised": (R2D2, make_env, dict(priority_alpha=0.9)),
    "SAC, discrete": (RecurrentSAC, make_env, {}),
    "TD3": (RecurrentTD3, make_continuous, {}),
    "SAC": (RecurrentSAC, make_continuous, {}),
    "SAC, gSDE": (RecurrentSAC, make_continuous, dict(use_sde=True, sde_sample_freq=4)),
}


def r2d2(**kwargs: Any) -> R2D2:
    return R2D2("MlpLstmPolicy", make_env(), **SMALL | dict(priority_alpha=0.9, gradient_steps=-4) | kwargs)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_steps_of_actors_are_in_the_buffer_as_they_were_made(name: str) -> None:
    algorithm, make, kwargs = ALGORITHMS[name]
    model: Any = algorithm("MlpLstmPolicy", make(), **SMALL | kwargs)
    with fleet_here(model, make, n_actors=3, generator=np.random.default_rng(0)):
        model.learn(300)
        assert 300 <= model.num_timesteps < 300 + 2
    check_fleet(model)
    assert [ring.n_envs for ring in model.replay_buffer.rings] == [1, 2, 2, 2]
    assert not model.replay_buffer.rings[0].allocated


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if "gSDE" not in name])
def test_an_actor_makes_the_steps_that_one_process_makes(name: str) -> None:
    """
    Warm-up, then the policy: actions, rewards and initial errors are equal, one for one. Not with gSDE, whose matrix is drawn
    again at the beginning of each rollout, and a stretch is one.
    """
    algorithm, make, kwargs = ALGORITHMS[name]

    def make_equal() -> gym.Env:
        env = make()
        env.number = 7
        return env

    def venv() -> DummyVecEnv:
        return DummyVecEnv([make_equal] * 3)

    model: Any = algorithm("MlpLstmPolicy", venv(), **SMALL | kwargs)
    # No updates, which a local run would make
    contract = contract_of(model, make_equal, 1, 3, 16)
    actor = Actor(contract, 0, seed=0)
    weights = weights_of(model.policy)
    order = Order(version=0, num_timesteps=0, total_timesteps=96, reward_factor=1.0, obs_rms=None)
    deliveries = [actor.collect(order, weights), actor.collect(order._replace(num_timesteps=48), weights)]

    local: Any = algorithm.load(io.BytesIO(contract.saved_model), venv(), gradient_steps=0, reward_scale=1.0)
    local.set_random_seed(0)
    local.learn(96)
    ring = local.replay_buffer.rings[0]
    assert ring.n_added == 32
    for part, delivery in enumerate(deliveries):
        rows = slice(16 * part, 16 * (part + 1))
        np.testing.assert_array_equal(delivery.steps.observations, ring.observations[rows])
        np.testing.assert_array_equal(delivery.steps.rewards, ring.rewards[rows])
        np.testing.assert_array_equal(delivery.steps.actions, ring.actions[rows])
        assert (delivery.number, delivery.incarnation) == (part, actor.incarnation)
    if name == "R2D2, prioritised":
        errors = np.concatenate([delivery.errors for delivery in deliveries])
        np.testing.assert_allclose(errors, local.replay_buffer.priorities[0].errors[:31], rtol=1e-5)
        assert np.isfinite(errors).all()
    else:
        assert deliveries[0].errors is None


def test_stored_states_are_those_that_were_acted_with() -> None:
    model = r2d2()
    with fleet_here(model, make_env, n_actors=1):
        model.learn(160)
    ring = model.replay_buffer.rings[1]
    times = np.arange(0, 16, ring.stride)
    envs, starts = np.zeros_like(times), ring.episode_steps[:16] == 0
    stored = ring.unpack(th.as_tensor(ring.packed_states(times, envs, starts[times, 0])))
    # The first orders were given before any update
    trace = r2d2().policy.trace(ring.observations[:16], ring.actions[:16, :, 0], starts)
    for array, state in zip(stored.pi, trace.lstm_states.pi, strict=True):
        th.testing.assert_close(array, state[times][:, :, 0].transpose(0, 1))


FAULTS = st.sampled_from([None] * 4 + ["dies", "is lost", "comes twice"])


@settings(max_examples=25, deadline=None)
@given(st.lists(FAULTS, max_size=15), st.integers(0, 100), st.sampled_from([1, 2, 3]))
def test_faults_lose_nothing_that_has_reached_the_buffer(faults: list[Any], seed: int, n_actors: int) -> None:
    model = r2d2(gradient_steps=0, buffer_size=20_000)
    generator = np.random.default_rng(seed)
    with (
        mock.patch("sb3_recurrent_offpolicy.distributed.fleet.MOST_FAILURES", 100),
        fleet_here(model, make_env, n_actors=n_actors, faults=faults, generator=generator) as fleet,
    ):
        model.learn(400)
        assert fleet.records.n_restarts == sum(fault in ("dies", "is lost") for fault in faults)
    check_fleet(model)


def test_an_actor_that_hangs_is_replaced_while_others_deliver() -> None:
    model = r2d2()
    with fleet_here(model, make_env, n_actors=3, hung=[1], time_limit=0.0) as fleet:
        model.learn(300)
        assert fleet.records.n_restarts == 1
        assert all(member.n_delivered > 2 for member in fleet.members)
    check_fleet(model)


def test_learning_goes_on_after_an_actor_has_failed_too_often() -> None:
    model = r2d2()
    with fleet_here(model, make_env, n_actors=1, faults=["dies"] * 3) as fleet:
        with pytest.raises(ActorLostError, match="it was killed"):
            model.learn(100)
        model.learn(100)
        assert fleet.records.n_restarts == 3
    check_fleet(model)


def test_an_environment_that_raises_now_and_then_is_made_anew() -> None:
    model = r2d2(buffer_size=20_000)
    with fleet_here(model, partial(NumberedEnv, n_steps=30)) as fleet:
        model.learn(600)
        assert fleet.records.n_restarts >= 5
    check_fleet(model)


def test_an_environment_that_always_fails_ends_the_run_with_its_own_error() -> None:
    model = r2d2()
    with pytest.raises(ZeroDivisionError, match="worn out"), fleet_here(model, partial(NumberedEnv, n_steps=3)):
        model.learn(100)
    assert (model.num_timesteps, model.deliveries) == (0, None)
    model.learn(60)
    assert model._n_updates > 0


def test_an_environment_of_another_kind_is_named() -> None:
    model = r2d2()
    with (
        pytest.raises(ValueError, match="make_env makes another kind"),
        fleet_here(model, make_continuous),
    ):
        model.learn(100)


def test_updates_per_step_are_those_of_one_process() -> None:
    model = r2d2(gradient_steps=-4)
    with fleet_here(model, make_env):
        model.learn(400)
    local = R2D2("MlpLstmPolicy", DummyVecEnv([make_env] * 2), **SMALL | dict(gradient_steps=-4))
    local.learn(400)
    assert model._n_updates == local._n_updates == pytest.approx((400 - 40) / 4, abs=1)


def test_exploration_rates_spread_over_the_fleet() -> None:
    model = r2d2()
    rates = []
    with fleet_here(model, make_env, n_actors=4, n_envs=3) as fleet:
        model.learn(100)
        rates = [actor.model.behavior.exploration_rates for actor in fleet.transport.actors]
        assert model.exploration_rate == pytest.approx(np.mean(rates))
    np.testing.assert_allclose(np.concatenate(rates), 0.4 ** (1 + 7 * np.arange(12) / 11))
    assert model.exploration_rates().shape == (1,)


class Seen(BaseCallback):
    def __init__(self, stop_at: int = 10**9):
        super().__init__()
        self.stop_at = stop_at
        self.rows: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        names = ("new_obs", "rewards", "dones", "infos", "actions")
        self.rows.append({name: self.locals[name] for name in names} | {"steps": self.num_timesteps})
        return self.num_timesteps < self.stop_at


def test_callbacks_see_what_they_see_in_one_process() -> None:
    model, seen = r2d2(), Seen()
    with fleet_here(model, make_env, n_actors=1):
        model.learn(100, callback=seen)
        assert [row["steps"] for row in seen.rows] == list(range(2, 102, 2))
    for row, following in zip(seen.rows, seen.rows[1:], strict=False):
        for env in range(2):
            number, episode, time = row["new_obs"][env].tolist()
            if row["dones"][env]:
                info = row["infos"][env]
                assert time == 0 and info["episode"]["l"] == info["time"]
                np.testing.assert_array_equal(info["terminal_observation"], [number, episode - 1, info["time"]])
                assert info["TimeLimit.truncated"] == (episode % 2 == 0)
            else:
                assert row["infos"][env]["time"] == time and row["infos"][env]["TimeLimit.truncated"] is False
            assert following["infos"][env]["time"] == time + 1
    assert len(model.ep_info_buffer) > 5  # type: ignore[arg-type]


def test_a_callback_stops_in_mid_stretch_and_learn_goes_on() -> None:
    model = r2d2()
    with fleet_here(model, make_env):
        model.learn(1000, callback=Seen(stop_at=50))
        assert (model.num_timesteps, model.uncounted_steps) == (50, 14)
        model.learn(51, reset_num_timesteps=False)
        assert model.num_timesteps == 102
        model.learn(1000, callback=StopTrainingOnMaxEpisodes(3), reset_num_timesteps=False)
    check_fleet(model)
    n_steps = model.num_timesteps
    # The model's own environment goes on where it stood
    model.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps == n_steps + 20


def test_vec_normalize_is_updated_by_each_step_once() -> None:
    env = VecNormalize(DummyVecEnv([make_env]), gamma=0.9)
    model = R2D2("MlpLstmPolicy", env, **SMALL)
    evaluation = VecNormalize(DummyVecEnv([lambda: Monitor(make_env())]), training=False, norm_reward=False)
    with fleet_here(model, make_env) as fleet:
        model.learn(200, callback=EvalCallback(evaluation, eval_freq=20, n_eval_episodes=2, verbose=0))
        known = [actor.normalizer.obs_rms.mean for actor in fleet.transport.actors]
    known_by_learner: Any = env.obs_rms
    # SB3 computes last observations of episodes back from normalised ones, which is not exact
    check_counts(model)
    rings = [ring for ring in model.replay_buffer.rings[1:]]
    steps = np.concatenate([ring.observations[: ring.n_added].reshape(-1, 3) for ring in rings])
    # One reset of the model's own environment came first
    np.testing.assert_allclose(known_by_learner.mean[1:], steps.mean(axis=0)[1:], rtol=0.05)
    assert known_by_learner.count == pytest.approx(len(steps) + 1, abs=0.1)
    assert all(mean.any() for mean in known), "actors know the statistics"
    returns = []
    for ring in rings:
        value = np.zeros(2)
        for rewards, ages in zip(ring.rewards[: ring.n_added], ring.episode_steps[: ring.n_added], strict=True):
            value = 0.9 * value * (ages > 0) + rewards
            returns.append(value)
    assert env.ret_rms.var == pytest.approx(np.var(returns), rel=0.01)


def test_other_wrappers_are_refused() -> None:
    model = R2D2("MlpLstmPolicy", VecFrameStack(DummyVecEnv([make_env]), 2), **SMALL)
    with pytest.raises(ValueError, match="VecFrameStack wraps"):
        contract_of(model, make_env, 2, 2, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(n_actors=0), "n_actors=0"),
        (dict(n_envs=0), "envs_per_actor=0"),
        (dict(stretch_length=7), "stretch_length=7 must be a multiple of the replay buffer's stride=2"),
        (dict(n_actors=1000), "buffer_size=1600"),
        (dict(make_env=3), "make_env=3"),
    ],
)
def test_impossible_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = dict(make_env=make_env, n_actors=2, n_envs=2, stretch_length=None) | arguments
    with pytest.raises(ValueError, match=message):
        contract_of(r2d2(), **given)


def test_a_fleet_is_not_saved_and_a_checkpoint_counts_every_step(tmp_path: Any) -> None:
    model = r2d2()
    with fleet_here(model, make_env):
        model.learn(210, callback=CompleteCheckpoint(100, tmp_path / "run"))
        model.save(tmp_path / "model")
        resumed = R2D2.resume(tmp_path / "run")
    assert R2D2.load(tmp_path / "model").deliveries is None
    assert (resumed.deliveries, resumed.fleet_place, resumed.num_timesteps) == (None, None, 210)
    with fleet_here(resumed, make_env):
        assert resumed.num_timesteps == 210 + 14
        resumed.learn(200, reset_num_timesteps=False)
    check_fleet(resumed)
    assert len(resumed.replay_buffer.rings) == 3, "actors go on in the rings that are there"


def test_actors_join_and_leave_between_runs(tmp_path: Any) -> None:
    model = r2d2(buffer_size=4000)
    for n_actors in (1, 3, 2):
        with fleet_here(model, make_env, n_actors=n_actors):
            model.learn(120, reset_num_timesteps=False)
        check_fleet(model)
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = r2d2(buffer_size=4000)
    loaded.load_replay_buffer(tmp_path / "buffer")
    loaded.num_timesteps = model.num_timesteps
    with fleet_here(loaded, make_env, n_actors=2):
        loaded.learn(120, reset_num_timesteps=False)
    check_fleet(loaded)


def test_monitor_files_and_logs_tell_of_the_fleet(tmp_path: Any) -> None:
    env = make_vec_env(make_env, monitor_dir=str(tmp_path))
    model = R2D2("MlpLstmPolicy", env, **SMALL)
    logged: dict[str, Any] = {}

    class Keep(KVWriter):
        def write(self, key_values: Any, key_excluded: Any, step: int = 0) -> None:
            logged.update(key_values)

        def close(self) -> None:
            pass

    model.set_logger(Logger(None, [Keep()]))
    with fleet_here(model, make_env, faults=[None, "dies"]):
        model.learn(400, log_interval=1)
    found = load_results(str(tmp_path))
    assert len(found) == model._episode_num and set(found["l"]) <= {1, 5, 7, 12}
    assert logged["distributed/restarts"] == 1 and logged["distributed/stretches_in_flight"] == 3
    assert 0 < logged["distributed/policy_lag_mean"] <= logged["distributed/policy_lag_max"]
    assert logged["distributed/weights_age_s"] > 0 and logged["distributed/steps_per_s_slowest"] > 0
    assert "rollout/ep_rew_mean" in logged and "rollout/exploration_rate" in logged


def test_noise_of_actors_is_their_own() -> None:
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.3 * np.ones(2))
    model = RecurrentTD3("MlpLstmPolicy", make_continuous(), action_noise=noise, **SMALL)
    with fleet_here(model, make_continuous):
        model.learn(100)
    check_fleet(model)
    model.learn(20)
    assert model.action_noise is noise
