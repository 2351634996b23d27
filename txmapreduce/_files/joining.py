"""
Splits of files that follow each other, read as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .base import FilesSplit
from .reading import FileSplit, Piece, is_url

__all__ = ["joinable", "joined"]


def joinable(split: Any, following: Any) -> bool:
    """
    Whether what reads C{split} could read C{following} behind it.
    """
    if type(split) not in (FileSplit, FilesSplit) or type(split) is not type(following):
        return False
    if any(is_url(piece[0]) for piece in (*split.pieces, *following.pieces)):  # as when files are packed
        return False
    return bool(replace(split, pieces=following.pieces, nbytes=following.nbytes) == following)


def joined(splits: Sequence[Any]) -> Any:
    """
    One split in place of several: ranges of a file that follow each other become one.
    """
    if len(splits) == 1:
        return splits[0]
    pieces: list[Piece] = []
    for piece in (piece for split in splits for piece in split.pieces):
        path, start, end = piece
        last = pieces[-1] if pieces else None
        if last is not None and last[0] == path and last[2] is not None and last[2] == start:
            pieces[-1] = (path, last[1], end)
        else:
            pieces.append(piece)
    return replace(splits[0], pieces=tuple(pieces), nbytes=sum(split.nbytes for split in splits))
