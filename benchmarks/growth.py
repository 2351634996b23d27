"""
C{growth}: how time and memory per unit change along each axis.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

from growth_jobs import GROWTH, Axis
from measure import Run
from tables import Record, grid

__all__ = ["growth_markdown", "growth_runs"]

HEADINGS = ["{axis}", "units", "seconds", "per {unit}", "by the one before", "all processes MB", "parent MB", "{last}"]
STEEP = 1.5


def growth_runs(wanted: Iterable[str], full: bool, workers: int) -> list[Run]:
    """
    One run for each place on each axis.
    """
    return [
        Run("txmapreduce", "growth_jobs", name, name, point, workers if axis.workers is None else axis.workers(point))
        for name, axis in ((name, GROWTH[name]) for name in wanted)
        for point in sorted({*axis.points, *(axis.beyond if full else ())})
    ]


def duration(seconds: float) -> str:
    """
    A short time as people read it.
    """
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _step(now: float, before: float | None) -> str:
    if before is None:
        return ""
    return f"{now / before:.2f}" + (" (!)" if now > STEEP * before else "")


def _lines(axis: Axis, points: dict[int, list[Record]]) -> Iterable[list[str]]:
    before = None
    idle = min(record["peak"] for records in points.values() for record in records)
    for point, records in sorted(points.items()):
        units = records[0]["units"]
        work, peak, parent = (median(record[key] for record in records) for key in ("work", "peak", "parent_peak"))
        extra = f"{(peak - idle) / units:,.0f}" if axis.share else f"{(peak - idle) / 1e6:+,.0f}"
        cost = work / units
        cells = [f"{point:,}", f"{units:,}", f"{work:.3f}", duration(cost), _step(cost, before)]
        yield [*cells, f"{peak / 1e6:,.0f}", f"{parent / 1e6:,.0f}", extra]
        before = cost


def _section(name: str, axis: Axis, records: list[Record]) -> list[str]:
    points: dict[int, list[Record]] = {}
    for record in records:
        if record["ok"]:
            points.setdefault(record["size"], []).append(record)
    bad = [f"- {record['size']:,}: {_last(record)}" for record in records if not record["ok"]]
    last = f"more bytes per {axis.unit} than the least" if axis.share else "MB more than the least"
    headings = [heading.format(axis=name, unit=axis.unit, last=last) for heading in HEADINGS]
    return [f"### {name}: {axis.about}", "", *grid(headings, _lines(axis, points) if points else []), "", *bad]


def _last(record: dict[str, Any]) -> str:
    return str(record.get("error", "")).strip().splitlines()[-1:][0] if record.get("error") else "failed"


def growth_markdown(records: list[Record]) -> str:
    """
    A table for each axis. C{(!)} marks a place where a unit costs 1.5 times what it did at the place before.
    """
    lines: list[str] = []
    for name, axis in GROWTH.items():
        if own := [record for record in records if record["workload"] == name]:
            lines += _section(name, axis, own)
    return "\n".join(lines)
