"""
The partials of a run until they are folded into one: a L{Tree} where input order counts, a L{Bag} where it does not.

Both say which partials should be folded now (L{Fold}), take in what comes of that, and give all that is left for the
last fold. A bag also knows which partials a worker still keeps, and which chunks have to be mapped again when that is
lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ._events import BadRecord, Handle, MapAttempt, Outcome

__all__ = ["FAN_IN", "Bag", "Fold", "Partials", "Place", "Tally", "Tree"]

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

    def add(self, other: Tally) -> None:
        """
        Count C{other} in.
        """
        self.chunks += other.chunks
        self.records += other.records
        self.counters.update(other.counters)
        self.skipped.extend(other.skipped)

    def take_back(self, other: Tally) -> None:
        """
        Undo L{add}.
        """
        self.chunks -= other.chunks
        self.records -= other.records
        self.counters.subtract(other.counters)
        for bad in other.skipped:
            self.skipped.remove(bad)


@dataclass(eq=False)
class Place:
    """
    A place in a tree: C{outcome} is C{None} until its fold has ended. Level 0 are the chunks.
    """

    level: int
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Fold:
    """
    Partials that should be folded now, and the place for what comes of it.
    """

    inputs: tuple[Handle, ...]
    place: Place


class Tree:
    """
    Partials in input order. Neighbours are folded L{FAN_IN} at a time, then what came of that, and so on: the shape
    depends on the number of partials alone.
    """

    def __init__(self) -> None:
        self._levels: list[list[Place]] = [[]]

    def add(self, outcome: Outcome) -> None:
        """
        The partial that is next in input order.
        """
        self._levels[0].append(Place(0, outcome))

    def put(self, place: Place, outcome: Outcome) -> None:
        """
        What came of a fold.
        """
        place.outcome = outcome

    def due(self) -> Iterator[Fold]:
        """
        Take out what should be folded now.
        """
        for number, level in enumerate(self._levels):
            while len(level) >= FAN_IN and (inputs := _handles(level[:FAN_IN])) is not None:
                del level[:FAN_IN]
                if len(self._levels) == number + 1:
                    self._levels.append([])
                place = Place(number + 1)
                self._levels[number + 1].append(place)
                yield Fold(inputs, place)

    def all(self) -> list[Outcome]:
        """
        What there is, in input order: what lies higher in the tree stands for earlier chunks.
        """
        places = (place for level in reversed(self._levels) for place in level)
        return [place.outcome for place in places if place.outcome is not None]


def _handles(places: list[Place]) -> tuple[Handle, ...] | None:
    """
    The handles of C{places}, or C{None} as long as one is missing.
    """
    handles = tuple(place.outcome.handle for place in places if place.outcome is not None)
    return handles if len(handles) == len(places) else None


@dataclass
class _Kept:
    """
    A partial and the attempts that it covers as long as it can be lost.
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
        self._kept[outcome.handle] = _Kept(outcome)

    def secure(self, handle: Handle) -> list[MapAttempt]:
        """
        The partial can't be lost any more. The attempts whose records it covers: they will not be needed again.
        """
        kept = self._kept.get(handle)
        if kept is None:
            return []
        kept.outcome = replace(kept.outcome, secure=True)
        covers, kept.covers = kept.covers, []
        return covers

    def lose(self, handle: Handle) -> tuple[list[MapAttempt], Tally]:
        """
        The partial is gone. The attempts that have to be made again, and what they had added up to.
        """
        kept = self._kept.get(handle)
        if kept is None or kept.outcome.secure:
            return [], Tally()
        del self._kept[handle]
        return kept.covers, kept.tally

    def due(self) -> Iterator[Fold]:
        """
        Take out what should be folded now: what is secure, where that is much.
        """
        secure = [handle for handle, kept in self._kept.items() if kept.outcome.secure]
        if len(secure) >= FAN_IN:
            for handle in secure:
                del self._kept[handle]
            yield Fold(tuple(secure), Place(1))

    def all(self) -> list[Outcome]:
        """
        What there is.
        """
        return [kept.outcome for kept in self._kept.values()]


Partials = Tree | Bag
