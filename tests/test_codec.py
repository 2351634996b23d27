"""
Tests for L{txmapreduce._codec}.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import functools
import importlib.util
import io
import operator
import os
import pickle
import re
import socket
import subprocess
import sys
import textwrap
import threading
import types
from collections import Counter, OrderedDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce import _codec
from txmapreduce._codec import LARGE, MAX_EXCEPTION, Codec
from txmapreduce.errors import NotSerializable

ROOT = Path(__file__).resolve().parent.parent

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


class OwnArray(np.ndarray):
    pass


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


class Refuses:
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class BadLoad:
    def __reduce__(self) -> Any:
        return operator.truediv, (1, 0)


gates: deque[Callable[[], object]] = deque()


def pass_gate() -> object:
    return gates.popleft()()


class Gate:
    """
    Calls the next of C{gates} when it is loaded.
    """

    def __reduce__(self) -> Any:
        return pass_gate, ()


def exact(one: Any, other: Any) -> bool:
    """
    Whether two values are equal, and all their parts of the same types. NaN is like NaN, 0.0 is not like -0.0.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(exact, one.items(), other.items()))
    if isinstance(one, (list, tuple, deque)):
        return len(one) == len(other) and all(map(exact, one, other))
    if isinstance(one, (set, frozenset)):
        return {(type(i), repr(i)) for i in one} == {(type(i), repr(i)) for i in other}
    return repr(one) == repr(other)


def through(value: Any) -> Any:
    """
    A value that went to the other side, which has no program.
    """
    return Codec().loads(Codec().dumps(value))


def pair(program: Any) -> tuple[Codec, Codec, Any]:
    """
    Both sides of a run, and the program as the worker has it.
    """
    coordinator, worker = Codec(), Codec()
    coordinator.encode_program(program, {"mapper": program})
    return coordinator, worker, worker.define(coordinator.definitions[0])


def made_up(source: str, **names: Any) -> dict[str, Any]:
    """
    The globals of a module that nobody can import.
    """
    names["__name__"] = "made_up_by_the_tests"
    exec(textwrap.dedent(source), names)
    return names


def python(code: str, *arguments: str) -> str:
    """
    What a fresh interpreter prints that runs C{code} as a script.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments, "-"], input=code, env=environment, capture_output=True, text=True, cwd="/"
    )
    if done.returncode:
        raise AssertionError(done.stderr)
    return done.stdout


WORKER = """
import pickle, sys
from txmapreduce._codec import Codec
definitions, payloads = pickle.load(sys.stdin.buffer)
codec = Codec()
program = [codec.define(blob) for blob in definitions][0]
answers = [[bytes(b) for b in codec.dumps(program(codec.loads(payload)))] for payload in payloads]
pickle.dump((answers, "dill" in sys.modules), sys.stdout.buffer)
"""

SCRIPT = f"""
import pickle, subprocess, sys
from txmapreduce._codec import Codec
from txmapreduce.errors import NotSerializable

def in_worker(program, *records):
    "The results, from a child that has another __main__."
    coordinator = Codec()
    coordinator.encode_program(program, {{"mapper": program}})
    payloads = [[bytes(b) for b in coordinator.dumps(record)] for record in records]
    parcel = pickle.dumps((coordinator.definitions, payloads))
    answer = subprocess.run([sys.executable, "-c", {WORKER!r}], input=parcel, stdout=-1, check=True).stdout
    answers, in_worker.dill = pickle.loads(answer)
    return [coordinator.loads(answer) for answer in answers]
