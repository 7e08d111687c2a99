"""The same on a GPU, where there is one."""

import copy
import itertools
import pathlib
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_recurrent_offpolicy import R2D2, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.checkpoint import CompleteCheckpoint
from sb3_recurrent_offpolicy.cores import CORES
from tests.models import PLAIN
from tests.setup import noise, random_envs
from tests.test_policies import observations, roll

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not th.cuda.is_available(), reason="no CUDA device")]

KWARGS: dict[str, Any] = dict(
    sequence_length=4, burn_in=2, n_steps=2, learning_starts=20, train_freq=4, batch_size=8, buffer_size=1000, seed=0
)
ACTORS_AND_CRITICS: list[dict[str, Any]] = [
    dict(algorithm=RecurrentTD3, action_noise=noise()),
    dict(algorithm=RecurrentSAC, use_sde=True),
    dict(algorithm=RecurrentSAC, env=random_envs(2, action_space=spaces.Discrete(3))),
]
VALUES_ONLY: list[dict[str, Any]] = [dict(algorithm=R2D2, env=random_envs(2, action_space=spaces.Discrete(3)))]
SHARED_MEMORY = dict(shared_lstm=True, enable_critic_lstm=False, n_lstm_layers=2)


@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "MlpGruPolicy"])
@pytest.mark.parametrize(
    ("kwargs", "policy_kwargs"),
    [
        *itertools.product(ACTORS_AND_CRITICS, [{}, SHARED_MEMORY]),
        *itertools.product(VALUES_ONLY, [{}, dict(n_lstm_layers=2)]),
    ],
)
def test_trains_on_the_gpu_and_loads_on_the_cpu(
    policy: str, kwargs: dict[str, Any], policy_kwargs: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    settings: dict[str, Any] = dict(env=random_envs(2), device="cuda", policy_kwargs=policy_kwargs) | KWARGS | kwargs
    algorithm: type[RecurrentOffPolicyAlgorithm] = settings.pop("algorithm")
    model: Any = algorithm(policy, **settings)
    model.learn(200)
    assert model._sample_sequences(4).rewards.device.type == "cuda"
    assert all(parameter.device.type == "cuda" and th.isfinite(parameter).all() for parameter in model.policy.parameters())

    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    on_cpu = algorithm.load(tmp_path / "model", env=settings["env"], device="cpu")
    on_cpu.load_replay_buffer(tmp_path / "buffer.pkl")
    stream = observations(6, 3)
    np.testing.assert_allclose(roll(on_cpu.policy, stream), roll(model.policy, stream), atol=1e-3)
    on_cpu.learn(50, reset_num_timesteps=False)


@pytest.mark.parametrize("kwargs", [*ACTORS_AND_CRITICS, *VALUES_ONLY])
def test_a_run_goes_on_from_a_checkpoint(kwargs: dict[str, Any], tmp_path: pathlib.Path) -> None:
    settings: dict[str, Any] = dict(env=random_envs(2), device="cuda") | KWARGS | kwargs
    algorithm: type[RecurrentOffPolicyAlgorithm] = settings.pop("algorithm")
    model: Any = algorithm("MlpLstmPolicy", **settings)
    model.learn(200, callback=CompleteCheckpoint(100, tmp_path / "run"))
    model.learn(40, reset_num_timesteps=False)
    resumed: Any = algorithm.resume(tmp_path / "run")
    resumed.learn(40, reset_num_timesteps=False)
    for a, b in zip(model.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert b.device.type == "cuda"
        # Kernels may add in another order
        th.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", sorted(CORES.keys() - {"none"}))
def test_cores_compute_the_same(name: str) -> None:
    """Forward and backward, over a sequence and a single step."""
    core: Any = CORES[name]
    on_cpu = core(5, 8, 2)
    on_gpu = copy.deepcopy(on_cpu).to("cuda")
    inputs, weights = th.randn(9, 3, 5), th.randn(9, 3, on_cpu.output_size)
    found = []
    for each in (on_cpu, on_gpu):
        device = next(each.parameters()).device
        outputs, state = each.unroll(inputs.to(device), each.initial_state(3))
        gradients = th.autograd.grad((outputs * weights.to(device)).sum(), list(each.parameters()))
        step, _ = each.step(inputs[0].to(device), state)
        found.append([tensor.detach().cpu() for tensor in (outputs, *state, step, *gradients)])
    for a, b in zip(*found, strict=True):
        th.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_losses_equal_those_on_the_cpu() -> None:
    values = []
    for device in ("cpu", "cuda"):
        model = RecurrentTD3(
            "MlpLstmPolicy",
            random_envs(2),
            device=device,
            target_policy_noise=0.0,
            policy_kwargs=PLAIN,
            **KWARGS | dict(gradient_steps=0),
        )
        model.learn(200)
        # The same weights on both devices; the data is random and the same
        th.manual_seed(0)
        weights = {name: 0.1 * th.randn(value.shape) for name, value in model.policy.state_dict().items()}
        model.policy.load_state_dict(weights)
        model.replay_buffer.seed(0)
        model.train(2, 16)
        values.append([model.logger.name_to_value[f"train/{name}"] for name in ("critic_loss", "actor_loss")])
    np.testing.assert_allclose(values[0], values[1], rtol=1e-3)
