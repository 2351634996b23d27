"""
A map-reduce framework on Twisted: fill the cores of one machine, lose nothing when a worker dies.

    from txmapreduce import MapReduce
    print(MapReduce(lambda x: x * x).run_sync(range(10)))

The modules, each of which may import only those above it:

  - C{errors}: every exception that a user can catch
  - C{_context}: what a user's function can ask about its task
  - C{_aggregate}, C{aggregates}: L{Aggregate} and the ones that ship
  - C{_reading}, C{_planning}, C{inputs}: iterables and text files, as records and splits
  - C{_files}, C{_formats}, C{outputs}, C{sources}: part files and other sinks; files of other kinds as input
  - C{_loading}, C{_byvalue}, C{_blame}, C{_codec}: Python values and user functions to bytes and back
  - C{_broadcast}: read-only data that all tasks share
  - C{_sides}, C{_sides_input}, C{joins}: several inputs, brought together by key
  - C{_arena}: memory that coordinator and worker share, for large buffers
  - C{_headers}, C{_messages}: what coordinator and worker say to each other, and its limits
  - C{_frames}: bytes to messages and back
  - C{_partition}, C{_ordering}: which partition owns a key, and the orders of keys
  - C{_shuffle}, C{_grouping}: keys, and how their values come together, in any order or in that of the input
  - C{_runs}, C{_merge}, C{_spill}: what does not fit into memory: sorted runs in files, and merging them as streams
  - C{_folding}: partials to one, or to the result
  - C{_mapping}, C{_careful}, C{_failures}, C{_tasks}: run one map or one reduce task, the same in every backend
  - C{_plain}: results that are plain data, for coordinators that trust no worker
  - C{_lifeline}, C{_surroundings}, C{_worker}: how the child process ends, what it takes over, and its loop
  - C{job}: L{Job} and L{Policy}
  - C{_events}, C{_backups}, C{_delivery}, C{_limits}, C{_chunking}, C{_partials}, C{_pieces}, C{_schedule},
    C{_checked}: the state machine of a run
  - C{_cgroup}, C{_note}, C{_output}, C{_pipes}, C{_launch}, C{_process}: one child's start, pipes, output and life
  - C{_slots}, C{_lending}, C{_memory}, C{_starts}, C{_pool}: several children, and the runs that share them
  - C{_folder}: where the workers of a run spill, gone with the run
  - C{_background}, C{_blocking}: the way to scripts, threads and asyncio
  - C{backends}: where tasks run: C{inline}, C{processes}
  - C{_feeds}, C{_async_input}: what a run reads from
  - C{_identity}, C{_journal}, C{_checkpoint}: what a run can go on from after its process was killed
  - C{_letters}: the records that were left out, in a file
  - C{_plan}, C{_assembly}, C{_finishing}, C{_coordinator}: carry out the schedule's instructions, put the result or the
    output together
  - C{mapreduce}: L{MapReduce}
  - C{progress}: a bar
  - C{_lines}, C{_stdin}, C{cli}: the command line

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
    from ._broadcast import Broadcast, broadcast
    from ._context import current_task
    from .backends.inline import Inline
    from .backends.processes import Processes, close_default_pool
    from .inputs import Source, Split, TextFiles
    from .job import Policy
    from .joins import cogroup, join
    from .mapreduce import MapReduce
    from .outputs import Draft, PartFiles, Sink, Written
    from .sources import Csv, JsonLines, Parquet, PickleFiles, WholeFiles

__version__ = "0.1.0"

__all__ = [
    "Broadcast",
    "Csv",
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
]

_PLACES = {
    "Broadcast": "_broadcast",
    "Csv": "sources",
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
    "broadcast": "_broadcast",
    "close_default_pool": "backends.processes",
    "cogroup": "joins",
    "current_task": "_context",
    "errors": "",
    "join": "joins",
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
