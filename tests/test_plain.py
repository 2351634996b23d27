"""
Tests for L{txmapreduce._values.plain}, and for runs with C{trust="data"}.
"""

from __future__ import annotations

import contextlib
import enum
import os
import pickle
import random
import struct
import tracemalloc
from collections import Counter, OrderedDict
from functools import partial
from typing import Any

import msgpack
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce import Inline, MapReduce, Policy, aggregates
from txmapreduce._shuffle.tables import Items
from txmapreduce._tasks.runner import EMPTY
from txmapreduce._values import plain as _plain
from txmapreduce._values.codec import Codec
from txmapreduce._wire.messages import Report
from txmapreduce.errors import BadInput, NotSerializable, ProtocolError, TaskFailed

from . import hostile
from .test_processes import PoolCase

DATA = Policy(trust="data", chunksize=1, timeout=50)

keys = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
values = st.recursive(
    keys | st.floats(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.sets(keys)
        | st.dictionaries(keys, st.integers()).map(Counter)
    ),
)


def form(value: Any) -> Any:
    """
    What two values share that are the same, types and all; the order of dicts and sets does not matter.
    """
    if isinstance(value, dict):
        return type(value), frozenset((form(key), form(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(form, value))
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(map(form, value))
    return type(value), repr(value)


def same(one: Any, other: Any) -> bool:
    return bool(form(one) == form(other))


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


class PlainTests(SynchronousTestCase):
    """
    Values to bytes and back.
    """

    @given(values)
    def test_round_trip(self, value: Any) -> None:
        """
        Plain data comes back exactly as it was, types and all; also where it has been looked at on arrival.
        """
        data = _plain.dumps(value)
        self.assertTrue(same(_plain.loads(data), value))
        self.assertTrue(same(_plain.loads(_plain.received([data])[0]), value))

    def test_types(self) -> None:
        """
        So do the ends of what msgpack has types for, and lone surrogates.
        """
        edges = [n + d for n in (0, 2**63, -(2**63), 2**64, 2**200, -(2**200)) for d in (-1, 0, 1)]
        for value in (edges, {n: (n,) for n in edges}, "\udc80", {(1, (2, b"3")): {4}}, -0.0, EMPTY):
            self.assertTrue(same(_plain.loads(_plain.dumps(value)), value))
        self.assertIs(_plain.loads(_plain.dumps(EMPTY)), EMPTY)

    def test_items(self) -> None:
        """
        A slice of a large dict is plain when its items are.
        """
        items = Items(Counter, ["a", ("b",)], [1, 2])
        self.assertEqual(_plain.loads(_plain.dumps(items)).copy(), Counter({"a": 1, ("b",): 2}))

    def test_refused(self) -> None:
        """
        Everything else is refused, and the message names the type: subclasses, too, and what would come back as another
        type.
        """
        array = msgpack.ExtType(5, b"")
        others = (Level.LOW, Text("a"), 1j, bytearray(b"a"), memoryview(b"a"), OrderedDict(), object(), array, print)
        for value in (*others, msgpack.Timestamp(1)):
            for nested in (value, [1, (2, {3: value})], {"a": [value]}):
                error = self.assertRaises(NotSerializable, _plain.dumps, nested)
                self.assertIn(type(value).__qualname__, str(error))

    def test_depth(self) -> None:
        """
        Containers may be nested to the limit, and no deeper; a list that holds itself is too deep.
        """
        for wrap in (lambda v: [v], lambda v: (v,), lambda v: {1: v}):
            value: Any = 1
            for _ in range(_plain.MAX_DEPTH):
                value = wrap(value)
            self.assertEqual(_plain.loads(_plain.dumps(value)), value)
            self.assertRaises(NotSerializable, _plain.dumps, wrap(value))
        endless: list[Any] = []
        endless.append(endless)
        self.assertRaises(NotSerializable, _plain.dumps, endless)


class ForgedTests(SynchronousTestCase):
    """
    Bytes that L{_plain.dumps} did not make.
    """

    @given(st.binary())
    def test_garbage(self, data: bytes) -> None:
        """
        Any bytes give a value or a ProtocolError.
        """
        try:
            _plain.received([[data]])
        except ProtocolError:
            return
        _plain.loads([data])

    @given(values, st.data())
    def test_changed(self, value: Any, draw: st.DataObject) -> None:
        """
        So do those of a value with some bytes changed, and cut ones are refused.
        """
        data = bytearray(_plain.dump(value))
        cut = draw.draw(st.integers(0, len(data) - 1))
        self.assertRaises(ProtocolError, _plain.loads, [bytes(data[:cut])])
        for _ in range(3):
            data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
        with contextlib.suppress(ProtocolError):
            _plain.loads([bytes(data)])

    def test_pickles(self) -> None:
        """
        Bytes of pickles are no plain data.
        """
        for protocol in range(6):
            for value in ([1, 2], hostile.Bomb("never")):
                self.assertRaises(ProtocolError, _plain.loads, [pickle.dumps(value, protocol)])

    def test_forged_marks(self) -> None:
        """
        A mark that stands anywhere but first in an array, an unknown one or other extension, and an array that does not
        have what its mark says, are refused.
        """
        mark, other, time = msgpack.ExtType(1, b"\0"), msgpack.ExtType(1, b"\x63"), msgpack.Timestamp(5)
        two, empty = msgpack.ExtType(1, b""), msgpack.ExtType(1, b"\5")
        counter, items = msgpack.ExtType(1, b"\3"), msgpack.ExtType(1, b"\4")
        forged = (mark, [1, mark], {1: mark}, {mark: 1}, [other], [time], [two], [empty, 1], [[mark], mark])
        wrong = (
            [counter],
            [counter, 5],
            [items, True, [1], []],
            [items, True, {}, {}],
            {(1,): 2, (): [[]]},
            [counter, [1]],
        )
        for value in (*forged, *wrong[:4], wrong[5]):
            self.assertRaises(ProtocolError, _plain.loads, [msgpack.packb(value)])

    def test_keys_that_cannot_be(self) -> None:
        """
        A key that has no hash is refused, and so is an item of a set.
        """
        for data in (b"\x81\x90\x01", b"\x92" + msgpack.packb(msgpack.ExtType(1, b"\1")) + b"\x90"):
            self.assertRaises(ProtocolError, _plain.loads, [data])

    def test_announced(self) -> None:
        """
        What announces more than is there is refused before anything of the kind is allocated, however it is nested.
        """
        size = 1 << 20
        deep = b"\xdd" + struct.pack(">I", size)
        bombs = [deep * 60 + b"\xc0" * size, b"\xdd\xff\xff\xff\xff", b"\xdf\x80\0\0\0", b"\xc6\xff\xff\xff\xff"]
        bombs += [b"\x91" * size, b"\x81" * size, b"\xc9\xff\xff\xff\xff\0", (deep + b"\xc0") * 200_000]
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for bomb in bombs:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            self.assertRaises(ProtocolError, _plain.loads, [bomb])
            self.assertLess(tracemalloc.get_traced_memory()[1] - before, 200_000)

    def test_many_items(self) -> None:
        """
        The limit on items holds for all parts of an answer together.
        """
        self.patch(_plain, "MAX_ITEMS", 100)
        parts = [_plain.dumps(list(range(50)))] * 3
        _plain.received(parts[:2])
        self.assertRaises(ProtocolError, _plain.received, parts)

    def test_reports(self) -> None:
        """
        A report that announces more than it has, or nests deeper than any, is refused before it is allocated.
        """
        size = 1 << 20
        deep = b"\xdd" + struct.pack(">I", size)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for bomb in (deep * 500 + b"\xc0" * size, b"\x93" + b"\x91" * 100_000, b"\x93" + deep * 9 + b"\x90" * 2000):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            self.assertRaises(ProtocolError, Report.decoded, bomb)
            self.assertLess(tracemalloc.get_traced_memory()[1] - before, 200_000)
        self.assertRaises(ProtocolError, Report.decoded, _forged_number("9" * 5000))


def _forged_number(digits: str) -> bytes:
    packed: bytes = msgpack.packb(((("g", "n", digits),), (), ""))
    return packed


class RunCases:
    """
    Runs with C{trust="data"}, on each backend.
    """

    def backend(self) -> Any:
        raise NotImplementedError

    async def test_plain_results(self) -> None:
        """
        Results that are plain data are what they are without it: lists, folded values, values by key, large ones too.
        """
        backend = self.backend()
        many = {n: (n, 2**70) for n in range(60_000)}
        for job, expected in (
            (MapReduce(hostile.tree, policy=DATA), [hostile.tree(n) for n in range(5)]),
            (MapReduce(hostile.tree, reduce=max, policy=DATA), hostile.tree(4)),
            (MapReduce(str, reduce=aggregates.Counts(), policy=DATA), Counter(map(str, range(5)))),
            (MapReduce(hostile.pairs, reduce_by_key=max, policy=DATA), {0: 4, 1: 3}),
            (MapReduce(hostile.pairs, reducer=hostile.listed, policy=DATA), [(0, [0, 2, 4]), (1, [1, 3])]),
            (MapReduce(hostile.many, reduce_by_key=max, policy=DATA), many),
        ):
            found = await job.run(range(5), backend=backend)
            self.assertTrue(same(found, expected), job)
        error = await self.assertFailure(MapReduce(abs, reduce=max, policy=DATA).run([], backend=backend), TypeError)
        self.assertIn("empty iterable", str(error))

    async def test_partials_may_be_objects(self) -> None:
        """
        What is folded along the way may be of any type: only what comes back to the user has to be plain.
        """
        job = MapReduce(hostile.Point, reduce=hostile.Farthest(), policy=DATA)
        self.assertEqual(await job.run(range(5), backend=self.backend()), 4)

    async def test_other_types(self) -> None:
        """
        A result of another type fails the run, and the message names the type.
        """
        backend = self.backend()
        for options in ({}, {"reduce": hostile.first}, {"reduce_by_key": hostile.first}, {"reducer": hostile.listed}):
            mapper = hostile.keyed_point if len(options) and "reduce" not in options else hostile.Point
            run = MapReduce(mapper, policy=DATA, **options).run(range(3), backend=backend)
            error = await self.assertFailure(run, TaskFailed)
            self.assertIn("tests.hostile.Point", str(error))
            self.assertIsNone(error.__cause__)

    async def test_exceptions(self) -> None:
        """
        An exception comes as type, text and traceback, and never as an object.
        """
        run = MapReduce(hostile.fail, policy=DATA).run([7], backend=self.backend())
        error = await self.assertFailure(run, TaskFailed)
        self.assertIsNone(error.__cause__)
        self.assertIn("LookupError: no 7", str(error))
        self.assertIn("in fail", error.remote_traceback)

    async def test_on_the_side(self) -> None:
        """
        Counters and bad records come as they do without it.
        """
        policy = Policy(trust="data", bad_records="skip", chunksize=2)
        run = MapReduce(hostile.odd_ones, policy=policy).start(range(6), backend=self.backend())
        self.assertEqual(await run.result, [1, 3, 5])
        self.assertEqual(run.counters, {("test", "seen"): 6})
        self.assertEqual(sorted((bad.chunk, bad.record) for bad in run.skipped), [(0, 0), (1, 0), (2, 0)])


class InlineTests(RunCases, PoolCase):
    def backend(self) -> Any:
        return Inline()


class ProcessesTests(RunCases, PoolCase):
    def backend(self) -> Any:
        return self.pool(2)

    async def hostile_run(self, mapper: Any, pool: Any, **options: Any) -> BaseException | None:
        """
        Run it, however it ends. Returns its error, if it has one.
        """
        policy = Policy(trust="data", chunksize=1, retries=0, timeout=20)
        outcome = MapReduce(mapper, policy=policy, **options).run([1], backend=pool)
        return await outcome.addCallbacks(lambda _: None, lambda why: why.value)

    async def test_hostile_payloads(self) -> None:
        """
        Of a thousand hostile payloads none is executed: pickles that write a file when they are loaded, in all
        protocols, bare and inside of forged frames, wherever a worker may put bytes.
        """
        proof = self.temporary()
        bombs = hostile.bombs(random.Random(1), proof)
        for place in hostile.DECODED_HERE:
            for bomb in bombs:
                with contextlib.suppress(ProtocolError):
                    place(bomb)
        self.assertGreaterEqual(len(bombs) * len(hostile.DECODED_HERE), 1000)
        self.assertFalse(os.path.exists(proof))

    async def test_hostile_workers(self) -> None:
        """
        Nor when a worker forges its answers: as partial, as report, as exception, with numbers that can't be. It is
        killed and its chunk charged, where it does not answer with a failure; the pool works afterwards.
        """
        pool = self.pool(1)
        proof = self.temporary()
        for forge in hostile.FORGERIES:
            opaque = forge in hostile.OPAQUE  # partials that are passed on to another worker are not looked at
            for options in ({},) if opaque else ({}, {"reduce": max}):
                error = await self.hostile_run(partial(hostile.forge, forge, proof), pool, **options)
                self.assertIsInstance(error, hostile.EXPECTED[forge], forge)
                self.assertFalse(os.path.exists(proof), forge)
        self.assertEqual(await MapReduce(abs, policy=DATA).run([-1], backend=pool), [1])

    async def test_charged_and_tried_again(self) -> None:
        """
        A chunk whose worker forged its answer is run again, and its result counts once.
        """
        policy = Policy(trust="data", chunksize=1, retries=1, timeout=50)
        proof = self.temporary()
        run = MapReduce(partial(hostile.forge_once, proof), policy=policy).start(range(4), backend=self.pool(1))
        self.assertEqual(await run.result, list(range(4)))
        self.assertEqual(run.progress().retried, 1)
        self.assertFalse(os.path.exists(proof))

    async def test_without_it(self) -> None:
        """
        The proof is one: with C{trust="objects"} the same payload is executed.
        """
        proof = self.temporary()
        Codec().loads([pickle.dumps(hostile.Bomb(proof))])
        self.assertTrue(os.path.exists(proof))


class PolicyTests(SynchronousTestCase):
    def test_values(self) -> None:
        """
        Nothing but the two words is taken.
        """
        self.assertEqual((Policy().trust, Policy(trust="data").trust), ("objects", "data"))
        self.assertIn("trust", str(self.assertRaises(BadInput, Policy, trust="none")))
