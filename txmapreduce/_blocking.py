"""
Between Deferreds and those who can't use them: scripts, notebooks, threads, asyncio.

There is one reactor in a process. Where the application runs it, it is used as it is; otherwise it starts at first
need, in a thread of its own, see L{txmapreduce._background}.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python import threadable
from twisted.python.failure import Failure

from ._background import has_stopped, running_reactor
from .errors import BackendUnavailable

__all__ = ["blocking", "in_reactor_thread", "running_loop", "settle", "to_future"]

T = TypeVar("T")

_CANCEL_GRACE = 1.0
"""Seconds that a cancelled run gets to end its workers before Ctrl-C goes on."""

_LOOK_AGAIN = 1.0
"""Seconds after which who waits makes sure that there is still a reactor to wait for."""


def in_reactor_thread() -> bool:
    """
    Whether the reactor runs, in this very thread.
    """
    from twisted.internet import reactor

    return bool(reactor.running) and threadable.isInIOThread()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """
    The asyncio loop that runs in this thread, if there is one.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def blocking(start: Callable[[], Deferred[T]]) -> T:
    """
    Call C{start} in the reactor's thread and wait for its Deferred. Ctrl-C cancels it.

    @raise RuntimeError: when called in the reactor's own thread, which would wait for itself.
    """
    if in_reactor_thread():
        raise RuntimeError(
            "this would block the reactor, which runs in this thread: use run(), which gives a Deferred, "
            "or run_async(), or call it in another thread (deferToThread)"
        )
    return _Call(running_reactor(), start).wait()


class _Call(Generic[T]):
    """
    A call in the reactor's thread for which this thread waits.
    """

    def __init__(self, reactor: Any, start: Callable[[], Deferred[T]]) -> None:
        self._reactor = reactor
        self._start = start
        self._deferred: Deferred[T] | None = None
        self._result: T | Failure
        self._ended = threading.Event()

    def wait(self) -> T:
        """
        Make the call, and give its result or raise its error.
        """
        self._reactor.callFromThread(self._begin)
        try:
            while not self._ended.wait(_LOOK_AGAIN):
                if has_stopped(self._reactor):
                    raise BackendUnavailable("the reactor was stopped while the run was under way")
        except BaseException:  # Ctrl-C, or what a signal handler raised
            self._reactor.callFromThread(self._cancel)
            self._ended.wait(_CANCEL_GRACE)
            raise
        if isinstance(self._result, Failure):
            self._result.raiseException()
        return self._result

    def _begin(self) -> None:
        self._deferred = maybeDeferred(self._start)
        self._deferred.addBoth(self._end)

    def _cancel(self) -> None:
        if self._deferred is not None:
            self._deferred.cancel()

    def _end(self, result: T | Failure) -> None:
        self._result = result
        self._ended.set()


def to_future(start: Callable[[], Deferred[T]], loop: asyncio.AbstractEventLoop) -> asyncio.Future[T]:
    """
    Call C{start} in the reactor's thread; the future belongs to C{loop}. Cancelling the future cancels the Deferred.
    """
    if in_reactor_thread():
        return start().asFuture(loop)
    reactor = running_reactor()
    future: asyncio.Future[T] = loop.create_future()
    call = reactor.callFromThread

    begun: list[Deferred[T]] = []

    def begin() -> None:
        begun.append(start())
        begun[0].addBoth(told)

    def told(result: Any) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, future, result)

    call(begin)  # and then, perhaps, what cancels it: calls from a thread keep their order
    future.add_done_callback(lambda done: call(lambda: begun[0].cancel()) if done.cancelled() else None)
    return future


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():
        return
    if isinstance(result, Failure):
        future.set_exception(cast(BaseException, result.value))
    else:
        future.set_result(result)


def settle(start: Callable[[], Deferred[T]]) -> Awaitable[T]:
    """
    What to C{await} for the Deferred of C{start}: in a coroutine of asyncio a future, in one of Twisted the Deferred.
    Under Twisted's asyncio reactor there is a loop in either; only a coroutine of asyncio is a task's.
    """
    loop = running_loop()
    if loop is None or (in_reactor_thread() and asyncio.current_task(loop) is None):
        return start()
    return to_future(start, loop)
