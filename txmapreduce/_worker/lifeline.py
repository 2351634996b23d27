"""
How a worker ends with its coordinator, and takes with it what it forked, whatever ended the coordinator.

    - The worker leads a process group, in which everything stays that it forks, unless that leaves it on purpose.
    - The lifeline is a pipe to which nobody ever writes. When the coordinator is gone, and with it the only writing
      end, the kernel itself sends SIGKILL to the whole group: also where the user's code is in a C loop and no thread
      of this process ever gets its turn. That is the asynchronous I/O of Linux, with another signal than SIGIO.
    - Should the writing end live on in a fork of the coordinator's, the kernel still kills the worker itself.
    - Elsewhere a thread sees the end of the task pipe and kills the group, as soon as it gets the GIL.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import threading
import time

__all__ = ["die_with", "own_group"]

_PR_SET_PDEATHSIG = 1
_LAST_MOMENT = 0.5
"""Seconds from the end of the task pipe to the end of this process, whatever the user's code does."""


def own_group() -> None:
    """
    Leave the terminal's process group: Ctrl-C is the coordinator's to handle, and a kill reaches what was forked here.
    """
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)


def die_with(parent: int, task_fd: int, life_fd: int | None) -> None:
    """
    Have this process and its group end with the coordinator, whose process id is C{parent}.
    """
    if life_fd is not None:
        _tie(life_fd)
    if sys.platform == "linux":
        _ask_for_signal(parent)
    threading.Thread(target=_watch, args=(task_fd,), daemon=True, name="txmapreduce-watch").start()


def _tie(fd: int) -> None:
    """
    Have the kernel kill this group when nobody can write to C{fd} any more.
    """
    fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)


def _ask_for_signal(parent: int) -> None:
    """
    Have the kernel kill this process when its parent ends.
    """
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it ended before we asked


def _watch(fd: int) -> None:
    """
    Wait until nobody can write to the task pipe any more. The main thread sees that, too, and ends this process in the
    usual way, unless the user's code keeps it busy: so that gets a moment, no more.
    """
    poll = select.poll()
    poll.register(fd, 0)  # no events asked for: only a hang-up is told
    while not any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in poll.poll()):
        pass
    time.sleep(_LAST_MOMENT)
    with contextlib.suppress(OSError):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
