"""
L{join} and L{cogroup}: two inputs or more, brought together by key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from ._shuffle.sides import LEFT, RIGHT, Groups, Key, Keyed, Rows, Sides
from .chains import Chain
from .errors import BadInput
from .job import Policy
from .mapreduce import MapReduce
from .runs import Run, Runnable, Stream

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from .backends import Backend
    from .outputs import Sink

__all__ = ["BoundJob", "cogroup", "join"]

_HOW = ("inner", "left", "right", "outer")
_SMALL = {"inner": (RIGHT, LEFT), "left": (RIGHT,), "right": (LEFT,), "outer": ()}
"""Which side may be broadcast: one whose records count only where the other side has their key."""


def join(
    left: Any,
    right: Any,
    *,
    how: Literal["inner", "left", "right", "outer"] = "inner",
    key: Key | Sequence[Key | None] | None = None,
    name: str | None = None,
    policy: Policy | None = None,
) -> BoundJob:
    """
    Join two inputs by key. C{join(left, right).run_sync()} gives, for each key in ascending order, a row C{(key,
    (left_value, right_value))} for each pair of values::

        [(key, (one, other)) for key in sorted(keys)
            for one in values of the key in left for other in values of the key in right]

    C{how} says which keys count: those of both (C{"inner"}), all of the left (C{"left"}) or the right side
    (C{"right"}), or all (C{"outer"}). Where a side has no value for such a key, C{None} stands in for it.

    The left values of a key are passed on one by one, the right ones are kept in memory: put the side on the right that
    has fewer for each key. Where one side is small (a source of 8 MiB at the most, a list or tuple of 10,000 records)
    it is broadcast, where C{how} allows for it, and only the other one is shuffled. The result is the same.

    @param left: records, whatever a run takes as data: an iterable, an asynchronous iterable, or a source. Each is a
        C{(key, value)} pair, as a tuple or a list.
    @param right: the same for the other side, which may be of another kind.
    @param key: a function that gives the key of a record; the value then is the record as it is. Or a sequence of two
        such functions, for either side one; C{None} in there is for a side of pairs.
    @param name: what messages call the job. Default: C{"join"}.
    @param policy: how runs behave. Default: C{Policy()}.
    @raise BadInput: C{how} or C{key} can't be used.
    """
    if how not in _HOW:
        raise BadInput(f"how is one of {', '.join(map(repr, _HOW))}, not {how!r}")
    mapper = Keyed(_keys_of(key, 2), (how in ("left", "outer"), how in ("right", "outer")))
    job = MapReduce(mapper, reducer=Rows(how), name=name or "join", policy=policy)
    return BoundJob(job, Sides((left, right), (RIGHT, LEFT), _SMALL[how]))


def cogroup(
    *inputs: Any,
    key: Key | Sequence[Key | None] | None = None,
    name: str | None = None,
    policy: Policy | None = None,
) -> BoundJob:
    """
    Group several inputs by key. C{cogroup(left, right).run_sync()} gives, for each key of any of them in ascending
    order, C{(key, (left_values, right_values))}: lists, in input order, empty where that input does not have the key.

    @param inputs: two or more, as for L{join}.
    @param key: as for L{join}: one function, or one for each input.
    @param name: what messages call the job. Default: C{"cogroup"}.
    @param policy: how runs behave. Default: C{Policy()}.
    @raise BadInput: there are less than two inputs, or C{key} can't be used.
    """
    if len(inputs) < 2:
        raise BadInput(f"cogroup takes two inputs or more, not {len(inputs)}")
    count = len(inputs)
    mapper = Keyed(_keys_of(key, count), (True,) * count)
    job = MapReduce(mapper, reducer=Groups(count), name=name or "cogroup", policy=policy)
    return BoundJob(job, Sides(inputs, tuple(range(count))))


def _keys_of(key: Key | Sequence[Key | None] | None, count: int) -> tuple[Key | None, ...]:
    if key is None or callable(key):
        return (key,) * count
    keys = tuple(key) if isinstance(key, (list, tuple)) else ()
    if len(keys) != count or not all(each is None or callable(each) for each in keys):
        raise BadInput(f"key is a function that gives the key of a record, or a list of {count} of them, not {key!r}")
    return keys


class BoundJob:
    """
    A job together with the data that it runs on. It has the same ways to run as L{MapReduce}, which take no data.
    """

    def __init__(self, job: MapReduce | Chain, data: Any) -> None:
        self.job = job
        self._data = data

    def __repr__(self) -> str:
        return repr(self.job).replace(type(self.job).__name__, "BoundJob", 1)

    def then(self, following: Runnable) -> BoundJob:
        """
        See L{MapReduce.then}: the data is that of the first step.
        """
        return BoundJob(self.job.then(following), self._data)

    def run(self, *, backend: Backend | None = None, output: Sink | None = None) -> Deferred[Any]:
        """
        See L{MapReduce.run}.
        """
        return self.job.run(self._data, backend=backend, output=output)

    def start(self, *, backend: Backend | None = None, output: Sink | None = None) -> Run:
        """
        See L{MapReduce.start}.
        """
        return self.job.start(self._data, backend=backend, output=output)

    def run_sync(self, *, backend: Backend | None = None, output: Sink | None = None) -> Any:
        """
        See L{MapReduce.run_sync}.
        """
        return self.job.run_sync(self._data, backend=backend, output=output)

    async def run_async(self, *, backend: Backend | None = None, output: Sink | None = None) -> Any:
        """
        See L{MapReduce.run_async}.
        """
        from ._run.async_input import at_home

        data = self._data
        if isinstance(data, Sides):
            data = replace(data, inputs=tuple(map(at_home, data.inputs)))
        return await self.job.run_async(data, backend=backend, output=output)

    def stream(self, *, ordered: bool = True, backend: Backend | None = None) -> Stream:
        """
        See L{MapReduce.stream}.
        """
        return self.job.stream(self._data, ordered=ordered, backend=backend)
