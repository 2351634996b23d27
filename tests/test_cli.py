"""
The command line. What it does with options, results and errors is tested in this process, with C{--workers 0}; what it
does with workers, pipes, signals and a terminal as a command of its own.
"""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from click.testing import CliRunner
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests import clusters
from tests.support import environment, interruptible
from txmapreduce import Policy, aggregates, cli
from txmapreduce._cli.failures import line_of
from txmapreduce._cli.lines import lines
from txmapreduce.errors import BadInput, TaskFailed
from txmapreduce.testing._case import in_thread, until

JOBS = """
import os
import re
import sys
import time
from txmapreduce import MapReduce, Policy, aggregates

def words(line):
    return re.findall("[a-z']+", line.lower())

def pairs(line):
    return [(word, 1) for word in words(line)]

def number(line):
    return int(line)

def total(key, values):
    yield key, sum(values)

def combine(key, values):
    yield sum(values)

def noisy(line):
    print("mapping", line)
    return line

def dies(line):
    os._exit(7)

def hangs(line):
    print("pid", os.getpid(), flush=True)
    time.sleep(1000)

def longest(a, b):
    return max(a, b, key=len)

counts = MapReduce(words, flat=True, reduce=aggregates.Counts())
seeded = MapReduce(number, policy=Policy(seed=1, retries=0))
best = aggregates.TopK(2)
"""

COMMAND = "import sys; del sys.path[0]; {}; from txmapreduce.cli import main; main(prog_name='txmapreduce')"
"""What the installed command does, and something before it."""


def shown(result: Any, format: str = "jsonl") -> list[str]:
    return "".join(lines(result, format)).splitlines()


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: float


class ResultTests(SynchronousTestCase):
    """
    Results become lines.
    """

    def test_list(self) -> None:
        """
        A line for each item of a list.
        """
        self.assertEqual(shown([1, "é", None, (1, 2)]), ["1", '"é"', "null", "[1, 2]"])
        self.assertEqual(shown([]), [])

    def test_dict(self) -> None:
        """
        A line for each key, in ascending order.
        """
        result = Counter({"b": 2, "a": 1})
        self.assertEqual(shown(result), ['{"key": "a", "value": 1}', '{"key": "b", "value": 2}'])
        self.assertEqual(shown(result, "tsv"), ["a\t1", "b\t2"])

    def test_keysOfSeveralTypes(self) -> None:
        """
        Keys that can't be compared come in an order that is the same every time.
        """
        one, other = {1: 0, "a": 0, None: 0}, {None: 0, "a": 0, 1: 0}
        self.assertEqual(shown(one, "tsv"), ["\t0", "1\t0", "a\t0"])
        self.assertEqual(shown(one), shown(other))

    def test_scalar(self) -> None:
        """
        One line for one value, a tuple too.
        """
        self.assertEqual(shown(5), ["5"])
        self.assertEqual(shown((1, "a")), ['[1, "a"]'])
        self.assertEqual(shown("a\nb"), [r'"a\nb"'])

    def test_set(self) -> None:
        """
        A line for each member of a set, in ascending order.
        """
        self.assertEqual(shown({3, 1, 2}), ["1", "2", "3"])

    def test_rows(self) -> None:
        """
        Of the items of a list, tuples and lists fill columns; anything in a column that is no plain value is JSON.
        """
        self.assertEqual(shown([("a", 1), ["b", None], "c", {"k": [1]}], "tsv"), ["a\t1", "b\t", "c", '{"k": [1]}'])

    def test_tsvEscapes(self) -> None:
        """
        Tabs, line ends and backslashes in text are written so that a line stays a line, and a column a column.
        """
        self.assertEqual(shown(["a\tb\nc\\d\re"], "tsv"), [r"a\tb\nc\\d\re"])

    def test_typesThatJsonHasNot(self) -> None:
        """
        Other types become the nearest that JSON has, so that a long run never ends in a result that can't be written.
        """
        import numpy

        values = [
            ({2, 1}, "[1, 2]"),
            (b"a\xff", r'"a\\xff"'),
            (Decimal("1.50"), '"1.50"'),
            (Colour.RED, '"red"'),
            (Point(1, 2.5), '{"x": 1, "y": 2.5}'),
            (numpy.int64(3), "3"),
            (numpy.arange(3), "[0, 1, 2]"),
            ({("a", 1): {2}, 3: 4}, r'{"[\"a\", 1]": [2], "3": 4}'),
            ([1.0, float("nan"), -float("inf")], "[1.0, null, null]"),
            (1 << 200, str(1 << 200)),
        ]
        for value, text in values:
            self.assertEqual(shown([value]), [text])


