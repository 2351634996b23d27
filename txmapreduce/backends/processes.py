"""
The backend for one machine: warm worker processes, driven over pipes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed

from .._pool.launch import ahead, environment
from .._pool.pool import Pool
from .._pool.slots import Settings
from .._schedule.chunking import TARGET
from .._tasks.runner import Program
from .._values.broadcast import LocalCodec
from ..errors import BackendUnavailable, BadInput
from ..inputs import parse_bytes
from . import Listener
from ._cpus import available_cpus
from ._session import ProcessSession

__all__ = ["Processes", "available_cpus", "close_default_pool", "default_pool"]


class Processes(Service):
    """
    Worker processes on this machine.

    They are started when a run first needs them and stay warm for later runs, until the pool is closed, they have been
    idle for C{idle_timeout}, or the reactor stops. Use it as C{async with Processes(4) as pool}, in a script or a
    notebook as C{with Processes(4) as pool}, as a Twisted service, or just pass it as C{backend=} and L{close} it at
    the end. A closed or stopped pool takes no more runs.
    """

    name = "txmapreduce"
    task_seconds = TARGET

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        min_workers: int = 0,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        max_tasks_per_child: int | None = None,
        threads_per_worker: int = 1,
        env: Mapping[str, str] | None = None,
        idle_timeout: float = 60,
        memory_limit: int | str | None = None,
        reactor: Any = None,
    ) -> None:
        """
        @param max_workers: how many at most. Default: the processors that this process may use (L{available_cpus}).
        @param min_workers: how many stay when they are idle. Default 0.
        @param initializer: called with C{initargs} in each worker before its first task.
        @param max_tasks_per_child: a worker that has run so many tasks is replaced. Default: never.
        @param threads_per_worker: what BLAS and OpenMP libraries are told that they may use in each worker. Default 1.
        @param env: environment variables of the workers, on top of this process's.
        @param idle_timeout: seconds after which a worker with nothing to do is ended. Default 60.
        @param memory_limit: bytes, or text such as C{"512MiB"}, that a worker and what it forks may have in memory
            together, what they share counted for each. It is looked at from outside, now and then while tasks run. A
            worker that has more is killed. The chunk that it ran is charged with an attempt and goes again alone, on a
            new worker; when its C{retries} are used up the run fails with L{WorkerDied}. Default: no limit.
        @param reactor: default: the installed one, when first needed.
        @raise BadInput: a value that can't be used.
        @raise NotSerializable: the initializer or its arguments can't be sent.
        """
        for label, value, least in (
            ("max_workers", max_workers, 1),
            ("min_workers", min_workers, 0),
            ("max_tasks_per_child", max_tasks_per_child, 1),
            ("threads_per_worker", threads_per_worker, 1),
        ):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise BadInput(f"{label} has to be a whole number of {least} or more, not {value!r}")
        if not isinstance(env, (Mapping, type(None))):
            raise BadInput(f"env has to map names to texts, not {env!r}")
        for name, text in (env or {}).items():
            if not isinstance(name, str) or not isinstance(text, str):
                raise BadInput(f"env has to map names to texts, and {name!r}: {text!r} does not")
        if initializer is not None and not callable(initializer):
            raise BadInput(f"initializer has to be a function, not {initializer!r}")
        if initializer is None and initargs != ():
            raise BadInput("initargs goes with initializer")
        if isinstance(initargs, (str, bytes)) or not isinstance(initargs, Iterable):
            raise BadInput(f"initargs has to be a list or tuple of arguments, not {initargs!r}")
        if not isinstance(idle_timeout, (int, float)) or isinstance(idle_timeout, bool) or not idle_timeout > 0:
            raise BadInput(f"idle_timeout has to be a number of seconds above 0, not {idle_timeout!r}")
        try:
            limit = None if memory_limit is None else parse_bytes(memory_limit)
        except BadInput as error:
            raise BadInput(f"memory_limit: {error}") from None
        self.max_workers = available_cpus() if max_workers is None else max_workers
        if min_workers > self.max_workers:
            raise BadInput(f"min_workers={min_workers} is more than max_workers={self.max_workers}")
        self._environment = threads_per_worker, env
        self._settings = Settings(
            max_workers=self.max_workers,
            min_workers=min_workers,
            setup=None if initializer is None else self._encoded_initializer(initializer, tuple(initargs)),
            max_tasks_per_child=max_tasks_per_child,
            idle_timeout=idle_timeout,
            memory_limit=limit,
        )
        self._reactor = reactor
        self._pool: Pool | None = None
        self._closed = False
        self._trigger: Any = None

    def _encoded_initializer(self, initializer: Callable[..., object], arguments: tuple[Any, ...]) -> bytes:
        codec = LocalCodec()
        codec.encode_program((initializer, arguments), {"initializer": initializer, "initargs": arguments})
        self._used = codec.used  # the blob refers to it
        (blob,) = codec.definitions
        return blob

    def open(
        self,
        program: Program,
        functions: Mapping[str, Any],
        listener: Listener,
        after: ProcessSession | None = None,
    ) -> ProcessSession:
        """
        Begin a run; see L{Backend.open}.
        """
        pool = self._open_pool()
        return ProcessSession(self._reactor, pool, self.max_workers, program, functions, listener, after)

    def ahead(self, tasks: int | None) -> AbstractContextManager[None]:
        """
        Have workers launched for a run in this context, if that saves time.

        @param tasks: how many it has at the most, if that is known.
        """
        return ahead(self.max_workers, tasks, environment(*self._environment))

    def _open_pool(self) -> Pool:
        if self._closed:
            raise BackendUnavailable("this Processes pool is closed: make a new one")
        if self._pool is None:
            if self._reactor is None:
                from twisted.internet import reactor

                self._reactor = reactor
            self._pool = Pool(self._reactor, replace(self._settings, env=environment(*self._environment)))
            self._trigger = self._reactor.addSystemEventTrigger("before", "shutdown", self._abort)
        return self._pool

    @property
    def pids(self) -> list[int]:
        """
        The process ids of the workers that there are now.
        """
        return [] if self._pool is None else self._pool.pids()

    def close(self) -> Deferred[None]:
        """
        Take no more runs, wait for those under way, end the workers.

        @return: fires when the last of them has ended.
        """
        self._closed = True
        return succeed(None) if self._pool is None else self._pool.close().addCallback(self._forget_trigger)

    def _forget_trigger(self, _: None) -> None:
        if self._trigger is not None:
            trigger, self._trigger = self._trigger, None
            self._reactor.removeSystemEventTrigger(trigger)

    def _abort(self) -> Deferred[None]:
        self._closed, self._trigger = True, None
        assert self._pool is not None
        return self._pool.abort()

    def stopService(self) -> Deferred[None]:
        """
        Stop as a service: drains first.
        """
        super().stopService()
        return self.close()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *exc_info: object) -> None:
        from .._blocking import blocking

        blocking(self.close)

    async def __aenter__(self) -> Processes:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        from .._blocking import settle

        await settle(self.close)

    def __repr__(self) -> str:
        return f"Processes({self.max_workers})"


_default: weakref.WeakKeyDictionary[Any, Processes] = weakref.WeakKeyDictionary()


def default_pool() -> Processes:
    """
    The pool that runs without C{backend=} share. It is made at first need, and again after it was closed.
    """
    from twisted.internet import reactor

    pool = _default.get(reactor)
    if pool is None or pool._closed:
        pool = _default[reactor] = Processes()
    return pool


def close_default_pool() -> Deferred[None]:
    """
    End the shared pool's workers when the runs under way are over. The next run without C{backend=} makes a new pool.

    Call it at the end of your own trial tests, so that they leave a clean reactor.

    @return: fires when the last worker has ended.
    """
    from twisted.internet import reactor

    pool = _default.pop(reactor, None)
    return succeed(None) if pool is None else pool.close()
