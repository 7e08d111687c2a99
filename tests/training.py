"""Training runs for tests of files, and all that two equal ones agree in."""

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3, RecurrentTQC
from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.preprocessing import map_observation
from tests.envs import RandomEnv
from tests.models import Variant
from tests.recorder import OBSERVATION_SPACE

RUNS = {
    "td3": Variant(RecurrentTD3),
    "ddpg": Variant(RecurrentDDPG),
    "sac": Variant(RecurrentSAC),
    "discrete_sac": Variant(RecurrentSAC, spaces.Discrete(4)),
    "tqc": Variant(RecurrentTQC),
    "r2d2": Variant(R2D2, spaces.Discrete(4)),
}


def make_envs(action_space: spaces.Space, n_envs: int, vec_normalize: bool = True, **kwargs: Any) -> VecEnv:
    env = make_vec_env(
        RandomEnv,
        n_envs,
        seed=3,
        env_kwargs=dict(observation_space=OBSERVATION_SPACE, action_space=action_space, lengths=(13, 9, 2, 1, 7)),
        **kwargs,
    )
    return VecNormalize(env, gamma=0.9) if vec_normalize else env


def make_run(name: str, n_envs: int = 1, priority_alpha: float = 0.0, env: VecEnv | None = None, **kwargs: Any) -> Any:
    """A small model whose buffer is overwritten after some hundred steps."""
    algorithm, action_space = RUNS[name]
    settings: dict[str, Any] = dict(replay_buffer_kwargs=dict(priority_alpha=priority_alpha))
    if algorithm is R2D2:
        settings = dict(priority_alpha=priority_alpha, target_update_interval=7)
    elif not isinstance(action_space, spaces.Discrete):
        settings["action_noise"] = OrnsteinUhlenbeckActionNoise(np.zeros(3), 0.2 * np.ones(3))
    n_envs = n_envs if env is None else env.num_envs
    settings |= dict(sequence_length=6, buffer_size=120 * n_envs, learning_starts=30, batch_size=4, gradient_steps=-3)
    settings["policy_kwargs"] = dict(lstm_hidden_size=5, net_arch=[7])
    return algorithm(
        "MlpLstmPolicy",
        make_envs(action_space, n_envs) if env is None else env,
        seed=1,
        device="cpu",
        **settings | kwargs,
    )


def _leaves(value: Any) -> Any:
    """Numbers, arrays and strings in a nested value, in order."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield key
            yield from _leaves(value[key])
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _leaves(entry)
    else:
        yield value


def digest(*values: Any) -> str:
    found = hashlib.sha256()
    for leaf in _leaves(values):
        if th.is_tensor(leaf):
            leaf = leaf.detach().cpu().numpy()
        found.update(leaf.tobytes() if isinstance(leaf, (np.ndarray, np.generic)) else repr(leaf).encode())
    return found.hexdigest()[:16]


def of_buffer(buffer: RecurrentSequenceReplayBuffer) -> dict[str, str]:
    """What can be read of a buffer: neither room for steps to come, nor memory states of steps that are gone."""
    found = {"generator": digest(buffer.generator.bit_generator.state)}
    for index, ring in enumerate(buffer.rings):
        if not ring.allocated:
            continue
        rows = ring.rows_in_order()
        arrays = [ring.actions, ring.rewards, ring.terminated, ring.episode_steps]
        observations = map_observation(lambda array, at=rows: array[at], ring.observations)
        times = np.arange(max(ring.n_added - ring.n_rows, 0), ring.n_added)
        finals = {key: value for key, value in sorted(ring.final_observations.items()) if key >= times[0] * ring.n_envs}
        found[f"steps {index}"] = digest([array[rows] for array in arrays], observations, ring.n_added, ring.longest_episode)
        found[f"ends {index}"] = digest(finals, ring.next_observations, ring.next_episode_steps)
        if ring.stores_states:
            found[f"states {index}"] = digest(ring.states[ring.slot(times[times % ring.stride == 0])])
        if buffer.priorities:
            low, weights = buffer.priorities[index].live_weights(ring.first_usable(), ring.n_added)
            errors = buffer.priorities[index].errors[rows]
            found[f"priorities {index}"] = digest(low, weights, errors, buffer.priorities[index].largest_error)
    return found


def state_of(model: Any) -> dict[str, str]:
    """Digests of all that decides how training goes on."""
    model_streams = [model.action_space.np_random, model.observation_space.np_random]
    env_streams = [env.unwrapped.np_random for env in model.env.unwrapped.envs]
    normalizer = model.get_vec_normalize_env()
    statistics = model.reward_normalizer.statistics[0]
    return of_buffer(model.replay_buffer) | {
        "parameters": digest(model.get_parameters()),
        "memory": digest(list(th.utils._pytree.tree_leaves(model.behavior.memory))),
        "random": digest(
            random.getstate(),
            list(np.random.get_state()),
            th.get_rng_state(),
            model._torch_generator.get_state(),
            [stream.bit_generator.state for stream in model_streams + env_streams],
        ),
        "action noise": digest([getattr(noise, "noise_prev", None) for noise in getattr(model.action_noise, "noises", [])]),
        "returns": digest(model.reward_normalizer.factor, list(statistics.portions), statistics._returns),
        "normalizer": digest(
            list(vars(normalizer.obs_rms).values()), list(vars(normalizer.ret_rms).values()), normalizer.returns
        )
        if normalizer is not None
        else "",
        "counters": digest(model.num_timesteps, model._n_updates, model._episode_num, model._current_progress_remaining),
        "episodes": digest([entry["r"] for entry in model.ep_info_buffer]),
        "observation": digest(model._last_obs, model._last_episode_starts),
    }


def folder_digest(folder: Path) -> str:
    return digest([(str(path.relative_to(folder)), path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()])
