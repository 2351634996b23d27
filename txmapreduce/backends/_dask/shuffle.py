"""
What last folds on Dask take: of each partial the part that is theirs, brought from where the partial lies.

Where partitions are ranges of keys, nobody knows them before all partials are there. Then each partial is sampled where
it lies, and cut there as the samples of all of them say. Taking all partials to each fold instead would move everything
as many times as there are partitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..._schedule.events import FoldAttempt
from ..._worker.dask import Encoded, cut_ranges, part, take_sample
from .handles import Remote, in_task

__all__ = ["Shuffle"]


class Shuffle:
    """
    The parts of the partials of one run. All of it is used in the client's thread.
    """

    def __init__(self, npartitions: int = 1, is_cut: bool = False) -> None:
        """
        @param is_cut: partials were cut where they were made.
        """
        self._npartitions = npartitions
        self._is_cut = is_cut
        self._partials: list[Any] = []  # those that the samples and the ranges are of
        self._samples: list[Any] = []
        self._ranges: list[Remote] = []

    def inputs(self, client: Any, key: str, attempt: FoldAttempt, defined: Sequence[Any]) -> list[Any]:
        """
        What a fold takes: all of its inputs, or one part of each.

        @param defined: the definitions of the run.
        """
        number, partials = attempt.partition, list[Any](attempt.inputs)
        if number is None or self._npartitions == 1:
            return list(map(in_task, partials))
        sources = partials if self._is_cut else self._cut(client, key, partials, defined)
        return [self._part(client, f"{key}-{n}", source, number) for n, source in enumerate(sources)]

    def _part(self, client: Any, key: str, source: Remote, number: int) -> Any:
        if source.parts is None:
            return client.submit(part, source.future, number, key=f"txmapreduce-part-{key}", pure=False)
        return Encoded(source.parts if len(source.parts) == 1 else [source.parts[number]])

    def _cut(self, client: Any, key: str, partials: list[Any], defined: Sequence[Any]) -> list[Any]:
        """
        The partials in ranges: once for all last folds, which take the same partials.
        """
        if partials != self._partials:
            given = list(map(in_task, partials))

            def submit(kind: str, function: Any, n: int, *rest: Any) -> Any:
                name = f"txmapreduce-{kind}-{key}-{n}"
                return client.submit(function, defined, given[n], *rest, key=name, pure=False)

            self.let_go()
            self._partials = partials
            self._samples = [submit("sample", take_sample, n) for n in range(len(given))]
            self._ranges = [Remote() for _ in given]
            for n, remote in enumerate(self._ranges):
                remote.future = submit("ranges", cut_ranges, n, self._samples, self._npartitions)
        return self._ranges

    def let_go(self) -> None:
        """
        Keep no future any longer.
        """
        for future in (*self._samples, *(remote.future for remote in self._ranges)):
            future.release()
        self._partials, self._samples, self._ranges = [], [], []
