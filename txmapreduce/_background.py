"""
The reactor in a thread of its own, where no application runs it: in scripts and notebooks.

It starts at first need and stops when the main thread ends, which ends the workers. Crochet does the same, but looks
only every 0.1 s whether the main thread is still there, so that a short script would take half as long again.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from twisted.internet.process import reapAllProcesses
from twisted.internet.task import LoopingCall
from twisted.logger import LogEvent, STDLibLogObserver, globalLogBeginner

from .errors import BackendUnavailable

__all__ = ["has_stopped", "running_reactor"]

_REAP = 0.1
"""Seconds between looks for ended processes, where neither SIGCHLD nor a pidfd tells."""

_starting = threading.Lock()
_started_in: list[int] = []
"""The process in which the reactor's thread was started: a fork of it has no such thread."""


def running_reactor() -> Any:
    """
    The reactor. If nobody runs it, it does from now on.

    @raise BackendUnavailable: it was stopped, or this process is a fork of the one in which it runs.
    """
    from twisted.internet import reactor

    with _starting:
        if has_stopped(reactor):
            raise BackendUnavailable("the reactor of this process has been stopped, and Twisted can't start it again")
        if _started_in and _started_in[0] != os.getpid():
            raise BackendUnavailable(
                "this process was forked from one that has run a job, and so has a reactor that does not run: "
                'start it in another way (multiprocessing: the method "spawn"), or fork before the first run'
            )
        if not _started_in and not reactor.running:
            _start(reactor)
            _started_in.append(os.getpid())
    return reactor


def has_stopped(reactor: Any) -> bool:
    """
    Whether a reactor has run, and does so no more.
    """
    return getattr(reactor, "_startedBefore", False) and not getattr(reactor, "_started", False)


def _start(reactor: Any) -> None:
    # Without an observer Twisted would keep the last 65,536 events.
    observers: list[Any] = [STDLibLogObserver(), _echo]
    globalLogBeginner.beginLoggingTo(observers, discardBuffer=True, redirectStandardIO=False)
    if not hasattr(os, "pidfd_open"):
        reactor.callWhenRunning(LoopingCall(reapAllProcesses).start, _REAP, now=False)
    threading.Thread(target=reactor.run, args=(False,), name="txmapreduce-reactor").start()
    threading.Thread(target=_stop_at_the_end, args=(reactor,), name="txmapreduce-end", daemon=True).start()


def _stop_at_the_end(reactor: Any) -> None:
    """
    Wait for the end of the main thread. This is no task for C{atexit}, which waits for all other threads.
    """
    threading.main_thread().join()
    reactor.callFromThread(lambda: reactor.running and reactor.stop())


def _echo(event: LogEvent) -> None:
    """
    In a script or a notebook, what the workers print belongs on the screen.
    """
    if event.get("worker_output"):
        stream = sys.stderr if event["stream"] == "stderr" else sys.stdout
        if stream is not None:
            print(event["line"], file=stream, flush=True)
