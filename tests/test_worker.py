"""
Tests for L{txmapreduce._worker.loop}: real workers in plain processes, without Twisted on either side.
"""

from __future__ import annotations

import functools
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from struct import unpack
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txmapreduce._tasks.runner import Program, Reduce
from txmapreduce._values.codec import Codec
from txmapreduce._wire.frames import Decoder, encode
from txmapreduce._wire.messages import (
    VERSION,
    Define,
    Done,
    Failed,
    Fold,
    Forget,
    HandOver,
    Hello,
    Map,
    Message,
    Parts,
    Report,
    Surroundings,
    cut,
)
from txmapreduce._worker import loop
from txmapreduce._worker.loop import SETUP_RUN, write_all
from txmapreduce.aggregates import Collect, Counts

from . import naughty

WITHIN = 30.0
"""Seconds that a test waits for what should be there at once."""

UP = (Hello, Done, Failed, Parts)


class Plain:
    """
    A worker, driven by hand.
    """

    def __init__(self, case: SynchronousTestCase) -> None:
        self.codec = Codec()
        self.note = tempfile.TemporaryFile()  # noqa: SIM115
        self.note.truncate(4096)
        task_r, self.tasks = os.pipe()
        self.results, result_w = os.pipe()
        code = f"from txmapreduce._worker.loop import main; main({task_r}, {result_w}, {self.note.fileno()})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=(task_r, result_w, self.note.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))},
        )
        os.close(task_r)
        os.close(result_w)
        self._decoder = Decoder(UP)
        self._messages: list[Message] = []
        self._poll = select.poll()
        self._poll.register(self.results, select.POLLIN)
        case.addCleanup(self.end)

    def send(self, *messages: Message) -> None:
        for message in messages:
            write_all(self.tasks, encode(message))

    def define(self, run: int, program: object) -> None:
        codec = self.codec = Codec()
        codec.encode_program(program, {})
        self.send(*(Define(run, number, (blob,)) for number, blob in enumerate(codec.definitions)))

    def map(self, run: int, task: int, records: list[Any], *, hold: bool = False, first: int = 0) -> None:
        self.send(Map(run, task, 1, first, 1, len(records), hold, False, 0, -1, tuple(self.codec.dumps(records))))

    def next(self) -> Message:
        """
        The next message, or EOFError when the pipe has ended.
        """
        while not self._messages:
            assert self._poll.poll(WITHIN * 1000), "the worker says nothing"
            received = os.readv(self.results, self._decoder.buffers())
            if not received:
                raise EOFError
            self._messages += self._decoder.received(received)
        return self._messages.pop(0)

    def values(self, message: Message) -> list[Any]:
        """
        The pieces that an answer brings.
        """
        assert isinstance(message, (Done, Parts)), message
        return [self.codec.loads(part) for part in cut(message.buffers, message.lengths)]

    def hang_up(self) -> int:
        """
        End the task pipe. Returns the exit code.
        """
        os.close(self.tasks)
        self.tasks = -1
        return self.process.wait(WITHIN)

    def noted(self) -> tuple[int, ...]:
        return unpack("3q", os.pread(self.note.fileno(), 24, 0))

    def printed(self) -> tuple[bytes, bytes]:
        """
        What stands in its standard output and error now.
        """
        texts = []
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            texts.append(stream.read() or b"")
        return texts[0], texts[1]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for fd in {self.tasks, self.results} - {-1}:
            os.close(fd)
        assert self.process.stdout is not None and self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        self.note.close()


def collecting(mapper: Callable[[Any], Any]) -> Program:
    return Program(mapper, Collect())


