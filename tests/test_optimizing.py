"""Steps of optimizers: the same as torch's own, in fewer calls."""

import copy
import pathlib
import platform
import subprocess
import sys
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_recurrent_offpolicy import RecurrentSAC
from sb3_recurrent_offpolicy.optimizing import FusedAdam, latest_norms, minimize
from tests.models import VARIANTS, Variant, optimizers, random_env_model

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


def wild_norms(n: int) -> np.ndarray:
    """They grow with time, and some are far above all others."""
    generator = np.random.default_rng(0)
    return generator.lognormal(0.01 * np.arange(n), np.where(generator.random(n) < 0.1, 3.0, 0.5))


def step_of_norm(optimizer: th.optim.Optimizer, norm: float) -> float:
    """One step on a gradient of this norm, and the norm that it was clipped to."""
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [th.randn(parameter.shape, generator=th.Generator().manual_seed(1)) for parameter in own]
    total = th.nn.utils.get_total_norm(gradients)
    minimize(loss_with_gradients(own, [gradient * norm / total for gradient in gradients]), optimizer, "auto")
    return th.nn.utils.get_total_norm([parameter.grad for parameter in own]).item()


def median_of_latest(norms: np.ndarray) -> float:
    """Of the last hundred; of two in the middle, the lower one."""
    latest = sorted(norms[-100:])
    return latest[(len(latest) - 1) // 2]


@pytest.mark.parametrize("optimizer_class", [FusedAdam, th.optim.SGD])
def test_automatic_clipping_is_at_the_running_median(optimizer_class: Any) -> None:
    optimizer, norms = optimizer_class(groups(parameters()), lr=0.01), wild_norms(250)
    limits = [median_of_latest(norms[:n]) for n in range(1, 251)]
    for norm, limit in zip(norms, limits, strict=True):
        assert step_of_norm(optimizer, norm) == pytest.approx(min(norm, limit), rel=1e-4)
    for kept, expected in zip(latest_norms(optimizer), (norms, np.array(limits)), strict=True):
        np.testing.assert_allclose(np.sort(kept.numpy()), np.sort(expected[-100:]), rtol=1e-4)


def test_without_clipping_norms_are_kept_too() -> None:
    optimizer = FusedAdam(parameters(), lr=0.1)
    assert all(kept.isnan().all() for kept in latest_norms(optimizer)), "none yet"
    own = optimizer.param_groups[0]["params"]
    minimize(loss_with_gradients(own, [th.ones_like(parameter) for parameter in own]), optimizer)
    norms, limits = latest_norms(optimizer)
    assert norms[0].item() == pytest.approx(18**0.5) and limits[0] == th.inf and norms[1:].isnan().all()


@pytest.mark.parametrize("optimizer_class", [FusedAdam, th.optim.SGD])
def test_norms_are_part_of_the_optimizers_state(optimizer_class: Any) -> None:
    norms = wild_norms(170)
    optimizer = optimizer_class(groups(parameters()), lr=0.01)
    for norm in norms[:130]:
        step_of_norm(optimizer, norm)
    loaded, copied = optimizer_class(groups(parameters()), lr=0.01), copy.deepcopy(optimizer)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for n in range(131, 171):
        for each in (optimizer, loaded, copied):
            assert step_of_norm(each, norms[n - 1]) == pytest.approx(min(norms[n - 1], median_of_latest(norms[:n])), rel=1e-4)
    # One that has never heard of norms begins with none
    plain = th.optim.SGD(groups(parameters()), lr=0.01)
    optimizer = th.optim.SGD(groups(parameters()), lr=0.01)
    optimizer.load_state_dict(plain.state_dict())
    assert step_of_norm(optimizer, 3.0) == pytest.approx(3.0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("max_grad_norm", ["auto", 0.5, None])
def test_models_save_and_log_norms(
    variant: Variant, max_grad_norm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr("sb3_recurrent_offpolicy.algorithm.UPDATES_PER_DIAGNOSIS", 7)
    model = random_env_model(variant, max_grad_norm=max_grad_norm, policy_kwargs=dict(lstm_hidden_size=4))
    model.train(7, 8)
    for name in variant.algorithm.optimizer_names:
        # A diagnosis comes before its update; TD3's actor waits for every second one
        norms, limits = (kept[~kept.isnan()] for kept in latest_norms(attrgetter(name)(model)))
        known = slice(-1 if len(norms) == 7 else None)
        assert len(norms) == len(limits) in (3, 7)
        logged, owner = model.logger.name_to_value, name.split(".")[0]
        assert logged[f"train/grad_norm_{owner}"] == pytest.approx(norms[known].mean().item(), rel=1e-5)
        clipped = (norms > limits)[known].float().mean().item()
        assert logged[f"train/grad_clipped_{owner}"] == pytest.approx(clipped)
        assert max_grad_norm is not None or clipped == 0.0

    model.save(tmp_path / "model")
    loaded: Any = variant.algorithm.load(tmp_path / "model", env=model.get_env())
    assert loaded.max_grad_norm == max_grad_norm
    for name in variant.algorithm.optimizer_names:
        ours, theirs = (attrgetter(name)(each) for each in (model, loaded))
        th.testing.assert_close(latest_norms(theirs), latest_norms(ours), rtol=0, atol=0, equal_nan=True)
        before = latest_norms(ours)[0].clone()
        step_of_norm(theirs, 3.0)
        n = theirs.param_groups[0]["n_norms"]
        assert latest_norms(theirs)[0][n - 1].item() == pytest.approx(3.0, rel=1e-4)
        th.testing.assert_close(latest_norms(theirs)[0][: n - 1], before[: n - 1])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("optimizer_kwargs", [None, dict(weight_decay=0.1), dict(eps=1e-6)])
def test_adams_epsilon(variant: Variant, optimizer_kwargs: Any) -> None:
    model = random_env_model(variant, policy_kwargs=dict(optimizer_kwargs=optimizer_kwargs))
    for optimizer in optimizers(model).values():
        assert optimizer.defaults["eps"] == (optimizer_kwargs or {}).get("eps", 1e-5)
        assert optimizer.defaults["weight_decay"] == (optimizer_kwargs or {}).get("weight_decay", 0)
        assert optimizer.defaults["fused"]


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
