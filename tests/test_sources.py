"""
Tests for L{txmapreduce.sources} and L{txmapreduce._files.base}: readers of files that are no plain text.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from twisted.trial.unittest import SynchronousTestCase

from tests.support import PoolCase
from txmapreduce import Csv, JsonLines, MapReduce, Parquet, PartFiles, PickleFiles, Policy, Source, Split, WholeFiles
from txmapreduce.errors import BadInput, TaskFailed
from txmapreduce.testing import functions

BLOCK = 1 << 30
READERS: list[Any] = [Csv, JsonLines, Parquet, PickleFiles, WholeFiles]


def read(source: Any, blocksize: int = BLOCK) -> list[Any]:
    """
    All records, as workers read them: the splits travel as pickles.
    """
    splits = [pickle.loads(pickle.dumps(split)) for split in source.splits(blocksize)]
    for split in splits:
        batches = list(split.batches())
        assert all(batches) and isinstance(split, Split) and str(split)
        assert [record for batch in batches for record in batch] == list(split.read())
    return [record for split in splits for record in split.read()]


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(os.path.abspath(self.mktemp()))
        self.folder.mkdir()

    def file(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)


class CommonTests(Case):
    """
    What all readers share.
    """

    def test_protocol(self) -> None:
        """
        They are sources, and paths that name nothing are refused.
        """
        for reader in READERS:
            self.assertIsInstance(reader("x"), Source)
            with self.assertRaises(BadInput):
                reader(f"{self.folder}/none").splits(BLOCK)
            with self.assertRaises(BadInput):
                reader(7)
            self.assertEqual(list(reader(str(self.folder)).splits(BLOCK)), [])

    def test_unfinishedIsSkipped(self) -> None:
        """
        Files and folders whose names begin with an underscore or a dot are no input.
        """
        os.mkdir(self.folder / "_temporary")
        for name in ("_SUCCESS", ".a.jsonl", "_temporary/attempt-1"):
            self.file(name, "nonsense")
        for reader in READERS:
            self.assertEqual(list(reader(str(self.folder)).splits(BLOCK)), [])


class JsonLinesTests(Case):
    """
    Values of JSON, one a line.
    """

    def test_values(self) -> None:
        """
        Each line is a record of whatever type; empty ones are left out, and a line end at the end may be missing.
        """
        path = self.file("a.jsonl", '{"a": [1, "é"]}\r\n\n  \n7\nnull')
        self.assertEqual(read(JsonLines(path)), [{"a": [1, "é"]}, 7, None])

    def test_compressed(self) -> None:
        """
        Files are decompressed by their suffix.
        """
        self.file("a.jsonl.gz", gzip.compress(b"1\n"))
        self.file("b.jsonl.bz2", bz2.compress(b"2\n"))
        self.assertEqual(read(JsonLines(self.folder)), [1, 2])

    def test_cut(self) -> None:
        """
        Large files are cut at line ends: each record is read once, in order.
        """
        path = self.file("a.jsonl", "".join(f'{{"n": {n}}}\n' for n in range(60_000)))
        source = JsonLines(path, blocksize="300KB")
        self.assertEqual(len(source.splits(BLOCK)), 3)
        self.assertEqual(read(source), [{"n": n} for n in range(60_000)])

    def test_noJson(self) -> None:
        """
        A line that is none is an error with the file and the line.
        """
        path = self.file("a.jsonl", "1\n{oops\n")
        with self.assertRaisesRegex(ValueError, f"a line of {path} is no JSON .*oops"):
            read(JsonLines(path))


class WholeFilesTests(Case):
    """
    A record for each file.
    """

    def test_files(self) -> None:
        """
        Path and content, as bytes or as text, decompressed.
        """
        paths = [self.file("a.bin", b"\xff\n"), self.file("b.gz", gzip.compress(b"text")), self.file("c", b"")]
        self.assertEqual(read(WholeFiles(self.folder)), list(zip(paths, [b"\xff\n", b"text", b""], strict=True)))
        self.assertEqual(read(WholeFiles(paths[1], encoding="utf-8")), [(paths[1], "text")])
        with self.assertRaises(BadInput):
            WholeFiles("x", encoding="martian")

    def test_cutOff(self) -> None:
        """
        A compressed file that is cut off, or is none, is named.
        """
        for content in (gzip.compress(os.urandom(1000))[:500], b"what"):
            path = self.file("a.gz", content)
            with self.assertRaisesRegex(OSError, path):
                read(WholeFiles(path))


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
plain_words = st.text(st.sampled_from("ab ,;é"), max_size=5)


class CsvTests(Case):
    """
    Rows as dicts.
    """

    def test_header(self) -> None:
        """
        The first row of each file has the names, a byte order mark is no part of them; or else they are given.
        """
        self.file("a.csv", "\ufeffx,y\r\n1,2\r\n\r\n")
        self.file("b.csv", 'y,x\n"4, ""or"" 5\n",3\n')
        self.assertEqual(read(Csv(self.folder)), [{"x": "1", "y": "2"}, {"x": "3", "y": '4, "or" 5\n'}])
        path = self.file("c", "1;2\n")
        self.assertEqual(read(Csv(path, fields=["a", "b"], delimiter=";")), [{"a": "1", "b": "2"}])

    def test_oddRows(self) -> None:
        """
        A row that has not as many values as there are columns is an error that shows it; so are two columns of a name.
        """
        for content, message in (("a,b\n1\n", "1 values for 2 columns"), ("a,a\n1,2\n", "two columns")):
            path = self.file("a.csv", content)
            with self.assertRaisesRegex(ValueError, f"{path}.*{message}"):
                read(Csv(path))

    def test_refused(self) -> None:
        """
        Options that mean nothing are refused.
        """
        wrong: list[dict[str, Any]] = [
            {"delimiter": ""},
            {"quotechar": "xx"},
            {"encoding": "martian"},
            {"fields": "abc"},
            {"fields": [1]},
        ]
        for options in wrong:
            with self.assertRaises(BadInput):
                Csv("x", **options)

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.tuples(words, words), max_size=20))
    def test_quoted(self, rows: list[tuple[str, str]]) -> None:
        """
        What Python's C{csv} has written is read as it was, with line ends and quotes inside of values.
        """
        path = self.folder / "q.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
        self.assertEqual(read(Csv(path)), [{"a": a, "b": b} for a, b in rows])

    def test_cut(self) -> None:
        """
        A large file is one split, unless there are no line ends in quotes; then it is cut, and all know the names.
        """
        with (self.folder / "a.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("n", "text"), *((n, "x, y") for n in range(60_000))])
        self.assertEqual(len(Csv(self.folder, blocksize="300KB").splits(BLOCK)), 1)
        cut = Csv(self.folder, blocksize="300KB", quoted_newlines=False)
        self.assertEqual(len(cut.splits(BLOCK)), 4)
        self.assertEqual(read(cut), [{"n": str(n), "text": "x, y"} for n in range(60_000)])


class ParquetTests(Case):
    """
    Rows of Parquet files.
    """

    def test_rowGroups(self) -> None:
        """
        Files are cut between row groups, and each row is read once.
        """
        path = f"{self.folder}/a.parquet"
        table = pyarrow.table({"n": range(100_000), "text": ["a"] * 100_000})
        parquet.write_table(table, path, row_group_size=10_000, compression="none", use_dictionary=False)
        source = Parquet(path, blocksize="400KB")
        splits = source.splits(BLOCK)
        self.assertGreater(len(splits), 2)
        self.assertIn("row groups 0 to", str(splits[0]))
        self.assertEqual(read(source), [{"n": n, "text": "a"} for n in range(100_000)])
        self.assertEqual(read(Parquet(path, columns=["text"]))[:1], [{"text": "a"}])

    def test_refused(self) -> None:
        """
        What is no Parquet file, and a column that is not there, are told before anything is read.
        """
        path = self.file("a.parquet", b"what")
        with self.assertRaisesRegex(BadInput, path):
            Parquet(path).splits(BLOCK)
        parquet.write_table(pyarrow.table({"n": [1]}), path)
        with self.assertRaisesRegex(BadInput, "no column m, only n"):
            Parquet(path, columns=["m"]).splits(BLOCK)
        with self.assertRaises(BadInput):
            Parquet(path, columns="n")


class PickleFilesTests(Case):
    """
    What C{PartFiles} has pickled.
    """

    def test_broken(self) -> None:
        """
        A file that is cut off, or holds no pickle, is named.
        """
        for content in (pickle.dumps([1, 2])[:-2], b"what"):
            path = self.file("a.pickle", content)
            with self.assertRaisesRegex(ValueError, f"{path} can't be unpickled"):
                read(PickleFiles(path))


class RoundTripTests(PoolCase):
    """
    A folder of part files is an input.
    """

    async def test_formats(self) -> None:
        """
        What a run has written in any format and compression is what the next one reads.
        """
        tsv = {"fields": ["key", "value"], "delimiter": "\t", "quotechar": None}
        rows = [(f"k{n}", n) for n in range(1000)]
        dicts = [{"key": key, "value": value} for key, value in rows]
        cases: list[tuple[str, list[str | None], Any, list[Any]]] = [
            ("pickle", [None, "gzip", "xz"], PickleFiles, rows),
            ("jsonl", [None, "gzip", "bz2"], JsonLines, list(map(list, rows))),
            ("tsv", [None, "gzip"], lambda p: Csv(p, **tsv), [{**row, "value": str(row["value"])} for row in dicts]),
            ("parquet", [None, "zstd"], Parquet, dicts),
        ]
        write = MapReduce(functions.identity, policy=Policy(chunksize=100))
        for format, compressions, reader, expected in cases:
            for compression in compressions:
                output = PartFiles(self.mktemp(), format, compression)  # type: ignore[arg-type]
                written = await write.run(rows, backend=self.pool, output=output)
                self.assertEqual(written.records, 1000)
                got = await MapReduce(functions.identity).run(reader(output.folder), backend=self.pool)
                self.assertEqual(got, expected)

    async def test_errors(self) -> None:
        """
        What can't be read fails the run, and the message has the file.
        """
        path = os.path.abspath(self.mktemp())
        Path(path).write_text(json.dumps("a") + "\n{")
        with self.assertRaisesRegex(TaskFailed, path):
            await MapReduce(functions.identity).run(JsonLines(path), backend=self.pool)
