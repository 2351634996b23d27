"""
Functions and classes that the other process can't import: those of C{__main__}, closures, lambdas, notebook cells.

They go by value, from dill, with the rules of L{_ByValue}. Everything that can be imported goes by name.

A function takes along only the globals that its code names. Functions of one pickle that share their globals share them
on the other side, too. Globals of modules that can be imported stay there.
"""

from __future__ import annotations

import abc
import dis
import enum
import functools
import importlib
import io
import marshal
import pickle
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from . import loading
from .loading import Classes

__all__ = ["ATOMS", "NAMED", "dump_by_value", "globals_of", "importable", "is_class"]

ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes))

NAMED = (
    type, types.FunctionType, type(functools.lru_cache(lambda: None)), typing.TypeVar, typing.ParamSpec, typing.NewType,
)  # fmt: skip
"""The types of what pickle sends as a name and nothing else."""

_TYPE_NAMES = {value: name for name, value in vars(types).items() if isinstance(value, type)}
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement (or by C code that works like one)
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_REFUSED = (
    type(threading.Lock()), type(threading.RLock()), threading.Condition, threading.Event, threading.Semaphore,
    threading.Barrier, threading.Thread, threading.local, io.IOBase, types.GeneratorType, types.CoroutineType,
    types.AsyncGeneratorType, types.FrameType, types.TracebackType,
)  # fmt: skip
"""What dill would copy, or fail on without a word that helps: each belongs to one process."""

_MODULE = ("__name__", "__package__", "__file__")
_FUNCTION_STATE = (
    "__defaults__", "__kwdefaults__", "__doc__", "__annotations__", "__module__", "__qualname__", "__dict__",
    "__type_params__",
)  # fmt: skip


def dump_by_value(obj: object, classes: Classes) -> tuple[bytes, list[str]]:
    """
    Pickle C{obj} and all that it leads to and that can't be imported.

    @return: the pickle, and the tokens of the classes that it defines.
    @raise Exception: whatever dill or the user's code raises, unchanged.
    """
    file = io.BytesIO()
    pickler = _dill_pickler()(file, classes)
    with _deeper_recursion():
        pickler.dump(obj)
    return file.getvalue(), pickler.written


# What the other side can import


def importable(obj: Any) -> bool:
    """
    Whether a fresh process finds this very object under its module and name.
    """
    module, name = getattr(obj, "__module__", None), _name_of(obj)
    if not isinstance(module, str) or not isinstance(name, str) or not _findable(module):
        return False
    try:
        return functools.reduce(getattr, name.split("."), sys.modules[module]) is obj
    except Exception:  # a module that loads its parts at need may raise anything
        return False


def _name_of(obj: Any) -> Any:
    return getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)


_found: dict[str, tuple[object, bool]] = {}


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


def is_class(obj: Any) -> bool:
    """
    Whether this was made by a class statement. (isinstance won't do: C{list[int]} says that it is a type.)
    """
    return issubclass(type(obj), type) and bool(obj.__flags__ & _HEAP_TYPE)


# The pickler


class _ByValue:
    """
    What differs from dill's own pickler, which this is mixed into.

    dill's own way loops on some functions, gives two functions two copies of a global, and takes modules along whole.
    """

    memo: dict[int, Any]

    def __init__(self, file: Any, classes: Classes) -> None:
        super().__init__(file, protocol=5, byref=False, recurse=True)  # type: ignore[call-arg]
        self._classes = classes
        self._namespaces: dict[int, object] = {}
        self.written: list[str] = []  # the tokens of the classes that went by value

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind in ATOMS:
            return NotImplemented
        if issubclass(kind, NAMED) and importable(obj):
            return _name_of(obj)
        if kind is types.FunctionType:
            return self._reduce_function(obj)
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if kind in _REDUCERS:
            return _REDUCERS[kind](obj)
        if isinstance(obj, enum.Enum):
            return self._reduce_member(obj)
        return _reduce_resource(obj) if isinstance(obj, _REFUSED) else NotImplemented

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = pickle.whichmodule(obj, name)  # type: ignore[attr-defined]
        if not _findable(module):
            raise pickle.PicklingError(f"it is known by its name {name!r} in {module!r} only")
        super().save_global(obj, name)  # type: ignore[misc]

    def _reduce_class(self, cls: type) -> Any:
        if cls in _TYPE_NAMES:
            return getattr, (types, _TYPE_NAMES[cls])
        if not is_class(cls):
            return NotImplemented  # one of the interpreter's own, for which dill may have a name
        token = self._classes.token(cls)
        if token in self._classes.shared:
            return loading.known_class, (token,)
        self.written.append(token)
        start, rest = _class_parts(cls)
        arguments = (token, type(cls), cls.__name__, cls.__bases__, start)
        return loading.make_class, arguments, rest, None, None, loading.fill_class

    def _reduce_member(self, member: enum.Enum) -> Any:
        cls = type(member)
        if importable(cls) or self._classes.token(cls) in self._classes.shared:
            return NotImplemented
        base = _solid_base(cls)
        arguments = (cls, base, _arguments_of_new(base, member), member._value_)
        return loading.make_member, arguments, dict(vars(member)), None, None, loading.fill_member

    def _reduce_function(self, function: types.FunctionType) -> Any:
        code, used = function.__code__, globals_of(function)
        state = {name: value for name in _FUNCTION_STATE if (value := getattr(function, name, None))}
        state["globals"], state["imports"] = used, _submodules(code, used)
        start = (code, self._namespace(function), function.__name__, function.__closure__)
        return loading.make_function, start, state, None, None, loading.fill_function

    def _namespace(self, function: types.FunctionType) -> object:
        """
        What stands for the function's globals: the module, or a dict that all functions with these globals share.
        """
        names = function.__globals__
        if id(names) not in self._namespaces:
            self._namespaces[id(names)] = _home(function) or {name: names[name] for name in _MODULE if name in names}
        return self._namespaces[id(names)]


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


