"""
Python values and user functions to bytes and buffers, and back.

Everything that the other process can import goes by name, from the C pickler. What it can't import (functions and
classes of C{__main__}, closures, lambdas, notebook cells) goes by value, from dill, with the rules of L{_ByValue}.

A class that goes by value has a token. The side that loads it keeps it under that token, so it is one class for the
whole run, and an instance that comes back is one of the class it started from. The coordinator puts such classes into
L{Codec.definitions}, each once, and payloads name them by token alone. A class that a worker made up goes by value in
every payload, since the payload may be passed on to a worker that has not seen it.

A function that goes by value takes along only the globals that its code names. Functions of one definition or payload
that share their globals share them on the other side, too. Globals of modules that can be imported stay there.
"""

from __future__ import annotations

import abc
import builtins
import dis
import enum
import functools
import importlib
import io
import itertools
import marshal
import pickle
import reprlib
import sys
import threading
import traceback
import types
import typing
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from txmapreduce.errors import NotSerializable

__all__ = ["Buffer", "Codec"]

Buffer = bytes | bytearray | memoryview

LARGE = 64 * 1024
"""Buffers of this many bytes go beside the pickle and not in it."""

MAX_EXCEPTION = 1024 * 1024
"""An exception that pickles to more than this many bytes does not travel."""

_MAX_LIFTED = 1024
"""Longer lists are not searched for large bytes: they would be larger than any chunk should be."""

_ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes))
_CONTAINERS = frozenset((list, tuple, set, frozenset, dict))
_LRU_CACHE = type(functools.lru_cache(lambda: None))
_NAMED = (types.FunctionType, _LRU_CACHE, typing.TypeVar, typing.ParamSpec, typing.NewType)
_SINGLETON_TYPES = {type(value): value for value in (None, NotImplemented, ...)}
_TYPE_NAMES = {value: name for name, value in vars(types).items() if isinstance(value, type)}
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement (or by C code that works like one)
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_REFUSED = (
    type(threading.Lock()), type(threading.RLock()), threading.Condition, threading.Event, threading.Semaphore,
    threading.Barrier, threading.Thread, threading.local, io.IOBase, types.GeneratorType, types.CoroutineType,
    types.AsyncGeneratorType, types.FrameType, types.TracebackType,
)  # fmt: skip
"""What dill would copy, or fail on without a word that helps: each belongs to one process."""


