"""
What goes into the schedule and what comes out of it: the plan of a run, events and instructions. All frozen.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from .._wire.messages import NO_COUNTS, Counts

Handle = Hashable
"""Stands for what a task gave. Only the backend knows what is behind it, and where."""


@dataclass(frozen=True)
class Plan:
    """
    What the schedule has to know of a run.

    @ivar collects: the result is the list of values, else one folded value.
    @ivar ordered: partials have to be folded in input order.
    @ivar chunksize: records per chunk, where the user or the policy fixed it.
    @ivar splits: the input consists of splits, one chunk each. C{joins}: small ones may be read as one.
    @ivar task_seconds: how long a task should take, where that is for us to say.
    @ivar length: records of the input, or C{None}.
    @ivar bundle: several chunks of a fixed size may go into one task.
    @ivar streams: results are taken one after the other, and reading waits for that.
    @ivar in_order: results are delivered in input order, else as they come.
    @ivar speculate: attempts that take unusually long may have a backup.
    @ivar skips: bad records are left out. C{whole}: chunks can't be cut, for that would show in the result.
    @ivar partitioned: whether the last fold takes place partition by partition; C{None}: where there are many keys.
    @ivar npartitions: how many the last fold has in any case, where that was said.
    @ivar buffersize: how many chunks may have been read whose results are not there yet (or, of a stream, not taken).
    """

    collects: bool
    ordered: bool
    chunksize: int | None = None
    splits: bool = False
    joins: bool = False
    task_seconds: float = 0.08
    length: int | None = None
    bundle: bool = True
    streams: bool = False
    in_order: bool = True
    retries: int = 3
    buffersize: int | None = None
    task_timeout: float | None = None
    timeout: float | None = None
    max_bad_records: int | None = None
    speculate: bool = False
    skips: bool = False
    whole: bool = False
    partitioned: bool | None = None
    npartitions: int | None = None


@dataclass(frozen=True)
class MapAttempt:
    """
    One try at mapping C{count} chunks from chunk C{first} on; their records are in lot C{lot} of what was read.

    @ivar chunksize: records per chunk; 0: all that a split has.
    @ivar hold: the worker may keep what it folds, and go on with it.
    @ivar alone: nothing else of the run is under way, and it goes to a fresh worker: it ran out of memory before.
    @ivar backup: another attempt at the same chunks runs already, so this one waits behind no other.
    @ivar careful: it notes down each record, since the chunk has killed its worker before.
    @ivar start: of its one chunk, it maps the records from here on. C{stop}: up to here; C{None}: to the end.
    @ivar at_once: its worker keeps nothing of it, since one has died that was to hand over what it kept of it.
    @ivar origin: the number of its first record in the input, or the name of its split.
    """

    id: int
    attempt: int
    lot: int
    first: int
    count: int
    chunksize: int
    hold: bool
    alone: bool = False
    backup: bool = False
    careful: bool = False
    start: int = 0
    stop: int | None = None
    at_once: bool = False
    origin: int | str = field(default=0, compare=False)

    @property
    def may_hold(self) -> bool:
        """
        Whether the worker may really keep what this gives.
        """
        return self.hold and not (self.alone or self.careful or self.at_once)

    @property
    def whole(self) -> bool:
        """
        Whether it maps all of its chunks.
        """
        return self.start == 0 and self.stop is None

    @property
    def single(self) -> bool:
        """
        Whether it is known to map one record.
        """
        return self.stop == self.start + 1 or (self.stop is None and self.count * self.chunksize == 1)

    def of(self, first: int, count: int) -> MapAttempt:
        """
        The same for some of its chunks.
        """
        skipped = (first - self.first) * self.chunksize
        origin = self.origin + skipped if isinstance(self.origin, int) else self.origin
        return replace(self, first=first, count=count, origin=origin, backup=False)

    def place(self, record: int) -> str:
        """
        Where a record is in the input, by its number in this task.
        """
        if isinstance(self.origin, int):
            return f"record {self.origin + record} of the input"
        return f"record {record} of {self.origin}"


@dataclass(frozen=True)
class FoldAttempt:
    """
    One try at folding C{inputs} in order. C{partition}: of each input this part alone; C{None}: all of it. C{keeps}:
    the inputs may be needed again, even if all goes well: somebody may ask for the result so far.
    """

    id: int
    attempt: int
    inputs: tuple[Handle, ...]
    partition: int | None
    finish: bool
    keeps: bool = False


Attempt = MapAttempt | FoldAttempt


@dataclass(frozen=True)
class Outcome:
    """
    What an attempt gave.

    @ivar size: values or keys behind the handle. C{nparts}: partitions that it is cut in.
    @ivar nbytes: the larger of what went in and what came out, as far as the coordinator saw it.
    """

    handle: Handle
    secure: bool = True
    records: int = 0
    size: int = 1
    nparts: int = 1
    nbytes: int = 0
    seconds: float = 0.0
    counters: tuple[tuple[str, str, int], ...] = ()
    skipped: tuple[tuple[int, str], ...] = ()
    counts: Counts = NO_COUNTS


@dataclass(frozen=True)
class BadRecord:
    """
    A record that was left out.

    @ivar chunk: the number of its chunk. C{record}: its number in that chunk, from 0.
    @ivar reason: the exception, or how the worker ended, and the record, as text.
    @ivar place: where that is in the input: the number of the record, from 0, or the file and the number in its part.
    """

    chunk: int
    record: int
    reason: str
    place: str = ""


@dataclass(frozen=True)
class Progress:
    """
    How far a run has come.

    @ivar chunks: chunks whose results are in. C{total}: how many there will be, or C{None} while nobody knows.
    @ivar records: records (lines, for text files) that were read in them.
    @ivar retried: attempts that had to be made again.
    @ivar skipped: bad records that were left out.
    @ivar seconds: since the run began.
    @ivar fraction: the part of the input that is done, from 0 to 1, or C{None} where its length is not known.
    """

    chunks: int
    total: int | None
    records: int
    retried: int
    skipped: int
    seconds: float
    fraction: float | None


# Events


@dataclass(frozen=True)
class Capacity:
    """The backend can run C{workers} tasks at once."""

    workers: int


@dataclass(frozen=True)
class Got:
    """
    What L{Read} asked for: C{records} records, or that many splits read as one, in lot C{lot}. C{ended}: there is no
    more. C{name}: that of a split. C{left}: how many splits there still are, where that is known.
    """

    lot: int
    records: int
    ended: bool
    name: str = ""
    left: int | None = None


@dataclass(frozen=True)
class InputFailed:
    """The input raised C{error}."""

    error: BaseException


@dataclass(frozen=True)
class Started:
    """The attempt has begun to run."""

    id: int


@dataclass(frozen=True)
class Finished:
    """The attempt ended well."""

    id: int
    outcome: Outcome


@dataclass(frozen=True)
class Broke:
    """
    The attempt ended with C{error}, in chunk C{chunk} where that is known. C{retry}: it may be tried again; C{charge}:
    and that counts as an attempt. C{out_of_memory}: its worker was killed for want of memory. C{record}: which record
    of the task its worker was at, where it noted that down.
    """

    id: int
    error: BaseException
    retry: bool
    charge: bool = True
    chunk: int | None = None
    out_of_memory: bool = False
    record: int | None = None


@dataclass(frozen=True)
class Secured:
    """
    What was behind a handle that was not secure has been brought to where it can't be lost. Everything it covers has
    been told before: no L{Finished} brings this handle again.
    """

    handle: Handle


@dataclass(frozen=True)
class Lost:
    """
    What was behind a handle that was not secure is gone. No L{Finished} brings this handle again. C{asked}: the worker
    had been asked to hand it over, and that may be what it died of.
    """

    handle: Handle
    asked: bool = False


@dataclass(frozen=True)
class Taken:
    """C{count} of the delivered results have been taken by the reader of a stream."""

    count: int


@dataclass(frozen=True)
class Asked:
    """Somebody wants to know the result so far."""

    ticket: int


@dataclass(frozen=True)
class Unable:
    """The backend can't go on with the run: there are no workers, or something was lost for good."""

    error: BaseException


