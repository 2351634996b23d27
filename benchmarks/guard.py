"""
C{guard}: has something become much slower? Ratios to C{multiprocessing.Pool} in the same minute, with wide margins.
"""

from __future__ import annotations

from dataclasses import dataclass

from measure import Run
from tables import Record, grid

__all__ = ["FLOORS", "guard_runs", "verdicts"]

FLOORS = {"tiny_default": 0.5, "echo_small": 0.6, "groupsum": 0.4}
"""How many times as fast as a pool of C{multiprocessing} we have to be at least: well below what is usual."""

AMOUNTS = {"tiny_default": 200_000, "echo_small": 200_000, "groupsum": 6}


@dataclass(frozen=True)
class Verdict:
    """
    Whether a floor was kept.

    @ivar ratio: what was reached; C{None} where no run came to a right answer.
    """

    workload: str
    floor: float
    ratio: float | None

    @property
    def kept(self) -> bool:
        return self.ratio is not None and self.ratio >= self.floor


def guard_runs(workers: int) -> list[Run]:
    """
    What to run, in turns.
    """
    return [
        Run(system, f"peers.{system}", workload, workload, AMOUNTS[workload], workers)
        for workload in FLOORS
        for system in ("txmapreduce", "multiprocessing")
    ]


def _rate(records: list[Record], system: str, workload: str) -> float | None:
    own = [record for record in records if (record["system"], record["workload"]) == (system, workload)]
    if not own or not all(record["ok"] for record in own):
        return None
    return float(max(record["rate"] for record in own))  # on a busy machine, the best run is the one that says most


def verdicts(records: list[Record]) -> list[Verdict]:
    """
    What the records say of each floor.
    """
    found = []
    for workload, floor in FLOORS.items():
        ours, theirs = (_rate(records, system, workload) for system in ("txmapreduce", "multiprocessing"))
        found.append(Verdict(workload, floor, None if ours is None or theirs is None else ours / theirs))
    return found


def guard_markdown(found: list[Verdict]) -> str:
    """
    The verdicts as a table.
    """
    lines = [
        [
            verdict.workload,
            "no right answer" if verdict.ratio is None else f"{verdict.ratio:.2f}",
            f"{verdict.floor:.2f}",
            "yes" if verdict.kept else "**no**",
        ]
        for verdict in found
    ]
    return "\n".join(grid(["workload", "times multiprocessing.Pool", "at least", "kept"], lines))