class Codec:
    """
    The values of one run. Each side (coordinator and worker) has one of its own.

    @ivar definitions: what a worker must L{define}, in this order, before it loads any payload encoded so far. The
        first is the program. Only the coordinator's side has any.
    """

    def __init__(self) -> None:
        self.definitions: list[bytes] = []
        self.classes: dict[str, type] = {}  # by token
        self.defined: set[str] = set()  # the tokens that the other side has, or will have before it needs them
        self.unfilled: set[str] = set()  # the tokens of classes that are being loaded
        self._tokens: dict[int, str] = {}  # by the id of the class, which C{classes} keeps alive
        self._prefix = uuid.uuid4().hex
        self._count = itertools.count()

    # Programs and definitions

    def encode_program(self, program: object, what: Mapping[str, object]) -> None:
        """
        Make C{program} the first definition.

        @param what: the user's objects in it, by the names of the public parameters, for error messages.
        @raise NotSerializable: when a part can't be sent. The message says which name inside which function.
        """
        blob = self._by_name(program)
        if blob is None:
            blob, tokens = self._by_value(program, what)
            self.defined.update(tokens)
        self.definitions.append(blob)

    def define(self, blob: Buffer) -> Any:
        """
        Load one definition.

        @return: the program, when it is the first.
        @raise Exception: whatever loading raises, unchanged: an ImportError, or an error of the user's own code.
        """
        known = len(self.classes)
        value = self._load([blob])
        self.defined.update(list(self.classes)[known:])
        return value

    def token(self, cls: type) -> str:
        """
        The token of a class, which it gets at the first call.
        """
        token = self._tokens.get(id(cls))
        return self.register(f"{self._prefix}.{next(self._count)}", cls) if token is None else token

    def register(self, token: str, cls: type) -> str:
        """
        Know a class by C{token} from now on.
        """
        self.classes[token] = cls
        self._tokens[id(cls)] = token
        return token

    # Values

    def dumps(self, value: object) -> list[Buffer]:
        """
        Encode a value: the pickle, and behind it the large buffers, which are views on the value's own memory.

        @raise NotSerializable: when it can't be sent. For a list the message says which item can't.
        """
        try:
            return self._dump(value)
        except MemoryError:
            raise
        except Exception as error:
            raise self._complaint(value, error) from error

    def loads(self, buffers: Sequence[Buffer]) -> Any:
        """
        Decode what L{dumps} made. Arrays and bytearrays take over writable buffers, and copy read-only ones.

        @raise Exception: whatever loading raises, unchanged: an ImportError, or an error of the user's own code.
        """
        return self._load(buffers)

    def dump_exception(self, error: BaseException) -> bytes | None:
        """
        Encode an exception, without traceback, cause and context.

        @return: C{None} when it does not pickle, would not load with the same type and arguments, or is too large.
        """
        state = dict(vars(error)) if hasattr(error, "__dict__") else {}
        for value in (error, _Rebuilt(type(error), error.args, state)):
            try:
                file = _BoundedFile()
                _Pickler(file, self, None).dump(value)
                if _same_exception(error, self._load([file.getvalue()])):
                    return file.getvalue()
            except KeyboardInterrupt:
                raise
            except BaseException:  # the user's constructor may raise anything
                continue
        return None

    def load_exception(self, data: Buffer) -> BaseException | None:
        """
        Decode what L{dump_exception} made.

        @return: C{None} when that fails, for whatever reason.
        """
        try:
            error = self._load([data])
        except KeyboardInterrupt:
            raise
        except BaseException:  # the user's constructor may raise anything, and the caller has the text anyway
            return None
        return error if isinstance(error, BaseException) else None

    # How it is done

    def reduce_named(self, obj: Any) -> Any:
        """
        How the C pickler sends a class or a function that can't be imported.
        """
        token = self.token(obj) if _is_class(obj) else ""
        if token not in self.defined:
            blob, tokens = self._by_value(obj, {"class" if token else "function": obj})
            if not token or not self.definitions:
                return _load_embedded, (blob,)
            self.definitions.append(blob)
            self.defined.update(tokens)
        return _known_class, (token,)

    def _dump(self, value: object) -> list[Buffer]:
        file, arrays, lifted = io.BytesIO(), list[Buffer](), _Lifted()
        _Pickler(file, self, functools.partial(_keep_in_band, arrays)).dump(lifted.lift(value))
        return [file.getvalue(), *arrays, *reversed(lifted.buffers)]

    def _load(self, buffers: Sequence[Buffer]) -> Any:
        outer, known = _loading.now, len(self.classes)
        _loading.now = (self, buffers)
        try:
            return pickle.loads(buffers[0], buffers=map(_writable, itertools.islice(buffers, 1, None)))
        except BaseException:
            self._forget(list(self.classes)[known:])  # half made, perhaps
            raise
        finally:
            _loading.now = outer

    def _forget(self, tokens: list[str]) -> None:
        for token in tokens:
            self._tokens.pop(id(self.classes.pop(token)), None)
            self.unfilled.discard(token)

    def _by_name(self, program: object) -> bytes | None:
        file = io.BytesIO()
        try:
            _NamesOnlyPickler(file, self, None).dump(program)
        except Exception:  # dill knows more types, and where it fails we can say where
            return None
        # The C pickler asks nobody about objects that reduce to a plain name.
        blob = file.getvalue()
        return None if b"__main__" in blob else blob

    def _by_value(self, obj: object, what: Mapping[str, object]) -> tuple[bytes, list[str]]:
        file = io.BytesIO()
        pickler = _dill_pickler()(file, self)
        try:
            with _deeper_recursion():
                pickler.dump(obj)
        except MemoryError:
            raise
        except Exception as error:
            raise NotSerializable(_explain(error, what)) from error
        return file.getvalue(), pickler.written

    def _complaint(self, value: object, error: Exception) -> NotSerializable:
        where = _a(value)
        if type(value) in (list, tuple):
            for index, item in enumerate(typing.cast("Sequence[object]", value)):
                try:
                    self._dump(item)
                except Exception as reason:
                    where, error = f"item {index}, {_a(item)}", reason
                    break
        if isinstance(error, NotSerializable):
            return NotSerializable(f"{where}: {error}")
        return NotSerializable(f"{where}, can't be sent to another process: {_reason(error)}")


