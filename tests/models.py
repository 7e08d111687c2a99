"""Models for tests of the losses, and their losses computed one row and one step at a time."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from sb3_recurrent_offpolicy import R2D2, RecurrentSAC, RecurrentTD3, RecurrentTQC
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.networks import HistoryEncoder
from sb3_recurrent_offpolicy.type_aliases import CoreState
from tests.envs import RandomEnv
from tests.recorder import ACTION_SPACE, OBSERVATION_SPACE

SMALL = dict(lstm_hidden_size=6)
# Oracles see observations as they are, and predict what the latest weights do
PLAIN: dict[str, Any] = dict(features_extractor_class=FlattenExtractor, average_decay=0.0)


class Variant(NamedTuple):
    """An algorithm and the actions it is tested with."""

    algorithm: type[RecurrentOffPolicyAlgorithm]
    action_space: spaces.Space = ACTION_SPACE


TD3, SAC, DISCRETE_SAC = Variant(RecurrentTD3), Variant(RecurrentSAC), Variant(RecurrentSAC, spaces.Discrete(4))
TQC_VARIANT = Variant(RecurrentTQC)
Q_LEARNING = Variant(R2D2, spaces.Discrete(4))
ACTOR_CRITICS = [
    pytest.param(TD3, id="td3"),
    pytest.param(SAC, id="sac"),
    pytest.param(DISCRETE_SAC, id="discrete_sac"),
    pytest.param(TQC_VARIANT, id="tqc"),
]
VARIANTS = [*ACTOR_CRITICS, pytest.param(Q_LEARNING, id="r2d2")]


def random_env_model(variant: Variant, seed: int = 0, policy_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    """
    A model of odd sizes (T 5, hidden 6, 2 layers, 3 environments), its buffer filled at random, not trained yet. Observations
    are not normalised, and predict uses the latest weights.
    """
    env = make_vec_env(lambda: RandomEnv(OBSERVATION_SPACE, variant.action_space, lengths=(13, 9, 2, 1)), n_envs=3, seed=seed)
    settings: dict[str, Any] = dict(sequence_length=5, buffer_size=900, learning_starts=10**6, reward_scale=1.0, gamma=0.9)
    net_arch: Any = [8, 7]
    if variant.algorithm is not R2D2:
        net_arch = dict(pi=[9], qf=net_arch)
    policy_kwargs = SMALL | PLAIN | dict(n_lstm_layers=2, net_arch=net_arch) | (policy_kwargs or {})
    model: Any = variant.algorithm(
        "MlpLstmPolicy", env, seed=seed, device="cpu", policy_kwargs=policy_kwargs, **settings | kwargs
    )
    model.learn(450)
    # Apart from their targets, and far enough from zero for every path to matter
    with th.no_grad():
        for parameter in learned_parameters(model):
            parameter.add_(0.3 * th.randn_like(parameter))
    model._update_learning_rate(list(optimizers(model).values()))
    return model


def optimizers(model: Any) -> dict[str, th.optim.Optimizer]:
    """By the name of what they learn."""
    if isinstance(model, R2D2):
        return {"q_net": model.policy.optimizer}
    return {"actor": model.actor.optimizer, "critic": model.critic.optimizer}


def learned_parameters(model: Any) -> list[th.Tensor]:
    groups = [group for optimizer in optimizers(model).values() for group in optimizer.param_groups]
    return [parameter for group in groups for parameter in group["params"]]


def losses(model: Any, samples: Any, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The losses of one update on a given batch and their gradients, noise always the same; networks stay as they are."""
    names = {optimizer: name for name, optimizer in optimizers(model).items()}
    found: dict[str, Any] = {"losses": {}, "gradients": []}

    def record(loss: th.Tensor, optimizer: th.optim.Optimizer) -> None:
        model.policy.zero_grad()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        loss.backward(inputs=parameters)
        found[names[optimizer]] = found["losses"][names[optimizer]] = loss.item()
        found["gradients"] += [parameter.grad.clone() for parameter in parameters]

    learned = getattr(model, "log_ent_coef", None)
    log_ent_coef = None if learned is None else learned.detach().clone()
    with monkeypatch.context() as patch:
        patch.setattr(model, "_sample_sequences", lambda batch_size: samples)
        patch.setattr(model, "_minimize", record)
        patch.setattr(model, "_update_priorities", lambda samples, errors: None)
        patch.setattr(model, "policy_delay", 1, raising=False)
        patch.setattr(model.policy, "update_targets", lambda tau: None)
        th.manual_seed(0)
        model._torch_generator.manual_seed(0)
        model.train(1, samples.mask.shape[1])
    if log_ent_coef is not None:
        model.log_ent_coef.data.copy_(log_ent_coef)
        found["ent_coef"] = model.logger.name_to_value["train/ent_coef_loss"]
    return SimpleNamespace(**found)


def latents_step_by_step(encoder: HistoryEncoder, samples: Any, state: CoreState, row: int) -> th.Tensor:
    """One row, one step at a time, as when acting."""
    state = tuple(array[:, row : row + 1] for array in state)
    if samples.burn_in is not None and row < samples.burn_in.previous_actions.shape[1]:
        with th.no_grad():
            for observation, action in zip(
                samples.burn_in.observations[:, row], samples.burn_in.previous_actions[:, row], strict=True
            ):
                _, state = encoder.step(*encoder.inputs(observation[None], action[None]), state)
    latents = []
    for t in range(int(samples.mask[:, row].sum()) + 1):
        inputs = encoder.inputs(samples.observations[t, row][None], samples.previous_actions[t, row][None])
        latent, state = encoder.step(*inputs, state)
        latents.append(latent)
    return th.cat(latents)


def n_step_target(model: Any, samples: Any, row: int, t: int, next_value: Callable[[int], float]) -> float:
    """The target of one step: no masks, no shifts (T5, T6). ``next_value`` is asked of the step after the last reward."""
    target, discount = 0.0, 1.0
    for k in range(t, min(t + model.n_steps, int(samples.mask[:, row].sum()))):
        target += discount * samples.rewards[k, row].item()
        discount *= model.gamma
        if samples.terminated[k, row]:
            return target
    return target + discount * next_value(k + 1)


class LinearExtractor(nn.Module):
    """A features extractor with something to learn."""

    def __init__(self, observation_space: Any):
        super().__init__()
        self.features_dim = 4
        self.linear = nn.Linear(observation_space.shape[0], 4)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.linear(observations)
