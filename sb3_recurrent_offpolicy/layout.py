"""What a step is made of: shapes and types of its parts, and whether a stretch of steps has them."""

from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_recurrent_offpolicy.type_aliases import Stretch


class StepLayout:
    """
    What a step is made of: shapes and types of its parts.

    :param buffer: replay buffer of the observation and action spaces
    """

    def __init__(self, buffer: ReplayBuffer):
        space = buffer.observation_space
        self.action_dim = buffer.action_dim
        self.action_dtype = buffer._maybe_cast_dtype(buffer.action_space.dtype)
        self.observations: dict[str | None, tuple[tuple[int, ...], Any]] = {None: (buffer.obs_shape, space.dtype)}
        self.has_dict_observations = isinstance(buffer.obs_shape, dict)
        if isinstance(buffer.obs_shape, dict):
            entries = space.spaces
            self.observations = {key: (shape, entries[key].dtype) for key, shape in buffer.obs_shape.items()}

    def shapes(self, n_steps: int, n_envs: int) -> dict[str, tuple[int, ...]]:
        """
        :param n_steps: length T of a stretch
        :param n_envs: number of environments
        :return: shapes of its parts, by name, observations flat
        """
        steps = (n_steps, n_envs)
        found: dict[str, tuple[int, ...]] = dict.fromkeys(("rewards", "terminated", "episode_starts"), steps)
        found["actions"] = (*steps, self.action_dim)
        for key, (shape, _) in self.observations.items():
            size = int(np.prod(shape))
            found[self._name("observations", key)] = (*steps, size)
            found[self._name("next_observations", key)] = (n_envs, size)
        return found

    @staticmethod
    def _name(part: str, key: str | None) -> str:
        return part if key is None else f"{part}[{key!r}]"

    def shapes_of(self, steps: Stretch) -> dict[str, tuple[int, ...]]:
        """
        :param steps: a stretch
        :return: what :meth:`shapes` says of one that fits
        """
        found = {name: np.shape(getattr(steps, name)) for name in ("rewards", "terminated", "episode_starts")}
        parts: list[tuple[str, Any, int]] = [("actions", steps.actions, 2)]
        for key in self.observations:
            for name, n_leading in (("observations", 2), ("next_observations", 1)):
                entries = getattr(steps, name)
                parts.append((self._name(name, key), entries if key is None else entries.get(key), n_leading))
        for name, array, n_leading in parts:
            shape = np.shape(array)
            found[name] = (*shape[:n_leading], int(np.prod(shape[n_leading:])))
        return found

    def arrays(self, n_rows: int, n_envs: int, n_slots: int, state_size: int) -> list[tuple[tuple[int, ...], Any]]:
        """
        :param n_rows: steps of each environment
        :param n_envs: number of environments
        :param n_slots: memory states of each environment
        :param state_size: floats per memory state
        :return: shape and dtype of actions, rewards, terminated, episode_steps, states, and then of the observations
        """
        steps = (n_rows, n_envs)
        return [
            ((*steps, self.action_dim), self.action_dtype),
            (steps, np.float32),
            (steps, np.bool_),
            (steps, np.int32),
            ((n_slots, n_envs, state_size), np.float32),
            *((((*steps, *shape)), dtype) for shape, dtype in self.observations.values()),
        ]

    def check(self, steps: Stretch, n_envs: int, n_states: int | None) -> None:
        """
        :param steps: to be added to a ring
        :param n_envs: number of its environments
        :param n_states: number of memory states that it will store, None if it stores none
        :raises ValueError: if shapes do not fit, or a final observation is missing
        """
        n_steps = len(steps.rewards)
        expected = self.shapes(n_steps, n_envs)
        if wrong := {name: shape for name, shape in self.shapes_of(steps).items() if shape != expected[name]}:
            raise ValueError(f"steps has arrays of shapes {wrong}, expected { ({name: expected[name] for name in wrong}) }")
        n_given = {len(array) for part in steps.lstm_states for array in part}
        if n_states is not None and n_given and n_given != {n_states}:
            raise ValueError(
                f"lstm_states has {sorted(n_given)} states, but {n_states} are stored: give those at state_offsets({n_steps})"
            )
        inner = {(t - 1, env) for t, env in np.argwhere(steps.episode_starts).tolist() if t > 0}
        if missing := sorted(inner - set(steps.final_observations)):
            raise ValueError(
                f"final_observations has no entry for (step, environment) {missing}, where the next step begins another "
                "episode: give the last observation of each episode that ends within the stretch"
            )