class _Loading(threading.local):
    now: tuple[Codec, Sequence[Buffer]] | None = None


_loading = _Loading()


def _current() -> tuple[Codec, Sequence[Buffer]]:
    if _loading.now is None:
        raise pickle.UnpicklingError("this can be loaded by txmapreduce's Codec only")
    return _loading.now


# The C picklers


class _Pickler(pickle.Pickler):
    """
    The C pickler, which asks us about classes and functions. It asks about instances, too: the answer has to be quick.
    """

    def __init__(self, file: Any, codec: Codec, buffer_callback: Any) -> None:
        super().__init__(file, 5, buffer_callback=buffer_callback)
        self._codec = codec
        self._plain: set[type] = set()

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind in self._plain:
            return NotImplemented
        if not issubclass(kind, (type, *_NAMED)):
            self._plain.add(kind)
            return NotImplemented
        return NotImplemented if obj in _SINGLETON_TYPES or _importable(obj) else self.reduce_named(obj)

    def reduce_named(self, obj: Any) -> Any:
        return self._codec.reduce_named(obj)


class _NamesOnlyPickler(_Pickler):
    """
    The C pickler for programs, which gives up at whatever can't be imported.
    """

    def reduce_named(self, obj: Any) -> Any:
        raise pickle.PicklingError("by value")


class _BoundedFile(io.BytesIO):
    def write(self, data: Any) -> int:
        if self.tell() + len(data) > MAX_EXCEPTION:
            raise pickle.PicklingError("too large")
        return super().write(data)


# Large buffers


def _keep_in_band(arrays: list[Buffer], buffer: pickle.PickleBuffer) -> bool:
    view = buffer.raw()
    if view.nbytes < LARGE:
        return True
    arrays.append(view)
    return False


def _writable(buffer: Buffer) -> Buffer:
    return bytearray(buffer) if memoryview(buffer).readonly else buffer


class _Lifted:
    """
    Takes large bytes and bytearrays out of a list. The pickler would copy them, and knows no other way.

    Their buffers are counted from the end of the payload, so the unpickler takes the arrays' ones from its start.
    """

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self._seen: dict[int, _Large] = {}

    def lift(self, value: object) -> object:
        if _is_large(value):
            return self._swap(value)
        if type(value) is not list or not 0 < len(value) <= _MAX_LIFTED:
            return value
        first = value[0]
        if type(first) is tuple and any(map(_is_large, first)):
            return [tuple(map(self._swap, item)) if type(item) is tuple else item for item in value]
        kinds = set(map(type, value))
        return list(map(self._swap, value)) if bytes in kinds or bytearray in kinds else value

    def _swap(self, item: Any) -> Any:
        if not _is_large(item):
            return item
        if id(item) not in self._seen:
            self.buffers.append(item)
            self._seen[id(item)] = _Large(type(item), len(self.buffers))
        return self._seen[id(item)]


class _Large:
    __slots__ = ("_kind", "_place")

    def __init__(self, kind: type, place: int) -> None:
        self._kind = kind
        self._place = place

    def __reduce__(self) -> Any:
        return _large, (self._kind, self._place)