# The other types that are not left to dill


def _reduce_container(obj: Any) -> Any:
    """
    Hand long plain data to the C pickler, which is fifty times as fast.
    """
    if len(obj) < 100 or not ATOMS.issuperset(map(type, obj)):
        return NotImplemented
    if type(obj) is dict and not ATOMS.issuperset(map(type, obj.values())):
        return NotImplemented
    return pickle.loads, (pickle.dumps(obj, 5),)


def _reduce_resource(obj: Any) -> Any:
    for name in ("stdin", "stdout", "stderr"):
        if obj is getattr(sys, name):
            return getattr, (sys, name)
    if isinstance(obj, (io.StringIO, io.BytesIO)):
        return NotImplemented
    raise pickle.PicklingError("it belongs to this process")


def _reduce_module(module: types.ModuleType) -> Any:
    if not _findable(module.__name__):
        raise pickle.PicklingError("the workers can't import it")
    return importlib.import_module, (module.__name__,)


def _reduce_cell(cell: types.CellType) -> Any:
    try:
        contents = (cell.cell_contents,)
    except ValueError:
        return loading.make_cell, ()
    return loading.make_cell, (), contents, None, None, loading.fill_cell


def _reduce_code(code: types.CodeType) -> Any:
    # Both sides are the same Python. dill's own way makes the worker import dill.
    return marshal.loads, (marshal.dumps(code),)


def _reduce_cached_property(obj: Any) -> Any:
    # Until Python 3.12 it has a lock.
    return type(obj), (obj.func,), {name: value for name, value in vars(obj).items() if name != "lock"}


def _reduce_type_variable(obj: Any) -> Any:
    names = ("__bound__", "__covariant__", "__contravariant__", "__infer_variance__")
    options = {name.strip("_"): value for name in names if (value := getattr(obj, name, None))}
    return loading.make_type_variable, (type(obj), obj.__name__, getattr(obj, "__constraints__", ()), options)


def _reduce_new_type(obj: Any) -> Any:
    return typing.NewType, (obj.__name__, obj.__supertype__)


_REDUCERS: dict[type, Callable[[Any], Any]] = {
    **dict.fromkeys((list, tuple, set, frozenset, dict), _reduce_container),
    types.ModuleType: _reduce_module,
    types.CellType: _reduce_cell,
    types.CodeType: _reduce_code,
    functools.cached_property: _reduce_cached_property,
    typing.TypeVar: _reduce_type_variable,
    typing.ParamSpec: _reduce_type_variable,
    typing.NewType: _reduce_new_type,
}


# The parts of a function


def _home(function: types.FunctionType) -> types.ModuleType | None:
    """
    The module whose globals these are, if a worker can import it.
    """
    name = function.__globals__.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) and _findable(name) else None
    return module if getattr(module, "__dict__", None) is function.__globals__ else None


def globals_of(function: types.FunctionType) -> dict[str, Any]:
    """
    The globals that a function takes along.
    """
    if _home(function):
        return {}
    names = function.__globals__
    return {name: names[name] for name in sorted(global_names(function.__code__)) if name in names}


def global_names(code: types.CodeType) -> set[str]:
    """
    The globals that some code uses.
    """
    steps = (step for part in _with_inner(code) for step in dis.get_instructions(part))
    return {step.argval for step in steps if "GLOBAL" in step.opname or step.opname == "LOAD_NAME"}


def _submodules(code: types.CodeType, used: Mapping[str, Any]) -> list[str]:
    """
    C{import a.b} binds C{a} alone, so C{a.b} has to be asked for.
    """
    packages = tuple(value.__name__ + "." for value in used.values() if hasattr(value, "__path__"))
    if not packages:
        return []
    words = {name for part in _with_inner(code) for name in part.co_names}
    return [name for name in list(sys.modules) if name.startswith(packages) and words.issuperset(name.split(".")[1:])]


def _with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    """
    The code, and that of the functions and classes inside it.
    """
    yield code
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _with_inner(inner)


# The parts of a class


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
