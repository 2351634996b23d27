"""
The coordinator's ends of a child's message pipes, and the descriptor that tells of its death.

Twisted's own process pipes read 8 KiB at a time and take any amount of data into memory. These read straight into the
frames' own memory and write without joining, many pieces at a time.
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure

from .._values.loading import Buffer
from .._wire.arena import Arena
from .._wire.frames import Decoder, encode
from .._wire.messages import Done, Failed, Hello, Message, Parts, Release, Spills
from ..errors import ProtocolError

__all__ = ["ExitWatch", "OutputPipe", "ResultPipe", "TaskPipe", "bytes_waiting"]

_UP = (Hello, Done, Failed, Parts, Spills, Release)
_OUTPUT_READ = 8192
_READS_A_TURN = 4
_IOVECS = 512


class ResultPipe(FileDescriptor):
    """
    Our end of the result pipe.
    """

    def __init__(
        self,
        reactor: Any,
        fd: int,
        said: Callable[[Message], None],
        ended: Callable[[Failure], None],
        arena: Arena | None = None,
    ) -> None:
        super().__init__(reactor)
        self.fd = fd
        self.connected = 1
        self._decoder = Decoder(_UP, None if arena is None else arena.borrow)
        self._said = said
        self._ended = ended

    def fileno(self) -> int:
        return self.fd

    def doRead(self) -> BaseException | None:
        """
        Take what is there, but leave others their turn.
        """
        for _ in range(_READS_A_TURN):
            buffers = self._decoder.buffers()
            try:
                received = os.readv(self.fd, buffers)
            except (BlockingIOError, InterruptedError):
                return None
            except OSError:
                return CONNECTION_LOST
            if not received:
                return self._end()
            try:
                for message in self._decoder.received(received):
                    self._said(message)
            except ProtocolError as error:
                return error
            if self.fd < 0 or received < sum(map(len, buffers)):
                return None
        return None

    def _end(self) -> BaseException:
        try:
            self._decoder.ended()
        except ProtocolError:
            return CONNECTION_LOST  # cut off in the middle of a message: that is what death looks like
        return CONNECTION_DONE

    def drain(self) -> BaseException | None:
        """
        Take all that is there now.
        """
        before = -1
        while self.fd >= 0:
            reason = self.doRead()
            if reason is not None:
                return reason
            waiting = bytes_waiting(self.fd)
            if not waiting or waiting == before:
                return None
            before = waiting
        return None

    def connectionLost(self, reason: Failure) -> None:
        self.close()
        self._ended(reason)

    def close(self) -> None:
        """
        Let go of the descriptor, without telling anybody.
        """
        if self.fd >= 0:
            self.stopReading()
            os.close(self.fd)
            self.fd = -1
            del self._decoder  # its memory need not wait for the garbage collector


def bytes_waiting(fd: int) -> int:
    """
    How many bytes can be read now.
    """
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)


class TaskPipe(FileDescriptor):
    """
    Our end of the task pipe. What it can't write at once waits here; the pool hands out two tasks a worker, no more.
    """

    def __init__(self, reactor: Any, fd: int, ended: Callable[[Failure], None], arena: Arena | None = None) -> None:
        super().__init__(reactor)
        self.fd = fd
        self.connected = 1
        self._arena = arena
        self._pieces: deque[memoryview] = deque()
        self._ended = ended
        self._finishing = False

    def fileno(self) -> int:
        return self.fd

    def send(self, message: Message) -> None:
        """
        Write a message, or as much of it as the pipe takes now.
        """
        if self.fd < 0:
            return
        idle = not self._pieces
        self._pieces.extend(memoryview(piece).cast("B") for piece in self._encoded(message) if len(piece))
        if idle and self.doWrite() is not None:
            # The other end is gone. Let the reactor find that out by itself, not the caller in the midst of its work.
            self.startWriting()

    def _encoded(self, message: Message) -> list[Buffer]:
        if self._arena is None:
            return encode(message)
        pieces = encode(message, self._arena.lend)
        ended = self._arena.ended()
        return [*encode(Release(ended)), *pieces] if ended else pieces

    def doWrite(self) -> BaseException | None:
        """
        Write what the pipe takes.
        """
        pieces = self._pieces
        while pieces:
            some = [pieces[n] for n in range(min(len(pieces), _IOVECS))]
            try:
                written = os.writev(self.fd, some)
            except (BlockingIOError, InterruptedError):
                self.startWriting()
                return None
            except OSError:
                return CONNECTION_LOST
            while pieces and written >= len(pieces[0]):
                written -= len(pieces.popleft())
            if written:
                pieces[0] = pieces[0][written:]
        self.stopWriting()
        if self._finishing:
            self.close()
        return None

    def finish(self) -> None:
        """
        End the pipe when all has been written.
        """
        self._finishing = True
        if self.fd >= 0 and not self._pieces:
            self.close()

    def connectionLost(self, reason: Failure) -> None:
        self.close()
        self._ended(reason)

    def close(self) -> None:
        """
        Let go of the descriptor, without telling anybody.
        """
        self._pieces.clear()
        if self.fd >= 0:
            self.stopWriting()
            os.close(self.fd)
            self.fd = -1


class OutputPipe(FileDescriptor):
    """
    Our end of a pipe to which the child's user code prints.
    """

    def __init__(self, reactor: Any, fd: int, feed: Callable[[bytes], None]) -> None:
        super().__init__(reactor)
        self.fd = fd
        self.connected = 1
        self._feed = feed

    def fileno(self) -> int:
        return self.fd

    def doRead(self) -> BaseException | None:
        """
        Pass on some of what is there.
        """
        try:
            data = os.read(self.fd, _OUTPUT_READ)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self._feed(data)
        return None

    def drain(self) -> None:
        """
        Pass on what is there now. Somebody else may still write to it, who is not waited for.
        """
        left = bytes_waiting(self.fd) if self.fd >= 0 else 0
        while left > 0 and self.doRead() is None:
            left -= _OUTPUT_READ

    def connectionLost(self, reason: Failure) -> None:
        self.close()

    def close(self) -> None:
        """
        Let go of the descriptor.
        """
        if self.fd >= 0:
            self.stopReading()
            os.close(self.fd)
            self.fd = -1


class ExitWatch(FileDescriptor):
    """
    A pidfd: readable when the process has ended, even where SIGCHLD never comes.
    """

    def __init__(self, reactor: Any, fd: int, exited: Callable[[], None]) -> None:
        super().__init__(reactor)
        self.fd = fd
        self.connected = 1
        self._exited = exited

    def fileno(self) -> int:
        return self.fd

    def doRead(self) -> None:
        self.close()
        self._exited()

    def connectionLost(self, reason: Failure) -> None:
        self.close()

    def close(self) -> None:
        """
        Let go of the descriptor.
        """
        if self.fd >= 0:
            self.stopReading()
            os.close(self.fd)
            self.fd = -1
