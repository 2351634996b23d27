"""
The child process: reads tasks from one pipe, runs them, writes what they gave to another. It never imports Twisted.

    - Descriptor 3 brings messages, descriptor 4 takes them; 0, 1 and 2 belong to the user's code. Descriptor 5 is the
      note: some shared memory with the numbers of the chunk, the run and the task that are running, which outlives this
      process. Descriptor 6, where there is one, is the arena, through which large buffers go. Descriptor 7, where there
      is one, is the lifeline (L{txmapreduce._worker.lifeline}).
    - Everything happens on one thread, in the order in which it was sent. A second thread does nothing but wait for the
      end of the task pipe, so that this process ends with the coordinator even while the user's code runs.
    - Whatever the user's code raises is an answer. Only when it ends the process does the process end.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import mmap
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .._shuffle.keys import Items, Partition, pieces
from .._shuffle.rows import Rows
from .._shuffle.spill import Spilled, Store
from .._tasks.failures import class_names, error_text, traceback_text
from .._tasks.runner import STAYS, WHOLE, MapTask, Runner, TaskError
from .._values.broadcast import forget
from .._values.codec import Codec
from .._values.loading import Buffer, setting_up
from .._values.plain import dumps as dump_plain
from .._wire.arena import Arena, join, return_free_memory
from .._wire.frames import Decoder, encode
from .._wire.messages import (
    NO_CHUNK,
    VERSION,
    Define,
    Done,
    Failed,
    Fold,
    Forget,
    Free,
    HandOver,
    Hello,
    Map,
    Message,
    Parts,
    Release,
    Spills,
    Surroundings,
    cut,
)
from ..errors import ProtocolError
from .lifeline import die_with, own_group
from .surroundings import in_place, own_signals, take_over

__all__ = ["SETUP_RUN", "main"]

SETUP_RUN = 0
"""The run number under which the pool's initializer is defined."""

_DOWN = (Surroundings, Define, Map, Fold, HandOver, Forget, Release, Free)
_IOVECS = 512
_MUCH = 10_000
"""Entries in a result from which on the system gets back the memory that it took to make: some milliseconds of work."""


class _Run:
    """
    One run, as this process sees it.
    """

    def __init__(self, note: memoryview, wants_folder: Callable[[], None]) -> None:
        self.codec = Codec()
        self._wants_folder = wants_folder
        self.note = note
        self.runner: Runner | None = None
        self.broken: BaseException | None = None

    def define(self, number: int, blob: Buffer) -> None:
        """
        Load a blob of definitions. What goes wrong is told with the next task, which needs it.
        """
        try:
            loaded = self.codec.define(blob)
            if number == 0:
                spill, codec = loaded.spill, self.codec
                store = None if spill is None else Store(spill, codec.dumps, codec.loads, self._wants_folder)
                self.runner = Runner(loaded, self.note, store)
        except BaseException as error:
            self.broken = error

    def ready(self) -> Runner:
        """
        What runs the tasks of this run.
        """
        if self.broken is not None or self.runner is None:
            raise TaskError(NO_CHUNK, NO_CHUNK, "load") from self.broken
        return self.runner


