"""
The file of dead letters: which records were left out of a run, and why, a line of JSON each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from .._files.space import free_space
from .._schedule.events import BadRecord
from ..errors import BadInput, MapReduceError

__all__ = ["DeadLetters"]


class DeadLetters:
    """
    The file that the policy's C{dead_letters} names, or none.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = path

    def begin(self) -> None:
        """
        Make the file, empty.

        @raise BadInput: that is not possible.
        """
        try:
            self._write([])
        except OSError as error:
            raise BadInput(f"the policy's dead_letters can't be written: {error}") from error

    def _write(self, bad: Sequence[BadRecord]) -> None:
        if self._path is not None:
            with open(self._path, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(json.dumps(asdict(record)) + "\n" for record in bad)

    def end(self, result: Any, bad: Sequence[BadRecord]) -> Any:
        """
        Write down what was left out, in a thread.

        @return: C{result}, or a Deferred that gives it; it fails where the file can't be written.
        """
        if self._path is None or not bad:
            return result
        done: Deferred[Any] = deferToThread(self._write, list(bad))
        return done.addCallbacks(lambda _: result, self._failed)

    def _failed(self, why: Any) -> None:
        assert self._path is not None
        room = free_space(why.value, self._path)
        raise MapReduceError(f"the policy's dead_letters can't be written: {why.value}{room}") from why.value
