"""
Polars: an expression, where no Python function runs for a line.
"""

from __future__ import annotations

import os
from typing import Any

from workloads import Input

KIND = "reference"
NEEDS = "polars"


def wordcount_lines(inp: Input) -> Any:
    os.environ["POLARS_MAX_THREADS"] = str(inp.workers)  # read when it is imported
    import polars

    inp.ready()
    line = polars.col("line").str.to_lowercase().str.extract_all("[a-z']+").explode().alias("word")
    lines = polars.scan_csv(inp.files, separator="\x01", has_header=False, quote_char=None, new_columns=["line"])
    counts = lines.select(line).drop_nulls().group_by("word").len().collect(engine="streaming")
    return inp.answer(dict(zip(counts["word"].to_list(), counts["len"].to_list(), strict=True)))