class AnswerTests(SynchronousTestCase):
    """
    What a worker answers.
    """

    def worker(self) -> Plain:
        worker = Plain(self)
        self.assertEqual(worker.next(), Hello(VERSION, worker.process.pid))
        return worker

    def test_hello_first(self) -> None:
        """
        A worker says hello before it has been sent anything.
        """
        self.worker()

    def test_answers_in_order(self) -> None:
        """
        Tasks that were sent together are answered in their order, each once.
        """
        worker = self.worker()
        worker.define(1, collecting(lambda x: x * 10))
        for task in range(1, 6):
            worker.map(1, task, [task, task + 1], first=task)
        answers = [worker.next() for _ in range(5)]
        self.assertEqual([answer.task for answer in answers], [1, 2, 3, 4, 5])  # type: ignore[union-attr]
        self.assertEqual([worker.values(answer) for answer in answers], [[[n * 10, n * 10 + 10]] for n in range(1, 6)])
        self.assertEqual(worker.hang_up(), 0)
        self.assertRaises(EOFError, worker.next)

    def test_fold(self) -> None:
        """
        A fold merges the partials in the order given; the last one applies the initial value, too.
        """
        worker = self.worker()
        worker.define(1, Program(str, Reduce(lambda a, b: a + b, "<")))
        parts = [worker.codec.dumps(text) for text in "abc"]
        buffers = tuple(buffer for part in parts for buffer in part)
        lengths = tuple(map(len, parts))
        worker.send(
            Fold(1, 7, 1, False, -1, 1, False, lengths, buffers), Fold(1, 8, 1, True, -1, 1, False, lengths, buffers)
        )
        self.assertEqual([worker.values(worker.next()) for _ in range(2)], [["abc"], ["<abc"]])

    def test_holds_until_asked(self) -> None:
        """
        Held tasks send no data until they are asked for in one, in as many parts as wanted; after that it starts
        afresh.
        """
        worker = self.worker()
        worker.define(1, Program(lambda x: [(x, 1)], Counts(), pairs=False, flat=True))
        worker.map(1, 1, ["a", "b"], hold=True)
        worker.map(1, 2, ["a"], hold=True)
        worker.send(HandOver(1, 1, -1, 1), HandOver(1, 1, -1, 1))
        first, second, parts, nothing = (worker.next() for _ in range(4))
        assert isinstance(first, Done) and isinstance(second, Done)
        self.assertEqual([(first.held, first.lengths), (second.held, second.lengths)], [(True, ()), (True, ())])
        emitted = [Report.decoded(*done.buffers).counts.emitted for done in (first, second)]
        self.assertEqual(emitted, [2, 1])
        self.assertEqual([dict(part.items()) for part in worker.values(parts)], [{("a", 1): 2, ("b", 1): 1}])
        self.assertEqual(list(map(len, worker.values(nothing))), [0])

    def test_forgets(self) -> None:
        """
        A run that is over is dropped, another one goes on with what it keeps.
        """
        worker = self.worker()
        for run in (1, 2):
            worker.define(run, Program(lambda x: x, Counts()))
            worker.map(run, 1, ["a"], hold=True)
            worker.next()
        worker.send(Forget(1))
        worker.define(1, Program(lambda x: x, Counts()))
        worker.send(HandOver(1, 1, -1, 1), HandOver(2, 1, -1, 1))
        parts = [part for _ in range(2) for part in worker.values(worker.next())]
        self.assertEqual([dict(part.items()) for part in parts], [{}, {"a": 1}])

    def test_writes_down_what_it_does(self) -> None:
        """
        What runs can be read from the shared page even while it runs: chunk, run and task.
        """
        worker = self.worker()
        worker.define(3, collecting(lambda x: time.sleep(60)))
        worker.map(3, 9, [0], first=5)
        until = time.monotonic() + WITHIN
        while worker.noted() != (5, 3, 9) and time.monotonic() < until:
            select.select([], [], [], 0.01)
        self.assertEqual(worker.noted(), (5, 3, 9))

    def test_broken_definition(self) -> None:
        """
        Definitions that can't be loaded are told with the task that needs them, each time, and harm no other run.
        """
        worker = self.worker()
        worker.send(Define(1, 0, (b"nonsense",)))
        for task in (1, 2):
            worker.map(1, task, [1])
        worker.define(2, collecting(abs))
        worker.map(2, 3, [-1])
        answers = [worker.next() for _ in range(3)]
        for task, answer in enumerate(answers[:2], 1):
            assert isinstance(answer, Failed)
            self.assertEqual((answer.task, answer.stage), (task, "load"))
            self.assertIn("builtins.Exception", answer.kinds)
        self.assertEqual(worker.values(answers[2]), [[1]])

    def test_bad_records(self) -> None:
        """
        Records that can't be loaded are an error of their task.
        """
        worker = self.worker()
        worker.define(1, collecting(abs))
        worker.send(Map(1, 1, 1, 4, 1, 1, False, False, 0, -1, (b"nonsense",)))
        worker.map(1, 2, [-1])
        failed = worker.next()
        assert isinstance(failed, Failed)
        self.assertEqual((failed.task, failed.stage, failed.chunk), (1, "load", 4))
        self.assertEqual(worker.values(worker.next()), [[1]])

    def test_unpicklable_result(self) -> None:
        """
        A result that can't be sent is an error of its task.
        """
        worker = self.worker()
        worker.define(1, collecting(lambda x: threading.Lock()))
        worker.map(1, 1, [1], first=2)
        failed = worker.next()
        assert isinstance(failed, Failed)
        self.assertEqual((failed.task, failed.stage, failed.chunk), (1, "result", 2))

    def test_result_over_the_limit(self) -> None:
        """
        A result that is too large for a message is an error of its task, and the worker goes on.
        """
        worker = self.worker()
        worker.define(1, collecting(lambda size: bytes(size)))
        worker.map(1, 1, [(1 << 30) + 1], first=2)
        worker.map(1, 2, [3])
        failed = worker.next()
        assert isinstance(failed, Failed)
        self.assertEqual((failed.task, failed.stage, failed.chunk), (1, "result", 2))
        self.assertIn("limit", failed.message)
        self.assertEqual(worker.values(worker.next()), [[bytes(3)]])

    def test_exits_are_answers(self) -> None:
        """
        sys.exit, KeyboardInterrupt and any other BaseException of the user's function are errors of its task. The
        worker stays.
        """
        worker = self.worker()

        def leave(kind: type[BaseException]) -> None:
            raise kind(3)

        kinds = [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException]
        worker.define(1, collecting(leave))
        for task, kind in enumerate(kinds):
            worker.map(1, task, [kind])
            failed = worker.next()
            assert isinstance(failed, Failed)
            self.assertEqual((failed.task, failed.stage), (task, "map"))
            self.assertIn(f"builtins.{kind.__name__}", failed.kinds)
        self.assertEqual(worker.hang_up(), 0)

    def test_fork(self) -> None:
        """
        Where the user's function forks and both of them return, one of them answers.
        """
        worker = self.worker()

        def fork(record: int) -> int:
            return os.fork() and record

        worker.define(1, collecting(fork))
        for task in range(1, 4):
            worker.map(1, task, [task])
            self.assertEqual(worker.values(worker.next()), [[task]])
        worker.map(1, 9, [9])
        self.assertEqual([worker.values(worker.next()), worker.hang_up()], [[[9]], 0])
        self.assertRaises(EOFError, worker.next)

    def test_fork_that_raises(self) -> None:
        """
        Nor does a fork answer that leaves the user's function by an exception, as sys.exit.
        """
        worker = self.worker()

        def fork(record: int) -> int:
            if not os.fork():
                sys.exit()
            return record

        worker.define(1, collecting(fork))
        worker.map(1, 1, [5])
        self.assertEqual(worker.values(worker.next()), [[5]])
        self.assertEqual(worker.hang_up(), 0)
        self.assertRaises(EOFError, worker.next)

    def test_output_before_the_answer(self) -> None:
        """
        What a task printed is out before its answer is, whether it ended a line or not, raised or not.
        """

        def printing(record: int) -> None:
            print("to stdout", record, end="")
            print("to stderr", record, end="", file=sys.stderr)
            if record == 2:
                raise ValueError

        worker = self.worker()
        worker.define(1, collecting(printing))
        for record in (1, 2):
            worker.map(1, record, [record])
            worker.next()
            self.assertEqual(worker.printed(), (b"to stdout %d" % record, b"to stderr %d" % record))

    def test_broken_streams(self) -> None:
        """
        A function that closes the standard streams, or takes them away, breaks nothing but its own output.
        """

        def closing(record: int) -> int:
            if record == 1:
                sys.stdout.close()
                sys.stderr.close()
            else:
                sys.stdout = sys.stderr = None  # type: ignore[assignment]
            return record

        worker = self.worker()
        worker.define(1, collecting(closing))
        for record in (1, 2, 3):
            worker.map(1, record, [record])
            self.assertEqual(worker.values(worker.next()), [[record]])
        self.assertEqual(worker.hang_up(), 0)

    def test_never_loads_twisted(self) -> None:
        """
        Whatever a worker does, it never loads Twisted.
        """
        worker = self.worker()
        worker.define(1, Program(naughty.modules, Counts(), flat=True))
        worker.map(1, 1, [1], hold=True)
        worker.send(HandOver(1, 1, -1, 1))
        worker.next()
        (loaded,) = worker.values(worker.next())
        self.assertIn("txmapreduce", loaded)
        self.assertNotIn("twisted", loaded)


