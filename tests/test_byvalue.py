"""
Tests for L{txmapreduce._values.byvalue}.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import sys
import textwrap
import threading
import types
from pathlib import Path
from typing import NewType, TypeVar

from twisted.trial.unittest import SynchronousTestCase

from tests.codec_support import exact, made_up, pair, script, through

T = TypeVar("T")
UserName = NewType("UserName", str)


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
        program = pair(lambda: textwrap)[2]
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

    def test_typeVariables(self) -> None:
        """
        A type variable and a new type that can be imported arrive as themselves, and others as ones like them.
        """
        local = TypeVar("local", bound=int)  # type: ignore[misc]
        for value in (T, UserName):
            self.assertIs(through(value), value)
            self.assertIs(pair(lambda value=value: value)[2](), value)
        result = through(local)
        self.assertEqual((result.__name__, result.__bound__), ("local", int))
