"""
What a worker takes over from the coordinator's process, so that a user's code finds in one what it finds in the other;
and what it makes its own: signals and descriptors.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import sys
import warnings
from typing import Any

from .._values.loading import Buffer

__all__ = ["in_place", "own_signals", "surroundings", "take_over"]

_OUT_OF_THE_WAY = 16
_IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}


def surroundings() -> bytes:
    """
    What workers take over from this process: import path, arguments, working directory and warnings filters.
    """
    try:
        cwd = os.getcwd()
    except OSError:  # it has been removed; the workers stay where they are
        cwd = "."
    facts: dict[str, Any] = {"path": list(sys.path), "argv": list(getattr(sys, "argv", [])), "cwd": cwd}
    return pickle.dumps({**facts, "filters": [entry for entry in warnings.filters if _can_travel(entry)]})


def _can_travel(entry: Any) -> bool:
    """
    Whether a warnings filter can be sent: its category may be a class that workers can't import.
    """
    return getattr(entry[2], "__module__", None) == "builtins"


def take_over(data: Buffer) -> None:
    """
    Make this process look like the coordinator's: working directory, import path, arguments, warnings filters.

    @param data: what L{surroundings} gave there.
    """
    facts = pickle.loads(data)
    sys.path[:] = facts["path"]
    sys.argv[:] = facts["argv"]
    warnings.filters[:] = facts["filters"]  # type: ignore[index]
    # Also tells the warnings module that its filters have changed. The thread that this is about, which waits for the
    # coordinator's end, sleeps in the kernel and holds no lock, so a fork in the user's code is as safe as without it.
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
    try:
        os.chdir(facts["cwd"])
    except OSError as error:
        print(f"the working directory of the coordinator can't be entered: {error}", file=sys.stderr)


def own_signals() -> None:
    """
    Undo what the coordinator has ignored or blocked, which an C{exec} keeps; Ctrl-C is its own to handle.
    """
    for number in signal.valid_signals() - _IGNORED_BY_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def in_place(*fds: int | None) -> Any:
    """
    Descriptors under the numbers from 3 on, whatever they were; those that are missing leave theirs free.
    """
    copies = [fd if fd is None else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for fd in fds]
    for fd in fds:
        if fd is not None:
            os.close(fd)
    for place, fd in enumerate(copies, 3):
        if fd is not None:
            os.dup2(fd, place, inheritable=False)
            os.close(fd)
    return [None if fd is None else place for place, fd in enumerate(copies, 3)]
