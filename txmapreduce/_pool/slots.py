"""
What a pool deals with: its settings, its slots, and the runs that are its clients with their tickets.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .._wire.messages import Message
from ..errors import BackendUnavailable
from .process import Child, Death

__all__ = ["Client", "Settings", "Slot", "Ticket", "next_client"]


@dataclass(frozen=True)
class Settings:
    """
    How a pool's children are. C{setup}: the encoded initializer, if there is one.
    """

    max_workers: int
    min_workers: int = 0
    setup: bytes | None = None
    max_tasks_per_child: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    idle_timeout: float = 60.0
    memory_limit: int | None = None


class Client(Protocol):
    """
    A run, as the pool sees it.

    @ivar run: its number, unique in the pool. C{waiting}: its tickets that no child has yet.
    """

    run: int
    waiting: deque[Ticket]

    def prepare(self, ticket: Ticket, slot: Slot) -> list[Message]:
        """
        The messages that make C{slot} run the ticket; none when it turns out that it can't be run.
        """

    def said(self, slot: Slot, message: Message) -> None:
        """
        A child answered something that concerns this run.
        """

    def began(self, ticket: Ticket) -> None:
        """
        The ticket is at the head of its slot, so it runs.
        """

    def broke(self, ticket: Ticket, slot: Slot, death: Death) -> None:
        """
        The child died while it ran this ticket.
        """

    def vanished(self, slot: Slot) -> None:
        """
        The child has died, and what it kept for this run went with it.
        """

    def retire(self, slot: Slot) -> None:
        """
        The child is to end soon, or has much in memory: get back what it keeps for this run.
        """

    def unavailable(self, error: BackendUnavailable) -> None:
        """
        There will be no more workers: the client leaves.
        """


@dataclass(eq=False)
class Ticket:
    """
    A task on its way through the pool. C{abandoned}: its client is no longer interested. C{spared}: a child died before
    it had taken this up, so it went to another one for free, which happens once. C{fresh}: it goes to a new child, if
    there is room for one. C{first}: it waits in no child's pipe behind another.
    """

    id: int
    client: Client
    slot: Slot | None = None
    abandoned: bool = False
    spared: bool = False
    fresh: bool = False
    first: bool = False


@dataclass(eq=False)
class Slot:
    """
    A place for one child.

    @ivar queue: its tickets, the running one first.
    @ivar defined: how many definitions of each run it has.
    @ivar keeps: the runs for which it keeps something.
    @ivar greeted: its child is ready: it said hello, and the initializer has run.
    @ivar refused: why its child can't become ready.
    @ivar closing: it gets no more tickets.
    @ivar condemned: the ticket because of which its child was killed.
    """

    child: Child
    queue: deque[Ticket] = field(default_factory=deque)
    defined: dict[int, int] = field(default_factory=dict)
    keeps: set[int] = field(default_factory=set)
    surroundings: bytes = b""
    greeted: bool = False
    refused: str = ""
    closing: bool = False
    condemned: Ticket | None = None
    tasks: int = 0
    idle_since: float = 0.0
    timer: Any = None

    def guilty(self) -> Ticket | None:
        """
        The ticket that is to blame for the child's death: the one that it had taken up, if any.
        """
        if not self.queue or not self.greeted:
            return None
        head = self.queue[0]
        if self.condemned is not None:
            return head if head is self.condemned else None
        run, task = self.child.began
        if head.spared or (run == head.client.run and task in (head.id, 0)):
            return head
        head.spared = True
        return None

    def stop_timer(self) -> None:
        """
        Whatever was to happen to it by the clock does not.
        """
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        self.timer = None


def next_client(clients: dict[int, Client], slots: Sequence[Slot]) -> Client | None:
    """
    The client with waiting tickets that has the fewest under way; of several, the one whose turn was longest ago, which
    goes to the end of C{clients}.
    """
    waiting = [client for client in clients.values() if client.waiting]
    if len(waiting) < 2:
        return waiting[0] if waiting else None
    under_way = Counter(ticket.client.run for slot in slots for ticket in slot.queue)
    client = min(waiting, key=lambda client: under_way[client.run])
    clients[client.run] = clients.pop(client.run)
    return client