def _is_large(item: Any) -> bool:
    return type(item) in (bytes, bytearray) and len(item) >= LARGE


def _large(kind: type, place: int) -> Any:
    buffer = _current()[1][-place]
    return buffer if type(buffer) is kind else kind(buffer)


# What the other side can import


_found: dict[str, tuple[object, bool]] = {}


def _importable(obj: Any, name: str | None = None) -> bool:
    """
    Whether a fresh process finds this very object under its module and name.
    """
    module = getattr(obj, "__module__", None)
    path = name or getattr(obj, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str) or not _findable(module):
        return False
    try:
        return functools.reduce(getattr, path.split("."), sys.modules[module]) is obj
    except Exception:  # a module that loads its parts at need may raise anything
        return False


def _findable(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None or name == "__main__":
        return False
    if _found.get(name, (None,))[0] is not spec:
        _found[name] = (spec, _search(name, spec))
    return _found[name][1]


def _search(name: str, spec: Any) -> bool:
    """
    Ask the finders again: a module that was made up, or loaded from a path of its own, they don't know.
    """
    parent = sys.modules.get(name.rpartition(".")[0])
    for finder in sys.meta_path:
        with suppress(Exception):
            found = finder.find_spec(name, getattr(parent, "__path__", None))
            if found is not None:
                return bool(found.origin == spec.origin)
    return False


def _is_class(obj: Any) -> bool:
    """
    Whether this was made by a class statement. (isinstance won't do: C{list[int]} says that it is a type.)
    """
    return issubclass(type(obj), type) and bool(obj.__flags__ & _HEAP_TYPE)


# By value: writing


class _ByValue:
    """
    What differs from dill's own pickler, which this is mixed into.

    Functions, classes and cells are made empty first and filled afterwards, so that any of them may refer to any
    other. dill's own way loops on some, gives two functions two copies of a global, and takes modules along whole.
    """

    memo: dict[int, Any]

    def __init__(self, file: Any, codec: Codec) -> None:
        super().__init__(file, protocol=5, byref=False, recurse=True)  # type: ignore[call-arg]
        self._codec = codec
        self._namespaces: dict[int, object] = {}
        self.written: list[str] = []  # the tokens of the classes that went by value

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind in _ATOMS:
            return NotImplemented
        if kind in _CONTAINERS:
            return _reduce_container(obj)
        if kind in _REDUCERS:
            return _REDUCERS[kind](self, obj)
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if isinstance(obj, enum.Enum):
            return self._reduce_member(obj)
        return _reduce_resource(obj) if isinstance(obj, _REFUSED) else NotImplemented

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = pickle.whichmodule(obj, name)  # type: ignore[attr-defined]
        if not _findable(module):
            raise pickle.PicklingError(f"it is known by its name {name!r} in {module!r} only")
        super().save_global(obj, name)  # type: ignore[misc]

    def _reduce_class(self, cls: type) -> Any:
        if cls in _SINGLETON_TYPES:
            return type, (_SINGLETON_TYPES[cls],)
        if _importable(cls):
            return cls.__qualname__
        if cls in _TYPE_NAMES:
            return getattr, (types, _TYPE_NAMES[cls])
        if not _is_class(cls):
            return NotImplemented  # one of the interpreter's own, for which dill may have a name
        token = self._codec.token(cls)
        if token in self._codec.defined:
            return _known_class, (token,)
        self.written.append(token)
        start, rest = _class_parts(cls)
        return _make_class, (token, type(cls), cls.__name__, cls.__bases__, start), rest, None, None, _fill_class

    def _reduce_member(self, member: enum.Enum) -> Any:
        cls = type(member)
        if _importable(cls) or self._codec.token(cls) in self._codec.defined:
            return NotImplemented
        base = _solid_base(cls)
        state = dict(vars(member))
        arguments = (cls, base, _arguments_of_new(base, member), member._value_)
        return _make_member, arguments, state, None, None, _fill_member

    def reduce_function(self, function: types.FunctionType) -> Any:
        if _importable(function):
            return function.__qualname__
        code, used = function.__code__, _globals_of(function)
        state = {name: value for name in _FUNCTION_STATE if (value := getattr(function, name, None))}
        state["globals"], state["imports"] = used, _submodules(code, used)
        start = (code, self._namespace(function), function.__name__, function.__closure__)
        return _make_function, start, state, None, None, _fill_function

    def _namespace(self, function: types.FunctionType) -> object:
        """
        What stands for the function's globals: the module, or a dict that all functions with these globals share.
        """
        names = function.__globals__
        if id(names) not in self._namespaces:
            self._namespaces[id(names)] = _home(function) or {name: names[name] for name in _MODULE if name in names}
        return self._namespaces[id(names)]

    def reduce_named(self, obj: Any) -> Any:
        return obj.__qualname__ if _importable(obj, getattr(obj, "__name__", None)) else NotImplemented


_MODULE = ("__name__", "__package__", "__file__")
_FUNCTION_STATE = (
    "__defaults__", "__kwdefaults__", "__doc__", "__annotations__", "__module__", "__qualname__", "__dict__",
    "__type_params__",
)  # fmt: skip


@functools.cache
def _dill_pickler() -> type[Any]:
    """
    The class is made at first need: importing dill takes longer than everything else that a small run does.
    """
    import dill

    stock = typing.cast(Any, pickle._Pickler)
    dispatch = type(dill.Pickler.dispatch)(dill.Pickler.dispatch)
    dispatch[dict] = stock.save_dict  # dill compares each with the globals of __main__
    for kind in (types.WrapperDescriptorType, types.MethodDescriptorType):
        del dispatch[kind]  # pickle can do it, and then the worker need not import dill
    return type("_DillPickler", (_ByValue, dill.Pickler), {"dispatch": dispatch, "save": stock.save})


@contextmanager
def _deeper_recursion() -> Iterator[None]:
    """
    dill's pickler is written in Python and takes ten frames a level: a chain of a hundred functions is too much.
    """
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 5000))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _reduce_container(obj: Any) -> Any:
    """
    Hand long plain data to the C pickler, which is fifty times as fast.
    """
    if len(obj) < 100 or not _ATOMS.issuperset(map(type, obj)):
        return NotImplemented
    if type(obj) is dict and not _ATOMS.issuperset(map(type, obj.values())):
        return NotImplemented
    return pickle.loads, (pickle.dumps(obj, 5),)


