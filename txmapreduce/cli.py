"""
The command line: C{txmapreduce run}.

Options become a job, files or standard input its data, and what it gives becomes lines. Results alone go to standard
output: what functions print goes to standard error, as do errors, one line each. The exit status is 0; 1 when the run
failed; 2 when it was not even begun; 130 after Ctrl-C; 141 when nobody reads what is written.

Click is imported here and nowhere else, and Twisted only once there is something to run.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from . import __version__
from ._cli.failures import line_of, text_of
from ._cli.lines import lines
from ._cli.names import files_of, instance, load
from ._cli.stdin import stdin_lines
from .errors import BadInput

if TYPE_CHECKING:
    from .mapreduce import MapReduce
    from .runs import Run

__all__ = ["main"]

EXIT_GRACE = 1.0
"""Seconds that this process gets to end after Ctrl-C: a function that runs in it (C{--workers 0}) may not want to."""


# The job


def _make_job(options: Mapping[str, Any], operands: list[str]) -> MapReduce:
    """
    The job that options describe, or the first of the C{operands} names, which it is removed from.
    """
    from .mapreduce import MapReduce

    ways = {name: options[name] for name in ("reduce", "reduce_by_key", "reducer", "combiner")}
    if options["mapper"] is not None:
        functions = {name: instance(load(spec)) for name, spec in ways.items() if spec is not None}
        return MapReduce(load(options["mapper"]), flat=options["flat"], policy=_make_policy(options, None), **functions)
    given = [name for name in ("flat", *ways) if options[name]]
    if given:
        raise BadInput(f"--{given[0].replace('_', '-')} goes with --mapper")
    if not operands:
        raise BadInput("name a job to run, such as script.py:job, or a --mapper")
    found = load(operands[0])
    if not isinstance(found, MapReduce):
        raise BadInput(f"{operands[0]} is no MapReduce but {found!r:.80}: a function goes with --mapper")
    del operands[0]
    return MapReduce(**{**vars(found.job), "policy": _make_policy(options, found.job.policy)})


def _make_policy(options: Mapping[str, Any], base: Any) -> Any:
    """
    C{base}, the job's own policy, with what was given as options in its place.
    """
    from .job import Policy

    names = ("chunksize", "blocksize", "retries", "task_timeout", "timeout", "max_bad_records", "seed")
    changes = {name: options[name] for name in names if options[name] is not None}
    if options["skip_bad"] or "max_bad_records" in changes:
        changes["bad_records"] = "skip"
    return dataclasses.replace(Policy() if base is None else base, **changes)


# Data and results


def _make_data(files: list[str], encoding: str, errors: str) -> Any:
    from .inputs import TextFiles

    source = TextFiles(files, encoding=encoding, errors=errors)
    if files and files != ["-"]:
        return source
    if sys.stdin is None:
        raise BadInput("there is neither a file to read nor standard input")
    from twisted.internet import reactor

    return stdin_lines(reactor, sys.stdin.fileno(), source.encoding, errors)


def _format_for(path: str | None, format: str | None) -> str:
    """
    The format to write; and see, before the work is done, that the file can be written.
    """
    if path is None:
        if sys.stdout is None:
            raise BadInput("there is no standard output: give an --output")
        return format or "jsonl"
    if os.path.isdir(path):
        raise BadInput(f"{path} is a folder")
    try:
        tempfile.TemporaryFile(dir=Path(path).resolve().parent).close()
    except OSError as error:
        raise BadInput(f"{path} can't be written: {error.strerror}") from None
    format = format or Path(path).suffix[1:]
    if format not in ("jsonl", "tsv"):
        raise BadInput(f"{path} ends neither in .jsonl nor in .tsv: give the --format")
    return format


@contextmanager
def _opened(path: str | None) -> Iterator[IO[bytes]]:
    """
    A file to write to, which takes the place of C{path} when all has been written.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(path).resolve()
    mode = target.stat().st_mode if target.exists() else None
    if mode is not None and not stat.S_ISREG(mode):  # a pipe, a device: nothing takes its place
        with open(target, "wb") as file:
            yield file
        return
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, "xb") as file:
            yield file
        if mode is not None:
            unfinished.chmod(stat.S_IMODE(mode))
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _write(result: Any, path: str | None, format: str) -> None:
    with _opened(path) as file:
        # A lone surrogate is no text in UTF-8; \udc80 is how JSON writes it.
        file.writelines(line.encode("utf-8", "backslashreplace") for line in lines(result, format))


