"""
The start of a child's process, for which no reactor is needed.

Importing the reactor takes a script as long as a worker takes to start. So a script that has no reactor yet launches
its workers first, and they start while it imports: L{ahead}. Who needs a child takes one of those, where it has the
environment that is wanted, or launches another: L{take}.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from .._wire import arena
from .note import Note

__all__ = ["Launched", "ahead", "environment", "open_pipes", "take"]

_BOOT = (
    "import gc, sys; gc.disable(); sys.path[:] = sys.argv.pop(1).split(chr(0x1f)); "
    "from txmapreduce._worker.loop import main; main({})"
)
"""
What the child runs. Its one argument is this process's import path. Imports make no garbage, so the collector sleeps
until C{main} wakes it.
"""

_PIPE_SIZE = 1 << 20

_MOST_AHEAD = 8
"""Children that are launched ahead at the most: each takes a millisecond or two, and may not be needed."""

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
)


class Launched:
    """
    A child's process that has just been started, and this process's ends of what connects the two.

    @ivar pid: its process id.
    @ivar task_fd: takes messages to it. C{result_fd}: brings them. Neither blocks.
    @ivar output: where the bytes come from that it prints to its descriptors 1 and 2. They don't block either.
    @ivar lifeline: the pipe whose end is the end of the child, see L{txmapreduce._worker.lifeline}; -1 for none.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        """
        Start it.

        @raise OSError: the system has no process, descriptor or memory to give.
        """
        self.env = env
        self.arena = arena.create()
        self._ours: list[int] = []
        self._theirs: list[int] = []
        try:
            self.note = Note()
            self._theirs.append(self.note.fd)
            self.pid = self._start(self._connect())
        except BaseException:
            self.abandon()
            raise
        finally:
            for fd in self._theirs:
                os.close(fd)

    def _connect(self) -> dict[str, int]:
        """
        Open all pipes.

        @return: the child's ends, as C{_worker.loop.main} calls them.
        """
        read_fd, self.task_fd, self.result_fd, write_fd = open_pipes()
        self._ours += self.task_fd, self.result_fd
        self._theirs += read_fd, write_fd
        self.output = {1: self._pipe(), 2: self._pipe()}
        theirs = {"read_fd": read_fd, "write_fd": write_fd, "note_fd": self.note.fd}
        if self.arena is not None:
            theirs["arena_fd"] = self.arena.fd
        self.lifeline = -1
        if hasattr(fcntl, "F_SETSIG"):
            theirs["life_fd"], self.lifeline = os.pipe()
            self._ours.append(self.lifeline)
            self._theirs.append(theirs["life_fd"])
        return theirs

    def _pipe(self) -> int:
        ours, theirs = os.pipe()
        self._ours.append(ours)
        self._theirs.append(theirs)
        os.set_blocking(ours, False)
        return ours

    def _start(self, theirs: Mapping[str, int]) -> int:
        if not sys.executable:
            raise OSError(errno.ENOENT, "this Python does not know its own executable (sys.executable is empty)")
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        boot = _BOOT.format(", ".join(f"{name}={fd}" for name, fd in theirs.items()))
        stdout, stderr = self._theirs[3:5]
        process = subprocess.Popen(
            [sys.executable, *flags, "-c", boot, chr(0x1F).join(map(str, sys.path))],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(theirs.values()),
        )
        process.returncode = 0  # so that it leaves collecting to us
        return process.pid

    def collect(self) -> int | None:
        """
        Collect the process if it has ended.

        @return: its wait status; C{None}: it has not ended.
        @raise ChildProcessError: somebody else has collected it.
        """
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return status if pid else None

    def kill(self) -> None:
        """
        End it, where nobody has begun to use it.
        """
        os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self.abandon()

    def abandon(self) -> None:
        """
        Let go of this side's ends.
        """
        for fd in self._ours:
            os.close(fd)
        self._ours.clear()
        if self.arena is not None:
            self.arena.close()
        if hasattr(self, "note"):
            self.note.close()


def open_pipes() -> tuple[int, int, int, int]:
    """
    The task pipe and the result pipe; our own ends don't block.
    """
    fds: list[int] = []
    try:
        for ours in (1, 0):
            pair = os.pipe()
            fds.extend(pair)
            os.set_blocking(pair[ours], False)
            if hasattr(fcntl, "F_SETPIPE_SZ"):
                with suppress(OSError):  # the user's share of pipe memory is used up: the usual 64 KiB do as well
                    fcntl.fcntl(pair[0], fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    task_r, task_w, result_r, result_w = fds
    return task_r, task_w, result_r, result_w


def environment(threads: int = 1, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """
    The environment of a child: this process's, and on top of it how many C{threads} BLAS and OpenMP libraries may use,
    and C{env}.
    """
    return {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads)), **(env or {})}


_ahead: list[Launched] = []


@contextmanager
def ahead(most: int, tasks: int | None, env: Mapping[str, str]) -> Iterator[None]:
    """
    Launch children for what is done in this context, if it will have to import the reactor first. What nobody has taken
    at its end is ended.

    @param most: how many. C{tasks}: what they will have to do, if that is known.
    """
    count = min(most, _MOST_AHEAD) if tasks is None else min(most, _MOST_AHEAD, tasks)
    if "twisted.internet.reactor" not in sys.modules:
        with suppress(OSError):  # the pool will try again, and say what goes wrong
            for _ in range(count):
                _ahead.append(Launched(env))
    try:
        yield
    finally:
        while _ahead:
            _ahead.pop().kill()


def take(env: Mapping[str, str]) -> Launched:
    """
    A child with this environment: one that was launched ahead, or a new one.

    @raise OSError: the system has no process, descriptor or memory to give.
    """
    for n, launched in enumerate(_ahead):
        if launched.env == env:
            return _ahead.pop(n)
    return Launched(env)
