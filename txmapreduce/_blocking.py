"""
Between Deferreds and those who can't use them: scripts, notebooks, threads, asyncio.

There is one reactor in a process. Where the application runs it, it is used as it is; otherwise crochet runs it in a
thread of its own at first need, and stops it when the main thread ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python import threadable
from twisted.python.failure import Failure

from .errors import BackendUnavailable

__all__ = ["blocking", "in_reactor_thread", "running_loop", "settle", "to_future"]

T = TypeVar("T")

_CANCEL_GRACE = 1.0
"""Seconds that a cancelled run gets to end its workers before Ctrl-C goes on."""


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


def _ensure_reactor() -> Any:
    """
    See to it that the reactor runs in some other thread.
    """
    import crochet
    from twisted.internet import reactor

    if reactor.running:
        with contextlib.suppress(RuntimeError):  # crochet runs it, or has been told before
            crochet.no_setup()
    elif getattr(reactor, "_startedBefore", False) and not getattr(reactor, "_started", False):
        raise BackendUnavailable("the reactor of this process has been stopped, and Twisted can't start it again")
    else:
        crochet.setup()
        globalLogPublisher.addObserver(_echo)  # type: ignore[arg-type]
    return crochet


def _echo(event: LogEvent) -> None:
    """
    In a script or a notebook, what the workers print belongs on the screen.
    """
    if event.get("worker_output"):
        stream = sys.stderr if event["stream"] == "stderr" else sys.stdout
        if stream is not None:
            print(event["line"], file=stream, flush=True)


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
    crochet = _ensure_reactor()
    ended = threading.Event()

    def begin() -> Deferred[T]:
        return start().addBoth(_passed, ended)

    eventual = crochet.run_in_reactor(begin)()
    try:
        return eventual.wait(None)  # type: ignore[no-any-return]
    except crochet.ReactorStopped:
        raise BackendUnavailable("the reactor was stopped while the run was under way") from None
    except BaseException:
        if not ended.is_set():  # not the run's own error: Ctrl-C, or what a signal handler raised
            eventual.cancel()
            if ended.wait(_CANCEL_GRACE):
                with contextlib.suppress(BaseException):
                    eventual.wait(_CANCEL_GRACE)  # or crochet would log it as an error that nobody has seen
        raise


def _passed(result: Any, ended: threading.Event) -> Any:
    ended.set()
    return result


def to_future(start: Callable[[], Deferred[T]], loop: asyncio.AbstractEventLoop) -> asyncio.Future[T]:
    """
    Call C{start} in the reactor's thread; the future belongs to C{loop}. Cancelling the future cancels the Deferred.
    """
    if in_reactor_thread():
        return start().asFuture(loop)
    from twisted.internet import reactor

    _ensure_reactor()
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