class Here(TestCase):
    """
    The command in this process, and files for it.
    """

    timeout = 60

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        # Each test imports a module of its own.
        self.jobs = self.file(f"jobs_of_{self.id().rpartition('.')[2]}.py", JOBS)
        self.text = self.file("text.txt", "b a\na c\n")
        self.patch(sys, "path", list(sys.path))

    def file(self, name: str, content: str) -> str:
        path = self.folder / name
        path.write_text(content, "utf-8")
        return str(path)

    def invoke(self, *arguments: str) -> Deferred[Any]:
        return in_thread(lambda: CliRunner().invoke(cli.main, ["run", "--workers", "0", *arguments]))

    async def gives(self, expected: str, *arguments: str) -> None:
        done = await self.invoke(*arguments)
        self.assertEqual((done.stdout, done.exit_code), (expected, 0), done.stderr)

    async def refuses(self, message: str, *arguments: str, code: int = 2) -> None:
        done = await self.invoke(*arguments)
        self.assertEqual((done.exit_code, done.stdout), (code, ""), done.stderr)
        self.assertIn(message, done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)


class JobTests(Here):
    """
    Names become jobs.
    """

    async def test_job(self) -> None:
        """
        A job is found in a file, or in a module of the same name from then on.
        """
        await self.gives("a\t2\nb\t1\nc\t1\n", f"{self.jobs}:counts", self.text, "--format", "tsv")
        await self.gives("a\t2\nb\t1\nc\t1\n", f"{Path(self.jobs).stem}:counts", self.text, "--format", "tsv")

    async def test_functions(self) -> None:
        """
        So are the functions of which a job can be made, in each way to reduce.
        """
        jobs = self.jobs
        numbers = self.file("numbers.txt", "1\n20\n3\n")
        await self.gives("1\n20\n3\n", "--mapper", f"{jobs}:number", numbers)
        await self.gives('"b"\n"a"\n"a"\n"c"\n', "--mapper", f"{jobs}:words", "--flat", self.text)
        await self.gives("24\n", "--mapper", f"{jobs}:number", "--reduce", "operator:add", numbers)
        await self.gives('"20"\n', "--mapper", "builtins:str", "--reduce", f"{jobs}:longest", numbers)
        await self.gives(
            "a\t2\nb\t1\nc\t1\n",
            *("--mapper", f"{jobs}:pairs", "--reduce-by-key", "operator:add", "--format", "tsv"),
            self.text,
        )
        await self.gives(
            '["a", 2]\n["b", 1]\n["c", 1]\n',
            *("--mapper", f"{jobs}:pairs", "--reducer", f"{jobs}:total", "--combiner", f"{jobs}:combine"),
            self.text,
        )

    async def test_aggregates(self) -> None:
        """
        An aggregate is named by its class, those that ship without the package's name; or it is an object in a file.
        """
        numbers = self.file("numbers.txt", "1\n20\n3\n")
        await self.gives("24\n", "--mapper", f"{self.jobs}:number", "--reduce", "aggregates:Sum", numbers)
        await self.gives("8.0\n", "--mapper", "builtins:int", "--reduce", "txmapreduce.aggregates:Mean", numbers)
        await self.gives("20\n3\n", "--mapper", "builtins:int", "--reduce", f"{self.jobs}:best", numbers)
        await self.refuses("'k'", "--mapper", "builtins:int", "--reduce", "aggregates:TopK", numbers)

    async def test_notFound(self) -> None:
        """
        What is not there is named, in one line.
        """
        await self.refuses("there is no module no_such_module", "no_such_module:job")
        await self.refuses("there is no file", f"{self.folder}/nothing.py:job")
        await self.refuses("there is no nothing in", f"{self.jobs}:nothing")
        await self.refuses("does not name anything", "just_a_word")
        await self.refuses("a function goes with --mapper", f"{self.jobs}:words")
        await self.refuses("has to be a function", "--mapper", f"{self.jobs}:counts", self.text)
        await self.refuses("name a job")

    async def test_modulesThatFail(self) -> None:
        """
        A module that can't be loaded is told from one that is not there, with the line that raised.
        """
        await self.refuses(
            "ZeroDivisionError: division by zero (in <module>, zero.py, line 2)", self.named("zero", "1/0")
        )
        await self.refuses("SyntaxError", self.named("syntax", "1 +"))
        await self.refuses("SystemExit: 3", self.named("exits", "raise SystemExit(3)"))
        await self.refuses("needs can't be loaded: ModuleNotFoundError", self.named("needs", "import no_such_module"))
        await self.refuses("has the name of another module", self.named("json", ""))

    def named(self, name: str, code: str) -> str:
        return self.file(f"{name}.py", f"\n{code}\n") + ":job"

    async def test_optionsThatDontGoTogether(self) -> None:
        """
        Options that would be ignored are refused.
        """
        await self.refuses(
            "--reduce-by-key goes with --mapper", f"{self.jobs}:counts", "--reduce-by-key", "operator:add"
        )
        await self.refuses("--flat goes with --mapper", f"{self.jobs}:counts", "--flat")
        await self.refuses("combiner goes with reducer", "--mapper", "builtins:int", "--combiner", "operator:add")

    async def test_backend(self) -> None:
        """
        A cluster has an address and its own workers.
        """
        job = f"{self.jobs}:counts"
        await self.refuses("--backend dask needs the --address", job, self.text, "--backend", "dask")
        await self.refuses("--address goes with --backend dask", job, self.text, "--address", "tcp://head:8786")
        await self.refuses("--workers does not go", job, self.text, "--backend", "dask", "--address", "tcp://head:8786")

    async def test_badOptions(self) -> None:
        """
        Options that are not there, or are no such number, are click's to refuse, with the same exit status.
        """
        for arguments in [["--no-such-option"], ["--workers", "many"], ["--chunksize", "0"]]:
            done = await self.invoke(*arguments)
            self.assertEqual(done.exit_code, 2)
        await self.refuses("is not a size", f"{self.jobs}:counts", "--blocksize", "much", self.text)
        await self.refuses("seconds above 0", f"{self.jobs}:counts", "--timeout", "0", self.text)

    def policy(self, base: Policy | None, **options: Any) -> Policy:
        names = ("chunksize", "blocksize", "retries", "task_timeout", "timeout", "max_bad_records", "seed", "skip_bad")
        policy = cli._make_policy({**dict.fromkeys(names), **options}, base)
        assert isinstance(policy, Policy)
        return policy

    def test_policy(self) -> None:
        """
        Options take the place of what the job's own policy says, and leave the rest of it.
        """
        base = Policy(seed=1, retries=0, timeout=5.0)
        self.assertEqual(self.policy(base), base)
        self.assertEqual(self.policy(base, retries=2), Policy(seed=1, retries=2, timeout=5.0))
        self.assertEqual(self.policy(None, skip_bad=True), Policy(bad_records="skip"))
        self.assertEqual(self.policy(None, max_bad_records=0), Policy(bad_records="skip", max_bad_records=0))

    def test_policyOfAJob(self) -> None:
        """
        A job that was found keeps all else that it has.
        """
        options: Mapping[str, Any] = {
            **dict.fromkeys(["mapper", "flat", "reduce", "reduce_by_key", "reducer", "combiner", "skip_bad"]),
            **dict.fromkeys(["chunksize", "blocksize", "task_timeout", "timeout", "max_bad_records", "seed"]),
            "retries": 9,
        }
        operands = [f"{self.jobs}:counts", "a.txt"]
        job = cli._make_job(options, operands).job
        self.assertEqual((job.policy, operands), (Policy(retries=9), ["a.txt"]))
        self.assertEqual((job.flat, job.reduce), (True, aggregates.Counts()))