class Worker:
    """
    The child's loop over a pair of descriptors.
    """

    def __init__(self, read_fd: int, write_fd: int, note: memoryview, arena: Arena | None = None) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._note = note
        self._arena = arena
        self._runs: dict[int, _Run] = {}
        self._stdout, self._stderr = sys.stdout, sys.stderr
        self._pid = os.getpid()
        self._gave_much = False

    def serve(self) -> None:
        """
        Answer messages until the task pipe ends.
        """
        decoder = Decoder(_DOWN, None if self._arena is None else self._arena.borrow)
        self.send(Hello(VERSION, self._pid, self._arena is not None))
        while received := os.readv(self._read_fd, decoder.buffers()):
            for message in decoder.received(received):
                self._answer(message)
                del message  # and with it the views of its buffers
                if self._gave_much:
                    self._gave_much = False
                    return_free_memory()

    def send(self, message: Message) -> None:
        """
        Write a message, and wait until the pipe has taken it.
        """
        if os.getpid() != self._pid:
            os._exit(0)  # a fork of the user's that came back from the user's function: it has no part in this
        if self._arena is None:
            write_all(self._write_fd, encode(message))
            return
        pieces = encode(message, self._arena.lend)
        ended = self._arena.ended()
        write_all(self._write_fd, [*encode(Release(ended)), *pieces] if ended else pieces)

    def _answer(self, message: Message) -> None:
        if isinstance(message, Map):
            self._map(message)
        elif isinstance(message, Fold):
            self._fold(message)
        elif isinstance(message, Define):
            self._define(message)
        elif isinstance(message, HandOver):
            self._hand_over(message)
        elif isinstance(message, Forget):
            self._runs.pop(message.run, None)
        elif isinstance(message, Release):
            assert self._arena is not None
            self._arena.give_back(message.blocks)
        elif isinstance(message, Surroundings):
            take_over(message.buffers[0])
        elif isinstance(message, Free):
            forget(message.tokens)
            self._gave_much = True

    def _define(self, message: Define) -> None:
        if message.run == SETUP_RUN:
            self._initialize(message.buffers[0])
            return
        self._note_down(NO_CHUNK, message.run, 0)
        run = self._runs.get(message.run)
        if run is None:
            run = self._runs[message.run] = _Run(self._note, lambda: self.send(Spills(message.run)))
        run.define(message.number, message.buffers[0])

    def _initialize(self, blob: Buffer) -> None:
        """
        Run the pool's initializer. A worker whose initializer raised is of no use: it says why and ends.
        """
        try:
            initializer, arguments = Codec().define(blob)
            with setting_up(initializer):
                initializer(*arguments)
        except BaseException as error:
            self._fail(SETUP_RUN, 0, TaskError(NO_CHUNK, NO_CHUNK, "start"), error, Codec())
            sys.exit(1)
        self._flush()
        self.send(Done(SETUP_RUN, 0, False, 0, 0, 0.0, (), ()))

    def _note_down(self, chunk: int, run: int, task: int) -> None:
        """
        Leave word of what is begun now.
        """
        self._note[0], self._note[1], self._note[2], self._note[3] = chunk, run, task, NO_CHUNK

    def _map(self, message: Map) -> None:
        run = self._runs[message.run]
        codec = run.codec
        self._note_down(message.first, message.run, message.task)
        try:
            runner = run.ready()
            source = _loaded(codec, message)
            task = MapTask(
                message.attempt,
                message.first,
                message.count,
                message.chunksize,
                message.hold,
                message.task,
                message.careful,
                message.start,
                message.stop,
            )
            outcome = runner.map(task, source)
            del source
            dump = dump_plain if runner.program.plain_maps else codec.dumps
            lengths, buffers = ((), ()) if outcome.held else _encoded(dump, [outcome.partial], message.first)
        except TaskError as error:
            self._fail(message.run, message.task, error, error.__cause__, codec)
            return
        done = Done(
            message.run,
            message.task,
            outcome.held,
            outcome.records,
            outcome.size,
            outcome.seconds,
            lengths,
            (*buffers, *outcome.report.encoded()),
        )
        self._give(done, message.task, message.first, codec)

    def _give(self, answer: Done | Parts, task: int, chunk: int, codec: Codec) -> None:
        """
        Send what came of a task. Where it is over a limit, say so.
        """
        self._flush()
        try:
            self.send(answer)
        except ProtocolError as error:
            self._fail(answer.run, task, TaskError(chunk, NO_CHUNK, "result"), error, codec)

    def _fold(self, message: Fold) -> None:
        run = self._runs[message.run]
        codec = run.codec
        self._note_down(NO_CHUNK, message.run, message.task)
        try:
            runner = run.ready()
            partials = (codec.loads(part) for part in cut(message.buffers, message.lengths))
            partition = WHOLE if message.partition < 0 else (message.partition, message.npartitions)
            result = runner.fold(partials, message.finish, message.attempt, message.kept, partition, message.task)
            parts = pieces(result) if message.finish else runner.parts(result, message.npartitions)
            dump = dump_plain if message.finish and runner.program.plain_result else codec.dumps
            sizes: list[int] = []
            lengths, buffers = _encoded(dump, _measured(parts, sizes), NO_CHUNK)
            size = sum(sizes)
            buffers = (*buffers, *runner.report().encoded())
        except TaskError as error:
            self._fail(message.run, message.task, error, error.__cause__, codec)
            return
        self._give(
            Done(message.run, message.task, False, 0, size, 0.0, lengths, buffers), message.task, NO_CHUNK, codec
        )
        self._gave_much = message.finish and size > _MUCH

    def _hand_over(self, message: HandOver) -> None:
        run = self._runs[message.run]
        try:
            parts = run.ready().hand_over(message.npartitions, message.keep)
            lengths, buffers = _encoded(run.codec.dumps, parts, NO_CHUNK)
        except TaskError as error:
            self._fail(message.run, 0, error, error.__cause__, run.codec)
            return
        self._give(Parts(message.run, sum(map(_size, parts)), lengths, buffers), 0, NO_CHUNK, run.codec)

    def _fail(self, run: int, task: int, where: TaskError, error: BaseException | None, codec: Codec) -> None:
        """
        Tell the coordinator what the user's code raised.
        """
        error = error if error is not None else where
        pickled = codec.dump_exception(error)
        self._flush()
        self.send(
            Failed(
                run,
                task,
                where.chunk,
                where.record,
                where.stage,
                class_names(error),
                error_text(error) + where.detail,
                traceback_text(error),
                () if pickled is None else (pickled,),
            )
        )

    def _flush(self) -> None:
        """
        What the task printed has to be out before its answer is.
        """
        for stream in (self._stdout, self._stderr):
            with contextlib.suppress(Exception):  # the user's code closed it, or broke it: its loss
                stream.flush()


