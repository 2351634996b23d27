"""
Tests for L{txmapreduce._pool.pipes}, on real pipes and a reactor that only writes down what it is asked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from collections.abc import Callable
from typing import Any

from twisted.internet import error
from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from txmapreduce._pool import pipes
from txmapreduce._pool.launch import open_pipes
from txmapreduce._pool.pipes import ExitWatch, ResultPipe, TaskPipe, bytes_waiting
from txmapreduce._wire.frames import Decoder, encode
from txmapreduce._wire.messages import Done, Forget, Hello, Map, Message
from txmapreduce.errors import ProtocolError

from .leftovers import descriptors


class Recorder:
    """
    The part of a reactor that descriptors use.
    """

    def __init__(self) -> None:
        self.reading: set[object] = set()
        self.writing: set[object] = set()
        self.addReader, self.removeReader = self.reading.add, self.reading.discard
        self.addWriter, self.removeWriter = self.writing.add, self.writing.discard


def framed(*messages: Message) -> bytes:
    return b"".join(b"".join(encode(message)) for message in messages)


def small_pipe() -> tuple[int, int]:
    """
    A pipe that takes 4 KiB.
    """
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    return reader, writer


def done(task: int, size: int) -> Done:
    return Done(1, task, False, 1, 1, 0.0, (1,), (bytes([task]) * size,))


class PipeCase(SynchronousTestCase):
    """
    Leaves no descriptor behind.
    """

    def setUp(self) -> None:
        self.reactor = Recorder()
        self.before = descriptors()
        self.ended: list[BaseException] = []

    def tearDown(self) -> None:
        self.assertEqual(descriptors(), self.before)
        self.assertEqual((self.reactor.reading, self.reactor.writing), (set(), set()))

    def end(self, reason: Failure) -> None:
        self.ended.append(reason.value)  # type: ignore[arg-type]


class ResultPipeTests(PipeCase):
    """
    Tests for L{ResultPipe}.
    """

    def pipe(self, said: Callable[[Message], None] | None = None) -> tuple[ResultPipe, int]:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self.messages: list[Message] = []
        pipe = ResultPipe(self.reactor, reader, said or self.messages.append, self.end)
        pipe.startReading()
        return pipe, writer

    def test_interface(self) -> None:
        """
        It is what a reactor reads from.
        """
        pipe, writer = self.pipe()
        verifyObject(IReadDescriptor, pipe)
        pipe.close()
        os.close(writer)

    def test_messages(self) -> None:
        """
        Messages are delivered in their order, however they are cut.
        """
        pipe, writer = self.pipe()
        messages = [Hello(1, 2), done(1, 10), done(2, 50_000), done(3, 0)]
        data = framed(*messages)
        for start in range(0, len(data), 1013):
            os.write(writer, data[start : start + 1013])
            self.assertIs(pipe.doRead(), None)
        self.assertEqual(self.messages, messages)
        os.close(writer)
        self.assertIsInstance(pipe.doRead(), error.ConnectionDone)
        pipe.connectionLost(Failure(error.ConnectionDone()))
        self.assertIsInstance(self.ended[0], error.ConnectionDone)

    def test_nothing_there(self) -> None:
        """
        Being asked to read for nothing does no harm.
        """
        pipe, writer = self.pipe()
        self.assertIs(pipe.doRead(), None)
        pipe.close()
        os.close(writer)

    def test_leaves_others_their_turn(self) -> None:
        """
        One turn takes a bounded part of what there is; L{ResultPipe.drain} takes all.
        """
        pipe, writer = self.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
        pipe._decoder = Decoder((Hello,), scratch=4096)
        count = 60_000 // len(framed(Hello(1, 1)))
        os.write(writer, framed(*[Hello(1, 1)] * count))
        pipe.doRead()
        self.assertTrue(0 < len(self.messages) < count)
        self.assertIs(pipe.drain(), None)
        self.assertEqual(len(self.messages), count)
        pipe.close()
        os.close(writer)

    def test_garbage(self) -> None:
        """
        Bytes that are no message end the pipe with a ProtocolError.
        """
        pipe, writer = self.pipe()
        os.write(writer, b"hello, world")
        self.assertIsInstance(pipe.doRead(), ProtocolError)
        pipe.close()
        os.close(writer)

    def test_message_for_the_other_direction(self) -> None:
        """
        So does a message that only the coordinator may send.
        """
        pipe, writer = self.pipe()
        os.write(writer, framed(Forget(1)))
        self.assertIsInstance(pipe.doRead(), ProtocolError)
        pipe.close()
        os.close(writer)

    def test_message_that_the_owner_refuses(self) -> None:
        """
        And a message of which the owner says that it has no place there.
        """

        def refuse(message: Message) -> None:
            raise ProtocolError("not now")

        pipe, writer = self.pipe(refuse)
        os.write(writer, framed(Hello(1, 1)))
        reason = pipe.doRead()
        self.assertIsInstance(reason, ProtocolError)
        pipe.close()
        os.close(writer)

    def test_cut_off_everywhere(self) -> None:
        """
        A message that is cut off at any byte is not delivered, and the end is not a clean one.
        """
        data = framed(done(1, 3))
        for length in range(1, len(data)):
            pipe, writer = self.pipe()
            os.write(writer, data[:length])
            os.close(writer)
            self.assertIsInstance(pipe.drain() or pipe.doRead(), error.ConnectionLost, f"cut at {length}")
            self.assertEqual(self.messages, [])
            pipe.close()

    def test_closed_while_it_delivers(self) -> None:
        """
        An owner that closes the pipe when it gets a message may do so.
        """
        pipe, writer = self.pipe(lambda message: pipe.close())
        os.write(writer, framed(Hello(1, 1)))
        self.assertIs(pipe.doRead(), None)
        self.assertIs(pipe.drain(), None)
        os.close(writer)


class TaskPipeTests(PipeCase):
    """
    Tests for L{TaskPipe}.
    """

    def pipe(self) -> tuple[TaskPipe, int]:
        reader, writer = small_pipe()
        os.set_blocking(writer, False)
        return TaskPipe(self.reactor, writer, self.end), reader

    def test_interface(self) -> None:
        """
        It is what a reactor writes to.
        """
        pipe, reader = self.pipe()
        verifyObject(IWriteDescriptor, pipe)
        pipe.close()
        os.close(reader)

    def test_four_kibibytes(self) -> None:
        """
        What a small pipe does not take at once is written when there is room, in order.
        """
        pipe, reader = self.pipe()
        messages = [Map(1, task, 1, 0, 1, 1, False, False, 0, -1, (bytes([task]) * 30_000, b"!")) for task in range(5)]
        for message in messages:
            pipe.send(message)
        expected = framed(*messages)
        found = os.read(reader, 4096)
        while len(found) < len(expected):
            self.assertEqual(self.reactor.writing, {pipe})
            self.assertIs(pipe.doWrite(), None)
            found += os.read(reader, 4096)
        self.assertEqual(found, expected)
        self.assertEqual(self.reactor.writing, set())
        pipe.close()
        os.close(reader)

    def test_finish(self) -> None:
        """
        It is closed when everything has been written, not before.
        """
        pipe, reader = self.pipe()
        pipe.send(Map(1, 1, 1, 0, 1, 1, False, False, 0, -1, (bytes(6000),)))
        pipe.finish()
        found = os.read(reader, 4096)
        self.assertTrue(pipe.fd >= 0)
        pipe.doWrite()
        found += os.read(reader, 4096)
        self.assertEqual((len(found) > 6000, os.read(reader, 1), pipe.fd), (True, b"", -1))
        pipe.send(Forget(1))  # nobody is there any more
        pipe.finish()
        os.close(reader)

    def test_nobody_reads(self) -> None:
        """
        That the other end is gone is told by the reactor, not to the one who sends.
        """
        pipe, reader = self.pipe()
        os.close(reader)
        pipe.send(Forget(1))
        self.assertEqual((self.ended, self.reactor.writing), ([], {pipe}))
        reason = pipe.doWrite()
        self.assertIsInstance(reason, error.ConnectionLost)
        pipe.connectionLost(Failure(reason))
        self.assertEqual(self.ended, [reason])

    def test_many_pieces(self) -> None:
        """
        A message of more buffers than the system takes at once is no difficulty.
        """
        pipe, reader = self.pipe()
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 1 << 20)
        message = Map(1, 1, 1, 0, 1, 1, False, False, 0, -1, tuple([b"x" * 5000, b"y"] * 80) * 1)
        pipe.send(message)
        many = Map(1, 2, 1, 0, 1, 1, False, False, 0, -1, tuple(bytes(4096) for _ in range(100)))
        pipe.send(many)
        expected = framed(message, many)
        found = b""
        while len(found) < len(expected):
            found += os.read(reader, 1 << 20)
            pipe.doWrite()
        self.assertEqual(found, expected)
        pipe.close()
        os.close(reader)


class ExitWatchTests(PipeCase):
    """
    Tests for L{ExitWatch}.
    """

    def test_tells_once(self) -> None:
        """
        When its descriptor is readable it closes it and tells.
        """
        reader, writer = os.pipe()
        told: list[int] = []
        watch = ExitWatch(self.reactor, reader, lambda: told.append(watch.fd))
        verifyObject(IReadDescriptor, watch)
        watch.startReading()
        watch.doRead()
        watch.close()
        self.assertEqual(told, [-1])
        os.close(writer)


class OpenPipesTests(PipeCase):
    """
    Tests for L{open_pipes} and L{bytes_waiting}.
    """

    def test_ends(self) -> None:
        """
        Our ends don't block, theirs do, and none is inherited by other programs.
        """
        task_r, task_w, result_r, result_w = fds = open_pipes()
        blocking = [os.get_blocking(fd) for fd in (task_w, result_r, task_r, result_w)]
        self.assertEqual(blocking, [False, False, True, True])
        self.assertFalse(any(map(os.get_inheritable, fds)))
        os.write(task_w, b"abc")
        self.assertEqual((bytes_waiting(task_r), os.read(task_r, 9), bytes_waiting(task_r)), (3, b"abc", 0))
        for fd in fds:
            os.close(fd)

    def test_no_more_pipe_memory(self) -> None:
        """
        Pipes that can't be enlarged are used as they are.
        """

        def refuse(*args: Any) -> Any:
            raise OSError(errno.EPERM, "no")

        self.patch(pipes.fcntl, "fcntl", refuse)
        for fd in open_pipes():
            os.close(fd)

    def test_no_descriptors_left(self) -> None:
        """
        Where there are not enough descriptors those that had been opened are closed.
        """
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        free = os.dup(0)
        os.close(free)
        for spare in range(4):
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + spare, limits[1]))
            self.assertEqual(self.assertRaises(OSError, open_pipes).errno, errno.EMFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
