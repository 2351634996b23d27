"""
Memory that coordinator and worker share, for buffers that are too large for a pipe to be quick.

An arena is a file without a name, so it is gone with the last process that has it, however that ended. It has two
halves: each side lends blocks of its own half, and borrows from the other's. A block is the borrower's until the last
view of it is gone; the borrower says so with its next message. When a half is full, or the system has no memory to
give, buffers go through the pipe.

Why it looks like this: what a large buffer costs is page faults, not copying. Blocks are reused, lowest first, so that
most have their pages; pages that are missing are made by C{pwrite}, which takes half the time of faults, and says that
memory is short where a fault would be the end of the process. Borrowers map pages privately: who writes into an array
writes into a copy, as does a fork.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import resource
import sys
import weakref
from bisect import bisect, insort
from collections import deque
from collections.abc import Iterable

from .._values.loading import Buffer
from ..errors import ProtocolError

__all__ = ["SMALLEST", "Arena", "Blocks", "create", "join", "return_free_memory"]

SMALLEST = 256 * 1024
"""Smaller buffers go through the pipe. From here on the arena was 1.3 to 2.7 times as fast when measured."""

PAGE = mmap.PAGESIZE
DOWN = 64 << 20
"""Bytes for the coordinator to lend: some tasks' worth."""
UP = 512 << 20
"""Bytes for the worker to lend. Only what is used takes memory; results that are kept as arrays stay here."""
KEEP = 64 << 20
"""Bytes of pages that stay while nobody uses them."""

_LENGTH_BITS = 31
_MAP_NORESERVE = 0x4000
_FAILED = ctypes.c_void_p(-1).value


class Blocks:
    """
    Which pages of a half are taken: first fit. No memory in here, only numbers of pages.

    @ivar taken: how many pages each block has, by its first.
    """

    def __init__(self, pages: int) -> None:
        self.taken: dict[int, int] = {}
        self._free = [(0, pages)] if pages else []  # first page and how many, in order, never two that touch

    def take(self, pages: int) -> int | None:
        """
        Take a block.

        @return: its first page; C{None} where there is no room.
        """
        for place, (start, room) in enumerate(self._free):
            if room >= pages:
                self._free[place : place + 1] = [(start + pages, room - pages)] if room > pages else []
                self.taken[start] = pages
                return start
        return None

    def give_back(self, start: int) -> int:
        """
        Free the block that begins at page C{start}.

        @return: how many pages it had.
        @raise KeyError: there is none.
        """
        pages = self.taken.pop(start)
        place = bisect(self._free, (start, 0))
        first, end, low, high = start, start + pages, place, place
        if place and sum(self._free[place - 1]) == start:
            low, first = place - 1, self._free[place - 1][0]
        if place < len(self._free) and self._free[place][0] == end:
            high, end = place + 1, sum(self._free[place])
        self._free[low:high] = []
        insort(self._free, (first, end - first))
        return pages


class _Mapping:
    """
    A part of a file in memory. Python's C{mmap} would keep a descriptor for each.
    """

    def __init__(self, fd: int, start: int, size: int, flags: int) -> None:
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        address = _libc.mmap(None, size, protection, flags, fd, start)
        if address == _FAILED:
            raise OSError(ctypes.get_errno(), "no address space for shared memory")
        self.address: int = address
        self.size = size
        # Not at exit: there views may outlive whatever is called then.
        weakref.finalize(self, _libc.munmap, address, size).atexit = False

    def advise(self, start: int, size: int, advice: int) -> bool:
        """
        Whether the system took the advice.
        """
        return not _libc.madvise(self.address + start, size, advice)


