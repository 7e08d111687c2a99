"""
The whole state of a training run in a folder: what is learned, what is replayed, where each environment and each random stream
stands.

A checkpoint is a manifest, which names files. Files are named after their content and never change; a manifest is written
when all its files are on the disk. A run that is killed at any moment leaves the checkpoints before it as they were. Steps of
the replay buffer are written once, in segments; what has not changed since the last checkpoint is named again.
"""

import hashlib
import io
import json
import random
import secrets
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args
from weakref import WeakKeyDictionary

import numpy as np
import torch as th

from sb3_recurrent_offpolicy import exact_pickle
from sb3_recurrent_offpolicy.buffer_files import check_fits, read_buffer_head, restore_buffer_head
from sb3_recurrent_offpolicy.files import (
    array_names,
    check_seal,
    read_array,
    reading,
    sealed_archive,
    write_arrays,
    written_aside,
)
from sb3_recurrent_offpolicy.segments import read_states, read_steps, segment_length, segments, write_states, write_steps
from sb3_recurrent_offpolicy.storage import StepRing

FORMAT = "checkpoint of a recurrent off-policy algorithm 1"
_FILES = "files"
_HEAD, _STATE = "buffer.json", "training.pickle"
# Of a model: the buffer has files of its own; loggers and callbacks belong to the present process
_LEFT_OUT = ("replay_buffer", "_logger", "_checkpoint_position", "_task_at_rest", "deliveries", "fleet_place")


class CheckpointPosition(NamedTuple):
    """Where in a folder a model stands."""

    folder: Path
    run: str
    """Name of the run"""
    num_timesteps: int
    segments: "WeakKeyDictionary[StepRing, dict[int, dict[str, Any]]]"
    """Of rings, by their number, what a manifest says of them. A buffer that was reset or replaced has other rings"""


def _write_file(folder: Path, kind: str, write: Callable[[zipfile.ZipFile], None]) -> str:
    """Name of a file with this content, which may be there already."""
    content = io.BytesIO()
    with sealed_archive(content) as archive:
        write(archive)
    name = f"{kind}-{hashlib.sha256(content.getbuffer()).hexdigest()[:24]}"
    # One that is damaged is written again
    if not (folder / name).exists() or (folder / name).read_bytes() != content.getbuffer():
        with written_aside(folder / name) as file:
            file.write(content.getbuffer())
    return name


def _read_file(folder: Path, name: str, read: Callable[[zipfile.ZipFile], Any]) -> Any:
    with reading(folder / name, "") as file:
        if not check_seal(file):
            raise ValueError("it has no checksum")
        with zipfile.ZipFile(file) as archive:
            return read(archive)