"""


def script(code: str) -> str:
    """
    What a script prints whose C{__main__} has what C{code} defines.
    """
    return python(SCRIPT + textwrap.dedent(code))


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

    def test_anotherProcess(self) -> None:
        """
        A payload can be loaded in a process that shares nothing with this one, by name of what it needs.
        """
        payload = [bytes(part) for part in Codec().dumps([Reading("a", (1,)), os.path.join, b"x" * LARGE])]
        self.assertEqual(
            python(
                f"import pickle\nfrom txmapreduce._codec import Codec\n"
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
            "import sys, functools, operator\nfrom txmapreduce._codec import Codec\n"
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


class MainTests(SynchronousTestCase):
    """
    Functions and classes of a script's C{__main__} work in a worker, whose C{__main__} is another.
    """

    def check(self, code: str) -> None:
        """
        Run a script that prints whether each thing holds.
        """
        printed = script(code).splitlines()
        self.assertTrue(printed)
        for line in printed:
            self.assertTrue(line.endswith("True"), line)

    def test_functions(self) -> None:
        """
        Globals are shared and can be assigned, functions call each other and themselves, closures share variables.
        """
        self.check(
            """
            import functools, xml.dom.minidom, sys
            total, state = 0, {"n": 0}
            def bump():
                global total
                total += 1
                state["n"] += 1
            def look(): return total, state["n"]
            def count(x):
                bump(); bump()
                return look()
            print("globals", in_worker(count, 0, 0) == [(2, 2), (4, 4)], (total, state) == (0, {"n": 0}))
            def even(n): return n == 0 or odd(n - 1)
            def odd(n): return n != 0 and even(n - 1)
            print("mutual", in_worker(even, 10, 7) == [True, False])
            @functools.lru_cache
            def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
            print("lru_cache", in_worker(fib, 50) == [12586269025])
            def counter():
                n = 0
                def increment():
                    nonlocal n
                    n += 1
                return increment, lambda: n
            increment, value = counter()
            def both(x): increment(); increment(); return value()
            print("cells", in_worker(both, 0) == [2])
            def recursive():
                def inner(n): return 1 if n == 0 else n * inner(n - 1)
                return inner
            print("recursive closure", in_worker(recursive(), 5) == [120])
            def decorate(f):
                @functools.wraps(f)
                def wrapper(*args): return f(*args) + 1
                return wrapper
            @decorate
            def decorated(x, *, y=3): "Doc."; return x + y
            print("wraps", in_worker(lambda x: (decorated(x), decorated.__doc__), 1) == [(5, "Doc.")])
            print("defaults", in_worker(lambda x, y=2, *, z=[3]: (x, y, z), 1) == [(1, 2, [3])])
            print("partial", in_worker(functools.partial(lambda a, b: a - b, b=1), 5) == [4])
            print("submodule", in_worker(lambda x: xml.dom.minidom.parseString(x).firstChild.tagName, "<a/>") == ["a"])
            def nested(x):
                def inner(): return [odd(n) for n in (1, 2)]
                class Local: value = even(2)
                return inner(), Local.value
            print("globals of inner code", in_worker(nested, 0) == [([True, False], True)])
            print("stream", in_worker(lambda x, err=sys.stderr: err.name, 0) == ["<stderr>"])
            @functools.singledispatch
            def kind(x): return "other"
            @kind.register
            def _(x: int): return "int"
            print("singledispatch", in_worker(lambda x: kind(x), 1, "") == ["int", "other"])
            names = dict(__name__="__main__")
            for n in range(150): exec(f"def f{n}(x): return f{n + 1}(x)", names)
            exec("def f150(x): return x", names)
            print("long chain", in_worker(names["f0"], 3) == [3])
            """
        )

    def test_classes(self) -> None:
        """
        Results are instances of the script's own classes, records of the worker's one copy, and what they do works.
        """
        self.check(
            """
            import abc, collections, dataclasses, functools, typing
            from dataclasses import dataclass, field
            def same(name, value, call=lambda v: None):
                def mapper(v): return v, type(v) is type(value) and isinstance(v, type(value)), call(v)
                result, known, called = in_worker(mapper, value)[0]
                print(name, result == value or vars(result) == vars(value), type(result) is type(value), known,
                      called == call(value))
            @dataclass
            class Plain:
                a: int
                b: list = field(default_factory=list)
                c: typing.ClassVar[int] = 7
                k: dataclasses.KW_ONLY = None
                z: int = 3
                def total(self): return self.a + sum(self.b) + self.z
            @dataclass(order=True)
            class Child(Plain):
                d: int = 5
                def total(self): return super().total() + self.d
            def uses(v): return (v.total(), dataclasses.asdict(v), dataclasses.replace(v, a=9).a, repr(v),
                                 [f.name for f in dataclasses.fields(v)])
            same("dataclass", Plain(1, [2]), uses); same("derived", Child(1, [2]), uses)
            @dataclass(frozen=True, slots=True)
            class Slotted:
                x: int
                y: str = "y"
            same("frozen slots", Slotted(1), lambda v: (dataclasses.replace(v, x=2).x, hash(v) == hash((1, "y"))))
            class Named(typing.NamedTuple):
                a: int
                b: str = "x"
                def upper(self): return self.b.upper()
            Pair = collections.namedtuple("Pair", "x y", defaults=[4])
            same("NamedTuple", Named(1), lambda v: (v.upper(), v._replace(a=5).a, v._asdict()))
            same("namedtuple", Pair(1), lambda v: (v.x, v.y, Pair(3).y))
            class Shape(abc.ABC):
                @abc.abstractmethod
                def area(self): ...
            class Square(Shape):
                def area(self): return 4
            @Shape.register
            class Virtual: pass
            def abstract(v):
                try: Shape()
                except TypeError: return v.area(), [isinstance(x, Shape) for x in (v, Virtual(), 3)]
            same("ABC", Square(), abstract)
            T = typing.TypeVar("T")
            class Box(typing.Generic[T]):
                def __init__(self, v: T): self.v = v
            class IntBox(Box[int]): pass
            def generic(v): return Box[int](4).v, len(Box.__parameters__), IntBox.__orig_bases__ == (Box[int],)
            same("Generic", IntBox(3), generic)
            class Runs(typing.Protocol):
                def run(self): ...
            class Runner(Runs):
                def run(self): return 9
            same("Protocol", Runner(), lambda v: v.run())
            class Meta(type):
                registry = {}
                def __new__(meta, name, bases, names, tag=None):
                    cls = super().__new__(meta, name, bases, names)
                    meta.registry[name] = cls
                    cls.tag = tag
                    return cls
            class WithMeta(metaclass=Meta, tag="t"):
                pass
            same("metaclass", WithMeta(), lambda v: (v.tag, Meta.registry["WithMeta"] is type(v)))
            class Plugin:
                known = {}
                def __init_subclass__(cls, *, name): Plugin.known[name] = cls
            class First(Plugin, name="first"): pass
            def plugin(v):
                before = [*Plugin.known]
                class Second(Plugin, name="second"): pass
                return before, [*Plugin.known], Plugin.known.pop("second").__name__, Plugin.known["first"] is type(v)
            same("__init_subclass__", First(), plugin)
            class Strict:
                def __init_subclass__(cls, *, size): cls.size = size
                def __eq__(self, other): return type(self) is type(other)
            class Small(Strict, size=1): pass
            def strict(v):
                class Big(Strict, size=2): pass
                return v.size, Big.size
            same("arguments of a class", Small(), strict)
            class Slots:
                __slots__ = ("a", "__b", "__weakref__")
                def __init__(self): self.a = 1; self.__b = 2
                def __eq__(self, other): return (self.a, self.__b) == (other.a, other.__b)
                def b(self): return self.__b
            same("__slots__", Slots(), lambda v: v.b())
            class Field:
                def __set_name__(self, owner, name): self.name = name
                def __get__(self, instance, owner): return self.name
            class Methods:
                field = Field()
                @property
                def p(self): return 1
                @staticmethod
                def s(): return 2
                @classmethod
                def c(cls): return cls.__name__
                @functools.cached_property
                def cached(self): return 3
                @functools.lru_cache
                def lru(self): return 4
                def __eq__(self, other): return type(self) is type(other)
                __hash__ = object.__hash__
            same("methods", Methods(), lambda v: (v.field, v.p, v.s(), v.c(), v.cached, v.lru()))
            class Outer:
                class Inner:
                    def outer(self): return Outer.__name__
            same("nested", Outer.Inner(), lambda v: (v.outer(), type(v).__qualname__))
            class Left:
                def other(self): return Right()
            class Right:
                def other(self): return Left()
            same("mutual", Left(), lambda v: type(v.other().other()) is type(v))
            print("bound method", in_worker(Plain(5).__eq__, Plain(5), 5) == [True, NotImplemented])
            print("class as a value", in_worker(lambda c: (c, c is Plain), Plain) == [(Plain, True)])
            class Problem(Exception):
                def __init__(self, a, b): super().__init__(f"{a}{b}")
            def fails(x):
                try: raise Problem(1, 2)
                except Problem as error: return type(error), error.args
            print("exception class", in_worker(fails, 0) == [(Problem, ("12",))])
            """
        )

    def test_enums(self) -> None:
        """
        Members are members on both sides: plain, aliased, mixed with data types, with constructors, and flags.
        """
        self.check(
            """
            import datetime, enum
            class Colour(enum.Enum):
                RED = 1
                CRIMSON = 1
                GREEN = 2
                def hot(self): return self is Colour.RED
            class Number(enum.IntEnum):
                ONE = 1
            class Flags(enum.Flag):
                X = enum.auto()
                Y = enum.auto()
            class IntFlags(enum.IntFlag):
                X = 1
                Y = 2
            class Planet(enum.Enum):
                EARTH = (5.9, 6.3)
                def __init__(self, mass, radius): self.mass = mass; self.radius = radius
                @property
                def ratio(self): return self.mass / self.radius
            class Code(str, enum.Enum):
                def __new__(cls, code, label):
                    self = str.__new__(cls, code)
                    self._value_, self.label = code, label
                    return self
                A = "a", "Alpha"
            class Day(datetime.date, enum.Enum):
                FIRST = 2020, 1, 1
            class Fraction(float, enum.Enum):
                HALF = 0.5
            for member in [Colour.RED, Number.ONE, Flags.X, IntFlags.Y, Planet.EARTH, Code.A, Day.FIRST, Fraction.HALF]:
                def mapper(m, n=type(member)): return m, m in list(n), n(m.value) is m, n[m.name] is m, member is m
                result = in_worker(mapper, member)[0]
                print(member, result[0] is member, result[1:] == (True,) * 4)
            for flags in [Flags.X | Flags.Y, IntFlags.X | IntFlags.Y]:
                print(flags, in_worker(lambda m: (m, flags == m, type(m).X in m), flags) == [(flags, True, True)])
            def uses(x):
                return (Colour.RED.hot(), Colour["CRIMSON"], Colour(2), [*Colour], Planet.EARTH.ratio, Code.A.label,
                        Code.A.upper(), f"{Number.ONE}", str(Number.ONE), repr(Colour.RED), Number.ONE + 1)
            print("uses", in_worker(uses, 0) == [uses(0)])
            """
        )

    def test_newSyntax(self) -> None:
        """
        Generic classes and functions of Python 3.12's syntax work, where there is such a syntax.
        """
        self.check(
            """
            code = "class Box[T]:\\n def __init__(self, x: T): self.x = x\\ndef box[T](x: T): return Box[int](x)"
            if sys.version_info < (3, 12):
                code = "class Box:\\n def __init__(self, x): self.x = x\\ndef box(x): return Box(x)"
            exec(code)
            result = in_worker(box, 3)[0]
            print(type(result) is Box, result.x == 3)
            """
        )

    def test_functionsAsValues(self) -> None:
        """
        Lambdas in records and in results work, and use the same classes as the program.
        """
        self.check(
            """
            class Own:
                def __init__(self, x): self.x = x
            def apply(functions): return [f(2) for f in functions], Own(0)
            values, own = in_worker(apply, [lambda x: x + 1, lambda x: Own(x), abs])[0]
            print(values[0] == 3, type(values[1]) is type(own) is Own, values[2] == 2)
            function = in_worker(lambda n: (lambda x: (n, x, Own(x))), 1)[0]
            print(function(5)[:2] == (1, 5), type(function(5)[2]) is Own)
            """
        )

    def test_instancesInTheProgram(self) -> None:
        """
        An instance that a function uses as a global, and a record of its class, have one class in the worker.
        """
        self.check(
            """
            class Table:
                def __init__(self, **rows): self.rows = rows
            table = Table(a=1)
            def mapper(other): return table.rows[other.rows["key"]], type(other) is type(table) is Table
            print(in_worker(mapper, Table(key="a")) == [(1, True)])
            """
        )


class ClassTests(SynchronousTestCase):
    """
    A class that goes by value is one class on each side, for the whole run.
    """

    def test_comesBackAsItself(self) -> None:
        """
        A class that first shows up in a record is defined once. The worker has one copy, and it comes back as itself.
        """

        class Record:
            pass

        coordinator, worker, _ = pair(len)
        payloads = [coordinator.dumps([Record()]), coordinator.dumps([Record(), Record])]
        self.assertEqual(len(coordinator.definitions), 2)
        worker.define(coordinator.definitions[1])
        first, second = (worker.loads(payload) for payload in payloads)
        self.assertIs(type(first[0]), second[1])
        self.assertIs(type(second[0]), second[1])
        self.assertIsNot(second[1], Record)
        answer = coordinator.loads(worker.dumps((first[0], second[1])))
        self.assertIs(type(answer[0]), Record)
        self.assertIs(answer[1], Record)

    def test_fromTheProgram(self) -> None:
        """
        A class that the program holds needs no definition of its own. Definitions that build on it don't copy it.
        """

        class Base:
            mark = "the mark of the base"

        coordinator, worker, program = pair(lambda: Base)

        class Derived(Base):
            pass

        payload = coordinator.dumps([Base(), Derived()])
        self.assertEqual(len(coordinator.definitions), 2)
        self.assertEqual([b"the mark" in blob for blob in coordinator.definitions], [True, False])
        worker.define(coordinator.definitions[1])
        base, derived = worker.loads(payload)
        self.assertIs(type(base), program())
        self.assertIs(type(derived).__base__, program())
        self.assertEqual(len(coordinator.dumps([Derived()])), 1)
        self.assertEqual(len(coordinator.definitions), 2)

    def test_needsItsDefinition(self) -> None:
        """
        A payload that is loaded before its definitions raises an error that says so.
        """

        class Record:
            pass

        coordinator, worker, _ = pair(len)
        payload = coordinator.dumps(Record())
        error = self.assertRaises(pickle.UnpicklingError, worker.loads, payload)
        self.assertIn("definition", str(error))

    def test_madeUpInAWorker(self) -> None:
        """
        A class that a worker made up is one class in the coordinator, and each payload can be read by another worker.
        """

        def program(x: object) -> Any:
            class Made:
                value = x

            return Made

        coordinator, worker, mapper = pair(program)
        made = mapper(5)
        payloads = [worker.dumps(made()), worker.dumps([made(), made])]
        one, two = (coordinator.loads(payload) for payload in payloads)
        self.assertIs(type(one), type(two[0]))
        self.assertIs(type(one), two[1])
        other = Codec()
        other.define(coordinator.definitions[0])
        self.assertEqual(other.loads(payloads[1])[1].value, 5)
        again = coordinator.dumps(one)
        for side in (worker, other):
            for blob in coordinator.definitions[1:]:
                side.define(blob)
        self.assertIs(type(worker.loads(again)), made)
        self.assertIs(type(other.loads(again)), type(other.loads(payloads[0])))

    def test_passedOnToAnotherWorker(self) -> None:
        """
        What one worker encoded another one of the run can load, as its own copy of the class.
        """

        class Record:
            pass

        coordinator, one, _ = pair(lambda: Record)
        other = Codec()
        program = other.define(coordinator.definitions[0])
        self.assertIs(type(other.loads(one.dumps(one.loads(coordinator.dumps(Record()))))), program())

    def test_originalIsLeftAlone(self) -> None:
        """
        Where a definition meets the class that it was made from, that class stays as it is.
        """

        class Record:
            def method(self) -> None:
                pass

        coordinator, _, _ = pair(lambda: Record)
        before = dict(vars(Record))
        self.assertIs(coordinator.define(coordinator.definitions[0])(), Record)
        self.assertEqual(dict(vars(Record)), before)

    def test_enumMadeUpInAWorker(self) -> None:
        """
        An enum that a worker made up has one set of members in the coordinator, however often it comes.
        """
        coordinator, worker, mapper = pair(lambda: enum.Enum("Made", "A B"))
        made = mapper()
        one, two = (coordinator.loads(worker.dumps([made.A, made.B])) for _ in range(2))
        self.assertEqual([member.name for member in one], ["A", "B"])
        self.assertTrue(all(map(operator.is_, one, two)))
        self.assertEqual(list(type(one[0])), one)

    def test_loadInsideALoad(self) -> None:
        """
        User code that loads something of another run, while it is being loaded, does not mix up the two.
        """

        class Record:
            pass

        coordinator, worker, program = pair(lambda: Record)
        gates.append(lambda: through(3))
        self.assertIs(type(worker.loads(coordinator.dumps([Gate(), Record()]))[1]), program())

    def test_runsAreApart(self) -> None:
        """
        Two runs in one worker have classes of their own.
        """

        class Record:
            pass

        self.assertIsNot(pair(lambda: Record)[2](), pair(lambda: Record)[2]())

    def test_enumMembersOfALaterDefinition(self) -> None:
        """
        An enum that comes by a record, and a class that refers to one of its members, give one and the same member.
        """

        class Level(enum.Enum):
            LOW = 1

        class Holder:
            level = Level.LOW

        coordinator, worker, _ = pair(len)
        payload = coordinator.dumps([Level.LOW, Holder()])
        for blob in coordinator.definitions[1:]:
            worker.define(blob)
        level, holder = worker.loads(payload)
        self.assertIs(holder.level, level)
        self.assertIs(coordinator.loads(worker.dumps(level)), Level.LOW)

    def test_failedDefinitionLeavesNothing(self) -> None:
        """
        When a definition can't be loaded, its classes are not taken for good ones later.
        """

        class Broken:
            value = BadLoad()

        coordinator, worker = Codec(), Codec()
        coordinator.encode_program(lambda: Broken, {})
        self.assertRaises(ZeroDivisionError, worker.define, coordinator.definitions[0])
        self.assertRaises(ZeroDivisionError, worker.define, coordinator.definitions[0])
        self.assertEqual(worker.classes, {})

    def test_threads(self) -> None:
        """
        Two threads that load for different runs at the same time don't mix up the two.
        """

        class Record:
            pass

        sides = [pair(lambda: Record) for _ in range(2)]
        payloads = [coordinator.dumps([Gate(), Record()]) for coordinator, _, _ in sides]
        inside, done, results = threading.Event(), threading.Event(), []

        def load_other() -> None:
            results.append(sides[1][1].loads(payloads[1])[1])

        def start_other() -> None:
            gates.append(lambda: (inside.set(), done.wait(30)))
            other.start()
            inside.wait(30)

        other = threading.Thread(target=load_other)
        gates.append(start_other)
        results.append(sides[0][1].loads(payloads[0])[1])
        done.set()
        other.join(30)
        self.assertEqual([type(result) for result in results], [side[2]() for side in sides])


class FunctionTests(SynchronousTestCase):
    """
    Functions go by name where the other side can import them, and by value otherwise.
    """

    def test_byName(self) -> None:
        """
        An importable function arrives as the very function, in a program and in a record.
        """
        coordinator, worker, program = pair(functools.partial(exact, 1))
        self.assertIs(program.func, exact)
        self.assertIs(worker.loads(coordinator.dumps([exact]))[0], exact)

    def test_redefined(self) -> None:
        """
        A function that was defined anew under its name is sent anew.
        """
        for n in (1, 2):
            names = made_up(f"def f(): return {n}")
            self.assertEqual(pair(names["f"])[2](), n)
            self.assertEqual(through(names["f"])(), n)

    def test_moduleThatWasMadeUp(self) -> None:
        """
        Functions and classes of a module that no finder knows go by value, even while it stands in sys.modules.
        """
        module = types.ModuleType("made_up_module")
        module.__spec__ = importlib.util.spec_from_loader("made_up_module", None)
        exec("factor = 3\nclass C: pass\ndef f(x): return x * factor, C", vars(module))
        self.patch(sys, "modules", {**sys.modules, "made_up_module": module})
        program = pair(module.f)[2]
        self.assertIsNot(program, module.f)
        self.assertEqual(program(2)[0], 6)
        self.assertIsNot(program(2)[1], module.C)

    def test_moduleFromAnotherPlace(self) -> None:
        """
        Functions of a module that was loaded from another file than its name leads to go by value.
        """
        path = Path(self.mktemp()).with_suffix(".py")
        path.write_text("def parse(): return 'the other one'")
        spec = importlib.util.spec_from_file_location("colorsys", path.resolve())
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.patch(sys, "modules", {**sys.modules, "colorsys": module})
        program = pair(module.parse)[2]
        self.assertIsNot(program, module.parse)
        self.assertEqual(program(), "the other one")

    def test_closureOfAnImportableModule(self) -> None:
        """
        A closure that an importable module made uses that module's own globals on the other side.
        """
        program = pair(lambda: _codec)[2]
        self.assertIs(program.__globals__, globals())

    def test_onlyGlobalsByName(self) -> None:
        """
        An attribute that has the name of a global does not take the global along.
        """
        names = made_up("def f(x): return x.lock", lock=threading.Lock())
        self.assertEqual(pair(names["f"])[2](types.SimpleNamespace(lock=4)), 4)

    def test_longPlainDataIsFast(self) -> None:
        """
        A long list, dict or set of plain values that a function uses is pickled in one piece, and is still shared.
        """
        names = made_up(
            "def f(): return words, table, chosen\ndef g(): return f() + (words,)",
            words=[str(n) for n in range(1000)],
            table={n: str(n) for n in range(1000)},
            chosen={*range(1000)},
        )
        coordinator, _, program = pair(names["g"])
        self.assertEqual(coordinator.definitions[0].count(b"\x80\x05"), 4)  # pickles start so
        words, table, chosen, again = program()
        self.assertEqual((words, table, chosen), (names["words"], names["table"], names["chosen"]))
        self.assertIs(words, again)

    def test_resourcesOfTheInterpreter(self) -> None:
        """
        The standard streams go by name, and streams in memory by value.
        """
        names = made_up("def f(): return out, text.getvalue()", out=sys.stderr, text=io.StringIO("x"))
        out, text = pair(names["f"])[2]()
        self.assertIs(out, sys.stderr)
        self.assertEqual(text, "x")


ADVICE = "which can't be sent to another process: create it inside the function, or in the workers' initializer"


class NotSerializableTests(SynchronousTestCase):
    """
    What can't be sent is refused with a message that says where it is.
    """

    def refused(self, program: object) -> str:
        """
        The message for a program that consists of one mapper.
        """
        codec = Codec()
        error = self.assertRaises(NotSerializable, codec.encode_program, (program, len), {"mapper": program})
        self.assertEqual(codec.definitions, [])
        return str(error)

    def fetch(self, value: object) -> Callable[[], object]:
        """
        A function that uses a global.
        """
        function: Callable[[], object] = made_up("def fetch(): return thing", thing=value)["fetch"]
        return function

    def test_global(self) -> None:
        """
        For a global the message has the parameter, the function, the name and the type.
        """
        self.assertEqual(
            self.refused(self.fetch(threading.Lock())),
            f"mapper 'fetch' uses the global name 'thing', a _thread.lock, {ADVICE}",
        )

    def test_everyKind(self) -> None:
        """
        Locks, events, threads, files, sockets, generators and coroutines are refused.
        """

        async def coroutine() -> None:
            pass

        running = coroutine()
        self.addCleanup(running.close)
        with socket.socket() as sock, open(os.devnull) as text, open(os.devnull, "rb") as binary:
            for thing in (
                threading.RLock(), threading.Condition(), threading.Event(), threading.Semaphore(), sock, text, binary,
                threading.Thread(), threading.local(), (n for n in ()), running, types.ModuleType("nowhere"),
            ):  # fmt: skip
                message = self.refused(self.fetch(thing))
                self.assertTrue(message.startswith("mapper 'fetch' uses the global name 'thing', a"), message)
                self.assertIn(type(thing).__name__, message)

    def test_nested(self) -> None:
        """
        When a function uses a function that uses it, the message names both.
        """
        names = made_up("def fetch(): return helper()\ndef helper(): return lock", lock=threading.Lock())
        self.assertEqual(
            self.refused(names["fetch"]),
            "mapper 'fetch' uses the global name 'helper', which uses the global name 'lock', "
            f"a _thread.lock, {ADVICE}",
        )

    def test_otherPlaces(self) -> None:
        """
        Closure variables, defaults, partial arguments, attributes, items and class attributes are named.
        """
        lock = threading.Lock()

        class Client:
            def __init__(self) -> None:
                self.connection = lock

            def fetch(self) -> None:
                pass

        class Guarded:
            guard = lock

        class Slotted:
            __slots__ = ("guard",)

        slotted = Slotted()
        slotted.guard = lock
        client = Client()
        function = self.fetch(None)
        function.cache = lock
        for program, text in [
            (lambda: lock, "'<lambda>' uses the closure variable 'lock'"),
            (lambda x, y=lock: x, "'<lambda>' has the default argument 'y'"),
            (lambda x, *, y=lock: x, "'<lambda>' has the default argument 'y'"),
            (functools.partial(exact, lock), "partial of 'exact' has the argument 0"),
            (functools.partial(exact, other=lock), "partial of 'exact' has the argument 'other'"),
            (functools.partial(lambda: lock), "partial of '<lambda>' calls '<lambda>', which uses the closure"),
            (client.fetch, "'Client.fetch' is a method of a "),
            (client.fetch, "which has the attribute 'connection'"),
            (self.fetch({"a": [1, lock]}), "the global name 'thing', which has the key 'a', which holds at place 1"),
            (self.fetch(Guarded), "uses the global name 'thing', which has the attribute 'guard'"),
            (self.fetch(slotted), "uses the global name 'thing', which has the attribute 'guard'"),
            (function, "'fetch' has the attribute 'cache'"),
        ]:
            message = self.refused(program)
            self.assertIn(text, message)
            self.assertTrue(message.startswith("mapper ") and message.endswith(f", a _thread.lock, {ADVICE}"), message)

    def test_ownError(self) -> None:
        """
        When a user's C{__reduce__} raises, its error is in the message and is the cause.
        """
        codec = Codec()
        program = self.fetch(Refuses())
        error = self.assertRaises(NotSerializable, codec.encode_program, program, {"mapper": program})
        self.assertIn("uses the global name 'thing', a tests.test_codec.Refuses,", str(error))
        self.assertIn("RuntimeError('not me')", str(error))
        self.assertIsInstance(error.__cause__, RuntimeError)

    def test_tooDeep(self) -> None:
        """
        Data that is nested too deeply is refused, in programs and values, with a message of reasonable length.
        """
        deep: list[Any] = []
        for _ in range(50_000):
            deep = [deep]
        for message in (self.refused(self.fetch(deep)), self.unsent([1, deep])):
            self.assertIn("nested too deeply", message)
            self.assertLess(len(message), 1000)

    def unsent(self, value: object) -> str:
        """
        The message for a record or a result.
        """
        return str(self.assertRaises(NotSerializable, pair(len)[0].dumps, value))

    def test_values(self) -> None:
        """
        For a value the message has its type; for a list the place of the first item that can't be sent, and its type.
        """
        lock = threading.Lock()
        self.assertTrue(self.unsent(lock).startswith("a _thread.lock, can't be sent to another process: "))
        self.assertTrue(self.unsent([1, 2, {"a": lock}, lock]).startswith("item 2, a dict, can't be sent"))
        self.assertTrue(self.unsent((1, lock.acquire)).startswith("item 1, a builtin_function_or_method"))
        self.assertIn("RuntimeError('not me')", self.unsent([Refuses()]))
        self.assertIn("uses the closure variable 'lock', a _thread.lock", self.unsent([1, lambda: lock]))

    def test_nameThatIsNotThere(self) -> None:
        """
        A program's object that goes by a name which only this process knows is refused.
        """

        printed = script(
            """
            import functools
            class Sentinel:
                def __reduce__(self): return "MISSING"
            MISSING = Sentinel()
            for mapper in [lambda x: MISSING, functools.partial(print, MISSING)]:
                try: in_worker(mapper, 0)
                except NotSerializable as error: print(error)
            """
        )
        self.assertIn("mapper '<lambda>' uses the global name 'MISSING', a __main__.Sentinel, which can't", printed)
        self.assertIn("mapper partial of 'print' has the argument 0, a __main__.Sentinel, which can't", printed)

    def test_usableAfterwards(self) -> None:
        """
        A codec that refused something goes on working.
        """
        coordinator, worker, _ = pair(len)
        self.assertRaises(NotSerializable, coordinator.dumps, [threading.Lock()])
        self.assertEqual(worker.loads(coordinator.dumps([1])), [1])


class LoadingTests(SynchronousTestCase):
    """
    Errors in loading are the errors themselves.
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

    def test_outsideOfACodec(self) -> None:
        """
        A definition that is unpickled by other means says what it wants.
        """

        class Local:
            pass

        codec = Codec()
        codec.encode_program(lambda: Local, {})
        self.assertRaises(pickle.UnpicklingError, pickle.loads, codec.definitions[0])


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
