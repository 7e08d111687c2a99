"""What policies of a known memory are said to remember."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

import sb3_recurrent_offpolicy.envs  # noqa: F401  registers CartPoleUnknown-v1
from sb3_recurrent_offpolicy import R2D2, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.analysis import MemoryUseCallback, contamination, memory_use, probe, recall_density
from sb3_recurrent_offpolicy.analysis.memory_use import _smallest
from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy
from sb3_recurrent_offpolicy.analysis.playing import PolicyPlayer, envs_of, record, returns_of
from sb3_recurrent_offpolicy.analysis.recall import network_inputs
from sb3_recurrent_offpolicy.analysis.remembering import Truncated
from tests.envs import RecallEnv
from tests.memories import Counter, DelayLine, EchoEnv, ShiftRegister, model_with

DELAY = 3
LENGTH = 12


@pytest.fixture(scope="module")
def delay_line() -> Any:
    return memory_use(DelayLine(EchoEnv(DELAY), DELAY), lambda: EchoEnv(DELAY, LENGTH), n_episodes=60)


def test_delay_line_needs_exactly_its_length(delay_line: Any) -> None:
    assert delay_line.uses_memory and delay_line.needs_memory
    assert delay_line.smallest_memory == DELAY
    assert (delay_line.returns["as it is"] == LENGTH - DELAY).all()
    for name in ("zeroed", "exchanged", "imitator without memory", "last 2 steps"):
        # Guessing tells half of the bits
        assert abs(delay_line.returns[name].mean() - (LENGTH - DELAY) / 2) < 1


def test_report_names_ways_and_verdict(delay_line: Any) -> None:
    text = str(delay_line)
    assert "needs memory" in text and f"suffice: {DELAY}" in text and "exchanged" in text
    assert delay_line.lost("zeroed").low > 0
    assert delay_line.intervals()["as it is"] == (LENGTH - DELAY,) * 3


def test_memory_that_is_not_needed() -> None:
    """The bit to be told is the current one: a delay line of no delay remembers nothing."""
    found = memory_use(DelayLine(EchoEnv(0), 0), lambda: EchoEnv(0, LENGTH), n_episodes=20)
    assert not found.uses_memory and not found.needs_memory and found.smallest_memory == 0


def test_memory_too_short_to_be_found() -> None:
    found = memory_use(DelayLine(EchoEnv(9), 9), lambda: EchoEnv(9, 20), n_episodes=20, largest_memory=4)
    assert found.uses_memory and found.smallest_memory is None
    assert "more than were tried" in str(found)


@pytest.mark.parametrize("needed", range(1, 30))
def test_search_finds_the_smallest(needed: int) -> None:
    assert _smallest(lambda k: k >= needed, 24) == (needed if needed <= 24 else None)


def test_single_environment_cannot_exchange() -> None:
    found = memory_use(DelayLine(EchoEnv(DELAY), DELAY), EchoEnv(DELAY, LENGTH), n_episodes=8, largest_memory=4)
    assert "exchanged" not in found.returns and not found.is_paired and found.smallest_memory == DELAY


@pytest.mark.parametrize(("algorithm", "discrete"), [(R2D2, True), (RecurrentSAC, True), (RecurrentTD3, False)])
@pytest.mark.parametrize("core", ["lstm", "gru", "mingru"])
def test_memory_of_all_steps_is_the_memory_as_it_is(algorithm: Any, discrete: bool, core: str) -> None:
    """A window of a whole episode cuts nothing off."""
    env = RecallEnv(discrete=discrete)
    model = algorithm("MlpLstmPolicy", env, seed=0, device="cpu", buffer_size=1000, policy_kwargs=dict(core=core))
    opened = OpenedPolicy(model)
    returns = []
    for player in (PolicyPlayer(opened), Truncated(opened, env.length), Truncated(opened, 2 * env.length)):
        with envs_of(opened, lambda: RecallEnv(discrete=discrete), 5, seed=3) as envs:
            returns.append(returns_of(envs, player, 11))
    for others in returns[1:]:
        np.testing.assert_allclose(returns[0], others, rtol=1e-5)


def test_episodes_are_those_of_evaluate_policy() -> None:
    model = R2D2("MlpLstmPolicy", make_vec_env(EchoEnv, n_envs=2), seed=0, device="cpu", buffer_size=1000)
    opened = OpenedPolicy(model)
    with envs_of(opened, EchoEnv, 7, seed=5, n_envs=3) as envs:
        ours = returns_of(envs, PolicyPlayer(opened), 7)
    theirs: Any = evaluate_policy(model, make_vec_env(EchoEnv, n_envs=3, seed=5), 7, return_episode_rewards=True)
    assert sorted(ours) == sorted(theirs[0])


def test_observations_are_normalised_as_in_training_and_statistics_stay() -> None:
    normalizer = VecNormalize(make_vec_env(EchoEnv, n_envs=2))
    model = RecurrentPPO("MlpLstmPolicy", normalizer, n_steps=16, seed=0, device="cpu").learn(64)
    statistics: Any = normalizer.obs_rms
    statistics.mean[:] = 10.0
    statistics.var[:] = 4.0
    count = statistics.count
    opened = OpenedPolicy(model)
    with envs_of(opened, EchoEnv, 2, seed=0) as envs:
        episode = record(opened, envs, 2)[0]
    np.testing.assert_allclose(np.unique(episode.observations), [-5.5, -4.5], rtol=1e-4)
    assert set(np.unique(episode.rewards)) <= {0.0, 1.0}
    with envs_of(opened, normalizer, 2, seed=0) as envs:
        record(opened, envs, 2)
    assert statistics.count == count and normalizer.training and normalizer.norm_reward


def test_quantities_are_those_of_the_observation_beside_them() -> None:
    model = DelayLine(EchoEnv(DELAY), DELAY)
    opened = OpenedPolicy(model)
    with envs_of(opened, lambda: EchoEnv(DELAY, LENGTH), 3, seed=0) as envs:
        episodes = record(opened, envs, 6, {"asked": "asked", "latest": "bits[-1]"})
    for episode in episodes:
        bits = (episode.observations[:, 0] > 0).astype(int)
        np.testing.assert_array_equal(episode.quantities["latest"], bits)
        np.testing.assert_array_equal(episode.quantities["asked"][DELAY:], bits[:-DELAY])
        np.testing.assert_array_equal(episode.memories[:, 0], episode.observations[:, 0])
        assert len(episode.rewards) == LENGTH


def test_quantities_of_infos_are_read_through_wrappers() -> None:
    """What reset tells, too, and of the next episode after an end."""
    normalizer = VecNormalize(make_vec_env("CartPoleUnknown-v1", n_envs=2, seed=0))
    opened = OpenedPolicy(RecurrentPPO("MlpLstmPolicy", normalizer, n_steps=16, seed=0, device="cpu"))
    with envs_of(opened, normalizer, 6, seed=0) as envs:
        episodes = record(opened, envs, 6, {"told": "info.physics.length", "true": lambda envs, _: lengths(envs)})
    for episode in episodes:
        assert len(set(episode.quantities["told"])) == 1
        np.testing.assert_array_equal(episode.quantities["told"], episode.quantities["true"])
    assert len({episode.quantities["told"][0] for episode in episodes}) == 6


def lengths(envs: Any) -> np.ndarray:
    return np.array([env.length for env in envs.get_attr("unwrapped")])


def test_contamination_of_a_delay_line_lasts_for_its_length() -> None:
    """The odd observation is told k steps later, and at no other step."""
    found = contamination(DelayLine(EchoEnv(DELAY), DELAY), lambda: EchoEnv(DELAY, LENGTH), at=4, n_episodes=40)
    assert found.deviation.shape == (LENGTH - 4,)
    assert 0.2 < found.deviation[DELAY] < 0.8
    assert np.delete(found.deviation, DELAY).max() == 0
    # One bit is told wrongly where the odd one has another sign
    assert found.lost.mean == pytest.approx(found.deviation[DELAY])


def test_contamination_beyond_the_end() -> None:
    with pytest.raises(ValueError, match=f"at=50 is never reached.*{LENGTH} steps"):
        contamination(DelayLine(EchoEnv(DELAY), DELAY), lambda: EchoEnv(DELAY, LENGTH), at=50, n_episodes=2)


def test_recall_of_a_shift_register_is_its_delay() -> None:
    """Behind the memory are the current observation and the one k steps ago: nothing else can count."""
    env = EchoEnv(DELAY, LENGTH)
    density = recall_density(model_with(ShiftRegister, DELAY, env), lambda: EchoEnv(DELAY, LENGTH), n_episodes=4)
    assert all(len(shares) == LENGTH and shares.sum() == pytest.approx(1) for shares in density.episodes)
    by_lag = density.by_lag()
    assert by_lag[0] > 0.05 and by_lag[DELAY] > 0.05
    assert by_lag[0] + by_lag[DELAY] == pytest.approx(1)


def test_recall_of_a_counter_is_the_present() -> None:
    density = recall_density(model_with(Counter, 5, EchoEnv()), EchoEnv, at=6, n_episodes=3)
    np.testing.assert_allclose(density.by_lag(), [1, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("kind", ["r2d2", "td3", "sac", "discrete_sac", "ppo", "ppo_sde", "discrete_ppo"])
def test_network_taken_apart_acts_as_predict(kind: str) -> None:
    """Inputs, memory and outputs, unrolled over an episode, choose the actions that predict has chosen."""
    discrete = kind in ("r2d2", "discrete_sac", "discrete_ppo")
    env = RecallEnv(discrete=discrete)
    algorithm: Any = {
        "r2d2": R2D2,
        "td3": RecurrentTD3,
        "ppo": RecurrentPPO,
        "ppo_sde": RecurrentPPO,
        "discrete_ppo": RecurrentPPO,
    }.get(kind, RecurrentSAC)
    kwargs = dict(n_steps=16, use_sde="sde" in kind) if "ppo" in kind else dict(buffer_size=1000)
    opened = OpenedPolicy(algorithm("MlpLstmPolicy", env, seed=1, device="cpu", **kwargs))
    network = opened.network()
    with envs_of(opened, env, 3, seed=0) as envs, th.no_grad():
        for episode in record(opened, envs, 3):
            inputs = network_inputs(opened, episode)
            memory, _ = network.core.unroll(inputs[:, None], network.core.initial_state(1))
            actions = opened.unscaled(network.outputs(memory[:, 0], inputs))
            np.testing.assert_allclose(actions, episode.actions, atol=1e-5)


def test_callback_logs_what_memory_is_worth() -> None:
    model = R2D2("MlpLstmPolicy", EchoEnv(), seed=0, device="cpu", learning_starts=20, buffer_size=1000)
    logged: dict[int, set[str]] = {}

    class Reader(BaseCallback):
        def _on_step(self) -> bool:
            names = {name for name in self.logger.name_to_value if name.startswith("memory/")}
            logged[self.num_timesteps] = names
            return True

    model.learn(130, callback=[MemoryUseCallback(EchoEnv, eval_freq=50, n_episodes=3), Reader()], log_interval=10**6)
    assert not logged[49]
    assert logged[50] == {"memory/return", "memory/return_zeroed", "memory/return_exchanged"}


def test_models_that_cannot_be_opened() -> None:
    with pytest.raises(ValueError, match="PPO returns no state"):
        memory_use(PPO("MlpPolicy", EchoEnv(), device="cpu", n_steps=16), EchoEnv, n_episodes=2)
    with pytest.raises(ValueError, match="has no predict"):
        memory_use(object(), EchoEnv)
    with pytest.raises(ValueError, match=r"observation_space .* pass the task"):
        memory_use(DelayLine(EchoEnv(DELAY), DELAY), "CartPole-v1", n_episodes=2)
    with pytest.raises(ValueError, match="n_episodes=0"):
        memory_use(DelayLine(EchoEnv(DELAY), DELAY), EchoEnv, n_episodes=0)
    with pytest.raises(ValueError, match="gradients of DelayLine are not known"):
        recall_density(DelayLine(EchoEnv(DELAY), DELAY), EchoEnv)


def test_nothing_of_the_extra_is_imported_until_it_is_needed() -> None:
    code = "import sys, sb3_recurrent_offpolicy.analysis; print(*sys.modules)"
    modules = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert not modules & {"sklearn", "aalpy", "networkx", "plotly"}


def test_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    model = DelayLine(EchoEnv(DELAY), DELAY)
    for call in (lambda: memory_use(model, EchoEnv), lambda: probe(model, EchoEnv, {"asked": "asked"})):
        with pytest.raises(ImportError, match=r"sklearn is missing: pip install 'sb3_recurrent_offpolicy\[analysis\]'"):
            call()
