"""
The tests that every backend has to pass, for those who write one.

Put them into a test case of Twisted's trial, and give them your backend::

    from twisted.trial.unittest import TestCase
    from txmapreduce.testing import BackendTests, WorkerTests

    class MyBackendTests(BackendTests, WorkerTests, TestCase):
        timeout = 60

        def backend(self):
            return self.mine

Each test runs jobs on it and holds what they give against plain Python, or against L{txmapreduce.Inline}. The functions
that run in workers are in L{txmapreduce.testing.functions}, so workers on other machines need nothing but txmapreduce.
This needs hypothesis and numpy: C{pip install 'txmapreduce[testing]'}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._deaths import WorkerTests
    from ._suite import BackendTests

__all__ = ["BackendTests", "WorkerTests"]

_PLACES = {"BackendTests": "_suite", "WorkerTests": "_deaths"}


def __getattr__(name: str) -> Any:
    # On demand: workers import C{functions}, and should not have to load the suite for that.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(f".{_PLACES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name not in ("hypothesis", "numpy"):
            raise
        raise ImportError(f"txmapreduce.testing needs {error.name}: pip install 'txmapreduce[testing]'") from error
