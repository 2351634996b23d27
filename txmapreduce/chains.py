"""
Jobs of several steps.
"""

from __future__ import annotations

from dataclasses import replace

from ._tasks.fusing import Fused
from .errors import BadInput
from .job import Job, Policy
from .runs import Runnable

__all__ = ["Chain", "chained"]

_FIRST_ONLY = ("reproducible", "seed")
"""What a policy can't promise for a step after the first, whose chunks depend on how many workers made them."""


class Chain(Runnable):
    """
    A job of several steps, made by C{then}: C{job.then(following)}. It is immutable, and is run as L{MapReduce} is::

        job.then(following).run(data)  ==  following.run(records of the result of job.run(data))

    The records are what an output of C{job} would be: the values of a job that does not reduce, C{(key, value)} pairs
    of C{reduce_by_key}, in no particular order, what a C{reducer} yields, the one value of C{reduce}.

    Steps run one after the other, each by its own policy. What lies between two steps stays with the workers, in files
    of the spill folder where it is much, and is gone when the next step has ended. A step that only maps becomes a part
    of the next one, where both have the same policy and that does not skip bad records.
    """

    def __init__(self, jobs: tuple[Job, ...]) -> None:
        """
        @param jobs: the steps.
        @raise BadInput: a policy that can't be had.
        """
        self._steps = jobs
        self._fused = _fused(jobs)
        if len(self._fused) > 1:
            for job in self._fused:
                _need(job, "checkpoint", "a job of several steps")
            for job in self._fused[1:]:
                for name in _FIRST_ONLY:
                    _need(job, name, "a step after the first")

    @property
    def jobs(self) -> tuple[Job, ...]:
        """
        The steps that are left when those that only map have become parts of others.
        """
        return self._fused

    def then(self, following: Runnable) -> Chain:
        """
        This and then another.

        @param following: a job, or a chain of them.
        @raise BadInput: it is none, or its policy can't be had there.
        """
        return chained(self, following)

    def __repr__(self) -> str:
        return f"<Chain {', '.join(job.title for job in self._steps)}>"


def chained(first: Runnable, following: Runnable) -> Chain:
    """
    C{first}, then C{following}.

    @raise BadInput: C{following} is no job, or a policy can't be had.
    """
    if not isinstance(following, Runnable):
        raise BadInput(f"then takes a job that has no data yet, such as MapReduce(...), not {following!r:.200}")
    return Chain((*_steps(first), *_steps(following)))


def _steps(job: Runnable) -> tuple[Job, ...]:
    return job._steps if isinstance(job, Chain) else job.jobs


def _need(job: Job, name: str, where: str) -> None:
    if getattr(job.policy, name) != getattr(Policy, name):  # what it is by default
        raise BadInput(
            f"the policy of {job.title} has {name}, which {where} can't have: "
            "run the jobs one by one, each on the result of the one before"
        )


def _fused(jobs: tuple[Job, ...]) -> tuple[Job, ...]:
    """
    The steps, without those that only map but the last.
    """
    fused: list[Job] = []
    for job in jobs:
        if fused and fused[-1].collects and fused[-1].policy == job.policy and job.policy.bad_records == "raise":
            job = _both(fused.pop(), job)
        fused.append(job)
    return tuple(fused)


def _both(first: Job, then: Job) -> Job:
    """
    One step that does what C{first}, which only maps, and C{then} do.
    """
    many = not then.batched if then.by_key else then.flat
    mapper = Fused(first.mapper, first.flat, first.batched, then.mapper, many, then.batched)
    flat = many if mapper.single else not mapper.batched
    return replace(
        then, mapper=mapper, flat=flat and not then.by_key, batched=mapper.batched, name=then.name or then.title
    )
