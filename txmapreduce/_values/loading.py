"""
What is named in pickles that L{txmapreduce._values.codec} makes: the functions that put together what goes by value.

Functions, classes, enum members and cells are made empty first and filled afterwards, so that any of them may refer to
any other.

A class that goes by value has a token. The side that loads it keeps it under that token, in L{Classes}, so it is one
class for the whole run, and an instance that comes back is one of the class it started from.
"""

from __future__ import annotations

import abc
import builtins
import enum
import importlib
import itertools
import os
import pickle
import threading
import types
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

Buffer = bytes | bytearray | memoryview


class Classes:
    """
    The classes of one run that go by value, as one side knows them.

    @ivar by_token: the classes.
    @ivar shared: the tokens that the other side has, or will have before it needs them.
    """

    def __init__(self, prefix: str = "") -> None:
        """
        @param prefix: how the tokens that are given here begin. Default: unlike those of any other.
        """
        self.by_token: dict[str, type] = {}
        self.shared: set[str] = set()
        self._tokens: dict[int, str] = {}  # by the id of the class, which C{by_token} keeps alive
        self._empty: set[str] = set()  # the tokens of those that are made, and not filled yet
        self._prefix = prefix or os.urandom(16).hex()
        self._counts: Counter[str] = Counter()

    def __contains__(self, cls: type) -> bool:
        return id(cls) in self._tokens

    def token(self, cls: type) -> str:
        """
        The token of a class, which it gets at the first call.
        """
        token = self._tokens.get(id(cls))
        if token is not None:
            return token
        name = f"{self._prefix}.{cls.__module__}.{cls.__qualname__}"
        self._counts[name] += 1
        return self._register(f"{name}.{self._counts[name]}", cls)

    def add_empty(self, token: str, cls: type) -> None:
        """
        Know a class that is being loaded.
        """
        self._empty.add(self._register(token, cls))

    def is_empty(self, cls: type) -> bool:
        return self._tokens.get(id(cls)) in self._empty

    def filled(self, cls: type) -> None:
        self._empty.discard(self._tokens[id(cls)])

    def since(self, known: int) -> list[str]:
        """
        The tokens of all classes but the first C{known} ones.
        """
        return list(self.by_token)[known:]

    def forget(self, tokens: Sequence[str]) -> None:
        for token in tokens:
            self._tokens.pop(id(self.by_token.pop(token)), None)
            self._empty.discard(token)

    def _register(self, token: str, cls: type) -> str:
        self.by_token[token] = cls
        self._tokens[id(cls)] = token
        return token


class _Load(NamedTuple):
    classes: Classes
    buffers: Sequence[Buffer]


class _UnderWay(threading.local):
    now: _Load | None = None


_under_way = _UnderWay()


def load(classes: Classes, buffers: Sequence[Buffer], *, writable: bool = True) -> Any:
    """
    Load a pickle, the first of C{buffers}, with the others beside it.

    @param writable: copy those of the others that are read-only.
    @raise Exception: whatever loading raises, unchanged. The classes that it brought are forgotten: some may be empty.
    """
    outer, known = _under_way.now, len(classes.by_token)
    _under_way.now = _Load(classes, buffers)
    try:
        beside = itertools.islice(buffers, 1, None)
        return pickle.loads(buffers[0], buffers=map(_writable, beside) if writable else beside)
    except BaseException:
        classes.forget(classes.since(known))
        raise
    finally:
        _under_way.now = outer


def _writable(buffer: Buffer) -> Buffer:
    return bytearray(buffer) if memoryview(buffer).readonly else buffer


def _current() -> _Load:
    if _under_way.now is None:
        raise pickle.UnpicklingError("this can be loaded by txmapreduce's Codec only")
    return _under_way.now


# Classes and enum members


def known_class(token: str) -> type:
    try:
        return _current().classes.by_token[token]
    except KeyError:
        raise pickle.UnpicklingError("this refers to a class whose definition has not been loaded") from None