# Errors


@contextmanager
def _told(debug: bool) -> Iterator[None]:
    """
    Errors become a line on standard error and an exit status.
    """
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer has nowhere to go
        raise SystemExit(128 + signal.SIGPIPE) from None
    except KeyboardInterrupt:
        timer = threading.Timer(EXIT_GRACE, os._exit, [128 + signal.SIGINT])
        timer.daemon = True
        timer.start()
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        if debug:
            click.echo(text_of(error), err=True, nl=False)
        click.echo(f"Error: {line_of(error)}", err=True)
        raise SystemExit(2 if isinstance(error, BadInput) else 1) from None


# The commands


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`txmapreduce run --help` shows examples.",
)
@click.version_option(__version__, prog_name="txmapreduce")
def main() -> None:
    """Map and reduce over all cores: lines of files in, JSON lines out."""


EXAMPLES = """\b
Examples:
  txmapreduce run wordcount.py:job texts/ 'logs/*.txt.gz' -o counts.tsv
  txmapreduce run --mapper words.py:words --flat --reduce aggregates:Counts texts/
  txmapreduce run --mapper words.py:pairs --reduce-by-key operator:add texts/
  cat numbers.txt | txmapreduce run --mapper builtins:int --reduce builtins:max
  txmapreduce run --backend dask --address tcp://head:8786 wordcount.py:job /shared/texts/

\b
NAME is module:name or path/to/file.py:name. The working directory and the file's folder can be imported
from. `aggregates` is txmapreduce.aggregates; an Aggregate can be named by its class.

\b
Exit status: 0; 1 when the run failed; 2 when it could not begin; 130 after Ctrl-C.
"""

_count = click.IntRange(min=1)


@main.command(epilog=EXAMPLES)
@click.argument("operands", nargs=-1, metavar="[JOB] [FILES]...")
@click.option("--mapper", metavar="NAME", help="The function to map, in place of a JOB.")
@click.option("--flat", is_flag=True, help="The mapper gives several values for each line.")
@click.option("--reduce", metavar="NAME", help="Reduce all values with this function of two, or aggregate.")
@click.option("--reduce-by-key", metavar="NAME", help="The same for each key: the mapper gives (key, value) pairs.")
@click.option("--reducer", metavar="NAME", help="A function of a key and its values that yields results.")
@click.option("--combiner", metavar="NAME", help="With --reducer: yields what stands in for some of a key's values.")
@click.option("-o", "--output", metavar="FILE", help="Written when all is done.  [default: standard output]")
@click.option(
    "--format",
    type=click.Choice(["jsonl", "tsv"]),
    help="A line for each item or key, as JSON or separated by tabs.  [default: by FILE's suffix, else jsonl]",
)
@click.option("--encoding", default="utf-8", show_default=True, help="Of the input.")
@click.option("--errors", default="strict", show_default=True, help="About bytes that are no text: strict, replace ...")
@click.option("--workers", type=click.IntRange(min=0), help="Processes; 0: in this one.  [default: all cores]")
@click.option("--backend", type=click.Choice(["processes", "dask"]), help="Where tasks run.  [default: processes]")
@click.option("--address", help="With --backend dask: of the scheduler, or its file.")
@click.option("--chunksize", type=_count, help="Lines of standard input per chunk.  [default: automatic]")
@click.option("--blocksize", metavar="SIZE", help="The most of a file that one task reads.  [default: 32MiB]")
@click.option("--retries", type=click.IntRange(min=0), help="When a worker dies or is too slow.  [default: 3]")
@click.option("--task-timeout", type=float, metavar="SECONDS", help="For one task; its worker is killed then.")
@click.option("--timeout", type=float, metavar="SECONDS", help="For the whole run.")
@click.option("--skip-bad", is_flag=True, help="Leave out lines for which the mapper raises.")
@click.option("--max-bad", "max_bad_records", type=click.IntRange(min=0), help="The same, up to so many lines.")
@click.option("--seed", type=int, help="For current_task().random.")
@click.option("--progress/--no-progress", default=None, help="A bar.  [default: on a terminal, if tqdm is there]")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def run(operands: tuple[str, ...], **options: Any) -> None:
    """
    Run a JOB on the lines of FILES: files, folders, globs, URLs. Without FILES, on those of standard input.

    JOB is the NAME of a MapReduce. The options that describe how it runs take the place of those in its policy.
    """
    with _told(options["debug"]):
        path = None if options["output"] == "-" else options["output"]
        format = _format_for(path, options["format"])
        with redirect_stdout(sys.stderr):
            finished = _carry_out(list(operands), options)
        _write(finished, path, format)


