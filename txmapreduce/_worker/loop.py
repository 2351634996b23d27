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
from collections.abc import Callable, Sequence

from .._shuffle.spill import Store
from .._tasks.runner import Program, Runner, TaskError
from .._values.broadcast import forget
from .._values.codec import Codec
from .._values.loading import Buffer, setting_up
from .._wire.arena import Arena, join, return_free_memory
from .._wire.frames import Decoder, encode
from .._wire.messages import (
    NO_CHUNK,
    VERSION,
    Define,
    Done,
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
)
from ..errors import ProtocolError
from .answers import answer_fold, answer_map, encoded, failed, size_of
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

    def define(self, blob: Buffer) -> None:
        """
        Load a blob of definitions. What goes wrong is told with the next task, which needs it. The last program that is
        defined counts: those before it are of earlier steps, and bring the classes that their results are made of.
        """
        try:
            loaded = self.codec.define(blob)
            if isinstance(loaded, Program):
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
        run.define(message.buffers[0])

    def _initialize(self, blob: Buffer) -> None:
        """
        Run the pool's initializer. A worker whose initializer raised is of no use: it says why and ends.
        """
        try:
            initializer, arguments = Codec().define(blob)
            with setting_up(initializer):
                initializer(*arguments)
        except BaseException as error:
            problem = TaskError(NO_CHUNK, NO_CHUNK, "start")
            problem.__cause__ = error
            self._fail(SETUP_RUN, 0, problem, Codec())
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
        self._note_down(message.first, message.run, message.task)
        try:
            done = answer_map(run.ready(), run.codec, message)
        except TaskError as error:
            self._fail(message.run, message.task, error, run.codec)
            return
        self._give(done, message.task, message.first, run.codec)

    def _give(self, answer: Done | Parts, task: int, chunk: int, codec: Codec) -> None:
        """
        Send what came of a task. Where it is over a limit, say so.
        """
        self._flush()
        try:
            self.send(answer)
        except ProtocolError as error:
            problem = TaskError(chunk, NO_CHUNK, "result")
            problem.__cause__ = error
            self._fail(answer.run, task, problem, codec)

    def _fold(self, message: Fold) -> None:
        run = self._runs[message.run]
        self._note_down(NO_CHUNK, message.run, message.task)
        try:
            done = answer_fold(run.ready(), run.codec, message)
        except TaskError as error:
            self._fail(message.run, message.task, error, run.codec)
            return
        self._give(done, message.task, NO_CHUNK, run.codec)
        self._gave_much = message.finish and done.size > _MUCH

    def _hand_over(self, message: HandOver) -> None:
        run = self._runs[message.run]
        try:
            parts = run.ready().hand_over(message.npartitions, message.keep, message.every)
            lengths, buffers = encoded(run.codec.dumps, parts, NO_CHUNK)
        except TaskError as error:
            self._fail(message.run, 0, error, run.codec)
            return
        self._give(Parts(message.run, sum(map(size_of, parts)), lengths, buffers), 0, NO_CHUNK, run.codec)

    def _fail(self, run: int, task: int, error: TaskError, codec: Codec) -> None:
        """
        Tell the coordinator what the user's code raised.
        """
        answer = failed(run, task, error, codec)
        self._flush()
        self.send(answer)

    def _flush(self) -> None:
        """
        What the task printed has to be out before its answer is.
        """
        for stream in (self._stdout, self._stderr):
            with contextlib.suppress(Exception):  # the user's code closed it, or broke it: its loss
                stream.flush()


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
