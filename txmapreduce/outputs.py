"""
Where a run's records go, when it does not give them: sinks. Every part is written by the task that made it.

A L{Sink} is what users pass as C{output=}. For each run it gives a L{Draft}, which is sent to the workers: there
L{Draft.write} writes one part, under a name that no other attempt has. What has been written counts when the
coordinator has accepted all parts, each of them from one attempt: then L{Draft.commit} makes the output of them. A run
that comes to nothing is undone by L{Draft.abort}.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from ._files.formats import FORMATS, parquet_modules
from ._files.space import free_space
from .errors import BadInput, OutputFailed

__all__ = ["Draft", "PartFiles", "Sink", "Written"]

SUCCESS = "_SUCCESS"
"""The empty file that says that a folder is complete."""

UNFINISHED = "_temporary"
"""The folder, inside the output's, of what has been written and not accepted. Readers skip such names."""

MOST_PARTS = 1_000_000
"""As many as six digits can number, so that the order of the names is that of the parts."""


class Draft(Protocol):
    """
    The output of one run while it is being made. It is pickled and sent to the workers, so it holds no open file.
    """

    def write(self, records: Iterator[Any], attempt: int) -> Any:
        """
        Called in a worker, once for each attempt at a part: write all C{records}, to a place of its own.

        The worker may be killed at any time. Another attempt at the same part may run at the same time.

        @param attempt: a number that no other attempt of the run has.
        @return: a receipt: something small that pickles (with C{trust="data"}: plain data), for L{commit}.
        @raise Exception: what is raised here fails the task, as your mapper's exceptions do.
        """

    def commit(self, receipts: Sequence[Any]) -> Any:
        """
        Called once in a thread of the coordinator's process, when the run is complete and no worker writes any more:
        make the output of the parts that count. What other attempts have written is to go.

        @param receipts: one for each part, in the parts' order.
        @return: what the run fires with.
        """

    def abort(self) -> None:
        """
        Called instead of L{commit}, or when that has raised: remove everything. Workers of the run may just be dying.
        """


@runtime_checkable
class Sink(Protocol):
    """
    What C{output=} takes.
    """

    def begin(self) -> Draft:
        """
        Called at the start of each run, in a thread of the coordinator's process: see that the output can be made.

        @raise BadInput: it can't.
        """


@dataclass(frozen=True)
class Written:
    """
    What a run with C{output=PartFiles(...)} fires with.

    @ivar folder: the absolute path of the folder.
    @ivar parts: the paths of the part files, in order.
    @ivar records: how many records there are in all of them.
    @ivar nbytes: how many bytes they have.
    """

    folder: str
    parts: tuple[str, ...]
    records: int
    nbytes: int


@dataclass(frozen=True)
class PartFiles:
    """
    A folder of part files, C{part-000000.jsonl} and so on: one for each partition of a job by key, one for each map
    task of a job that does not reduce, a single one for C{reduce}. In the order of their names they have the records in
    the order that the job gives them, where there is one. An empty file C{_SUCCESS} is the last thing that is made: a
    folder without it is not complete.

    A part is written in a folder C{_temporary} and takes its name when the run is complete; a run that fails or is
    cancelled removes the folder.

      - C{"jsonl"}: a line of JSON for each record. Tuples become arrays; what JSON has no place for is an error, C{nan}
        too;
      - C{"tsv"}: a line for each record, whose fields, text or numbers, stand between tabs. There is no way to write a
        tab or a line end in a field, so they are errors;
      - C{"text"}: a line for each record, which has to be text without a line end;
      - C{"pickle"}: for records of any type that can be pickled, see L{PickleFiles};
      - C{"parquet"}: a row for each record: a dict has a column for each key, a pair the columns C{key} and C{value},
        and anything else the column C{value}. It needs pyarrow: C{pip install 'txmapreduce[parquet]'}. A part without
        records has no file, since it has no columns.

    @ivar folder: where to write. The folder above it has to exist, and it must not, unless C{overwrite} is set.
    @ivar compression: C{"gzip"}, C{"bz2"} or C{"xz"} for whole files; for Parquet C{"snappy"} (its default), C{"gzip"},
        C{"zstd"}, C{"lz4"} or C{"brotli"}.
    @ivar overwrite: a folder that is there is replaced, all of it, when the run has ended well; until then it stays.
    """

    folder: str
    format: Literal["jsonl", "tsv", "text", "pickle", "parquet"] = "jsonl"
    compression: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """
        @raise BadInput: a value that can't be used. The folder is looked at when a run begins.
        """
        if not isinstance(self.folder, (str, os.PathLike)) or not os.fspath(self.folder):
            raise BadInput(f"PartFiles takes the path of a folder, not {self.folder!r}")
        object.__setattr__(self, "folder", os.path.abspath(os.fsdecode(self.folder)))
        if self.format not in FORMATS:
            raise BadInput(f"format is one of {', '.join(FORMATS)}, not {self.format!r}")
        known = FORMATS[self.format].compressions
        if self.compression is not None and self.compression not in known:
            raise BadInput(f"compression is None or one of {', '.join(known)} here, not {self.compression!r}")
        if not isinstance(self.overwrite, bool):
            raise BadInput(f"overwrite is True or False, not {self.overwrite!r}")

    def begin(self) -> PartDraft:
        """
        Make the folder, or one beside it that is to take its place.

        @raise BadInput: the folder is there already, or can't be made.
        """
        if self.format == "parquet":
            parquet_modules()
        target = os.path.realpath(self.folder)
        there = os.path.lexists(target)
        if there and not self.overwrite:
            raise BadInput(f"the folder {self.folder} is there already: name another one, or say overwrite=True")
        if there and (not os.path.isdir(target) or os.path.ismount(target)):
            raise BadInput(f"{self.folder} can't be replaced by a folder: it is a file, or where a disk is mounted")
        parent, name = os.path.split(target)
        work = os.path.join(parent, f".{name}.{os.urandom(6).hex()}.tmp") if there else target
        _make(work, self.folder)
        return PartDraft(target, work, self.format, self.compression)