_Dump = Callable[[Any], list[Buffer]]


def _size(part: object) -> int:
    return len(part) if isinstance(part, (dict, list, set, Items, Partition, Rows, Spilled)) else 1


def _measured(parts: Iterable[Any], sizes: list[int]) -> Iterator[Any]:
    for part in parts:
        sizes.append(_size(part))
        yield part


def _loaded(codec: Codec, message: Map) -> Any:
    try:
        return codec.loads(message.buffers)
    except BaseException as error:
        raise TaskError(message.first, NO_CHUNK, "load") from error


def _encoded(dump: _Dump, values: Any, chunk: int) -> tuple[tuple[int, ...], tuple[Buffer, ...]]:
    """
    The buffers of several values, one after the other, and how many each has.
    """
    lengths: list[int] = []
    buffers: list[Buffer] = []
    try:
        for value in values:
            encoded = [] if value is STAYS else dump(value)
            lengths.append(len(encoded))
            buffers.extend(encoded)
    except TaskError:  # a result that is made while it is encoded
        raise
    except BaseException as error:
        raise TaskError(chunk, NO_CHUNK, "result") from error
    return tuple(lengths), tuple(buffers)


def write_all(fd: int, buffers: Sequence[Buffer]) -> None:
    """
    Write all of C{buffers} to a descriptor that blocks.
    """
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    at = 0
    while at < len(views):
        written = os.writev(fd, views[at : at + _IOVECS])
        while at < len(views) and written >= len(views[at]):
            written -= len(views[at])
            at += 1
        if written:
            views[at] = views[at][written:]


def main(read_fd: int, write_fd: int, note_fd: int, arena_fd: int | None = None, life_fd: int | None = None) -> None:
    """
    Be a worker. Called in a fresh interpreter; returns when the task pipe ends.
    """
    parent = os.getppid()
    own_group()
    own_signals()
    read_fd, write_fd, note_fd, arena_fd, life_fd = in_place(read_fd, write_fd, note_fd, arena_fd, life_fd)
    faulthandler.enable()
    note = memoryview(mmap.mmap(note_fd, mmap.PAGESIZE)).cast("q")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    worker = Worker(read_fd, write_fd, note, join(arena_fd))
    die_with(parent, read_fd, life_fd)
    gc.freeze()  # what is there now stays: collections need not look at it
    gc.enable()
    try:
        worker.serve()
    except BrokenPipeError:
        os._exit(1)
