"""
Python values and user functions to bytes and buffers, and back.

Everything that the other process can import goes by name, from the C pickler. What it can't import goes by value, see
L{txmapreduce._values.byvalue}.

The coordinator puts the classes that go by value into L{Codec.definitions}, each once, and payloads name them by token
alone. A class that a worker made up goes by value in every payload, since the payload may be passed on to a worker that
has not seen it.
"""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import NotSerializable
from .blame import blame_program, blame_value
from .byvalue import ATOMS, NAMED, dump_by_value, importable, is_class
from .loading import Buffer, Classes, known_class, load, make_exception, take_buffer

__all__ = ["LARGE", "Buffer", "Codec", "Pickler"]

LARGE = 64 * 1024
"""Buffers of this many bytes go beside the pickle and not in it."""

MAX_EXCEPTION = 1024 * 1024
"""An exception that pickles to more than this many bytes does not travel."""

_MAX_LIFTED = 1024
"""Longer lists are not searched for large bytes: they would be larger than any chunk should be."""

_ASKED = (*NAMED, types.MethodType, types.ModuleType)
"""The types that the C pickler does not decide about. For the last two Twisted may have told it a way of its own, which
makes the workers load Twisted, and fails on class methods."""

_SINGLETON_TYPES = frozenset(map(type, (None, NotImplemented, ...)))


class Codec:
    """
    The values of one run. Each side (coordinator and worker) has one of its own.

    @ivar definitions: what a worker must L{define}, in this order, before it loads any payload encoded so far. The
        first is the program. Only the coordinator's side has any.
    @ivar classes: the classes of the run that go by value.
    """

    def __init__(self, prefix: str = "") -> None:
        """
        @param prefix: how the tokens of the classes begin that this side defines. Default: unlike any other side's.
        """
        self.definitions: list[bytes] = []
        self.classes = Classes(prefix)

    # Programs and definitions

    def encode_program(self, program: object, what: Mapping[str, object]) -> None:
        """
        Make C{program} the first definition.

        @param what: the user's objects in it, by the names of the public parameters, for error messages.
        @raise NotSerializable: when a part can't be sent. The message says which name inside which function.
        """
        blob = _by_name(program)
        self.definitions.append(self._define_by_value(program, what) if blob is None else blob)

    def define(self, blob: Buffer) -> Any:
        """
        Load one definition.

        @return: the program, when it is the first.
        @raise Exception: whatever loading raises, unchanged: an ImportError, or an error of the user's own code.
        """
        known = len(self.classes.by_token)
        value = load(self.classes, [blob])
        self.classes.shared.update(self.classes.since(known))
        return value

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
        except BaseException as error:  # the user's __reduce__ may even exit
            raise NotSerializable(blame_value(error, value, self._dump)) from error

    def loads(self, buffers: Sequence[Buffer]) -> Any:
        """
        Decode what L{dumps} made. Arrays and bytearrays take over writable buffers, and copy read-only ones.

        @raise Exception: whatever loading raises, unchanged: an ImportError, or an error of the user's own code.
        """
        return load(self.classes, buffers)

    def dump_exception(self, error: BaseException) -> bytes | None:
        """
        Encode an exception, without traceback, cause and context.

        @return: C{None} when it does not pickle, would not load with the same type and arguments, or is too large.
        """
        state = dict(vars(error)) if hasattr(error, "__dict__") else {}
        for value in (_AsItWants(error), _Call(make_exception, type(error), error.args, state)):
            try:
                file = _BoundedFile()
                Pickler(file, self._reduce).dump(value)
                if _same_exception(error, load(self.classes, [file.getvalue()])):
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
            error = load(self.classes, [data])
        except KeyboardInterrupt:
            raise
        except BaseException:  # the user's constructor may raise anything, and the caller has the text anyway
            return None
        return error if isinstance(error, BaseException) else None

    # How it is done

    def _dump(self, value: object) -> list[Buffer]:
        file, beside = io.BytesIO(), _Beside()
        Pickler(file, self._reduce, beside.keep_in_band).dump(beside.lift(value))
        return [file.getvalue(), *beside.buffers()]

    def _reduce(self, obj: Any) -> Any:
        """
        How the C pickler sends a class or a function that can't be imported.
        """
        if not is_class(obj):
            return pickle.loads, (self._by_value(obj, {"function": obj})[0],)
        token = self.classes.token(obj)
        if token not in self.classes.shared:
            if not self.definitions:
                return pickle.loads, (self._by_value(obj, {"class": obj})[0],)
            self.definitions.append(self._define_by_value(obj, {"class": obj}))
        return known_class, (token,)

    def _define_by_value(self, obj: object, what: Mapping[str, object]) -> bytes:
        blob, tokens = self._by_value(obj, what)
        self.classes.shared.update(tokens)
        return blob

    def _by_value(self, obj: object, what: Mapping[str, object]) -> tuple[bytes, list[str]]:
        try:
            return dump_by_value(obj, self.classes)
        except MemoryError:
            raise
        except Exception as error:
            raise NotSerializable(blame_program(error, what)) from error


