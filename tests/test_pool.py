"""
Tests for L{txmapreduce._pool.pool} and L{txmapreduce._pool.slots}: what the pool decides, with made-up children and a
clock.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce._pool.pool import HELLO_WITHIN, Pool
from txmapreduce._pool.process import Death
from txmapreduce._pool.slots import Settings, Slot, Ticket
from txmapreduce._pool.starts import MAX_FAILED_STARTS
from txmapreduce._wire.messages import (
    VERSION,
    Define,
    Done,
    Failed,
    Forget,
    HandOver,
    Hello,
    Map,
    Message,
    Surroundings,
)
from txmapreduce._worker.loop import SETUP_RUN
from txmapreduce.errors import BackendUnavailable, ProtocolError


class FakeChild:
    """
    A child that does what the test says.
    """

    def __init__(self, world: World, owner: Pool, env: Any) -> None:
        self.world = world
        self.owner = owner
        self.env = env
        self.pid = 1000 + len(world.children)
        self.sent: list[Message] = []
        self.chunk: int | None = None
        self.began = (0, 0)
        self.closed = False
        self.killed = False
        self.dead = False
        world.children.append(self)

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.closed = True

    def kill(self, excess: str = "") -> None:
        self.killed = True
        self.excess = excess

    def hello(self, version: int = VERSION) -> None:
        self.owner.said(self, Hello(version, self.pid))  # type: ignore[arg-type]

    def set_up(self) -> None:
        self.owner.said(self, Done(SETUP_RUN, 0, False, 0, 0, 0.0, (), ()))  # type: ignore[arg-type]

    @property
    def tasks(self) -> list[tuple[int, int]]:
        """
        The run and the number of each task that it was sent.
        """
        return [(message.run, message.task) for message in self.sent if isinstance(message, Map)]

    def begin(self, place: int = 0) -> None:
        """
        Take up a task that it has: the first one that is not answered.
        """
        slot = self.slot
        self.began = (slot.queue[place].client.run, slot.queue[place].id)

    def answer(self) -> None:
        """
        Give the answer to its first task.
        """
        self.begin()
        ticket = self.slot.queue[0]
        self.owner.said(self, Done(*self.began, False, 1, 1, 0.0, (), ()))  # type: ignore[arg-type]
        self.world.answered.append(ticket)

    def die(self, stderr: str = "", signal: int | None = 9) -> None:
        self.dead = True
        self.owner.died(self, Death(self.pid, None, signal, stderr))  # type: ignore[arg-type]

    @property
    def slot(self) -> Slot:
        return next(slot for slot in self.owner._slots if slot.child is self)  # type: ignore[comparison-overlap]


class FakeRun:
    """
    A client.
    """

    def __init__(self, world: World, pool: Pool) -> None:
        self.pool = pool
        self.run = pool.new_run()
        self.waiting: deque[Ticket] = deque()
        self.events: list[tuple[Any, ...]] = []
        self.unsendable: set[int] = set()
        self.leaves_when_unavailable = True
        pool.join(self)

    def submit(self, *ids: int) -> None:
        self.waiting.extend(Ticket(id, self) for id in ids)
        self.pool.dispatch()

    def prepare(self, ticket: Ticket, slot: Slot) -> list[Message]:
        if ticket.id in self.unsendable:
            return []
        slot.defined[self.run] = 1
        return [Map(self.run, ticket.id, 1, 0, 1, 1, False, False, 0, -1, ())]

    def said(self, slot: Slot, message: Message) -> None:
        if isinstance(message, Done):
            self.pool.answered(slot, message.task)
            self.events.append(("done", message.task))
            self.pool.dispatch()

    def began(self, ticket: Ticket) -> None:
        self.events.append(("began", ticket.id))

    def broke(self, ticket: Ticket, slot: Slot, death: Death) -> None:
        self.events.append(("broke", ticket.id))

    def vanished(self, slot: Slot) -> None:
        self.events.append(("vanished",))

    def retire(self, slot: Slot) -> None:
        self.events.append(("retire",))
        slot.child.send(HandOver(self.run, 1, -1, 1))

    def unavailable(self, error: BackendUnavailable) -> None:
        self.events.append(("unavailable", str(error)))
        self.waiting.clear()
        if self.leaves_when_unavailable:
            self.pool.leave(self)

    def told(self, what: str) -> list[Any]:
        """
        What it has been told of a kind.
        """
        return [event[1] if len(event) > 1 else None for event in self.events if event[0] == what]


class World(SynchronousTestCase):
    """
    A clock, and children that are made up.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.children: list[FakeChild] = []
        self.answered: list[Ticket] = []
        self.refuse: BaseException | None = None

    def pool(self, max_workers: int = 2, **settings: Any) -> Pool:
        def start(reactor: object, env: Any, owner: Pool) -> Any:
            if self.refuse is not None:
                raise self.refuse
            return FakeChild(self, owner, env)

        pool = Pool(self.clock, Settings(max_workers, **settings), start)
        return pool

    def client(self, pool: Pool) -> FakeRun:
        return FakeRun(self, pool)

    def alive(self) -> list[FakeChild]:
        return [child for child in self.children if not child.dead]

    def fired(self, deferred: Deferred[None]) -> bool:
        return deferred.called