class _Lender:
    """
    The half from which this side lends.
    """

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd = fd
        self._start = start
        self._mapping = _Mapping(fd, start, size, mmap.MAP_SHARED)
        self._memory = memoryview((ctypes.c_char * size).from_address(self._mapping.address)).cast("B")
        self._blocks = Blocks(size // PAGE)
        self._made = bytearray(size // PAGE)  # 1: this page has memory
        self._idle = 0  # how many pages have memory and are not lent

    def lend(self, buffer: Buffer) -> int | None:
        """
        Copy a buffer to where the other side can read it.

        @return: what tells the other side where; C{None} where there is no room.
        """
        size = len(buffer)
        pages = -(-size // PAGE)
        first = self._blocks.take(pages) if size >> _LENGTH_BITS == 0 else None
        if first is None:
            return None
        self._idle -= self._made.count(1, first, first + pages)
        try:
            self._write(first, pages, buffer)
        except OSError:  # the system has no memory to give
            self.give_back(first)
            return None
        return first << _LENGTH_BITS | size

    def _write(self, first: int, pages: int, buffer: Buffer) -> None:
        at = first * PAGE
        if self._made.count(1, first, first + pages) == pages:
            self._memory[at : at + len(buffer)] = buffer
            return
        rest = memoryview(buffer)
        while rest:
            written = os.pwrite(self._fd, rest, self._start + at)
            rest, at = rest[written:], at + written
        self._made[first : first + pages] = b"\1" * pages

    def give_back(self, first: int) -> None:
        """
        The other side has no view of a block any more.

        @raise KeyError: it was not lent.
        """
        pages = self._blocks.give_back(first)
        self._idle += self._made.count(1, first, first + pages)
        if self._idle * PAGE > KEEP:
            self._unmake(first, pages)

    def _unmake(self, first: int, pages: int) -> None:
        """
        Give the memory of some pages back to the system, where it takes it.
        """
        if self._mapping.advise(first * PAGE, pages * PAGE, mmap.MADV_REMOVE):
            self._idle -= self._made.count(1, first, first + pages)
            self._made[first : first + pages] = bytes(pages)


class _Borrower:
    """
    The half from which the other side lends.
    """

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._mapping = _Mapping(fd, start, size, mmap.MAP_PRIVATE | _MAP_NORESERVE)
        self._ended: deque[int] = deque()

    def borrow(self, place: int) -> memoryview:
        """
        A view of a block.

        @raise ProtocolError: there can't be one.
        """
        first, size = place >> _LENGTH_BITS, place & ~(-1 << _LENGTH_BITS)
        if size == 0 or first * PAGE + size > self._mapping.size:
            raise ProtocolError(f"{size} bytes at page {first} are outside of the shared memory")
        block = (ctypes.c_char * size).from_address(self._mapping.address + first * PAGE)
        weakref.finalize(block, self._end, first, size, _forks).atexit = False
        return memoryview(block).cast("B")

    def _end(self, first: int, size: int, forks: int) -> None:
        """
        The last view of a block is gone. Whatever was written into it goes, too. Called in any thread.
        """
        # A fork that was made meanwhile may still look at it.
        if forks == _forks and self._mapping.advise(first * PAGE, size, mmap.MADV_DONTNEED):
            self._ended.append(first)

    def ended(self) -> tuple[int, ...]:
        """
        The blocks whose last view has gone since the last call.
        """
        return tuple(self._ended.popleft() for _ in range(len(self._ended)))


class Arena:
    """
    One side's part in an arena.

    @ivar fd: the file.
    @ivar shared: whether the other side has it, too: nothing is lent before.
    """

    def __init__(self, fd: int, *, worker: bool) -> None:
        """
        @raise OSError: the system has no address space to give.
        """
        self.fd = fd
        self.shared = worker
        down, up = (0, DOWN), (DOWN, os.fstat(fd).st_size - DOWN)
        lent, borrowed = (up, down) if worker else (down, up)
        borrower = _Borrower(fd, *borrowed)
        self._lender: _Lender | None = _Lender(fd, *lent)
        self.borrow = borrower.borrow
        self.ended = borrower.ended

    def lend(self, buffer: Buffer) -> int | None:
        """
        Copy a buffer to where the other side can L{borrow} it.

        @return: what tells the other side where; C{None} where it has to go through the pipe.
        """
        if len(buffer) < SMALLEST or not self.shared or self._lender is None:
            return None
        return self._lender.lend(buffer)

    def give_back(self, blocks: Iterable[int]) -> None:
        """
        The other side does not need these any more: what its L{ended} said.

        @raise ProtocolError: they were not lent.
        """
        if self._lender is None:
            return
        try:
            for first in blocks:
                self._lender.give_back(first)
        except KeyError as error:
            raise ProtocolError(f"shared memory at page {error} comes back which was not lent") from error

    def close(self) -> None:
        """
        Let go of the file, and of the memory to lend. Views of what was borrowed stay as they are.
        """
        if self._lender is not None:
            self._lender = None
            os.close(self.fd)


def create() -> Arena | None:
    """
    A new arena, the coordinator's part; C{None} where the system has none to give, or the user has limited how much
    address space a process may have.
    """
    if sys.platform != "linux" or resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return None
    try:
        fd = os.memfd_create("txmapreduce-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return None
    try:
        os.ftruncate(fd, DOWN + UP)
        # A file that becomes shorter would end the process that reads what is gone.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return Arena(fd, worker=False)
    except OSError:
        os.close(fd)
        return None


def join(fd: int | None) -> Arena | None:
    """
    The worker's part in the arena behind C{fd}; C{None} where there is none, or no room for it.
    """
    try:
        return None if fd is None else Arena(fd, worker=True)
    except OSError:
        return None


def _load_libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    size, offset = ctypes.c_size_t, ctypes.c_int64
    libc.mmap.argtypes = [ctypes.c_void_p, size, ctypes.c_int, ctypes.c_int, ctypes.c_int, offset]
    libc.mmap.restype = ctypes.c_void_p
    libc.munmap.argtypes = [ctypes.c_void_p, size]
    libc.madvise.argtypes = [ctypes.c_void_p, size, ctypes.c_int]
    return libc


_libc = _load_libc()


def return_free_memory() -> None:
    """
    Give the pages of the heap that are not in use back to the system, where the C library can (glibc). It would keep
    them for this process: a third of what a worker has after it has counted 600,000 words.
    """
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


_forks = 0


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(before=_forked, after_in_parent=_forked, after_in_child=_forked)
