"""
From a job and its input to the plan that the schedule follows.
"""

from __future__ import annotations

from ._events import Plan
from ._feeds import Input
from .job import Job

__all__ = ["FIXED_CHUNKSIZE", "plan_of"]

FIXED_CHUNKSIZE = 1000
"""Records per chunk where chunks have to be the same in every run (C{reproducible}, C{seed}) and no size was given."""


def plan_of(job: Job, source: Input, streams: bool, in_order: bool) -> Plan:
    """
    What the schedule has to know of a run.
    """
    policy = job.policy
    fixed = policy.reproducible or policy.seed is not None
    chunksize = policy.chunksize or (FIXED_CHUNKSIZE if fixed and not source.splits else None)
    return Plan(
        collects=job.collects,
        ordered=policy.reproducible or job.program().aggregate.ordered,
        chunksize=chunksize,
        splits=source.splits,
        length=None if source.splits else source.length,
        bundle=policy.task_timeout is None and not policy.reproducible,
        streams=streams,
        in_order=in_order,
        retries=policy.retries,
        buffersize=policy.buffersize,
        task_timeout=policy.task_timeout,
        timeout=policy.timeout,
        max_bad_records=policy.max_bad_records,
    )