def _reduce_resource(obj: Any) -> Any:
    for name in ("stdin", "stdout", "stderr"):
        if obj is getattr(sys, name):
            return getattr, (sys, name)
    if isinstance(obj, (io.StringIO, io.BytesIO)):
        return NotImplemented
    raise pickle.PicklingError("it belongs to this process")


def _reduce_module(pickler: _ByValue, module: types.ModuleType) -> Any:
    if not _findable(module.__name__):
        raise pickle.PicklingError("the workers can't import it")
    return importlib.import_module, (module.__name__,)


def _reduce_cell(pickler: _ByValue, cell: types.CellType) -> Any:
    try:
        contents = (cell.cell_contents,)
    except ValueError:
        return _make_cell, ()
    return _make_cell, (), contents, None, None, _fill_cell


def _reduce_code(pickler: _ByValue, code: types.CodeType) -> Any:
    # Both sides are the same Python. dill's own way makes the worker import dill.
    return marshal.loads, (marshal.dumps(code),)


def _reduce_cached_property(pickler: _ByValue, obj: Any) -> Any:
    # Until Python 3.12 it has a lock.
    return type(obj), (obj.func,), {name: value for name, value in vars(obj).items() if name != "lock"}


def _reduce_type_variable(pickler: _ByValue, obj: Any) -> Any:
    if _importable(obj, obj.__name__):
        return obj.__name__
    names = ("__bound__", "__covariant__", "__contravariant__", "__infer_variance__")
    options = {name.strip("_"): value for name in names if (value := getattr(obj, name, None))}
    return _make_type_variable, (type(obj), obj.__name__, getattr(obj, "__constraints__", ()), options)


