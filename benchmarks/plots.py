"""
The plot: for each workload, how many times as fast as the best peer each system is.
"""

from __future__ import annotations

from typing import Any

from tables import Row, Summary

__all__ = ["draw"]

COLOURS = {"ours": "#c44e52", "peer": "#8da0b6", "reference": "#d9d9d9"}
COLUMNS = 2


def _panel(axes: Any, summary: Summary) -> None:
    rows: list[Row] = [row for row in summary.rows if row.ratio is not None][::-1]
    ratios = [row.ratio or 0.0 for row in rows]
    bars = axes.barh([row.name for row in rows], ratios, color=[COLOURS[row.kind] for row in rows])
    axes.bar_label(bars, [f"{ratio:.2g}" for ratio in ratios], padding=2, fontsize=7)
    axes.set_xscale("log")
    axes.set_xlim(min([*ratios, 0.5]) / 1.5, max([*ratios, 2.0]) * 2)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_title(summary.workload, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.minorticks_off()


def _heights(shown: list[Summary]) -> list[float]:
    """
    The height of each line of panels, for bars of about the same height.
    """
    counts = [len(summary.rows) for summary in shown] or [1]
    return [0.7 + 0.18 * max(counts[first : first + COLUMNS]) for first in range(0, len(counts), COLUMNS)]


def draw(summaries: list[Summary], path: str) -> None:
    """
    Draw into a file. The ending of its name says in which format.

    @raise ImportError: matplotlib isn't installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "txmapreduce"  # the same results give the same file
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    shown = [summary for summary in summaries if any(row.ratio is not None for row in summary.rows)]
    heights = _heights(shown)
    figure, grid = pyplot.subplots(
        len(heights), COLUMNS, height_ratios=heights, figsize=(10, sum(heights)), squeeze=False, layout="constrained"
    )
    for axes, summary in zip(grid.flat, shown, strict=False):
        _panel(axes, summary)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    figure.suptitle("Speed by that of the best peer (memory: the other way round). Longer is better.", fontsize=10)
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)
    pyplot.close(figure)
