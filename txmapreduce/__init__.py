"""
A map-reduce framework on Twisted: fill the cores of one machine, lose nothing when a worker dies.

    from txmapreduce import MapReduce
    print(MapReduce(lambda x: x * x).run_sync(range(10)))

What is in here, from what everything else needs to what needs everything else:

  - C{errors}: every exception that a user can catch
  - C{aggregates}, C{_aggregate}, C{_context}: what users reduce with, and what their functions can ask about their task
  - C{_files}, C{inputs}, C{outputs}, C{sources}: files and other data as records, and records as part files
  - C{_values}: Python values and user functions to bytes and back; C{broadcast}
  - C{_wire}: messages, frames, and memory that coordinator and worker share
  - C{_shuffle}: keys: their partitions and orders, how their values come together, in memory and on disk
  - C{_tasks}: run one map or one reduce task, the same in every backend
  - C{_worker}: the child process
  - C{job}: L{Job} and L{Policy}
  - C{_schedule}: the state machine of a run
  - C{_pool}: one child's life, and that of several
  - C{_background}, C{_blocking}: the way to scripts, threads and asyncio
  - C{backends}: where tasks run: C{inline}, C{processes}, C{dask}
  - C{_run}: carries out what the schedule says: the coordinator, its input, its result, its checkpoint
  - C{runs}, C{chains}, C{mapreduce}, C{joins}, C{sorting}: the ways to run, jobs of several steps, L{MapReduce},
    L{join} and L{cogroup}, L{sort}
  - C{progress}, C{cli}, C{_cli}: a bar, and the command line
  - C{testing}: the tests that every backend passes

A module may import only what stands above it in the ladder of C{tests/test_architecture.py}.

Importing this package imports none of them: names are loaded on demand, and the reactor is left alone until a job runs.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import aggregates, errors
    from ._context import current_task
    from ._values.broadcast import Broadcast, broadcast
    from .backends.dask import Dask
    from .backends.inline import Inline
    from .backends.processes import Processes, close_default_pool
    from .chains import Chain
    from .inputs import Source, Split, TextFiles
    from .job import Policy
    from .joins import cogroup, join
    from .mapreduce import MapReduce
    from .outputs import Draft, PartFiles, Sink, Written
    from .sorting import sort
    from .sources import Csv, JsonLines, Parquet, PickleFiles, WholeFiles

__version__ = "0.1.0"

__all__ = [
    "Broadcast",
    "Chain",
    "Csv",
    "Dask",
    "Draft",
    "Inline",
    "JsonLines",
    "MapReduce",
    "Parquet",
    "PartFiles",
    "PickleFiles",
    "Policy",
    "Processes",
    "Sink",
    "Source",
    "Split",
    "TextFiles",
    "WholeFiles",
    "Written",
    "__version__",
    "aggregates",
    "broadcast",
    "close_default_pool",
    "cogroup",
    "current_task",
    "errors",
    "join",
    "sort",
]

_PLACES = {
    "Broadcast": "_values.broadcast",
    "Chain": "chains",
    "Csv": "sources",
    "Dask": "backends.dask",
    "Draft": "outputs",
    "Inline": "backends.inline",
    "JsonLines": "sources",
    "MapReduce": "mapreduce",
    "Parquet": "sources",
    "PartFiles": "outputs",
    "PickleFiles": "sources",
    "Policy": "job",
    "Processes": "backends.processes",
    "Sink": "outputs",
    "Source": "inputs",
    "Split": "inputs",
    "TextFiles": "inputs",
    "WholeFiles": "sources",
    "Written": "outputs",
    "aggregates": "",
    "broadcast": "_values.broadcast",
    "close_default_pool": "backends.processes",
    "cogroup": "joins",
    "current_task": "_context",
    "errors": "",
    "join": "joins",
    "sort": "sorting",
}


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _no_collections():
        value = getattr(import_module(f"{__name__}.{place}"), name) if place else import_module(f"{__name__}.{name}")
    globals()[name] = value
    return value


@contextmanager
def _no_collections() -> Iterator[None]:
    """
    Imports make no garbage, and collections in between would take a tenth of their time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def __dir__() -> list[str]:
    return sorted(__all__)
