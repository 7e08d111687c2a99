"""Recurrent cores: step equals unroll (T9), for ours and, through check_core, for anybody's."""

import pathlib
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch as th
from torch import nn

from sb3_recurrent_offpolicy import RecurrentTD3
from sb3_recurrent_offpolicy.cores import CORES, GRUCore, LSTMCore, MinGRUCore, NoCore, RecurrentCore, RTUCore, check_core
from sb3_recurrent_offpolicy.type_aliases import CoreState


@pytest.mark.parametrize("core_class", [LSTMCore, GRUCore])
@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("kwargs", [{}, {"bias": False}, {"dropout": 0.5}])
@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
def test_our_cores(core_class: type[RecurrentCore], n_layers: int, kwargs: dict[str, Any]) -> None:
    check_core(core_class(5, 7, n_layers, **kwargs))  # type: ignore[arg-type]


def test_no_core_has_neither_output_nor_state() -> None:
    core = NoCore(5, 7, 2)
    check_core(core)
    outputs, state = core.unroll(th.ones(4, 3, 5), ())
    assert outputs.shape == (4, 3, 0) and state == ()


@pytest.mark.parametrize("core_class", [LSTMCore, GRUCore])
@pytest.mark.parametrize("kwargs", [{}, dict(memory_bias=None), dict(memory_bias=1.0), dict(memory_bias=0.0)])
def test_orthogonal_weights_and_biases_of_one_gate(core_class: type[RecurrentCore], kwargs: dict[str, Any]) -> None:
    core: Any = core_class(5, 7, **kwargs)
    biases = th.stack([parameter.view(-1, 7) for name, parameter in core.named_parameters() if "bias" in name]).sum(dim=0)
    # LSTM: input, forget, candidate, output; GRU: reset, update, candidate
    expected = th.zeros_like(biases)
    expected[1] = 0.0 if kwargs.get("memory_bias") == 0 else 1.0
    assert th.equal(biases, expected)
    for name, parameter in core.named_parameters():
        if "weight_hh" in name:
            for gate in parameter.split(7):
                th.testing.assert_close(gate @ gate.T, th.eye(7), atol=1e-5, rtol=0)


@pytest.mark.parametrize("core_class", [LSTMCore, GRUCore])
def test_memory_bias_is_that_of_the_gate_which_keeps_memory(core_class: type[RecurrentCore]) -> None:
    core: Any = core_class(5, 7, 2, memory_bias=100.0)  # type: ignore[call-arg, arg-type]
    memory = tuple(th.randn(2, 3, 7) for _ in core.state_shapes)
    _, state = core.step(th.zeros(3, 5), memory)
    if core_class is LSTMCore:
        # Nothing is lost; the input gate is half open
        candidates = state[1] - memory[1]
        assert (candidates.abs() <= 1).all()
    else:
        th.testing.assert_close(state[0], memory[0])
    assert sum(parameter.sum().item() for name, parameter in core.named_parameters() if "bias" in name) == 2 * 7 * 100


@pytest.mark.parametrize("core_class", [LSTMCore, GRUCore])
def test_memory_bias_that_cannot_be(core_class: type[RecurrentCore]) -> None:
    with pytest.raises(ValueError, match=r"memory_bias=1.0 needs biases, bias=False leaves them out: remove one of the two"):
        core_class(5, 7, memory_bias=1.0, bias=False)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"memory_bias=inf must be a finite number"):
        core_class(5, 7, memory_bias=float("inf"))  # type: ignore[call-arg]
    for kwargs in (dict(memory_bias=0.0), dict(memory_bias=None), {}):
        core: Any = core_class(5, 7, bias=False, **kwargs)  # type: ignore[call-arg]
        assert not [name for name, _ in core.named_parameters() if "bias" in name]


