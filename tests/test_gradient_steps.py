"""Updates per step that was made, whatever the number of environments."""

import pathlib
from typing import Any

import pytest
from stable_baselines3 import TD3

from sb3_recurrent_offpolicy import RecurrentTD3
from tests.setup import model_on, random_envs

WARM_UP = 20


def steps_of_warm_up(rollout: int) -> int:
    """Those of whole rollouts, as in SB3: the one that goes beyond the warm-up is learned from."""
    return WARM_UP // rollout * rollout


@pytest.mark.parametrize("overlap_updates", [False, True])
@pytest.mark.parametrize("train_freq", [1, 4])
@pytest.mark.parametrize("k", [1, 4, 5])
@pytest.mark.parametrize("n_envs", [1, 3, 8])
def test_one_update_for_every_k_steps(
    n_envs: int, k: int, train_freq: int, overlap_updates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the whole run: what a rollout, or a call of ``learn``, leaves over counts for the next one."""
    model = model_on(
        random_envs(n_envs),
        gradient_steps=-k,
        train_freq=train_freq,
        learning_starts=WARM_UP,
        overlap_updates=overlap_updates,
    )
    made: list[int] = []
    monkeypatch.setattr(model, "_update", lambda n_updates, batch_size: made.append(n_updates))
    for n_steps in (100, 31, 1):
        model.learn(n_steps, reset_num_timesteps=False)
        assert sum(made) == model.num_timesteps // k - steps_of_warm_up(n_envs * train_freq) // k
    most = -(-n_envs * train_freq // k)
    assert min(made) > 0 and max(made) <= most


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("train_freq", [1, 4])
def test_minus_one_is_sb3s(n_envs: int, train_freq: int) -> None:
    settings: dict[str, Any] = dict(learning_starts=WARM_UP, train_freq=train_freq, gradient_steps=-1, batch_size=2)
    theirs = TD3("MlpPolicy", random_envs(n_envs), device="cpu", policy_kwargs=dict(net_arch=[4]), **settings).learn(60)
    ours = model_on(random_envs(n_envs), **settings).learn(60)
    assert ours.num_timesteps == theirs.num_timesteps and ours._n_updates == theirs._n_updates > 0


@pytest.mark.parametrize("overlap_updates", [False, True])
def test_steps_left_over_are_saved(overlap_updates: bool, tmp_path: pathlib.Path) -> None:
    model = model_on(random_envs(1), train_freq=1, gradient_steps=-5, overlap_updates=overlap_updates).learn(33)
    assert model._n_updates == 6 - 4
    model.save(tmp_path / "model")
    loaded: Any = RecurrentTD3.load(tmp_path / "model", env=random_envs(1))
    loaded.learn(2, reset_num_timesteps=False)
    assert loaded._n_updates == 7 - 4
    changed: Any = RecurrentTD3.load(tmp_path / "model", env=random_envs(1), gradient_steps=-2)
    changed.learn(2, reset_num_timesteps=False)
    assert changed._n_updates == 2 + (3 + 2) // 2
