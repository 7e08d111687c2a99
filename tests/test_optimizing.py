"""Steps of optimizers: the same as torch's own, in fewer calls."""

import copy
import platform
import subprocess
import sys
from typing import Any

import pytest
import torch as th

from sb3_recurrent_offpolicy import RecurrentSAC
from sb3_recurrent_offpolicy.optimizing import FusedAdam, minimize

SHAPES = ((3, 4), (5,), (1,))


def parameters() -> list[th.nn.Parameter]:
    generator = th.Generator().manual_seed(0)
    return [th.nn.Parameter(th.randn(shape, generator=generator)) for shape in SHAPES]


def groups(own: list[th.nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": own[:2]}, {"params": own[2:], "lr": 0.3}]


def give_gradients(*optimizers: th.optim.Optimizer, seed: int, missing: tuple[int, ...] = ()) -> None:
    for optimizer in optimizers:
        generator = th.Generator().manual_seed(seed)
        own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(own):
            gradient = th.randn(parameter.shape, generator=generator)
            parameter.grad = None if index in missing else gradient


def assert_equal(a: th.optim.Optimizer, b: th.optim.Optimizer) -> None:
    for group, other in zip(a.param_groups, b.param_groups, strict=True):
        for x, y in zip(group["params"], other["params"], strict=True):
            th.testing.assert_close(x, y, rtol=0, atol=0)
    th.testing.assert_close(a.state_dict()["state"], b.state_dict()["state"], rtol=0, atol=0)


@pytest.mark.parametrize(
    "kwargs", [{}, dict(weight_decay=0.1, eps=1e-3), dict(amsgrad=True), dict(maximize=True, betas=(0.5, 0.9))]
)
def test_steps_are_those_of_torch(kwargs: dict[str, Any]) -> None:
    ours, torchs = (cls(groups(parameters()), lr=0.1, **kwargs) for cls in (FusedAdam, th.optim.Adam))
    torchs.param_groups[0]["fused"] = torchs.param_groups[1]["fused"] = True
    # A parameter that has no gradient at times: its own count of steps lags behind
    for seed, missing in enumerate([(), (0,), (), (0, 1), (2,), ()]):
        if seed == 3:
            for optimizer in (ours, torchs):
                optimizer.param_groups[0]["lr"] = 0.01
        give_gradients(ours, torchs, seed=seed, missing=missing)
        ours.step()
        torchs.step()
        assert_equal(ours, torchs)


def test_a_parameter_that_never_has_a_gradient_stays() -> None:
    optimizer = FusedAdam(parameters(), lr=0.1)
    give_gradients(optimizer, seed=0, missing=(0, 1, 2))
    optimizer.step()
    for parameter, before in zip(optimizer.param_groups[0]["params"], parameters(), strict=True):
        assert th.equal(parameter, before)
    assert not optimizer.state


@pytest.mark.parametrize("fused", [True, False])
def test_state_is_exchanged_with_torch(fused: bool) -> None:
    ours, torchs = FusedAdam(groups(parameters()), lr=0.1), th.optim.Adam(groups(parameters()), lr=0.1, fused=fused)
    give_gradients(torchs, seed=0)
    torchs.step()
    # Prepared for another state, which is replaced
    give_gradients(ours, seed=1)
    ours.step()
    ours.load_state_dict(copy.deepcopy(torchs.state_dict()))
    for parameter, other in zip(ours.param_groups[0]["params"], torchs.param_groups[0]["params"], strict=True):
        parameter.data.copy_(other)
    ours.param_groups[1]["params"][0].data.copy_(torchs.param_groups[1]["params"][0])
    assert all(group["fused"] for group in ours.param_groups)
    torchs.param_groups[0]["fused"] = torchs.param_groups[1]["fused"] = True
    copied = copy.deepcopy(ours)
    for seed in (2, 3):
        give_gradients(ours, torchs, copied, seed=seed)
        for optimizer in (ours, torchs, copied):
            optimizer.step()
        assert_equal(ours, torchs)
        assert_equal(copied, torchs)
    # And back, from copies that have counted together
    again, once_more = th.optim.Adam(groups(parameters()), lr=0.1), copy.deepcopy(copied)
    again.load_state_dict(copied.state_dict())
    for group, other in zip(again.param_groups, copied.param_groups, strict=True):
        for parameter, source in zip(group["params"], other["params"], strict=True):
            parameter.data.copy_(source)
    for missing in ((), (1,), ()):
        give_gradients(again, once_more, seed=4, missing=missing)
        for optimizer in (again, once_more):
            optimizer.step()
        assert_equal(again, once_more)


def test_hooks_are_called() -> None:
    optimizer, called = FusedAdam(parameters(), lr=0.1), []
    optimizer.register_step_pre_hook(lambda *args: called.append("before"))
    optimizer.register_step_post_hook(lambda *args: called.append("after"))
    plain = FusedAdam(parameters(), lr=0.1)
    give_gradients(optimizer, plain, seed=0)
    optimizer.step()
    plain.step()
    assert called == ["before", "after"]
    assert_equal(optimizer, plain)


def loss_with_gradients(own: list[th.nn.Parameter], gradients: list[th.Tensor]) -> th.Tensor:
    return sum(((parameter * gradient).sum() for parameter, gradient in zip(own, gradients, strict=True)), th.zeros(()))


@pytest.mark.parametrize("max_norm", [0.1, 1e3])
def test_gradients_are_clipped_as_by_torch(max_norm: float) -> None:
    own, others = parameters(), parameters()
    gradients = [parameter.detach().clone() for parameter in parameters()]
    minimize(loss_with_gradients(own, gradients), th.optim.SGD(own, lr=0.1), max_norm)
    for parameter, gradient in zip(others, gradients, strict=True):
        parameter.grad = gradient
    th.nn.utils.clip_grad_norm_(others, max_norm)
    for parameter, other in zip(own, others, strict=True):
        th.testing.assert_close(parameter.grad, other.grad)


def test_minimize_gives_no_other_parameter_a_gradient() -> None:
    used, unused = parameters()[:2]
    other = th.nn.Parameter(th.ones(3, 4))
    optimizer = th.optim.SGD([used, unused], lr=0.5)
    before = used.detach().clone()
    minimize((used * other).sum(), optimizer, max_grad_norm=1.0)
    th.testing.assert_close(used, before - 0.5 * th.ones(3, 4) / 12**0.5)
    assert other.grad is None and unused.grad is None


def test_models_step_with_it_and_save_as_torchs() -> None:
    model = RecurrentSAC("MlpLstmPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[4], lstm_hidden_size=4))
    assert type(model.actor.optimizer) is type(model.ent_coef_optimizer) is FusedAdam
    assert model.policy.optimizer_class is th.optim.Adam
    foreach = RecurrentSAC("MlpLstmPolicy", "Pendulum-v1", policy_kwargs=dict(optimizer_kwargs=dict(foreach=True)))
    assert type(foreach.actor.optimizer) is th.optim.Adam


COUNT_FAULTS = """
import resource
import torch as th
from sb3_recurrent_offpolicy.optimizing import keep_freed_memory

keep_freed_memory()

def work():
    return [th.ones(2**20) for _ in range(12)]

for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other rules")
def test_freed_memory_is_used_again() -> None:
    faults = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True).stdout
    # 48 MiB in pages of 4 KiB, ten times over, would be 120,000
    assert int(faults) < 1000
