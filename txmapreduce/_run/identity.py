"""
What data and functions are, as digests that are the same in every process and differ where the data or the code do.

A digest is taken of a pickle without a memo, so it does not tell one object that stands in two places from two equal
ones; sets are put in order, since theirs depends on the process. Functions count by what they do: bytecode, constants,
names, defaults, what they have closed over, and the functions, classes and values of their own module that they use.
Files and line numbers don't count.

Limits: classes among data count by name. What can't be pickled counts by its type where a function refers to it, and is
an error where it is data. Objects that refer to themselves are pickled with a memo.
"""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from .._values.broadcast import Broadcast
from .._values.byvalue import global_names

__all__ = ["digest_of", "digest_of_function"]

_SIZE = 16


def digest_of(value: object) -> bytes:
    """
    The digest of some data.

    @raise Exception: it can't be pickled.
    """
    return _digest(value, _Data)


def digest_of_function(value: object) -> bytes:
    """
    The digest of a function, or of any object that a job is made of.
    """
    seen: dict[int, int] = {}
    return _digest(value, lambda file: _Code(file, seen))


def _digest(value: object, pickler: Any) -> bytes:
    for fast in (True, False):
        file = io.BytesIO()
        writer = pickler(file)
        writer.fast = fast
        try:
            writer.dump(value)
        except (ValueError, RecursionError):  # it refers to itself
            if fast:
                continue
            raise
        return blake2b(file.getbuffer(), digest_size=_SIZE).digest()
    raise AssertionError("unreachable")


class _Data(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 5)

    def persistent_id(self, obj: Any) -> Any:
        """
        What stands for an object whose pickle depends on the process.
        """
        kind = type(obj)
        if kind is set or kind is frozenset:
            return (kind.__name__, sorted(_digest(item, self._again) for item in obj))
        if isinstance(obj, type):
            return ("class", obj.__module__, obj.__qualname__)
        if kind is Broadcast:
            return ("broadcast", obj.value)
        if kind is memoryview:
            return ("memoryview", bytes(obj))
        return None

    def _again(self, file: io.BytesIO) -> _Data:
        return type(self)(file)


class _Code(_Data):
    """
    Looks into functions and classes.

    @param seen: the number of each that has been looked into, by its id: the second time that stands for it.
    """

    def __init__(self, file: io.BytesIO, seen: dict[int, int]) -> None:
        super().__init__(file)
        self._seen = seen

    def _again(self, file: io.BytesIO) -> _Data:
        return _Code(file, self._seen)

    def persistent_id(self, obj: Any) -> Any:
        """
        What stands for an object.
        """
        if isinstance(obj, types.FunctionType):
            return self._once("function", obj, _function_parts)
        if isinstance(obj, type) and obj.__module__.partition(".")[0] not in ("builtins", "txmapreduce"):
            return self._once("class", obj, _class_parts)
        if isinstance(obj, types.CodeType):
            return ("code", *_code_parts(obj))
        if isinstance(obj, types.ModuleType):
            return ("module", obj.__name__)
        return super().persistent_id(obj)

    def _once(self, kind: str, obj: Any, parts: Any) -> Any:
        if id(obj) in self._seen:
            return (kind, self._seen[id(obj)])
        self._seen[id(obj)] = len(self._seen)
        return (kind, [(name, self._part(value)) for name, value in parts(obj)])

    def _part(self, value: Any) -> Any:
        try:
            return _digest(value, self._again)
        except Exception:
            return f"{type(value).__module__}.{type(value).__qualname__}"


def _function_parts(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    yield "code", function.__code__
    yield "defaults", function.__defaults__
    yield "keywords", function.__kwdefaults__
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # it is empty
            yield name, "empty"
    names = function.__globals__
    for name in sorted(global_names(function.__code__) & names.keys()):
        value = names[name]
        foreign = getattr(value, "__module__", function.__module__) != function.__module__
        if foreign and isinstance(value, (type, types.FunctionType)):
            yield name, (value.__module__, value.__qualname__)
        else:
            yield name, value


def _class_parts(cls: type) -> Iterator[tuple[str, Any]]:
    yield "name", (cls.__module__, cls.__qualname__)
    for name, value in sorted(vars(cls).items()):
        value = getattr(value, "__func__", value)
        value = getattr(value, "fget", value)
        if isinstance(value, types.FunctionType):
            if value.__module__ == cls.__module__:
                yield name, value
        elif not name.startswith("__"):
            yield name, value


def _code_parts(code: types.CodeType) -> tuple[Any, ...]:
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    return (code.co_code, code.co_consts, names, counts)
