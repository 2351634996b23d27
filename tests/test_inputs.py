"""
What a run reads: files are cut into splits without losing, doubling or breaking a line, and feeds pull no further than
asked.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
import pickle
import subprocess
import sys
from collections import UserList
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce import inputs
from txmapreduce.errors import BadInput
from txmapreduce.inputs import FileSplit, Source, Split, TextFiles, is_async, parse_bytes, records_of

reading: Any = sys.modules[FileSplit.__module__]
"""Where the sizes of what is read at once stand."""

MIB = 1 << 20

scraps = st.sampled_from([b"\n", b"\r", b"\r\n", b"a", b"bcd" * 9, "é€𝄞".encode(), b"\xff", b"\xe2"])
contents = st.binary(max_size=200) | st.lists(scraps, max_size=40).map(b"".join)


def lines_of(text: str) -> list[str]:
    """
    The records of a text, by the law.
    """
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def records(source: TextFiles, blocksize: int = MIB) -> list[Any]:
    """
    All records of a source, read as workers would: from pickled splits.
    """
    return [record for split in source.splits(blocksize) for record in pickle.loads(pickle.dumps(split)).read()]


class FilesCase(SynchronousTestCase):
    """
    Tests with a folder of their own.
    """

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def write(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)


class LineTests(FilesCase):
    """
    Records are the lines of the whole file, wherever it is cut.
    """

    @given(contents, st.integers(1, 60), st.sampled_from([1, 3, reading.BLOCK]), st.sampled_from([1, 5, reading.LOOK]))
    @example(b"a\r\nb\r", 1, 1, 1)
    @example(b"a\n\n\nb", 2, 1, 1)
    @example(b"\xef\xbb\xbfa\n\xef\xbb\xbfb", 4, 1, 1)
    def test_anyCut(self, content: bytes, blocksize: int, batch: int, look: int) -> None:
        """
        For any content, any blocksize and any size of what is read at once, the records are the lines of the file.
        """
        path = self.write("any.txt", content)
        with mock.patch.multiple(reading, BLOCK=batch, LOOK=look):
            found = records(TextFiles(path, errors="surrogateescape"), blocksize)
            signed = records(TextFiles(path, encoding="utf-8-sig", errors="replace"), blocksize)
        self.assertEqual(found, lines_of(content.decode("utf-8", "surrogateescape")))
        self.assertEqual(signed, lines_of(content.decode("utf-8-sig", "replace")))

    @given(
        contents,
        st.sampled_from(["ascii", "latin-1", "cp1252", "shift_jis", "gbk", "gb18030", "big5", "euc_jp", "cp037"]),
        st.sampled_from(["replace", "ignore"]),
        st.integers(1, 20),
    )
    @example(b"a\x800\nb\n", "gb18030", "ignore", 1)
    @example(b"a\x80\x8f\nb\n", "euc_jp", "replace", 1)
    def test_otherEncodings(self, content: bytes, encoding: str, errors: str, blocksize: int) -> None:
        """
        Broken text in encodings of one or more bytes per character gives the lines of the whole file decoded at once.
        """
        path = self.write("other.txt", content)
        with mock.patch.object(reading, "BLOCK", 3):
            found = records(TextFiles(path, encoding=encoding, errors=errors), blocksize)
        self.assertEqual(found, lines_of(content.decode(encoding, errors)))

    @given(
        st.text(st.sampled_from("a\n\r\u010a\u0a0a\U0001f40a"), max_size=40),
        st.sampled_from(["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7"]),
        st.integers(1, 20),
    )
    def test_wideEncodings(self, text: str, encoding: str, blocksize: int) -> None:
        """
        A byte of 10 that is half a character ends no line, and such files are never cut.
        """
        source = TextFiles(self.write("wide.txt", text.encode(encoding)), encoding=encoding)
        with mock.patch.object(reading, "BLOCK", 3):
            self.assertEqual(records(source, blocksize), lines_of(text))
        self.assertEqual(len(source.splits(blocksize)), 1)

    def test_stateAcrossLines(self) -> None:
        """
        An encoding whose shift state lasts across lines is decoded from the start of the file.
        """
        content = b'\x1b$B$"\n$$\x1b(B\n'
        expected = lines_of(content.decode("iso2022_jp", "replace"))
        path = self.write("shift.txt", content)
        self.assertEqual(records(TextFiles(path, encoding="iso2022_jp", errors="replace"), 1), expected)

    def test_longLines(self) -> None:
        """
        Lines longer than all that is read at once come whole, each once, and the short ones around them too.
        """
        lines = ["x" * n for n in (3, 700_000, 0, 300_000, 5)]
        path = self.write("long.txt", "\n".join(lines).encode())
        for blocksize in (1000, 100_000, MIB):
            self.assertEqual(records(TextFiles(path), blocksize), lines)

    @given(contents, st.integers(1, 30), st.sampled_from([1, 4, MIB]))
    @example(b"long\na\nb", 30, 4)
    def test_blocks(self, content: bytes, blocksize: int, block: int) -> None:
        """
        Blocks together are the file, bit by bit; each but the last ends at a line end, and is longer than the limit
        only when one line is.
        """
        path = self.write("blocks.txt", content)
        with mock.patch.object(reading, "BLOCK", block):
            found = records(TextFiles(path, blocks=True), blocksize)
        self.assertEqual(b"".join(found), content)
        for each in found[:-1]:
            self.assertTrue(each.endswith(b"\n"))
        for each in found:
            self.assertTrue(len(each) <= block or each.count(b"\n", 0, -1) == 0)

    def test_batchesAreNeverEmpty(self) -> None:
        """
        The fast way gives the same records in lists with something in them.
        """
        path = self.write("a.txt", b"\xff\xff" + b"\n" * 1000 + b"\xff")
        batches = [b for split in TextFiles(path, errors="ignore").splits(100) for b in split.batches()]
        self.assertEqual([record for batch in batches for record in batch], [""] * 1000)
        self.assertTrue(all(batches))

    def test_readTwice(self) -> None:
        """
        A split can be read again, for another attempt.
        """
        (split,) = TextFiles(self.write("a.txt", b"a\nb\n")).splits(MIB)
        self.assertEqual([list(split.read()), list(split.read())], [["a", "b"]] * 2)


class ErrorTests(FilesCase):
    """
    What goes wrong while a worker reads names the file.
    """

    def test_undecodable(self) -> None:
        """
        A byte that does not decode is reported with its file and its offset in the file, and the line it is in.
        """
        content = b"fine\n" * 100 + b"na\xefve\nfine\n"
        path = self.write("bad.txt", content)
        with mock.patch.object(reading, "BLOCK", 16):
            error = self.assertRaises(UnicodeDecodeError, records, TextFiles(path), 50)
        self.assertIn(f"byte 502 of {path}", str(error))
        self.assertEqual((error.object, error.start), (b"na\xefve", 2))

    def test_undecodableWide(self) -> None:
        """
        So is one in a file that is decoded as a stream.
        """
        path = self.write("bad.txt", "ab\n".encode("utf-16-le") * 20 + b"\x00\xdcx\x00")
        with mock.patch.object(reading, "BLOCK", 7):
            error = self.assertRaises(UnicodeDecodeError, records, TextFiles(path, encoding="utf-16-le"))
        self.assertIn(f"byte 120 of {path}", str(error))

    def test_corrupt(self) -> None:
        """
        A damaged or truncated archive is an OSError that names it.
        """
        for suffix, compress in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
            whole = compress(os.urandom(5000))
            for number, content in enumerate([whole[:-900], b"no archive", whole[:200] + b"xx" + whole[202:]]):
                path = self.write(f"{number}{suffix}", content)
                error = self.assertRaises(OSError, records, TextFiles(path, errors="replace"))
                self.assertIn(path, str(error))

    def test_becomesShorter(self) -> None:
        """
        A file that was cut short after its splits were listed is an error, not fewer records.
        """
        path = self.write("log.txt", b"line\n" * 100)
        splits = TextFiles(path).splits(100)
        os.truncate(path, 250)
        found = [len(list(split.read())) for split in splits[:2]]
        self.assertEqual(found, [20, 20])
        for split in splits[2:]:
            self.assertIn(path, str(self.assertRaises(EOFError, list, split.read())))

    def test_becomesShorterByOne(self) -> None:
        """
        Even when no more than the last byte is gone.
        """
        path = self.write("log.txt", b"line\n" * 100)
        (split,) = TextFiles(path).splits(MIB)
        os.truncate(path, 499)
        self.assertIn("ends at byte 499", str(self.assertRaises(EOFError, list, split.read())))

    def test_becomesShorterMeanwhile(self) -> None:
        """
        So is one that is cut short while it is being read.
        """
        path = self.write("log.txt", b"line\n" * 100)
        (split,) = TextFiles(path).splits(MIB)
        with mock.patch.object(reading, "BLOCK", 50):
            batches = split.batches()
            self.assertEqual(next(batches), ["line"] * 10)
            os.truncate(path, 50)
            self.assertIn(path, str(self.assertRaises(EOFError, next, batches)))

    def test_becomesLonger(self) -> None:
        """
        Of a file that grows meanwhile, the lines that had begun are read.
        """
        path = self.write("log.txt", b"one\ntwo\nthr")
        splits = TextFiles(path).splits(4)
        with open(path, "ab") as file:
            file.write(b"ee\nfour\n")
        self.assertEqual([line for split in splits for line in split.read()], ["one", "two", "three"])

    def test_vanishes(self) -> None:
        """
        So is a file that is gone.
        """
        path = self.write("a.txt", b"a\n")
        (split,) = TextFiles(path).splits(MIB)
        os.remove(path)
        self.assertIn(path, str(self.assertRaises(FileNotFoundError, list, split.read())))


class PathTests(FilesCase):
    """
    Which files a path stands for.
    """

    def test_order(self) -> None:
        """
        Files are read in the order given, and one that is given twice is read twice.
        """
        b, a = self.write("b.txt", b"b1\nb2"), self.write("a.txt", b"a1\n")
        self.assertEqual(records(TextFiles([b, Path(a), b])), ["b1", "b2", "a1", "b1", "b2"])
        self.assertEqual(records(TextFiles(iter([b, a])), 1), ["b1", "b2", "a1"])

    def test_folder(self) -> None:
        """
        A folder stands for the files below it, sorted by path, without hidden ones; pipes and the like are left out.
        """
        for name in ("b.txt", "a/z.txt", "a/b/c.txt", ".hidden", "_SUCCESS", ".git/x", "_tmp/x", "a/.x"):
            self.write(f"in/{name}", name.encode())
        os.mkfifo(self.folder / "in" / "pipe")
        self.assertEqual(records(TextFiles(self.folder / "in")), ["a/b/c.txt", "a/z.txt", "b.txt"])

    def test_hiddenRoot(self) -> None:
        """
        A hidden folder that is named is read.
        """
        self.write("_out/part-0", b"x")
        self.assertEqual(records(TextFiles(self.folder / "_out")), ["x"])

    def test_emptyFolder(self) -> None:
        """
        A folder without files is empty input.
        """
        self.assertEqual(TextFiles(self.folder).splits(MIB), [])

    def test_brokenLinkInFolder(self) -> None:
        """
        A link to nowhere in a folder is an error: leaving it out would lose data.
        """
        (self.folder / "link").symlink_to("nowhere")
        error = self.assertRaises(BadInput, TextFiles(self.folder).splits, MIB)
        self.assertIn(str(self.folder / "link"), str(error))

    def test_globs(self) -> None:
        """
        A glob stands for the files that match, sorted, folders left out; C{**} goes down into folders.
        """
        for name in ("2.log", "1.log", "x.txt", "d.log/3.log"):
            self.write(name, name.encode())
        self.assertEqual(records(TextFiles(f"{self.folder}/*.log")), ["1.log", "2.log"])
        self.assertEqual(records(TextFiles(f"{self.folder}/**/[23].log")), ["2.log", "d.log/3.log"])

    def test_globLikeName(self) -> None:
        """
        A file that exists under just that name is meant, not the pattern.
        """
        self.write("1.txt", b"one")
        self.assertEqual(records(TextFiles(self.write("[1].txt", b"brackets"))), ["brackets"])

    def test_missing(self) -> None:
        """
        A missing file, or a glob without a match, is found before anything is read, and is named.
        """
        here = self.write("here.txt", b"x")
        for missing in (f"{self.folder}/gone.txt", f"{self.folder}/*.gone", f"{here}/below.txt"):
            error = self.assertRaises(BadInput, TextFiles([here, missing]).splits, MIB)
            self.assertIn(missing, str(error))

    def test_pipe(self) -> None:
        """
        What can be read only once is refused: a second attempt would find nothing.
        """
        path = self.folder / "pipe"
        os.mkfifo(path)
        self.assertIn("not a regular file", str(self.assertRaises(BadInput, TextFiles(path).splits, MIB)))

    def test_otherFolder(self) -> None:
        """
        Splits stay right when the process that reads them is in another folder.
        """
        self.write("a.txt", b"a")
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.folder)
        (split,) = TextFiles("a.txt").splits(MIB)
        os.chdir(before)
        self.assertEqual(list(split.read()), ["a"])

    def test_madeUpFiles(self) -> None:
        """
        A file that has no size but content, as in /proc, is read.
        """
        if not os.path.exists("/proc/self/status"):
            raise self.skipTest("there is no /proc")  # type: ignore[func-returns-value]
        self.assertTrue(records(TextFiles("/proc/self/status"))[0].startswith("Name:"))

    def test_paths(self) -> None:
        """
        What is no path is refused, and an empty one too: it would be the current folder.
        """
        self.assertRaises(BadInput, TextFiles, "")
        self.assertRaises(BadInput, TextFiles, 5)
        self.assertRaises(BadInput, TextFiles, ["a", 5])


class PlanTests(FilesCase):
    """
    The shape of the splits.
    """

    def sparse(self, name: str, size: int) -> str:
        path = self.write(name, b"")
        os.truncate(path, size)
        return path

    def test_nearEqual(self) -> None:
        """
        A large file is cut in near-equal ranges of no more than the blocksize, side by side.
        """
        path = self.sparse("large", 10 * MIB + 1)
        splits = TextFiles(path).splits(MIB)
        ranges = [split.pieces[0][1:] for split in splits]
        self.assertEqual(ranges[0][0], 0)
        self.assertEqual(ranges[-1][1], 10 * MIB + 1)
        self.assertEqual([end for _, end in ranges[:-1]], [start for start, _ in ranges[1:]])
        sizes = [split.nbytes for split in splits]
        self.assertTrue(max(sizes) <= MIB and max(sizes) - min(sizes) <= 1)

    def test_target(self) -> None:
        """
        Splits grow with the input: a 256th of it, within 256 KiB and the blocksize.
        """
        counts = [len(TextFiles(self.sparse("f", n * MIB)).splits(32 * MIB)) for n in (1, 64, 1000, 100_000)]
        self.assertEqual(counts, [4, 256, 256, 3125])
        self.assertEqual(len(TextFiles(self.sparse("f", MIB)).splits(1024)), 1024)

    def test_ownBlocksize(self) -> None:
        """
        The source's own blocksize comes before the policy's.
        """
        path = self.sparse("f", MIB)
        self.assertEqual(len(TextFiles(path, blocksize="64KiB").splits(MIB)), 16)
        self.assertRaises(BadInput, TextFiles, path, blocksize="many")

    def test_smallFiles(self) -> None:
        """
        Small files are packed together, in order, so that thousands of them are a few dozen tasks.
        """
        paths = [self.sparse(f"{number:04}", 15_000) for number in range(2000)]
        splits = TextFiles(self.folder).splits(32 * MIB)
        self.assertTrue(50 < len(splits) < 250, len(splits))
        self.assertEqual([piece[0] for split in splits for piece in split.pieces], paths)
        self.assertEqual(sum(split.nbytes for split in splits), 2000 * 15_000)

    def test_manyEmptyFiles(self) -> None:
        """
        Opening a file counts too: empty files are not all one task.
        """
        for number in range(200):
            self.write(f"{number}", b"")
        self.assertTrue(2 <= len(TextFiles(self.folder).splits(32 * MIB)) <= 20)
        self.assertEqual(records(TextFiles(self.folder)), [])

    @given(st.lists(st.integers(0, 600_000), max_size=8), st.integers(10_000, 400_000))
    @settings(max_examples=30)
    def test_everyByteOnce(self, sizes: list[int], blocksize: int) -> None:
        """
        Whatever the sizes of files, each byte of each is in one split, and no split of several pieces is too large.
        """
        paths = [self.sparse(f"{number}", size) for number, size in enumerate(sizes)]
        splits = TextFiles(paths).splits(blocksize)
        covered = dict.fromkeys(paths, 0)
        for split in splits:
            self.assertTrue(split.nbytes <= blocksize)
            for path, start, end in split.pieces:
                self.assertEqual(covered[path], start)
                covered[path] = end or 0
        self.assertEqual(list(covered.values()), sizes)

    def test_names(self) -> None:
        """
        A split says in words what it reads.
        """
        path = self.write("a.txt", b"12345678")
        first, second = TextFiles(path).splits(4)
        self.assertEqual([str(first), str(second)], [f"{path}, bytes 0 to 4", f"{path}, bytes 4 to 8"])
        (both,) = TextFiles([path, path]).splits(MIB)
        self.assertEqual(str(both), f"{path} to {path} (2 pieces)")
        (packed,) = TextFiles(self.write("a.gz", gzip.compress(b"x"))).splits(MIB)
        self.assertEqual(str(packed), packed.pieces[0][0])

    def test_protocols(self) -> None:
        """
        Sources and splits are what the protocols say, and plain data is not.
        """
        source = TextFiles(self.write("a.txt", b"x"))
        self.assertIsInstance(source, Source)
        self.assertIsInstance(source.splits(1)[0], Split)
        self.assertNotIsInstance(["x"], Source)
        self.assertEqual((source.blocks, source.splits(1)[0].blocks), (False, False))

    def test_small(self) -> None:
        """
        A split is a few hundred bytes to send, and pickles as an equal one.
        """
        (split,) = TextFiles(self.write("a.txt", b"x")).splits(MIB)
        data = pickle.dumps(split)
        self.assertEqual(pickle.loads(data), split)
        self.assertTrue(len(data) < 400 + len(str(self.folder)))


class CompressedTests(FilesCase):
    """
    Files are decompressed by suffix.
    """

    def test_suffixes(self) -> None:
        """
        Each kind is one split however small the blocksize, and gives the lines of what it holds.
        """
        lines = [f"line {number}" for number in range(50_000)]
        content = "\r\n".join(lines).encode()
        for suffix, data in (
            (".gz", gzip.compress(content)),
            (".GZ", gzip.compress(content[:99]) + gzip.compress(content[99:])),
            (".bz2", bz2.compress(content)),
            (".xz", lzma.compress(content)),
            (".lzma", lzma.compress(content, lzma.FORMAT_ALONE)),
        ):
            source = TextFiles(self.write(f"f{suffix}", data))
            self.assertEqual(records(source, 1000), lines)
            self.assertEqual(len(source.splits(1000)), 1)
            self.assertEqual(b"".join(records(TextFiles(source.paths, blocks=True))), content)

    def test_wideInside(self) -> None:
        """
        A compressed file can be in UTF-16.
        """
        path = self.write("a.gz", gzip.compress("a\nb\u010a".encode("utf-16")))
        self.assertEqual(records(TextFiles(path, encoding="utf-16")), ["a", "b\u010a"])


class RemoteTests(FilesCase):
    """
    URLs go through fsspec.
    """

    def memory(self, name: str, content: bytes) -> str:
        import fsspec

        url = f"memory://{self.id()}/{name}"
        with fsspec.open(url, "wb") as file:
            file.write(content)
        return url

    def test_read(self) -> None:
        """
        A URL is one split, decompressed by its suffix.
        """
        plain, packed = self.memory("a.txt", b"a\nb\n"), self.memory("c.txt.gz", gzip.compress(b"c\n"))
        local = self.write("d.txt", b"d")
        source = TextFiles([plain, local, packed, f"file://{local}"])
        self.assertEqual(records(source, 1), ["a", "b", "d", "c", "d"])
        names = [str(split) for split in source.splits(MIB)]
        self.assertEqual(names, [plain, f"{local}, bytes 0 to 1", packed, f"file://{local}"])

    def test_folderAndGlob(self) -> None:
        """
        A remote folder and a glob stand for the files in them, sorted.
        """
        for name in ("b", "a", "d/c"):
            self.memory(f"in/{name}", name.encode())
        self.assertEqual(records(TextFiles(f"memory://{self.id()}/in")), ["a", "b", "d/c"])
        self.assertEqual(records(TextFiles(f"memory://{self.id()}/in/*")), ["a", "b"])

    def test_missing(self) -> None:
        """
        A remote file that is not there, a glob without a match, and a store that nobody knows are named.
        """
        for url in ("memory://no/such", "memory://no/*.txt", "nosuchstore://a/b"):
            self.assertIn(url, str(self.assertRaises(BadInput, TextFiles(url).splits, MIB)))

    def test_withoutFsspec(self) -> None:
        """
        Without fsspec the message says what to install, and local files need none.
        """
        with mock.patch.dict(sys.modules, {"fsspec": None}):
            error = self.assertRaises(BadInput, TextFiles("s3://bucket/a.txt").splits, MIB)
            self.assertEqual(records(TextFiles(self.write("a.txt", b"a"))), ["a"])
        self.assertIn("pip install 'txmapreduce[remote]'", str(error))

    def test_suffix(self) -> None:
        """
        The suffix is that of the file, not of a query or of an archive around it.
        """
        suffixes = {
            "https://host/a.gz?token=x.txt": ".gz",
            "https://host.gz/a": "",
            "simplecache::s3://bucket/a.xz": ".xz",
            "zip://a.txt::file:///b.zip": ".txt",
        }
        self.assertEqual({url: reading.suffix_of(url) for url in suffixes}, suffixes)


class OptionTests(SynchronousTestCase):
    """
    Options are checked when the source is made.
    """

    def test_unknown(self) -> None:
        """
        Unknown encodings and ways to handle errors are refused.
        """
        self.assertIn("utf-9", str(self.assertRaises(BadInput, TextFiles, "a", encoding="utf-9")))
        self.assertIn("shrug", str(self.assertRaises(BadInput, TextFiles, "a", errors="shrug")))
        self.assertRaises(BadInput, TextFiles, "a", encoding="rot13")

    def test_wideBlocks(self) -> None:
        """
        Blocks can't be cut at bytes of 10 in UTF-16.
        """
        self.assertRaises(BadInput, TextFiles, "a", encoding="utf-16", blocks=True)

    def test_frozen(self) -> None:
        """
        A source is a value: equal when made alike, hashable, not to be changed, and shown with all it was given.
        """
        one, two = TextFiles("a", blocksize="1KiB"), TextFiles(["a"], blocksize=1024)
        self.assertEqual((one, hash(one)), (two, hash(two)))
        self.assertRaises(AttributeError, setattr, one, "blocks", True)
        self.assertEqual(
            repr(one), "TextFiles(paths=('a',), blocksize=1024, encoding='utf-8', errors='strict', blocks=False)"
        )

    def test_alias(self) -> None:
        """
        However the encoding is spelled, it is the same one.
        """
        self.assertEqual(TextFiles("a", encoding="UTF8"), TextFiles("a"))
        self.assertEqual(codecs.lookup(TextFiles("a", encoding="UTF_8_SIG").encoding).name, "utf-8-sig")


class ParseBytesTests(SynchronousTestCase):
    """
    Sizes as text.
    """

    def test_sizes(self) -> None:
        """
        IEC units are powers of 1024, SI units powers of 1000, and nothing is lost to rounding.
        """
        sizes = {
            "32MiB": 32 * MIB,
            "1.5GB": 1_500_000_000,
            " 64 kb ": 64_000,
            "2.3MB": 2_300_000,
            "4096": 4096,
            "1b": 1,
            "2Ki": 2048,
            "1TiB": 1024**4,
            "3P": 3 * 10**15,
        }
        self.assertEqual({text: parse_bytes(text) for text in sizes}, sizes)
        self.assertEqual(parse_bytes(7), 7)

    def test_noSize(self) -> None:
        """
        Anything else is refused, and quoted.
        """
        for bad in ("", "MiB", "1.MiB", "-1", "1e6", "5 bytes", "0", "0.1", 0, -5, True, 1.5, None, "\u0661", "iB"):
            error = self.assertRaises(BadInput, parse_bytes, bad)
            self.assertIn(repr(bad), str(error))


class Ones:
    """
    The old way to be iterable.
    """

    def __getitem__(self, index: int) -> int:
        if index > 2:
            raise IndexError
        return 1


class Backwards(list[int]):
    """
    A list that iterates otherwise than it is sliced.
    """

    def __iter__(self) -> Iterator[int]:
        return iter(self[::-1])


class FeedTests(SynchronousTestCase):
    """
    Records are pulled as they are asked for.
    """

    def drain(self, data: object, count: int) -> list[Any]:
        feed, taken = records_of(data), []
        while part := feed.take(count):
            self.assertTrue(len(part) <= count)
            taken.extend(part)
        return taken

    @given(st.integers(0, 20), st.integers(1, 7))
    def test_law(self, length: int, count: int) -> None:
        """
        Whatever is iterated over, the records are those that a loop would see.
        """
        numbers = list(range(length))
        for data in (
            numbers,
            tuple(numbers),
            range(length),
            dict.fromkeys(numbers),
            set(numbers),
            "abc" * length,
            bytes(numbers),
            UserList(numbers),
            Backwards(numbers),
            Ones(),
        ):
            self.assertEqual(self.drain(data, count), list(data))
        self.assertEqual(self.drain((n for n in numbers), count), numbers)

    def test_numpy(self) -> None:
        """
        An array gives what iterating over it gives: numpy scalars, or rows.
        """
        found = self.drain(numpy.arange(3), 2)
        self.assertEqual([type(each) for each in found], [numpy.arange(1).dtype.type] * 3)
        self.assertEqual([row.tolist() for row in self.drain(numpy.eye(2), 5)], [[1.0, 0.0], [0.0, 1.0]])
        self.assertEqual(records_of(numpy.eye(4)).length, 4)

    def test_slices(self) -> None:
        """
        A range gives ranges, which are small to send; taking from a list leaves it as it is.
        """
        self.assertEqual(records_of(range(10**12)).take(10**6), range(10**6))
        data = [1, 2, 3]
        self.assertEqual(records_of(data).take(2), [1, 2])
        self.assertEqual(data, [1, 2, 3])

    def test_neverFurther(self) -> None:
        """
        Not one record more is pulled than was asked for, and none before.
        """
        pulled: list[int] = []
        feed = records_of(pulled.append(n) or n for n in range(10))  # type: ignore[func-returns-value]
        self.assertEqual(pulled, [])
        feed.take(3)
        self.assertEqual(pulled, [0, 1, 2])

    def test_ends(self) -> None:
        """
        After its end a feed stays empty, even when the iterator would go on.
        """
        feed = records_of(_Restarting())
        self.assertEqual(feed.take(5), [1])
        self.assertEqual(feed.take(5), [])

    def test_lengths(self) -> None:
        """
        The length is known where the data tells, and only where it is that of the iteration.
        """
        sized: list[Sequence[int] | set[int] | dict[int, int]] = [[1, 2], (1, 2), range(2), {1: 1, 2: 2}, {1, 2}, b"ab"]
        self.assertEqual([records_of(each).length for each in sized], [2] * 6)
        self.assertEqual(records_of("ab").length, 2)
        self.assertIsNone(records_of(iter([1])).length)
        self.assertIsNone(records_of(_Frame()).length)

    def test_raises(self) -> None:
        """
        An exception of the data comes out as it is, once its turn has come.
        """

        def data() -> Iterator[int]:
            yield 1
            raise KeyError("mine")

        feed = records_of(data())
        self.assertEqual(feed.take(1), [1])
        self.assertRaises(KeyError, feed.take, 1)

    def test_close(self) -> None:
        """
        Closing runs a generator's cleanup, and gives no more records.
        """
        log: list[str] = []

        def data() -> Iterator[int]:
            try:
                yield from range(10)
            finally:
                log.append("closed")

        feed = records_of(data())
        feed.take(1)
        feed.close()
        self.assertEqual((log, feed.take(1)), (["closed"], []))
        feed.close()

    def test_closeFromInside(self) -> None:
        """
        A generator that ends the run while it is being pulled from is left alone.
        """

        def data() -> Iterator[int]:
            yield 1
            feed.close()
            yield 2

        feed = records_of(data())
        self.assertEqual(feed.take(2), [1, 2])

    def test_closeKeepsFiles(self) -> None:
        """
        A file given as data is its owner's to close.
        """
        path = self.mktemp()
        Path(path).write_text("a\nb\n")
        with open(path) as file:
            feed = records_of(file)
            feed.take(1)
            feed.close()
            self.assertFalse(file.closed)
        records_of([1]).close()

    def test_notIterable(self) -> None:
        """
        What can't be iterated over is refused by its type's name.
        """
        self.assertIn("'int'", str(self.assertRaises(BadInput, records_of, 5)))
        self.assertIn("0-d", str(self.assertRaises(BadInput, records_of, numpy.array(5))))
        self.assertRaises(BadInput, records_of, None)

    def test_async(self) -> None:
        """
        Asynchronous data is told apart, and is no feed.
        """

        async def data() -> Any:
            yield 1

        self.assertTrue(is_async(data()))
        self.assertFalse(is_async([1]))
        self.assertIn("async_generator", str(self.assertRaises(BadInput, records_of, data())))


class _Restarting:
    """
    An iterator that goes on after its end.
    """

    def __init__(self) -> None:
        self.calls = 0

    def __iter__(self) -> _Restarting:
        return self

    def __next__(self) -> int:
        self.calls += 1
        if self.calls % 2 == 0:
            raise StopIteration
        return self.calls


class _Frame:
    """
    Like a pandas DataFrame: its length is that of its rows, and it iterates over its columns.
    """

    def __len__(self) -> int:
        return 100

    def __iter__(self) -> Iterator[str]:
        return iter(["a", "b"])


class WeightTests(SynchronousTestCase):
    def test_importIsLight(self) -> None:
        """
        Workers import this module: no decompressor, no fsspec and no Twisted comes with it.
        """
        program = "import txmapreduce.inputs, txmapreduce.aggregates, sys; print(*sys.modules)"
        root = Path(inputs.__file__).parent.parent
        loaded = set(subprocess.check_output([sys.executable, "-c", program], text=True, cwd=root).split())
        heavy = {"fsspec", "gzip", "bz2", "lzma", "statistics", "numpy", "twisted", "asyncio", "glob"}
        self.assertEqual(loaded & heavy, set())
