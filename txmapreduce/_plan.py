"""
From a job and its input to the plan that the schedule follows.
"""

from __future__ import annotations

from ._events import Plan
from ._feeds import Input
from ._shuffle import by_key
from .job import Job

__all__ = ["plan_of"]


def plan_of(job: Job, source: Input, streams: bool, in_order: bool) -> Plan:
    """
    What the schedule has to know of a run.
    """
    policy = job.policy
    aggregate = job.program().aggregate
    saves = policy.checkpoint is not None  # then what a chunk gives is kept apart from what others give
    return Plan(
        collects=job.collects,
        ordered=saves or aggregate.ordered or (policy.reproducible and not by_key(aggregate)),
        chunksize=policy.chunksize or (None if source.splits else policy.fixed_chunksize),
        splits=source.splits,
        length=None if source.splits else source.length,
        bundle=policy.task_timeout is None and not policy.reproducible and not saves,
        streams=streams,
        in_order=in_order,
        retries=policy.retries,
        buffersize=policy.buffersize,
        task_timeout=policy.task_timeout,
        timeout=policy.timeout,
        max_bad_records=policy.max_bad_records,
        speculate=policy.speculate and not saves,
    )
