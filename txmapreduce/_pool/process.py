"""
One child process: its pipes, its messages, its output, its death.

A child is dead when the system says so (C{processExited}, or its pidfd) or when its result pipe ends: the first of them
counts, since each can be missing. What was complete in the result pipe by then is still delivered, then
L{ChildOwner.died} is called, once, last, in a turn of its own: what the owner opens then must not get the number of a
descriptor whose events this turn has still to work off.

There are three ways to end a child. L{Child.close} lets it answer what it has; when it has not ended in time it is
asked to, as by L{Child.end}: SIGTERM for its whole process group, and SIGKILL for those that have not heeded that in
time. L{Child.kill} is SIGKILL at once, for a child in the midst of something that nobody needs. Whichever way it ends,
what it forked ends with it, but for what has left the group.

What it prints comes back line by line into the log, tagged with the worker and the chunk that it was running.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from twisted.internet import error as terror
from twisted.internet.process import registerReapProcessHandler, unregisterReapProcessHandler
from twisted.logger import Logger
from twisted.python.failure import Failure

from .._wire.messages import NO_CHUNK, Hello, Message, Release
from ..errors import ProtocolError
from .cgroup import oom_kills
from .launch import take
from .output import Lines
from .pipes import ExitWatch, OutputPipe, ResultPipe, TaskPipe

__all__ = ["Child", "ChildOwner", "Death"]

_log = Logger()

_CLOSE_GRACE = 1.0
"""Seconds that a child gets to end by itself when its task pipe has ended."""
_TERM_GRACE = 0.5
"""Seconds that it and what it forked get to heed SIGTERM."""
_EXIT_GRACE = 0.5
"""Seconds that a child whose result pipe has ended may take until the system says how it ended."""


@dataclass(frozen=True)
class Death:
    """
    How a child ended. Neither C{exit_code} nor C{signal}: the system did not tell. C{out_of_memory}: that it was killed
    for that, in words, where it was.
    """

    pid: int
    exit_code: int | None
    signal: int | None
    stderr: str
    garbage: ProtocolError | None = None
    out_of_memory: str = ""


class ChildOwner(Protocol):
    """
    Who is told what a child does.
    """

    def said(self, child: Child, message: Message) -> None:
        """
        A message has come.
        """

    def died(self, child: Child, death: Death) -> None:
        """
        It is gone, and so is everything that belonged to it. Nothing comes after this.
        """


class Child:
    """
    One worker process, from its start to its end.

    @ivar pid: its process id.
    @ivar dead: whether its owner has been told that it died.
    """

    def __init__(self, reactor: Any, env: Mapping[str, str], owner: ChildOwner) -> None:
        """
        Start it.

        @raise OSError: the system has no process, descriptor or memory to give.
        """
        self._reactor = reactor
        self._owner = owner
        self.dead = False
        self._status: int | None = None  # the exit code, or the number of a signal below 0
        self._garbage: ProtocolError | None = None
        self._grace: Any = None
        self._step: Any = None
        self._killed = False
        self._excess = ""
        self._oom_kills = oom_kills().count()
        self._launched = launched = take(env)
        self.pid = launched.pid
        self._note, self._arena = launched.note, launched.arena
        self.output = {fd: Lines(partial(self._print, name)) for fd, name in ((1, "stdout"), (2, "stderr"))}
        self._writer = TaskPipe(reactor, launched.task_fd, self._pipe_ended, self._arena)
        self._reader = ResultPipe(reactor, launched.result_fd, self._said, self._pipe_ended, self._arena)
        self._prints = {fd: OutputPipe(reactor, launched.output[fd], self.output[fd].feed) for fd in (1, 2)}
        for pipe in (self._reader, *self._prints.values()):
            pipe.startReading()
        self._exit_watch = self._watch_exit()
        registerReapProcessHandler(self.pid, self)

    def _watch_exit(self) -> ExitWatch | None:
        if not hasattr(os, "pidfd_open"):
            return None
        try:
            watch = ExitWatch(self._reactor, os.pidfd_open(self.pid), self._reap)
        except OSError:  # an old kernel, no descriptors left: the other two signs of death remain
            return None
        watch.startReading()
        return watch

    @property
    def chunk(self) -> int | None:
        """
        The number of the chunk that it was running when it last wrote it down.
        """
        number = self._note.read()[0]
        return None if number == NO_CHUNK else number

    @property
    def record(self) -> tuple[int | None, str]:
        """
        The number in its task, and the text, of the record that it was at, where it was to note that down.
        """
        return self._note.record()

    @property
    def began(self) -> tuple[int, int]:
        """
        The run and the task that it took up last; task 0 while it loads what the run needs.
        """
        _, run, task = self._note.read()
        return run, task

    def send(self, message: Message) -> None:
        """
        Send a message.
        """
        self._writer.send(message)

    def close(self) -> None:
        """
        Send nothing more: it ends when it has answered what it has, for which it gets a moment.
        """
        self._writer.finish()
        self._then(_CLOSE_GRACE, self.end)

    def end(self) -> None:
        """
        Have it and what it forked end; after a moment they are killed.
        """
        self._signal(signal.SIGTERM)
        self._then(_TERM_GRACE, self.kill)

    def kill(self, excess: str = "") -> None:
        """
        End it and what it forked, now.

        @param excess: where it has too much memory, that in words.
        """
        if not self._killed:
            self._killed, self._excess = True, excess
        self._signal(signal.SIGKILL)

    def _then(self, seconds: float, step: Callable[[], None]) -> None:
        """
        What is to be done if it is still there after so long, in place of what was to be done before.
        """
        self._stop_step()
        if not self.dead:
            self._step = self._reactor.callLater(seconds, step)

    def _stop_step(self) -> None:
        if self._step is not None and self._step.active():
            self._step.cancel()

    def _signal(self, number: int) -> None:
        if not self.dead and not self._signal_group(number):  # it has not made its own group yet
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _signal_group(self, number: int) -> bool:
        """
        Whether there is such a group.
        """
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _said(self, message: Message) -> None:
        if isinstance(message, Release):
            if self._arena is not None:
                self._arena.give_back(message.blocks)
            return
        if isinstance(message, Hello) and self._arena is not None:
            self._arena.shared = message.shares
        if not self.dead:
            self._owner.said(self, message)

    def _print(self, stream: str, line: str) -> None:
        _log.info("{line}", line=line, stream=stream, worker=self.pid, chunk=self.chunk, worker_output=True)

    def _pipe_ended(self, reason: Failure) -> None:
        """
        A pipe has ended: the child is of no more use, so see to it that it ends, and learn how it did.
        """
        if isinstance(reason.value, ProtocolError):
            self._garbage = reason.value
        if self.dead or self._status is not None or self._grace is not None:
            return
        if self._reader.fd < 0 and not isinstance(reason.value, terror.ConnectionDone):
            self.kill()
        self._grace = self._reactor.callLater(_EXIT_GRACE, self._give_up)

    def _give_up(self) -> None:
        """
        It has had its time. That it was killed is told soon, or else nobody tells.
        """
        self.kill()
        self._grace = self._reactor.callLater(_EXIT_GRACE, self._vanished)

    def _vanished(self) -> None:
        self._grace = None
        self._die()

    def _reap(self) -> None:
        """
        The pidfd says that it has ended, just now. Collect it; if somebody else did, its status is not to be had.
        """
        if not self.dead:
            self._signal_group(signal.SIGKILL)  # what it forked
        self.reapProcess()
        if not self.dead:
            unregisterReapProcessHandler(self.pid, self)
            self._die()

    def reapProcess(self) -> None:
        """
        Collect it, if it has ended. Twisted calls this when the system says that some child has.
        """
        with contextlib.suppress(ChildProcessError):
            if (status := self._launched.collect()) is not None:
                unregisterReapProcessHandler(self.pid, self)
                self.processEnded(status)

    def processEnded(self, status: int) -> None:
        """
        It has been collected, just now: its number still stands for its group, and what it forked ends with it.

        @param status: as C{os.waitpid} gives it.
        """
        self._status = os.waitstatus_to_exitcode(status)
        self._signal_group(signal.SIGKILL)
        if not self.dead:
            self._die()

    def _die(self) -> None:
        """
        Take what it still said, let go of all that was its own, and tell the owner.
        """
        reason = self._reader.drain()
        if isinstance(reason, ProtocolError):
            self._garbage = reason
        self.dead = True
        self._collect_output()
        for descriptor in (self._reader, self._writer, self._exit_watch, *self._prints.values()):
            if descriptor is not None:
                descriptor.close()
        if self._launched.lifeline >= 0:
            os.close(self._launched.lifeline)
        self._stop_step()
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        code = self._status
        death = Death(
            pid=self.pid,
            exit_code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            stderr=self.output[2].tail.decode("utf-8", "replace"),
            garbage=self._garbage,
            out_of_memory=self._out_of_memory(),
        )
        self._note.close()
        self._close_arena()
        self._reactor.callLater(0, self._owner.died, self, death)

    def _out_of_memory(self) -> str:
        if self._killed:
            return self._excess
        if self._status == -signal.SIGKILL and oom_kills().explain(self._oom_kills):
            return "was killed by the kernel: out of memory"
        return ""

    def _close_arena(self) -> None:
        if self._arena is not None:
            self._arena.close()

    def _collect_output(self) -> None:
        """
        What it printed last, as far as the pipes hold it; a grandchild that keeps them open is not waited for.
        """
        for fd, pipe in self._prints.items():
            pipe.drain()
            self.output[fd].end()
