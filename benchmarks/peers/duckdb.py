"""
DuckDB: SQL, where no Python function runs for a line.
"""

from __future__ import annotations

from typing import Any

import duckdb
from workloads import Input

KIND = "reference"
NEEDS = "duckdb"

QUERY = """
    SELECT word, count(*) FROM (
        SELECT unnest(regexp_extract_all(lower(line), '[a-z'']+')) AS word
        FROM read_csv(?, columns = {'line': 'VARCHAR'}, delim = chr(1), quote = '', escape = '', header = false,
                      auto_detect = false)
    ) GROUP BY word
"""


def wordcount_lines(inp: Input) -> Any:
    connection = duckdb.connect(config={"threads": inp.workers})
    inp.ready()
    return inp.answer(dict(connection.execute(QUERY, [inp.files]).fetchall()))