@dataclass(frozen=True)
class Tick:
    """The time asked for by L{Wake} has come."""


Event = Capacity | Got | InputFailed | Started | Finished | Broke | Secured | Lost | Taken | Asked | Tick | Unable

# Instructions


@dataclass(frozen=True)
class Read:
    """Take the next C{records} records (or one split) from the input as lot C{lot}, and say what came: L{Got}."""

    lot: int
    records: int


@dataclass(frozen=True)
class Submit:
    """Hand the attempt to the backend."""

    attempt: Attempt


@dataclass(frozen=True)
class Kill:
    """Stop the attempt where it runs; it ends with C{error}."""

    id: int
    error: BaseException


@dataclass(frozen=True)
class Deliver:
    """The results behind C{handle} come next."""

    handle: Handle


@dataclass(frozen=True)
class Drop:
    """The records of lot C{lot} are no longer needed."""

    lot: int


@dataclass(frozen=True)
class Answer:
    """
    The result so far is behind C{handles}; none: there is nothing yet. C{error}: it could not be folded.
    """

    ticket: int
    handles: tuple[Handle, ...]
    error: BaseException | None = None


@dataclass(frozen=True)
class Discard:
    """What was delivered counts for nothing: there will be another last fold."""


@dataclass(frozen=True)
class Conclude:
    """The run is complete. What was folded is behind those handles that were delivered, and then C{handles}."""

    handles: tuple[Handle, ...]


@dataclass(frozen=True)
class Abort:
    """The run failed."""

    error: BaseException


@dataclass(frozen=True)
class Wake:
    """Send a L{Tick} at time C{at}, at the latest."""

    at: float


Instruction = Read | Submit | Kill | Deliver | Discard | Drop | Answer | Conclude | Abort | Wake
