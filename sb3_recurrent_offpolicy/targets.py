"""Learning targets as pure functions of time-major tensors."""

import torch as th


def masked_mean(values: th.Tensor, mask: th.Tensor) -> th.Tensor:
    """
    Mean over the steps that exist: padding neither contributes nor dilutes.

    :param values: (T, B); what stands in padding is ignored, even NaN
    :param mask: (T, B), 1 = count
    :return: scalar; the plain mean where nothing is masked
    """
    return th.where(mask > 0, values, 0.0).sum() / mask.sum()


def mean_item(values: list[th.Tensor]) -> float:
    """
    :param values: tensors of one element, to be logged
    :return: their mean
    """
    return sum(value.item() for value in values) / len(values)


def n_step_targets(
    rewards: th.Tensor,
    terminated: th.Tensor,
    mask: th.Tensor,
    next_values: th.Tensor,
    gamma: float,
    n_steps: int = 1,
) -> th.Tensor:
    """
    n-step bootstrapped returns (Sutton & Barto 2018, eq. 7.1), cut short where a row ends.

    .. math:: y_t = \\sum_{k=0}^{m-1} \\gamma^k r_{t+k} + \\gamma^m V(o_{t+m})

    with m the smallest of ``n_steps``, the steps left in the row and the steps up to termination, after which no value is
    bootstrapped. A row that ends at a time limit, or in the middle of an episode, bootstraps from its last observation.

    :param rewards: (T, B)
    :param terminated: (T, B), 1 where the episode ended for good
    :param mask: (T, B), 1 = the step exists; ones come first in every row
    :param next_values: (T, B), V(o_{t+1}) of the observation that follows each step, or (T, B, n): n values of each, quantiles
        of a distribution say
    :param gamma: discount factor per step
    :param n_steps: steps before the bootstrap; 1 is the usual temporal-difference target
    :return: the shape of ``next_values``; meaningless where ``mask`` is 0
    """
    for _ in range(next_values.dim() - rewards.dim()):
        rewards, terminated, mask = rewards.unsqueeze(-1), terminated.unsqueeze(-1), mask.unsqueeze(-1)
    discounts = gamma * (1.0 - terminated)
    targets = rewards + discounts * next_values
    has_successor = mask[1:] > 0
    # The first step of a row has no more than T - 1 steps behind it
    for _ in range(min(n_steps, len(rewards)) - 1):
        successors = th.where(has_successor, targets[1:], next_values[:-1])
        targets = rewards + discounts * th.cat([successors, next_values[-1:]])
    return targets


def soft_maximum(q_values: th.Tensor, temperature: float) -> th.Tensor:
    """
    The value of the policy softmax(Q / temperature), its entropy included (Vieillard et al. 2020,
    https://arxiv.org/abs/2007.14430, section 2):

    .. math:: V = \\sum_a \\pi(a) (Q(a) - \\tau \\log \\pi(a)) = \\tau \\log \\sum_a \\exp(Q(a) / \\tau)

    :param q_values: (..., n_actions)
    :param temperature: tau, in units of the values; towards 0 the maximum
    :return: (...)
    """
    return temperature * th.logsumexp(q_values / temperature, dim=-1)


def munchausen_bonus(q_values: th.Tensor, values: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """
    What is added to the reward of an action (Vieillard et al. 2020, section 2): its log-probability under
    softmax(Q / temperature), tau log pi(a) = Q(a) - V, cut at -1 as in the paper. It is 0 for a clearly best action.

    :param q_values: (..., n_actions)
    :param values: V, their :func:`soft_maximum`, (...)
    :param actions: those taken, (..., 1)
    :return: (...), between -1 and 0
    """
    return (q_values.gather(-1, actions).squeeze(-1) - values).clamp(-1.0, 0.0)


def rescale_values(values: th.Tensor, epsilon: float = 1e-3) -> th.Tensor:
    """
    Squash values of any size into a range that a network can learn (Pohlen et al. 2018, proposition A.2):

    .. math:: h(x) = \\operatorname{sign}(x) (\\sqrt{|x| + 1} - 1) + \\varepsilon x

    :param values: any shape
    :param epsilon: keeps the inverse Lipschitz continuous
    :return: the same shape
    """
    return values.sign() * ((values.abs() + 1.0).sqrt() - 1.0) + epsilon * values


def unrescale_values(values: th.Tensor, epsilon: float = 1e-3) -> th.Tensor:
    """
    The inverse of :func:`rescale_values`, written so that float32 does not cancel digits away: with s = sqrt(|x| + 1),
    |h| = (s - 1) + epsilon (s - 1)(s + 1) is a quadratic equation in s - 1.

    :param values: any shape
    :param epsilon: as there
    :return: the same shape
    """
    size = values.abs()
    b = 1.0 + 2.0 * epsilon
    # The root of epsilon u^2 + b u - |h| = 0 in the form without a difference of near numbers
    u = 2.0 * size / (b + (b * b + 4.0 * epsilon * size).sqrt())
    return values.sign() * u * (u + 2.0)
