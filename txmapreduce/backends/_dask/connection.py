"""
The connection to a cluster: a C{Client} of Dask distributed, whose loop runs in a thread of its own.

Whatever is asked of the client is asked in that thread, in order, and what comes back is passed on to the reactor's. So
neither ever waits for the other, whichever reactor there is.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from ...errors import BackendUnavailable
from .versions import PROBE, compare

__all__ = ["Connection", "User", "new_client"]

_log = Logger()

T = TypeVar("T")

LOOK = 0.25
"""Seconds between two looks at whether the client is still connected, and at futures of which nothing was heard."""


class User(Protocol):
    """
    A session, as its connection sees it. All of it is called in the reactor's thread.
    """

    run: int

    def grown(self, threads: int) -> None:
        """
        The cluster has so many threads now.
        """

    def told(self, kind: str, task: int, worker: str, pid: int, rest: list[Any]) -> None:
        """
        A worker has told something of an attempt.
        """

    def gone(self, worker: str) -> None:
        """
        The cluster has lost a worker.
        """

    def look(self) -> None:
        """
        See whether there is news of futures that no worker tells.
        """

    def unavailable(self, error: BackendUnavailable) -> None:
        """
        The run can't go on.
        """


class Connection:
    """
    A cluster, for all runs of one backend.

    @ivar threads: how many threads the workers have that can be used.
    @ivar topic: of the events by which workers tell of attempts.
    """

    def __init__(self, reactor: Any, make: Callable[[], Any], name: str, own: bool, files: Sequence[str] = ()) -> None:
        """
        @param make: gives the client. It may wait.
        @param name: what messages call the cluster.
        @param own: whether the client is closed together with this connection.
        @param files: what workers need, by their paths.
        """
        self.reactor = reactor
        self.threads = 0
        self.topic = f"txmapreduce-{secrets.token_hex(8)}"
        self.name = name
        self.error: BackendUnavailable | None = None
        self._client: Any = None
        self._own = own
        self._files = files
        self._users: dict[int, User] = {}
        self._workers: dict[str, int] = {}
        self._news: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._asking = self._ask_again = False
        self._look: Any = None
        connecting = deferToThreadPool(reactor, reactor.getThreadPool(), make)
        self._connected: Deferred[None] = connecting.addCallbacks(self._begin, self._failed)

    # Runs

    def join(self, user: User) -> None:
        """
        A run begins.
        """
        self._users[user.run] = user
        if self._look is None:
            self._look = self.reactor.callLater(LOOK, self._looks)
        if self.error is not None:
            self.reactor.callLater(0, user.unavailable, self.error)

    def leave(self, user: User) -> None:
        """
        It has ended.
        """
        self._users.pop(user.run, None)
        if not self._users and self._look is not None:
            self._look.cancel()
            self._look = None

    def close(self) -> Deferred[None]:
        """
        Close what was opened here.
        """
        self._fail(BackendUnavailable("this Dask backend is closed: make a new one"))
        return self._connected.addCallback(lambda _: self._close())

    def _close(self) -> Deferred[None] | None:
        if self._client is None:
            return None
        client, self._client = self._client, None
        return deferToThreadPool(self.reactor, self.reactor.getThreadPool(), _close, client, self.topic, self._own)

    @property
    def is_open(self) -> bool:
        """
        Whether there is a client, whose workers have been asked for.
        """
        return self._client is not None

    # What is asked of the client

    def do(self, call: Callable[[Any], object]) -> None:
        """
        Have C{call(client)} called in the client's thread. It must not wait, and not raise.
        """
        if self._client is not None:
            self._client.loop.add_callback(call, self._client)

    def ask(self, call: Callable[[Any], Coroutine[Any, Any, T]]) -> Deferred[T]:
        """
        Have the coroutine C{call(client)} run in the client's thread.
        """
        done: Deferred[T] = Deferred()

        async def run(client: Any) -> None:
            try:
                result: Any = await call(client)
            except BaseException as error:
                result = Failure(error)
            self.tell(done.callback, result)

        self.do(run)
        return done

    def on_host_of(self, worker: str | None, seconds: float, call: Callable[..., T], *args: Any) -> Deferred[T | None]:
        """
        Have a function called on the machine that a worker was on which is gone, by another one that is or comes there,
        for so many seconds.

        @return: fires with what it gave; C{None} where nobody came.
        """
        host = _host(worker or "")

        async def ask(client: Any) -> T | None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                for address in await client.nthreads():
                    if address != worker and _host(address) == host:
                        answers = await client.run(call, *args, workers=[address], on_error="return")
                        answer = answers.get(address)
                        if not isinstance(answer, Exception):
                            return answer  # type: ignore[no-any-return]
                await asyncio.sleep(LOOK)
            return None

        return self.ask(ask)

    # What the client tells

    def tell(self, call: Callable[..., None], *args: Any) -> None:
        """
        Called in the client's thread: have it called in the reactor's, after everything that was told before.
        """
        self._news.append((call, args))
        if len(self._news) == 1:
            self.reactor.callFromThread(self._pass_on)

    def _pass_on(self) -> None:
        while self._news:
            call, args = self._news[0]
            call(*args)
            self._news.popleft()

    def _begin(self, client: Any) -> None:
        self._client = client
        if self.error is not None:
            return
        self.do(_forget_sent)
        self.do(lambda _: client.subscribe_topic(self.topic, lambda event: self.tell(self._event, event[1])))
        self.do(lambda _: client.subscribe_topic("all", self._heard))
        sent = deferToThreadPool(self.reactor, self.reactor.getThreadPool(), _send_files, client, self._files)
        sent.addCallbacks(lambda _: self._count(), self._not_sent)

    def _failed(self, failure: Failure) -> None:
        why = str(failure.value) or type(failure.value).__name__
        self._fail(BackendUnavailable(f"there is no connection to the Dask scheduler {self.name}: {why}"))

    def _not_sent(self, failure: Failure) -> None:
        why = f"{type(failure.value).__name__}: {failure.value}"
        self._fail(BackendUnavailable(f"files could not be sent to the workers of the Dask cluster {self.name}: {why}"))

    def _event(self, message: list[Any]) -> None:
        kind, run, task, worker, pid, *rest = message
        if (user := self._users.get(run)) is not None:
            user.told(kind, task, worker, pid, rest)

    def _heard(self, event: tuple[float, dict[str, Any]]) -> None:
        """
        What happens on the cluster, in the client's thread: there is much that does not matter here.
        """
        action = event[1].get("action")
        if action == "add-worker":
            self.tell(self._count)
        elif action == "remove-worker":
            self.tell(self._removed, event[1]["worker"])

    def _removed(self, worker: str) -> None:
        self._resize({address: threads for address, threads in self._workers.items() if address != worker})
        for user in list(self._users.values()):
            user.gone(worker)

    # Workers

    def _count(self) -> None:
        """
        Ask who is there. What changes meanwhile is asked for afterwards, once.
        """
        if self._asking:
            self._ask_again = True
            return
        self._asking, self._ask_again = True, False
        self.ask(self._inspect).addCallbacks(self._counted, self._not_counted)

    async def _inspect(self, client: Any) -> tuple[dict[str, int], dict[str, Any]]:
        """
        The workers and how many threads each has; and what those run that were not there before.
        """
        workers = dict(await client.nthreads())
        new = [address for address in workers if address not in self._workers]
        answers = await client.run(eval, PROBE, workers=new, on_error="return") if new else {}
        if not self._workers:
            answers[f"the scheduler {self.name}"] = await client.run_on_scheduler(eval, PROBE)
        return workers, answers

    def _counted(self, found: tuple[dict[str, int], dict[str, Any]]) -> None:
        self._asking = False
        workers, answers = found
        for where, answer in answers.items():
            if isinstance(answer, Exception):
                workers.pop(where, None)  # it left meanwhile
                _log.info("{where} can't be used: {error}", where=where, error=answer)
            elif (problem := compare(where, answer)) is not None:
                self._fail(BackendUnavailable(problem))
                return
        self._resize(workers)
        if self._ask_again:
            self._count()

    def _not_counted(self, failure: Failure) -> None:
        self._asking = False
        self._failed(failure)

    def _resize(self, workers: dict[str, int]) -> None:
        self._workers, self.threads = workers, sum(workers.values())
        for user in list(self._users.values()):
            user.grown(self.threads)

    # The end

    def _looks(self) -> None:
        self._look = self.reactor.callLater(LOOK, self._looks)
        if self._client is not None and self._client.status != "running":
            self._fail(BackendUnavailable(f"the connection to the Dask scheduler {self.name} was lost"))
            return
        for user in list(self._users.values()):
            user.look()

    def _fail(self, error: BackendUnavailable) -> None:
        if self.error is None:
            self.error = error
            for user in list(self._users.values()):
                user.unavailable(error)


def _host(address: str) -> str:
    return address.rpartition("://")[2].rpartition(":")[0]


def _forget_sent(client: Any) -> None:
    """
    A client keeps the last thousand messages that it sent, in case that somebody wants to see them: of ours, the input.
    """
    stream: Any = getattr(client, "scheduler_comm", None)
    if hasattr(stream, "recent_message_log"):
        stream.recent_message_log = deque(maxlen=0)


def new_client(*args: Any, **options: Any) -> Any:
    """
    A C{Client} that is connected. It waits.
    """
    from distributed import Client

    client: Any = Client.__new__(Client)
    try:
        client.__init__(*args, **options)
    except BaseException:
        # Its own thread would go on, and its finalizer wait for that in vain.
        with suppress(Exception):
            client.close()
            client._loop_runner.stop()
        raise
    return client


def _send_files(client: Any, files: Sequence[str]) -> None:
    """
    In a thread of its own. What was sent before under the same name is replaced.
    """
    from distributed.diagnostics.plugin import UploadFile

    for file in files:
        plugin, name = UploadFile(file), f"txmapreduce-{os.path.basename(file)}"
        try:
            client.register_plugin(plugin, name=name)
        except BaseException:
            client.unregister_worker_plugin(name)  # or no new worker would start
            raise


def _close(client: Any, topic: str, own: bool) -> None:
    """
    In a thread of its own.
    """
    if client.status == "running":
        for each in (topic, "all"):
            client.unsubscribe_topic(each)
    if own:
        client.close()
