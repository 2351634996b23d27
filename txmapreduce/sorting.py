"""
L{sort}: a whole input in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._shuffle.rows import Keying, Sorted, as_they_are
from .errors import BadInput
from .job import Policy
from .joins import BoundJob
from .mapreduce import MapReduce

__all__ = ["sort"]


def sort(
    data: Any,
    *,
    key: Callable[[Any], Any] | None = None,
    reverse: bool = False,
    npartitions: int | None = None,
    name: str | None = None,
    policy: Policy | None = None,
) -> BoundJob:
    """
    Sort an input, which may be larger than memory. C{sort(data).run_sync()} gives C{sorted(data, key=key,
    reverse=reverse)}: records that compare equal keep their order, also in reverse.

    What doesn't fit into memory is spilled in sorted runs, which are merged partition by partition, side by side: each
    has a range of the records. With C{output=PartFiles(...)} the files are in order, one after the other, and nothing
    of it comes to this process; else the result is a list, or C{stream} gives the records one by one.

    @param data: whatever a run takes as data: an iterable, an asynchronous iterable, or a source.
    @param key: gives what is compared of a record. It is called once for each, and what it gives is kept with it until
        the end. Default: the record itself.
    @param reverse: C{True}: in descending order.
    @param npartitions: in how many partitions runs are merged: with C{PartFiles}, the number of files. Default: one for
        each worker with an output, or where there are many records.
    @param name: what messages call the job. Default: C{"sort"}.
    @param policy: how runs behave. Default: C{Policy()}.
    @raise BadInput: a parameter can't be used.
    """
    if key is not None and not callable(key):
        raise BadInput(f"key is a function that gives what is compared of a record, not {key!r}")
    if not isinstance(reverse, bool):
        raise BadInput(f"reverse is True or False, not {reverse!r}")
    job = MapReduce(
        as_they_are if key is None else Keying(key),
        batched=key is None,
        reduce=Sorted(key is not None, reverse),
        npartitions=npartitions,
        name=name or "sort",
        policy=policy,
    )
    return BoundJob(job, data)
