"""With sequences of length 1 and a core that remembers nothing, our algorithms are those of SB3 and sb3-contrib."""

from collections.abc import Callable
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from tests.models import PLAIN

# Torch draws normal numbers in blocks of 16: so many at once are the same as so many in two calls
BATCH_SIZE, N_UPDATES = 32, 6


def assert_same_updates(
    recurrent: Callable[..., RecurrentOffPolicyAlgorithm],
    plain: Callable[..., OffPolicyAlgorithm],
    keys: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    policy_kwargs: dict[str, Any] | None = None,
    ours_only: dict[str, Any] | None = None,
    **common: Any,
) -> None:
    """
    Same losses and same weights, update by update, on the same transitions.

    :param recurrent: our algorithm
    :param plain: its counterpart
    :param keys: logged under ``train/``, which must agree
    :param monkeypatch: for what both learn from
    :param policy_kwargs: of both
    :param ours_only: settings that the counterpart does not know
    :param common: settings of both
    """
    policy_kwargs = dict(net_arch=[16, 12]) | (policy_kwargs or {})
    common = {"learning_rate": 3e-3, "tau": 0.05, "gamma": 0.9, "seed": 0, "device": "cpu", "learning_starts": 10**6} | common
    ours: Any = recurrent(
        "MlpLstmPolicy",
        make_vec_env("Pendulum-v1", 2),
        sequence_length=1,
        reward_scale=1.0,
        policy_kwargs=PLAIN | dict(optimizer_kwargs=dict(eps=1e-8), core="none", enable_critic_lstm=False) | policy_kwargs,
        **common,
        **(ours_only or {}),
    )
    theirs: Any = plain("MlpPolicy", make_vec_env("Pendulum-v1", 2), policy_kwargs=policy_kwargs, **common)
    ours.learn(600)
    for name in ours.network_names:
        for parameter, weight in zip(getattr(theirs, name).parameters(), getattr(ours, name).parameters(), strict=True):
            parameter.data.copy_(weight.data)

    batches = [ours._sample_sequences(BATCH_SIZE) for _ in range(N_UPDATES)]

    def transitions(samples: Any) -> ReplayBufferSamples:
        assert samples.mask.shape == (1, BATCH_SIZE)
        observations = samples.observations
        return ReplayBufferSamples(
            observations[0], samples.actions[0], observations[1], samples.terminated.T, samples.rewards.T
        )

    stream, their_stream = iter(batches), iter(batches)
    monkeypatch.setattr(ours, "_sample_sequences", lambda batch_size: next(stream))
    monkeypatch.setattr(ReplayBuffer, "sample", lambda *args, **kwargs: transitions(next(their_stream)))
    theirs.set_logger(configure(None, []))
    for update in range(N_UPDATES):
        for model in (ours, theirs):
            th.manual_seed(update)
            ours._torch_generator.manual_seed(update)
            model.train(1, BATCH_SIZE)
        for key in keys:
            # A delayed actor has no loss at every update
            if f"train/{key}" in theirs.logger.name_to_value:
                values = [model.logger.name_to_value[f"train/{key}"] for model in (ours, theirs)]
                assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-6), key
    assert all(f"train/{key}" in theirs.logger.name_to_value for key in keys)
    for name in ours.network_names:
        for a, b in zip(getattr(ours, name).parameters(), getattr(theirs, name).parameters(), strict=True):
            th.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
