"""
Tests for L{txmapreduce._pool.process}: one real child, and an owner that only writes down what it is told.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from txmapreduce._pool import launch
from txmapreduce._pool.process import Child, Death
from txmapreduce._tasks.runner import Program
from txmapreduce._values.codec import Codec
from txmapreduce._wire.messages import Define, Done, Failed, Hello, Map, Message, cut
from txmapreduce.aggregates import Collect
from txmapreduce.errors import ProtocolError

from . import naughty
from .leftovers import Host, NothingLeft, alive, descriptors, gone, turn


class Owner:
    """
    Writes down what a child does. L{message} and L{death} wait for it.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.deaths: list[Death] = []
        self.after_death: list[Message] = []
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def said(self, child: Child, message: Message) -> None:
        (self.after_death if self.deaths else self.messages).append(message)
        self._changed()

    def died(self, child: Child, death: Death) -> None:
        self.deaths.append(death)
        self._changed()

    def _changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for condition, deferred in waiting:
            if condition():
                deferred.callback(None)
            else:
                self._waiting.append((condition, deferred))

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        deferred: Deferred[None] = Deferred()
        self._waiting.append((condition, deferred))
        self._changed()
        return deferred

    async def message(self, number: int) -> Message:
        """
        The message of this number.
        """
        await self.until(lambda: len(self.messages) > number)
        return self.messages[number]

    async def death(self) -> Death:
        """
        How it died.
        """
        await self.until(lambda: bool(self.deaths))
        return self.deaths[0]


class ChildCase(NothingLeft):
    """
    Starts children, and sees to it that they end.
    """

    async def setUp(self) -> None:
        await super().setUp()
        self.children: list[tuple[Child, Owner]] = []
        self.printed: list[tuple[str, str]] = []
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self._log)

    async def tearDown(self) -> None:
        globalLogPublisher.removeObserver(self._log)
        for child, owner in self.children:
            child.kill()
            await owner.death()
            await turn()
            self.assertEqual((len(owner.deaths), owner.after_death), (1, []))
        await super().tearDown()

    def _log(self, event: dict[str, Any]) -> None:
        if event.get("worker_output"):
            self.events.append(event)
            self.printed.append((event["stream"], event["line"]))

    def start(self, mapper: Callable[[Any], Any] | None = None) -> tuple[Child, Owner]:
        """
        A child that knows the mapper as run 1.
        """
        owner = Owner()
        child = Child(reactor, os.environ, owner)
        self.children.append((child, owner))
        if mapper is not None:
            self.codec = codec = Codec()
            codec.encode_program(Program(mapper, Collect()), {})
            for number, blob in enumerate(codec.definitions):
                child.send(Define(1, number, (blob,)))
        return child, owner

    def map(self, child: Child, task: int, *records: Any) -> None:
        buffers = tuple(self.codec.dumps(list(records)))
        child.send(Map(1, task, 1, 10 * task, 1, len(records), False, False, 0, -1, buffers))

    def values(self, message: Message) -> list[Any]:
        assert isinstance(message, Done), message
        (part,) = cut(message.buffers, message.lengths)
        return self.codec.loads(part)  # type: ignore[no-any-return]

    async def run_once(self, mapper: Callable[[Any], Any], record: object = 0) -> Death:
        """
        How a child dies of one task.
        """
        child, owner = self.start(mapper)
        self.map(child, 1, record)
        return await owner.death()


