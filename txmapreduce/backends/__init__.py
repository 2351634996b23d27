"""
Where tasks run.

A L{Backend} opens a L{Session} for each run. The session takes attempts and fires a Deferred for each; what an attempt
gave stays behind a handle that only the session understands, so partials can lie anywhere: in the coordinator, in the
worker that made them, on another machine. The modules in here are one backend each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .._schedule.events import Attempt, Event, Handle, Outcome
from .._tasks.runner import Program
from .._values.codec import Buffer
from ..errors import BadInput, MapReduceError
from ..inputs import Split

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

__all__ = ["AttemptFailed", "Backend", "Chunk", "Listener", "PortableSession", "Session", "checked"]

Chunk = Sequence[Any] | Split | None
"""What an attempt works on: the records of a map, a split, or nothing for a fold."""


class AttemptFailed(Exception):
    """
    An attempt came to nothing.

    @ivar error: what the user gets to see if it can't be tried again.
    @ivar kinds: where the user's function raised, the qualified names of the exception's class and its bases.
    @ivar retry: whether trying again may help whatever the policy says: the worker died, or ran out of time.
    @ivar charge: whether the attempt counts: not where it had not begun, or its inputs were lost.
    @ivar chunk: the chunk that was running, where that is known.
    @ivar out_of_memory: whether its worker was killed for want of memory.
    @ivar record: the record of the task that it was at, where the attempt was a careful one and noted that down.
    """

    def __init__(
        self,
        error: BaseException,
        *,
        kinds: tuple[str, ...] = (),
        retry: bool = False,
        charge: bool = True,
        chunk: int | None = None,
        out_of_memory: bool = False,
        record: int | None = None,
    ) -> None:
        super().__init__(error)
        self.error = error
        self.kinds = kinds
        self.retry = retry
        self.charge = charge
        self.chunk = chunk
        self.out_of_memory = out_of_memory
        self.record = record


Listener = Callable[[Event], None]
"""
Takes what a session tells its run, at any time: C{Capacity}, C{Started}, C{Secured}, C{Lost}, C{Unable}.
"""


class Session(Protocol):
    """
    One run's side of a backend.
    """

    workers: int

    def submit(self, attempt: Attempt, chunk: Chunk) -> Deferred[Outcome]:
        """
        Run an attempt as soon as there is room for it.

        @return: fires with its outcome, or fails with L{AttemptFailed}.
        """

    def kill(self, id: int, error: MapReduceError) -> None:
        """
        Stop the attempt C{id}: it fails with C{error} and may be tried again.
        """

    def fetch(self, handle: Handle) -> Deferred[Iterator[Any]]:
        """
        Bring a result here.

        @return: fires with its pieces, which are decoded one by one as they are iterated.
        """

    def close(self) -> Deferred[None]:
        """
        The run is over: stop what still runs for it and drop what is kept for it.
        """


class PortableSession(Session, Protocol):
    """
    A session whose partials can outlive it.
    """

    def export(self, handle: Handle) -> Deferred[Sequence[Sequence[Buffer]]]:
        """
        What is behind the handle of a map, encoded, for another run of the same job to L{adopt}. It was not held.

        @return: fires with that.
        """

    def adopt(self, parts: Sequence[Sequence[Buffer]], chunk: Chunk) -> Handle:
        """
        A handle for what another run has exported, which came of C{chunk}.
        """


class Backend(Protocol):
    """
    What C{backend=} takes.

    It may have C{task_seconds}: how long a task should take. Small splits of files that follow each other are read
    together then.
    """

    def open(
        self, program: Program, functions: Mapping[str, Any], listener: Listener, after: Any = None
    ) -> PortableSession:
        """
        Begin a run.

        @param functions: the user's objects in the program by the name of their parameter, for error messages.
        @param after: for a step after the first, the session of the step before, which this backend has opened, too. It
            stays open as long as this one is: what its tasks gave is the input, in splits of L{Interim}.
        @raise NotSerializable: the program can't be sent.
        @raise BackendUnavailable: the backend is closed.
        """


def checked(backend: Backend) -> Backend:
    """
    The backend itself.

    @raise BadInput: it is none.
    """
    if isinstance(backend, type) or not callable(getattr(backend, "open", None)):
        raise BadInput(f"backend has to be one, such as Processes(4) or Inline(), not {backend!r}")
    return backend
