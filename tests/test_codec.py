"""
Tests for L{txmapreduce._values.codec}.
"""

from __future__ import annotations

import copyreg
import datetime
import decimal
import enum
import fractions
import operator
import os
import pickle
import re
import sys
import textwrap
import threading
import types
from collections import Counter, OrderedDict, deque, namedtuple
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import twisted.persisted.styles  # noqa: F401 (registers its own ways to pickle)
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.codec_support import BadLoad, exact, pair, python, script, through
from txmapreduce._values.codec import LARGE, MAX_EXCEPTION, Codec
from txmapreduce.errors import NotSerializable

Point = namedtuple("Point", "x y")


class Colour(enum.Enum):
    RED = 1


class Mode(enum.IntFlag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Reading:
    name: str
    values: tuple[int, ...]

    @classmethod
    def of_one(cls, name: str, value: int) -> Reading:
        return cls(name, (value,))


class OwnArray(np.ndarray):
    pass


class OwnDecodeError(UnicodeDecodeError):
    def __init__(self, what: str) -> None:
        super().__init__("utf-8", b"x", 0, 1, "bad " + what)


def bare_decode_error(args: tuple[Any, ...]) -> UnicodeDecodeError:
    error = UnicodeDecodeError.__new__(UnicodeDecodeError)
    error.args = args
    return error


class TwoArguments(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Explosive(Exception):
    def __reduce__(self) -> Any:
        return operator.truediv, (1, 0)


class Changes(Exception):
    def __reduce__(self) -> Any:
        return ValueError, self.args


class Exits(Exception):
    def __reduce__(self) -> Any:
        return sys.exit, ()


class Refusing(Exception):
    """
    Raises wherever it can.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(threading.Lock())

    def __reduce__(self) -> Any:
        raise KeyError

    def __str__(self) -> str:
        raise KeyError


ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**200), 2**200),
    st.floats(),
    st.complex_numbers(),
    st.text(),
    st.binary(),
    st.decimals(),
    st.fractions(),
    st.datetimes(),
    st.timedeltas(),
    st.uuids(),
    st.sampled_from([Colour.RED, Mode.READ | Mode.WRITE, ..., NotImplemented, int, len, Reading]),
)
HASHABLE = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary(), st.tuples(st.integers()))
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.lists(inner).map(deque),
        st.dictionaries(HASHABLE, inner),
        st.sets(HASHABLE),
        st.frozensets(HASHABLE),
        st.builds(Point, inner, inner),
        st.binary().map(bytearray),
    ),
    max_leaves=20,
)


class ValuesTests(SynchronousTestCase):
    """
    Values come back as themselves.
    """

    @settings(deadline=None, max_examples=200)
    @given(VALUES)
    def test_roundTrip(self, value: Any) -> None:
        """
        Any nesting of the usual types comes back equal, with exactly the same types.
        """
        self.assertTrue(exact(through(value), value))

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.one_of(st.binary(), st.integers(LARGE - 2, LARGE + 2).map(bytes), VALUES), max_size=8))
    def test_largeAmongOthers(self, value: list[Any]) -> None:
        """
        Bytes on both sides of the limit, mixed with other items, keep their places.
        """
        self.assertTrue(exact(through(value), value))

    def test_types(self) -> None:
        """
        Types of the standard library and of importable modules survive, and enum members are the members.
        """
        for value in [
            2**200,
            decimal.Decimal("1.10"),
            fractions.Fraction(1, 3),
            datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
            Point(1, [2]),
            Reading("a", (1, 2)),
            Counter("abc"),
            OrderedDict(b=1, a=2),
            range(5),
            slice(1, 2),
            re.compile("a+"),
        ]:
            result = through(value)
            self.assertIs(type(result), type(value))
            self.assertEqual(result, value)
        self.assertIs(through(Colour.RED), Colour.RED)
        self.assertIs(through(Mode.READ), Mode.READ)

    def test_sharedAndRecursive(self) -> None:
        """
        Two references to one object stay two references to one object, and a list may hold itself.
        """
        shared: list[Any] = []
        result = through([shared, shared])
        self.assertIs(result[0], result[1])
        shared.append(shared)
        result = through(shared)
        self.assertIs(result[0], result)

    def test_numpy(self) -> None:
        """
        Arrays of all kinds come back equal, with their dtype, shape, order and class; scalars as scalars.
        """
        for value in [
            np.arange(10, dtype=">i2"),
            np.zeros((0, 3)),
            np.asfortranarray(np.arange(40_000.0).reshape(200, 200)),
            np.arange(100_000)[::2],
            np.array(["a", None, [1]], dtype=object),
            np.zeros(9000, dtype=[("a", "i8"), ("b", "f4")]),
            np.array(["2024-01-01"], dtype="M8[D]"),
            np.arange(20_000).view(OwnArray),
        ]:
            result = through(value)
            self.assertIs(type(result), type(value))
            self.assertEqual((result.dtype, result.shape), (value.dtype, value.shape))
            self.assertTrue((result == value).all())
            self.assertTrue(result.flags.writeable)
        for scalar in (np.float32(1.5), np.int64(3), np.bool_(True)):
            self.assertIs(type(through(scalar)), type(scalar))
            self.assertEqual(through(scalar), scalar)

    def test_methodsAndModules(self) -> None:
        """
        Bound methods, class methods and modules come back as themselves, and not in the ways that Twisted registers,
        which would make the workers load it.
        """
        self.assertIn(types.MethodType, copyreg.dispatch_table)
        payload = Codec().dumps([Reading("a", (1,)).__repr__, Reading.of_one, textwrap])
        self.assertNotIn(b"twisted", payload[0])
        method, of_class, module = Codec().loads(payload)
        self.assertEqual(method(), "Reading(name='a', values=(1,))")
        self.assertEqual(of_class, Reading.of_one)
        self.assertIs(module, textwrap)
        self.assertEqual(pair(Reading.of_one)[2]("a", 1), Reading("a", (1,)))

    def test_anotherProcess(self) -> None:
        """
        A payload can be loaded in a process that shares nothing with this one, by name of what it needs.
        """
        payload = [bytes(part) for part in Codec().dumps([Reading("a", (1,)), os.path.join, b"x" * LARGE])]
        self.assertEqual(
            python(
                f"import pickle\nfrom txmapreduce._values.codec import Codec\n"
                f"a, b, c = Codec().loads(pickle.loads({pickle.dumps(payload)!r}))\nprint(a, b('a', 'b'), len(c))"
            ),
            f"Reading(name='a', values=(1,)) a/b {LARGE}\n",
        )


class BuffersTests(SynchronousTestCase):
    """
    Large buffers travel beside the pickle.
    """

    def test_smallStayInside(self) -> None:
        """
        Small bytes and arrays make no buffers of their own.
        """
        self.assertEqual(len(Codec().dumps([b"x" * (LARGE - 1), np.zeros(LARGE // 8 - 1), bytearray(9)])), 1)

    def test_bytesAreNotCopied(self) -> None:
        """
        Large bytes are sent as the very object, alone, in a list, and in the tuples of a list; and loaded as it.
        """
        large = os.urandom(LARGE)
        for value in (large, [1, large, b"small"], [("name", large), 3, (large, [])]):
            payload = Codec().dumps(value)
            self.assertEqual(len(payload), 2)
            self.assertIs(payload[1], large)
            self.assertLess(len(payload[0]), 300)
            self.assertEqual(Codec().loads(payload), value)
        self.assertIs(Codec().loads(Codec().dumps([large]))[0], large)

    def test_typesFromAnyBuffer(self) -> None:
        """
        Whatever kind of buffer arrives, bytes come back as bytes, bytearrays as bytearrays, arrays as writable ones.
        """
        value = [bytes(LARGE), bytearray(LARGE), np.arange(LARGE), np.ones(LARGE), b"y" * LARGE]
        payload = Codec().dumps(value)
        self.assertEqual(len(payload), 6)
        for kind in (bytes, bytearray, lambda b: memoryview(bytes(b)), lambda b: memoryview(bytearray(b))):
            result = Codec().loads([kind(part) for part in payload])
            self.assertEqual([type(item) for item in result], [type(item) for item in value])
            self.assertTrue(all(np.array_equal(a, b) for a, b in zip(result, value, strict=True)))
            result[2][0] = result[3][0] = 7

    def test_sameBytesTwice(self) -> None:
        """
        An object that stands in a list twice is sent once.
        """
        large = bytearray(LARGE)
        payload = Codec().dumps([large, large])
        self.assertEqual(len(payload), 2)
        one, other = Codec().loads(payload)
        self.assertIs(one, other)

    def test_arraysAreViews(self) -> None:
        """
        A large array is neither copied when it is sent nor when it arrives in a writable buffer.
        """
        array = np.zeros(LARGE)
        payload = Codec().dumps([array])
        array[5] = 5
        buffer = bytearray(payload[1])
        result = Codec().loads([payload[0], buffer])[0]
        self.assertEqual(result[5], 5)
        buffer[:8] = np.float64(3).tobytes()
        self.assertEqual(result[0], 3)

    def test_readOnlyArray(self) -> None:
        """
        An array that may not be written comes back as one.
        """
        array = np.zeros(LARGE)
        array.flags.writeable = False
        self.assertFalse(through(array).flags.writeable)

    def test_inputIsLeftAlone(self) -> None:
        """
        Encoding does not change the list.
        """
        value = [b"x" * LARGE, ("a", b"x" * LARGE)]
        before = list(value)
        Codec().dumps(value)
        self.assertTrue(all(map(operator.is_, value, before)))


class ImportsTests(SynchronousTestCase):
    """
    What is not needed is not imported.
    """

    def test_nothingHeavy(self) -> None:
        """
        The module imports neither Twisted nor numpy nor dill, and importable functions and values don't either.
        """
        printed = python(
            "import sys, functools, operator\nfrom txmapreduce._values.codec import Codec\n"
            "a, b = Codec(), Codec()\na.encode_program(functools.partial(operator.add, 2), {})\n"
            "f = b.define(a.definitions[0])\n"
            "print(f(b.loads(a.dumps(3))), [n for n in ('twisted', 'numpy', 'dill', 'msgpack') if n in sys.modules])\n"
        )
        self.assertEqual(printed, "5 []\n")

    def test_workerWithoutDill(self) -> None:
        """
        A worker loads and runs an ordinary C{__main__} function and class without dill.
        """
        printed = script(
            """
            import dataclasses, enum
            class Kind(enum.IntEnum):
                A = 1
            @dataclasses.dataclass
            class Record:
                kind: Kind
                @property
                def twice(self): return [self, self]
            class Slotted:
                __slots__ = ("x",)
            def mapper(n): Slotted().x = n; return Record(Kind(n)).twice
            print(in_worker(mapper, 1)[0] == [Record(Kind.A)] * 2, in_worker.dill)
            """
        )
        self.assertEqual(printed, "True False\n")


class ErrorsTests(SynchronousTestCase):
    """
    Errors in loading are the errors themselves, and a codec goes on working after each error.
    """

    def test_raises(self) -> None:
        """
        What unpickling raises comes out unchanged, and the codec goes on working.
        """
        codec = Codec()
        self.assertRaises(ZeroDivisionError, codec.loads, Codec().dumps([BadLoad()]))
        self.assertRaises(ModuleNotFoundError, codec.loads, [b"\x80\x04cno_such_module\nname\n."])
        self.assertEqual(codec.loads(codec.dumps([1])), [1])

    def test_garbage(self) -> None:
        """
        A payload that was cut at any byte raises, and neither hangs nor ends the process.
        """
        payload = bytes(Codec().dumps([1, "text", Reading("a", (1,))])[0])
        for end in range(len(payload)):
            self.assertRaises((pickle.UnpicklingError, EOFError), Codec().loads, [payload[:end]])

    def test_usableAfterwards(self) -> None:
        """
        A codec that refused something goes on working.
        """
        coordinator, worker, _ = pair(len)
        self.assertRaises(NotSerializable, coordinator.dumps, [threading.Lock()])
        self.assertEqual(worker.loads(coordinator.dumps([1])), [1])


class ExceptionTests(SynchronousTestCase):
    """
    Exceptions travel where they can, and never get in the way.
    """

    def back(self, error: BaseException) -> Any:
        """
        The exception that arrives, or C{None}.
        """
        data = Codec().dump_exception(error)
        return None if data is None else Codec().load_exception(data)

    def test_ordinary(self) -> None:
        """
        Type, arguments and attributes survive, whatever the constructor wants.
        """
        with_attributes = ValueError("x", 2)
        with_attributes.extra = [1]
        for error in (
            with_attributes,
            OSError(2, "No such file", "name"),
            UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
            TwoArguments(3, "text"),
            OwnDecodeError("byte"),
            KeyboardInterrupt(),
            SystemExit(3),
            ValueError(float("nan")),
        ):
            result = self.back(error)
            self.assertIs(type(result), type(error))
            self.assertEqual(repr(result.args), repr(error.args))
            self.assertEqual(vars(result), vars(error))
            self.assertEqual(str(result), str(error))
        self.assertEqual(self.back(OSError(2, "No such file", "name")).filename, "name")

    def test_registered(self) -> None:
        """
        What another package registers for exceptions (Dask has tblib do so) changes nothing.
        """
        registered = {UnicodeDecodeError: lambda error: (bare_decode_error, (error.args,))}
        with mock.patch.dict(copyreg.dispatch_table, registered):
            self.test_ordinary()

    def test_withoutItsSurroundings(self) -> None:
        """
        The traceback, the cause and the context stay behind, so they can't keep an exception from travelling.
        """
        try:
            try:
                raise Explosive
            except Explosive as cause:
                raise ValueError(1) from cause
        except ValueError as error:
            result = self.back(error)
        self.assertEqual(result.args, (1,))
        self.assertIsNone(result.__cause__)
        self.assertIsNone(result.__context__)
        self.assertIsNone(result.__traceback__)

    def test_unfit(self) -> None:
        """
        One that does not pickle, does not load, changes its type on the way, or is too large, gives None.
        """

        for error in (ValueError(threading.Lock()), ValueError(b"x" * MAX_EXCEPTION), Refusing(), Changes(BadLoad())):
            self.assertIsNone(Codec().dump_exception(error))

    def test_ownReduceThatFails(self) -> None:
        """
        One whose own way of pickling does not work is put together from its type, its arguments and its attributes.
        """
        for error in (Explosive(1), Changes(1), Exits(1)):
            self.assertIs(type(self.back(error)), type(error))
            self.assertEqual(self.back(error).args, (1,))

    def test_load(self) -> None:
        """
        Garbage, an object that is no exception, and one whose loading raises or exits, give None.
        """
        for data in (b"", b"garbage", pickle.dumps(3), pickle.dumps(BadLoad()), b"csys\nexit\n)R."):
            self.assertIsNone(Codec().load_exception(data))

    def test_ownClass(self) -> None:
        """
        An exception of a class that went by value comes back as one of the coordinator's own class.
        """

        class Problem(Exception):
            def __init__(self, a: int, b: int) -> None:
                super().__init__(a + b)

        def fails() -> Any:
            return Problem(1, 2)

        coordinator, worker, program = pair(fails)
        data = worker.dump_exception(program())
        self.assertIsNotNone(data)
        result = coordinator.load_exception(data or b"")
        self.assertIs(type(result), Problem)
        self.assertEqual(result.args if result else None, (3,))
