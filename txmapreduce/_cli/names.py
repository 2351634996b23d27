"""
What is named on the command line: jobs, functions and aggregates.
"""

from __future__ import annotations

import operator
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from .. import aggregates
from ..errors import BadInput
from .failures import place_of, text_of

__all__ = ["files_of", "instance", "load"]


def load(spec: str) -> Any:
    """
    The object that C{module:name} or C{path/to/file.py:name} names.

    @raise BadInput: there is none.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise BadInput(f"{spec!r} does not name anything: write module:name or path/to/file.py:name")
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    try:
        return operator.attrgetter(name)(module)
    except AttributeError:
        raise BadInput(f"there is no {name} in {place}") from None


def _load_module(name: str) -> Any:
    """
    Import a module, from the working directory too. C{aggregates} is the package's own.
    """
    _put_first(os.getcwd())
    return _import(aggregates.__name__ if name == "aggregates" else name)


def _load_file(path: Path) -> Any:
    """
    Import a file under its own name, by which the workers will find it as well.
    """
    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    path = path.resolve()
    _put_first(str(path.parent))
    module = _import(path.stem)
    if getattr(module, "__file__", None) is None or Path(module.__file__).resolve() != path:
        raise BadInput(f"{path.name} has the name of another module, {path.stem}: give it another one")
    return module


def _put_first(folder: str) -> None:
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name + ".").startswith(error.name + "."):
            raise BadInput(f"there is no module {name}") from None
        raise _not_loadable(name, error) from error
    except (Exception, SystemExit) as error:
        raise _not_loadable(name, error) from error


def _not_loadable(name: str, error: BaseException) -> BadInput:
    return BadInput(f"{name} can't be loaded: {type(error).__name__}: {error}{place_of(text_of(error))}")


def instance(value: Any) -> Any:
    """
    An aggregate can be named by its class.
    """
    if not (isinstance(value, type) and issubclass(value, aggregates.Aggregate)):
        return value
    try:
        return value()
    except TypeError as error:
        raise BadInput(f"{error}: make one in a file, and name that") from None


def files_of(specs: list[str]) -> list[str]:
    """
    The files of the modules that C{module:name} or C{path/to/file.py:name} name and that no other machine has: those
    that were named as a file, or lie in the working directory.
    """
    found: dict[str, None] = {}
    for module, _, _ in (spec.rpartition(":") for spec in specs):
        loaded = sys.modules.get(Path(module).stem if module.endswith(".py") else module)
        file = getattr(loaded, "__file__", None)
        if file is not None and file.endswith(".py") and (module.endswith(".py") or _is_here(file)):
            found[os.path.abspath(file)] = None
    return list(found)


def _is_here(file: str) -> bool:
    return os.path.dirname(os.path.abspath(file)) == os.getcwd()
