"""Broken input, diverging training, dying environments: an error at once, and nothing lost."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_recurrent_offpolicy import RecurrentTD3
from sb3_recurrent_offpolicy.optimizing import take_n_refused
from tests.envs import PARTS, RandomEnv
from tests.recorder import ACTION_SPACE, OBSERVATION_SPACE
from tests.training import RUNS, digest, make_envs, make_run, of_buffer, state_of

each_run = pytest.mark.parametrize("name", RUNS)


class BreaksDown(gym.Wrapper):
    """
    Something goes wrong at a step.

    :param env: the environment
    :param at: the step
    :param fault: what happens
    """

    def __init__(self, env: gym.Env, at: int, fault: str):
        super().__init__(env)
        self.at, self.fault, self.time = at, fault, 0

    def step(self, action: Any) -> Any:
        self.time += 1
        observation, reward, *rest = self.env.step(action)
        if self.time == self.at:
            if self.fault == "raise":
                raise ZeroDivisionError("of the environment")
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "observation":
                observation = observation.copy()
                observation[1] = np.nan
            if self.fault == "reward":
                reward = np.inf
        return observation, reward, *rest


def breaking_envs(name: str, fault: str, make: Any = DummyVecEnv) -> Any:
    """Three environments, the second of which breaks down at step 41."""

    def make_env(index: int) -> gym.Env:
        env: gym.Env = RandomEnv(OBSERVATION_SPACE, RUNS[name].action_space)
        return Monitor(BreaksDown(env, 41 if index == 1 else 0, fault))

    return make([partial(make_env, index) for index in range(3)])


@each_run
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("observation", r"next_observations of the environment\(s\) \[1\] is not finite: next_observations\[1\]\[1\] = nan"),
        ("reward", r"rewards of the environment\(s\) \[1\] is not finite: rewards\[1\] = inf"),
    ],
)
def test_numbers_that_are_not_finite_are_not_stored(name: str, fault: str, message: str, tmp_path: Path) -> None:
    model = make_run(name, env=breaking_envs(name, fault))
    with pytest.raises(ValueError, match=message):
        model.learn(300)
    assert model.replay_buffer.rings[0].n_added == 40
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    model.save(tmp_path / "model")
    model.learn(30, reset_num_timesteps=False)
    assert model.replay_buffer.rings[0].n_added == 50
    assert model.replay_buffer.rings[0].episode_steps[40].tolist() == [0, 0, 0]


@pytest.mark.parametrize("part", ["obs", "action"])
def test_add_names_what_is_not_finite(part: str) -> None:
    buffer = make_run("td3", 2).learn(40).replay_buffer
    zeros = np.zeros((2, *OBSERVATION_SPACE.shape))
    step: dict[str, Any] = dict(obs=zeros, next_obs=zeros, action=np.zeros((2, 3)), reward=np.zeros(2), done=np.zeros(2))
    step |= dict(infos=[{}, {}], episode_starts=np.zeros(2, dtype=bool), lstm_states=None)
    step[part] = step[part].copy()
    step[part][1, 0] = -np.inf
    before = of_buffer(buffer)
    with pytest.raises(ValueError, match=r"of the environment\(s\) \[1\] is not finite: \w+\[1\]\[0\] = -inf.*not stored"):
        buffer.add(**step)
    assert of_buffer(buffer) == before


@each_run
@pytest.mark.parametrize("priority_alpha", [0.0, 0.9])
def test_an_update_that_diverges_is_not_made(
    name: str, priority_alpha: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_run(name, 2, priority_alpha).learn(150)
    model.save(tmp_path / "model")
    # The actor may learn in the same update, from the critic as it was
    critic = list(model.policy.value_network.parameters())
    before = digest(critic)
    saved, priorities = (tmp_path / "model.zip").read_bytes(), of_buffer(model.replay_buffer).get("priorities 0")
    with monkeypatch.context() as patch:
        sample = model._sample_sequences

        def huge(batch_size: int) -> Any:
            samples = sample(batch_size)
            return samples._replace(rewards=samples.rewards + th.inf)

        patch.setattr(model, "_sample_sequences", huge)
        with pytest.raises(FloatingPointError, match=r"Update \d+: the loss of the (critic|Q-network).*Lower learning_rate"):
            model.train(1, 4)
    assert digest(critic) == before
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    assert of_buffer(model.replay_buffer).get("priorities 0") == priorities
    assert (tmp_path / "model.zip").read_bytes() == saved
    model.learn(60, reset_num_timesteps=False)
    model.save(tmp_path / "model")


@pytest.mark.parametrize("optimizer_class", [th.optim.Adam, th.optim.AdamW, th.optim.RMSprop])
def test_any_optimizer_leaves_out_a_step_that_is_not_finite(optimizer_class: Any) -> None:
    policy_kwargs = dict(optimizer_class=optimizer_class, lstm_hidden_size=5, net_arch=[7])
    model = make_run("td3", policy_kwargs=policy_kwargs).learn(100)
    before = digest(list(model.policy.parameters()))
    optimizer = model.critic.optimizer
    model._minimize(sum(parameter.sum() for parameter in model.critic.parameters()) * th.nan, optimizer)
    assert digest(list(model.policy.parameters())) == before
    assert take_n_refused(optimizer) == 1 and take_n_refused(optimizer) == 0
    model._minimize(sum(parameter.sum() for parameter in model.critic.parameters()), optimizer)
    assert digest(list(model.policy.parameters())) != before


def test_a_model_that_is_not_finite_overwrites_no_file(tmp_path: Path) -> None:
    model = make_run("td3")
    model.save(tmp_path / "model")
    saved = (tmp_path / "model.zip").read_bytes()
    with th.no_grad():
        next(model.actor.parameters()).fill_(th.nan)
    with pytest.raises(ValueError, match=r"actor\.\S+ holds nan.*not saved"):
        model.save(tmp_path / "model")
    assert (tmp_path / "model.zip").read_bytes() == saved


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
@pytest.mark.parametrize("overlap_updates", [False, True])
@pytest.mark.parametrize("fault", ["kill", "raise"])
def test_a_dead_process_is_an_error(fault: str, overlap_updates: bool, start_method: str, tmp_path: Path) -> None:
    env = breaking_envs("td3", fault, partial(SubprocVecEnv, start_method=start_method))
    model = make_run("td3", env=env, overlap_updates=overlap_updates)
    with pytest.raises(RuntimeError, match=r"process of environment 1 has died, with exit code (-9|1).*set_env"):
        model.learn(300)
    assert model.replay_buffer.rings[0].n_added == 40 and model.num_timesteps == 120
    env.close()
    assert not any(process.is_alive() for process in env.processes)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    model.set_env(make_envs(ACTION_SPACE, 3, False))
    model.learn(30, reset_num_timesteps=False)
    assert model.replay_buffer.rings[0].n_added == 50


def test_a_process_that_died_in_between_is_an_error() -> None:
    env: Any = make_envs(ACTION_SPACE, 2, False, vec_env_cls=SubprocVecEnv, vec_env_kwargs=dict(start_method="fork"))
    model = make_run("td3", env=env).learn(40)
    env.processes[1].kill()
    env.processes[1].join()
    with pytest.raises(RuntimeError, match="process of environment 1 has died"):
        model.learn(40)


@each_run
def test_an_environment_that_raises_leaves_the_model_usable(name: str, tmp_path: Path) -> None:
    model = make_run(name, env=breaking_envs(name, "raise"))
    with pytest.raises(ZeroDivisionError):
        model.learn(300)
    assert model.replay_buffer.rings[0].n_added == 40 and model.num_timesteps == 120
    model.save(tmp_path / "model")
    model.learn(30, reset_num_timesteps=False)
    assert model.replay_buffer.rings[0].episode_steps[40].tolist() == [0, 0, 0]
    assert state_of(model)["parameters"]


def test_dict_observations_are_checked_too() -> None:
    class Gap(gym.ObservationWrapper):
        def observation(self, observation: Any) -> Any:
            return observation | {"speed": np.full(1, np.nan, dtype=np.float32)}

    env = make_vec_env(lambda: Gap(RandomEnv(PARTS, ACTION_SPACE)), 1, seed=0)
    model = RecurrentTD3("MultiInputLstmPolicy", env, learning_starts=10, device="cpu")
    with pytest.raises(ValueError, match=r"observations\['speed'\]\[0\]\[0\] = nan"):
        model.learn(20)
    assert model.replay_buffer.rings[0].n_added == 0