@pytest.mark.parametrize("name", ["bidirectional", "batch_first", "proj_size"])
def test_what_a_policy_cannot_use(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.*Remove '{name}'"):
        LSTMCore(5, 7, **{name: 1})


class Accumulator(RecurrentCore):
    """A core as users write it: the sum of its inputs."""

    def __init__(self, input_size: int, hidden_size: int = 0, n_layers: int = 1, **kwargs: Any):
        super().__init__(input_size, input_size, ((1, input_size),))

    def unroll(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        outputs = inputs.cumsum(dim=0) + state[0]
        return outputs, (outputs[-1:],)


class WrongStep(Accumulator):
    def step(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        output, state = super().step(inputs, state)
        return output + 1, state


class LeakyRows(Accumulator):
    def unroll(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        return super().unroll(inputs - inputs.mean(dim=1, keepdim=True), state)


class HiddenMemory(Accumulator):
    trace = 0.0

    def unroll(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        outputs, state = super().unroll(inputs + self.trace, state)
        self.trace = float(inputs.mean())
        return outputs, state


class ForgetfulState(Accumulator):
    def unroll(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        outputs, _ = super().unroll(inputs, state)
        return outputs, (outputs[-1:] / 2,)

    def step(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        output, _ = super().unroll(inputs[None], state)
        return output[0], (output / 2,)


class WrongShape(Accumulator):
    def unroll(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        outputs, state = super().unroll(inputs, state)
        return outputs[..., :1], state


class NoisyStart(Accumulator):
    def initial_state(self, batch_size: int) -> CoreState:
        return tuple(array + 1 for array in super().initial_state(batch_size))


def test_a_users_core_passes() -> None:
    check_core(Accumulator(4))


@pytest.mark.parametrize(
    ("core_class", "message"),
    [
        (WrongStep, "step, repeated, differs from unroll"),
        (LeakyRows, "leaks into another"),
        (HiddenMemory, "a zero state is no fresh start|unrolling in two parts|step, repeated"),
        (ForgetfulState, "unrolling in two parts differs|step, repeated"),
        (WrongShape, "outputs of shape"),
        (NoisyStart, "initial_state is not zero"),
    ],
)
def test_check_core_finds(core_class: type[Accumulator], message: str) -> None:
    with pytest.raises(ValueError, match=rf"{core_class.__name__}: .*({message})"):
        check_core(core_class(4))


def test_a_fused_call_is_made_once_per_unroll(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    core = LSTMCore(5, 7)
    original = th.lstm

    def counted(*args: Any) -> Any:
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(th, "lstm", counted)
    core.unroll(th.ones(9, 3, 5), core.initial_state(3))
    assert len(calls) == 1
    core.step(th.ones(3, 5), core.initial_state(3))
    assert len(calls) == 1, "acting does without it"


@pytest.mark.parametrize(("core_class", "kwargs"), [(LSTMCore, {}), (GRUCore, {}), (LSTMCore, {"dropout": 0.5})])
@pytest.mark.parametrize("training", [True, False])
def test_unroll_is_what_torch_computes(core_class: type[Any], kwargs: dict[str, Any], training: bool) -> None:
    core = core_class(5, 7, 2, **kwargs).train(training)
    inputs, state = th.randn(9, 3, 5), tuple(th.randn(array.shape) for array in core.initial_state(3))
    th.manual_seed(0)
    outputs, new_state = core.unroll(inputs, state)
    th.manual_seed(0)
    expected, expected_state = core.rnn(inputs, state if len(state) > 1 else state[0])
    th.testing.assert_close(outputs, expected, rtol=0, atol=0)
    for array, other in zip(new_state, expected_state if len(state) > 1 else (expected_state,), strict=True):
        th.testing.assert_close(array, other, rtol=0, atol=0)


class Step(nn.Module):
    """What is exported: inputs and state in, output and new state out."""

    def __init__(self, core: RecurrentCore):
        super().__init__()
        self.core = core

    def forward(self, inputs: th.Tensor, *state: th.Tensor) -> tuple[th.Tensor, ...]:
        output, new_state = self.core.step(inputs, state)
        return output, *new_state


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("name", sorted(CORES.keys() - {"none"}))
@pytest.mark.filterwarnings("ignore")
def test_a_step_runs_in_onnx(name: str, n_layers: int, tmp_path: pathlib.Path) -> None:
    """For any number of environments, in the middle of an episode."""
    core: Any = CORES[name]
    step = Step(core(5, 8, n_layers).eval())

    def example(batch_size: int) -> tuple[th.Tensor, ...]:
        return th.randn(batch_size, 5), *(th.randn(layers, batch_size, hidden) for layers, hidden in step.core.state_shapes)

    inputs, *state = example(3)
    batch = th.export.Dim("batch")
    exported = th.onnx.export(
        step, (inputs, *state), dynamo=True, dynamic_shapes=({0: batch}, tuple({1: batch} for _ in state)), verbose=False
    )
    assert exported is not None
    exported.save(tmp_path / "step.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "step.onnx")
    arguments = example(6)
    found = session.run(
        None, {entry.name: array.numpy() for entry, array in zip(session.get_inputs(), arguments, strict=True)}
    )
    with th.no_grad():
        for array, expected in zip(found, step(*arguments), strict=True):
            np.testing.assert_allclose(array, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, LSTMCore),
        (dict(core="lstm"), LSTMCore),
        (dict(core="gru"), GRUCore),
        (dict(core=GRUCore), GRUCore),
        (dict(core_class=GRUCore), GRUCore),
        (dict(core="none"), NoCore),
        (dict(core="mingru"), MinGRUCore),
        (dict(core="rtu"), RTUCore),
        (dict(core=Accumulator), Accumulator),
    ],
)
@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "MlpGruPolicy"])
def test_a_core_is_named_or_given(policy: str, kwargs: dict[str, Any], expected: type[RecurrentCore]) -> None:
    model = RecurrentTD3(policy, "Pendulum-v1", policy_kwargs=dict(lstm_hidden_size=4, net_arch=[4]) | kwargs)
    if kwargs or policy == "MlpLstmPolicy":
        assert type(model.actor.encoder.core) is expected
    else:
        assert type(model.actor.encoder.core) is GRUCore, "the name of the policy says so"


def test_core_kwargs_by_both_names() -> None:
    for name in ("core_kwargs", "lstm_kwargs"):
        model: Any = RecurrentTD3("MlpLstmPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [4], name: dict(bias=False)})
        assert not model.actor.encoder.core.rnn.bias


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            dict(core="lru"),
            r"core='lru' must be one of \['gru', 'lstm', 'mingru', 'none', 'rtu'\], or a subclass of RecurrentCore",
        ),
        (dict(core=nn.Linear), "must be one of"),
        (dict(core="gru", core_class=GRUCore), "core='gru' and core_class=.*two names of one setting"),
        (dict(core_kwargs={}, lstm_kwargs=dict(bias=False)), "core_kwargs={} and lstm_kwargs=.*two names of one setting"),
    ],
)
def test_cores_that_do_not_exist(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecurrentTD3("MlpLstmPolicy", "Pendulum-v1", policy_kwargs=kwargs)
