"""Memories at the start of an episode, and those that ``predict`` is given."""

import numpy as np
import torch as th

from sb3_recurrent_offpolicy.type_aliases import CoreState


def forget(state: CoreState, episode_starts: np.ndarray) -> CoreState:
    """
    :param state: (..., n_envs, hidden) each
    :param episode_starts: (n_envs,)
    :return: the same, zero where an episode starts
    """
    return tuple(array.masked_fill(th.as_tensor(episode_starts[:, None], device=array.device), 0.0) for array in state)


def check_memory(
    state: tuple[np.ndarray, ...] | None, episode_start: np.ndarray | None, n_envs: int, sizes: list[tuple[int, int]]
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """
    :param state: what ``predict`` is given
    :param episode_start: what ``predict`` is given
    :param n_envs: number of environments that the observation is of
    :param sizes: n_layers and hidden of each array
    :return: the state, zeros for None, and where episodes start, (n_envs,)
    :raises ValueError: if they do not fit the policy and the observation
    """
    episode_starts = np.zeros(n_envs, dtype=bool) if episode_start is None else np.atleast_1d(episode_start).astype(bool)
    if episode_starts.shape != (n_envs,):
        raise ValueError(
            f"episode_start has shape {episode_starts.shape}, the observation is of {n_envs} environment(s): pass "
            f"({n_envs},) bools"
        )
    expected = [(layers, n_envs, hidden) for layers, hidden in sizes]
    if state is None:
        return tuple(np.zeros(shape, dtype=np.float32) for shape in expected), episode_starts
    shapes = [np.shape(array) for array in state] if isinstance(state, (tuple, list)) else None
    if shapes != expected:
        found = f"state={state!r} is no tuple" if shapes is None else f"state has arrays of shapes {shapes}"
        raise ValueError(
            f"{found}, this policy expects {expected} for an observation of {n_envs} "
            "environment(s): pass what the previous predict() returned, or None to start afresh"
        )
    return state, episode_starts