class DispatchTests(World):
    """
    Which child gets which ticket.
    """

    def test_starts_when_needed(self) -> None:
        """
        There are no children before there is work, one for each ticket, and never more than C{max_workers}.
        """
        pool = self.pool(3)
        run = self.client(pool)
        self.assertEqual(pool.pids(), [])
        run.submit(1, 2)
        self.assertEqual(pool.pids(), [1000, 1001])
        run.submit(*range(3, 20))
        self.assertEqual(len(self.children), 3)

    def test_idle_first(self) -> None:
        """
        A child that has nothing to do is used rather than a new one started.
        """
        pool = self.pool(3)
        run = self.client(pool)
        for id in range(1, 5):
            run.submit(id)
            child = self.children[0]
            if id == 1:
                child.hello()
            child.answer()
        self.assertEqual(len(self.children), 1)
        self.assertEqual(self.children[0].tasks, [(1, 1), (1, 2), (1, 3), (1, 4)])

    def test_second_ticket_when_all_are_busy(self) -> None:
        """
        A second ticket goes into a child's pipe only when every child has one, and a third one waits.
        """
        pool = self.pool(2)
        run = self.client(pool)
        run.submit(1, 2, 3, 4, 5, 6)
        self.assertEqual([child.tasks for child in self.children], [[(1, 1), (1, 3)], [(1, 2), (1, 4)]])
        self.assertEqual([ticket.id for ticket in run.waiting], [5, 6])

    def test_next_when_answered(self) -> None:
        """
        With each answer the next ticket goes out.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1, 2, 3)
        (child,) = self.children
        child.hello()
        child.answer()
        self.assertEqual(child.tasks, [(1, 1), (1, 2), (1, 3)])
        child.answer()
        child.answer()
        self.assertEqual(run.events, [("began", 1), ("began", 2), ("done", 1), ("began", 3), ("done", 2), ("done", 3)])

    def test_begins_when_ready(self) -> None:
        """
        A ticket begins when its child has said hello, not before.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1, 2)
        self.assertEqual(run.told("began"), [])
        self.children[0].hello()
        self.assertEqual(run.told("began"), [1])

    def test_fair(self) -> None:
        """
        A run that comes later gets its share at once, however much an earlier one has queued; equals take turns.
        """
        pool = self.pool(2)
        first, second = self.client(pool), self.client(pool)
        first.submit(*range(1, 9))
        for child in self.children:
            child.hello()
        second.submit(*range(1, 9))
        for _ in range(4):
            for child in self.children:
                child.answer()
        begun = [run for child in self.children for run, _ in child.tasks]
        self.assertLessEqual(abs(begun[2:].count(1) - begun[2:].count(2)), 2)
        under_way = [ticket.client.run for slot in pool._slots for ticket in slot.queue]
        self.assertEqual(sorted(under_way), [1, 1, 2, 2])

    def test_unsendable(self) -> None:
        """
        A ticket that turns out to be impossible to send takes nobody's place; a child started for it is let go in time.
        """
        pool = self.pool(1, idle_timeout=10)
        run = self.client(pool)
        run.unsendable = {1}
        run.submit(1)
        (child,) = self.children
        child.hello()
        self.clock.pump([5.0, 5.1])
        self.assertTrue(child.closed)

    def test_wrong_answer(self) -> None:
        """
        An answer to a task that is not the running one is a ProtocolError, and the task goes on being the running one.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1, 2)
        (child,) = self.children
        child.hello()
        for wrong in (2, 7):
            self.assertRaises(ProtocolError, pool.said, child, Done(1, wrong, False, 1, 1, 0.0, (), ()))
        child.begin()
        child.die()
        self.assertEqual(run.told("broke"), [1])

    def test_answer_to_nobody(self) -> None:
        """
        An answer to a run that has left is dropped.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1)
        (child,) = self.children
        child.hello()
        pool.leave(run)
        pool.said(child, Done(1, 1, False, 1, 1, 0.0, (), ()))  # type: ignore[arg-type]
        self.assertEqual(run.told("done"), [])


