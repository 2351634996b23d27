"""
Put results together in this process, without keeping the reactor from turning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from .._schedule.events import Handle
from .._shuffle.tables import join
from ..errors import NotSerializable
from .turns import Turns

__all__ = ["assemble"]

Fetch = Callable[[Handle], "Deferred[Iterator[Any]]"]


def assemble(turns: Turns, fetch: Fetch, whole: Any, handles: Iterator[Handle]) -> Deferred[Any]:
    """
    Fetch what is behind C{handles}, decode it piece by piece and put it behind C{whole}.

    @param whole: a list or a dict that is added to, or C{None}: then the first piece is what the others are added to.
    @return: fires with the whole; fails with L{NotSerializable} where something can't be decoded here.
    """
    return _Assembly(turns, fetch, whole, handles).go_on()


class _Assembly:
    """
    One whole in the making.
    """

    def __init__(self, turns: Turns, fetch: Fetch, whole: Any, handles: Iterator[Handle]) -> None:
        self._turns = turns
        self._fetch = fetch
        self._whole = whole
        self._handles = handles
        self._pieces: Iterator[Any] = iter(())
        self._done: Deferred[Any] = Deferred()

    def go_on(self) -> Deferred[Any]:
        """
        Work for a slice of time, or until something has to be waited for.
        """
        over = self._turns.begin()
        try:
            while self._join_pieces(over):
                handle = next(self._handles, None)
                if handle is None:
                    self._done.callback(self._whole)
                    break
                fetched = self._fetch(handle).addCallback(self._fetched)
                if not fetched.called:
                    fetched.addCallbacks(lambda _: self.go_on(), self._done.errback)
                    break
        except BaseException as error:
            self._done.errback(_not_loadable(error))
        return self._done

    def _fetched(self, pieces: Iterator[Any]) -> None:
        self._pieces = pieces

    def _join_pieces(self, over: Callable[[], bool]) -> bool:
        """
        Whether all pieces have been joined; otherwise the rest is for the next turn.
        """
        for piece in self._pieces:
            self._whole = join(self._whole, piece)
            if over():
                self._turns.later(self.go_on)
                return False
        return True


def _not_loadable(error: BaseException) -> Failure:
    problem = NotSerializable(f"a result could not be loaded in this process: {type(error).__name__}: {error}")
    problem.__cause__ = error
    return Failure(problem)
