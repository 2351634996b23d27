"""
Make an inverted index of text files: for each word, the files that it is in, with how often.
"""

import argparse
import json
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from txmapreduce import Inline, MapReduce, Processes


def postings(path: str) -> Iterator[tuple[str, tuple[str, int]]]:
    """
    The words of a file, each with the file and how often it is there.
    """
    text = Path(path).read_text("utf-8", errors="replace")
    for word, count in Counter(re.findall(r"[a-z]+", text.lower())).items():
        yield word, (path, count)


def entry(word: str, found: Iterator[tuple[str, int]]) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """
    A line of the index: the word, and its files, those first in which it is most often.
    """
    yield word, sorted(found, key=lambda posting: (-posting[1], posting[0]))


def standard_library() -> list[Path]:
    top = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in top.rglob("*.py") if not {"site-packages", "dist-packages"} & set(path.parts))


def main() -> None:
    parser = argparse.ArgumentParser(description="Make an inverted index of text files with all cores.")
    parser.add_argument("files", nargs="*", type=Path, help="default: the standard library's own *.py files")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write it (default: standard output)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores; 0: in this process)")
    args = parser.parse_args()

    job = MapReduce(postings, reducer=entry)
    paths = map(str, args.files or standard_library())
    backend = Inline() if args.workers == 0 else Processes(args.workers)
    with open(args.output, "w", encoding="utf-8") if args.output else sys.stdout as file:
        for word, found in job.stream(paths, backend=backend):
            print(json.dumps({"word": word, "files": found}), file=file)


if __name__ == "__main__":
    main()