def _reduce_new_type(pickler: _ByValue, obj: Any) -> Any:
    return obj.__qualname__ if _importable(obj) else (typing.NewType, (obj.__name__, obj.__supertype__))


_REDUCERS: dict[type, Callable[[Any, Any], Any]] = {
    types.FunctionType: _ByValue.reduce_function,
    _LRU_CACHE: _ByValue.reduce_named,
    types.ModuleType: _reduce_module,
    types.CellType: _reduce_cell,
    types.CodeType: _reduce_code,
    functools.cached_property: _reduce_cached_property,
    typing.TypeVar: _reduce_type_variable,
    typing.ParamSpec: _reduce_type_variable,
    typing.NewType: _reduce_new_type,
}


def _home(function: types.FunctionType) -> types.ModuleType | None:
    """
    The module whose globals these are, if a worker can import it.
    """
    name = function.__globals__.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) and _findable(name) else None
    return module if getattr(module, "__dict__", None) is function.__globals__ else None


def _globals_of(function: types.FunctionType) -> dict[str, Any]:
    """
    The globals that a function takes along.
    """
    if _home(function):
        return {}
    names = function.__globals__
    return {name: names[name] for name in sorted(_global_names(function.__code__)) if name in names}


def _global_names(code: types.CodeType) -> set[str]:
    names = {i.argval for i in dis.get_instructions(code) if "GLOBAL" in i.opname or i.opname == "LOAD_NAME"}
    return names.union(*(_global_names(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


def _submodules(code: types.CodeType, used: Mapping[str, Any]) -> list[str]:
    """
    C{import a.b} binds C{a} alone, so C{a.b} has to be asked for.
    """
    packages = tuple(value.__name__ + "." for value in used.values() if hasattr(value, "__path__"))
    if not packages:
        return []
    words = _words(code)
    return [name for name in list(sys.modules) if name.startswith(packages) and words.issuperset(name.split(".")[1:])]


def _words(code: types.CodeType) -> set[str]:
    return set(code.co_names).union(*(_words(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


def _class_parts(cls: type) -> tuple[dict[str, Any], tuple[dict[str, Any], list[Any]]]:
    """
    What a class is made with, and what it is filled with: its attributes, and for an ABC what registered with it.
    """
    own = vars(cls)
    start = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    start |= {name: own[name] for name in ("__slots__", "__orig_bases__") if name in own}
    skipped = {*start, "__dict__", "__weakref__", "_abc_impl"}
    rest = {
        name: value
        for name, value in own.items()
        if name not in skipped and not (isinstance(value, _DESCRIPTORS) and value.__objclass__ is cls)
    }
    registered = abc._get_dump(cls)[0] if isinstance(cls, abc.ABCMeta) else ()  # type: ignore[attr-defined]
    return start, (rest, [sub for reference in registered if (sub := reference()) is not None])


def _solid_base(cls: type) -> Any:
    return next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE)


def _arguments_of_new(base: Any, member: object) -> tuple[Any, ...]:
    if base is object:
        return ()
    get = getattr(base, "__getnewargs__", None)
    return tuple(get(member) if get else base.__reduce__(member)[1])


# By value: loading. Everything here is named in pickles.


def _load_embedded(blob: bytes) -> Any:
    return pickle.loads(blob)


def _known_class(token: str) -> type:
    try:
        return _current()[0].classes[token]
    except KeyError:
        raise pickle.UnpicklingError("this refers to a class whose definition has not been loaded") from None


def _make_class(token: str, metaclass: type, name: str, bases: tuple[type, ...], start: dict[str, Any]) -> type:
    codec = _current()[0]
    if token not in codec.classes:
        maker: Any = abc.ABCMeta if issubclass(metaclass, abc.ABCMeta) else type
        with _quiet_bases(bases):
            codec.register(token, maker.__new__(metaclass, name, bases, start))
        codec.unfilled.add(token)
    return codec.classes[token]


@contextmanager
def _quiet_bases(bases: tuple[type, ...]) -> Iterator[None]:
    """
    Keep C{__init_subclass__} from running again. It may need arguments that nobody kept, and it has done its work.
    """
    owners = {
        base: vars(base)["__init_subclass__"]
        for start in bases
        for base in start.__mro__
        if "__init_subclass__" in vars(base) and not _findable(base.__module__)
    }
    for owner in owners:
        type.__setattr__(owner, "__init_subclass__", classmethod(lambda cls: None))
    try:
        yield
    finally:
        for owner, method in owners.items():
            type.__setattr__(owner, "__init_subclass__", method)


def _fill_class(cls: type, parts: tuple[dict[str, Any], list[Any]]) -> None:
    codec = _current()[0]
    if codec.token(cls) not in codec.unfilled:
        return
    codec.unfilled.discard(codec.token(cls))
    for name, value in parts[0].items():
        type.__setattr__(cls, name, value)  # a metaclass (that of Enum, for one) may not like it
    for sub in parts[1]:
        abc.ABCMeta.register(cls, sub)  # type: ignore[arg-type]


def _make_member(cls: Any, base: Any, arguments: tuple[Any, ...], value: object) -> Any:
    codec = _current()[0]
    return base.__new__(cls, *arguments) if codec.token(cls) in codec.unfilled else cls(value)


def _fill_member(member: enum.Enum, state: dict[str, Any]) -> None:
    codec = _current()[0]
    if codec.token(type(member)) in codec.unfilled:
        member.__dict__.update(state)


def _make_function(code: types.CodeType, namespace: Any, name: str, closure: Any) -> types.FunctionType:
    names = vars(namespace) if isinstance(namespace, types.ModuleType) else namespace
    names.setdefault("__builtins__", builtins)
    return types.FunctionType(code, names, name, None, closure)


def _fill_function(function: types.FunctionType, state: dict[str, Any]) -> None:
    for name in state.pop("imports"):
        importlib.import_module(name)
    function.__globals__.update(state.pop("globals"))
    function.__dict__.update(state.pop("__dict__", {}))
    for name, value in state.items():
        setattr(function, name, value)


def _make_cell() -> types.CellType:
    return types.CellType()


def _fill_cell(cell: types.CellType, contents: tuple[Any]) -> None:
    cell.cell_contents = contents[0]


def _make_type_variable(kind: Any, name: str, constraints: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return kind(name, *constraints, **options)


# Exceptions


class _Rebuilt:
    """
    Pickles as an exception that is put together without its constructor, which may want other arguments.
    """

    def __init__(self, *parts: Any) -> None:
        self._parts = parts

    def __reduce__(self) -> Any:
        return _rebuild_exception, self._parts


def _rebuild_exception(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _same_exception(one: BaseException, other: Any) -> bool:
    if type(other) is not type(one) or len(one.args) != len(other.args):
        return False
    pairs = zip(one.args, other.args, strict=True)
    return all(type(a) is type(b) and (type(a) not in _ATOMS or repr(a) == repr(b)) for a, b in pairs)


# What can't be sent, and where it is


def _a(obj: object) -> str:
    kind = type(obj)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error) if isinstance(error, (pickle.PicklingError, TypeError)) else repr(error)


def _explain(error: Exception, what: Mapping[str, object]) -> str:
    """
    Find the innermost object that was being pickled and that the user's objects lead to by names.
    """
    phrases = _reach(what)
    for obj in reversed(_being_saved(error)):
        if id(obj) in phrases:
            return f"{phrases[id(obj)][0]}, {_a(obj)}, which can't be sent to another process: {_advice(error)}"
    return f"{', '.join(what)}: can't be sent to another process: {_reason(error)}"


def _advice(error: Exception) -> str:
    if isinstance(error, (pickle.PicklingError, TypeError)):
        return "create it inside the function, or in the workers' initializer"
    return _reason(error)


def _being_saved(error: Exception) -> list[object]:
    """
    The objects that the pickler was in the middle of, the outermost first, as the traceback's frames tell.
    """
    save = typing.cast(Any, pickle._Pickler).save.__code__
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return [frame.f_locals["obj"] for frame in frames if frame.f_code is save]


def _reach(what: Mapping[str, object]) -> dict[int, tuple[str, object]]:
    """
    By id: everything that the user's objects lead to, the nearest way there in words, and what keeps the id its own.
    """
    queue = [(f"{name} {_label(obj)}", "", obj) for name, obj in what.items()]
    reached = {id(obj): (text, obj) for text, _, obj in queue}
    for text, joint, obj in queue:  # which grows
        for phrase, part in _parts(obj):
            if id(part) not in reached and len(text) < 500 and len(queue) < 10_000:
                reached[id(part)] = (f"{text}{joint} {phrase}", part)
                queue.append((reached[id(part)][0], ", which", part))
    return reached


def _label(obj: object) -> str:
    if isinstance(obj, functools.partial):
        return f"partial of {_label(obj.func)}"
    name = getattr(obj, "__qualname__", None)
    return repr(name.rpartition("<locals>.")[2]) if isinstance(name, str) else _a(obj)


def _parts(obj: Any) -> Iterator[tuple[str, object]]:
    """
    The objects that go where C{obj} goes, each with how it is called there.
    """
    if isinstance(obj, (types.ModuleType, type, *_NAMED)) and _importable(obj):
        return
    if isinstance(obj, types.FunctionType):
        yield from _function_parts(obj)
    elif isinstance(obj, types.MethodType):
        yield f"is a method of {_a(obj.__self__)}", obj.__self__
        yield "is a method", obj.__func__
    elif isinstance(obj, functools.partial):
        yield f"calls {_label(obj.func)}", obj.func
        yield from ((f"has the argument {index}", value) for index, value in enumerate(obj.args))
        yield from ((f"has the argument {name!r}", value) for name, value in obj.keywords.items())
    elif isinstance(obj, dict):
        yield from ((f"has the key {reprlib.repr(key)}", value) for key, value in obj.items())
    elif isinstance(obj, (list, tuple, set, frozenset)):
        yield from ((f"holds at place {index}", value) for index, value in enumerate(obj))
    elif isinstance(obj, (staticmethod, classmethod)):
        yield "is a method", obj.__func__
    elif isinstance(obj, property):
        yield from (("has an accessor", value) for value in (obj.fget, obj.fset, obj.fdel))
    yield from ((f"has the attribute {name!r}", value) for name, value in _attributes(obj))
    if not _importable(type(obj)):
        yield f"has the class {type(obj).__name__!r}", type(obj)


def _function_parts(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    code = function.__code__
    for name, value in _globals_of(function).items():
        yield f"uses the global name {name!r}", value
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        with suppress(ValueError):
            yield f"uses the closure variable {name!r}", cell.cell_contents
    defaults = function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    for name, value in (*zip(names, defaults, strict=False), *(function.__kwdefaults__ or {}).items()):
        yield f"has the default argument {name!r}", value


def _attributes(obj: Any) -> Iterator[tuple[str, object]]:
    if isinstance(obj, types.ModuleType):
        return
    yield from list(getattr(obj, "__dict__", {}).items())  # other threads may be adding to it
    for cls in filter(_is_class, type(obj).__mro__):
        for name, value in vars(cls).items():
            if isinstance(value, types.MemberDescriptorType):
                with suppress(AttributeError):
                    yield name, value.__get__(obj)