class LifeTests(ChildCase):
    """
    A child that does as it should.
    """

    async def test_answers(self) -> None:
        """
        It says hello and answers what it is sent.
        """
        child, owner = self.start(abs)
        hello = await owner.message(0)
        assert isinstance(hello, Hello)
        self.assertEqual(hello.pid, child.pid)
        self.map(child, 1, -1, -2)
        self.map(child, 2, -3)
        self.assertEqual([self.values(await owner.message(n)) for n in (1, 2)], [[1, 2], [3]])
        self.assertEqual((child.chunk, child.began, child.dead), (20, (1, 2), False))

    async def test_close(self) -> None:
        """
        A child that is sent nothing more answers what it has and ends with code 0.
        """
        child, owner = self.start(abs)
        self.map(child, 1, -1)
        child.close()
        death = await owner.death()
        self.assertEqual((death.exit_code, death.signal, len(owner.messages)), (0, None, 2))
        self.assertEqual((child.dead, child.chunk), (True, 10))

    async def test_after_death(self) -> None:
        """
        What is asked of a dead child has no effect.
        """
        child, owner = self.start()
        child.kill()
        await owner.death()
        child.send(Define(1, 0, (b"",)))
        child.kill()
        child.close()

    async def test_big_messages(self) -> None:
        """
        64 MiB go there and come back whole.
        """
        child, owner = self.start(lambda data: data)
        data = os.urandom(1 << 16) * 1024
        self.map(child, 1, data)
        self.assertTrue(self.values(await owner.message(1)) == [data])

    async def test_small_pipes(self) -> None:
        """
        The same works over pipes of 4 KiB.
        """
        self.patch(launch, "_PIPE_SIZE", 4096)
        child, owner = self.start(lambda data: data)
        data = os.urandom(300_000)
        for task in (1, 2, 3):
            self.map(child, task, data)
        for number in (1, 2, 3):
            self.assertTrue(self.values(await owner.message(number)) == [data])

    async def test_interpreter(self) -> None:
        """
        The child gets this interpreter's import path, an empty standard input, and only its own descriptors.
        """

        os.set_inheritable(reader := os.dup(0), True)
        self.addCleanup(os.close, reader)
        child, owner = self.start(naughty.look_around)
        self.map(child, 1, 0)
        ((path, text, fds),) = self.values(await owner.message(1))
        self.assertEqual((path, text), (sys.path, ""))
        self.assertEqual(fds, list(range(10)))  # two for the shared memory, one for its life, and one lists the folder


class OutputTests(ChildCase):
    """
    What a child prints.
    """

    async def test_lines(self) -> None:
        """
        Each line is logged with its stream, the worker and the chunk, before the answer of its task is told.
        """

        def talk(record: int) -> None:
            print("first", record)
            print("cafe\u0301 \udcff")
            print("no end", end="", file=sys.stderr)

        child, owner = self.start(talk)
        self.map(child, 1, 5)
        await owner.message(1)
        child.close()
        await owner.death()
        lines = [text for stream, text in self.printed if stream == "stdout"]
        self.assertEqual(lines, ["first 5", "cafe\u0301 \\udcff"])
        self.assertEqual([text for stream, text in self.printed if stream == "stderr"], ["no end"])
        self.assertEqual({(event["worker"], event["chunk"]) for event in self.events}, {(child.pid, 10)})

    async def test_bytes(self) -> None:
        """
        Bytes written to descriptor 1 that are no text are shown as well as can be.
        """
        child, owner = self.start(lambda record: os.write(1, b"\xff\x00ok\n"))
        self.map(child, 1, 0)
        await owner.message(1)
        child.close()
        await owner.death()
        self.assertEqual(self.printed, [("stdout", "\ufffd\x00ok")])

    async def test_much(self) -> None:
        """
        Five megabytes of output come in order, and nothing of them is lost; a line without an end is cut to pieces.
        """

        def shout(record: object) -> None:
            for number in range(20_000):
                sys.stdout.write(f"{number:0250}\n")
            sys.stdout.write("x" * 1_000_000)

        child, owner = self.start(shout)
        self.map(child, 1, 0)
        await owner.message(1)
        child.close()
        await owner.death()
        lines = [text for _, text in self.printed]
        self.assertEqual(lines[:20_000], [f"{number:0250}" for number in range(20_000)])
        self.assertEqual("".join(lines[20_000:]), "x" * 1_000_000)
        self.assertLessEqual(max(map(len, lines)), 2 * 8192)

    async def test_last_words(self) -> None:
        """
        What it wrote to standard error before it died belongs to the report, the end of it where it is much.
        """

        def complain(record: object) -> None:
            sys.stderr.write("y" * 100_000 + "\nthis is why\n")
            sys.stderr.flush()
            os._exit(4)

        death = await self.run_once(complain)
        self.assertTrue(death.stderr.endswith("y\nthis is why\n"), death.stderr[-50:])
        self.assertEqual((len(death.stderr), death.exit_code), (4096, 4))


