"""minGRU and RTU: what they compute, step by step, and how long they remember."""

import math
import pathlib
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3, RecurrentTQC
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.cores import MinGRUCore, RTUCore, check_core
from sb3_recurrent_offpolicy.cores.recurrence import linear_recurrence
from tests.recorder import ACTION_SPACE
from tests.setup import KWARGS, random_envs
from tests.test_policies import observations, roll

CORES = [MinGRUCore, RTUCore]


def naive_recurrence(keep: th.Tensor, new: th.Tensor, state: th.Tensor) -> th.Tensor:
    states = []
    for keep_t, new_t in zip(keep, new, strict=True):
        state = keep_t * state + new_t
        states.append(state)
    return th.stack(states)


@pytest.mark.parametrize("core_class", CORES)
@pytest.mark.parametrize("n_layers", [1, 3])
def test_our_cores(core_class: Any, n_layers: int) -> None:
    check_core(core_class(5, 8, n_layers))


@pytest.mark.parametrize("dtype", [th.float64, th.complex128])
@pytest.mark.parametrize("length", [1, 6])
def test_the_recurrence_and_its_gradients(dtype: th.dtype, length: int) -> None:
    arrays = [th.randn(*shape, 3, 4, dtype=dtype, requires_grad=True) for shape in ((length,), (length,), ())]
    th.testing.assert_close(linear_recurrence(*arrays), naive_recurrence(*arrays))
    th.autograd.gradcheck(linear_recurrence, arrays)
    # One coefficient for all steps, as RTU has it
    th.autograd.gradcheck(lambda keep, new, state: linear_recurrence(keep[0].expand_as(new), new, state), arrays)


def naive_mingru(layer: Any, inputs: th.Tensor, memory: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """z is the gate that lets the inputs in."""
    (of_keep, of_candidate), (bias_of_keep, bias_of_candidate) = layer.linear.weight.chunk(2), layer.linear.bias.chunk(2)
    outputs = []
    for x in inputs:
        z = th.sigmoid(-(x @ of_keep.T + bias_of_keep))
        memory = (1 - z) * memory + z * (x @ of_candidate.T + bias_of_candidate)
        outputs.append(memory.tanh())
    return th.stack(outputs), memory


def naive_rtu(layer: Any, inputs: th.Tensor, memory: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """One pair at a time, turned by a matrix."""
    outputs = []
    r, theta = th.exp(-th.exp(layer.nu)), layer.theta
    for x in inputs:
        pairs = []
        for k in range(len(theta)):
            turn = th.stack([th.stack([theta[k].cos(), -theta[k].sin()]), th.stack([theta[k].sin(), theta[k].cos()])])
            pair = slice(2 * k, 2 * k + 2)
            pairs.append(r[k] * memory[:, pair] @ turn.T + th.sqrt(1 - r[k] ** 2) * x @ layer.linear.weight[pair].T)
        memory = th.cat(pairs, dim=1)
        outputs.append(memory)
    return th.stack(outputs), memory


@pytest.mark.parametrize(("core_class", "naive"), [(MinGRUCore, naive_mingru), (RTUCore, naive_rtu)])
def test_a_layer_is_what_its_paper_says(core_class: Any, naive: Any) -> None:
    core = core_class(5, 8).double()
    inputs, memory = th.randn(6, 3, 5).double(), th.randn(1, 3, 8).double()
    outputs, (state,) = core.unroll(inputs, (memory,))
    expected, last = naive(core.layers[0], inputs, memory[0])
    th.testing.assert_close(outputs, expected)
    th.testing.assert_close(state[0], last)
    loss = th.randn_like(outputs)
    for found, right in zip(
        th.autograd.grad(outputs, list(core.parameters()), loss),
        th.autograd.grad(expected, list(core.parameters()), loss),
        strict=True,
    ):
        th.testing.assert_close(found, right)


@pytest.mark.parametrize("core_class", CORES)
def test_later_layers_read_what_is_normalised_and_add_to_it(core_class: Any) -> None:
    core = core_class(5, 8, 2)
    inputs, memory = th.randn(6, 3, 5), th.randn(2, 3, 8)
    outputs, (state,) = core.unroll(inputs, (memory,))
    lower, first = core.layers[0].unroll(inputs, memory[0])
    upper, second = core.layers[1].unroll(th.nn.functional.layer_norm(lower, (8,)), memory[1])
    th.testing.assert_close(outputs, lower + upper)
    th.testing.assert_close(state, th.stack([first, second]))


@pytest.mark.parametrize("core_class", CORES)
@pytest.mark.parametrize("longest", [10.0, 1000.0])
def test_time_scales_are_spread_from_one_step_to_the_longest(core_class: Any, longest: float) -> None:
    core, n_steps = core_class(5, 16, longest=longest), 20
    memory = th.ones(1, 1, 16)
    # Nothing comes in: what is left of a memory is what it keeps by itself
    _, (left,) = core.unroll(th.zeros(n_steps, 1, 5), (memory,))
    size = left[0, 0] if core_class is MinGRUCore else (left[0, 0].view(-1, 2) / math.sqrt(2)).norm(dim=1)
    scales = -n_steps / size.log()
    expected = longest ** th.linspace(0, 1, len(scales))
    th.testing.assert_close(scales, expected, rtol=0.02, atol=0)


@pytest.mark.parametrize("algorithm", [RecurrentTD3, RecurrentDDPG, RecurrentSAC, RecurrentTQC, R2D2])
@pytest.mark.parametrize("core", ["mingru", "rtu"])
def test_models_learn_act_and_are_saved(
    algorithm: type[RecurrentOffPolicyAlgorithm], core: str, tmp_path: pathlib.Path
) -> None:
    action_space = spaces.Discrete(3) if algorithm is R2D2 else ACTION_SPACE
    policy_kwargs = dict(core=core, core_kwargs=dict(longest=50.0), lstm_hidden_size=6, n_lstm_layers=2, net_arch=[7])
    kwargs = KWARGS | dict(policy_kwargs=policy_kwargs, burn_in=2)
    model: Any = algorithm("MlpLstmPolicy", random_envs(2, action_space=action_space), **kwargs)
    before = {name: array.clone() for name, array in model.policy.state_dict().items()}
    model.learn(100)
    after = model.policy.state_dict()
    learned = [name for name in before if ".core." in name and "_target" not in name]
    assert learned and all(not th.equal(before[name], after[name]) for name in learned)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model")
    stream = observations(6, 3)
    np.testing.assert_array_equal(roll(model.policy, stream), roll(loaded.policy, stream))


@pytest.mark.parametrize("core_class", CORES)
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(hidden_size=0), "hidden_size=0 must be at least 1"),
        (dict(n_layers=0), "n_layers=0 must be at least 1"),
        (dict(longest=1), r"longest=1 must be a finite number of steps above 1, e.g. 1000"),
        (dict(longest=math.inf), "longest=inf must be a finite number of steps above 1"),
    ],
)
def test_what_cannot_be(core_class: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core_class(5, **dict(hidden_size=8) | kwargs)


def test_units_of_an_rtu_come_in_pairs() -> None:
    with pytest.raises(ValueError, match=r"hidden_size=7 must be even.*use 8"):
        RTUCore(5, 7)
