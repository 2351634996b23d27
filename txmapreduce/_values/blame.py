"""
What to say when something can't be sent: which name, inside which of the user's functions, leads to which object.

The pickler knows the objects that it was in the middle of, but not the names by which the user knows them. So this
walks from the user's objects the way that the pickler goes, and looks which of those it meets.
"""

from __future__ import annotations

import functools
import pickle
import reprlib
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..errors import NotSerializable
from .byvalue import NAMED, globals_of, importable, is_class

__all__ = ["blame_program", "blame_value"]


def blame_program(error: Exception, what: Mapping[str, object]) -> str:
    """
    The message for an error in pickling: the innermost object that the user's objects lead to, and the way there.

    @param what: the user's objects, by the names of the public parameters.
    """
    phrases = _reach(what)
    for obj in reversed(_being_saved(error)):
        if id(obj) in phrases:
            return f"{phrases[id(obj)][0]}, {_a(obj)}, which can't be sent to another process: {_advice(error)}"
    return f"{', '.join(what)}: can't be sent to another process: {_reason(error)}"


def blame_value(error: BaseException, value: object, dump: Callable[[object], object]) -> str:
    """
    The message for a record or a result. For a list it says which item can't be sent.

    @param dump: raises when an item can't.
    """
    where = _a(value)
    if type(value) in (list, tuple):
        for index, item in enumerate(typing.cast("Sequence[object]", value)):
            try:
                dump(item)
            except BaseException as reason:
                where, error = f"item {index}, {_a(item)}", reason
                break
    if isinstance(error, NotSerializable):
        return f"{where}: {error}"
    return f"{where}, can't be sent to another process: {_reason(error)}"


def _a(obj: object) -> str:
    kind = type(obj)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error) if isinstance(error, (pickle.PicklingError, TypeError)) else repr(error)


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


# The ways there


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
    if isinstance(obj, NAMED) and importable(obj):
        return
    if isinstance(obj, types.FunctionType):
        yield from _function_parts(obj)
    elif isinstance(obj, types.MethodType):
        yield f"is a method of {_a(obj.__self__)}", obj.__self__
        yield "is a method", obj.__func__
    elif isinstance(obj, functools.partial):
        yield f"calls {_label(obj.func)}", obj.func
        arguments = (*enumerate(obj.args), *obj.keywords.items())
        yield from ((f"has the argument {name!r}", value) for name, value in arguments)
    elif isinstance(obj, dict):
        yield from ((f"has the key {reprlib.repr(key)}", value) for key, value in obj.items())
    elif isinstance(obj, (list, tuple, set, frozenset)):
        yield from ((f"holds at place {index}", value) for index, value in enumerate(obj))
    elif isinstance(obj, (staticmethod, classmethod)):
        yield "is a method", obj.__func__
    elif isinstance(obj, property):
        yield from (("has an accessor", value) for value in (obj.fget, obj.fset, obj.fdel))
    yield from ((f"has the attribute {name!r}", value) for name, value in _attributes(obj))
    if not importable(type(obj)):
        yield f"has the class {type(obj).__name__!r}", type(obj)


def _function_parts(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    code = function.__code__
    for name, value in globals_of(function).items():
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
    for cls in filter(is_class, type(obj).__mro__):
        for name, value in vars(cls).items():
            if isinstance(value, types.MemberDescriptorType):
                with suppress(AttributeError):
                    yield name, value.__get__(obj)
