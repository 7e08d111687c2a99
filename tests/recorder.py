"""A brute-force record of what was added to a replay buffer, and the check of a sampled batch against it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.type_aliases import RecurrentSequenceSamples, RNNStates

OBSERVATION_SPACE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTION_SPACE = spaces.Box(-1, 1, (3,), np.float32)

CONTINUES, TERMINATES, TRUNCATES, RESETS = range(4)


@dataclass
class Step:
    observation: np.ndarray
    next_observation: np.ndarray
    action: np.ndarray
    reward: float
    terminated: bool
    starts: bool
    state: np.ndarray


@dataclass
class Recorder:
    """Feeds a buffer with steps that can all be told apart and remembers them in plain lists."""

    buffer: RecurrentSequenceReplayBuffer
    history: list[list[Step]] = field(default_factory=list)
    next_starts: np.ndarray = field(init=False)
    next_observation: np.ndarray = field(init=False)
    n_observations: int = 0
    times: dict[float, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.history = [[] for _ in range(self.buffer.n_envs)]
        self.next_starts = np.ones(self.buffer.n_envs, dtype=bool)
        self.next_observation = np.stack([self._new_observation(env) for env in range(self.buffer.n_envs)])

    def _new_observation(self, env: int) -> np.ndarray:
        self.n_observations += 1
        return np.array([self.n_observations, env], dtype=np.float32)

    def add(self, endings: list[int]) -> None:
        """One step of every environment; ``endings`` says how it ends in each. RESETS leaves no done behind."""
        n_envs, time = self.buffer.n_envs, len(self.history[0])
        observation = self.next_observation
        successor = np.stack([self._new_observation(env) for env in range(n_envs)])
        action = np.random.uniform(-1, 1, (n_envs, 3)).astype(np.float32)
        reward = np.random.normal(size=n_envs).astype(np.float32)
        dones = np.isin(endings, (TERMINATES, TRUNCATES))
        state = np.array([[1 + time, env, 0.5] for env in range(n_envs)], dtype=np.float32)
        self.buffer.add(
            observation,
            successor,
            action,
            reward,
            dones,
            [{"TimeLimit.truncated": ending == TRUNCATES} for ending in endings],
            episode_starts=self.next_starts,
            lstm_states=self.as_states(state),
        )
        for env in range(n_envs):
            step = Step(
                observation[env],
                successor[env],
                action[env],
                reward[env],
                endings[env] == TERMINATES,
                bool(self.next_starts[env]),
                state[env],
            )
            self.history[env].append(step)
            self.times[float(observation[env, 0])] = time
        self.next_starts = np.array(endings) != CONTINUES
        self.next_observation = np.stack(
            [self._new_observation(env) if self.next_starts[env] else successor[env] for env in range(n_envs)]
        )

    @staticmethod
    def as_states(state: np.ndarray) -> RNNStates:
        """(n_envs, 3) numbers as two layers of 1 for the actor and one layer of 4 for the critic: no two shapes alike."""
        numbers = th.as_tensor(state)
        pi = th.stack([numbers[:, :1], numbers[:, 1:2]])
        vf = th.cat([numbers, numbers[:, :1]], dim=1)[None]
        return RNNStates((pi,), (vf, 2 * vf))

    def check(self, samples: RecurrentSequenceSamples) -> list[tuple[int, int, int, int]]:
        """
        Compare every row with the record.

        :return: (environment, time of the first learned step, number of learned steps, number of burn-in steps) of each row
        """
        found = []
        n_burn_in = 0 if samples.burn_in is None else samples.burn_in.previous_actions.shape[1]
        for row in range(samples.mask.shape[1]):
            mask = samples.mask[:, row]
            length = int(mask.sum())
            assert length >= 1 and mask[:length].all(), "valid steps come first"
            observations = samples.observations[:, row].numpy()  # type: ignore[index]
            env = int(observations[0, 1])
            history = self.history[env]
            first = self.times[float(observations[0, 0])]
            oldest = len(history) - min(len(history), self.buffer.buffer_size)
            burn_in = self.buffer.burn_in if row < n_burn_in else 0
            begin = first - burn_in
            assert begin >= oldest, "overwritten steps are gone"

            for t in range(length):
                step = history[first + t]
                assert not (step.starts and t > 0), "no episode start inside a sequence"
                np.testing.assert_array_equal(observations[t], step.observation)
                np.testing.assert_array_equal(observations[t + 1], step.next_observation)
                np.testing.assert_array_equal(samples.actions[t, row], step.action)
                np.testing.assert_array_equal(samples.previous_actions[t + 1, row], step.action)
                assert samples.rewards[t, row] == step.reward
                assert bool(samples.terminated[t, row]) == step.terminated
            self._check_previous(samples.previous_actions[0, row], history, first)

            if burn_in:
                assert samples.burn_in is not None
                for k in range(burn_in):
                    assert not history[begin + k + 1].starts, "burn-in leads into its sequence"
                    np.testing.assert_array_equal(samples.burn_in.observations[k, row], history[begin + k].observation)  # type: ignore[index]
                    self._check_previous(samples.burn_in.previous_actions[k, row], history, begin + k)

            state = history[begin].state
            if history[begin].starts or self.buffer.state_init == "zero":
                state = np.zeros_like(state)
            expected = self.as_states(state[None])
            for part, expected_part in zip(samples.initial_states, expected, strict=True):
                for array, expected_array in zip(part, expected_part, strict=True):
                    np.testing.assert_array_equal(array[:, row], expected_array[:, 0])

            if history[first].starts:
                assert burn_in == 0, "a sequence that begins with its episode needs no burn-in"
            assert samples.indices[row] == first * self.buffer.n_envs + env
            found.append((env, first, length, burn_in))
        assert th.equal(samples.weights, th.ones(samples.mask.shape[1]))
        return found

    def _check_previous(self, previous_action: th.Tensor, history: list[Step], time: int) -> None:
        expected = np.zeros(3, dtype=np.float32) if history[time].starts else history[time - 1].action
        np.testing.assert_array_equal(previous_action, expected)


def make_buffer(buffer_size: int, n_envs: int = 1, **settings: Any) -> RecurrentSequenceReplayBuffer:
    kwargs: dict[str, Any] = dict(device="cpu", n_envs=n_envs, seed=0) | settings
    return RecurrentSequenceReplayBuffer(buffer_size, OBSERVATION_SPACE, ACTION_SPACE, **kwargs)
