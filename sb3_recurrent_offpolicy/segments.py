"""
The steps of a ring as arrays: for files, split at fixed times, so that steps that have been written once need not be written
again; and for another ring.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
from torch.utils._pytree import tree_map

from sb3_recurrent_offpolicy.preprocessing import map_observation
from sb3_recurrent_offpolicy.storage import StepRing
from sb3_recurrent_offpolicy.type_aliases import RNNStates, Stretch

# A checkpoint writes the last segment again until it is full
SEGMENT_BYTES = 1 << 20
_STEP_ARRAYS = ("actions", "rewards", "terminated", "episode_steps")


def _observations(ring: StepRing, observations: Any) -> list[Any]:
    """Entries of an observation, in the order of the space."""
    return [observations if key is None else observations[key] for key in ring.layout.observations]


def _joined(ring: StepRing, entries: list[Any]) -> Any:
    return dict(zip(ring.layout.observations, entries, strict=True)) if ring.layout.has_dict_observations else entries[0]


def segment_length(ring: StepRing) -> int:
    """
    :param ring: of steps, allocated
    :return: steps per segment, a multiple of its stride
    """
    arrays = [*(getattr(ring, name) for name in _STEP_ARRAYS), *_observations(ring, ring.observations)]
    bytes_per_step = sum(array[0].nbytes for array in arrays)
    return max(SEGMENT_BYTES // bytes_per_step // ring.stride, 1) * ring.stride


def segments(ring: StepRing) -> Iterator[tuple[int, int]]:
    """
    :param ring: of steps
    :return: first time and time after the last one of each segment that holds steps of the ring, the oldest first
    """
    if not ring.allocated:
        return
    length, oldest = segment_length(ring), max(ring.n_added - ring.n_rows, 0)
    for first in range(oldest // length * length, ring.n_added, length):
        yield max(first, oldest), min(first + length, ring.n_added)


def read_steps(ring: StepRing, first: int, last: int) -> dict[str, np.ndarray]:
    """
    :param ring: of steps
    :param first: first time
    :param last: time after the last one
    :return: all that is known of these steps but their memory states
    """
    rows = np.arange(first, last) % ring.n_rows
    found = {name: getattr(ring, name)[rows] for name in _STEP_ARRAYS}
    found |= {f"observations.{i}": array[rows] for i, array in enumerate(_observations(ring, ring.observations))}
    # Only where another episode begins with the next step
    ends = np.argwhere(ring.episode_steps[(np.arange(first, last) + 1) % ring.n_rows] == 0)
    keys = [key for key in ((ends[:, 0] + first) * ring.n_envs + ends[:, 1]).tolist() if key in ring.final_observations]
    found["final_keys"] = np.array(keys, dtype=np.int64)
    finals = [_observations(ring, ring.final_observations[key]) for key in keys]
    for i, array in enumerate(_observations(ring, ring.observations)):
        entries = [final[i] for final in finals]
        found[f"final_observations.{i}"] = np.array(entries, dtype=array.dtype).reshape(-1, *array.shape[2:])
    return found


def read_states(ring: StepRing, first: int, last: int) -> dict[str, np.ndarray]:
    """
    :param ring: of steps
    :param first: first time
    :param last: time after the last one
    :return: the memory states that are stored of these steps
    """
    times = np.arange(-(-first // ring.stride) * ring.stride, last, ring.stride)
    return {"states": ring.states[ring.slot(times)]} if ring.stores_states else {}


def newest_stretch(ring: StepRing, n_steps: int) -> Stretch:
    """
    :param ring: of steps
    :param n_steps: how many, at most as many as there are
    :return: the newest of them, to be added to another ring. With ``n_added`` of the two divisible by the stride before it,
        memory states are those that the other one stores
    """
    first = ring.n_added - n_steps
    rows = np.arange(first, ring.n_added) % ring.n_rows
    starts = ring.episode_steps[rows] == 0
    ends = [(t - 1, env) for t, env in np.argwhere(starts).tolist() if t > 0]
    # (P, N, state_size) to (P, n_layers, N, hidden)
    states = read_states(ring, first, ring.n_added).get("states", np.zeros((0, ring.n_envs, 0), dtype=np.float32))
    unpacked = ring.unpack(th.as_tensor(states).flatten(end_dim=1)) if states.size else RNNStates((), ())
    pi, vf = tree_map(lambda array: array.unflatten(1, (-1, ring.n_envs)).transpose(0, 1).contiguous(), unpacked)
    return Stretch(
        observations=map_observation(lambda array: array[rows], ring.observations),
        next_observations=map_observation(np.copy, ring.next_observations),
        final_observations={(t, env): ring.final_observations[(first + t) * ring.n_envs + env] for t, env in ends},
        actions=ring.actions[rows],
        rewards=ring.rewards[rows],
        terminated=ring.terminated[rows],
        episode_starts=starts,
        lstm_states=RNNStates(pi, pi if ring.shared_state else vf),
    )


def write_steps(ring: StepRing, first: int, arrays: dict[str, np.ndarray]) -> None:
    """
    :param ring: of steps, whose head has been restored; older steps than it keeps are left out
    :param first: first time
    :param arrays: from :func:`read_steps`
    """
    last = first + len(arrays["rewards"])
    begin = max(first, ring.n_added - ring.n_rows)
    rows = np.arange(begin, last) % ring.n_rows
    for name in _STEP_ARRAYS:
        getattr(ring, name)[rows] = arrays[name][begin - first :]
    for i, array in enumerate(_observations(ring, ring.observations)):
        array[rows] = arrays[f"observations.{i}"][begin - first :]
    # In the shape in which the environment gives them, like the newest ones
    finals = [
        arrays[f"final_observations.{i}"].reshape(-1, *newest.shape[1:])
        for i, newest in enumerate(_observations(ring, ring.next_observations))
    ]
    for index, key in enumerate(arrays["final_keys"].tolist()):
        if key >= begin * ring.n_envs:
            ring.final_observations[key] = _joined(ring, [entries[index] for entries in finals])


def write_states(ring: StepRing, first: int, arrays: dict[str, np.ndarray]) -> None:
    """
    :param ring: of steps, whose head has been restored; older states than it keeps are left out
    :param first: first time
    :param arrays: from :func:`read_states`
    """
    if ring.stores_states:
        states = arrays["states"]
        times = -(-first // ring.stride) * ring.stride + ring.stride * np.arange(len(states))
        kept = times >= ring.n_added - ring.n_rows
        ring.states[ring.slot(times[kept])] = states[kept]


def read_head(ring: StepRing) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """
    :param ring: of steps
    :return: what is known besides the steps themselves, for JSON and as arrays
    """
    numbers = {
        "n_rows": ring.n_rows,
        "n_envs": ring.n_envs,
        "n_added": ring.n_added,
        "longest_episode": ring.longest_episode,
        "state_shapes": ring.state_shapes if ring.allocated else None,
        "shared_state": ring.shared_state if ring.allocated else None,
    }
    if not ring.allocated:
        return numbers, {}
    found = {"next_episode_steps": ring.next_episode_steps}
    if ring.n_added > 0:
        following = _observations(ring, ring.next_observations)
        found |= {f"next_observations.{i}": np.asarray(array) for i, array in enumerate(following)}
    return numbers, found


def restore_head(ring: StepRing, numbers: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """
    :param ring: of steps, new
    :param numbers: from :func:`read_head`
    :param arrays: from :func:`read_head`
    """
    if numbers["state_shapes"] is None:
        return
    ring.allocate([[tuple(shape) for shape in part] for part in numbers["state_shapes"]], numbers["shared_state"])
    ring.n_added, ring.longest_episode = numbers["n_added"], numbers["longest_episode"]
    ring.next_episode_steps = arrays["next_episode_steps"]
    if ring.n_added > 0:
        entries = [arrays[f"next_observations.{i}"] for i in range(len(ring.layout.observations))]
        ring.next_observations = _joined(ring, entries)
