"""
What the cases share: the backend under test, and ways to wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from ..backends import Backend

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase
else:
    TestCase = object  # trial runs each TestCase that it sees in a module, and these are nothing by themselves

__all__ = ["BackendCase", "failure_of", "in_thread", "pause", "until"]


class BackendCase(TestCase):
    """
    Tests of the backend that a subclass gives.
    """

    examples = 10
    """How many inputs Hypothesis makes for each law."""

    def backend(self) -> Backend:
        """
        The backend. It is asked for several times in a test, may be the same each time, and is the test's to close.
        """
        raise NotImplementedError


async def failure_of(deferred: Deferred[Any]) -> Any:
    """
    How a run fails.
    """
    try:
        value = await deferred
    except BaseException as error:
        return error
    raise AssertionError(f"it gave {value!r}")


def in_thread(call: Callable[..., Any], *args: Any) -> Deferred[Any]:
    """
    Call in a thread, where C{run_sync} works: for properties, which Hypothesis calls again and again.
    """
    return deferToThread(call, *args)


async def until(condition: Callable[[], object]) -> None:
    """
    Let the reactor turn until C{condition} holds. The test's own timeout is the limit.
    """
    while not condition():
        await pause(0.005)


def pause(seconds: float) -> Deferred[None]:
    """
    Let the reactor turn for so long.
    """
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    return deferLater(reactor, seconds)