class DeathTests(World):
    """
    Children that die.
    """

    def test_only_the_running_one_is_blamed(self) -> None:
        """
        The ticket that ran is told broken; the one behind it goes again, before all others.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1, 2, 3)
        first = self.children[0]
        first.hello()
        first.begin()
        first.die()
        self.assertEqual(run.told("broke"), [1])
        self.assertEqual(self.children[1].tasks, [(1, 2), (1, 3)])

    def test_idle_child(self) -> None:
        """
        That an idle child dies is nobody's business; none is started before there is work.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1)
        self.children[0].hello()
        self.children[0].answer()
        self.children[0].die()
        self.assertEqual((pool.pids(), run.told("broke")), ([], []))
        run.submit(2)
        self.assertEqual(self.children[1].tasks, [(1, 2)])

    def test_died_before_it_took_the_ticket_up(self) -> None:
        """
        A child that died before it had taken up its ticket is not held against the ticket; the second time it is, or
        else a ticket that nobody can take up would go round for ever.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1)
        for child in range(2):
            self.assertEqual(run.told("broke"), [])
            self.children[child].hello()
            self.children[child].die()
        self.assertEqual(run.told("broke"), [1])

    def test_died_while_loading(self) -> None:
        """
        A child that died of loading what a run needs is held against the ticket that needed it.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1)
        self.children[0].hello()
        self.children[0].began = (run.run, 0)
        self.children[0].die()
        self.assertEqual(run.told("broke"), [1])

    def test_killed_too_late(self) -> None:
        """
        Where a child is killed because of a ticket that it had just answered, the next ticket is not blamed.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1, 2)
        child = self.children[0]
        child.hello()
        child.begin()
        pool.kill(child.slot)
        child.answer()
        child.begin()
        child.die()
        self.assertEqual((run.told("done"), run.told("broke")), ([1], []))
        self.assertEqual(self.children[1].tasks, [(1, 2)])

    def test_killed_for_its_ticket(self) -> None:
        """
        Where it is killed because of the ticket that it runs (it ran out of time) that ticket is told, whatever the
        child had written down. It gets no more tickets meanwhile.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1)
        child = self.children[0]
        child.hello()
        pool.kill(child.slot)
        run.submit(2)
        self.assertEqual((child.killed, child.tasks), (True, [(1, 1)]))
        child.die()
        self.assertEqual(run.told("broke"), [1])
        self.assertEqual(self.children[1].tasks, [(1, 2)])

    def test_kept_things_are_lost(self) -> None:
        """
        A run whose data a child kept is told, before it hears of its ticket.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1)
        child = self.children[0]
        child.hello()
        child.slot.keeps.add(run.run)
        child.begin()
        child.die()
        self.assertEqual(run.events[1:], [("vanished",), ("broke", 1)])


class StartTests(World):
    """
    Starts that fail.
    """

    def fail_starts(self, count: int, words: str = "") -> None:
        for _ in range(count):
            self.children[-1].die(words)
            self.clock.advance(10)

    def test_pauses(self) -> None:
        """
        After each start that fails the next one waits longer.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1)
        for number, pause in enumerate((0.1, 0.2, 0.4, 0.8), 1):
            self.children[-1].die()
            self.clock.advance(pause - 0.01)
            self.assertEqual(len(self.children), number)
            self.clock.advance(0.02)
            self.assertEqual(len(self.children), number + 1)
        self.assertEqual(run.events, [])

    def test_gives_up(self) -> None:
        """
        When that has happened too often in a row all who wait hear of it, with the last words of the worker.
        """
        pool = self.pool(1)
        runs = [self.client(pool), self.client(pool)]
        for run in runs:
            run.submit(1)
        self.fail_starts(MAX_FAILED_STARTS - 1)
        self.assertEqual([run.events for run in runs], [[], []])
        self.children[-1].die("ModuleNotFoundError: txmapreduce")
        for run in runs:
            ((kind, text),) = run.events
            self.assertEqual(kind, "unavailable")
            self.assertIn("ModuleNotFoundError: txmapreduce", text)
        self.assertEqual((pool.pids(), self.clock.getDelayedCalls()), ([], []))

    def test_a_later_run_tries_again(self) -> None:
        """
        A run that comes after that finds a pool that works again when the cause is gone.
        """
        pool = self.pool(1)
        self.client(pool).submit(1)
        self.fail_starts(MAX_FAILED_STARTS)
        run = self.client(pool)
        run.submit(1)
        self.children[-1].hello()
        self.children[-1].answer()
        self.assertEqual(run.told("done"), [1])

    def test_success_in_between(self) -> None:
        """
        Only failures in a row count.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(*range(1, 9))
        for _ in range(3):
            self.fail_starts(MAX_FAILED_STARTS - 1)
            child = self.children[-1]
            child.hello()
            child.answer()
            child.die()
        self.assertEqual(run.told("unavailable"), [])

    def test_no_process_to_be_had(self) -> None:
        """
        The same holds where the system refuses to make a process, or the environment can't be passed on.
        """
        for problem in (OSError("temporarily unavailable"), ValueError("embedded null byte"), TypeError("str")):
            self.refuse = problem
            pool = self.pool(2)
            run = self.client(pool)
            run.submit(1, 2, 3)
            self.clock.pump([10] * (MAX_FAILED_STARTS + 1))
            self.assertEqual(len(run.told("unavailable")), 1)
            self.assertIn(str(problem), run.told("unavailable")[0])

    def test_refused_while_others_work(self) -> None:
        """
        A pool that can't start another child goes on with those it has.
        """
        pool = self.pool(2)
        run = self.client(pool)
        run.submit(1)
        (child,) = self.children
        child.hello()
        self.refuse = OSError("no more")
        run.submit(*range(2, 20))
        for _ in range(18):
            child.answer()
            self.clock.advance(6)
        self.assertEqual((run.told("done"), run.told("unavailable")), (list(range(1, 19)), []))

    def test_last_failure_while_another_starts(self) -> None:
        """
        The run that is told in the midst of a dispatch that there are no workers is not dispatched any further.
        """
        pool = self.pool(2)
        run = self.client(pool)
        run.submit(1)
        self.refuse = OSError("no more")
        run.submit(2, 3, 4, 5)
        self.clock.pump([10] * (MAX_FAILED_STARTS + 1))
        self.assertEqual(len(run.told("unavailable")), 1)

    def test_hello_deadline(self) -> None:
        """
        A child that does not say hello in time is killed, and counts as a start that failed.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1)
        for _ in range(MAX_FAILED_STARTS):
            child = self.children[-1]
            self.clock.advance(HELLO_WITHIN - 0.1)
            self.assertFalse(child.killed)
            self.clock.advance(0.2)
            self.assertTrue(child.killed)
            child.die()
            self.clock.advance(6)
        self.assertIn("did not say hello", run.told("unavailable")[0])

    def test_hello_in_time(self) -> None:
        """
        After its hello a child may take as long as it wants.
        """
        pool = self.pool(1)
        self.client(pool).submit(1)
        self.children[0].hello()
        self.clock.advance(10 * HELLO_WITHIN)
        self.assertFalse(self.children[0].killed)

    def test_too_much_memory(self) -> None:
        """
        A child that has too much memory is killed. If it is ready its ticket hears of that, if not its start failed.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1)
        child = self.children[0]
        child.hello()
        child.begin()
        pool.exceeded(child.slot, "had much")
        self.assertEqual((child.killed, child.excess), (True, "had much"))
        child.die()
        self.assertEqual(run.told("broke"), [1])
        run.submit(2)
        for _ in range(MAX_FAILED_STARTS):
            pool.exceeded(self.children[-1].slot, "had much")
            self.children[-1].die()
            self.clock.advance(6)
        self.assertIn("had much before it was ready", run.told("unavailable")[0])

    def test_relieved(self) -> None:
        """
        A child that has much memory is asked for what it keeps, and goes on.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1)
        (child,) = self.children
        child.hello()
        child.slot.keeps.add(run.run)
        pool.relieve(child.slot)
        self.assertEqual((run.told("retire"), child.slot.closing), ([None], False))

    def test_fresh(self) -> None:
        """
        A ticket that needs a fresh child gets one where there may be one more, though another one is idle.
        """
        pool = self.pool(2)
        run = self.client(pool)
        run.submit(1)
        self.children[0].hello()
        self.children[0].answer()
        for id in (2, 3):
            run.waiting.append(Ticket(id, run, fresh=True))
            pool.dispatch()
        self.assertEqual([child.tasks for child in self.children], [[(1, 1), (1, 3)], [(1, 2)]])

    def test_other_version(self) -> None:
        """
        A child of another version is not used, and in the end that is what is said.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1)
        for _ in range(MAX_FAILED_STARTS):
            child = self.children[-1]
            child.hello(VERSION + 1)
            self.assertTrue(child.killed)
            child.die()
            self.clock.advance(6)
        self.assertIn("version", run.told("unavailable")[0])

    def test_cancelled_while_starting(self) -> None:
        """
        A child that is killed while it starts, since nobody needs it any more, is no start that failed.
        """
        pool = self.pool(1)
        for _ in range(3 * MAX_FAILED_STARTS):
            run = self.client(pool)
            run.submit(1)
            pool.leave(run)
            self.assertTrue(self.children[-1].killed)
            self.children[-1].die()
        other = self.client(pool)
        other.submit(1)
        self.assertEqual((other.told("unavailable"), self.children[-1].tasks), ([], [(other.run, 1)]))


class InitializerTests(World):
    """
    Pools with an initializer.
    """

    def setUp(self) -> None:
        super().setUp()
        self.it = self.pool(1, setup=b"initializer")
        self.run_ = self.client(self.it)
        self.run_.submit(1, 2)

    def test_first_of_all(self) -> None:
        """
        It is sent behind the surroundings and before any task; tickets begin when it has run.
        """
        child = self.children[0]
        self.assertEqual([type(message) for message in child.sent], [Surroundings, Define, Map, Map])
        self.assertEqual(child.sent[1], Define(SETUP_RUN, 0, (b"initializer",)))
        child.hello()
        self.assertEqual(self.run_.told("began"), [])
        child.set_up()
        self.assertEqual(self.run_.told("began"), [1])

    def test_raises(self) -> None:
        """
        One that raises ends as a failed start does, with its exception and traceback; no ticket is blamed.
        """
        for _ in range(MAX_FAILED_STARTS):
            child = self.children[-1]
            child.hello()
            failed = Failed(SETUP_RUN, 0, -1, -1, "start", (), "KeyError: 'HOME'", "Traceback: line 7", ())
            self.it.said(child, failed)  # type: ignore[arg-type]
            self.assertTrue(child.killed)
            child.die()
            self.clock.advance(6)
        (text,) = self.run_.told("unavailable")
        self.assertIn("KeyError: 'HOME'", text)
        self.assertIn("line 7", text)
        self.assertEqual(self.run_.told("broke"), [])

    def test_dies(self) -> None:
        """
        So does one that ends the process.
        """
        for _ in range(MAX_FAILED_STARTS):
            self.children[-1].hello()
            self.children[-1].die("no license")
            self.clock.advance(6)
        self.assertIn("no license", self.run_.told("unavailable")[0])
        self.assertEqual((self.run_.told("broke"), len(self.children)), ([], MAX_FAILED_STARTS))


class IdleTests(World):
    """
    Children with nothing to do.
    """

    def idle(self, count: int, **settings: Any) -> Pool:
        """
        A pool with so many idle children.
        """
        pool = self.pool(count, **settings)
        run = self.client(pool)
        run.submit(*range(count))
        for child in self.children:
            child.hello()
            child.answer()
        pool.leave(run)
        return pool

    def test_timeout(self) -> None:
        """
        A child is let go when it has been idle for C{idle_timeout}, not before.
        """
        self.idle(1, idle_timeout=30)
        (child,) = self.children
        self.clock.advance(29)
        self.assertFalse(child.closed)
        self.clock.advance(1.1)
        self.assertTrue(child.closed)

    def test_down_to_min_workers(self) -> None:
        """
        C{min_workers} children stay.
        """
        self.idle(4, min_workers=1, idle_timeout=30)
        self.clock.pump([31, 31, 31])
        self.assertEqual([child.closed for child in self.children].count(True), 3)

    def test_used_in_between(self) -> None:
        """
        Whoever was given work stays for another C{idle_timeout}.
        """
        pool = self.idle(2, idle_timeout=30)
        self.clock.advance(20)
        run = self.client(pool)
        run.submit(1)
        (busy,) = [child for child in self.children if child.slot.queue]
        busy.answer()
        self.clock.advance(11)
        self.assertEqual([child for child in self.children if not child.closed], [busy])
        self.clock.advance(20)
        self.assertTrue(busy.closed)

    def test_keeps_something(self) -> None:
        """
        A child that keeps something for a run stays, however long.
        """
        pool = self.pool(1, idle_timeout=30)
        run = self.client(pool)
        run.submit(1)
        (child,) = self.children
        child.hello()
        child.slot.keeps.add(run.run)
        child.answer()
        self.clock.pump([31] * 5)
        self.assertFalse(child.closed)
        pool.handed_over(child.slot, run.run)
        self.clock.pump([31] * 2)
        self.assertTrue(child.closed)

    def test_surroundings_again(self) -> None:
        """
        After a run, whose functions may have changed the working directory, the next one's surroundings are set anew.
        """
        pool = self.pool(1)
        sent = []
        for _ in range(2):
            run = self.client(pool)
            run.submit(1)
            (child,) = self.children
            if not child.slot.greeted:
                child.hello()
            pool.surround(child.slot, b"here")
            pool.surround(child.slot, b"here")
            child.answer()
            pool.leave(run)
            sent.append(sum(isinstance(message, Surroundings) for message in child.sent))
        self.assertEqual(sent, [1, 2])


class ReplacementTests(World):
    """
    C{max_tasks_per_child}.
    """

    def test_replaced(self) -> None:
        """
        No child gets more tasks than that, also in a run that never leaves one idle, and there are never more children
        than C{max_workers}, those that are ending included.
        """
        pool = self.pool(2, max_tasks_per_child=3)
        run = self.client(pool)
        run.submit(*range(1, 21))
        most = 0
        while len(run.told("done")) < 20:
            most = max(most, len(self.alive()))
            for child in self.alive():
                if child.closed:
                    child.die(signal=None)
                    continue
                if not child.slot.greeted:
                    child.hello()
                if child.slot.queue:
                    child.answer()
        self.assertEqual(most, 2)
        self.assertEqual(max(len(child.tasks) for child in self.children), 3)
        self.assertEqual(len(self.children), 7)
        self.assertEqual(run.told("broke"), [])

    def test_hands_over_first(self) -> None:
        """
        A child that keeps something gives that back before it is let go.
        """
        pool = self.pool(1, max_tasks_per_child=1)
        run = self.client(pool)
        run.submit(1)
        (child,) = self.children
        child.hello()
        child.slot.keeps.add(run.run)
        child.answer()
        self.assertEqual((run.told("retire"), child.closed), ([None], False))
        pool.handed_over(child.slot, run.run)
        self.assertTrue(child.closed)

    def test_run_ends_meanwhile(self) -> None:
        """
        When the run for which it keeps something ends before that, it is let go as well, and the pool can be closed.
        """
        pool = self.pool(1, max_tasks_per_child=1)
        run = self.client(pool)
        run.submit(1)
        (child,) = self.children
        child.hello()
        child.slot.keeps.add(run.run)
        child.answer()
        pool.leave(run)
        self.assertTrue(child.closed)
        closed = pool.close()
        child.die(signal=None)
        self.assertTrue(closed.called)


class LeaveTests(World):
    """
    Runs that end.
    """

    def test_kills_what_runs_for_it(self) -> None:
        """
        A child that runs a ticket of the run is killed. A ticket of another run behind it goes to another child, for
        free.
        """
        pool = self.pool(1)
        first, second = self.client(pool), self.client(pool)
        first.submit(1)
        second.submit(2)
        child = self.children[0]
        child.hello()
        child.begin()
        pool.leave(first)
        self.assertTrue(child.killed)
        child.die()
        self.assertEqual((first.told("broke"), second.told("broke")), ([], []))
        self.assertEqual(self.children[1].tasks, [(second.run, 2)])

    def test_leaves_others_alone(self) -> None:
        """
        A child that runs a ticket of another run goes on, and is ended when it comes to a ticket of the run that has
        left.
        """
        pool = self.pool(1)
        first, second = self.client(pool), self.client(pool)
        first.submit(1)
        second.submit(2)
        first.submit(3)
        child = self.children[0]
        child.hello()
        pool.leave(second)
        self.assertFalse(child.killed)
        child.answer()
        self.assertEqual((child.killed, first.told("done")), (True, [1]))
        child.die()
        self.assertEqual(self.children[1].tasks, [(first.run, 3)])

    def test_forgets(self) -> None:
        """
        Idle children that know the run are told to forget it, others not.
        """
        pool = self.pool(2)
        run = self.client(pool)
        run.submit(1)
        child = self.children[0]
        child.hello()
        child.answer()
        other = self.client(pool)
        pool.leave(run)
        pool.leave(other)
        pool.leave(run)
        self.assertEqual([message for message in child.sent if isinstance(message, Forget)], [Forget(run.run)])

    def test_queued(self) -> None:
        """
        What had not been given to a child is dropped.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(*range(5))
        pool.leave(run)
        self.children[0].die()
        self.assertEqual((len(self.children), run.events), (1, []))


