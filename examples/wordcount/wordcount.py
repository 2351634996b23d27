"""
Count words in text files with all cores.
"""

import argparse
import re
import sysconfig
from pathlib import Path

from txmapreduce import Inline, MapReduce, Processes, TextFiles, aggregates


def words(line: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", line.lower())


def standard_library() -> list[Path]:
    top = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in top.rglob("*.py") if not {"site-packages", "dist-packages"} & set(path.parts))


def main() -> None:
    parser = argparse.ArgumentParser(description="Count words in text files with all cores.")
    parser.add_argument("files", nargs="*", type=Path, help="default: the standard library's own *.py files")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many words to print (default: 10)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores; 0: in this process)")
    args = parser.parse_args()

    job = MapReduce(words, flat=True, reduce=aggregates.Counts())
    files = TextFiles(args.files or standard_library(), errors="replace")
    counts = job.run_sync(files, backend=Inline() if args.workers == 0 else Processes(args.workers))
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: args.top]:
        print(f"{count:12,}  {word}")


if __name__ == "__main__":
    main()
