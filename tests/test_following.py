"""Networks that follow others: their rates, what they copy, and who acts with them."""

import copy
import pathlib
import pickle
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_recurrent_offpolicy.policies.following import Followers, averaging_rate
from tests.models import VARIANTS, Variant, learned_parameters, random_env_model
from tests.setup import KWARGS, model_on, random_envs


def shares(n_updates: int, decay: float) -> np.ndarray:
    """Of the weights after each update in the average, those before the first one included."""
    kept = 1.0 - np.array([averaging_rate(decay, n) for n in range(1, n_updates + 1)])
    # What an update brings, times what the later ones keep of it
    later = np.append(np.cumprod(kept[::-1])[::-1], 1.0)
    return later * np.append(1.0, 1.0 - kept)


def test_early_averages_span_the_last_tenth() -> None:
    for n_updates in (50, 200, 1000):
        of_updates = shares(n_updates, decay=0.9999)
        assert of_updates.sum() == pytest.approx(1.0)
        assert of_updates[0] < 1e-6, "how the weights began is forgotten"
        mean_age = (of_updates * np.arange(n_updates, -1, -1)).sum()
        assert mean_age == pytest.approx(n_updates / 10, rel=0.15)


def test_later_the_decay_rules() -> None:
    assert averaging_rate(0.99, 889) > averaging_rate(0.99, 890) == averaging_rate(0.99, 10**6) == pytest.approx(0.01)
    mean_age = (shares(5000, decay=0.99) * np.arange(5000, -1, -1)).sum()
    assert mean_age == pytest.approx(99, rel=0.01)


def test_followers_move_parameters_and_copy_buffers() -> None:
    shared, norm = th.nn.Linear(2, 2), th.nn.BatchNorm1d(2)
    networks = [th.nn.Sequential(shared, th.nn.Linear(2, 1)), th.nn.Sequential(shared, norm)]
    followers: Any = Followers(networks)
    assert followers.copies[0][0] is followers.copies[1][0] is not shared
    assert len(followers.parameters) == len(set(followers.parameters)) == len(followers.followed) == 6
    assert not followers.copies.training and not any(parameter.requires_grad for parameter in followers.parameters)
    before = [parameter.clone() for parameter in followers.parameters]
    with th.no_grad():
        for parameter in followers.followed:
            parameter.add_(4.0)
        norm(th.randn(8, 2))
    statistics: Any = norm.running_mean
    # Copies of followers follow the copies of networks
    again, other_networks = copy.deepcopy((followers, networks))
    assert again.followed[0] is other_networks[0][0].weight
    for each in (followers, again):
        each.follow(0.25)
        for parameter, old in zip(each.parameters, before, strict=True):
            th.testing.assert_close(parameter, old + 1.0)
        assert each.copies[1][1].num_batches_tracked == 1 and th.equal(each.copies[1][1].running_mean, statistics)
    followers.follow(1.0)
    assert all(map(th.equal, followers.parameters, followers.followed))
    assert not any(map(th.equal, again.parameters, again.followed))


@pytest.mark.parametrize("variant", VARIANTS)
def test_predict_acts_with_averaged_weights(variant: Variant, tmp_path: pathlib.Path) -> None:
    averaging = random_env_model(variant, policy_kwargs=dict(average_decay=0.5))
    policy = averaging.policy
    expected = [parameter.clone() for parameter in policy.averaged_network.parameters()]
    for n in range(1, 13):
        averaging.train(1, 8)
        rate = averaging_rate(0.5, n)
        assert rate == 0.5 if n >= 8 else rate > 0.5
        weights = policy.acting_network.parameters()
        expected = [(1 - rate) * average + rate * weight for average, weight in zip(expected, weights, strict=True)]
    for found, average in zip(policy.predicting_network.parameters(), expected, strict=True):
        assert not found.requires_grad
        th.testing.assert_close(found, average)

    averaging.save(tmp_path / "model")
    copies = [
        averaging,
        variant.algorithm.load(tmp_path / "model", env=averaging.get_env()),
        *(copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))),
    ]
    observations, starts = np.ones((1, 2), dtype=np.float32), np.ones(1, dtype=bool)
    _, state = averaging.predict(observations, deterministic=True)
    (memory, _), no_action = policy.initial_memory(1)
    acted = policy.act(observations, memory, no_action, starts)
    for each in copies:
        with th.no_grad():
            for parameter in getattr(each, "policy", each).acting_network.parameters():
                parameter.add_(1.0)
        _, after = each.predict(observations, deterministic=True)
        for array, before in zip(after[:-1], state[:-1], strict=True):
            np.testing.assert_array_equal(array, before)
    assert not any(map(th.equal, acted.state, policy.act(observations, memory, no_action, starts).state))
    # And they go on following
    loaded = copies[1].policy
    loaded.update_average(100)
    for found, average, weight in zip(
        loaded.averaged_network.parameters(), expected, loaded.acting_network.parameters(), strict=True
    ):
        th.testing.assert_close(found, 0.5 * (average + weight))


@pytest.mark.parametrize("variant", VARIANTS)
def test_exploration_and_learning_know_nothing_of_it(variant: Variant) -> None:
    runs = []
    for decay in (0.0, 0.9):
        policy_kwargs = KWARGS["policy_kwargs"] | dict(average_decay=decay)
        env = random_envs(2, action_space=variant.action_space)
        runs.append(model_on(env, variant.algorithm, policy_kwargs=policy_kwargs).learn(120))
    plain, averaging = runs
    assert plain._n_updates == averaging._n_updates > 10
    assert plain.policy.averaged_network is None and plain.policy.predicting_network is plain.policy.acting_network
    assert averaging.policy.predicting_network is averaging.policy.averaged_network
    assert all(map(th.equal, learned_parameters(plain), learned_parameters(averaging)))
    assert all(map(th.equal, plain.policy.targets.parameters, averaging.policy.targets.parameters))
    np.testing.assert_array_equal(plain.replay_buffer.rings[0].actions, averaging.replay_buffer.rings[0].actions)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_must_average(variant: Variant, decay: float) -> None:
    with pytest.raises(ValueError, match=f"average_decay={decay} must be at least 0, which means no average"):
        model_on(random_envs(1, action_space=variant.action_space), variant.algorithm, policy_kwargs=dict(average_decay=decay))
