"""RecurrentTQC: RecurrentSAC with critics that predict distributions, of which the target drops the top."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_recurrent_offpolicy.checks import check_integers
from sb3_recurrent_offpolicy.networks import HistoryEncoder, RecurrentContinuousCritic, RecurrentCritic
from sb3_recurrent_offpolicy.policies import RecurrentSACPolicy
from sb3_recurrent_offpolicy.sac import RecurrentSAC
from sb3_recurrent_offpolicy.settings import ExploringSettings, Unpack, passed_on
from sb3_recurrent_offpolicy.targets import masked_mean, n_step_targets
from sb3_recurrent_offpolicy.type_aliases import ActionLogProbs, Encoded, RecurrentSequenceSamples


class RecurrentTQCPolicy(RecurrentSACPolicy):
    """
    Policy for RecurrentTQC.

    :param args: as for :class:`RecurrentSACPolicy`
    :param n_quantiles: number of quantiles of each critic
    :param kwargs: as for :class:`RecurrentSACPolicy`
    """

    def __init__(self, *args: Any, n_quantiles: int = 25, **kwargs: Any):
        check_integers(1, n_quantiles=n_quantiles)
        self.n_quantiles = n_quantiles
        super().__init__(*args, **kwargs)

    def _make_critic(self, encoder: HistoryEncoder, net_arch: list[int]) -> RecurrentCritic:
        return RecurrentContinuousCritic(encoder, net_arch, self.activation_fn, self.n_critics, self.n_quantiles)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | dict(n_quantiles=self.n_quantiles)


class RecurrentTQC(RecurrentSAC):
    """
    Truncated Quantile Critics with a recurrent actor and a recurrent critic (Kuznetsov et al. 2020,
    https://arxiv.org/abs/2005.04269).

    The parameters are those of sb3-contrib's TQC, in its order, and our own; what they mean is told at :class:`RecurrentSAC`.

    :param top_quantiles_to_drop_per_net: how many of the largest quantiles of each critic the target leaves out
    :param settings: see :class:`~sb3_recurrent_offpolicy.algorithm.RecurrentOffPolicyAlgorithm`
    """

    policy_type = RecurrentTQCPolicy
    known_action_spaces = (spaces.Box,)
    policy: RecurrentTQCPolicy

    def __init__(
        self,
        policy: str | type[RecurrentTQCPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 1000,
        batch_size: int = 8,
        tau: float = 0.1,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = -4,
        action_noise: ActionNoise | float | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: str | float = "auto_0.1",
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        top_quantiles_to_drop_per_net: int = 2,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        use_sde_at_warmup: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        **settings: Unpack[ExploringSettings],
    ):
        super().__init__(**passed_on(locals(), "top_quantiles_to_drop_per_net"), _init_setup_model=False)
        self.top_quantiles_to_drop_per_net = top_quantiles_to_drop_per_net
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        check_integers(0, top_quantiles_to_drop_per_net=self.top_quantiles_to_drop_per_net)
        if self.top_quantiles_to_drop_per_net >= self.policy.n_quantiles:
            dropped, n_quantiles = self.top_quantiles_to_drop_per_net, self.policy.n_quantiles
            raise ValueError(f"top_quantiles_to_drop_per_net={dropped} leaves nothing of n_quantiles={n_quantiles}: lower it")

    @th.no_grad()
    def _targets(self, samples: RecurrentSequenceSamples, next_policy: ActionLogProbs, ent_coef: th.Tensor) -> th.Tensor:
        """Quantiles of the soft value of the next action, without the largest ones: (T, B, n_targets)."""
        assert next_policy.actions is not None
        next_latents = self.critic_target.encode(samples).latents[1:]
        # Sort and drop top k quantiles to control overestimation.
        next_quantiles = th.cat(self.critic_target(next_latents, next_policy.actions), dim=-1).sort(dim=-1).values
        n_targets = next_quantiles.shape[-1] - self.top_quantiles_to_drop_per_net * self.policy.n_critics
        # td error + entropy term
        next_values = next_quantiles[..., :n_targets] - ent_coef * next_policy.log_probs
        return n_step_targets(samples.rewards, samples.terminated, samples.mask, next_values, self.gamma, self.n_steps)

    def _critic_loss(
        self, samples: RecurrentSequenceSamples, critic: Encoded, targets: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        """Quantile Huber loss of each quantile against each target (Kuznetsov et al., eq. 13), and the errors of the means."""
        quantiles = th.stack(self.critic(critic.latents[: len(samples.actions)], samples.actions), dim=-2)
        errors = targets[..., None, None, :] - quantiles[..., None]
        huber = th.nn.functional.huber_loss(errors, th.zeros_like(errors), reduction="none")
        levels = (th.arange(self.policy.n_quantiles, device=self.device) + 0.5)[:, None] / self.policy.n_quantiles
        losses = ((levels - (errors < 0).float()).abs() * huber).mean(dim=(-3, -2, -1))
        return masked_mean(losses * samples.weights, samples.mask), targets.mean(dim=-1) - quantiles.mean(dim=(-2, -1))

    def _policy_q_values(self, critic: RecurrentCritic, latents: th.Tensor, policy: ActionLogProbs) -> th.Tensor:
        """Means of the distributions, (T, B, 1): no minimum is needed against overestimation."""
        assert policy.actions is not None
        return th.stack(critic(latents, policy.actions)).mean(dim=(0, -1)).unsqueeze(-1)