# The C pickler


class Pickler(pickle.Pickler):
    """
    The C pickler, which asks us about classes and functions. It asks about instances, too: the answer has to be quick.
    """

    def __init__(self, file: Any, reduce: Callable[[Any], Any], buffer_callback: Any = None) -> None:
        """
        @param reduce: gives the way to send what can't be imported.
        """
        super().__init__(file, 5, buffer_callback=buffer_callback)
        self._reduce = reduce
        self._plain: set[type] = set()

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind in self._plain:
            return NotImplemented
        if not issubclass(kind, _ASKED):
            self._plain.add(kind)
            return NotImplemented
        if kind is types.MethodType:
            return obj.__reduce__()
        return NotImplemented if obj in _SINGLETON_TYPES or importable(obj) else self._reduce(obj)


def _by_name(program: object) -> bytes | None:
    """
    Pickle a program all of which can be imported.
    """
    file = io.BytesIO()
    try:
        Pickler(file, _refuse).dump(program)
    except Exception:  # dill knows more types, and where it fails we can say where
        return None
    # The C pickler asks nobody about objects that reduce to a plain name.
    blob = file.getvalue()
    return None if b"__main__" in blob else blob


def _refuse(obj: object) -> Any:
    raise pickle.PicklingError("by value")


class _Call:
    """
    Pickles as the call of a function.
    """

    __slots__ = ("_arguments", "_function")

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._function = function
        self._arguments = arguments

    def __reduce__(self) -> Any:
        return self._function, self._arguments


# Large buffers


class _Beside:
    """
    The large buffers of one value: the arrays that the pickler offers, and the bytes and bytearrays that are taken out
    of a list before. The pickler would copy those, and knows no other way.

    The latter are counted from the end of the payload, so the unpickler takes the arrays' ones from its start.
    """

    def __init__(self) -> None:
        self._arrays: list[Buffer] = []
        self._lifted: list[Buffer] = []
        self._calls: dict[int, _Call] = {}  # by the id of what they stand for

    def buffers(self) -> list[Buffer]:
        return [*self._arrays, *reversed(self._lifted)]

    def keep_in_band(self, buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < LARGE:
            return True
        self._arrays.append(view)
        return False

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
        if id(item) not in self._calls:
            self._lifted.append(item)
            self._calls[id(item)] = _Call(take_buffer, type(item), len(self._lifted))
        return self._calls[id(item)]


def _is_large(item: Any) -> bool:
    return type(item) in (bytes, bytearray) and len(item) >= LARGE


# Exceptions


class _AsItWants:
    """
    Pickles as the exception itself does. What other packages (tblib, which Dask loads) register for exceptions of all
    types would bring the traceback along, and lose what built-in exceptions keep beside their arguments.
    """

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> Any:
        return self._error.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


class _BoundedFile(io.BytesIO):
    def write(self, data: Any) -> int:
        if self.tell() + len(data) > MAX_EXCEPTION:
            raise pickle.PicklingError("too large")
        return super().write(data)


def _same_exception(one: BaseException, other: Any) -> bool:
    if type(other) is not type(one) or len(one.args) != len(other.args):
        return False
    pairs = zip(one.args, other.args, strict=True)
    return all(type(a) is type(b) and (type(a) not in ATOMS or repr(a) == repr(b)) for a, b in pairs)
