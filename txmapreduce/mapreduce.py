"""
L{MapReduce}: what users make.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from ._aggregate import Aggregate
from ._shuffle.ordering import Partitioner
from ._tasks.runner import EMPTY
from .chains import Chain, chained
from .job import Job, Op, Policy, Reducer
from .runs import Runnable

__all__ = ["MapReduce"]


class MapReduce(Runnable):
    """
    A job: a function to map over data, and how its values are reduced.

    A job is immutable, holds no data and no process, and can be run as often as you like. Each has a meaning in plain
    Python, which every backend gives exactly:

      - C{MapReduce(f)}: C{[f(x) for x in data]}
      - C{flat=True}: C{[y for x in data for y in f(x)]}
      - C{batched=True}: C{f} takes a whole chunk, a list of records: C{[y for c in chunks for y in f(c)]}
      - C{reduce=op}: C{functools.reduce(op, map(f, data))}; with C{initial}, that counts once. C{op} has to be
        associative. An L{Aggregate} can stand in for C{op}.
      - C{reduce_by_key=op}: C{f} gives C{(key, value)} pairs; C{{key: functools.reduce(op, values of the key)}}. C{op}
        has to be associative and commutative. An L{Aggregate} can stand in for C{op}.
      - C{reducer=r}: C{f} gives pairs; all that C{r(key, values)} yields, for each key in ascending order, in one list.
        C{values} is an iterator. C{combiner(key, values)} yields what stands in for some of a key's values before they
        are sent on.
    """

    def __init__(
        self,
        mapper: Callable[[Any], Any],
        *,
        flat: bool = False,
        batched: bool = False,
        reduce: Op | Aggregate | None = None,
        initial: Any = EMPTY,
        reduce_by_key: Op | Aggregate | None = None,
        reducer: Reducer | None = None,
        combiner: Reducer | None = None,
        npartitions: int | None = None,
        partitioner: Partitioner | None = None,
        sort_values: Literal[True] | Callable[[Any], Any] | None = None,
        order_keys: bool = True,
        name: str | None = None,
        policy: Policy | None = None,
    ) -> None:
        """
        @param npartitions: in how many parts the keys are reduced at the end, each a task of its own; with
            C{output=PartFiles}, the number of files. Default: one for each worker with an output, and a few for each
            where there are many keys.
        @param partitioner: C{partitioner(key, npartitions)} is the number of the partition that owns a key, from 0 to
            C{npartitions - 1}: the same for equal keys, in every process. The result then is that of partition 0, that
            of partition 1 and so on, with keys in ascending order within each. Default: with a C{reducer}, ranges of
            keys in ascending order; with C{reduce_by_key}, by a hash of the key.
        @param sort_values: the values of a key come to the C{reducer} in ascending order (C{True}), or in that of what
            this function gives for them; equal ones in input order. They are sorted as they are merged, so that a key
            may have more of them than fit into memory. Default: in input order.
        @param order_keys: C{False}: the keys come to the C{reducer} in no particular order, and need not be comparable.
        @param name: what messages call the job. Default: the mapper's name.
        @param policy: how runs behave. Default: C{Policy()}.
        @raise BadInput: parameters that don't go together.
        """
        self.job = Job(
            mapper=mapper,
            flat=flat,
            batched=batched,
            reduce=reduce,
            initial=initial,
            reduce_by_key=reduce_by_key,
            reducer=reducer,
            combiner=combiner,
            npartitions=npartitions,
            partitioner=partitioner,
            sort_values=sort_values,
            order_keys=order_keys,
            name=name,
            policy=Policy() if policy is None else policy,
        )

    def __repr__(self) -> str:
        return f"<MapReduce {self.job.title}>"

    @property
    def jobs(self) -> tuple[Job, ...]:
        """
        The job alone.
        """
        return (self.job,)

    def then(self, following: Runnable) -> Chain:
        """
        A job of several steps: the records of this one's result are the data of C{following}. See L{Chain}.

        @param following: another job, or a chain of them.
        @raise BadInput: it is none, or its policy can't be had there.
        """
        return chained(self, following)
