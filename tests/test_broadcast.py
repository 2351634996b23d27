"""
Values that are shared: once in each worker, whoever uses them, and given back when nobody does.
"""

from __future__ import annotations

import functools
import gc
import mmap
import os
import pickle
import threading
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support import PoolCase, python, script
from txmapreduce import Inline, MapReduce, Policy, Processes, broadcast
from txmapreduce._run.identity import digest_of_function
from txmapreduce._values import broadcast as module
from txmapreduce._values.broadcast import Broadcast, LocalCodec
from txmapreduce._values.codec import Codec
from txmapreduce.errors import NotSerializable, TaskFailed
from txmapreduce.testing._case import in_thread
from txmapreduce.testing.functions import Point

LARGE = 100_000

values = st.recursive(
    st.none() | st.integers() | st.text() | st.binary() | st.builds(Point, st.integers(), st.integers()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


def look_up(table: Broadcast[dict[int, str]], x: int) -> str:
    return table.value[x]


def where(table: Broadcast[Any], x: int) -> tuple[int, int]:
    """
    The worker, and the object that it has.
    """
    return os.getpid(), id(table.value)


def is_read_only(table: Broadcast[Any], x: int) -> tuple[bool, bool]:
    """
    Whether the array can't be written to, and whether its memory is mapped.
    """
    array = base = table.value
    while isinstance(base, numpy.ndarray):
        base = base.base
    return not array.flags.writeable, isinstance(base, memoryview) and isinstance(base.obj, mmap.mmap)


def spoil(table: Broadcast[Any], x: int) -> None:
    table.value[x] = 1


def once_dead(table: Broadcast[Any], path: str, x: int) -> int:
    if not os.path.exists(path):
        open(path, "w").close()
        os._exit(1)
    return int(table.value[x])


_set_up: list[Broadcast[Any]] = []


def remember(table: Broadcast[Any]) -> None:
    _set_up[:] = [table]


def remembered(x: int) -> Any:
    return _set_up[0].value[x]


def memory_files(x: int = 0) -> int:
    """
    How many values this process has mapped.
    """
    with open("/proc/self/maps") as maps:
        return sum("txmapreduce-broadcast" in line for line in maps)


async def collected() -> None:
    """
    Runs that are over are gone, and what followed from that has happened: this test is called by the end of its run.
    """
    await deferLater(reactor, 0)
    gc.collect()
    await deferLater(reactor, 0)


class InProcessTests(SynchronousTestCase):
    """
    A handle in the process that made it.
    """

    @given(values)
    def test_value(self, value: Any) -> None:
        """
        What was broadcast has the same value.
        """
        self.assertEqual(broadcast(value).value, value)

    @given(values)
    def test_anywhere(self, value: Any) -> None:
        """
        The handle goes through any pickler, with the value, whatever the protocol.
        """
        handle = broadcast(value)
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            self.assertEqual(pickle.loads(pickle.dumps(handle, protocol)).value, value)
        self.assertIs(pickle.loads(pickle.dumps(handle)).value, handle.value)

    def test_snapshot(self) -> None:
        """
        What is done to the value later does not count.
        """
        table = [1, 2]
        handle = broadcast(table)
        table.append(3)
        self.assertEqual(handle.value, [1, 2])

    def test_views(self) -> None:
        """
        Views of memory keep their shape and are not copied.
        """
        for view in (memoryview(b"x" * LARGE), memoryview(numpy.arange(6.0).reshape(2, 3)), memoryview(b"")):
            value = broadcast([view]).value[0]
            self.assertEqual((value.format, value.shape, value.tobytes()), (view.format, view.shape, view.tobytes()))
            self.assertTrue(value.readonly)
        self.assertIsInstance(broadcast(memoryview(b"x" * LARGE)).value.obj, mmap.mmap)

    def test_functions(self) -> None:
        """
        Functions and classes that can't be imported are in the value what they were.
        """

        class Local:
            pass

        handle = broadcast({"class": Local, "instance": Local(), "function": lambda x: x + 1})
        self.assertIs(handle.value["class"], Local)
        self.assertIsInstance(handle.value["instance"], Local)
        self.assertEqual(handle.value["function"](1), 2)

    def test_notSerializable(self) -> None:
        """
        A value that can't be sent is refused at once, and the message names the part.
        """
        lock = threading.Lock()
        for value in ({"lock": lock}, {"f": lambda: lock}):
            error = self.assertRaises(NotSerializable, broadcast, value)
            self.assertIn("broadcast: a dict has the key", str(error))
            self.assertIn("a _thread.lock, which can't be sent", str(error))

    def test_givenBack(self) -> None:
        """
        The memory is given back when the handle is gone, or when the value can't be broadcast after all.
        """
        gc.collect()
        before = memory_files()
        handle = broadcast(numpy.arange(LARGE))
        array = handle.value
        self.assertEqual(memory_files(), before + 1)
        del handle
        self.assertEqual(array[LARGE - 1], LARGE - 1)  # as long as somebody looks at it, it is there
        del array
        self.assertRaises(NotSerializable, broadcast, [threading.Lock()])
        gc.collect()
        self.assertEqual(memory_files(), before)

    def test_collected(self) -> None:
        """
        Handles that only the collector can find don't pile up: it is called when there is much in them.
        """
        array = numpy.arange(1 << 20)
        with mock.patch.multiple(module, _MUCH=array.nbytes, _limit=array.nbytes):
            gc.disable()
            self.addCleanup(gc.enable)
            for _ in range(10):
                loop: list[Any] = [broadcast(array)]
                loop.append(loop)
                self.assertLessEqual(module._in_use(), 5 * array.nbytes)

    def test_digest(self) -> None:
        """
        For a checkpoint the value counts, not the handle.
        """
        one, same, other = (
            digest_of_function(functools.partial(look_up, broadcast(value)))
            for value in ({"a", "b", 1}, {1, "b", "a"}, {"a", "b", 2})
        )
        self.assertEqual(one, same)
        self.assertNotEqual(one, other)
        views = [digest_of_function(broadcast(memoryview(data))) for data in (b"a", b"a", b"b")]
        self.assertEqual(views[0], views[1])
        self.assertNotEqual(views[0], views[2])

    def test_reference(self) -> None:
        """
        To workers of this machine only the place goes, and the codec keeps the value.
        """
        handle = broadcast(numpy.arange(LARGE))
        codec = LocalCodec()
        codec.encode_program(functools.partial(look_up, handle), {})
        self.assertLess(len(codec.definitions[0]), 1000)
        self.assertLess(sum(map(len, codec.dumps([handle]))), 1000)
        self.assertEqual(codec.used, {handle._shared})
        self.assertGreater(sum(map(len, Codec().dumps([handle]))), LARGE)


class FileTests(PoolCase):
    """
    Where there are no files without a name, the value is in a temporary one.
    """

    async def test_file(self) -> None:
        """
        Workers map it, and it is removed when the handle is gone.
        """
        folder = os.path.abspath(self.mktemp())
        os.mkdir(folder)
        with mock.patch.object(module, "_has_nameless", lambda: False), mock.patch("tempfile.tempdir", folder):
            handle = broadcast(numpy.arange(LARGE))
        (name,) = os.listdir(folder)
        self.assertEqual(os.stat(os.path.join(folder, name)).st_mode & 0o777, 0o600)
        job = MapReduce(functools.partial(is_read_only, handle))
        self.assertEqual(await job.run(range(3), backend=self.pool), [(True, True)] * 3)
        self.assertEqual(pickle.loads(pickle.dumps(handle)).value[5], 5)
        del handle, job
        await collected()
        self.assertEqual(os.listdir(folder), [])


class LawTests(TestCase):
    """
    A function reads the same value on every backend.
    """

    timeout = 120

    def setUp(self) -> None:
        self.pool = Processes(2)
        self.addCleanup(self.pool.close)

    def test_everywhere(self) -> Deferred[None]:
        """
        What a mapper makes of the value is what plain Python makes of it.
        """

        @settings(max_examples=15, deadline=None)
        @given(st.lists(values, min_size=1, max_size=5), st.sampled_from(["objects", "data"]))
        def law(table: list[Any], trust: Any) -> None:
            handle = broadcast(table)
            job = MapReduce(lambda n: repr(handle.value[n]), policy=Policy(chunksize=2, trust=trust))
            for backend in (self.pool, Inline()):
                self.assertEqual(job.run_sync(range(len(table)), backend=backend), list(map(repr, table)))

        return in_thread(law)


class WorkerTests(PoolCase):
    """
    Handles in workers.
    """

    def run_with(self, function: Callable[..., Any], *arguments: Any, **policy: Any) -> Deferred[Any]:
        job = MapReduce(functools.partial(function, *arguments), policy=Policy(chunksize=1, **policy))
        return job.run(range(8), backend=self.pool)

    async def test_once(self) -> None:
        """
        A worker loads the value once, for all chunks, functions and runs.
        """
        handle = broadcast({n: str(n) for n in range(8)})
        places = await self.run_with(where, handle)
        places += await self.run_with(where, handle)
        places += await MapReduce(lambda x: where(handle, x)).run(range(100), backend=self.pool)
        places += await MapReduce(lambda pair: where(*pair)).run([(handle, x) for x in range(9)], backend=self.pool)
        objects = dict(places)
        self.assertEqual(set(places), set(objects.items()))

    async def test_mapped(self) -> None:
        """
        Large arrays are views of the memory that all share, and can't be written to.
        """
        handle = broadcast(numpy.arange(LARGE))
        self.assertEqual(await self.run_with(is_read_only, handle), [(True, True)] * 8)
        error = await self.assertFailure(self.run_with(spoil, handle), TaskFailed)
        self.assertIn("read-only", str(error))

    async def test_givenBack(self) -> None:
        """
        Workers keep the value while the handle is there, and give it back when it is gone.
        """
        self.pool = self.processes(1)
        handle = broadcast(list(range(8)))
        await self.run_with(where, handle)
        self.assertEqual(set(await self.run_with(memory_files)), {1})
        del handle
        await collected()
        self.assertEqual(set(await self.run_with(memory_files)), {0})

    async def test_replaced(self) -> None:
        """
        A worker that takes the place of one that died has the value, too.
        """
        path = os.path.abspath(self.mktemp())
        handle = broadcast(numpy.arange(LARGE))
        self.assertEqual(await self.run_with(once_dead, handle, path), list(range(8)))

    async def test_initializer(self) -> None:
        """
        The pool's initializer takes a handle, too, and nobody else has to keep it.
        """
        pool = self.processes(2, initializer=remember, initargs=[broadcast({n: -n for n in range(8)})])
        gc.collect()
        self.assertEqual(await MapReduce(remembered).run(range(8), backend=pool), [-n for n in range(8)])

    async def test_result(self) -> None:
        """
        A handle that comes back has the same value.
        """
        handle = broadcast(list(range(8)))
        (back,) = await MapReduce(lambda x: handle).run([1], backend=self.pool)
        self.assertEqual(back.value, list(range(8)))

    async def test_checkpoint(self) -> None:
        """
        With a checkpoint, a run with an equal value goes on, and one with another is refused.
        """
        path = os.path.abspath(self.mktemp())
        for _ in range(2):
            names = broadcast({n: str(n) for n in range(8)})
            self.assertEqual(await self.run_with(look_up, names, checkpoint=path), list(map(str, range(8))))
        other = broadcast({n: str(n + 1) for n in range(8)})
        with self.assertRaisesRegex(Exception, "another"):
            await self.run_with(look_up, other, checkpoint=path)


class ScriptTests(SynchronousTestCase):
    def test_main(self) -> None:
        """
        A handle that is a global of a script, with instances of a class of the script's, which are that in workers.
        """
        path = script(
            self.mktemp(),
            """
            from dataclasses import dataclass
            from txmapreduce import MapReduce, Processes, broadcast

            @dataclass
            class City:
                name: str

            cities = broadcast({1: City("Rome"), 2: City("Oslo")})

            def name(n):
                assert isinstance(cities.value[n], City)
                return cities.value[n].name

            def inside(n):
                return MapReduce(name).run_sync([1, 2], backend=Processes(1))

            if __name__ == "__main__":
                print(MapReduce(name).run_sync([1, 2, 1]), MapReduce(inside).run_sync([0]))
            """,
        )
        done = python(str(path))
        self.assertEqual((done.stdout, done.stderr), ("['Rome', 'Oslo', 'Rome'] [['Rome', 'Oslo']]\n", ""))
