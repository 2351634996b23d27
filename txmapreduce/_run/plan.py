"""
From a job and its input to the plan that the schedule follows, and from there to how far it has come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._schedule.chunking import TARGET
from .._schedule.events import Plan, Progress
from .._schedule.schedule import Schedule
from .._shuffle.keys import by_key
from ..job import Job
from .feeds import Input

__all__ = ["StepCounts", "counts_of", "plan_of", "progress_of"]


@dataclass(frozen=True)
class StepCounts:
    """
    How much one step of a run has had in hand so far. What was done again counts once.

    @ivar name: what messages call the job.
    @ivar read: records that were read.
    @ivar emitted: values or pairs that the mapper gave; C{None} where nobody counted: with C{flat} or C{batched} and
        C{reduce}.
    @ivar combined: for jobs that reduce, what was left of them where they were mapped: the keys of all tables, or the
        partial values, that the last reduce tasks took in. 0 before the end.
    @ivar groups: for jobs by key, how many keys there are. 0 before the end.
    @ivar spilled: bytes that were written to files of the spill folder, since they did not fit into memory.
    """

    name: str
    read: int
    emitted: int | None
    combined: int
    groups: int
    spilled: int


def plan_of(job: Job, source: Input, backend: Any, streams: bool, in_order: bool, writes: bool) -> Plan:
    """
    What the schedule has to know of a run. C{writes}: it has an output.
    """
    policy = job.policy
    aggregate = job.program().aggregate
    saves = policy.checkpoint is not None  # then what a chunk gives is kept apart from what others give
    seconds = getattr(backend, "task_seconds", None)
    return Plan(
        collects=job.collects,
        ordered=saves or aggregate.ordered or (policy.reproducible and not by_key(aggregate)),
        chunksize=policy.chunksize or (None if source.splits else policy.fixed_chunksize),
        splits=source.splits,
        joins=source.splits and seconds is not None and policy.fixed_chunksize is None and policy.task_timeout is None,
        task_seconds=seconds or TARGET,
        length=None if source.splits else source.length,
        bundle=policy.task_timeout is None and not policy.reproducible and not saves,
        streams=streams,
        in_order=in_order,
        retries=policy.retries,
        buffersize=policy.buffersize,
        task_timeout=policy.task_timeout,
        timeout=policy.timeout,
        max_bad_records=policy.max_bad_records,
        partitioned=(job.by_key or job.sorts) if writes else None,
        npartitions=job.npartitions,
        speculate=policy.speculate and not saves,
        skips=policy.bad_records == "skip",
        whole=policy.bad_records == "raise" and (job.batched or policy.reproducible),
    )


def progress_of(schedule: Schedule, source: Input, seconds: float) -> Progress:
    """
    How far a run has come that has taken C{seconds} so far.
    """
    tally, splits, length = schedule.tally, schedule.plan.splits, source.length
    done = tally.chunks if splits else tally.records
    return Progress(
        chunks=tally.chunks,
        total=length if splits else schedule.chunks_total,
        records=tally.records,
        retried=schedule.retried,
        skipped=len(tally.skipped),
        seconds=seconds,
        fraction=None if length is None else min(1.0, done / length) if length else 1.0,
    )


def counts_of(job: Job, schedule: Schedule) -> StepCounts:
    """
    How much a run of C{job} has had in hand.
    """
    tally, last = schedule.tally, schedule.last
    single = not (job.flat or job.batched or job.by_key or job.collects)  # a value for each record
    counted = job.by_key or job.collects or job.sorts
    return StepCounts(
        name=job.title,
        read=tally.records,
        emitted=tally.emitted if counted else tally.records - len(tally.skipped) if single else None,
        combined=0 if last is None else last.combined,
        groups=0 if last is None else last.groups,
        spilled=tally.spilled + (0 if last is None else last.spilled),
    )
