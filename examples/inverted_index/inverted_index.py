"""
Make an inverted index of text files: for each word, the files that it is in, with how often.
"""

import argparse
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from txmapreduce import Inline, MapReduce, PartFiles, Processes, WholeFiles


def postings(file: tuple[str, str]) -> Iterator[tuple[str, tuple[str, int]]]:
    """
    The words of a file, each with the file and how often it is there.
    """
    path, text = file
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
    parser.add_argument("folder", type=Path, help="where the index is written, a folder that is not there yet")
    parser.add_argument("files", nargs="*", type=Path, help="default: the standard library's own *.py files")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores; 0: in this process)")
    args = parser.parse_args()

    job = MapReduce(postings, reducer=entry)
    files = WholeFiles(args.files or standard_library(), encoding="utf-8", errors="replace")
    backend = Inline() if args.workers == 0 else Processes(args.workers)
    written = job.run_sync(files, backend=backend, output=PartFiles(args.folder))
    print(f"{written.records:,} words in {len(written.parts)} files in {written.folder}")


if __name__ == "__main__":
    main()