class SetupTests(SynchronousTestCase):
    """
    What happens before the first task.
    """

    def worker(self, initializer: Callable[..., Any], *arguments: object) -> Plain:
        worker = Plain(self)
        codec = Codec()
        codec.encode_program((initializer, arguments), {})
        worker.send(Define(SETUP_RUN, 0, tuple(codec.definitions)))
        self.assertIsInstance(worker.next(), Hello)
        return worker

    def test_initializer(self) -> None:
        """
        The end of the initializer is told, and mappers find what it left.
        """
        worker = self.worker(naughty.remember, 5)
        done = worker.next()
        assert isinstance(done, Done)
        self.assertEqual(done.run, SETUP_RUN)
        worker.define(1, collecting(naughty.remembered))
        worker.map(1, 1, [0])
        self.assertEqual(worker.values(worker.next()), [[5]])

    def test_initializer_that_raises(self) -> None:
        """
        A worker whose initializer raises says why, and ends.
        """
        worker = self.worker(naughty.fail_to_start, "no such model")
        failed = worker.next()
        assert isinstance(failed, Failed)
        self.assertEqual((failed.run, failed.stage), (SETUP_RUN, "start"))
        self.assertIn("RuntimeError: no such model", failed.message)
        self.assertIn("fail_to_start", failed.traceback)
        self.assertEqual(worker.process.wait(WITHIN), 1)

    def test_surroundings(self) -> None:
        """
        Import path, arguments, working directory and warnings filters are taken over.
        """
        worker = Plain(self)
        folder = os.path.realpath(self.mktemp())
        os.mkdir(folder)
        filters = [("error", None, BytesWarning, None, 0)]
        path = [folder, os.getcwd(), *sys.path]
        facts = {"path": path, "argv": ["me", "--fast"], "cwd": folder, "filters": filters}
        worker.send(Surroundings((pickle.dumps(facts),)))
        worker.define(1, collecting(functools.partial(naughty.surroundings, [])))
        worker.map(1, 1, [0])
        worker.next()
        ((found,),) = worker.values(worker.next())
        self.assertEqual((found["cwd"], found["path"], found["argv"]), (folder, path, ["me", "--fast"]))
        self.assertEqual(found["filters"], ["error"])

    def test_lost_working_directory(self) -> None:
        """
        A working directory that is gone is mentioned on standard error, and nothing more.
        """
        worker = Plain(self)
        facts = {"path": [os.getcwd(), *sys.path], "argv": [], "cwd": "/not/there", "filters": []}
        worker.send(Surroundings((pickle.dumps(facts),)))
        worker.define(1, collecting(abs))
        worker.map(1, 1, [-3])
        worker.next()
        self.assertEqual(worker.values(worker.next()), [[3]])
        self.assertIn(b"/not/there", worker.printed()[1])