class OutputTests(Here):
    """
    Where results go.
    """

    async def test_suffix(self) -> None:
        """
        The format follows from the suffix, or is given.
        """
        for name, format, expected in [
            ("a.jsonl", [], '{"key": "a", "value": 2}\n'),
            ("a.tsv", [], "a\t2\n"),
            ("a.txt", ["--format", "tsv"], "a\t2\n"),
            ("a.tsv", ["--format", "jsonl"], '{"key": "a", "value": 2}\n'),
        ]:
            path = self.folder / name
            await self.gives("", f"{self.jobs}:counts", self.text, "-o", str(path), *format)
            self.assertTrue(path.read_text("utf-8").startswith(expected))
        await self.refuses("give the --format", f"{self.jobs}:counts", self.text, "-o", str(self.folder / "a.csv"))

    async def test_dash(self) -> None:
        """
        C{-o -} is standard output.
        """
        await self.gives("3\n", "--mapper", "builtins:int", "-o", "-", self.file("numbers.txt", "3"))

    async def test_failureLeavesTheFile(self) -> None:
        """
        A run that fails leaves the file that was there, and nothing else.
        """
        path = Path(self.file("out.jsonl", "old"))
        before = sorted(self.folder.iterdir())
        await self.refuses("ValueError", "--mapper", "builtins:int", self.text, "-o", str(path), code=1)
        self.assertEqual(path.read_text("utf-8"), "old")
        self.assertEqual(sorted(self.folder.iterdir()), before)

    def test_failureWhileWriting(self) -> None:
        """
        So does a failure in the midst of writing.
        """
        path = Path(self.file("out.jsonl", "old"))
        before = sorted(self.folder.iterdir())
        self.patch(cli, "lines", lambda result, format: iter(["a line", 5]))
        self.assertRaises(AttributeError, cli._write, [], str(path), "jsonl")
        self.assertEqual((path.read_text("utf-8"), sorted(self.folder.iterdir())), ("old", before))

    def test_sameFile(self) -> None:
        """
        A file that is replaced keeps its mode, and a link to it stays a link.
        """
        path = Path(self.file("out.jsonl", "old"))
        path.chmod(0o640)
        link = self.folder / "link.jsonl"
        link.symlink_to(path)
        cli._write([1], str(link), "jsonl")
        self.assertEqual((path.read_text("utf-8"), path.stat().st_mode & 0o777), ("1\n", 0o640))
        self.assertTrue(link.is_symlink())

    def test_device(self) -> None:
        """
        A device or a pipe is written to, not replaced.
        """
        cli._write([1], os.devnull, "jsonl")
        self.assertFalse(Path(os.devnull).is_file())

    def test_textThatIsNone(self) -> None:
        """
        A lone surrogate, as names of files may have it, is written the way JSON does.
        """
        path = self.folder / "out.jsonl"
        cli._write(["a\udcff"], str(path), "jsonl")
        self.assertEqual(path.read_bytes(), b'"a\\udcff"\n')

    async def test_notWritable(self) -> None:
        """
        Where nothing can be written is known before the work is done.
        """
        missing = str(self.folder / "nowhere" / "out.tsv")
        await self.refuses("can't be written", f"{self.jobs}:counts", self.text, "-o", missing)
        await self.refuses("is a folder", f"{self.jobs}:counts", self.text, "-o", str(self.folder))


