"""
What files there are to read, and which of them, or which parts, make up a split.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Union

from ..errors import BadInput
from .reading import DECOMPRESSORS, Piece, fsspec_for, is_url, suffix_of

__all__ = ["Paths", "as_paths", "cut", "files_of", "pack", "target_of"]

Paths = Union[str, "os.PathLike[str]", Iterable[Union[str, "os.PathLike[str]"]]]

SMALLEST_TARGET = 256 << 10
"""Bytes: a smaller split would cost more to hand out than to read."""

MOST_SPLITS = 256
"""Splits that an input is cut into before they grow: enough to keep many workers evenly busy."""

COST_OF_OPENING = 8 << 10
"""Bytes that could be read in the time that it takes to open a file: what each file weighs on top of its size."""


def as_paths(reader: str, paths: Paths) -> tuple[str, ...]:
    """
    One path or several, as a tuple of text.

    @param reader: what messages call the one who takes them.
    @raise BadInput: they are something else, or empty.
    """
    try:
        one = isinstance(paths, (str, bytes, os.PathLike))
        found = tuple(os.fsdecode(path) for path in ([paths] if one else paths))  # type: ignore[union-attr, arg-type]
    except TypeError as error:
        raise BadInput(f"{reader} takes a path or an iterable of paths: {error}") from None
    if "" in found:
        raise BadInput(f"{reader} was given an empty path")
    return found


def files_of(paths: Iterable[str]) -> list[tuple[str, int]]:
    """
    The files that paths, globs, folders and URLs stand for, with their sizes in bytes, in order. See L{TextFiles}.

    @raise BadInput: one names no file that can be read.
    """
    return [file for path in paths for file in _expand(path)]


def target_of(files: Iterable[tuple[str, int]], blocksize: int) -> int:
    """
    How many bytes a split should have.
    """
    return min(blocksize, max(SMALLEST_TARGET, sum(size for _, size in files) // MOST_SPLITS))


def cut(files: Iterable[tuple[str, int]], target: int, whole: bool) -> Iterator[tuple[Piece, int]]:
    """
    The pieces of files, with their sizes. C{whole}: none is cut.
    """
    return chain.from_iterable(_cut_file(path, size, target, whole) for path, size in files)


def _expand(path: str) -> Iterable[tuple[str, int]]:
    """
    The files that a path stands for, with their sizes in bytes.
    """
    if is_url(path):
        return _expand_url(path)
    # Absolute: a worker that has been running for a while need not have our folder.
    absolute = os.path.abspath(path)
    if os.path.isdir(absolute):
        return ((name, _size(name)) for name in sorted(_below(absolute)))
    if not os.path.lexists(absolute) and re.search(r"[*?[]", path):
        return _expand_glob(path)
    return [(absolute, _size(absolute))]


def _expand_glob(pattern: str) -> list[tuple[str, int]]:
    import glob

    found = sorted(os.path.abspath(name) for name in glob.glob(pattern, recursive=True) if not os.path.isdir(name))
    if not found:
        raise BadInput(f"no file matches {pattern}")
    return [(name, _size(name)) for name in found]


def _below(folder: str) -> Iterator[str]:
    for name, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [each for each in folders if not each.startswith((".", "_"))]
        for path in (os.path.join(name, each) for each in files if not each.startswith((".", "_"))):
            if os.path.isfile(path) or os.path.islink(path):
                yield path


def _refuse(error: OSError) -> None:
    raise BadInput(f"{error.filename} can't be read: {error.strerror}") from error


def _size(path: str) -> int:
    try:
        found = os.stat(path)
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise BadInput(f"{path} is not a regular file. What can be read only once can be given as data: open(path)")
    if not os.access(path, os.R_OK):
        raise BadInput(f"{path} can't be read: permission denied")
    return found.st_size


def _expand_url(url: str) -> list[tuple[str, int]]:
    fsspec = fsspec_for(url)
    try:
        files = _remote_files(fsspec, url)
    except FileNotFoundError:
        raise BadInput(f"there is no file {url}") from None
    except ImportError as error:
        raise BadInput(f"{url} needs one more package: {error}") from error
    except Exception as error:  # each remote store has kinds of its own
        raise BadInput(f"{url} can't be read: {error or type(error).__name__}") from error
    if not files and "*" in url:
        raise BadInput(f"no file matches {url}")
    return files


def _remote_files(fsspec: Any, url: str) -> list[tuple[str, int]]:
    store, path = fsspec.core.url_to_fs(url)
    # A URL may be more than a store and a path (a chain, a query): then only the URL itself names it.
    if "*" in url and not url.startswith("http"):
        found = store.glob(path, detail=True)
    else:
        info = store.info(path)
        if info.get("type") != "directory":
            return [(url, info.get("size") or 0)]
        found = store.find(path, detail=True)
    return [
        (store.unstrip_protocol(name), info.get("size") or 0)
        for name, info in sorted(found.items())
        if info.get("type") == "file"
    ]


def _cut_file(path: str, size: int, target: int, whole: bool) -> Iterator[tuple[Piece, int]]:
    """
    The pieces of one file with their sizes: near-equal ranges of at most C{target} bytes, or the file as it is.
    """
    # A size of 0 is read as a stream: files that the system makes up as they are read, as in /proc, have it too.
    if whole or size == 0 or is_url(path) or suffix_of(path) in DECOMPRESSORS:
        yield (path, 0, None), size
        return
    count = -(-size // target)
    for number in range(count):
        start, end = size * number // count, size * (number + 1) // count
        yield (path, start, end), end - start


def pack(pieces: Iterable[tuple[Piece, int]], target: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
    """
    Consecutive pieces put together up to C{target} bytes, with the sum of their sizes.
    """
    packed: list[Piece] = []
    nbytes = weight = 0
    for piece, size in pieces:
        if packed and (weight + size > target or is_url(piece[0])):
            yield tuple(packed), nbytes
            packed, nbytes, weight = [], 0, 0
        packed.append(piece)
        nbytes += size
        # Nothing is packed behind a remote file: its size need not be known.
        weight += target if is_url(piece[0]) else size + COST_OF_OPENING
    if packed:
        yield tuple(packed), nbytes
