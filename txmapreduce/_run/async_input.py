"""
Input that comes asynchronously: an HTTP body, a queue.

It is iterated where it belongs: an object of asyncio's in the loop of its thread, one of Twisted's in the reactor. It
is pulled only as far as the run has asked for records, so it is paused whenever the run lags. What has come is given
without waiting for a full chunk, but not before the iterator has to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Generator, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from .._blocking import running_loop
from ..inputs import is_async

__all__ = ["AsyncRecords", "at_home"]

T = TypeVar("T")


class _AtHome:
    """
    An asynchronous iterable and the asyncio loop in which it has to be iterated.
    """

    def __init__(self, data: AsyncIterable[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.data = data
        self.loop = loop

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.data.__aiter__()


def at_home(data: Any) -> Any:
    """
    Remember the loop that runs in this thread, where C{data} is asynchronous.
    """
    loop = running_loop()
    if loop is None or not is_async(data) or isinstance(data, _AtHome):
        return data
    return _AtHome(data, loop)


class _Bridge:
    """
    Lets asyncio run a coroutine that awaits Deferreds: under Twisted's asyncio reactor a generator may be of either
    kind. The coroutine is made when it begins, since a task that is cancelled before that never would begin it.
    """

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._make = make

    def __await__(self) -> Generator[Any, Any, T]:
        coroutine = self._make()
        step, value = coroutine.send, None
        while True:
            try:
                awaited = step(value)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            step, value = coroutine.send, None
            try:
                if isinstance(awaited, Deferred):
                    yield from _fired(awaited).__await__()
                else:
                    value = yield awaited
            except BaseException as error:
                step, value = coroutine.throw, error


def _fired(deferred: Deferred[Any]) -> asyncio.Future[None]:
    """
    A future that tells when C{deferred} has a result, and leaves the result in there for who awaits it.
    """
    fired = asyncio.get_running_loop().create_future()

    def tell(result: Any) -> Any:
        if not fired.done():
            fired.set_result(None)
        return result

    deferred.addBoth(tell)
    fired.add_done_callback(lambda done: deferred.cancel() if done.cancelled() else None)
    return fired


class AsyncRecords:
    """
    An input of records that come when they come.
    """

    splits = False
    length = None

    def __init__(self, reactor: Any, data: AsyncIterable[Any], unit: int = 1) -> None:
        """
        @param reactor: the thread that calls L{take} is its.
        @param unit: records are given in multiples of this, up to the last; the counts that are asked for are such.
        """
        self._unit = unit
        data = at_home(data)
        self._reactor = reactor
        self._loop: asyncio.AbstractEventLoop | None = data.loop if isinstance(data, _AtHome) else None
        self._iterator = data.__aiter__()
        self._buffer: list[Any] = []
        self._wanted = 0
        self._waiting: Deferred[Sequence[Any]] | None = None
        self._pulling = False
        self._stop: Callable[[], object] = lambda: None
        self._told = False
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None

    def take(self, count: int) -> Deferred[Sequence[Any]]:
        """
        What has come, C{count} at the most; when nothing has, wait for something.
        """
        self._wanted = count
        waiting: Deferred[Sequence[Any]] = Deferred()
        self._waiting = waiting
        self._give()
        return waiting

    def _give(self) -> None:
        """
        Answer the one who waits, if there is something to say, and pull on as long as there is room.
        """
        self._told = False
        ready = len(self._buffer) if self._ended else len(self._buffer) // self._unit * self._unit
        if self._waiting is not None and (ready or self._ended):
            waiting, self._waiting = self._waiting, None
            given = self._buffer[: min(ready, self._wanted)]
            del self._buffer[: len(given)]
            if given or self._error is None:
                waiting.callback(given)
            else:
                waiting.errback(self._error)
        self._pull_on()

    def _pull_on(self) -> None:
        room = self._wanted - len(self._buffer)
        if room > 0 and not self._pulling and not self._ended and not self._closed:
            self._pulling = True
            self._drive(lambda: self._pull(room), self._pulled)

    async def _pull(self, count: int) -> bool:
        """
        Take C{count} records into the buffer, at home. Whether that was the end.
        """
        for _ in range(count):
            if self._closed:
                return False
            try:
                self._buffer.append(await self._iterator.__anext__())
            except StopAsyncIteration:
                return True
            except BaseException as error:
                self._error = error
                return True
            if not self._told:
                self._told = True
                self._soon(self._give)
        return False

    def _soon(self, call: Callable[[], None]) -> None:
        """
        Call in the reactor's thread, but not before this one has to wait for something.
        """
        if self._loop is None:
            self._reactor.callLater(0, call)
        else:
            self._loop.call_soon(self._reactor.callFromThread, call)

    def _drive(self, make: Callable[[], Coroutine[Any, Any, bool]], then: Callable[[bool], None]) -> None:
        """
        Run a coroutine at home, and bring its result here. C{_stop} cancels it; then it may not even have begun, and
        gives C{False}.
        """
        loop = self._loop
        if loop is None:
            deferred = Deferred.fromCoroutine(make())
            self._stop = deferred.cancel
            deferred.addCallback(then)
            return
        tasks: list[asyncio.Future[bool]] = []

        def begin() -> None:
            task: asyncio.Future[bool] = asyncio.ensure_future(_Bridge(make))
            task.add_done_callback(
                lambda done: self._reactor.callFromThread(then, not done.cancelled() and done.result())
            )
            tasks.append(task)

        self._stop = lambda: loop.call_soon_threadsafe(lambda: tasks[0].cancel())
        loop.call_soon_threadsafe(begin)

    def _pulled(self, ended: bool) -> None:
        self._pulling = False
        self._ended = ended
        if self._closed:
            self._close_iterator()
        else:
            self._give()

    def close(self) -> None:
        """
        Pull no more, and close an asynchronous generator, so that its C{finally} runs now. What it waits for is
        cancelled.
        """
        self._closed = True
        if self._pulling:
            self._stop()
        else:
            self._close_iterator()

    def _close_iterator(self) -> None:
        close = getattr(self._iterator, "aclose", None)
        if close is not None and not self._ended:
            self._ended = True
            self._drive(lambda: self._closing(close), lambda _: None)

    async def _closing(self, close: Callable[[], Any]) -> bool:
        try:
            await close()
        except Exception as error:
            self._error = error
        return True
