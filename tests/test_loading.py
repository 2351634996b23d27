"""
Tests for L{txmapreduce._values.loading}.
"""

from __future__ import annotations

import enum
import operator
import pickle
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.codec_support import BadLoad, pair, through
from txmapreduce._values.codec import Codec

gates: deque[Callable[[], object]] = deque()


def pass_gate() -> object:
    return gates.popleft()()


class Gate:
    """
    Calls the next of C{gates} when it is loaded.
    """

    def __reduce__(self) -> Any:
        return pass_gate, ()


class ClassTests(SynchronousTestCase):
    """
    A class that goes by value is one class on each side, for the whole run.
    """

    def test_comesBackAsItself(self) -> None:
        """
        A class that first shows up in a record is defined once. The worker has one copy, and it comes back as itself.
        """

        class Record:
            pass

        coordinator, worker, _ = pair(len)
        payloads = [coordinator.dumps([Record()]), coordinator.dumps([Record(), Record])]
        self.assertEqual(len(coordinator.definitions), 2)
        worker.define(coordinator.definitions[1])
        first, second = (worker.loads(payload) for payload in payloads)
        self.assertIs(type(first[0]), second[1])
        self.assertIs(type(second[0]), second[1])
        self.assertIsNot(second[1], Record)
        answer = coordinator.loads(worker.dumps((first[0], second[1])))
        self.assertIs(type(answer[0]), Record)
        self.assertIs(answer[1], Record)

    def test_fromTheProgram(self) -> None:
        """
        A class that the program holds needs no definition of its own. Definitions that build on it don't copy it.
        """

        class Base:
            mark = "the mark of the base"

        coordinator, worker, program = pair(lambda: Base)

        class Derived(Base):
            pass

        payload = coordinator.dumps([Base(), Derived()])
        self.assertEqual(len(coordinator.definitions), 2)
        self.assertEqual([b"the mark" in blob for blob in coordinator.definitions], [True, False])
        worker.define(coordinator.definitions[1])
        base, derived = worker.loads(payload)
        self.assertIs(type(base), program())
        self.assertIs(type(derived).__base__, program())
        self.assertEqual(len(coordinator.dumps([Derived()])), 1)
        self.assertEqual(len(coordinator.definitions), 2)

    def test_needsItsDefinition(self) -> None:
        """
        A payload that is loaded before its definitions raises an error that says so.
        """

        class Record:
            pass

        coordinator, worker, _ = pair(len)
        payload = coordinator.dumps(Record())
        error = self.assertRaises(pickle.UnpicklingError, worker.loads, payload)
        self.assertIn("definition", str(error))

    def test_madeUpInAWorker(self) -> None:
        """
        A class that a worker made up is one class in the coordinator, and each payload can be read by another worker.
        """

        def program(x: object) -> Any:
            class Made:
                value = x

            return Made

        coordinator, worker, mapper = pair(program)
        made = mapper(5)
        payloads = [worker.dumps(made()), worker.dumps([made(), made])]
        one, two = (coordinator.loads(payload) for payload in payloads)
        self.assertIs(type(one), type(two[0]))
        self.assertIs(type(one), two[1])
        other = Codec()
        other.define(coordinator.definitions[0])
        self.assertEqual(other.loads(payloads[1])[1].value, 5)
        again = coordinator.dumps(one)
        for side in (worker, other):
            for blob in coordinator.definitions[1:]:
                side.define(blob)
        self.assertIs(type(worker.loads(again)), made)
        self.assertIs(type(other.loads(again)), type(other.loads(payloads[0])))

    def test_passedOnToAnotherWorker(self) -> None:
        """
        What one worker encoded another one of the run can load, as its own copy of the class.
        """

        class Record:
            pass

        coordinator, one, _ = pair(lambda: Record)
        other = Codec()
        program = other.define(coordinator.definitions[0])
        self.assertIs(type(other.loads(one.dumps(one.loads(coordinator.dumps(Record()))))), program())

    def test_originalIsLeftAlone(self) -> None:
        """
        Where a definition meets the class that it was made from, that class stays as it is.
        """

        class Record:
            def method(self) -> None:
                pass

        coordinator, _, _ = pair(lambda: Record)
        before = dict(vars(Record))
        self.assertIs(coordinator.define(coordinator.definitions[0])(), Record)
        self.assertEqual(dict(vars(Record)), before)

    def test_enumMadeUpInAWorker(self) -> None:
        """
        An enum that a worker made up has one set of members in the coordinator, however often it comes.
        """
        coordinator, worker, mapper = pair(lambda: enum.Enum("Made", "A B"))
        made = mapper()
        one, two = (coordinator.loads(worker.dumps([made.A, made.B])) for _ in range(2))
        self.assertEqual([member.name for member in one], ["A", "B"])
        self.assertTrue(all(map(operator.is_, one, two)))
        self.assertEqual(list(type(one[0])), one)
        member = made.A
        self.assertIs(coordinator.loads(worker.dumps(lambda: member))(), one[0])

    def test_loadInsideALoad(self) -> None:
        """
        User code that loads something of another run, while it is being loaded, does not mix up the two.
        """

        class Record:
            pass

        coordinator, worker, program = pair(lambda: Record)
        gates.append(lambda: through(3))
        self.assertIs(type(worker.loads(coordinator.dumps([Gate(), Record()]))[1]), program())

    def test_runsAreApart(self) -> None:
        """
        Two runs in one worker have classes of their own.
        """

        class Record:
            pass

        self.assertIsNot(pair(lambda: Record)[2](), pair(lambda: Record)[2]())

    def test_enumMembersOfALaterDefinition(self) -> None:
        """
        An enum that comes by a record, and a class that refers to one of its members, give one and the same member.
        """

        class Level(enum.Enum):
            LOW = 1

        class Holder:
            level = Level.LOW

        coordinator, worker, _ = pair(len)
        payload = coordinator.dumps([Level.LOW, Holder()])
        for blob in coordinator.definitions[1:]:
            worker.define(blob)
        level, holder = worker.loads(payload)
        self.assertIs(holder.level, level)
        self.assertIs(coordinator.loads(worker.dumps(level)), Level.LOW)

    def test_failedDefinitionLeavesNothing(self) -> None:
        """
        When a definition can't be loaded, its classes are not taken for good ones later.
        """

        class Broken:
            value = BadLoad()

        coordinator, worker = Codec(), Codec()
        coordinator.encode_program(lambda: Broken, {})
        self.assertRaises(ZeroDivisionError, worker.define, coordinator.definitions[0])
        self.assertRaises(ZeroDivisionError, worker.define, coordinator.definitions[0])
        self.assertEqual(worker.classes.by_token, {})

    def test_threads(self) -> None:
        """
        Two threads that load for different runs at the same time don't mix up the two.
        """

        class Record:
            pass

        sides = [pair(lambda: Record) for _ in range(2)]
        payloads = [coordinator.dumps([Gate(), Record()]) for coordinator, _, _ in sides]
        inside, done, results = threading.Event(), threading.Event(), []

        def load_other() -> None:
            results.append(sides[1][1].loads(payloads[1])[1])

        def start_other() -> None:
            gates.append(lambda: (inside.set(), done.wait(30)))
            other.start()
            inside.wait(30)

        other = threading.Thread(target=load_other)
        gates.append(start_other)
        results.append(sides[0][1].loads(payloads[0])[1])
        done.set()
        other.join(30)
        self.assertEqual([type(result) for result in results], [side[2]() for side in sides])

    def test_initSubclass(self) -> None:
        """
        The C{__init_subclass__} of a class that went by value does not run again for those that came from it.
        """

        class Sized:
            def __init_subclass__(cls, *, size: int) -> None:
                cls.size = size

        class Small(Sized, size=1):
            pass

        program = pair(lambda: Small)[2]
        self.assertEqual(program().size, 1)
        self.assertIn("__init_subclass__", vars(program().__base__))

    def test_outsideOfACodec(self) -> None:
        """
        A definition that is unpickled by other means says what it wants.
        """

        class Local:
            pass

        codec = Codec()
        codec.encode_program(lambda: Local, {})
        self.assertRaises(pickle.UnpicklingError, pickle.loads, codec.definitions[0])
