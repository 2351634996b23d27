"""
What runs on a worker of a Dask cluster. It never imports Twisted.

Each thread of such a worker is one of our workers: it has a codec of its own, so that it shares nothing with the other
threads but what was broadcast. What a task gave stays here, encoded, as the data of its future. What the coordinator
has to know of it goes there as an event: that it began, and where it leaves its note; and how it ended.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from .._shuffle.ranges import ranges, sample
from .._tasks.careful import RECORD
from .._tasks.runner import Program, Runner, TaskError
from .._values.codec import Codec
from .._values.loading import Buffer
from .._wire.messages import NO_CHUNK, Done, Failed, Fold, Map, cut
from .answers import answer_fold, answer_map, failed
from .notes import Note, NoteFile, read_note

__all__ = ["INLINE", "Definition", "Encoded", "attempt", "cut_ranges", "part", "stop", "take_sample"]

INLINE = 4096
"""Bytes of a result up to which it goes to the coordinator with the news of it: about as many as that has anyway."""

RANKS = 1000
"""How many ranks of each partial say where partitions begin: a small part of what is moved anyway."""


class Encoded:
    """
    A value in parts, each of some buffers: what a task takes, and what it gives. Dask moves it as it is.

    @ivar failed: why there is no such value: whoever is to fold it tells, where nobody else does. Dask makes what was
        lost again, and cuts partials, without anybody here who would hear that this failed.
    """

    __slots__ = ("failed", "parts")

    def __init__(self, parts: Sequence[Sequence[Buffer]], failed: Failed | None = None) -> None:
        self.parts = parts
        self.failed = failed

    @property
    def nbytes(self) -> int:
        return sum(memoryview(buffer).nbytes for each in self.parts for buffer in each)

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + self.nbytes

    def __reduce_ex__(self, protocol: Any) -> Any:
        as_sent = pickle.PickleBuffer if protocol >= 5 else bytes
        return Encoded, ([list(map(as_sent, each)) for each in self.parts], self.failed)


class Definition:
    """
    One blob of definitions of a run, in their order; the first is the program. As long as Dask keeps it here, so do we
    what was made of it.
    """

    __slots__ = ("__weakref__", "blob")

    def __init__(self, blob: bytes) -> None:
        self.blob = blob


class _Thread:
    """
    One thread of this process, as a worker of one run.
    """

    def __init__(self, folder: str) -> None:
        self.codec = Codec()
        self.known = 0
        self.runner: Runner | None = None
        self.file = NoteFile(folder)
        self.note = self.file.note

    def ready(self, definitions: Sequence[Definition]) -> Runner:
        """
        What runs the tasks of the run, with all definitions loaded.
        """
        try:
            while self.known < len(definitions):
                loaded = self.codec.define(definitions[self.known].blob)
                if isinstance(loaded, Program):
                    self.runner = Runner(loaded, self.note)
                self.known += 1
        except BaseException as error:
            raise TaskError(NO_CHUNK, NO_CHUNK, "load") from error
        assert self.runner is not None
        return self.runner


_threads: weakref.WeakKeyDictionary[Definition, dict[int, _Thread]] = weakref.WeakKeyDictionary()


def _thread_of(program: Definition) -> _Thread:
    from distributed import get_worker

    mine = _threads.setdefault(program, {})
    ident = threading.get_ident()
    if ident not in mine:
        mine[ident] = _Thread(os.path.dirname(get_worker().local_directory))
    return mine[ident]


def attempt(
    definitions: Sequence[Definition], topic: str, message: Map | Fold, inputs: Sequence[Encoded], cuts: int
) -> Encoded | None:
    """
    Run one attempt.

    @param topic: of the events that tell of it.
    @param cuts: how many parts the partial of a map is wanted in.
    @param inputs: the records of a map, or what a fold is of. Of a map in a step after the first: a split, and what a
        task of the step before gave for it.
    @return: what it gave; nothing where that went with the event, or there is none.
    """
    from asyncio import run_coroutine_threadsafe

    from distributed import get_worker

    worker = get_worker()

    def news(kind: str, *rest: Any) -> list[Any]:
        return [kind, message.run, message.task, worker.address, os.getpid(), *rest]

    def tell(kind: str, *rest: Any) -> None:
        worker.log_event(topic, news(kind, *rest))

    thread = _thread_of(definitions[0])
    with _Stoppable((message.run, message.task), thread.note) as stoppable:
        thread.note[0] = message.first if isinstance(message, Map) else NO_CHUNK
        thread.note[1], thread.note[2], thread.note[RECORD] = message.run, message.task, NO_CHUNK
        # Whatever this process dies of, it is known by then what it was at.
        began = worker.scheduler.log_event(topic=topic, msg=news("began", thread.file.path))
        run_coroutine_threadsafe(began, worker.loop.asyncio_loop).result()  # type: ignore[attr-defined]
        done = _answer(thread, definitions, message, inputs, cuts)
        if isinstance(done, Failed):
            tell("failed", list(done))
            return Encoded([], done)
        parts = cut(done.buffers, done.lengths)
        rest = [bytes(buffer) for buffer in done.buffers[sum(done.lengths) :]]
        value = Encoded(parts)
        nbytes = value.nbytes
        inline = [list(map(bytes, each)) for each in parts] if nbytes <= INLINE else None
        tell("done", done.records, done.size, done.seconds, nbytes, rest, inline)
        return None if inline is not None else value
    assert stoppable.stopped
    return None


def _answer(
    thread: _Thread, definitions: Sequence[Definition], message: Map | Fold, inputs: Sequence[Encoded], cuts: int
) -> Done | Failed:
    if (failure := _failure(inputs)) is not None:
        return failure._replace(run=message.run, task=message.task)
    parts = [each for value in inputs for each in value.parts]
    try:
        runner = thread.ready(definitions)
        if isinstance(message, Map):
            return answer_map(runner, thread.codec, message._replace(buffers=tuple(parts[0])), cuts, parts[1:])
        buffers = tuple(buffer for each in parts for buffer in each)
        return answer_fold(runner, thread.codec, message._replace(lengths=tuple(map(len, parts)), buffers=buffers))
    except TaskError as error:
        return failed(message.run, message.task, error, thread.codec)


def _failure(inputs: Iterable[Encoded]) -> Failed | None:
    return next((value.failed for value in inputs if value.failed is not None), None)


# What lies between the partials and the last folds


def part(value: Encoded, number: int) -> Encoded:
    """
    One part of a value, where the value is.
    """
    return value if value.failed is not None else Encoded([value.parts[number]])


def take_sample(definitions: Sequence[Definition], partial: Encoded) -> Encoded:
    """
    Some ranks of a partial by key.
    """
    return _of_partial(definitions, partial, lambda value, aggregate: [sample(value, aggregate, RANKS)])


def cut_ranges(
    definitions: Sequence[Definition], partial: Encoded, samples: Sequence[Encoded], npartitions: int
) -> Encoded:
    """
    A partial by key in parts, as the samples of all of them say.
    """
    if (failure := _failure(samples)) is not None:
        return Encoded([], failure)
    loads = _thread_of(definitions[0]).codec.loads

    def cut_it(value: Any, aggregate: Any) -> list[Any]:
        ranks = chain.from_iterable(loads(each.parts[0]) for each in samples)
        return ranges(value, aggregate, ranks, npartitions)

    return _of_partial(definitions, partial, cut_it)


def _of_partial(definitions: Sequence[Definition], partial: Encoded, made: Callable[[Any, Any], list[Any]]) -> Encoded:
    """
    What is made of a partial, or how that failed.
    """
    if partial.failed is not None:
        return partial
    thread = _thread_of(definitions[0])
    try:
        runner = thread.ready(definitions)
        with runner.folding(1):
            values = made(thread.codec.loads(partial.parts[0]), runner.program.aggregate)
            return Encoded(list(map(thread.codec.dumps, values)))
    except TaskError as error:
        return Encoded([], failed(0, 0, error, thread.codec))


# Attempts that are to stop


class _Stop(BaseException):
    """
    Raised in the thread of an attempt that nobody waits for any more.
    """


_raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
_lock = threading.Lock()
_under_way: dict[tuple[int, int], _Stoppable] = {}


class _Stoppable:
    """
    Around an attempt that L{stop} may stop.
    """

    def __init__(self, name: tuple[int, int], note: memoryview) -> None:
        self._name = name
        self._ident = ctypes.c_ulong(threading.get_ident())
        self.note = note
        self.stopped = False

    def __enter__(self) -> _Stoppable:
        with _lock:
            _under_way[self._name] = self
        return self

    def stop(self) -> None:
        self.stopped = True
        _raise_in(self._ident, ctypes.py_object(_Stop))

    def __exit__(self, kind: Any, *rest: object) -> bool:
        with _lock:
            del _under_way[self._name]
            if self.stopped:
                _raise_in(self._ident, None)  # or it would be raised in what this thread does next
        return self.stopped and kind is _Stop


def stop(run: int, task: int) -> Note | None:
    """
    Have an attempt stop in its thread, as soon as that runs Python code.

    @return: what it was at.
    """
    with _lock:
        stoppable = _under_way.get((run, task))
        if stoppable is None:
            return None
        stoppable.stop()
        return read_note(stoppable.note)
