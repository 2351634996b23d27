"""
The text for word counts: the standard library's own sources, repeated to the size that is asked for, in unequal files.
"""

from __future__ import annotations

import json
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

__all__ = ["write_text"]

SHARES = (34, 23, 15, 10, 7, 5, 4, 2)
"""How large the files are, in hundredths of the whole."""


def sources(size: int) -> list[bytes]:
    """
    Source files of the standard library, at most about C{size} bytes.

    Without those that aren't ASCII: what is a small letter shouldn't depend on how a system decodes. Nor those with a
    carriage return, so that there is one idea of a line.
    """
    found: list[bytes] = []
    top = Path(sysconfig.get_path("stdlib"))
    for path in sorted(top.rglob("*.py")):
        if {"site-packages", "dist-packages"} & set(path.parts):
            continue
        text = path.read_bytes()
        if text.isascii() and b"\r" not in text and text.endswith(b"\n"):
            found.append(text)
            size -= len(text)
            if size <= 0:
                break
    return found


def _cut(text: bytes, size: int) -> bytes:
    """
    The lines of C{text} that end within C{size} bytes.
    """
    return text if len(text) <= size else text[: text.rfind(b"\n", 0, size) + 1]


def _fill(path: Path, size: int, texts: Iterator[bytes], used: Counter[bytes]) -> None:
    with path.open("wb") as file:
        while size > 0 and (text := _cut(next(texts), size)):
            used[text] += 1
            size -= file.write(text)


def write_text(folder: Path, size: int) -> None:
    """
    Write files of about C{size} bytes together, and C{text.json}: their names, and how often each word is in them.
    """
    texts = cycle(sources(size))
    used: Counter[bytes] = Counter()
    names = [f"text-{number}.txt" for number in range(len(SHARES))]
    for name, share in zip(names, SHARES, strict=True):
        _fill(folder / name, size * share // 100, texts, used)
    counts: Counter[str] = Counter()
    for text, times in used.items():
        for word, count in Counter(re.findall("[a-z']+", text.decode("ascii").lower())).items():
            counts[word] += times * count
    (folder / "text.json").write_text(json.dumps({"files": names, "counts": counts}), "utf-8")