class EndTests(SynchronousTestCase):
    """
    How a worker ends.
    """

    def test_garbage(self) -> None:
        """
        A worker that is sent something that is no message says so on standard error and ends.
        """
        worker = Plain(self)
        worker.next()
        os.write(worker.tasks, b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(worker.process.wait(WITHIN), 1)
        self.assertIn(b"ProtocolError", worker.printed()[1])

    def test_cut_off(self) -> None:
        """
        A worker whose task pipe ends in the middle of a message ends quietly.
        """
        worker = Plain(self)
        worker.next()
        os.write(worker.tasks, b"".join(encode(Forget(1)))[:-1])
        self.assertEqual(worker.hang_up(), 0)
        self.assertEqual(worker.printed(), (b"", b""))

    def test_end_of_the_pipe(self) -> None:
        """
        An idle worker whose task pipe ends does so as any Python program does: what was registered with atexit runs.
        """
        worker = Plain(self)
        worker.next()

        def register(record: int) -> None:
            import atexit

            atexit.register(os.write, 1, b"tidied up")

        worker.define(1, collecting(register))
        worker.map(1, 1, [0])
        worker.next()
        self.assertEqual(worker.hang_up(), 0)
        self.assertEqual(worker.printed()[0], b"tidied up")

    def test_end_of_the_pipe_while_busy(self) -> None:
        """
        A worker that is kept busy, or whose last threads don't end, ends soon after its task pipe all the same.
        """

        def sleep(record: int) -> None:
            print("asleep", flush=True)
            time.sleep(60)

        def thread(record: int) -> None:
            threading.Thread(target=time.sleep, args=(60,)).start()
            print("asleep", flush=True)

        for mapper in (sleep, thread):
            worker = Plain(self)
            worker.define(1, collecting(mapper))
            worker.map(1, 1, [0])
            assert worker.process.stdout is not None
            self.assertEqual(worker.process.stdout.readline(), b"asleep\n")
            begun = time.monotonic()
            self.assertEqual(worker.hang_up(), -signal.SIGKILL)
            self.assertLess(time.monotonic() - begun, 5)

    def test_result_pipe_closed(self) -> None:
        """
        A worker whose answers nobody reads any more ends without a word.
        """
        worker = Plain(self)
        worker.next()
        os.close(worker.results)
        worker.results = -1
        worker.define(1, collecting(abs))
        worker.map(1, 1, [0])
        self.assertEqual(worker.process.wait(WITHIN), 1)
        self.assertEqual(worker.printed(), (b"", b""))

    def test_own_process_group(self) -> None:
        """
        A worker leads a process group of its own, so that Ctrl-C in the terminal does not reach it.
        """
        worker = Plain(self)
        worker.next()
        self.assertEqual(os.getpgid(worker.process.pid), worker.process.pid)

    def test_dies_with_its_parent(self) -> None:
        """
        The kernel kills a worker whose parent ends, even while a C loop holds the GIL and the pipes stay open.
        """
        worker_r, tasks = os.pipe()
        results, worker_w = os.pipe()
        self.addCleanup(os.close, tasks)
        self.addCleanup(os.close, results)
        note = tempfile.TemporaryFile()  # noqa: SIM115
        self.addCleanup(note.close)
        note.truncate(4096)
        code = f"from txmapreduce._worker.loop import main; main({worker_r}, {worker_w}, {note.fileno()})"
        middle = (
            "import subprocess, sys, time\n"
            f"fds = ({worker_r}, {worker_w}, {note.fileno()})\n"
            f"child = subprocess.Popen([sys.executable, '-c', {code!r}], pass_fds=fds)\n"
            "print(child.pid, flush=True)\n"
            "child.wait()"
        )
        fds = (worker_r, worker_w, note.fileno())
        path = os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))
        parent = subprocess.Popen(
            [sys.executable, "-c", middle],
            pass_fds=fds,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.addCleanup(parent.wait)
        self.addCleanup(parent.kill)
        os.close(worker_r)
        os.close(worker_w)
        assert parent.stdout is not None
        self.addCleanup(parent.stdout.close)
        pid = int(parent.stdout.readline())
        watch = os.pidfd_open(pid)
        self.addCleanup(os.close, watch)
        codec = Codec()
        codec.encode_program(collecting(naughty.hold_the_gil), {})
        for message in (*(Define(1, n, (blob,)) for n, blob in enumerate(codec.definitions)),):
            write_all(tasks, encode(message))
        write_all(tasks, encode(Map(1, 1, 1, 0, 1, 1, False, False, 0, -1, tuple(codec.dumps([0])))))
        until = time.monotonic() + WITHIN
        while unpack("3q", os.pread(note.fileno(), 24, 0)) != (0, 1, 1) and time.monotonic() < until:
            select.select([], [], [], 0.01)
        parent.kill()
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        ended = poll.poll(1000)
        if not ended:
            os.kill(pid, signal.SIGKILL)
        self.assertTrue(ended)


class WriteTests(SynchronousTestCase):
    """
    Tests for L{write_all} and L{cut}.
    """

    def test_partial_writes(self) -> None:
        """
        Everything is written in order, however few bytes the system takes at a time, and empty buffers are no obstacle.
        """
        taken = bytearray()

        def writev(fd: int, buffers: list[memoryview]) -> int:
            self.assertLessEqual(len(buffers), 1024)
            some = b"".join(buffers)[:7]
            taken.extend(some)
            return len(some)

        self.patch(loop.os, "writev", writev)
        buffers = [b"", *(bytes([n % 256]) * (n % 23) for n in range(1500)), b"", bytearray(b"end")]
        write_all(1, buffers)
        self.assertEqual(bytes(taken), b"".join(buffers))

    def test_slow_reader(self) -> None:
        """
        A reader that takes its time holds the writer up, and gets everything.
        """
        reader, writer = os.pipe()
        data = os.urandom(1 << 20)
        thread = threading.Thread(target=write_all, args=(writer, [data[:5], data[5:]]))
        thread.start()
        with open(reader, "rb") as file:
            found = file.read(len(data))
        thread.join()
        os.close(writer)
        self.assertEqual(found, data)

    def test_cut(self) -> None:
        """
        L{cut} undoes the joining of several values' buffers; a value may have none.
        """
        self.assertEqual(cut((b"a", b"b", b"c"), (1, 0, 2)), [(b"a",), (), (b"b", b"c")])
