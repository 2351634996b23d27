"""
Shows how far a run has come, while it runs.

L{watch} tells a function of yours at intervals; L{bar} draws a bar, with tqdm (C{pip install 'txmapreduce[progress]'});
L{run_sync} runs a job with one, in a script or a notebook. None of them changes what the run gives: a display that
fails is logged and given up, and the run goes on. Each lets go of its timer and its bar when the run ends, however it
does.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .errors import BadInput

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from ._schedule.events import Progress
    from .backends import Backend
    from .mapreduce import MapReduce

__all__ = ["Watchable", "bar", "describe", "need_tqdm", "printing_above", "run_sync", "watch"]


class Watchable(Protocol):
    """
    What can be watched: a L{Run}.
    """

    result: Deferred[Any]

    def progress(self) -> Progress:
        """
        How far it has come.
        """


R = TypeVar("R", bound=Watchable)


def watch(run: R, show: Callable[[Progress], object], *, interval: float = 0.5, clock: Any = None) -> R:
    """
    Call C{show} with the run's progress now, every C{interval} seconds, and once more at its end. Call this in the
    reactor's thread.

    @param clock: default: the installed reactor.
    @return: the run.
    """
    from twisted.internet.defer import maybeDeferred
    from twisted.internet.task import LoopingCall

    def tell() -> None:
        show(run.progress())

    def ended(result: Any) -> Any:
        if loop.running:
            loop.stop()
            maybeDeferred(tell).addErrback(_give_up)
        return result

    loop = LoopingCall(tell)
    if clock is not None:
        loop.clock = clock
    loop.start(interval).addErrback(_give_up)
    run.result.addBoth(ended)
    return run


def _give_up(failure: Any) -> None:
    from twisted.logger import Logger

    Logger().failure("progress could not be shown, and is not shown any more", failure=failure)


def bar(run: R, *, title: str = "", file: Any = None, interval: float = 0.1, clock: Any = None) -> R:
    """
    Draw a bar until the run ends. Where nobody knows how much input there is (an iterator without a length), it is a
    line that counts. Call this in the reactor's thread.

    @param title: what stands before it.
    @param file: where to draw. Default: standard error.
    @return: the run.
    @raise BadInput: tqdm is not installed.
    """
    from twisted.internet.defer import maybeDeferred

    drawn = need_tqdm()(
        desc=f"{title}: " if title else "",
        bar_format="{desc}{elapsed}{postfix}",
        file=sys.stderr if file is None else file,
        dynamic_ncols=True,
    )

    def show(progress: Progress) -> None:
        if progress.fraction is not None:  # it may take a while until that is known
            drawn.n, drawn.total = progress.fraction, 1.0
            drawn.bar_format = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        drawn.set_postfix_str(describe(progress), refresh=False)
        drawn.refresh()

    def ended(result: Any) -> Any:
        maybeDeferred(drawn.close).addErrback(_give_up)
        return result

    watch(run, show, interval=interval, clock=clock)
    run.result.addBoth(ended)
    return run


def describe(progress: Progress) -> str:
    """
    The numbers beside the bar, in words.
    """
    parts = [f"{progress.records:,} records"]
    if progress.seconds > 0:
        parts.append(f"{progress.records / progress.seconds:,.0f}/s")
    parts.extend(f"{number:,} {name}" for name in ("retried", "skipped") if (number := getattr(progress, name)))
    return ", ".join(parts)


def run_sync(job: MapReduce, data: Any, *, backend: Backend | None = None, file: Any = None) -> Any:
    """
    C{job.run_sync(data, backend=backend)} with a bar.

    @raise BadInput: tqdm is not installed.
    """
    from ._blocking import blocking

    need_tqdm()
    return blocking(lambda: bar(job.start(data, backend=backend), title=job.job.title, file=file).result)


_bar_class: Any = None


def need_tqdm() -> Any:
    """
    tqdm's class for a bar.

    @raise BadInput: tqdm is not installed.
    """
    global _bar_class
    if _bar_class is None:
        try:
            from tqdm import tqdm
        except ImportError:
            raise BadInput("a progress bar needs tqdm: pip install 'txmapreduce[progress]'") from None

        class Bar(tqdm):  # type: ignore[misc]
            # Ours is redrawn by the reactor, in this process alone: it needs neither tqdm's thread, nor its lock, which
            # makes a semaphore of multiprocessing's.
            monitor_interval = 0
            _lock = threading.RLock()

        _bar_class = Bar
    return _bar_class


class _Above:
    """
    Passes whole lines on to C{file}, above the bars.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._rest = ""

    def write(self, text: str) -> int:
        lines, end, self._rest = (self._rest + text).rpartition("\n")
        if end:
            need_tqdm().write(lines, file=self._file)
        return len(text)

    def flush(self) -> None:
        self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def printing_above(file: Any) -> Iterator[None]:
    """
    While this lasts, what is printed to standard output and standard error goes to C{file}, line by line, above a bar
    that is drawn there.
    """
    above = _Above(file)
    with redirect_stdout(above), redirect_stderr(above):
        yield
    if above._rest:
        above.write("\n")
