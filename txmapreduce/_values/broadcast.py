"""
Read-only data that all tasks share: L{broadcast}.

A value that is broadcast is pickled once, into a file that has no name: the pickle, and behind it the large buffers,
each at a multiple of 64 bytes. What is sent to a worker on this machine is where that file is. The worker maps it, so
however many workers there are, the memory of the buffers is there once; and it loads the pickle once, when a task
first asks for the value. It keeps both until the coordinator says that nobody has the handle any more.

Classes and functions that go by value are no part of the pickle. They go with the handle, so that the instances in the
value are instances of the very classes that a run's functions know.

Anywhere else (on another machine, in a pickle of the user's own) the handle takes the whole file along.
"""

from __future__ import annotations

import copyreg
import fcntl
import gc
import mmap
import os
import pickle
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, Generic, TypeVar

from ..errors import NotSerializable
from .blame import blame_value
from .codec import LARGE, Buffer, Codec, Pickler
from .loading import Classes, known_class, load

__all__ = ["Broadcast", "LocalCodec", "Shared", "broadcast", "forget"]

T = TypeVar("T")
Layout = tuple[tuple[int, int], ...]

_ALIGNED = 64

_MUCH = 64 << 20
"""Bytes of values from which on those that nobody can reach are looked for, see L{_collect}."""


def broadcast(value: T) -> Broadcast[T]:
    """
    Share a value with all tasks: each worker gets it once, however many runs, functions and chunks use it.

    A function uses the handle as it uses any other object, from its closure, its default arguments or its globals, and
    reads C{handle.value}. Large arrays (numpy, Arrow, C{memoryview}) are read-only there and take their memory once on
    the whole machine. Everything else is a copy in each worker that uses it, C{bytes} too: broadcast a C{memoryview} of
    them to have them shared. The value is the one of this moment: what is done to it later does not count.

    The memory is given back when the handle is gone, and with it the jobs that use it.

    @raise NotSerializable: when a part of the value can't be sent. The message says which.
    """
    _collect()
    file = _File.create()
    try:
        layout, parts = _write(file, value)
        Codec().encode_program(parts, {"broadcast:": value})
    except MemoryError:
        file.close()
        raise
    except Exception as error:
        file.close()
        raise NotSerializable(_blame(error, value)) from error
    return Broadcast(Shared(os.urandom(16).hex(), file, layout), tuple(parts))


class Broadcast(Generic[T]):
    """
    A handle for a value that was broadcast.
    """

    def __init__(self, shared: Shared, parts: tuple[Any, ...]) -> None:
        """
        @param parts: the classes and functions in the value that go by value.
        """
        self._shared = shared
        self._parts = parts

    @cached_property
    def value(self) -> T:
        """
        The value, read-only: all tasks of a worker share it.
        """
        loaded: T = self._shared.load(self._parts)
        return loaded

    def __reduce_ex__(self, protocol: Any) -> Any:
        shared = self._shared
        if _local.used is not None:
            _local.used.add(shared)
            return _map, (shared.token, shared.file.path, shared.layout, self._parts)
        data = pickle.PickleBuffer(shared.memory) if protocol >= 5 else bytes(shared.memory)
        return _receive, (shared.token, data, shared.layout, self._parts)

    def __copy__(self) -> Broadcast[T]:
        return self

    def __deepcopy__(self, memo: object) -> Broadcast[T]:
        return self

    def __repr__(self) -> str:
        return f"<broadcast value, {len(self._shared.memory):,} bytes>"


class Shared:
    """
    A value that was broadcast, as one process knows it.

    @ivar token: its name, unlike that of any other.
    @ivar memory: the whole file, mapped.
    @ivar layout: where the pickle is in it, and then each buffer: start and size, in bytes.
    """

    def __init__(self, token: str, file: _File, layout: Layout) -> None:
        self.token = token
        self.file = file
        self.layout = layout
        self.memory = file.mapped()
        self._loaded: tuple[tuple[Any, ...], Any] | None = None
        _known[token] = self
        weakref.finalize(self, file.close)

    def load(self, parts: tuple[Any, ...]) -> Any:
        """
        The value, with these classes and functions in it. It is loaded once for each run at the most.
        """
        loaded = self._loaded
        if loaded is None or any(map(_differ, loaded[0], parts)):
            classes = Classes()
            classes.by_token.update(zip(map(str, range(len(parts))), parts, strict=True))
            buffers = [self.memory[start : start + size] for start, size in self.layout]
            loaded = self._loaded = parts, load(classes, buffers, writable=False)
        return loaded[1]


def _differ(one: object, other: object) -> bool:
    return one is not other


def _collect() -> None:
    """
    Runs that are over refer to themselves, and so keep what they used until Python's collector comes by. It goes by
    the number of objects and does not know how large these are: call it when they have doubled.
    """
    global _limit
    if _in_use() > _limit:
        gc.collect()
        _limit = max(_MUCH, 2 * _in_use())


_limit = _MUCH


def _in_use() -> int:
    return sum(len(shared.memory) for shared in list(_known.values()))


# How a value gets into a file


