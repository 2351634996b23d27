"""
The partials of a run until they are folded into one: a L{Tree} where input order counts, a L{Bag} where it does not.

Both say which partials should be folded now (L{Fold}), take in what comes of that, and give all that is left for the
last fold, L{Last}. A bag also knows which partials a worker still keeps, and which chunks have to be mapped again when
that is lost.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from .events import BadRecord, Handle, MapAttempt, Outcome, Plan

__all__ = ["FAN_IN", "Bag", "Fold", "Last", "Partials", "Place", "Tally", "Tree", "partitions"]

FAN_IN = 64
"""How many partials one fold takes: many, since a fold costs a round trip; not all, since one worker does it."""


@dataclass
class Tally:
    """
    What chunks that were accepted add up to.
    """

    chunks: int = 0
    records: int = 0
    counters: Counter[tuple[str, str]] = field(default_factory=Counter)
    skipped: list[BadRecord] = field(default_factory=list)
    emitted: int = 0
    spilled: int = 0

    @classmethod
    def of(cls, attempt: MapAttempt, outcome: Outcome) -> Tally:
        """
        What one attempt has added.
        """
        bad = []
        for at, text in outcome.skipped:
            chunk, record = divmod(at, attempt.chunksize) if attempt.count > 1 else (0, at)
            bad.append(BadRecord(attempt.first + chunk, record, text, attempt.place(at)))
        return cls(
            chunks=attempt.count if attempt.whole else 0,
            records=outcome.records,
            counters=Counter({(group, name): n for group, name, n in outcome.counters}),
            skipped=bad,
            emitted=outcome.counts.emitted,
            spilled=outcome.counts.spilled,
        )

    def add(self, other: Tally) -> None:
        """
        Count C{other} in.
        """
        self.chunks += other.chunks
        self.records += other.records
        self.counters.update(other.counters)
        self.skipped.extend(other.skipped)
        self.emitted += other.emitted
        self.spilled += other.spilled

    def take_back(self, other: Tally) -> None:
        """
        Undo L{add}.
        """
        self.chunks -= other.chunks
        self.records -= other.records
        self.counters.subtract(other.counters)
        self.emitted -= other.emitted
        self.spilled -= other.spilled
        if other.skipped:
            gone = set(other.skipped)
            self.skipped = [bad for bad in self.skipped if bad not in gone]


@dataclass(eq=False)
class Place:
    """
    A place for one partial: C{outcome} is C{None} until the fold of C{inputs} has ended.
    """

    outcome: Outcome | None = None
    inputs: tuple[Outcome, ...] = ()

    def fill(self, outcome: Outcome) -> None:
        """
        The fold has ended: what went into it is no longer needed.
        """
        self.outcome, self.inputs = outcome, ()

    def all(self) -> Iterable[Outcome]:
        """
        What there is: what came of the fold, or else what goes into it.
        """
        return self.inputs if self.outcome is None else (self.outcome,)


@dataclass(frozen=True)
class Fold:
    """
    Partials that should be folded now, and the place for what comes of it.
    """

    inputs: tuple[Handle, ...]
    place: Place


def _fold_of(inputs: tuple[Outcome, ...]) -> Fold:
    return Fold(tuple(outcome.handle for outcome in inputs), Place(None, inputs))


class Tree:
    """
    Partials in input order. Neighbours are folded L{FAN_IN} at a time, then what came of that, and so on: the shape
    depends on the number of partials alone.
    """

    def __init__(self) -> None:
        self._levels: list[deque[Place]] = [deque()]

    def add(self, outcome: Outcome) -> None:
        """
        The partial that is next in input order.
        """
        self._levels[0].append(Place(outcome))

    def put(self, place: Place, outcome: Outcome) -> None:
        """
        What came of a fold.
        """
        place.fill(outcome)

    def due(self) -> Iterator[Fold]:
        """
        Take out what should be folded now.
        """
        for number, level in enumerate(self._levels):
            while len(level) >= FAN_IN and (inputs := _outcomes(islice(level, FAN_IN))) is not None:
                for _ in inputs:
                    level.popleft()
                if len(self._levels) == number + 1:
                    self._levels.append(deque())
                fold = _fold_of(inputs)
                self._levels[number + 1].append(fold.place)
                yield fold

    def all(self) -> list[Outcome]:
        """
        What there is, in input order: what lies higher in the tree stands for earlier chunks.
        """
        return [outcome for level in reversed(self._levels) for place in level for outcome in place.all()]


def _outcomes(places: Iterable[Place]) -> tuple[Outcome, ...] | None:
    """
    What is in C{places}, or C{None} as long as one is empty.
    """
    outcomes = []
    for place in places:
        if place.outcome is None:
            return None
        outcomes.append(place.outcome)
    return tuple(outcomes)


@dataclass
class _Kept:
    """
    A partial that can be lost, and the attempts that it covers.
    """

    outcome: Outcome
    covers: list[MapAttempt] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


class Bag:
    """
    Partials in any order. A worker may go on with one: its handle then covers more and more attempts.
    """

    def __init__(self) -> None:
        self._kept: dict[Handle, _Kept] = {}
        self._secure: dict[Handle, Outcome] = {}
        self._folding: dict[Place, None] = {}

    def add(self, attempt: MapAttempt, outcome: Outcome, tally: Tally) -> None:
        """
        C{outcome.handle} covers C{attempt}, too.
        """
        kept = self._kept.setdefault(outcome.handle, _Kept(outcome))
        kept.outcome = outcome
        kept.covers.append(attempt)
        kept.tally.add(tally)

    def put(self, place: Place, outcome: Outcome) -> None:
        """
        What came of a fold.
        """
        del self._folding[place]
        self._secure[outcome.handle] = outcome

    def add_secure(self, outcomes: Iterable[Outcome]) -> None:
        """
        Partials that can't be lost.
        """
        self._secure.update((outcome.handle, outcome) for outcome in outcomes)

    def secure(self, handle: Handle) -> list[MapAttempt]:
        """
        The partial can't be lost any more. The attempts whose records it covers: they will not be needed again.
        """
        kept = self._kept.pop(handle, None)
        if kept is None:
            return []
        self._secure[handle] = kept.outcome
        return kept.covers

    def lose(self, handle: Handle) -> tuple[list[MapAttempt], Tally]:
        """
        The partial is gone. The attempts that have to be made again, and what they had added up to.
        """
        kept = self._kept.pop(handle, None)
        return ([], Tally()) if kept is None else (kept.covers, kept.tally)

    def due(self) -> Iterator[Fold]:
        """
        Take out what should be folded now: what is secure, where that is much.
        """
        if len(self._secure) >= FAN_IN:
            fold = _fold_of(tuple(self._secure.values()))
            self._secure.clear()
            self._folding[fold.place] = None
            yield fold

    def all(self) -> list[Outcome]:
        """
        What there is.
        """
        kept = [kept.outcome for kept in self._kept.values()]
        return [*kept, *self._secure.values(), *(outcome for place in self._folding for outcome in place.all())]


Partials = Tree | Bag


def partitions(outcomes: Sequence[Outcome], plan: Plan, many: int) -> Sequence[int | None]:
    """
    The partitions that the last fold takes place in; C{None} is all in one.

    @param many: from how many keys on it is cut, where the plan leaves that open.
    """
    if plan.npartitions is not None:
        return range(plan.npartitions) if plan.npartitions > 1 else [None]
    wanted = plan.partitioned
    cuts = {outcome.nparts for outcome in outcomes}
    if wanted is None:
        wanted = sum(outcome.size for outcome in outcomes) > many
    return range(cuts.pop()) if wanted and len(cuts) == 1 and cuts != {1} else [None]


class Last:
    """
    The last fold: one attempt, or one for each partition.

    @ivar given: how many partitions have been given away by L{ready}.
    @ivar combined: how many values or keys went into it. C{groups}, C{spilled}: what its attempts have counted.
    """

    def __init__(self, ids: Iterable[int], inputs: Iterable[Outcome], early: bool = False) -> None:
        """
        @param early: what is done may be given away before all is: it can be taken back, as what was read of a stream
            can't.
        """
        self._open = {id: number for number, id in enumerate(ids)}
        self._early = early
        self._done: dict[int, Handle] = {}
        self.given = 0
        self.combined = sum(outcome.size for outcome in inputs)
        self.groups = self.spilled = 0

    def __contains__(self, id: int) -> bool:
        return id in self._open

    def again(self, id: int, new: int) -> None:
        """
        Attempt C{new} takes the place of attempt C{id}.
        """
        self._open[new] = self._open.pop(id)

    def put(self, id: int, outcome: Outcome) -> Iterator[Handle]:
        """
        What came of an attempt. Gives away what is ready then, if it is not the end.
        """
        self._done[self._open.pop(id)] = outcome.handle
        self.groups += outcome.counts.groups
        self.spilled += outcome.counts.spilled
        return self.ready() if self._early and self._open else iter(())

    @property
    def ended(self) -> bool:
        """
        Whether none is under way.
        """
        return not self._open

    def ready(self) -> Iterator[Handle]:
        """
        Give away what came of those that are next in the order of partitions.
        """
        while self.given in self._done:
            self.given += 1
            yield self._done.pop(self.given - 1)