class ErrorTests(Here):
    """
    Errors are one line each.
    """

    async def test_whoRaisedWhatWhere(self) -> None:
        """
        The line names the exception, the record, the function, its file and its line.
        """
        done = await self.invoke("--mapper", f"{self.jobs}:number", self.text)
        line = JOBS.splitlines().index("    return int(line)") + 1
        self.assertIn("ValueError: invalid literal for int() with base 10: 'b a'", done.stderr)
        self.assertIn(f"(in number, {Path(self.jobs).name}, line {line})", done.stderr)
        self.assertIn("record 0 of chunk 0", done.stderr)
        self.assertEqual((done.exit_code, done.stderr.count("\n")), (1, 1))

    async def test_debug(self) -> None:
        """
        With C{--debug} the traceback stands before it.
        """
        done = await self.invoke("--mapper", f"{self.jobs}:number", self.text, "--debug")
        self.assertIn("Traceback (most recent call last)", done.stderr)
        self.assertTrue(done.stderr.splitlines()[-1].startswith("Error: "))

    def test_functionInC(self) -> None:
        """
        A function that has no lines has no place either.
        """
        self.assertEqual(
            line_of(TaskFailed("the mapper raised", remote_traceback="ValueError: x")), "the mapper raised"
        )

    def test_anyError(self) -> None:
        """
        Whatever the text of an error looks like, it is a line.
        """
        self.assertEqual(line_of(KeyError("a\n\tb")), "KeyError: 'a\\n\\tb'")
        self.assertEqual(line_of(ValueError("a\n\tb")), "ValueError: a b")
        self.assertEqual(line_of(ValueError()), "ValueError")
        self.assertEqual(line_of(BadInput("no\nfile")), "no file")

    async def test_skipBad(self) -> None:
        """
        Bad lines can be left out: how many is told, and there can be a limit.
        """
        numbers = self.file("numbers.txt", "1\nx\n2\ny\n")
        done = await self.invoke("--mapper", f"{self.jobs}:number", numbers, "--skip-bad")
        self.assertEqual((done.stdout, done.exit_code, done.stderr.count("\n")), ("1\n2\n", 0, 1))
        self.assertIn("Left out 2 bad lines", done.stderr)
        await self.refuses("more than 1 bad records", "--mapper", "builtins:int", numbers, "--max-bad", "1", code=1)

    async def test_missingFile(self) -> None:
        """
        A file that is not there is an error of usage.
        """
        await self.refuses("nothing.txt", f"{self.jobs}:counts", str(self.folder / "nothing.txt"))
        await self.refuses("no-such-encoding", f"{self.jobs}:counts", self.text, "--encoding", "no-such-encoding")

    async def test_encoding(self) -> None:
        """
        Bytes that are no text are an error, unless it is said what to do about them.
        """
        path = self.folder / "latin.txt"
        path.write_bytes(b"caf\xe9\n")
        await self.refuses("UnicodeDecodeError", "--mapper", "builtins:str", str(path), code=1)
        await self.gives('"café"\n', "--mapper", "builtins:str", str(path), "--encoding", "latin-1")
        await self.gives('"caf\ufffd"\n', "--mapper", "builtins:str", str(path), "--errors", "replace")

    async def test_help(self) -> None:
        """
        Help has all options and examples.
        """
        done = await in_thread(lambda: CliRunner().invoke(cli.main, ["run", "--help"]))
        for text in ["--reduce-by-key", "--task-timeout", "Examples:", "Exit status:"]:
            self.assertIn(text, done.stdout)