class DeathTests(ChildCase):
    """
    How a child dies, and how that is told.
    """

    async def test_signals(self) -> None:
        """
        A child that a signal ends says which.
        """
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, signal.SIGSEGV):
            death = await self.run_once(lambda number: os.kill(os.getpid(), number), number)
            self.assertEqual((death.signal, death.exit_code, death.garbage), (number, None, None))
            self.assertEqual(self.children[-1][0].chunk, 10)

    async def test_segmentation_fault(self) -> None:
        """
        A real segmentation fault leaves Python's own traceback.
        """
        death = await self.run_once(naughty.crash)
        self.assertEqual(death.signal, signal.SIGSEGV)
        self.assertIn("Segmentation fault", death.stderr)
        self.assertIn("in crash", death.stderr)

    async def test_exit_codes(self) -> None:
        """
        A child that ends itself says with which code, 0 like any other.
        """
        for code in (0, 1, 77):
            death = await self.run_once(partial(naughty.exit_at, 0, code))
            self.assertEqual((death.exit_code, death.signal), (code, None))

    async def test_killed_before_it_begins(self) -> None:
        """
        A child can be killed in the moment it is started, before it has read what it was sent.
        """
        child, owner = self.start(abs)
        self.map(child, 1, bytes(10 << 20))
        child.kill()
        death = await owner.death()
        self.assertEqual((death.signal, owner.messages, child.began), (signal.SIGKILL, [], (0, 0)))

    async def test_killed_amid_its_answer(self) -> None:
        """
        Of an answer that was not complete nothing is delivered, and what was answered before is.
        """
        child, owner = self.start(partial(naughty.blob, 64 << 20))
        self.map(child, 1, 1)
        self.map(child, 2, 2)
        reader = child._reader
        told = reader._said

        def stop_midway(message: Message) -> None:
            told(message)
            if len(owner.messages) == 2:  # hello and the first answer: the second is on its way
                os.kill(child.pid, signal.SIGSTOP)
                child.kill()

        reader._said = stop_midway
        death = await owner.death()
        self.assertEqual(len(owner.messages), 2)
        self.assertEqual(self.values(owner.messages[1]), [bytes([1]) * (64 << 20)])
        self.assertEqual((death.signal, death.garbage), (signal.SIGKILL, None))

    async def test_answers_before_death(self) -> None:
        """
        What was complete in the pipe when it died is delivered, before the death is told.
        """

        def last(record: int) -> int:
            if record == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return record

        child, owner = self.start(last)
        for task in (1, 2, 3):
            self.map(child, task, task)
        await owner.death()
        self.assertEqual([self.values(message) for message in owner.messages[1:]], [[1], [2]])

    async def test_garbage(self) -> None:
        """
        A child that writes garbage to its result pipe is killed, and the report has the ProtocolError.
        """
        death = await self.run_once(partial(naughty.garbage, False))
        self.assertIsInstance(death.garbage, ProtocolError)
        self.assertEqual(death.signal, signal.SIGKILL)

    async def test_closed_result_pipe(self) -> None:
        """
        A child that closes its result pipe is of no use any more: it is ended.
        """

        def close(record: object) -> None:
            import time

            os.close(4)
            time.sleep(60)

        death = await self.run_once(close)
        self.assertEqual(death.pid, self.children[0][0].pid)
        self.assertFalse(alive(death.pid))

    async def test_grandchild(self) -> None:
        """
        A process that the child forked, and that holds every pipe of it, does not delay the news of its death. It ends,
        too.
        """
        path = self.temporary()
        death = await self.run_once(partial(naughty.fork_and_stay, path))
        self.assertEqual(death.signal, signal.SIGKILL)
        with open(path) as file:
            grandchild = int(file.read())
        self.assertEqual(gone([grandchild], 5), [])

    async def test_talkative_grandchild(self) -> None:
        """
        Nor one that has left the child's process group and never stops printing.
        """
        path = self.temporary()

        def fork(record: object) -> None:
            reader, writer = os.pipe()
            pid = os.fork()
            if not pid:
                os.setsid()
                with contextlib.suppress(BrokenPipeError):
                    for number in range(1 << 30):
                        os.write(1, b"and another thing\n" * 1000)
                        if number == 10:
                            os.write(writer, b"!")
                os._exit(0)
            os.read(reader, 1)
            with open(path, "w") as file:
                file.write(str(pid))
            os._exit(5)

        death = await self.run_once(fork)
        self.assertEqual(death.exit_code, 5)
        with open(path) as file:
            self.assertEqual(gone([int(file.read())], 5), [])  # of the broken pipe

    async def test_no_growth(self) -> None:
        """
        After many deaths there is no descriptor more than after one.
        """
        await self.run_once(partial(naughty.exit_at, 0, 1))
        for _ in range(3):
            await turn()
        before = descriptors()
        for _ in range(10):
            await self.run_once(partial(naughty.exit_at, 0, 1))
        for _ in range(3):
            await turn()
        self.assertEqual(set(descriptors()), set(before))

    async def test_no_pidfd(self) -> None:
        """
        On a system without pidfds deaths are told as well.
        """

        def refuse(pid: int) -> int:
            raise OSError("no such thing")

        self.patch(os, "pidfd_open", refuse)
        death = await self.run_once(partial(naughty.exit_at, 0, 6))
        self.assertEqual(death.exit_code, 6)

    async def test_failures_are_answers(self) -> None:
        """
        An exception in the user's code is no death.
        """
        child, owner = self.start(len)
        self.map(child, 1, 5)
        self.assertIsInstance(await owner.message(1), Failed)
        self.assertFalse(child.dead)