class _File:
    """
    A file without a name where the system has that (Linux), and else one in the folder for temporary files. The first
    can't be changed any more once it has been mapped.
    """

    def __init__(self, fd: int, name: str = "", *, own: bool = True) -> None:
        """
        @param own: whether C{name} goes with this object.
        """
        self._fd = fd
        self._name = name
        self._owner = os.getpid() if own else 0

    @classmethod
    def create(cls) -> _File:
        if _has_nameless():
            return cls(os.memfd_create("txmapreduce-broadcast", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        import tempfile

        return cls(*tempfile.mkstemp(prefix="txmapreduce-broadcast-"))

    @classmethod
    def existing(cls, path: str) -> _File:
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path if not path.startswith("/proc/") else "", own=False)

    @property
    def path(self) -> str:
        """
        Where the other processes of this user on this machine find it.
        """
        return self._name or f"/proc/{os.getpid()}/fd/{self._fd}"

    def write(self, position: int, data: Buffer) -> int:
        """
        Write all of C{data}; gives where it ends.
        """
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._fd, rest, position)
            rest, position = rest[written:], position + written
        return position

    def mapped(self) -> memoryview:
        if self._owner and not self._name:
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
        # Private: of what is sealed, older kernels map nothing else. Pages that nobody writes to are shared anyway.
        return memoryview(mmap.mmap(self._fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))

    def close(self) -> None:
        os.close(self._fd)
        if self._name and self._owner == os.getpid():  # a fork has this object, too
            with suppress(OSError):
                os.unlink(self._name)


def _has_nameless() -> bool:
    """
    Whether children can open a file without a name by C{/proc}: not those of a process that has changed its user.
    """
    try:
        return sys.platform == "linux" and os.stat("/proc/self/fd").st_uid == os.geteuid()
    except OSError:
        return False


def _write(file: _File, value: object) -> tuple[Layout, list[Any]]:
    """
    Pickle C{value} into the file.

    @return: the layout, and the classes and functions that go by value.
    """
    parts: list[Any] = []
    buffers: list[memoryview] = []

    def by_value(obj: object) -> Any:
        parts.append(obj)
        return known_class, (str(len(parts) - 1),)

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes >= LARGE:
            buffers.append(view)
        return view.nbytes < LARGE

    writer = _Writer(file)
    pickler = Pickler(writer, by_value, in_band)
    pickler.dispatch_table = {**copyreg.dispatch_table, memoryview: _reduce_view}
    pickler.dump(value)
    layout = [(0, writer.position)]
    for view in buffers:
        start = -(-writer.position // _ALIGNED) * _ALIGNED
        writer.position = file.write(start, view)
        layout.append((start, view.nbytes))
    return tuple(layout), parts


class _Writer:
    """
    The file, as a pickler wants it.
    """

    def __init__(self, file: _File) -> None:
        self._file = file
        self.position = 0

    def write(self, data: Any) -> None:
        self.position = self._file.write(self.position, data)


def _reduce_view(view: memoryview) -> Any:
    if not view.nbytes:
        return memoryview, (b"",)
    return _view, (pickle.PickleBuffer(view), view.format, view.shape)


def _view(buffer: Any, format: str, shape: Sequence[int]) -> memoryview:
    return memoryview(buffer).toreadonly().cast("B").cast(format, shape)  # type: ignore[call-overload, no-any-return]


def _blame(error: Exception, value: object) -> str:
    """
    Why a value can't be broadcast: the way to the part that can't be sent, if it is found in this way.
    """
    if isinstance(error, NotSerializable):
        return str(error)
    try:
        Codec().encode_program(value, {"broadcast:": value})
    except NotSerializable as told:
        return str(told)
    return f"broadcast: {blame_value(error, value, Codec().dumps)}"


# How it gets to other processes

_known: weakref.WeakValueDictionary[str, Shared] = weakref.WeakValueDictionary()
"""All that was broadcast and that this process has, by its token."""

_kept: dict[str, Shared] = {}
"""What this process, a worker, keeps until it is told to L{forget} it."""


def _map(token: str, path: str, layout: Layout, parts: tuple[Any, ...]) -> Broadcast[Any]:
    """
    A worker gets a handle.
    """
    if token not in _kept:
        _kept[token] = Shared(token, _File.existing(path), layout)
    return Broadcast(_kept[token], parts)


def _receive(token: str, data: Buffer, layout: Layout, parts: tuple[Any, ...]) -> Broadcast[Any]:
    """
    A process anywhere gets a handle, with all of the data.
    """
    shared = _known.get(token)
    if shared is None:
        file = _File.create()
        file.write(0, data)
        shared = Shared(token, file, layout)
    return Broadcast(shared, parts)


def forget(tokens: Sequence[str]) -> None:
    """
    Nobody will ask this worker for these any more.
    """
    for token in tokens:
        _kept.pop(token, None)


class _Local(threading.local):
    used: set[Shared] | None = None


_local = _Local()


@contextmanager
def _noted_in(used: set[Shared]) -> Iterator[None]:
    """
    Handles that are pickled meanwhile go by reference, to workers on this machine.
    """
    outer, _local.used = _local.used, used
    try:
        yield
    finally:
        _local.used = outer


class LocalCodec(Codec):
    """
    A codec for workers on this machine.

    @ivar used: what was broadcast and is referred to by what was encoded. It has to be kept as long as a worker may
        load that.
    """

    def __init__(self, prefix: str = "") -> None:
        super().__init__(prefix)
        self.used: set[Shared] = set()

    def encode_program(self, program: object, what: Mapping[str, object]) -> None:
        """
        As for any codec.
        """
        with _noted_in(self.used):
            super().encode_program(program, what)

    def dumps(self, value: object) -> list[Buffer]:
        """
        As for any codec.
        """
        with _noted_in(self.used):
            return super().dumps(value)
