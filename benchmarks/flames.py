"""
Where the time goes: coordinator and workers of some workloads, sampled by py-spy, as pictures.

C{flames.py [--out FILE]}. In a picture time goes from left to right, callers are above what they call, and only the
time that a processor was used counts. C functions have no frame: they count as whoever calls them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus import write_text

HERE = Path(__file__).parent

WORKLOADS = {
    "tiny_chunk1": ("tiny_chunk1", 3_000_000),
    "echo_small": ("echo_small", 3_000_000),
    "groupsum": ("groupsum", 40),
    "wordcount_lines, pairs": ("wordcount_lines__pairs", 100_000_000),
}
"""The function of the adapter, and the size, which makes some seconds of work."""

RATE = 200
"""Samples per second, of each process."""

ROOTS = {"coordinator": "mainLoop", "workers": "Worker.serve"}
"""The function above which nothing is drawn, and without which nothing counts."""

COLOURS = {"workloads": "#8fbf8f", "txmapreduce": "#d98880", "twisted": "#8da0b6", "": "#d9d9d9"}
"""By what a file's name begins with: the user's functions, ours, Twisted's, others."""

LEAST = 0.01
"""The part of all samples below which a frame is not drawn."""


@dataclass
class Frame:
    """
    A function as called from one place: its samples, with those of what it calls.
    """

    name: str = ""
    file: str = ""
    samples: int = 0
    calls: dict[str, Frame] = field(default_factory=dict)

    def add(self, stack: Iterable[str], samples: int) -> None:
        """
        Count samples of a stack of C{"name (file:line)"}.
        """
        frame = self
        frame.samples += samples
        for line in stack:
            name, _, place = line.partition(" (")
            frame = frame.calls.setdefault(line, Frame(name.rsplit(".", 1)[-1], place.rpartition(":")[0]))
            frame.samples += samples

    def depth(self, least: float) -> int:
        """
        How many frames are below each other.
        """
        return 1 + max((call.depth(least) for call in self.calls.values() if call.samples >= least), default=0)


def frames(stacks: Iterable[str]) -> dict[str, Frame]:
    """
    What py-spy has written, C{"frame;frame;... samples"} in each line, by role.
    """
    roots = {role: Frame() for role in ROOTS}
    for line in stacks:
        stack, _, samples = line.rpartition(" ")
        found = stack.split(";")
        for role, top in ROOTS.items():
            at = next((n for n, frame in enumerate(found) if frame.partition(" (")[0].endswith(top)), None)
            if at is not None:
                roots[role].add(found[at + 1 :], int(samples))
    return roots


def profile(function: str, size: int, folder: str) -> dict[str, Frame]:
    """
    Sample one run.
    """
    out = Path(folder, "stacks")
    workload = function.partition("__")[0]
    child = [sys.executable, str(HERE / "child.py"), "peers.txmapreduce", function, workload, str(size), "2", folder]
    how = ["--function", "--subprocesses", "--rate", str(RATE), "--format", "raw", "--output", str(out)]
    py_spy = Path(sys.executable).with_name("py-spy")
    subprocess.run([py_spy, "record", *how, "--", *child], check=True, stdout=subprocess.DEVNULL)
    return frames(out.read_text("utf-8").splitlines())


def _draw(axes: Any, frame: Frame, left: int, depth: int, least: float) -> None:
    for call in sorted(frame.calls.values(), key=lambda call: -call.samples):
        if call.samples < least:
            continue
        colour = next(colour for prefix, colour in COLOURS.items() if call.file.startswith(prefix))
        axes.barh(depth, call.samples, 0.95, left, color=colour, edgecolor="white", linewidth=0.3)
        room = int(150 * call.samples / axes.get_xlim()[1])
        if room > 2:
            name = call.name if len(call.name) <= room else call.name[: room - 1] + "…"
            axes.text(left + call.samples / 2, depth, name, fontsize=5, ha="center", va="center", clip_on=True)
        _draw(axes, call, left, depth + 1, least)
        left += call.samples


def draw(profiles: dict[str, dict[str, Frame]], path: str) -> None:
    """
    Draw into a file.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "txmapreduce"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    panels = [(name, role, frame) for name, roles in profiles.items() for role, frame in roles.items()]
    depths = [frame.depth(LEAST * frame.samples) for _, _, frame in panels]
    heights = [0.35 + 0.14 * depth for depth in depths]
    figure, grid = pyplot.subplots(
        len(panels), 1, height_ratios=heights, figsize=(10, sum(heights)), squeeze=False, layout="constrained"
    )
    for (name, role, frame), depth, axes in zip(panels, depths, grid.flat, strict=True):
        total = sum(other.samples for other in profiles[name].values())
        axes.set_xlim(0, max(1, frame.samples))
        axes.set_ylim(depth - 0.5, -0.5)
        axes.set_axis_off()
        axes.set_title(f"{name}: {role}, {frame.samples / total:.0%} of all samples", fontsize=8, loc="left")
        _draw(axes, frame, 0, 0, LEAST * frame.samples)
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw where the time goes.")
    parser.add_argument("--out", default="profiles.svg", help="the picture (default: profiles.svg)")
    args = parser.parse_args()
    profiles = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name, (function, size) in WORKLOADS.items():
            if function.startswith("wordcount"):
                write_text(Path(folder), size)
            profiles[name] = profile(function, size, folder)
            shares = ", ".join(f"{role} {frame.samples} samples" for role, frame in profiles[name].items())
            print(f"{name}: {shares}", flush=True)
    draw(profiles, args.out)


if __name__ == "__main__":
    main()
