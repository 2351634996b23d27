"""
A sort of generated lines next to GNU sort's, in the same run.

    scripts/bench sort [--size BYTES] [--memory BYTES] [--folder FOLDER]

Lines are 99 random printable characters. For both: seconds, and the most memory that any one process had, looked at
every 50 ms. Both get two processors and C{--memory} altogether. Our part files have to be GNU's file, byte for byte.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from txmapreduce import PartFiles, Processes, TextFiles, sort
from txmapreduce.inputs import parse_bytes

__all__ = ["main", "measured", "same", "write_lines"]

LINE = 100
_PRINTABLE = bytes(33 + n % 94 for n in range(256))
_PIECE = 1 << 20


def write_lines(path: Path, size: int) -> int:
    """
    Write lines of C{LINE} bytes.

    @return: how many.
    """
    left = count = size // LINE
    with path.open("wb") as file:
        while left:
            some = min(left, 50_000)
            data = os.urandom((LINE - 1) * some).translate(_PRINTABLE)
            file.writelines(data[at : at + LINE - 1] + b"\n" for at in range(0, len(data), LINE - 1))
            left -= some
    return count


def measured(command: list[str], **environment: str) -> tuple[float, int, int]:
    """
    Run a command.

    @return: how many seconds it took; the most bytes that it had in memory, and that any process that it started had.
    """
    begun = time.perf_counter()
    own = others = 0
    with psutil.Popen(command, env={**os.environ, **environment}) as process:
        while process.poll() is None:
            try:
                own = max(own, process.memory_info().rss)
                for child in process.children(recursive=True):
                    others = max(others, child.memory_info().rss)
            except psutil.Error:  # it has just ended
                continue
            time.sleep(0.05)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - begun, own, others


def same(parts: list[Path], whole: Path) -> bool:
    """
    Whether some files, one after the other, are a file.
    """
    with whole.open("rb") as file:
        for part in parts:
            for data in _pieces(part):
                if data != file.read(len(data)):
                    return False
        return not file.read(1)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(_PIECE):
            yield data


def run(path: str, folder: str, memory: int) -> None:
    """
    Our sort: half of the memory for each worker.
    """
    with Processes(2, memory_limit=memory // 2) as pool:
        sort(TextFiles(path)).run_sync(backend=pool, output=PartFiles(folder, "text"))


def main() -> None:
    if sys.argv[1:2] == ["run"]:
        run(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description="Sort generated lines with txmapreduce and with GNU sort.")
    parser.add_argument("--size", default="400MB", help="how much to sort (default: 400MB)")
    parser.add_argument("--memory", default="512MiB", help="for each of the two (default: 512MiB)")
    parser.add_argument("--folder", help="where to write (default: the folder for temporary files)")
    args = parser.parse_args()
    memory = parse_bytes(args.memory)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        lines, whole, folder = Path(name, "lines"), Path(name, "gnu"), Path(name, "parts")
        count = write_lines(lines, parse_bytes(args.size))
        gnu = ["sort", "-S", f"{memory >> 10}K", "--parallel=2", "-T", name, "-o", str(whole), str(lines)]
        ours = [sys.executable, os.path.abspath(__file__), "run", str(lines), str(folder), str(memory)]
        print("| | s | coordinator, MiB | largest worker, MiB |\n|---|---|---|---|", flush=True)
        seconds = []
        for title, command in (("GNU sort", gnu), ("txmapreduce", ours)):
            took, own, others = measured(command, LC_ALL="C", TMPDIR=name)
            seconds.append(took)
            print(f"| {title} | {took:.1f} | {own >> 20} | {others >> 20} |", flush=True)
        parts = sorted(folder.glob("part-*"))
        good = same(parts, whole)
        verdict = "the same order" if good else "another ORDER"
        print(f"{count:,} lines, {seconds[1] / seconds[0]:.2f} times GNU's time, {verdict}")
        if not good:
            sys.exit(1)


if __name__ == "__main__":
    main()
