"""Policies whose memory is known, and tasks that need it."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_recurrent_offpolicy import R2D2
from sb3_recurrent_offpolicy.cores import RecurrentCore
from sb3_recurrent_offpolicy.type_aliases import CoreState


class EchoEnv(gym.Env):
    """
    Observations are -1 or 1; the reward is 1 where the action (0 or 1) tells the one k steps ago.

    :param delay: k
    :param length: steps of an episode; the first k are not rewarded
    """

    def __init__(self, delay: int = 3, length: int = 12):
        self.delay = delay
        self.length = length
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.bits: list[int] = []

    @property
    def asked(self) -> int:
        """The bit to be told, -1 where there is none."""
        return self.bits[-1 - self.delay] if len(self.bits) > self.delay else -1

    def _observation(self) -> np.ndarray:
        self.bits.append(int(self.np_random.integers(2)))
        return np.array([2.0 * self.bits[-1] - 1], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.bits = []
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.asked)
        return self._observation(), reward, False, len(self.bits) > self.length, {}


class DelayLine:
    """
    A policy of nothing but ``predict``: remembers the last observations, and acts by the one k steps ago.

    :param env: its task
    :param delay: k
    """

    def __init__(self, env: EchoEnv, delay: int):
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.delay = delay

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        n = len(observation)
        line = np.zeros((1, n, self.delay + 1)) if state is None else state[0].copy()
        if episode_start is not None:
            line[:, np.asarray(episode_start, dtype=bool)] = 0
        line = np.concatenate([observation.reshape(1, n, 1), line[:, :, :-1]], axis=2)
        return (line[0, :, -1] > 0).astype(np.int64), (line,)


class ShiftRegister(RecurrentCore):
    """
    Keeps the last inputs, and gives out those of ``hidden_size`` steps ago.

    :param input_size: number of inputs per step
    :param hidden_size: delay
    :param n_layers: ignored
    """

    def __init__(self, input_size: int, hidden_size: int, n_layers: int = 1, **kwargs: Any):
        super().__init__(input_size, input_size, ((hidden_size, input_size),))
        # Something to learn, which learning does not change
        self.nothing = th.nn.Parameter(th.zeros(1))

    def unroll(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        line = th.cat([state[0], inputs])
        return line[: len(inputs)] + 0 * self.nothing, (line[len(inputs) :],)


class Counter(RecurrentCore):
    """
    Counts steps modulo ``hidden_size``, one-hot, from 1 on.

    :param input_size: number of inputs per step
    :param hidden_size: number to count to
    :param n_layers: ignored
    """

    def __init__(self, input_size: int, hidden_size: int, n_layers: int = 1, **kwargs: Any):
        super().__init__(input_size, hidden_size, ((1, hidden_size),))
        self.nothing = th.nn.Parameter(th.zeros(1))

    def unroll(self, inputs: th.Tensor, state: CoreState) -> tuple[th.Tensor, CoreState]:
        counts, outputs = state[0], []
        first = th.zeros_like(counts)
        first[..., 0] = 1
        for _ in inputs:
            counts = th.where(counts.sum(dim=-1, keepdim=True) == 0, first.roll(1, dims=-1), counts.roll(1, dims=-1))
            outputs.append(counts[0] + 0 * self.nothing)
        return th.stack(outputs), (counts,)


def model_with(core: type[RecurrentCore], hidden_size: int, env: gym.Env, seed: int = 0) -> R2D2:
    """
    :param core: kind of memory
    :param hidden_size: its size
    :param env: its task
    :param seed: of weights
    :return: a model that has not learned
    """
    policy_kwargs = dict(core=core, lstm_hidden_size=hidden_size, net_arch=[16], average_decay=0.0)
    return R2D2("MlpLstmPolicy", env, seed=seed, device="cpu", buffer_size=1000, policy_kwargs=policy_kwargs)