class CloseTests(World):
    """
    The end of a pool.
    """

    def test_nothing_to_close(self) -> None:
        """
        A pool without children is closed at once, and stays closed.
        """
        pool = self.pool()
        self.assertTrue(pool.close().called)
        self.assertTrue(pool.close().called)
        self.assertRaises(BackendUnavailable, pool.new_run)

    def test_drains(self) -> None:
        """
        Runs under way go on to their end; then the children end, then the Deferreds fire.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.submit(1, 2, 3)
        (child,) = self.children
        child.hello()
        closed = [pool.close(), pool.close()]
        self.assertRaises(BackendUnavailable, pool.new_run)
        for _ in range(3):
            child.answer()
        self.assertFalse(child.closed)
        pool.leave(run)
        self.assertEqual((child.closed, [done.called for done in closed]), (True, [False, False]))
        child.die(signal=None)
        self.assertEqual([done.called for done in closed], [True, True])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_before_it_is_ready(self) -> None:
        """
        A child is let go, also while it starts or its initializer hangs.
        """
        for greets in (False, True):
            pool = self.pool(1, setup=b"slow" if greets else None)
            run = self.client(pool)
            run.submit(1)
            child = self.children[-1]
            run.pool._slots[0].queue.clear()  # its ticket was answered in the meantime
            pool.leave(run)
            closed = pool.close()
            if greets:
                child.hello()
            self.assertTrue(child.closed)
            child.die()
            self.assertTrue(closed.called)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_abort(self) -> None:
        """
        L{Pool.abort} fails the runs under way and kills every child.
        """
        pool = self.pool(2)
        run = self.client(pool)
        run.submit(1, 2, 3)
        closed = pool.abort()
        self.assertIn("closed", run.told("unavailable")[0])
        self.assertTrue(all(child.killed for child in self.children))
        for child in list(self.children):
            child.die()
        self.assertTrue(closed.called)
        self.assertEqual((len(self.children), self.clock.getDelayedCalls()), (2, []))

    def test_abort_while_a_run_waits(self) -> None:
        """
        A run that has nothing under way (it waits for its input) does not hold up the end.
        """
        pool = self.pool(1)
        run = self.client(pool)
        run.leaves_when_unavailable = False
        self.assertTrue(pool.abort().called)

    def test_abort_during_a_pause(self) -> None:
        """
        Nothing is started after the end, where the pool was waiting to try again.
        """
        pool = self.pool(1)
        self.client(pool).submit(1)
        self.children[0].die()
        self.assertTrue(pool.abort().called)
        self.assertEqual(self.clock.getDelayedCalls(), [])
