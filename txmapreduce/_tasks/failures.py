"""
What the user's code raised, in words.
"""

from __future__ import annotations

import traceback

from ..errors import ProtocolError

__all__ = ["class_names", "described", "error_text", "failure_text", "traceback_text"]

_TEXT = 10_000
_TRACEBACK = 100_000
"""Characters that an error's text and its traceback have at the most."""

_STAGES = {
    "map": "the mapper raised in",
    "combine": "what the mapper gave could not be folded by key in",
    "fold": "the reduce function raised in",
    "write": "the output could not be written in",
    "load": "the worker could not load what it needs for",
    "result": "the worker could not send back the result of",
    "start": "the initializer raised before",
}


def class_names(error: BaseException) -> tuple[str, ...]:
    """
    The full names of an exception's class and its bases, which tell its kind where the class itself can't.
    """
    return tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)


def traceback_text(error: BaseException) -> str:
    """
    The traceback of the user's C{error}, from the user's first line on.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(__package__ + "."):
        trace = trace.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, trace))
    except Exception as problem:  # an exception may fail to give its own text
        return f"{type(error).__name__} (it has no text: {type(problem).__name__})\n"
    if len(text) <= _TRACEBACK:
        return text
    # Its beginning and its end are what people read.
    return f"{text[: _TRACEBACK // 2]}\n... (cut) ...\n{text[-_TRACEBACK // 2 :]}"


def error_text(error: BaseException) -> str:
    """
    The class and the text of an exception, in one line.
    """
    try:
        text = str(error)
    except Exception as problem:
        text = f"it has no text: {type(problem).__name__}"
    return f"{type(error).__name__}: {text}"[:_TEXT] if text else type(error).__name__


def described(value: object) -> str:
    """
    The text of a value of the user's, as far as it has one.
    """
    try:
        return f"{value!r:.500}"
    except Exception as problem:  # its C{__repr__} is user code, too
        return f"{type(value).__name__} (it has no text: {type(problem).__name__})"


def failure_text(stage: str, chunk: int, record: int, attempt: int, pid: int | None, error: str) -> str:
    """
    One line that says what raised, where.

    @raise ProtocolError: there is no such stage.
    """
    if stage not in _STAGES:
        raise ProtocolError(f"a failure in a stage that there is not: {stage!r:.40}")
    where = f"chunk {chunk}" if chunk >= 0 else "a reduce task"
    if record >= 0:
        where = f"record {record} of {where}"
    who = "" if pid is None else f", worker {pid}"
    return f"{_STAGES[stage]} {where} (attempt {attempt}{who}): {error}"