def _carry_out(files: list[str], options: Mapping[str, Any]) -> Any:
    """
    The result of what the command line asks for. Meanwhile, what is printed goes to standard error.
    """
    from .progress import need_tqdm, printing_above

    if options["progress"]:
        need_tqdm()
    named = [options[name] or "" for name in ("mapper", "reduce", "reduce_by_key", "reducer", "combiner")]
    named += files[:1] if options["mapper"] is None else []
    job = _make_job(options, files)
    data = _make_data(files, options["encoding"], options["errors"])
    backend = _make_backend(options, named)
    if not _wants_bar(options["progress"]):
        return _wait(job, data, backend, None)
    screen = sys.stderr
    with printing_above(screen):
        return _wait(job, data, backend, screen)


def _make_backend(options: Mapping[str, Any], named: list[str]) -> Any:
    """
    Where tasks run. What was named and lies here goes to a cluster as files.
    """
    workers, address = options["workers"], options["address"]
    if options["backend"] == "dask":
        if address is None:
            raise BadInput("--backend dask needs the --address of a scheduler, such as tcp://host:8786")
        if workers is not None:
            raise BadInput("--workers does not go with --backend dask: a cluster has the workers that it has")
        from .backends.dask import Dask

        return Dask(address, files=files_of(named))
    if address is not None:
        raise BadInput("--address goes with --backend dask")
    from .backends.inline import Inline
    from .backends.processes import Processes

    return Inline() if workers == 0 else Processes(workers)


def _wants_bar(progress: bool | None) -> bool:
    from importlib.util import find_spec

    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    return progress or (progress is None and on_terminal and find_spec("tqdm") is not None)


def _wait(job: MapReduce, data: Any, backend: Any, screen: Any) -> Any:
    """
    Run the job, and wait for its result. A bar is drawn on C{screen}.
    """
    from ._blocking import blocking
    from .backends.inline import Inline
    from .progress import bar

    runs: list[Run] = []

    def begin() -> Any:
        runs.append(job.start(data, backend=backend))
        if screen is not None:
            bar(runs[0], title=job.job.title, file=screen, interval=0.1 if screen.isatty() else 10)
        result = runs[0].result
        return (
            result
            if isinstance(backend, Inline)
            else result.addBoth(lambda r: backend.close().addCallback(lambda _: r))
        )

    result = blocking(begin)
    if bad := runs[0].skipped:
        click.echo(f"Left out {len(bad)} bad lines, such as: {' '.join(bad[0].reason.split())}", err=True)
    return result