def make_class(token: str, metaclass: type, name: str, bases: tuple[type, ...], start: dict[str, Any]) -> type:
    classes = _current().classes
    if token not in classes.by_token:
        maker: Any = abc.ABCMeta if issubclass(metaclass, abc.ABCMeta) else type
        with _quiet_bases(bases, classes):
            classes.add_empty(token, maker.__new__(metaclass, name, bases, start))
    return classes.by_token[token]


@contextmanager
def _quiet_bases(bases: tuple[type, ...], classes: Classes) -> Iterator[None]:
    """
    Keep the C{__init_subclass__} of classes that went by value from running again. It may need arguments that nobody
    kept, and it has done its work.
    """
    everywhere = dict.fromkeys(base for start in bases for base in start.__mro__ if base in classes)
    owners = {base: vars(base)["__init_subclass__"] for base in everywhere if "__init_subclass__" in vars(base)}
    for owner in owners:
        type.__setattr__(owner, "__init_subclass__", classmethod(lambda cls: None))
    try:
        yield
    finally:
        for owner, method in owners.items():
            type.__setattr__(owner, "__init_subclass__", method)


def fill_class(cls: type, parts: tuple[dict[str, Any], list[Any]]) -> None:
    classes = _current().classes
    if not classes.is_empty(cls):
        return
    classes.filled(cls)
    for name, value in parts[0].items():
        type.__setattr__(cls, name, value)  # a metaclass (that of Enum, for one) may not like it
    for sub in parts[1]:
        abc.ABCMeta.register(cls, sub)  # type: ignore[arg-type]


def make_member(cls: Any, base: Any, arguments: tuple[Any, ...], value: object) -> Any:
    return base.__new__(cls, *arguments) if _current().classes.is_empty(cls) else cls(value)


def fill_member(member: enum.Enum, state: dict[str, Any]) -> None:
    if _current().classes.is_empty(type(member)):
        member.__dict__.update(state)


# Functions


def make_function(code: types.CodeType, namespace: Any, name: str, closure: Any) -> types.FunctionType:
    names = vars(namespace) if isinstance(namespace, types.ModuleType) else namespace
    names.setdefault("__builtins__", builtins)
    return types.FunctionType(code, names, name, None, closure)


def fill_function(function: types.FunctionType, state: dict[str, Any]) -> None:
    for name in state.pop("imports"):
        importlib.import_module(name)
    function.__globals__.update(state.pop("globals"))
    function.__dict__.update(state.pop("__dict__", {}))
    for name, value in state.items():
        setattr(function, name, value)
    function.__globals__.update(_set_up.get(function.__module__, {}))


_set_up: dict[str, dict[str, Any]] = {}
"""Globals that the pool's initializer has set in this process, by module."""


@contextmanager
def setting_up(function: Any) -> Iterator[None]:
    """
    While C{function} runs, note the globals that it sets. Functions of the same module that go by value have globals of
    their own, so what the initializer sets for them is given to those that are loaded later.
    """
    names = getattr(function, "__globals__", {})
    before = dict(names)
    yield
    changed = {name: value for name, value in names.items() if name not in before or before[name] is not value}
    _set_up.setdefault(getattr(function, "__module__", ""), {}).update(changed)


def make_cell() -> types.CellType:
    return types.CellType()


def fill_cell(cell: types.CellType, contents: tuple[Any]) -> None:
    cell.cell_contents = contents[0]


def make_type_variable(kind: Any, name: str, constraints: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return kind(name, *constraints, **options)


# Values


def take_buffer(kind: type, place: int) -> Any:
    """
    The bytes or bytearray that lies C{place} buffers before the payload's end.
    """
    buffer = _current().buffers[-place]
    return buffer if type(buffer) is kind else kind(buffer)


def make_exception(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """
    Put together an exception without its constructor, which may want other arguments. That of the built-in exception it
    derives from is asked: some (UnicodeDecodeError, for one) keep there what their text is made of.
    """
    error = cls.__new__(cls, *args)
    built_in: Any = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    with suppress(TypeError):
        built_in.__init__(error, *args)
    error.args = args
    error.__dict__.update(state)
    return error
