"""Parameters read and set, whole or in part, optimizers among them; copies of a policy."""

import io
from copy import deepcopy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from tests.sb3_behaviours.cases import Case, assert_same, each, greedy, model_of, randomized


@each
def test_set_parameters_of_another_model(case: Case) -> None:
    """Optimizers among them."""
    model, other = model_of(case).learn(60), model_of(case, seed=7)
    assert not np.array_equal(greedy(model), greedy(other)) or isinstance(case.action_space, spaces.Discrete)
    parameters = model.get_parameters()
    assert set(parameters) == set(model._get_torch_save_params()[0]) >= {"policy", *case.algorithm.optimizer_names}
    other.set_parameters(deepcopy(parameters))
    assert_same(parameters, other.get_parameters())
    np.testing.assert_array_equal(greedy(model), greedy(other))

    # In place, from a zip too
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    policy = other.policy
    other.policy.load_state_dict(randomized(policy.state_dict()))
    other.set_parameters(file, exact_match=True, device="cpu")
    assert other.policy is policy
    assert_same(parameters, other.get_parameters())


@each
def test_set_parameters_that_do_not_fit(case: Case) -> None:
    model = model_of(case).learn(40)
    parameters = deepcopy(model.get_parameters())
    for exact_match in (True, False):
        with pytest.raises(ValueError, match="not_an_object"):
            model.set_parameters(parameters | {"not_an_object": "nor_a_tensor"}, exact_match=exact_match)
    for missing in parameters:
        with pytest.raises(ValueError):
            model.set_parameters({name: value for name, value in parameters.items() if name != missing}, exact_match=True)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.set_parameters(parameters | {"policy": dict(list(parameters["policy"].items())[:-1])}, exact_match=True)
    assert_same(parameters, model.get_parameters())


@each
def test_set_some_parameters(case: Case) -> None:
    model = model_of(case)
    before = deepcopy(model.get_parameters())
    last = list(before["policy"])[-1]
    new = randomized(before["policy"])
    kept = new.pop(last)
    assert not th.equal(kept, before["policy"][last])
    model.set_parameters({"policy": new}, exact_match=False)
    after = model.get_parameters()
    assert_same(after["policy"], new | {last: before["policy"][last]})
    assert_same(
        {name: value for name, value in after.items() if name != "policy"},
        {name: value for name, value in before.items() if name != "policy"},
    )


@each
def test_copy_of_the_policy(case: Case) -> None:
    model = model_of(case).learn(60)
    policy = deepcopy(model.policy)
    expected = greedy(model)
    assert_same(model.policy.state_dict(), policy.state_dict())
    model.policy.load_state_dict(randomized(policy.state_dict()))
    np.testing.assert_array_equal(greedy(policy), expected)
    assert not any(map(th.equal, model.policy.parameters(), policy.parameters()))
    # The copy's targets follow the copy
    policy.update_targets(1.0)
    for name in policy.networks_with_target:
        assert_same(getattr(policy, name).state_dict(), getattr(policy, f"{name}_target").state_dict())
