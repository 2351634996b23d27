"""
A run that can be gone on with: what its tasks gave is written to a journal before it counts.

L{CheckpointedSession} stands between the coordinator and a backend's session. A chunk that the journal has is not
submitted: what it gave comes from there. What any other chunk gives is passed on once it is on disk; what arrives while
a write is under way is the next batch. The file is read and written in threads, by one of them at a time, and locked as
long as the run lasts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from .._files.space import free_space
from .._schedule.events import Attempt, FoldAttempt, Handle, MapAttempt, Outcome
from .._values.codec import Buffer
from .._wire.messages import Report
from ..backends import Chunk, PortableSession, Session
from ..errors import BadInput, CheckpointFailed, MapReduceError
from ..job import Job
from .identity import digest_of, digest_of_function
from .journal import FAMILY, MAGIC, Commit, Identity, records, sealed

__all__ = ["CheckpointedSession", "JournalFile", "checkpointed", "identity_of"]


def checkpointed(session: PortableSession, job: Job, splits: bool) -> Session:
    """
    The session, or one that journals what it does where the policy says so.
    """
    path = job.policy.checkpoint
    if path is None:
        return session
    return CheckpointedSession(session, JournalFile(os.fspath(path), identity_of(job, splits)))


def identity_of(job: Job, splits: bool) -> Identity:
    """
    Whose journal the runs of C{job} write.
    """
    policy = job.policy
    words = {
        "flat": job.flat,
        "batched": job.batched,
        "bad_records": policy.bad_records,
        "seed": policy.seed,
        "trust": policy.trust,
        "chunksize": policy.chunksize if splits else policy.fixed_chunksize,
        "blocksize": policy.blocksize if splits else None,
        "input": "splits" if splits else "records",
    }
    for name in ("npartitions", "sort_values", "order_keys"):  # what a partial looks like depends on them, too
        value = getattr(job, name)
        if value is not Job.__dataclass_fields__[name].default and not callable(value):
            words[name] = value
    functions = {name: digest_of_function(value) for name, value in job.functions().items()}
    return Identity({name: str(value) for name, value in words.items()}, functions)


@dataclass(frozen=True)
class _Place:
    """
    Where in the file a commit's body is, and what it is of.
    """

    digest: bytes
    start: int
    length: int


class JournalFile:
    """
    A journal on disk. All its methods wait for the disk.

    @ivar committed: what is there, by the number of the chunk.
    """

    def __init__(self, path: str, identity: Identity) -> None:
        self._path = path
        self._identity = identity
        self._fd = -1
        self._end = 0
        self._seal = b""
        self.committed: dict[int, _Place] = {}

    def open(self) -> None:
        """
        Lock the file, read what is good of it, and cut off the rest.

        @raise BadInput: it is in use, no journal, or that of something else.
        @raise CheckpointFailed: it can't be read or written.
        """
        try:
            with self._explained():
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._lock()
                self._read()
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"the checkpoint {self._path} is in use by another run: wait for its end, or name another file"
            ) from None

    def _read(self) -> None:
        with open(self._fd, "rb", closefd=False) as file:
            size = os.fstat(self._fd).st_size
            begin = file.read(len(MAGIC))
            if not MAGIC.startswith(begin):
                self._refuse("is no journal" if not begin.startswith(FAMILY) else "has another version's format")
            good = records(file.read, size)
            first = next(good, None) if begin == MAGIC else None
            if first is None:
                self._begin()
                return
            self._check(Identity.decoded(first.body))
            self._end, self._seal = first.end, first.seal
            for record in good:
                commit = Commit.decoded(record.body)
                self.committed[commit.chunk] = _Place(commit.digest, record.start, len(record.body))
                self._end, self._seal = record.end, record.seal
        os.ftruncate(self._fd, self._end)

    def _begin(self) -> None:
        os.ftruncate(self._fd, 0)
        record, self._seal = sealed(b"", self._identity.encoded())
        self._write([MAGIC + record])
        folder = os.open(os.path.dirname(os.path.abspath(self._path)), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # or the file's name may be gone after a power failure
        finally:
            os.close(folder)

    def _check(self, found: Identity) -> None:
        for what, ours, theirs in (
            ("job", self._identity.job, found.job),
            ("functions", self._identity.functions, found.functions),
        ):
            different = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
            if different:
                self._refuse(f"was written by a run with other {what} ({', '.join(different)})")

    def _refuse(self, why: str) -> None:
        raise BadInput(f"the checkpoint {self._path} {why}: delete the file, or name another one")

    def place(self, chunk: int, digest: bytes) -> _Place | None:
        """
        Where the chunk's commit is, if there is one.

        @raise BadInput: it is of other data.
        """
        place = self.committed.get(chunk)
        if place is not None and place.digest != digest:
            self._refuse(f"was written by a run with other input (chunk {chunk} differs)")
        return place

    def load(self, place: _Place) -> Commit:
        """
        Read a commit.
        """
        with self._explained():
            return Commit.decoded(os.pread(self._fd, place.length, place.start))

    def append(self, commits: Sequence[Commit]) -> None:
        """
        Write commits, and see that they are on disk.

        @raise CheckpointFailed: that was not possible. Then the file is as it was.
        """
        written, seal = [], self._seal
        for commit in commits:
            record, seal = sealed(seal, commit.encoded())
            written.append(record)
        with self._explained():
            self._write(written)
        self._seal = seal

    def _write(self, written: Sequence[bytes]) -> None:
        end = self._end
        try:
            for record in written:
                left = memoryview(record)
                while left:
                    count = os.pwrite(self._fd, left, end)
                    end, left = end + count, left[count:]
            os.fsync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise
        self._end = end

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            room = free_space(error, self._path)
            raise CheckpointFailed(f"the checkpoint {self._path} can't be read or written: {error}{room}") from error

    def close(self) -> None:
        """
        Close and unlock it.
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class CheckpointedSession:
    """
    A session whose maps are journalled.
    """

    def __init__(self, session: PortableSession, file: JournalFile) -> None:
        self.workers = session.workers
        self._session = session
        self._file = file
        self._batch: list[tuple[Commit, Deferred[None]]] = []
        self._turns: deque[tuple[Callable[[], Callable[[], Any]], Deferred[Any]]] = deque()
        self._busy = False
        self._closing = False
        self._opened: Failure | bool = False
        self._waiting: list[Deferred[None]] = []
        self._in_thread(file.open).addBoth(self._ready)

    # In a thread, one after the other

    def _in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        return self._in_turn(lambda: call)

    def _in_turn(self, prepare: Callable[[], Callable[[], Any]]) -> Deferred[Any]:
        """
        Call what C{prepare} gives in a thread. C{prepare} itself is called here, when its turn has come.
        """
        done: Deferred[Any] = Deferred()
        self._turns.append((prepare, done))
        self._next()
        return done

    def _next(self) -> None:
        if self._turns and not self._busy:
            self._busy = True
            prepare, done = self._turns.popleft()
            deferToThread(prepare()).addBoth(self._did, done)

    def _did(self, result: Any, done: Deferred[Any]) -> None:
        self._busy = False
        self._next()
        done.callback(result)

    def _ready(self, result: Any) -> None:
        self._opened = result if isinstance(result, Failure) else True
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(result)

    def _when_open(self) -> Deferred[None]:
        deferred: Deferred[None] = Deferred()
        if self._opened is False:
            self._waiting.append(deferred)
        else:
            deferred.callback(self._opened)  # type: ignore[arg-type]
        return deferred

    # What the coordinator asks

    def submit(self, attempt: Attempt, chunk: Chunk) -> Deferred[Outcome]:
        """
        Run an attempt, or take what it gave from the journal.
        """
        if isinstance(attempt, FoldAttempt) or not attempt.whole:  # a chunk is committed in one piece, or not at all
            return self._session.submit(attempt, chunk)
        identified = self._when_open().addCallback(lambda _: self._identify(attempt, chunk))
        return identified.addCallback(self._map, attempt, chunk)

    def _identify(self, attempt: MapAttempt, chunk: Chunk) -> Deferred[bytes]:
        if not isinstance(chunk, Sequence):
            return self._in_thread(lambda: digest_of((chunk, _files(chunk))))
        try:
            return succeed(digest_of(list(chunk)))
        except Exception as error:
            raise BadInput(
                f"chunk {attempt.first} can't be told from others, so there is no checkpoint: {error}"
            ) from error

    def _map(self, digest: bytes, attempt: MapAttempt, chunk: Chunk) -> Deferred[Outcome]:
        if self._closing:
            raise CancelledError
        place = self._file.place(attempt.first, digest)
        if place is None:
            return self._session.submit(attempt, chunk).addCallback(self._export, attempt, digest)
        return self._in_thread(lambda: self._file.load(place)).addCallback(self._again, chunk)

    def _again(self, commit: Commit, chunk: Chunk) -> Outcome:
        parts, start = [], 0
        for length in commit.lengths:
            parts.append(commit.buffers[start : start + length])
            start += length
        report = Report.decoded(commit.report) if commit.report else Report()
        return Outcome(
            handle=self._session.adopt(parts, chunk),
            records=commit.records,
            size=commit.size,
            nparts=commit.nparts,
            counters=report.counters,
            counts=report.counts,
            skipped=report.skipped,
        )

    def _export(self, outcome: Outcome, attempt: MapAttempt, digest: bytes) -> Deferred[Outcome]:
        return self._session.export(outcome.handle).addCallback(self._commit, outcome, attempt, digest)

    def _commit(
        self, parts: Sequence[Sequence[Buffer]], outcome: Outcome, attempt: MapAttempt, digest: bytes
    ) -> Deferred[Outcome]:
        commit = Commit(
            chunk=attempt.first,
            digest=digest,
            records=outcome.records,
            size=outcome.size,
            nparts=outcome.nparts,
            report=b"".join(Report(outcome.counters, outcome.skipped, counts=outcome.counts).encoded()),
            lengths=[len(part) for part in parts],
            buffers=[buffer for part in parts for buffer in part],
        )
        written: Deferred[None] = Deferred()
        self._batch.append((commit, written))
        if len(self._batch) == 1:
            self._write()
        return written.addCallback(lambda _: outcome)

    def _write(self) -> None:
        batch: list[tuple[Commit, Deferred[None]]] = []

        def take() -> Callable[[], None]:
            batch[:], self._batch = self._batch, []
            return lambda: self._file.append([commit for commit, _ in batch])

        def wrote(result: Any) -> None:
            for _, written in batch:
                written.callback(result)

        self._in_turn(take).addBoth(wrote)

    def kill(self, id: int, error: MapReduceError) -> None:
        """
        Stop an attempt.
        """
        self._session.kill(id, error)

    def fetch(self, handle: Handle) -> Deferred[Iterator[Any]]:
        """
        Bring a result here.
        """
        return self._session.fetch(handle)

    def close(self) -> Deferred[None]:
        """
        Stop what still runs, and write what has come of the rest.
        """
        self._closing = True
        return self._session.close().addBoth(
            lambda result: self._in_thread(self._file.close).addCallback(lambda _: result)
        )


def _files(split: Any) -> list[tuple[str, int, int]]:
    """
    The size and the time of the files that a split is of, where they are on this machine.
    """
    found = []
    for path, *_ in getattr(split, "pieces", ()):
        with contextlib.suppress(OSError):
            status = os.stat(path)
            found.append((path, status.st_size, status.st_mtime_ns))
    return found
