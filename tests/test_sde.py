"""State-dependent exploration (gSDE) of RecurrentSAC: whose noise it is, how long it lasts, what learning makes of it."""

import pathlib
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from sb3_recurrent_offpolicy import RecurrentSAC
from tests.envs import RandomEnv
from tests.recorder import ACTION_SPACE
from tests.setup import KWARGS


def sde_model(n_envs: int, **kwargs: Any) -> Any:
    """On environments that show the same constant observation."""
    space = spaces.Box(np.array([0.5, -0.5], dtype=np.float32), np.array([0.5, -0.5], dtype=np.float32))
    env = make_vec_env(lambda: RandomEnv(space, ACTION_SPACE, lengths=(50,)), n_envs, seed=0)
    settings: dict[str, Any] = dict(use_sde=True, use_sde_at_warmup=True, train_freq=12, gradient_steps=0)
    policy_kwargs = KWARGS["policy_kwargs"] | dict(log_std_init=0.0)
    return RecurrentSAC("MlpLstmPolicy", env, **KWARGS | settings | dict(policy_kwargs=policy_kwargs) | kwargs)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("sde_sample_freq", [-1, 4])
def test_each_environment_has_its_noise_function(n_envs: int, sde_sample_freq: int) -> None:
    model = sde_model(n_envs, sde_sample_freq=sde_sample_freq)
    functions: list[th.Tensor] = []
    original = model.policy.act

    def act(*args: Any) -> Any:
        distribution = model.actor.action_dist
        # SB3 keeps the noise function of a single environment apart
        matrices = distribution.exploration_matrices if n_envs > 1 else distribution.exploration_mat[None]
        functions.append(matrices.detach().clone())
        return original(*args)

    model.policy.act = act
    model.learn(24 * n_envs)
    assert all(matrices.shape == (n_envs, 7, 3) for matrices in functions)
    if n_envs > 1:
        assert not th.equal(functions[0][0], functions[0][1])
    # Every rollout of 12 steps begins with new ones
    lifetime = 12 if sde_sample_freq == -1 else 4
    changes = [t for t in range(1, len(functions)) if not th.equal(functions[t], functions[t - 1])]
    assert changes == [t for t in range(1, len(functions)) if t % 12 % lifetime == 0]

    buffer = model.replay_buffer
    state = None
    for t, matrices in enumerate(functions):
        starts = buffer.rings[0].episode_steps[t] == 0
        _, state = model.predict(buffer.rings[0].observations[t], state, starts, deterministic=True)
        assert state is not None
        hidden = th.as_tensor(np.concatenate([state[0][-1], buffer.rings[0].observations[t]], axis=1))
        with th.no_grad():
            latent = model.actor.latent_pi(hidden)
            noise = th.stack([row @ matrix for row, matrix in zip(latent, matrices, strict=True)])
            expected = th.tanh(model.actor.mu(latent) + noise)
        np.testing.assert_allclose(buffer.rings[0].actions[t], expected, atol=1e-5)
        # What was executed, not what would have been, is the previous action
        state = (*state[:-1], buffer.rings[0].actions[t][None])


def test_log_probability_with_sde_by_single_steps() -> None:
    """T * B rows at once: as many as there are noise functions, of which learning uses a single one."""
    model = sde_model(3)
    model.policy.reset_noise(6)
    latents = th.randn(2, 3, model.actor.encoder.latent_dim)
    policy = model.actor.action_log_prob(latents)
    model.policy.reset_noise(1)
    distribution: Any = model.actor.action_dist
    th.manual_seed(1)
    model.policy.reset_noise()
    matrix = distribution.exploration_mat
    th.manual_seed(1)
    policy = model.actor.action_log_prob(latents)
    assert policy.actions is not None
    for t in range(2):
        for row in range(3):
            hidden = model.actor.latent_pi(latents[t, row][None])
            mean = model.actor.mu(hidden)
            action = th.tanh(mean + hidden @ matrix)[0]
            th.testing.assert_close(policy.actions[t, row], action)
            deviation = th.sqrt(hidden**2 @ model.actor.log_std.exp() ** 2 + 1e-6)[0]
            density = th.distributions.Normal(mean[0], deviation).log_prob(th.atanh(action))
            expected = (density - th.log(1 - action**2 + 1e-6)).sum()
            th.testing.assert_close(policy.log_probs[t, row, 0], expected, atol=1e-3, rtol=1e-3)


def test_sde_learns_and_loads(tmp_path: pathlib.Path) -> None:
    model = sde_model(2, gradient_steps=2).learn(120)
    assert model._n_updates > 0 and all(th.isfinite(parameter).all() for parameter in model.policy.parameters())
    model.save(tmp_path / "model")
    for n_envs in (2, 3):
        env = make_vec_env(lambda: RandomEnv(model.observation_space, ACTION_SPACE), n_envs)
        loaded: Any = RecurrentSAC.load(tmp_path / "model", env=env)
        loaded.predict(env.reset(), deterministic=False)
        loaded.learn(60, reset_num_timesteps=False)
    model.policy.save(str(tmp_path / "policy"))
    policy = type(model.policy).load(str(tmp_path / "policy"))
    observation = np.zeros((2, 2), dtype=np.float32)
    np.testing.assert_allclose(
        policy.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0], atol=1e-6
    )


def test_sde_is_for_box_actions() -> None:
    with pytest.raises(ValueError, match="gSDE"):
        RecurrentSAC("MlpLstmPolicy", "CartPole-v1", use_sde=True)