@dataclass(frozen=True)
class PartDraft:
    """
    Part files of one run.

    @ivar folder: where they are to be in the end. C{work}: where they are until then, maybe the same.
    """

    folder: str
    work: str
    format: str
    compression: str | None

    def write(self, records: Iterable[Any], attempt: int) -> tuple[int, int, int]:
        """
        Write one part, and see that it is on disk.

        @return: the attempt, the number of records, and that of bytes.
        """
        path = self._unfinished(attempt)
        try:
            with io.BufferedWriter(_Part(path, self.folder)) as file:
                count = FORMATS[self.format].write(file, records, self.compression)
                file.flush()
                os.fsync(file.fileno())
                return attempt, count, os.fstat(file.fileno()).st_size
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise

    def _unfinished(self, attempt: int) -> str:
        return os.path.join(self.work, UNFINISHED, f"attempt-{attempt}")

    def commit(self, receipts: Sequence[tuple[int, int, int]]) -> Written:
        """
        Give the parts their names, then mark the folder as complete, and put it into the place of the old one.

        @raise OutputFailed: that was not possible.
        """
        if len(receipts) > MOST_PARTS:
            raise OutputFailed(f"{len(receipts)} parts are too many for {self.folder}: give a larger chunksize")
        try:
            names = self._accept(receipts)
            _remove(os.path.join(self.work, UNFINISHED))
            _sync(self.work)  # the parts have their names before the folder says that it is complete
            _sync(self.work, SUCCESS)
            if self.work != self.folder:
                self._replace()
            _sync(os.path.dirname(self.folder))
        except OSError as error:
            room = free_space(error, self.folder)
            raise OutputFailed(f"the output {self.folder} can't be completed: {error}{room}") from error
        parts = tuple(os.path.join(self.folder, name) for name in names)
        return Written(self.folder, parts, sum(each[1] for each in receipts), sum(each[2] for each in receipts))

    def _accept(self, receipts: Sequence[tuple[int, int, int]]) -> list[str]:
        names, suffix = [], FORMATS[self.format].suffix_with(self.compression)
        for number, (attempt, _, nbytes) in enumerate(receipts):
            if nbytes or self.format != "parquet":
                names.append(f"part-{number:06d}{suffix}")
                os.rename(self._unfinished(attempt), os.path.join(self.work, names[-1]))
        return names

    def _replace(self) -> None:
        """
        Put the new folder into the place of the old one, which is set aside first: no system call takes its place.
        """
        old = f"{self.work[:-4]}.old"
        os.rename(self.folder, old)
        try:
            os.rename(self.work, self.folder)
        except OSError:
            os.rename(old, self.folder)
            raise
        _remove(old)

    def abort(self) -> None:
        """
        Remove all that has been written.
        """
        _remove(os.path.join(self.work, UNFINISHED))  # from now on nobody can write anything
        _remove(self.work)


class _Part(io.FileIO):
    """
    A new file whose errors say where there is no room.
    """

    def __init__(self, path: str, folder: str) -> None:
        super().__init__(path, "xb")
        self._folder = folder

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise _explained(error, self._folder) from error


def _make(work: str, folder: str) -> None:
    try:
        os.mkdir(work)
        try:
            os.mkdir(os.path.join(work, UNFINISHED))
        except OSError:
            os.rmdir(work)
            raise
    except OSError as error:
        raise BadInput(f"the folder {folder} can't be made: {_explained(error, folder)}") from error


def _explained(error: OSError, folder: str) -> OSError:
    return OSError(error.errno, f"{error.strerror}: {folder}{free_space(error, folder)}")


def _sync(folder: str, name: str | None = None) -> None:
    """
    See that what was done in a folder is on disk; a file of that C{name} is made in it first.
    """
    if name is not None:
        os.close(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(folder: str) -> None:
    """
    Remove a folder with all that is in it, also where a worker that is just dying still makes a file there.
    """
    while os.path.isdir(folder):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
