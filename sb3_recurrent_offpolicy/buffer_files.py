"""A replay buffer as JSON and arrays, and the file that holds them: nothing in it can run code."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from sb3_recurrent_offpolicy.blocks import RingBlock
from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.files import array_names, check_seal, read_array, sealed_archive, write_arrays, written_aside
from sb3_recurrent_offpolicy.plain import to_plain
from sb3_recurrent_offpolicy.segments import (
    read_head,
    read_states,
    read_steps,
    restore_head,
    segments,
    write_states,
    write_steps,
)

FORMAT = "recurrent replay buffer 1"
_DESCRIPTION = "buffer.json"


def describe(buffer: RecurrentSequenceReplayBuffer) -> dict[str, Any]:
    """
    :param buffer: any
    :return: for JSON: what another buffer must agree with to hold the same steps
    """
    found = {name: getattr(buffer, name) for name in ("n_envs", "observation_space", "action_space", *buffer.settings)}
    return {name: to_plain(value) for name, value in found.items()}


def read_buffer_head(buffer: RecurrentSequenceReplayBuffer) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """
    :param buffer: any
    :return: all but the steps, for JSON and as arrays
    """
    numbers: dict[str, Any] = {
        "format": FORMAT,
        "settings": describe(buffer),
        "rings": [],
        # Rings of each block, None for a ring of its own
        "blocks": [len(source.members) if isinstance(source, RingBlock) else None for source in buffer.sources.values()],
        "priorities": [],
        "recorded_ring": buffer.recorded_ring_index,
        "generator": buffer.generator.bit_generator.state,
    }
    arrays: dict[str, np.ndarray] = {}
    for index, ring in enumerate(buffer.rings):
        parts = {"rings": read_head(ring)}
        if buffer.priorities:
            parts["priorities"] = buffer.priorities[index].state(ring.first_usable(), ring.n_added)
        for part, (of_part, found) in parts.items():
            numbers[part].append(of_part)
            arrays |= {f"{part}.{index}.{name}": array for name, array in found.items()}
    return numbers, arrays


def restore_buffer_head(buffer: RecurrentSequenceReplayBuffer, numbers: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """
    :param buffer: new, that :func:`check_fits` has approved of
    :param numbers: from :func:`read_buffer_head`
    :param arrays: from :func:`read_buffer_head`
    """

    def part(name: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}

    # Files of earlier commits know no blocks
    for n_rings in numbers.get("blocks", [None] * len(numbers["rings"]))[1:]:
        of_ring = numbers["rings"][len(buffer.rings)]
        if n_rings is None:
            buffer.add_ring(of_ring["n_envs"], of_ring["n_rows"])
        else:
            buffer.add_rings(n_rings, of_ring["n_envs"], of_ring["n_rows"])
    for index, (ring, of_ring) in enumerate(zip(buffer.rings, numbers["rings"], strict=True)):
        restore_head(ring, of_ring, part(f"rings.{index}"))
        if buffer.priorities:
            buffer.priorities[index].restore(numbers["priorities"][index], part(f"priorities.{index}"))
    buffer.recorded_ring_index = numbers["recorded_ring"]
    buffer.generator.bit_generator.state = numbers["generator"]
    buffer.follow_first_ring()


def check_fits(numbers: dict[str, Any], buffer: RecurrentSequenceReplayBuffer) -> None:
    """
    :param numbers: from :func:`read_buffer_head`
    :param buffer: that is to take its steps
    :raises ValueError: if it has other settings
    """
    recorded, present = numbers["settings"], describe(buffer)
    for name in present:
        if recorded.get(name) != present[name]:
            value = getattr(buffer, name)
            raise ValueError(
                f"recorded with {name}={recorded.get(name)}, this model has {name}={value}: load it into a model with "
                f"{name}={recorded.get(name)}, or go on without it"
            )


def save_buffer(buffer: RecurrentSequenceReplayBuffer, path: Any) -> None:
    """
    :param buffer: any
    :param path: of the file, or an open one
    """
    if not isinstance(path, (str, Path)):
        _write(buffer, path)
        return
    with written_aside(path) as file:
        _write(buffer, file)


def _write(buffer: RecurrentSequenceReplayBuffer, file: Any) -> None:
    with sealed_archive(file) as archive:
        numbers, arrays = read_buffer_head(buffer)
        numbers["segments"] = [list(segments(ring)) for ring in buffer.rings]
        archive.writestr(_DESCRIPTION, json.dumps(numbers))
        write_arrays(archive, arrays)
        for index, ring in enumerate(buffer.rings):
            for first, last in numbers["segments"][index]:
                parts = read_steps(ring, first, last) | read_states(ring, first, last)
                write_arrays(archive, {f"steps.{index}.{first}.{name}": array for name, array in parts.items()})


def load_buffer(buffer: RecurrentSequenceReplayBuffer, file: Any) -> None:
    """
    :param buffer: new; it is not to be used if this fails
    :param file: from :func:`save_buffer`, open for reading
    :raises ValueError: if it was recorded with other settings, or is damaged
    """
    if not check_seal(file):
        raise ValueError(
            "it is no replay buffer of this version, which ends with a checksum. Pickles of older versions and of SB3 are not "
            "read, because that would run the code in them: collect again"
        )
    with zipfile.ZipFile(file) as archive:
        numbers = json.loads(archive.read(_DESCRIPTION))
        if numbers["format"] != FORMAT:
            raise ValueError(f"it holds a {numbers['format']!r}, not a {FORMAT!r}")
        check_fits(numbers, buffer)
        names = array_names(archive)
        heads = {name: read_array(archive, name) for name in names if not name.startswith("steps.")}
        restore_buffer_head(buffer, numbers, heads)
        by_segment: dict[str, list[str]] = {}
        for name in names:
            if name.startswith("steps."):
                by_segment.setdefault(".".join(name.split(".")[:3]), []).append(name)
        for index, ring in enumerate(buffer.rings):
            for first, _ in numbers["segments"][index]:
                prefix = f"steps.{index}.{first}"
                parts = {name.removeprefix(f"{prefix}."): read_array(archive, name) for name in by_segment[prefix]}
                write_steps(ring, first, parts)
                write_states(ring, first, parts)
