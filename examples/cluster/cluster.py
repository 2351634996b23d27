"""
One job, first with the cores of this machine, then on a Dask cluster: the same words, counted twice.
"""

import argparse
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from txmapreduce import Dask, MapReduce, Processes, TextFiles, aggregates


def words(line: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", line.lower())


def standard_library() -> list[Path]:
    top = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in top.rglob("*.py") if not {"site-packages", "dist-packages"} & set(path.parts))


@contextmanager
def small_cluster(workers: int) -> Iterator[str]:
    """
    A scheduler and some workers as processes of this machine, as they would be started on several. Gives the path of
    the file that says where the scheduler is.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "scheduler.json")
        common = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]
        worker = ["worker", *common, "--nthreads", "1", "--local-directory", folder]
        commands = [["scheduler", *common, "--port", "0"], *[worker] * workers]
        with open(Path(folder, "log"), "wb") as log:
            started = [
                subprocess.Popen([sys.executable, "-m", "dask", *command], stdin=subprocess.DEVNULL, stderr=log)
                for command in commands
            ]
        try:
            while not file.exists():
                if started[0].poll() is not None:
                    sys.exit(f"The scheduler did not start:\n{Path(folder, 'log').read_text()}")
                time.sleep(0.05)
            yield str(file)
        finally:
            for process in reversed(started):
                process.terminate()
            for process in started:
                process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Count words on this machine, then on a Dask cluster.")
    parser.add_argument("files", nargs="*", type=Path, help="default: the standard library's own *.py files")
    parser.add_argument("--address", help="of a scheduler that runs already (default: one is started here)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="of the cluster started here (default: 2)")
    args = parser.parse_args()

    job = MapReduce(words, flat=True, reduce=aggregates.Counts())
    files = TextFiles(args.files or standard_library(), errors="replace")

    here = job.run_sync(files, backend=Processes())
    if args.address:
        with Dask(args.address) as cluster:
            there = job.run_sync(files, backend=cluster)
    else:
        with small_cluster(args.workers) as file, Dask(file) as cluster:
            there = job.run_sync(files, backend=cluster)

    for word, count in sorted(there.items(), key=lambda item: (-item[1], item[0]))[:10]:
        print(f"{count:12,}  {word}")
    print(f"{len(there):,} words, {'the same' if there == here else 'not the same'} on this machine and on the cluster")


if __name__ == "__main__":
    main()