class There(Here):
    """
    The command as a process of its own, with workers.
    """

    def command(self, *arguments: str, first: str = "pass") -> list[str]:
        return [sys.executable, "-c", COMMAND.format(first), *arguments]

    def spawn(self, *arguments: str, first: str = "pass", **options: Any) -> subprocess.Popen[Any]:
        command = self.command(*arguments, first=first)
        with interruptible():
            process = subprocess.Popen(command, env=environment(), cwd=self.folder, **options)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    async def output(
        self, *arguments: str, stdin: str | None = None, first: str = "pass"
    ) -> subprocess.CompletedProcess[str]:
        def call() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                self.command(*arguments, first=first),
                input=stdin,
                stdin=None if stdin is not None else subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                timeout=self.timeout,
                env=environment(),
                cwd=self.folder,
            )

        done = await in_thread(call)
        assert isinstance(done, subprocess.CompletedProcess)
        return done

    def assertDone(self, done: subprocess.CompletedProcess[str], stdout: str, stderr: str = "") -> None:
        self.assertEqual((done.stdout, done.stderr, done.returncode), (stdout, stderr, 0))


class ProcessTests(There):
    """
    Whole runs.
    """

    async def test_job(self) -> None:
        """
        A job of a file, found by its path or from the working directory, runs in workers, on files, folders and globs.
        """
        (self.folder / "texts").mkdir()
        self.file("texts/one.txt", "a b\n" * 10_000)
        self.file("texts/two.txt", "a c\n" * 10_000)
        for job in [self.jobs, Path(self.jobs).stem]:
            done = await self.output("run", f"{job}:counts", "texts", "t*.txt", "--workers", "2")
            counts = {"a": 20_002, "b": 10_001, "c": 10_001}
            self.assertDone(done, "".join(f'{{"key": "{key}", "value": {n}}}\n' for key, n in counts.items()))

    async def test_standardInput(self) -> None:
        """
        Without files the lines of standard input are mapped, without their line ends.
        """
        arguments = ["run", "--mapper", "builtins:str", "--workers", "1"]
        self.assertDone(await self.output(*arguments, stdin="é\r\n\nlast"), '"é"\n""\n"last"\n')
        self.assertDone(await self.output(*arguments, "-", stdin=""), "")

    async def test_muchStandardInput(self) -> None:
        """
        It may be longer than a pipe, and than a read.
        """
        text = "".join(f"{n:06d}\n" for n in range(100_000))
        done = await self.output("run", "--mapper", "builtins:int", "--reduce", "operator:add", stdin=text)
        self.assertDone(done, f"{sum(range(100_000))}\n")

    async def test_file(self) -> None:
        """
        A regular file can be standard input, too.
        """
        with open(self.text, "rb") as file:
            command = self.command("run", f"{self.jobs}:counts", "--format", "tsv")
            out = await in_thread(lambda: subprocess.check_output(command, stdin=file, env=environment()))
        self.assertEqual(out, b"a\t2\nb\t1\nc\t1\n")

    async def test_prints(self) -> None:
        """
        What functions print goes to standard error: standard output has results alone.
        """
        for workers in ["0", "1"]:
            done = await self.output("run", "--mapper", f"{self.jobs}:noisy", self.text, "--workers", workers)
            self.assertDone(done, '"b a"\n"a c"\n', "mapping b a\nmapping a c\n")

    async def test_failure(self) -> None:
        """
        A function that raises in a worker is told in one line.
        """
        done = await self.output("run", "--mapper", f"{self.jobs}:number", self.text)
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1), done.stderr)
        self.assertIn(
            f"ValueError: invalid literal for int() with base 10: 'b a' (in number, {Path(self.jobs).name}", done.stderr
        )

    async def test_death(self) -> None:
        """
        So is a worker that dies as often as the retries allow.
        """
        arguments = ["--mapper", f"{self.jobs}:dies", self.text, "--retries", "0", "--workers", "1"]
        done = await self.output("run", *arguments)
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1), done.stderr)
        self.assertIn("exit code 7", done.stderr)

    async def test_timeouts(self) -> None:
        """
        A task and a run that take too long are ended.
        """
        for option, text in [("--task-timeout", "ran longer than 0.1 s"), ("--timeout", "did not end within 0.1 s")]:
            arguments = ["--mapper", f"{self.jobs}:hangs", self.text, option, "0.1", "--retries", "0"]
            done = await self.output("run", *arguments)
            self.assertEqual(done.returncode, 1)
            self.assertIn(text, done.stderr.splitlines()[-1])

    async def test_helpIsQuick(self) -> None:
        """
        Help and version load no Twisted.
        """
        first = "import atexit; atexit.register(lambda: print('twisted' in sys.modules))"
        for arguments in [["--help"], ["run", "--help"], ["--version"]]:
            done = await self.output(*arguments, first=first)
            self.assertEqual(done.stdout.splitlines()[-1], "False")

    async def test_noReader(self) -> None:
        """
        When nobody reads the results any more, it ends without a word, as if the signal had ended it.
        """
        numbers = self.file("numbers.txt", "1\n" * 100_000)
        process = self.spawn(
            *("run", "--mapper", "builtins:int", numbers, "--workers", "1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        with process.stderr:
            self.assertEqual(await in_thread(process.stderr.read), b"")
        self.assertEqual(await in_thread(process.wait), 128 + signal.SIGPIPE)


class DaskTests(There):
    """
    Whole runs on a cluster, whose workers have other working directories and none of the modules.
    """

    timeout = 120

    if find_spec("distributed") is None:
        skip = "distributed is not installed"

    async def test_job(self) -> None:
        """
        What a job is made of goes to the workers: files that were named, and modules of the working directory.
        """
        self.file("helping.py", "def total(key, values):\n    yield key, sum(values)\n")
        where = ["--backend", "dask", "--address", clusters.shared().file]
        for way in [
            [f"{self.jobs}:counts", "text.txt", "--format", "tsv"],
            ["--mapper", f"{self.jobs}:pairs", "--reducer", "helping:total", "text.txt", "--format", "tsv"],
        ]:
            done = await self.output("run", *where, *way)
            self.assertEqual((done.stdout, done.returncode), ("a\t2\nb\t1\nc\t1\n", 0), done.stderr)

    async def test_noScheduler(self) -> None:
        """
        Where there is none, one line says so.
        """
        done = await self.output("run", f"{self.jobs}:counts", "text.txt", "--backend", "dask", "--address", "no.json")
        self.assertEqual((done.stdout, done.returncode, done.stderr.count("\n")), ("", 1, 1), done.stderr)
        self.assertIn("there is no scheduler file no.json", done.stderr)


class InterruptTests(There):
    """
    Ctrl-C ends it with exit status 130, without a traceback, and leaves no process.
    """

    async def interrupt(self, *arguments: str, stdin: bytes | None = None) -> None:
        process = self.spawn(
            *("run", *arguments),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None
        if process.stdin is not None:
            process.stdin.write(stdin or b"")
            process.stdin.flush()
            self.addCleanup(process.stdin.close)
        with process.stdout, process.stderr:
            said = await in_thread(process.stderr.readline)
            started = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
            process.send_signal(signal.SIGINT)
            rest = await in_thread(process.stderr.read)
            code = await in_thread(process.wait)
        self.assertTrue(said.startswith((b"pid ", b"mapping ")), said)
        self.assertEqual((code, b"Traceback" in rest, b"Error" in rest), (130, False, False), rest)
        await until(lambda: not any(map(_lives, started)))

    async def test_worker(self) -> None:
        """
        While a worker is in a function.
        """
        await self.interrupt("--mapper", f"{self.jobs}:hangs", self.text, "--workers", "2", "--chunksize", "1")

    async def test_inline(self) -> None:
        """
        While this process is in a function.
        """
        await self.interrupt("--mapper", f"{self.jobs}:hangs", self.text, "--workers", "0")

    async def test_standardInput(self) -> None:
        """
        While it waits for more lines.
        """
        await self.interrupt("--mapper", f"{self.jobs}:noisy", "--workers", "1", stdin=b"a line\n")


def _lives(pid: int) -> bool:
    """
    Whether the process is there, and not only in the table of a system where nobody collects orphans.
    """
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class TerminalTests(There):
    """
    The bar, on a terminal that is none.
    """

    async def on_terminal(self, *arguments: str, first: str = "pass") -> tuple[str, bytes]:
        """
        What came to the terminal, and to standard output.
        """
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
        try:
            process = self.spawn(
                *("run", *arguments, "--workers", "1"),
                first=first,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=theirs,
            )
        finally:
            os.close(theirs)
        assert process.stdout is not None
        with process.stdout, open(ours, "rb", buffering=0) as terminal:
            seen = await in_thread(_read_terminal, terminal)
            results = await in_thread(process.stdout.read)
        self.assertEqual(await in_thread(process.wait), 0, seen)
        return seen, results

    async def test_bar(self) -> None:
        """
        On a terminal there is a bar, with the job's name; what functions print stands above it.
        """
        seen, results = await self.on_terminal("--mapper", f"{self.jobs}:noisy", self.text)
        self.assertIn("noisy: 100%|", seen)
        self.assertIn("2 records", seen)
        self.assertIn("mapping b a\r\n", seen)
        self.assertEqual(results, b'"b a"\n"a c"\n')

    async def test_noBar(self) -> None:
        """
        There is none where it is not wanted, nor without tqdm.
        """
        arguments = ["--mapper", "builtins:str", self.text]
        self.assertEqual((await self.on_terminal(*arguments, "--no-progress"))[0], "")
        missing = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n: None if n == 'tqdm' else f(n)"
        self.assertEqual((await self.on_terminal(*arguments, first=missing))[0], "")

    async def test_notATerminal(self) -> None:
        """
        Elsewhere there is one only where it is asked for; without tqdm that is an error which says how to get it.
        """
        arguments = ["run", "--mapper", "builtins:str", self.text, "--workers", "1"]
        self.assertDone(await self.output(*arguments), '"b a"\n"a c"\n')
        self.assertIn("100%|", (await self.output(*arguments, "--progress")).stderr)
        done = await self.output(*arguments, "--progress", first="sys.modules['tqdm'] = None")
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1))
        self.assertIn("txmapreduce[progress]", done.stderr)


def _read_terminal(terminal: Any) -> str:
    parts = []
    try:
        while data := terminal.read(4096):
            parts.append(data)
    except OSError:  # Linux says so when the other side has been closed
        pass
    return b"".join(parts).decode("utf-8")
