"""
How errors are told on the command line.
"""

from __future__ import annotations

import os
import re
import traceback

from ..errors import MapReduceError, TaskFailed

__all__ = ["line_of", "place_of", "text_of"]

_PACKAGE = os.path.dirname(os.path.dirname(__file__))


def text_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def place_of(text: str) -> str:
    """
    Where the user's function that raised stands: the first line of the traceback that is not this package's.
    """
    last = text.rpartition("Traceback (most recent call last)")[2]
    for file, line, function in re.findall(r'^  File "(.+)", line (\d+), in (.+)$', last, re.MULTILINE):
        if not file.startswith(("<frozen", _PACKAGE)) and f"{os.sep}importlib{os.sep}" not in file:
            return f" (in {function}, {os.path.basename(file)}, line {line})"
    return ""


def line_of(error: BaseException) -> str:
    """
    What went wrong, in one line.
    """
    text = str(error.args[0] if error.args else "") if isinstance(error, MapReduceError) else str(error)
    if not isinstance(error, MapReduceError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, TaskFailed):
        text += place_of(error.remote_traceback)
    return " ".join(text.split())
