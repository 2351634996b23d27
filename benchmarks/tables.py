"""
From the records of runs to medians, ratios and Markdown. Nothing here runs or measures anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from workloads import VIEWS, WORKLOADS

__all__ = ["Row", "Summary", "markdown", "summaries"]

Record = dict[str, Any]
MEGABYTE = 1e6
NOISY = 1.25


@dataclass(frozen=True)
class Row:
    """
    One way of one system to do a workload, over all its runs.

    @ivar score: what is compared, more is better: a rate, or for C{memory} the inverse of the bytes.
    @ivar ratio: the score by that of the best peer; C{None} where there is no peer.
    """

    name: str
    kind: str
    runs: int
    failed: int
    score: float
    ratio: float | None
    rate: float
    work: float
    least: float
    most: float
    wall: float
    cpu: float
    peak: float
    parent_peak: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """
    A workload: its rows, the best first, and what never came to a right answer, with the reason.
    """

    workload: str
    unit: str
    rows: tuple[Row, ...]
    failures: tuple[tuple[str, str], ...]


def title(record: Record) -> str:
    """
    What a table calls the system and the variant of a record.
    """
    _, _, variant = record["function"].partition("__")
    return f"{record['system']}, {variant}" if variant else str(record["system"])


def _middle(records: Iterable[Record], key: str) -> float:
    return float(median(record[key] for record in records))


def _notes(good: list[Record], failed: int, full: int) -> tuple[str, ...]:
    works = [record["work"] for record in good]
    serial = [record for record in good if record.get("serial_cpu")]
    notes = []
    if serial:
        share = median(record["serial_cpu"] / (record["workers"] * record["work"]) for record in serial)
        notes.append(f"{share:.0%} of its workers' time used")
    if good[0]["size"] < full:
        notes.append(f"with 1/{full / good[0]['size']:.0f} of the input")
    if max(works) > NOISY * min(works):
        notes.append("noisy")
    if any(record["left"] for record in good):
        notes.append("left processes behind")
    if failed:
        notes.append(f"{failed} of {failed + len(good)} runs failed")
    return tuple(notes)


def _row(name: str, records: list[Record], full: int, score: Callable[[Row], float]) -> Row:
    good = [record for record in records if record["ok"]]
    failed = len(records) - len(good)
    row = Row(
        name=name,
        kind=good[0]["kind"],
        runs=len(good),
        failed=failed,
        score=0.0,
        ratio=None,
        rate=_middle(good, "rate"),
        work=_middle(good, "work"),
        least=min(record["work"] for record in good),
        most=max(record["work"] for record in good),
        wall=_middle(good, "wall"),
        cpu=_middle(good, "cpu"),
        peak=_middle(good, "peak"),
        parent_peak=_middle(good, "parent_peak"),
        notes=_notes(good, failed, full),
    )
    return _with(row, score=score(row))


def _with(row: Row, **changes: Any) -> Row:
    return Row(**{**row.__dict__, **changes})


def _thrift(row: Row) -> float:
    return 1 / max(row.peak, 1.0)


def _speed(row: Row) -> float:
    return row.rate


def _reason(records: list[Record]) -> str:
    lines = str(records[-1].get("error", "")).strip().splitlines()
    return lines[-1] if lines else "no reason given"


def _summary(workload: str, records: list[Record]) -> Summary:
    named: dict[str, list[Record]] = {}
    for record in records:
        named.setdefault(title(record), []).append(record)
    good = {name: group for name, group in named.items() if any(record["ok"] for record in group)}
    full = max(record["size"] for record in records)
    score = _thrift if workload == "memory" else _speed
    rows = [_row(name, group, full, score) for name, group in good.items()]
    best = max((row.score for row in rows if row.kind == "peer"), default=None)
    rows = [_with(row, ratio=row.score / best) if best else row for row in rows]
    rows.sort(key=lambda row: -row.score)
    failures = [(name, _reason(group)) for name, group in named.items() if name not in good]
    unit = WORKLOADS[VIEWS.get(workload, workload)].unit
    return Summary(workload, unit, tuple(rows), tuple(failures))


def summaries(records: list[Record], wanted: Iterable[str] = ()) -> list[Summary]:
    """
    What the records say of each workload, or of those that are wanted.
    """
    found = []
    for workload in wanted or [*WORKLOADS, *VIEWS]:
        source = VIEWS.get(workload, workload)
        if own := [record for record in records if record["workload"] == source]:
            found.append(_summary(workload, own))
    return found


def rate_text(rate: float, unit: str) -> str:
    """
    A rate as people read it.
    """
    if unit == "B":
        return f"{rate / MEGABYTE:,.1f} MB/s"
    if unit == "runs":
        return f"{1000 / rate:,.2f} ms each"
    return f"{rate:,.0f} {unit}/s"


def _number(value: float, form: str, factor: float = 1.0) -> str:
    return format(value / factor, form) if value else ""


def _cells(row: Row, unit: str) -> list[str]:
    return [
        f"**{row.name}**" if row.kind == "ours" else row.name,
        str(row.runs),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        rate_text(row.rate, unit),
        f"{row.work:.3f} ({row.least:.3f} to {row.most:.3f})",
        f"{row.wall:.3f}",
        f"{row.cpu:.2f}",
        _number(row.peak, ",.0f", MEGABYTE),
        _number(row.parent_peak, ",.0f", MEGABYTE),
        "; ".join([*(["no peer: for reference"] if row.kind == "reference" else []), *row.notes]),
    ]


HEADINGS = [
    "system",
    "runs",
    "times the best peer",
    "rate",
    "work s (min to max)",
    "wall s",
    "CPU s",
    "all processes MB",
    "parent MB",
    "remarks",
]


def grid(headings: list[str], lines: Iterable[list[str]]) -> list[str]:
    """
    A table in Markdown, as lines.
    """
    cells = [headings, ["---"] * len(headings), *lines]
    return ["| " + " | ".join(line) + " |" for line in cells]


def _section(summary: Summary) -> list[str]:
    lines = [_cells(row, summary.unit) for row in summary.rows]
    failed = [f"- {name}: no right answer: {reason[:200]}" for name, reason in summary.failures]
    return [f"### {summary.workload}", "", *grid(HEADINGS, lines), "", *([*failed, ""] if failed else [])]


def _surroundings(records: list[Record]) -> list[str]:
    machines = sorted({str(record["machine"]) for record in records if "machine" in record})
    versions = sorted({f"{record['system']} {record['version']}" for record in records if record.get("version")})
    return ["; ".join(machines) + ".", "", "Versions: " + ", ".join(versions) + ".", ""]


def markdown(records: list[Record], wanted: Iterable[str] = ()) -> str:
    """
    All tables.
    """
    lines = _surroundings(records)
    for summary in summaries(records, wanted):
        lines += _section(summary)
    return "\n".join(lines)
