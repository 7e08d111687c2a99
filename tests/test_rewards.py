"""The factor on rewards: dense and rare rewards, outliers, equal returns."""

from collections.abc import Iterator

import numpy as np
import pytest

from sb3_recurrent_offpolicy.rewards import LARGEST_RISE, LARGEST_SCALED_REWARD, ReturnStatistics, RewardNormalizer

GAMMA = 0.95


def factors(rewards: np.ndarray, n_rows: int = 100_000, episode_length: int = 200, train_freq: int = 1) -> Iterator[float]:
    """The factor after each step of one environment, an update following every ``train_freq`` steps."""
    normalizer, returns_of_ring = RewardNormalizer(), ReturnStatistics(1, n_rows)
    normalizer.statistics[0] = returns_of_ring
    for step, reward in enumerate(rewards):
        returns_of_ring.add(np.array([reward]), np.array([step % episode_length == 0]), GAMMA)
        if step % train_freq == 0:
            normalizer.update()
        yield normalizer.factor


def returns(rewards: np.ndarray, episode_length: int = 200) -> np.ndarray:
    found = np.zeros(len(rewards))
    for step, reward in enumerate(rewards):
        found[step] = reward + (GAMMA * found[step - 1] if step % episode_length else 0.0)
    return found


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_dense_rewards_of_any_size_have_returns_of_deviation_one(size: float) -> None:
    rewards = size * np.random.default_rng(0).normal(-1, 1, size=3_000)
    found = np.fromiter(factors(rewards), dtype=float)
    assert found[-1] == pytest.approx(1 / returns(rewards).std(), rel=1e-6)
    late = found[1_000:]
    assert late.max() / late.min() < 1.3, "the critic's targets keep their scale"


def test_one_success_in_ten_thousand_steps_is_no_more_than_ten() -> None:
    """After 10,000 steps of 0 a reward of 1, and then one in 1,000 steps: divided by the deviation it would be about 100."""
    rewards = np.zeros(40_000)
    rewards[10_000::1_000] = 1.0
    found = np.fromiter(factors(rewards), dtype=float)
    assert (found[:10_000] == 1.0).all(), "nothing to scale by"
    assert (found[10_000:] == LARGEST_SCALED_REWARD).all(), "and no change afterwards"


def test_more_successes_lower_it_slowly() -> None:
    rewards = np.zeros(60_000)
    rewards[10_000::1_000] = 1.0
    rewards[20_000::100] = 1.0
    found = np.fromiter(factors(rewards, train_freq=10), dtype=float)
    assert found[-1] < 6 and found.max() <= LARGEST_SCALED_REWARD
    after_the_first = found[10_000:]
    assert (after_the_first[1_000:] / after_the_first[:-1_000]).min() > 0.4


def test_an_outlier_is_forgotten_with_its_step_and_the_factor_recovers_slowly() -> None:
    rewards = np.random.default_rng(0).normal(-1, 1, size=20_000)
    usual = np.fromiter(factors(rewards, n_rows=2_000), dtype=float)
    rewards[5_000] = 1e6
    found = np.fromiter(factors(rewards, n_rows=2_000), dtype=float)
    np.testing.assert_array_equal(found[:5_000], usual[:5_000])
    assert found[5_000] <= LARGEST_SCALED_REWARD / 1e6 * 1.01, "at once: it is replayed from now on"
    # The oldest portion goes as a whole, a 64th of the ring later at most
    assert (found[5_000:7_000] < 2e-4).all()
    assert (found[101:] / found[100:-1]).max() <= LARGEST_RISE + 1e-9
    assert found[-1] == pytest.approx(usual[-1], rel=0.05)


@pytest.mark.parametrize("value", [0.0, 0.1, -5.0])
def test_equal_returns_are_not_scaled_by_their_rounding(value: float) -> None:
    found = np.fromiter(factors(np.full(400, value), episode_length=1), dtype=float)
    assert (found == 1.0).all()


def test_huge_rewards_stay_finite() -> None:
    found = np.fromiter(factors(np.array([1.0, 3e38, 3e38, -3e38] * 50)), dtype=float)
    assert np.isfinite(found).all() and (found[1:] > 0).all()


def test_several_environments_and_whole_episodes() -> None:
    """One update after many steps counts what many updates count."""
    generator = np.random.default_rng(0)
    rewards, starts = generator.normal(size=(700, 3)), generator.random((700, 3)) < 0.1
    often, seldom = RewardNormalizer(), RewardNormalizer()
    for normalizer in (often, seldom):
        normalizer.statistics[0] = ReturnStatistics(3, 1_000)
    for reward, start in zip(rewards, starts, strict=True):
        for normalizer in (often, seldom):
            normalizer.statistics[0].add(reward, start, GAMMA)
        often.statistics[0].count()
    assert seldom.update() == pytest.approx(often.update(), rel=1e-12)
