"""
An actor: a copy of the algorithm that collects steps in another process, and never learns.

SB3's own loop runs in it, so warm-up, action noise, gSDE, exploration rates, memory states and initial priorities come from
the code that makes them in one process. Its replay buffer is just large enough for the stretch of steps that is handed over.
"""

import copy
import io
import pickle
import secrets
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.collecting import FleetPlace
from sb3_recurrent_offpolicy.distributed.contract import Contract
from sb3_recurrent_offpolicy.distributed.messages import Delivery, Order, Weights
from sb3_recurrent_offpolicy.policies import RecurrentPolicy
from sb3_recurrent_offpolicy.segments import newest_stretch

# What ``DummyVecEnv`` puts into every info
_TRUNCATED = "TimeLimit.truncated"


def networks_that_act(policy: RecurrentPolicy) -> dict[str, th.nn.Module]:
    """
    :param policy: of a learner or an actor
    :return: what its actions and memory states depend on
    """
    found: dict[str, th.nn.Module] = {"acting": policy.acting_network}
    if policy.value_network is not policy.acting_network:
        found["value"] = policy.value_network
    return found


def weights_of(policy: RecurrentPolicy) -> Weights:
    """
    :param policy: of a learner
    :return: copies of the parameters that an actor needs
    """
    return {
        name: {key: tensor.detach().cpu().numpy().copy() for key, tensor in network.state_dict().items()}
        for name, network in networks_that_act(policy).items()
    }


def n_counted(obs_rms: Any) -> float:
    """
    :param obs_rms: statistics of observations of ``VecNormalize``: of one, of a dict of them, or None
    :return: observations that they know
    """
    entries = obs_rms.values() if isinstance(obs_rms, dict) else [obs_rms]
    return max((entry.count for entry in entries if entry is not None), default=0.0)


class _Recorder(BaseCallback):
    """Keeps what the environments say besides observations and rewards."""

    def __init__(self) -> None:
        super().__init__()
        self.dones: list[np.ndarray] = []
        self.infos: list[tuple[int, int, dict[str, Any]]] = []

    def _on_step(self) -> bool:
        for env, info in enumerate(self.locals["infos"]):
            if len(info) > 1 or info.get(_TRUNCATED) is not False:
                self.infos.append((len(self.dones), env, info))
        self.dones.append(self.locals["dones"].copy())
        return True


class Actor:
    """
    Collects on order. Everything that can fail happens on the first order, whose errors keep their type.

    :param contract: what to act with
    :param index: of this actor
    :param seed: of its random streams
    """

    def __init__(self, contract: Contract, index: int, seed: int):
        self.contract, self.index, self.seed = contract, index, seed
        self.incarnation = secrets.token_hex(8)
        self.model: RecurrentOffPolicyAlgorithm | None = None
        self.normalizer: VecNormalize | None = None
        self._n_delivered = 0
        self._version = -1
        self._idle_since = time.perf_counter()

    def _make_env(self) -> VecEnv:
        for name, spec in self.contract.registry.items():
            gym.registry.setdefault(name, spec)

        def monitored() -> gym.Env:
            env = self.contract.make_env()
            return env if is_wrapped(env, Monitor) else Monitor(env)

        # Not in processes of their own: nobody would end those of an actor that is killed
        env = self.contract.algorithm._wrap_env(DummyVecEnv([monitored] * self.contract.n_envs))
        if self.contract.normalizer is None:
            return env
        self.normalizer = pickle.loads(self.contract.normalizer)
        self.normalizer.set_venv(env)
        return self.normalizer

    def _begin(self) -> RecurrentOffPolicyAlgorithm:
        contract, env = self.contract, self._make_env()
        try:
            check_for_correct_spaces(env, contract.observation_space, contract.action_space)
        except ValueError as error:
            raise ValueError(f"make_env makes another kind of environment than the model was made for: {error}") from error
        # The step before a stretch, too: its error is known with the first of the stretch
        n_rows = max(contract.stretch_length + 1, contract.fewest_rows)
        saved = io.BytesIO(contract.saved_model)
        model = contract.algorithm.load(saved, env, device="cpu", buffer_size=n_rows * env.num_envs, tensorboard_log=None)
        model.set_random_seed(self.seed)
        model.fleet_place = FleetPlace(self.index * contract.n_envs, contract.n_actors * contract.n_envs)
        model.verbose = 0
        # The first observations, the logger, noise for each environment
        model._setup_learn(1)
        return model

    def collect(self, order: Order, weights: Weights) -> Delivery:
        """
        :param order: what the learner knows
        :param weights: of its networks
        :return: the next stretch of steps
        """
        began = time.perf_counter()
        waited = began - self._idle_since
        if self.model is None:
            self.model = self._begin()
        model, length = self.model, self.contract.stretch_length
        self._learn_from(order, weights)
        assert model.env is not None
        recorder = _Recorder()
        recorder.init_callback(model)
        model.collect_rollouts(
            model.env,
            recorder,
            TrainFreq(length, TrainFrequencyUnit.STEP),
            model.replay_buffer,
            action_noise=model.action_noise,
            learning_starts=model.learning_starts,
            log_interval=None,
        )
        delivery = Delivery(
            incarnation=self.incarnation,
            number=self._n_delivered,
            version=order.version,
            steps=newest_stretch(model.replay_buffer.rings[0], length),
            errors=model.replay_buffer.newest_errors(length, n_newer=1),
            dones=np.stack(recorder.dones),
            infos=recorder.infos,
            following=model._last_obs if self.normalizer is None else self.normalizer.get_original_obs(),
            seconds=time.perf_counter() - began,
            seconds_waiting=waited,
        )
        self._n_delivered += 1
        self._idle_since = time.perf_counter()
        return delivery

    def _learn_from(self, order: Order, weights: Weights) -> None:
        """Know what the learner knows."""
        model = self.model
        assert model is not None
        if order.version != self._version:
            for name, network in networks_that_act(model.policy).items():
                # Copies: what Ray shares cannot be written to
                network.load_state_dict({key: th.tensor(array) for key, array in weights[name].items()})
            self._version = order.version
        model.num_timesteps, model._total_timesteps = order.num_timesteps, order.total_timesteps
        model.reward_scale = order.reward_factor
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        # The learner's statistics know the steps of all actors; at the beginning, ours know more
        if self.normalizer is not None and n_counted(order.obs_rms) > n_counted(self.normalizer.obs_rms):
            self.normalizer.obs_rms = copy.deepcopy(order.obs_rms)
