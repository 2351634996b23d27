"""
The notes that threads of a worker on a cluster leave of what they are at: mapped files, which another process on the
same machine can read when theirs has died.

They lie where Dask has the scratch folders of its workers, beside those and not in one, since a nanny removes that as
soon as its worker is dead. Each is locked as long as its process lives. So whoever gives up a note removes what the
dead have left there as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import mmap
import os
import tempfile
import weakref

from .._tasks.careful import RECORD

__all__ = ["Note", "NoteFile", "read_note", "take_note"]

PREFIX = "txmapreduce-note-"

Note = tuple[int, int, str]
"""The number of a chunk, that of a record in it (or L{NO_CHUNK}), and the text of the record."""


class NoteFile:
    """
    The note of one thread.

    @ivar note: its numbers: see L{Runner}.
    """

    def __init__(self, folder: str) -> None:
        handle, self.path = tempfile.mkstemp(prefix=PREFIX, dir=folder)
        weakref.finalize(self, _give_up, handle, self.path)
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.ftruncate(handle, mmap.PAGESIZE)
        self.note = memoryview(mmap.mmap(handle, mmap.PAGESIZE)).cast("q")


def read_note(note: memoryview) -> Note:
    """
    What a thread was at.
    """
    text = note[RECORD + 2 :].tobytes()[: note[RECORD + 1]]
    return note[0], note[RECORD], text.decode("utf-8", "backslashreplace")


def take_note(path: str, run: int, task: int) -> Note | None:
    """
    What the attempt was at, from the note that a process on this machine has left. It is removed.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    _remove(path)
    note = memoryview(data).cast("q")
    return read_note(note) if (note[1], note[2]) == (run, task) else None


def _give_up(handle: int, path: str) -> None:
    _remove(path)
    os.close(handle)
    for other in glob.glob(os.path.join(glob.escape(os.path.dirname(path)), PREFIX + "*")):
        with contextlib.suppress(OSError), open(other, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(other)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