class EndTests(ChildCase):
    """
    How a child is ended.
    """

    async def busy(self, mapper: Callable[[Any], Any]) -> tuple[Child, Owner]:
        """
        A child that has begun with a task, which it does not end.
        """
        child, owner = self.start(mapper)
        self.map(child, 1, 0)
        while child.began != (1, 1):
            await turn(0.01)
        return child, owner

    async def test_close(self) -> None:
        """
        A child that is closed and does not end, since a C loop holds its GIL, is asked to end by SIGTERM.
        """
        child, owner = await self.busy(naughty.hold_the_gil)
        child.close()
        self.assertEqual((await owner.death()).signal, signal.SIGTERM)

    async def test_end(self) -> None:
        """
        A child that is to end ends of SIGTERM, at once.
        """
        child, owner = await self.busy(naughty.hold_the_gil)
        begun = reactor.seconds()  # type: ignore[attr-defined]
        child.end()
        self.assertEqual((await owner.death()).signal, signal.SIGTERM)
        self.assertLess(reactor.seconds() - begun, 0.4)  # type: ignore[attr-defined]

    async def test_term_ignored(self) -> None:
        """
        One that ignores SIGTERM is killed after a moment, whether it was closed or was to end.
        """
        for how in (Child.close, Child.end):
            child, owner = await self.busy(partial(naughty.ignore_term_and_loop, path := self.temporary()))
            while not os.path.exists(path):
                await turn(0.01)
            how(child)
            self.assertEqual((await owner.death()).signal, signal.SIGKILL)

    async def test_stopped(self) -> None:
        """
        One that has been stopped ends, too.
        """
        child, owner = await self.busy(naughty.hold_the_gil)
        os.kill(child.pid, signal.SIGSTOP)
        child.end()
        self.assertIn((await owner.death()).signal, (signal.SIGTERM, signal.SIGKILL))  # as the kernel likes it

    async def test_what_it_forked(self) -> None:
        """
        What a child forked ends with it, however that ends: killed, told to end, or of itself.
        """
        for how in (Child.kill, Child.end, lambda child: os.kill(child.pid, signal.SIGABRT)):
            path = self.temporary()
            child, owner = await self.busy(partial(naughty.fork_and_loop, path))
            while not (os.path.exists(path) and os.path.getsize(path)):
                await turn(0.01)
            with open(path) as file:
                grandchild = int(file.read())
            self.assertTrue(alive(grandchild))
            how(child)
            await owner.death()
            self.assertEqual(gone([grandchild], 2), [])

    async def test_blocked_signals(self) -> None:
        """
        A host that blocks SIGTERM does not pass that on.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self.addCleanup(signal.pthread_sigmask, signal.SIG_UNBLOCK, {signal.SIGTERM})
        child, owner = await self.busy(naughty.hold_the_gil)
        child.end()
        self.assertEqual((await owner.death()).signal, signal.SIGTERM)


class StartTests(ChildCase):
    """
    Children that can't be started.
    """

    @contextlib.contextmanager
    def spare_descriptors(self, count: int) -> Iterator[None]:
        """
        Let this process open only so many more descriptors.
        """
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[int] = []
        try:
            while len(taken) == 0 or taken[-1] < max(descriptors()):  # no gaps below
                taken.append(os.dup(0))
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1 + count, limits[1]))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for fd in taken:
                os.close(fd)

    async def test_no_descriptors(self) -> None:
        """
        With too few descriptors, however many that are, the start fails with an OSError and leaves nothing open; or it
        succeeds.
        """
        refused = []
        for spare in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20):
            before = descriptors()
            with self.spare_descriptors(spare):
                try:
                    child, owner = self.start()
                except OSError as error:
                    refused.append(spare)
                    self.assertIn("Too many open files", str(error))
                    self.children = []
            if spare in refused:
                self.assertEqual(descriptors(), before, spare)
            else:
                child.kill()
                await owner.death()
                await turn()
                self.children = []
        self.assertTrue(set(range(7)) <= set(refused) and 20 not in refused, refused)

    async def test_no_executable(self) -> None:
        """
        A Python that does not know where it is says so, and nothing is left open.
        """
        self.patch(sys, "executable", "")
        self.assertIn("sys.executable", str(self.assertRaises(OSError, self.start)))


HOST = """
import os, signal, sys, threading
from twisted.internet import reactor
from txmapreduce._pool.process import Child