def _arrays(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    return {name: read_array(archive, name) for name in array_names(archive)}


def _checksum(manifest: dict[str, Any]) -> str:
    content = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def manifests(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """
    :param folder: of checkpoints
    :return: those in it, the oldest first; what cannot be read is left out, with a warning
    """
    found = []
    for path in folder.glob("checkpoint_*.json"):
        try:
            manifest = json.loads(path.read_text())
            if manifest["format"] != FORMAT or manifest["checksum"] != _checksum(manifest):
                raise ValueError("its checksum does not fit")
        except (ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path} is damaged, and not used: {error!r}")
        else:
            found.append((path, manifest))
    return sorted(found, key=lambda entry: entry[1]["sequence"])


def _named_files(manifest: dict[str, Any]) -> list[str]:
    entries = [entry for of_ring in manifest["segments"] for entry in of_ring]
    return [manifest["head"], manifest["state"], *(entry[part] for entry in entries for part in ("steps", "states"))]


# ------------------------------------------------------------------- writing


def write_checkpoint(model: Any, folder: Path, keep: int, save_freq: int) -> str | None:
    """
    :param model: between two rollouts
    :param folder: of checkpoints of this run
    :param keep: how many checkpoints stay
    :param save_freq: steps to the next one
    :return: why environments will begin new episodes, None if they will not
    :raises ValueError: if the folder holds checkpoints of another run
    :raises OSError: if a file cannot be written; the checkpoints that are there stay
    """
    before = manifests(folder)
    position: CheckpointPosition | None = getattr(model, "_checkpoint_position", None)
    if position is not None and position.folder != folder:
        position = None
    if foreign := [path for path, manifest in before if position is None or manifest["run"] != position.run]:
        raise ValueError(
            f"{folder} holds checkpoints of another run, {foreign[-1].name} for example: choose another folder, or delete it; "
            f"{type(model).__name__}.resume goes on with it"
        )
    files, buffer = folder / _FILES, model.replay_buffer
    known = position.segments if position is not None else WeakKeyDictionary()
    written = WeakKeyDictionary(
        {ring: _write_segments(files, ring, known.get(ring, {}), buffer.refresh_states) for ring in buffer.rings}
    )
    numbers, arrays = read_buffer_head(buffer)

    def write_head(archive: zipfile.ZipFile) -> None:
        archive.writestr(_HEAD, json.dumps(numbers))
        write_arrays(archive, arrays)

    pickled, new_episodes = _pickled_with_environments(model)
    manifest = {
        "format": FORMAT,
        "algorithm": model.algorithm_name,
        "run": position.run if position is not None else secrets.token_hex(8),
        "sequence": before[-1][1]["sequence"] + 1 if before else 0,
        "num_timesteps": model.num_timesteps,
        "save_freq": save_freq,
        "keep": keep,
        "head": _write_file(files, "head", write_head),
        "state": _write_file(files, "state", lambda archive: archive.writestr(_STATE, pickled)),
        "segments": [list(written[ring].values()) for ring in buffer.rings],
    }
    manifest["checksum"] = _checksum(manifest)
    name = f"checkpoint_{manifest['sequence']:06d}_{model.num_timesteps}_steps.json"
    with written_aside(folder / name) as file:
        file.write(json.dumps(manifest).encode())
    model._checkpoint_position = CheckpointPosition(folder, manifest["run"], model.num_timesteps, written)
    _forget_older(folder, keep)
    return new_episodes


def _pickled_with_environments(model: Any) -> tuple[bytes, str | None]:
    """The state of a model, and why its environments will begin new episodes, None if they will not."""
    reason = None
    for environments in get_args(exact_pickle.Environments):
        try:
            return exact_pickle.dumps(_state(model) | {"new_episodes": reason}, environments), reason
        except Exception as error:
            # If it is not because of the environments, there is no pickle without them either
            if environments == "left out":
                raise
            reason = reason or str(error)
    raise AssertionError


def _write_segments(
    folder: Path, ring: StepRing, known: dict[int, dict[str, Any]], refreshed: bool
) -> dict[int, dict[str, Any]]:
    """Of the steps of a ring, by number: where each segment begins, whether it will change, and the names of its files."""
    found = {}
    for first, last in segments(ring):
        length = segment_length(ring)
        number = first // length
        entry = known.get(number, {})
        if not entry.get("complete") or not all((folder / entry[part]).exists() for part in ("steps", "states")):
            # What followed the last step of a segment is known when the next step has been made
            complete = last == (number + 1) * length and ring.n_added > last
            steps = read_steps(ring, first, last)
            entry = {"first": first, "complete": complete, "steps": _write_arrays_file(folder, "steps", steps)}
        if refreshed or "states" not in entry:
            begin = max(entry["first"], ring.n_added - ring.n_rows)
            states = read_states(ring, begin, last)
            entry = entry | {"states_from": begin, "states": _write_arrays_file(folder, "states", states)}
        found[number] = entry
    return found


def _write_arrays_file(folder: Path, kind: str, arrays: dict[str, np.ndarray]) -> str:
    return _write_file(folder, kind, lambda archive: write_arrays(archive, arrays))


def _state(model: Any) -> dict[str, Any]:
    attributes = {name: value for name, value in vars(model).items() if name not in _LEFT_OUT}
    return {
        "attributes": attributes | {"_custom_logger": False},
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_initialized() else [],
    }


def _forget_older(folder: Path, keep: int) -> None:
    present = manifests(folder)
    for path, _ in present[:-keep]:
        path.unlink()
    named = {name for _, manifest in present[-keep:] for name in _named_files(manifest)}
    for path in (folder / _FILES).iterdir():
        if path.name not in named:
            path.unlink()


# ------------------------------------------------------------------- reading


def read_checkpoint(folder: Path, algorithm_name: str, make_model: Callable[[], Any], env: Any) -> Any:
    """
    The newest checkpoint that is whole.

    :param folder: of checkpoints
    :param algorithm_name: what must have written it
    :param make_model: gives an instance without attributes
    :param env: environments in place of those that the checkpoint does not hold, None for none
    :return: the model, ready to go on
    :raises ValueError: if there is none, or one of another algorithm, or ``env`` is missing
    """
    found = manifests(folder)
    if not found:
        raise ValueError(f"{folder} holds no checkpoint: it is the folder that CompleteCheckpoint was given as path")
    for path, manifest in reversed(found):
        if manifest["algorithm"] != algorithm_name:
            raise ValueError(f"{path} was written by {manifest['algorithm']}: use {manifest['algorithm']}.resume")
        try:
            for name in _named_files(manifest):
                _read_file(folder / _FILES, name, lambda archive: None)
        except (OSError, ValueError) as error:
            warnings.warn(f"{path} is damaged, and the one before it is used: {error}")
        else:
            return _restore(folder, manifest, make_model(), env)
    raise ValueError(f"{folder} holds no checkpoint that is whole")


def _restore(folder: Path, manifest: dict[str, Any], model: Any, env: Any) -> Any:
    files = folder / _FILES
    state = exact_pickle.loads(_read_file(files, manifest["state"], lambda archive: archive.read(_STATE)), env)
    vars(model).update(state["attributes"])
    numbers, arrays = _read_file(files, manifest["head"], lambda archive: (json.loads(archive.read(_HEAD)), _arrays(archive)))
    model.replay_buffer = model._make_replay_buffer()
    check_fits(numbers, model.replay_buffer)
    restore_buffer_head(model.replay_buffer, numbers, arrays)
    for ring, of_ring in zip(model.replay_buffer.rings, manifest["segments"], strict=True):
        for entry in of_ring:
            write_steps(ring, entry["first"], _read_file(files, entry["steps"], _arrays))
            write_states(ring, entry["states_from"], _read_file(files, entry["states"], _arrays))
    begins_episodes = state["new_episodes"] is not None
    if begins_episodes:
        warnings.warn(f"Environments begin new episodes, because they could not be pickled: {state['new_episodes']}")
        model._last_obs = None
    known = WeakKeyDictionary(
        {
            ring: {entry["first"] // segment_length(ring): entry for entry in of_ring}
            for ring, of_ring in zip(model.replay_buffer.rings, manifest["segments"], strict=True)
        }
    )
    model._checkpoint_position = CheckpointPosition(folder, manifest["run"], model.num_timesteps, known)
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    th.set_rng_state(state["torch"])
    if state["cuda"]:
        th.cuda.set_rng_state_all(state["cuda"])
    if begins_episodes:
        model.env.seed(np.random.randint(2**31))
    return model
