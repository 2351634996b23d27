"""
What coordinator and worker say to each other.

Each message is a named tuple: it is made in a third of the time that a frozen dataclass takes, its class in a sixth.
Its plain fields travel in the frame's msgpack header, in the order in which they stand here; C{buffers} travel behind
the header as they are, never joined or copied. C{KINDS} numbers the messages.

Down the task pipe (coordinator to worker): L{Surroundings} and L{Define} prepare, L{Map} and L{Fold} are tasks,
L{HandOver} asks for what was kept, L{Forget} ends a run, L{Free} a value that was broadcast. Up the result pipe:
L{Hello} once, then one of L{Done} and L{Failed} for each task, in the order in which they were sent, and one L{Parts}
for each L{HandOver}; L{Spills} before a worker writes to the run's folder. The pool's initializer, which is defined as
a run of its own, is answered with a L{Done}, too. L{Release} goes both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgpack

from .._values.loading import Buffer
from ..errors import ProtocolError
from .headers import check_items

NO_CHUNK = -1
"""Stands in a message for the number of a chunk or a record where there is none, or nobody knows it."""

MAX_REPORT_ITEMS = 1 << 22
"""How many items a report may have, in all its arrays: three for each counter and each bad record, and their places."""

VERSION = 1
"""The version of this vocabulary. Both sides are one release, so another version is an error, never negotiated."""


class Hello(NamedTuple):
    """
    The worker is up and reads its task pipe. C{shares}: it has its part of the shared memory.
    """

    version: int
    pid: int
    shares: bool = False
    buffers: tuple[Buffer, ...] = ()


class Surroundings(NamedTuple):
    """
    What the worker takes over from the coordinator's process. One buffer: a pickled dict.
    """

    buffers: tuple[Buffer, ...]


class Define(NamedTuple):
    """
    One blob of definitions of a run, in their order; number 0 is the program itself. One buffer.
    """

    run: int
    number: int
    buffers: tuple[Buffer, ...]


class Map(NamedTuple):
    """
    Map C{count} consecutive chunks of C{chunksize} records each (the last may have fewer), starting at chunk
    C{first}. The buffers are one encoded list of records, or one encoded split.

    C{hold}: the worker keeps what it folded, for L{HandOver}. C{careful}: it notes down each record. C{start},
    C{stop}: of the one chunk, these records only (-1: to the end).
    """

    run: int
    task: int
    attempt: int
    first: int
    count: int  # type: ignore[assignment]
    chunksize: int
    hold: bool
    careful: bool
    start: int
    stop: int
    buffers: tuple[Buffer, ...]


class Fold(NamedTuple):
    """
    Fold partials in the order given: the buffers hold them one after the other, C{lengths} says how many buffers each
    has. C{finish}: the last fold, which applies C{initial}, C{finish} and the reducer, to partition C{partition} of
    C{npartitions}, or to everything (-1); otherwise the result is wanted in C{npartitions} parts. C{kept}: start from
    the part of that partition (of everything: part 0) that was kept at the last L{HandOver}.
    """

    run: int
    task: int
    attempt: int
    finish: bool
    partition: int
    npartitions: int
    kept: bool
    lengths: tuple[int, ...]
    buffers: tuple[Buffer, ...]


class HandOver(NamedTuple):
    """
    Give what was kept for this run, in C{npartitions} parts, and start afresh. Part C{keep} and each C{every}-th behind
    it stay, for L{Fold}s that are coming (-1: none does).
    """

    run: int
    npartitions: int
    keep: int
    every: int
    buffers: tuple[Buffer, ...] = ()


class Forget(NamedTuple):
    """
    The run is over: drop its program and what was kept for it.
    """

    run: int
    buffers: tuple[Buffer, ...] = ()


class Done(NamedTuple):
    """
    A task ended well. The buffers are its encoded partial in one or more pieces, C{lengths} says how many buffers each
    piece has; there are none when C{held}. One more buffer is a L{Report}, where there is something to report.

    C{records}: how many it read. C{size}: how many values or keys the partial has. C{seconds}: how long the user's
    code ran.
    """

    run: int
    task: int
    held: bool
    records: int
    size: int
    seconds: float
    lengths: tuple[int, ...]
    buffers: tuple[Buffer, ...]


class Failed(NamedTuple):
    """
    The user's function raised in chunk C{chunk} (at record C{record} of the task, -1: unknown). C{stage} says where
    things went wrong: C{"map"}, C{"fold"}, C{"load"} (the program or the records could not be loaded) or C{"result"}
    (the result could not be serialised). One buffer, the pickled exception, or none where it does not pickle.
    C{kinds} names the exception's class and its bases, C{message} is its text.
    """

    run: int
    task: int
    chunk: int
    record: int
    stage: str
    kinds: tuple[str, ...]
    message: str
    traceback: str
    buffers: tuple[Buffer, ...]


class Parts(NamedTuple):
    """
    What was kept, in parts: C{lengths} says how many buffers each part has (none: that part stays), C{size} how many
    keys there are in all.
    """

    run: int
    size: int
    lengths: tuple[int, ...]
    buffers: tuple[Buffer, ...]


class Spills(NamedTuple):
    """
    The worker wants to write what does not fit into memory: it waits for the run's folder.
    """

    run: int
    buffers: tuple[Buffer, ...] = ()


class Release(NamedTuple):
    """
    The sender has no view of these blocks of shared memory any more, see L{txmapreduce._wire.arena}.
    """

    blocks: tuple[int, ...]
    buffers: tuple[Buffer, ...] = ()


class Free(NamedTuple):
    """
    Nobody needs these values any more that were broadcast, see L{txmapreduce._values.broadcast}.
    """

    tokens: tuple[str, ...]
    buffers: tuple[Buffer, ...] = ()


class Counts(NamedTuple):
    """
    How much a task had in hand. C{emitted}: values or pairs that its mapper gave, where they are not reduced at once;
    C{groups}: keys that were reduced for the last time; C{spilled}: bytes that its worker wrote to files.
    """

    emitted: int = 0
    groups: int = 0
    spilled: int = 0


NO_COUNTS = Counts()


class Report(NamedTuple):
    """
    What a task says on the side. Not a message: a buffer of L{Done}, since it can be long.

    C{counters}: C{(group, name, n)} triples. C{skipped}: the bad records that were left out, as
    C{(number of the record in the task, text)}. C{status}: the task's last status text.
    """

    counters: tuple[tuple[str, str, int], ...] = ()
    skipped: tuple[tuple[int, str], ...] = ()
    status: str = ""
    counts: Counts = NO_COUNTS

    def encoded(self) -> tuple[bytes, ...]:
        """
        The buffer, or nothing where there is nothing to say. Numbers go as text: they may have any length.
        """
        if self == Report():
            return ()
        counters = [(group, name, str(n)) for group, name, n in self.counters]
        return (msgpack.packb((counters, self.skipped, self.status, self.counts), unicode_errors="surrogatepass"),)

    @classmethod
    def decoded(cls, data: Buffer) -> Report:
        """
        Undo L{encoded}.

        @raise ProtocolError: that is no report.
        """
        try:
            check_items(data, len(data), MAX_REPORT_ITEMS)
            counters, skipped, status, counts = msgpack.unpackb(data, use_list=False, unicode_errors="surrogatepass")
            return cls(
                tuple((str(group), str(name), int(n)) for group, name, n in counters),
                tuple((int(at), str(text)) for at, text in skipped),
                str(status),
                Counts(*map(int, counts)),
            )
        except Exception as error:
            raise ProtocolError(f"a task's report can't be read: {error}") from error


def cut(buffers: Sequence[Buffer], lengths: Sequence[int]) -> list[Sequence[Buffer]]:
    """
    The buffers of each of several values that were sent one after the other.

    @raise ProtocolError: there are fewer than announced.
    """
    if min(lengths, default=0) < 0 or sum(lengths) > len(buffers):
        raise ProtocolError(f"{sum(lengths)} buffers are announced, {len(buffers)} are there")
    parts, start = [], 0
    for length in lengths:
        parts.append(buffers[start : start + length])
        start += length
    return parts


Message = (
    Hello | Surroundings | Define | Map | Fold | HandOver | Forget | Done | Failed | Parts | Spills | Release | Free
)

KINDS: tuple[type[Message], ...] = (
    Hello,
    Surroundings,
    Define,
    Map,
    Fold,
    HandOver,
    Forget,
    Done,
    Failed,
    Parts,
    Spills,
    Release,
    Free,
)
"""A message's kind in the header is its place in here."""
