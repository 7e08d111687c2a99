"""Observations with images: channels first and last, stacked, normalised, in dicts and not of bytes."""

import pathlib
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, VecTransposeImage, is_vecenv_wrapped

from tests.sb3_behaviours.cases import Case, each, model_of, random_envs, small_cnn


@each
@pytest.mark.parametrize("channel_first", [False, True])
def test_images(case: Case, channel_first: bool, tmp_path: pathlib.Path) -> None:
    discrete = isinstance(case.action_space, spaces.Discrete)
    env = FakeImageEnv(screen_height=36, screen_width=36, n_channels=1, discrete=discrete, channel_first=channel_first)
    model = model_of(case, env, "CnnLstmPolicy", policy_kwargs=small_cnn()).learn(40)
    assert is_vecenv_wrapped(model.get_env(), VecTransposeImage) == (not channel_first)
    observation, _ = env.reset()
    action, _ = model.predict(observation, deterministic=True)
    assert env.action_space.contains(action)
    model.save(tmp_path / "model")
    # With the environment, which is wrapped first, and without it
    for loaded in (case.algorithm.load(tmp_path / "model", env=env), case.algorithm.load(tmp_path / "model")):
        np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], action)


@each
def test_stacked_and_normalised_dicts(case: Case) -> None:
    space = spaces.Dict({"img": spaces.Box(0, 255, (1, 36, 36), np.uint8), "vec": spaces.Box(5, 9, (3,), np.float32)})
    channels_order: Any = {"img": "first", "vec": None}
    stacked = VecFrameStack(random_envs(case, 2, space), n_stack=2, channels_order=channels_order)
    env = VecNormalize(stacked, norm_obs_keys=["vec"])
    policy_kwargs = dict(features_extractor_kwargs=dict(cnn_output_dim=8))
    model = model_of(case, env, "MultiInputLstmPolicy", n_steps=2, policy_kwargs=policy_kwargs).learn(60)
    assert model._n_updates > 0
    samples = model._sample_sequences(4).observations
    assert samples["img"].shape[2:] == (2, 36, 36) and samples["img"].max() > 1, "as they are"
    assert samples["vec"].shape[2:] == (6,) and samples["vec"].abs().max() < 5, "normalised"
    evaluate_policy(model, env, n_eval_episodes=2)


@each
def test_images_that_are_not_of_bytes(case: Case) -> None:
    """Taken if the policy is told not to divide them by 255."""
    env = VecNormalize(random_envs(case, 1, spaces.Box(0, 255, (1, 36, 36), np.uint8)))
    model = model_of(case, env, "CnnLstmPolicy", policy_kwargs=small_cnn(normalize_images=False)).learn(40)
    assert model._n_updates > 0
    with pytest.raises(AssertionError, match="normalize_images=False"):
        model_of(case, env, "CnnLstmPolicy", policy_kwargs=small_cnn())


@each
def test_policy_kwargs_inside_policy_kwargs_stay_as_they_are(case: Case) -> None:
    """They may serve another model next. SB3 itself adds to them what belongs to the first."""
    env = random_envs(case, 1, spaces.Box(0, 255, (1, 36, 36), np.uint8))
    policy_kwargs = small_cnn(normalize_images=False, optimizer_kwargs=dict(betas=(0.8, 0.99)))
    model_of(case, env, "CnnLstmPolicy", policy_kwargs=policy_kwargs)
    assert policy_kwargs == small_cnn(normalize_images=False, optimizer_kwargs=dict(betas=(0.8, 0.99)))
