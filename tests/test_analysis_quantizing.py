"""Codes of three numbers, and policies that act through them."""

import copy
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO

from sb3_recurrent_offpolicy import R2D2, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.analysis import QuantizedPolicy, quantize
from sb3_recurrent_offpolicy.analysis.bottlenecks import Bottleneck, TernaryTanh, fit
from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy
from sb3_recurrent_offpolicy.analysis.playing import PolicyPlayer, envs_of, returns_of
from tests.envs import RecallEnv


def make_env(discrete: bool = True) -> RecallEnv:
    return RecallEnv(discrete=discrete)


def model_of(algorithm: Any, core: str = "lstm", discrete: bool = True) -> Any:
    kwargs: dict[str, Any] = dict(n_steps=16)
    if algorithm is not RecurrentPPO:
        kwargs = dict(buffer_size=1000, policy_kwargs=dict(core=core, lstm_hidden_size=8))
    return algorithm("MlpLstmPolicy", make_env(discrete), seed=0, device="cpu", **kwargs)


def test_codes_are_ternary_and_gradients_pass() -> None:
    inputs = th.linspace(-4, 4, 101).requires_grad_(True)
    codes = TernaryTanh()(inputs)
    assert set(codes.detach().unique().tolist()) == {-1.0, 0.0, 1.0}
    # Flat around the three values, steep between them
    codes.sum().backward()
    assert inputs.grad is not None and inputs.grad.abs().max() > 0.5
    assert (codes.diff() >= 0).all()


def test_what_has_few_values_is_kept_exactly() -> None:
    th.manual_seed(0)
    kinds = th.randn(5, 6) * 10
    rows = kinds[th.randint(5, (400,))]
    bottleneck = Bottleneck(6, 4)
    assert fit(bottleneck, rows, kinds, max_epochs=150, patience=30) < 1e-3
    codes = bottleneck.encode(kinds)
    assert len(codes.unique(dim=0)) == 5
    th.testing.assert_close(bottleneck.decode(codes), kinds, atol=0.5, rtol=0)


def test_the_best_weights_on_held_out_rows_are_kept() -> None:
    th.manual_seed(0)
    bottleneck = Bottleneck(3, 2)
    rows, held_out = th.randn(300, 3), th.randn(100, 3)
    error = fit(bottleneck, rows, held_out, max_epochs=10)
    with th.no_grad():
        assert bottleneck.loss(held_out).item() == pytest.approx(error)


@pytest.mark.parametrize("core", ["lstm", "gru", "mingru"])
def test_without_bottlenecks_it_is_the_policy(core: str) -> None:
    model = model_of(R2D2, core)
    quantized = QuantizedPolicy(model)
    quantized.inserted = set()
    rng = np.random.default_rng(0)
    state: Any = None
    of_model: Any = None
    for t in range(6):
        observations = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        starts = np.array([t == 0, t == 0, t in (0, 3)])
        actions, state = quantized.predict(observations, state, starts)
        wanted, of_model = model.predict(observations, of_model, starts, deterministic=True)
        np.testing.assert_array_equal(actions, wanted)
        for array, other in zip(state, of_model, strict=True):
            np.testing.assert_allclose(array, other, atol=1e-6)


@pytest.mark.parametrize(
    ("algorithm", "core", "discrete", "tune_policy"),
    [
        (R2D2, "gru", True, False),
        (R2D2, "mingru", True, True),
        (RecurrentSAC, "lstm", True, True),
        (RecurrentSAC, "gru", False, False),
        (RecurrentTD3, "rtu", False, True),
        (RecurrentPPO, "lstm", True, False),
        (RecurrentPPO, "lstm", False, True),
    ],
)
def test_every_family_is_quantized(algorithm: Any, core: str, discrete: bool, tune_policy: bool) -> None:
    model = model_of(algorithm, core, discrete)
    before = copy.deepcopy(model.policy.state_dict())
    quantized, report = quantize(
        model, lambda: make_env(discrete), 3, 4, n_episodes=10, n_rounds=2, tune_policy=tune_policy, enough=2.0
    )
    # The model is left as it is
    for name, weights in model.policy.state_dict().items():
        th.testing.assert_close(weights, before[name], rtol=0, atol=0)
    assert 0 <= report.agreement <= 1 and len(report.tuned) == 10
    assert set(report.alone) == set(report.errors) == set(quantized.bottlenecks)
    assert ("output" in report.alone) == (core == "mingru")
    codes = quantized.latest
    assert codes is not None and set(codes.memory_code.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert "fine-tuned" in str(report)


@pytest.fixture(scope="module")
def trained() -> Any:
    """Has learned to recall the first observation."""
    model = R2D2("MlpLstmPolicy", make_env(), seed=0, device="cpu", learning_starts=200, learning_rate=1e-3)
    return model.learn(3000)


def test_fine_tuning_keeps_what_memory_is_worth(trained: Any) -> None:
    quantized, report = quantize(trained, make_env, 4, 4, n_episodes=40)
    assert report.kept(report.original) == 1.0 and report.kept(report.zeroed) == 0.0
    assert report.kept(report.tuned) > 0.95
    with envs_of(OpenedPolicy(trained), make_env, 20, seed=9) as envs:
        assert returns_of(envs, PolicyPlayer(OpenedPolicy(quantized)), 20).mean() > -0.5


def test_quantized_policy_from_a_file(trained: Any, tmp_path: Path) -> None:
    quantized = QuantizedPolicy(trained, 3, 5, seed=4)
    quantized.inserted = {"hidden"}
    quantized.save(tmp_path / "quantized")
    loaded = QuantizedPolicy.load(tmp_path / "quantized", trained)
    assert loaded.inserted == {"hidden"} and loaded.code_sizes == (3, 5)
    observations = np.random.default_rng(0).uniform(-1, 1, (20, 1)).astype(np.float32)
    for array, other in zip(loaded.predict(observations)[1], quantized.predict(observations)[1], strict=True):
        np.testing.assert_array_equal(array, other)


def test_files_that_are_none(trained: Any, tmp_path: Path) -> None:
    QuantizedPolicy(trained, 3, 5).save(tmp_path / "good")
    whole = (tmp_path / "good.zip").read_bytes()
    (tmp_path / "flipped.zip").write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    with pytest.raises(ValueError, match=r"flipped cannot be read: its checksum"):
        QuantizedPolicy.load(tmp_path / "flipped", trained)
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(ValueError, match=r"text.zip cannot be read"):
        QuantizedPolicy.load(tmp_path / "text.zip", trained)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("settings.json", "{}")
    with pytest.raises(ValueError, match="no quantized policy"):
        QuantizedPolicy.load(tmp_path / "other.zip", trained)
    with pytest.raises(ValueError, match="made of another model"):
        QuantizedPolicy.load(tmp_path / "good", model_of(R2D2))
    with pytest.raises(FileNotFoundError):
        QuantizedPolicy.load(tmp_path / "nowhere", trained)


@pytest.mark.parametrize(
    "kwargs", [dict(observation_code=0), dict(memory_code=0), dict(n_episodes=2), dict(n_rounds=-1), dict(enough=-1.0)]
)
def test_mistakes(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        quantize(model_of(R2D2), make_env, **kwargs)
