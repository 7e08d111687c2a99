"""
Files that are either whole or not there.

A file is written aside, flushed to the disk, and renamed: at no moment does a half-written one stand in the place of a good
one. Zip archives end with a checksum of all that comes before it, so that damage is found before anything is read.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

# The comment at the end of an archive: other programs read the archive as any other
_MARK = b"sha256:"
_NO_DIGEST = b"0" * 64
_SEAL_SIZE = len(_MARK) + len(_NO_DIGEST)
_BLOCK = 1 << 20


@contextmanager
def written_aside(path: str | Path) -> Iterator[BinaryIO]:
    """
    A file that takes its place when it is complete, and leaves what is there in place when it fails.

    :param path: of the file; missing folders are made
    :raises OSError: if it cannot be written
    """
    # A link goes on pointing to the file
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    _flush_folder(target.parent)


def _flush_folder(folder: Path) -> None:
    # The new name is on the disk only then. Windows has no such call
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Hashing(io.RawIOBase):
    """Passes on what is written, and computes its digest. It cannot seek, so that an archive is written in one go."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.file.write(data)


@contextmanager
def sealed_archive(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """
    A new zip archive that ends with a checksum.

    :param file: open for writing, at its beginning
    """
    stream = _Hashing(file)
    with zipfile.ZipFile(stream, "w") as archive:
        archive.comment = _MARK + _NO_DIGEST
        yield archive
    file.seek(-len(_NO_DIGEST), os.SEEK_END)
    file.write(stream.digest.hexdigest().encode())


def check_seal(file: BinaryIO) -> bool:
    """
    :param file: open for reading; read from its beginning
    :return: whether it has a checksum, which fits
    :raises ValueError: if the checksum does not fit
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _SEAL_SIZE, 0))
    seal = file.read()
    file.seek(0)
    if not seal.startswith(_MARK):
        return False
    digest, left = hashlib.sha256(), size - len(_NO_DIGEST)
    while left > 0 and (block := file.read(min(left, _BLOCK))):
        digest.update(block)
        left -= len(block)
    digest.update(_NO_DIGEST)
    file.seek(0)
    if digest.hexdigest().encode() != seal[len(_MARK) :]:
        raise ValueError("its checksum does not fit: bits were flipped, or parts are missing. Take another copy")
    return True


def write_arrays(archive: zipfile.ZipFile, arrays: Mapping[str, np.ndarray]) -> None:
    """
    :param archive: to which they are added; with nothing else, it is what ``numpy.load`` reads
    :param arrays: by name
    """
    for name, array in arrays.items():
        with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def array_names(archive: zipfile.ZipFile) -> list[str]:
    """
    :param archive: written with :func:`write_arrays`
    :return: names of the arrays in it
    """
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """
    :param archive: written with :func:`write_arrays`
    :param name: of an array
    :return: the array; no pickle is run
    """
    with archive.open(f"{name}.npy") as entry:
        return np.lib.format.read_array(entry, allow_pickle=False)


def with_suffix(path: Any, suffix: str) -> Any:
    """
    :param path: of a file to be written, or an open one
    :param suffix: added where there is none, as in SB3, e.g. ".zip"
    :return: the path
    """
    if not isinstance(path, (str, os.PathLike)) or Path(path).suffix:
        return path
    return f"{os.fspath(path)}{suffix}"


@contextmanager
def reading(path: Any, suffix: str, purpose: str = "read") -> Iterator[Any]:
    """
    A file to read. Whatever goes wrong with its content becomes an error that names it.

    :param path: of the file, or an open one
    :param suffix: tried where there is no such file, e.g. ".zip"
    :param purpose: what cannot be done with it then, for the message
    :raises ValueError: in place of any other error in the content
    :raises OSError: if there is no such file, or it cannot be opened
    """
    with ExitStack() as stack:
        file = path
        if isinstance(path, (str, os.PathLike)):
            found = Path(path) if os.path.exists(path) else Path(f"{os.fspath(path)}{suffix}")
            file = stack.enter_context(found.open("rb"))
        try:
            yield file
        except ValueError as error:
            raise ValueError(f"{path} cannot be {purpose}: {error}") from error
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{path} cannot be {purpose}: it is damaged, or of another kind ({reason}). Take another copy"
            ) from error