class Owner:
    def said(self, child, message):
        print("said", type(message).__name__)
        if sys.argv[1] == "stolen":
            os.kill(child.pid, signal.SIGKILL)
            print("waited", os.waitpid(-1, 0)[0] == child.pid)
        else:
            os.kill(child.pid, signal.SIGKILL)

    def died(self, child, death):
        print("died", death.signal, death.exit_code)
        reactor.callLater(0, reactor.stop)

if sys.argv[1] == "ignored":
    reactor.callWhenRunning(signal.signal, signal.SIGCHLD, signal.SIG_IGN)
reactor.callWhenRunning(lambda: Child(reactor, os.environ, Owner()))
reactor.run(installSignalHandlers=sys.argv[1] != "no-handlers")
"""


class HostTests(NothingLeft):
    """
    Hosts that handle the deaths of children their own way.
    """

    def test_sigchld_ignored(self) -> None:
        """
        Where the application ignores SIGCHLD a death is told all the same.
        """
        self.assertEqual(Host(self, HOST, "ignored").output().split("\n")[:2], ["said Hello", "died None None"])

    def test_waitpid_stolen(self) -> None:
        """
        And where the application collects every child itself.
        """
        found = Host(self, HOST, "stolen").output().split("\n")
        self.assertEqual(found[:3], ["said Hello", "waited True", "died None None"])

    def test_no_signal_handlers(self) -> None:
        """
        And where the reactor does not handle signals; there the signal is known.
        """
        self.assertEqual(Host(self, HOST, "no-handlers").output().split("\n")[:2], ["said Hello", "died 9 None"])
