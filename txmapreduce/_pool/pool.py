"""
The worker processes of one backend: start, hand out, restart with back-off, drain, end.

Each L{Slot} has one child and at most two tickets: the one that runs and the next, which waits in the child's pipe.
Clients (the runs) queue tickets; the pool takes from the one that has the fewest under way, so runs share fairly.

A child that dies takes its running ticket with it and its client hears of that; a ticket that had not begun goes back
to the front of its client's queue. A child that dies before it is ready (it says hello, then runs the initializer) is
nobody's fault but costs time: the next start waits longer each time, and after too many in a row everybody
waiting is told that there are no workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from .._wire.messages import VERSION, Define, Done, Failed, Forget, Hello, Message, Surroundings
from .._worker.loop import SETUP_RUN
from .._worker.surroundings import surroundings
from ..errors import BackendUnavailable, ProtocolError
from .lending import Lending
from .memory import MemoryWatch
from .process import Child, Death
from .slots import Client, Settings, Slot, Ticket, next_client
from .starts import Starts

__all__ = ["Pool"]

DEPTH = 2
"""Tickets per slot: one runs while the next one waits in the pipe."""
HELLO_WITHIN = 60.0
"""Seconds until a child that has not said hello is taken for hung. A first import from a slow disk takes some."""


class Pool:
    """
    Some slots, and the clients that use them.
    """

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        start: Callable[[Any, Mapping[str, str], Pool], Child] = Child,
    ) -> None:
        """
        @param start: makes a child; tests give their own.
        """
        self._reactor = reactor
        self._settings = settings
        self._start = start
        self._slots: list[Slot] = []
        self._clients: dict[int, Client] = {}
        self._runs = SETUP_RUN
        self._starts = Starts(reactor, self.dispatch)
        self.lending = Lending(reactor)
        self._idle_check: Any = None
        self._closing = False
        self._closed: list[Deferred[None]] = []
        limit = self.memory_limit = settings.memory_limit
        self._memory = None if limit is None else MemoryWatch(reactor, limit, self._slots, self)

    # Clients

    def new_run(self) -> int:
        """
        A number for one more run.

        @raise BackendUnavailable: the pool is closed.
        """
        if self._closing:
            raise BackendUnavailable("this pool is closed: it takes no more runs")
        self._runs += 1
        return self._runs

    def join(self, client: Client) -> None:
        """
        Take in a client.
        """
        self._clients[client.run] = client

    def leave(self, client: Client) -> None:
        """
        The client's run is over: stop what runs for it, forget what is kept for it.
        """
        if self._clients.pop(client.run, None) is None:
            return
        client.waiting.clear()
        for slot in list(self._slots):
            for ticket in slot.queue:
                ticket.abandoned = ticket.abandoned or ticket.client is client
            slot.keeps.discard(client.run)
            if slot.queue and slot.queue[0].abandoned:
                self.kill(slot)
            elif slot.defined.pop(client.run, 0):
                slot.surroundings = b""  # its functions may have changed the working directory, or more
                slot.child.send(Forget(client.run))
                self._let_go(slot)
        self._check_closed()
        self.dispatch()

    def pids(self) -> list[int]:
        """
        The children's process ids.
        """
        return [slot.child.pid for slot in self._slots]

    def kill(self, slot: Slot) -> None:
        """
        End a slot's child at once, because of the ticket that it runs.
        """
        slot.closing = True
        slot.condemned = slot.queue[0] if slot.queue else None
        slot.child.kill()

    def dispatch(self) -> None:
        """
        Hand out tickets as long as there is a slot for one.
        """
        while (client := next_client(self._clients, self._slots)) is not None:
            slot = self._free_slot(client.waiting[0])
            if slot is None:
                return
            if not client.waiting:  # it has just been told that there are no workers
                continue
            self.assign(client.waiting.popleft(), slot)

    def assign(self, ticket: Ticket, slot: Slot) -> None:
        """
        Hand a ticket to this very slot, behind what it has.
        """
        messages = ticket.client.prepare(ticket, slot)
        if not messages:
            return
        ticket.slot = slot
        slot.queue.append(ticket)
        slot.tasks += 1
        if self._memory is not None:
            self._memory.wake()
        for message in messages:
            slot.child.send(message)
        if len(slot.queue) == 1 and slot.greeted:
            ticket.client.began(ticket)

    def forget(self, slot: Slot, run: int) -> None:
        """
        Have the child drop all that it has of a run.
        """
        slot.keeps.discard(run)
        if slot.defined.pop(run, 0):
            slot.child.send(Forget(run))

    def _free_slot(self, ticket: Ticket) -> Slot | None:
        """
        A child with nothing to do, or a new one, or one with a single ticket.
        """
        limit = self._settings.max_tasks_per_child
        usable = [slot for slot in self._slots if not slot.closing and (limit is None or slot.tasks < limit)]
        best = min(usable, key=lambda slot: len(slot.queue), default=None)
        if best is not None and not best.queue and not ticket.fresh:
            return best
        if len(self._slots) < self._settings.max_workers and (slot := self._new_slot()) is not None:
            return slot
        return best if best is not None and len(best.queue) < DEPTH and not ticket.first else None

    # Children

    def _new_slot(self) -> Slot | None:
        if self._starts.paused:
            return None
        try:
            child = self._start(self._reactor, self._settings.env, self)
        except (OSError, TypeError, ValueError) as error:  # also for an environment that can't be passed on
            self._start_failed(f"no process could be started: {error}")
            return None
        slot = Slot(child)
        slot.timer = self._reactor.callLater(HELLO_WITHIN, self._too_late, slot)
        self._slots.append(slot)
        if self._settings.setup is not None:
            self.surround(slot, surroundings())
            child.send(Define(SETUP_RUN, 0, (self._settings.setup,)))
        return slot

    def _too_late(self, slot: Slot) -> None:
        self._refuse(slot, f"worker {slot.child.pid} did not say hello within {HELLO_WITHIN:g} s")

    def _refuse(self, slot: Slot, why: str, excess: str = "") -> None:
        """
        A child that can't become ready: its start has failed.
        """
        slot.refused = why
        slot.child.kill(excess)

    def exceeded(self, slot: Slot, excess: str) -> None:
        """
        A child has more memory than it may: it is killed. One that is not ready yet has failed to start.
        """
        self._refuse(slot, f"worker {slot.child.pid} {excess} before it was ready", excess)

    def relieve(self, slot: Slot) -> None:
        """
        Get back what a child keeps.
        """
        for run in slot.keeps & self._clients.keys():
            self._clients[run].retire(slot)

    def surround(self, slot: Slot, data: bytes) -> None:
        """
        Let the child take over the surroundings, where it has others.
        """
        if slot.surroundings != data:
            slot.surroundings = data
            slot.child.send(Surroundings((data,)))

    def said(self, child: Child, message: Message) -> None:
        """
        A child has sent a message.
        """
        slot = self._slot_of(child)
        if isinstance(message, Hello):
            self._greeted(slot, message)
            return
        run = getattr(message, "run", SETUP_RUN)
        if run == SETUP_RUN:
            self._set_up(slot, message)
        elif (client := self._clients.get(run)) is not None:
            client.said(slot, message)

    def _greeted(self, slot: Slot, message: Hello) -> None:
        slot.stop_timer()
        if message.version != VERSION:
            self._refuse(slot, f"the worker speaks version {message.version} of the protocol, not {VERSION}")
        elif self._settings.setup is None:
            self._ready(slot)

    def _set_up(self, slot: Slot, message: Message) -> None:
        if isinstance(message, Failed):
            self._refuse(slot, f"the initializer raised {message.message}\n{message.traceback}")
        elif isinstance(message, Done):
            self._ready(slot)

    def _ready(self, slot: Slot) -> None:
        slot.greeted = True
        if slot.queue:
            slot.queue[0].client.began(slot.queue[0])
        else:
            self._at_rest(slot)

    def answered(self, slot: Slot, id: int) -> Ticket:
        """
        The head of the slot's queue has been answered: it makes room for the next.
        """
        if not slot.queue or slot.queue[0].id != id:
            raise ProtocolError(f"an answer to task {id}, which it was not running")
        ticket = slot.queue.popleft()
        self._starts.succeeded()
        if slot.queue:
            self._next_runs(slot)
        else:
            self._at_rest(slot)
        return ticket

    def _next_runs(self, slot: Slot) -> None:
        if slot.queue[0].abandoned:
            self.kill(slot)
        else:
            slot.queue[0].client.began(slot.queue[0])

    def _at_rest(self, slot: Slot) -> None:
        slot.idle_since = self._reactor.seconds()
        limit = self._settings.max_tasks_per_child
        if limit is not None and slot.tasks >= limit:
            slot.closing = True
        if slot.closing:
            self._retire(slot)
        elif self._idle_check is None:
            self._idle_check = self._reactor.callLater(self._settings.idle_timeout, self._end_idle)

    def _end_idle(self) -> None:
        """
        Let children go that have had nothing to do for a while.
        """
        self._idle_check = None
        now, limit = self._reactor.seconds(), self._settings.idle_timeout
        idle = sorted((slot for slot in self._slots if not slot.queue), key=lambda slot: slot.idle_since)
        spare = len(self._slots) - self._settings.min_workers
        for slot in idle[: max(0, spare)]:
            if slot.idle_since + limit <= now and not slot.closing and not slot.keeps:
                slot.closing = True
                self._close_child(slot)
        rest = [slot.idle_since + limit - now for slot in idle[: max(0, spare)] if not slot.closing]
        if rest:
            self._idle_check = self._reactor.callLater(max(1.0, min(rest)), self._end_idle)

    def _retire(self, slot: Slot) -> None:
        self.relieve(slot)
        self._let_go(slot)

    def handed_over(self, slot: Slot, run: int) -> None:
        """
        The child keeps nothing more for the run.
        """
        slot.keeps.discard(run)
        self._let_go(slot)

    def _let_go(self, slot: Slot) -> None:
        if slot.closing and not slot.keeps and not slot.queue:
            self._close_child(slot)

    def _close_child(self, slot: Slot) -> None:
        slot.stop_timer()
        slot.child.close()

    def died(self, child: Child, death: Death) -> None:
        """
        A child is gone.
        """
        slot = self._slot_of(child)
        self._slots.remove(slot)
        slot.stop_timer()
        guilty = slot.guilty()
        for ticket in reversed(slot.queue):
            if ticket is not guilty and not ticket.abandoned:
                ticket.slot = None
                ticket.client.waiting.appendleft(ticket)
        slot.queue.clear()
        for run in sorted(slot.keeps):
            if run in self._clients:
                self._clients[run].vanished(slot)
        if guilty is not None and not guilty.abandoned:
            guilty.client.broke(guilty, slot, death)
        if not slot.greeted and not slot.closing:
            self._start_failed(slot.refused or death.stderr or f"worker {death.pid} ended before it was ready")
        self._check_closed()
        self.dispatch()

    def _start_failed(self, words: str) -> None:
        why = self._starts.failed(words, alone=not any(slot.greeted for slot in self._slots))
        if why:
            self._tell_all(why)

    def _tell_all(self, why: str) -> None:
        clients = list(self._clients.values())
        for client in clients:
            client.waiting.clear()  # or else a child is started for one when another one leaves
        for client in clients:
            client.unavailable(BackendUnavailable(why))

    def _slot_of(self, child: Child) -> Slot:
        return next(slot for slot in self._slots if slot.child is child)

    # The end

    def close(self) -> Deferred[None]:
        """
        Take no more runs, wait for those under way, then end the children.

        @return: fires when the last child has ended.
        """
        self._closing = True
        done: Deferred[None] = Deferred()
        self._closed.append(done)
        self._check_closed()
        return done

    def abort(self) -> Deferred[None]:
        """
        End the children now; runs under way fail with L{BackendUnavailable}.
        """
        done = self.close()
        self._tell_all("the pool was closed while the run was under way")
        self._clients.clear()  # also those that had nothing under way and so did not notice
        for slot in list(self._slots):
            self.kill(slot)
        self._check_closed()
        return done

    def _check_closed(self) -> None:
        if not self._closing or self._clients:
            return
        if self._idle_check is not None and self._idle_check.active():
            self._idle_check.cancel()
        self._starts.stop()
        if self._memory is not None:
            self._memory.stop()
        for slot in self._slots:
            if not slot.closing:
                slot.closing = True
                self._close_child(slot)
        if not self._slots:
            waiting, self._closed = self._closed, []
            for done in waiting:
                done.callback(None)
