"""
What a job is and how a run of it behaves: L{Job} and L{Policy}, both frozen and validated.

A job holds no data and no process. L{Job.program} is the part of it that goes to the workers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ._aggregate import Aggregate, Collect
from ._shuffle.grouping import Group, in_order
from ._shuffle.keys import ByKey, ByKeyAggregate, by_key
from ._shuffle.ordering import ByPartition, HashOrder, KeyOrder, Order, Partitioner
from ._shuffle.rows import Sorted
from ._shuffle.spill import Spill
from ._tasks.runner import EMPTY, Program, Reduce
from .errors import BadInput
from .inputs import parse_bytes

__all__ = ["Job", "Policy"]

Op = Callable[[Any, Any], Any]
Reducer = Callable[[Any, Iterator[Any]], Iterable[Any]]


MOST_PARTITIONS = 10_000
"""Each is a task at the end of the run, and a part of what each worker hands over."""

_FIXED_CHUNKSIZE = 1000
"""Records per chunk where chunks have to be the same in every run and no size was given."""


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise BadInput(message)


def _count(name: str, value: object, least: int) -> None:
    good = isinstance(value, int) and not isinstance(value, bool) and value >= least
    _need(good, f"{name} has to be a whole number of {least} or more, not {value!r}")


def _flag(name: str, value: object) -> None:
    _need(isinstance(value, bool), f"{name} is True or False, not {value!r}")


def _seconds(name: str, value: object) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
    _need(good, f"{name} has to be a number of seconds above 0, not {value!r}")


@dataclass(frozen=True)
class Policy:
    """
    How a run behaves.

    @ivar chunksize: records per chunk. C{None}, the default: sizes that follow the measured time per record.
    @ivar blocksize: the largest piece of a file that one task reads, as a number of bytes or text like C{"32MiB"}.
    @ivar buffersize: how many chunks may be read ahead of the results that were taken. C{None}: two per worker for
        the input, and as many again for results that wait for their turn.
    @ivar retries: how many more attempts a chunk gets when its worker dies or it runs out of time. Default 3.
    @ivar retry_exceptions: exceptions of your function after which a chunk is tried again, too. Default: none.
    @ivar task_timeout: seconds that one attempt may take, measured from when it starts to run. Default: no limit.
    @ivar timeout: seconds that the whole run may take. Default: no limit.
    @ivar bad_records: C{"raise"} ends the run at the first record for which the mapper raises; C{"skip"} leaves such
        records out and lists them in C{Run.skipped}; so it does with records that kill their worker, take more than its
        C{memory_limit} or longer than C{task_timeout}, each time by themselves.
    @ivar max_bad_records: with C{"skip"}, how many may be left out before the run fails. Default: no limit.
    @ivar dead_letters: with C{"skip"}, a file that has a line of JSON for each record that was left out when the run is
        over: its chunk, its number there, why, and its place in the input. Default: none.
    @ivar speculate: when workers are idle at the end of a run, chunks that take much longer than usual are tried on
        them as well, and the first result counts. Set it to C{False} where calling the mapper twice would do harm.
        There are no backups where workers go on folding into what they keep (a C{reduce} in any order,
        C{reduce_by_key}), nor with a C{checkpoint}. Default C{True}.
    @ivar reproducible: the shape of every fold depends on the data and C{chunksize} alone, so that floating-point
        results are the same to the last bit on any number of workers. It costs some speed.
    @ivar seed: where C{current_task().random} starts from. Default: different at every run.
    @ivar checkpoint: a file in which the run notes what each chunk gave. When the run did not come to its end, however
        that happened, the same job on the same data goes on from there; a run that did come to its end gives its result
        again. A file of another job, other functions or other data is refused. You delete it. It holds pickles that are
        loaded: use no file that others may write. Default: none.

    @ivar spill_folder: the folder in which workers of a by-key job write what does not fit into memory. Each run has a
        folder of its own in there (C{0700}, its files C{0600}), which is gone when the run has ended, however that
        happened. Default: the system's folder for temporary files.
    @ivar trust: C{"data"}: nothing that a worker sends is ever unpickled in this process. Results have to be plain data
        then (C{None}, C{bool}, C{int}, C{float}, C{str}, C{bytes}, C{list}, C{tuple}, C{dict}, C{set}, C{frozenset} and
        C{Counter}, nested 64 deep at the most), else the run fails with L{TaskFailed}, which has no C{__cause__}.

    @raise BadInput: a value that can't be used; the message names it.
    """

    chunksize: int | None = None
    blocksize: int | str = "32MiB"
    buffersize: int | None = None
    retries: int = 3
    retry_exceptions: tuple[type[BaseException], ...] = ()
    task_timeout: float | None = None
    timeout: float | None = None
    bad_records: Literal["raise", "skip"] = "raise"
    max_bad_records: int | None = None
    dead_letters: str | os.PathLike[str] | None = None
    speculate: bool = True
    reproducible: bool = False
    seed: int | None = None
    trust: Literal["objects", "data"] = "objects"
    checkpoint: str | os.PathLike[str] | None = None
    spill_folder: str | os.PathLike[str] | None = None

    @property
    def fixed_chunksize(self) -> int | None:
        """
        Records per chunk where the chunks have to be the same in every run, because of C{reproducible}, C{seed} or
        C{checkpoint}.
        """
        fixed = self.reproducible or self.seed is not None or self.checkpoint is not None
        return (self.chunksize or _FIXED_CHUNKSIZE) if fixed else None

    def __post_init__(self) -> None:
        for name, least in (("chunksize", 1), ("buffersize", 1), ("max_bad_records", 0)):
            if getattr(self, name) is not None:
                _count(name, getattr(self, name), least)
        _count("retries", self.retries, 0)
        try:
            parse_bytes(self.blocksize)
        except BadInput as error:
            raise BadInput(f"blocksize: {error}") from None
        for name in ("task_timeout", "timeout"):
            if getattr(self, name) is not None:
                _seconds(name, getattr(self, name))
        kinds = self.retry_exceptions if isinstance(self.retry_exceptions, (tuple, list)) else (self.retry_exceptions,)
        for kind in kinds:
            good = isinstance(kind, type) and issubclass(kind, BaseException)
            _need(good, f"retry_exceptions takes exception classes, not {kind!r}")
        object.__setattr__(self, "retry_exceptions", tuple(kinds))
        for name in ("checkpoint", "dead_letters", "spill_folder"):
            if (path := getattr(self, name)) is not None:
                good = isinstance(path, (str, os.PathLike)) and isinstance(os.fspath(path), str)
                _need(good and os.fspath(path) != "", f"{name} is a path, not {path!r}")
        for name in ("speculate", "reproducible"):
            _flag(name, getattr(self, name))
        if self.seed is not None:
            good = isinstance(self.seed, int) and not isinstance(self.seed, bool)
            _need(good, f"seed has to be a whole number, not {self.seed!r}")
        _need(self.bad_records in ("raise", "skip"), f'bad_records is "raise" or "skip", not {self.bad_records!r}')
        _need(self.trust in ("objects", "data"), f'trust is "objects" or "data", not {self.trust!r}')
        for name in ("max_bad_records", "dead_letters"):
            _need(getattr(self, name) is None or self.bad_records == "skip", f'{name} goes with bad_records="skip"')


@dataclass(frozen=True)
class Job:
    """
    A mapper, how its values are reduced, and a policy.

    @raise BadInput: parameters that don't go together, or one that is not what it should be.
    """

    mapper: Callable[[Any], Any]
    flat: bool = False
    batched: bool = False
    reduce: Op | Aggregate | None = None
    initial: Any = EMPTY
    reduce_by_key: Op | Aggregate | None = None
    reducer: Reducer | None = None
    combiner: Reducer | None = None
    npartitions: int | None = None
    partitioner: Partitioner | None = None
    sort_values: bool | Callable[[Any], Any] | None = None
    order_keys: bool = True
    name: str | None = None
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        _need(callable(self.mapper), f"the mapper has to be a function, not {self.mapper!r}")
        ways = [name for name in ("reduce", "reduce_by_key", "reducer") if getattr(self, name) is not None]
        _need(len(ways) <= 1, f"{' and '.join(ways)} were given: a job reduces in one way")
        for name in ("reduce", "reduce_by_key"):
            value = getattr(self, name)
            _need(
                not (isinstance(value, type) and issubclass(value, Aggregate)),
                f"{name}={getattr(value, '__name__', value)} is a class: make an instance of it, with ()",
            )
            good = value is None or isinstance(value, Aggregate) or callable(value)
            _need(good, f"{name} has to be a function of two arguments or an Aggregate, not {value!r}")
        for name in ("reducer", "combiner"):
            value = getattr(self, name)
            _need(
                value is None or callable(value), f"{name} has to be a function of a key and its values, not {value!r}"
            )
        _need(self.combiner is None or self.reducer is not None, "combiner goes with reducer")
        has_op = self.reduce is not None and not isinstance(self.reduce, Aggregate)
        _need(
            self.initial is EMPTY or has_op, "initial goes with reduce and a function; an Aggregate has its own zero()"
        )
        for name in ("flat", "batched", "order_keys"):
            _flag(name, getattr(self, name))
        self._check_shuffle()
        _need(self.name is None or isinstance(self.name, str), f"name has to be text, not {self.name!r}")
        _need(isinstance(self.policy, Policy), f"policy has to be a Policy, not {self.policy!r}")

    def _check_shuffle(self) -> None:
        for name in ("npartitions", "partitioner"):
            reduces = getattr(self, name) is None or self.by_key or self.sorts
            _need(reduces, f"{name} goes with reduce_by_key or reducer")
        if self.npartitions is not None:
            _count("npartitions", self.npartitions, 1)
            most = f"npartitions can be {MOST_PARTITIONS} at most, not {self.npartitions}: each is a task of its own"
            _need(self.npartitions <= MOST_PARTITIONS, most)
        if self.partitioner is not None:
            good = f"partitioner has to be a function of a key and npartitions, not {self.partitioner!r}"
            _need(callable(self.partitioner), good)
            _need(self.npartitions is not None, "partitioner goes with npartitions: say how many there are")
        if self.sort_values is not None:
            good = f"sort_values is True or a function that gives what values are sorted by, not {self.sort_values!r}"
            _need(self.sort_values is True or callable(self.sort_values), good)
            _need(self.reducer is not None, "sort_values goes with reducer")
        _need(self.order_keys or self.reducer is not None, "order_keys=False goes with reducer")

    @property
    def collects(self) -> bool:
        """
        Whether the result is the list of the mapped values.
        """
        return self.reduce is None and self.reduce_by_key is None and self.reducer is None

    @property
    def by_key(self) -> bool:
        """
        Whether the mapper gives C{(key, value)} pairs.
        """
        return self.reduce_by_key is not None or self.reducer is not None

    @property
    def sorts(self) -> bool:
        """
        Whether the result is the list of the mapped values in order.
        """
        return isinstance(self.reduce, Sorted)

    @property
    def title(self) -> str:
        """
        What messages call the job.
        """
        return self.name or getattr(self.mapper, "__qualname__", None) or type(self.mapper).__qualname__

    def program(self) -> Program:
        """
        What a worker has to know to run this job's tasks.
        """
        return Program(
            mapper=self.mapper,
            aggregate=self._aggregate(),
            flat=self.flat,
            batched=self.batched,
            pairs=self.by_key,
            skip_bad=self.policy.bad_records == "skip",
            isolate=bool(self.policy.retry_exceptions),
            seed=self.policy.seed,
            task_timeout=self.policy.task_timeout,
            collects=self.collects,
            plain_maps=self.policy.trust == "data" and self.collects,
            plain_result=self.policy.trust == "data",
            spill=self._spill(),
            npartitions=self.npartitions,
            lists=self.reducer is not None or self.sorts,
        )

    def _spill(self) -> Spill | None:
        """
        Where workers may spill: by-key jobs do, but a checkpoint has to have what it may go on from in itself.
        """
        spills = by_key(self._aggregate()) and self.policy.checkpoint is None
        return Spill(self.spill_folder) if spills else None

    @property
    def spill_folder(self) -> str | None:
        """
        The policy's, as text.
        """
        folder = self.policy.spill_folder
        return None if folder is None else os.fspath(folder)

    def functions(self) -> dict[str, Any]:
        """
        The user's own objects in the program, by the name of their parameter.
        """
        names = ("mapper", "reduce", "initial", "reduce_by_key", "reducer", "combiner", "partitioner", "sort_values")
        found = {name: getattr(self, name) for name in names}
        if self.sort_values is True:
            del found["sort_values"]
        return {name: value for name, value in found.items() if value is not None and value is not EMPTY}

    def _aggregate(self) -> Aggregate:
        if isinstance(self.reduce, Aggregate):
            return self.reduce
        if self.reduce is not None:
            return Reduce(self.reduce, self.initial)
        if self.reduce_by_key is not None:
            fold = _by_key(self.reduce_by_key, self._order(HashOrder()))
            return in_order(fold) if fold.ordered or self.policy.reproducible else fold
        if self.reducer is not None:
            sort_values = _itself if self.sort_values is True else self.sort_values or None
            order = self._order(KeyOrder() if self.order_keys else HashOrder())
            return in_order(Group(self.reducer, self.combiner, sort_values, order), self.policy.reproducible)
        return Collect()

    def _order(self, within: KeyOrder | HashOrder) -> Order:
        if self.partitioner is None or self.npartitions is None:
            return within
        return ByPartition(within, self.partitioner, self.npartitions)


def _by_key(op: Op | Aggregate, order: Order) -> ByKey | ByKeyAggregate:
    return ByKeyAggregate(op, order) if isinstance(op, Aggregate) else ByKey(op, order)


def _itself(value: Any) -> Any:
    return value
