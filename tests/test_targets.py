"""Learning targets against loops that read like their definition."""

import numpy as np
import pytest
import torch as th

from sb3_recurrent_offpolicy.targets import (
    masked_mean,
    munchausen_bonus,
    n_step_targets,
    rescale_values,
    soft_maximum,
    unrescale_values,
)


def brute_force(
    rewards: np.ndarray, terminated: np.ndarray, length: int, next_values: np.ndarray, gamma: float, n: int
) -> list[float]:
    targets = []
    for t in range(length):
        total, discount = 0.0, 1.0
        for k in range(t, min(t + n, length)):
            total += discount * rewards[k]
            discount *= gamma
            if terminated[k]:
                break
            last = k
        else:
            total += discount * next_values[last]
        targets.append(total)
    return targets


@pytest.mark.parametrize("n_steps", [1, 2, 3, 5, 20])
def test_n_step_targets(n_steps: int) -> None:
    """T6: at every pattern of padding, termination and truncation."""
    generator = np.random.default_rng(0)
    T, B, gamma = 7, 40, 0.9
    lengths = generator.integers(1, T + 1, size=B)
    mask = (np.arange(T)[:, None] < lengths).astype(np.float32)
    terminated = np.zeros((T, B), dtype=np.float32)
    terminated[lengths - 1, np.arange(B)] = generator.random(B) < 0.5
    rewards, next_values = (generator.normal(size=(T, B)).astype(np.float32) for _ in range(2))

    r, term, m, v = map(th.as_tensor, (rewards, terminated, mask, next_values))
    targets = n_step_targets(r, term, m, v, gamma, n_steps)
    for row, length in enumerate(lengths):
        expected = brute_force(rewards[:, row], terminated[:, row], length, next_values[:, row], gamma, n_steps)
        np.testing.assert_allclose(targets[:length, row], expected, atol=1e-5)


def test_one_step_target_is_the_temporal_difference() -> None:
    rewards, terminated, next_values = th.randn(3, 2), th.tensor([[0.0, 1.0]] * 3), th.randn(3, 2)
    targets = n_step_targets(rewards, terminated, th.ones(3, 2), next_values, 0.9)
    th.testing.assert_close(targets, rewards + 0.9 * (1 - terminated) * next_values)


def test_masked_mean_ignores_padding_whatever_it_holds() -> None:
    """T7: neither its value nor its number counts."""
    values = th.tensor([[1.0, 2.0], [float("nan"), 3.0], [float("inf"), 6.0]], requires_grad=True)
    mask = th.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    mean = masked_mean(values, mask)
    assert mean.item() == 2.0
    mean.backward()
    assert values.grad is not None
    th.testing.assert_close(values.grad, mask / 3)


def test_rescaling_and_its_inverse() -> None:
    values = th.cat([th.logspace(-6, 5, 2000), th.zeros(1)])
    values = th.cat([values, -values])
    expected = values.sign() * ((values.abs().double() + 1).sqrt() - 1) + 1e-3 * values.double()
    th.testing.assert_close(rescale_values(values), expected.float(), rtol=1e-5, atol=1e-6)
    th.testing.assert_close(unrescale_values(expected.float()), values, rtol=1e-5, atol=1e-5)
    th.testing.assert_close(unrescale_values(rescale_values(values)), values, rtol=1e-5, atol=1e-5)
    assert (rescale_values(values).diff()[:1999] > 0).all()


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_soft_values_are_those_of_a_softmax_policy(temperature: float) -> None:
    """Its expected value with its entropy, and its log-probabilities in units of values; both finite where one action wins."""
    q_values = th.cat([th.randn(50, 3), th.tensor([[100.0, 0.0, -100.0]])]).double()
    policy = (q_values / temperature).softmax(dim=-1)
    log_policy = (q_values / temperature).log_softmax(dim=-1)
    expected = (policy * (q_values - temperature * log_policy)).sum(dim=-1)
    th.testing.assert_close(soft_maximum(q_values, temperature), expected)
    for action in range(3):
        bonus = munchausen_bonus(q_values, soft_maximum(q_values, temperature), th.full((51, 1), action))
        th.testing.assert_close(bonus, (temperature * log_policy[:, action]).clamp(min=-1.0))


def test_a_clearly_best_action_has_no_bonus() -> None:
    q_values = th.tensor([[5.0, 1.0, -7.0]])
    values = soft_maximum(q_values, 0.01)
    assert [munchausen_bonus(q_values, values, th.tensor([[action]])).item() for action in range(3)] == [0.0, -1.0, -1.0]
    assert values.item() == 5.0
