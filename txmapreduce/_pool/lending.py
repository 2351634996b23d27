"""
Which children have which of the values that were broadcast, so that they give them back when nobody needs them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from .._values.broadcast import Shared
from .._wire.messages import Free
from .process import Child

__all__ = ["Lending"]


class Lending:
    """
    What the children of a pool have.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._children: dict[str, weakref.WeakSet[Child]] = {}

    def lent(self, child: Child, used: Iterable[Shared]) -> None:
        """
        The child is sent something that refers to these.
        """
        for shared in used:
            if shared.token not in self._children:
                self._children[shared.token] = weakref.WeakSet()
                weakref.finalize(shared, self._unused, shared.token).atexit = False
            self._children[shared.token].add(child)

    def _unused(self, token: str) -> None:
        """
        Nobody has the handle any more. Called in any thread.
        """
        self._reactor.callFromThread(self._free, token)

    def _free(self, token: str) -> None:
        for child in self._children.pop(token):
            child.send(Free((token,)))
