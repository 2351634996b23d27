"""
User code that misbehaves, for the tests of faults. Workers import it, so it imports nothing that costs time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from txmapreduce import aggregates, current_task


def note(path: str) -> None:
    """
    Write down who runs which attempt of which chunk.
    """
    task = current_task()
    line = f"{task.index} {task.attempt} {os.getpid()}\n".encode()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line)
    os.close(fd)


def notes(path: str) -> list[tuple[int, int, int]]:
    """
    What was written down: chunk, attempt, pid.
    """
    with open(path) as file:
        return [tuple(map(int, line.split())) for line in file]  # type: ignore[misc]


def kill_at(path: str, which: object, number: int, first_only: bool, record: Any) -> Any:
    """
    Send this process the signal C{number} at record C{which}.
    """
    note(path)
    if record == which and (current_task().attempt == 1 or not first_only):
        print(f"going down at {record}", file=sys.stderr)
        os.kill(os.getpid(), number)
        time.sleep(60)
    return record


def exit_at(which: object, code: int, record: Any) -> Any:
    """
    End this process at record C{which}, behind Python's back.
    """
    if record == which:
        os._exit(code)
    return record


def misbehave(ways: dict[Any, str], record: Any) -> Any:
    """
    Do with a record what C{ways} says.
    """
    way = ways.get(record)
    if way == "raise":
        raise ValueError(record)
    if way == "sys.exit":
        sys.exit(3)
    if way == "exit":
        os._exit(3)
    if way == "hang":
        time.sleep(60)
    if way == "eat":
        eat()
    if way == "crash":
        crash(record)
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return record


def exit_first(record: object) -> object:
    """
    End this process in the first attempt.
    """
    if current_task().attempt == 1:
        os._exit(1)
    return record


def print_much(record: tuple[int, int]) -> None:
    """
    Print so many lines of such a length.
    """
    count, length = record
    for _ in range(count):
        sys.stdout.write("x" * (length - 1) + "\n")


def crash(record: object) -> object:
    """
    Read from address 0.
    """
    return ctypes.string_at(0)


def hang_at(path: str, which: object, first_only: bool, record: Any) -> Any:
    """
    Sleep without an end at record C{which}.
    """
    note(path)
    if record == which and (current_task().attempt == 1 or not first_only):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            time.sleep(60)
    return record


def hold_the_gil(record: object) -> object:
    """
    A loop in C that no Python code can interrupt: it takes hours.
    """
    return sum(range(10**15))


def busy_at(path: str, which: object, record: Any) -> Any:
    """
    Use a processor without an end at record C{which}.
    """
    note(path)
    while record == which:
        pass
    return record


def kill_first_at(which: object, record: Any) -> Iterator[tuple[int, int]]:
    """
    Pairs of a key and 1; the first attempt at record C{which} ends its worker.
    """
    if record == which and current_task().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    yield record % 7, 1


def kill_once_at(path: str, which: object, record: Any) -> Iterator[tuple[int, int]]:
    """
    The same, where the number of the attempt does not tell: only the one who makes the file C{path} kills.
    """
    if record == which:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    yield record % 7, 1


def eat_at(path: str, which: object, first_only: bool, forks: bool, record: Any) -> Any:
    """
    Take more and more memory at record C{which}; or let a child of one's own do that.
    """
    note(path)
    if record == which and (current_task().attempt == 1 or not first_only):
        if forks and (pid := os.fork()):
            os.waitpid(pid, 0)
            time.sleep(60)
        eat()
    return record


def eat() -> None:
    """
    Take a gigabyte of memory, not too fast.
    """
    eaten = []
    for _ in range(100):
        eaten.append(b"x" * (10 << 20))
        time.sleep(0.02)


class Hoard(aggregates.Aggregate):
    """
    Counts records; what it keeps for that takes a lot of memory, but not when it is sent.
    """

    ordered = False

    def zero(self) -> Any:
        return 0, []

    def add(self, acc: Any, value: int) -> Any:
        time.sleep(0.02)
        return acc[0] + 1, [*acc[1], Ballast()]

    def merge(self, a: Any, b: Any) -> Any:
        return a[0] + b[0], []

    def finish(self, acc: Any) -> int:
        return int(acc[0])


def ballast(record: object) -> bytes:
    """
    Much memory, not too fast.
    """
    time.sleep(0.1)
    return b"x" * (15 << 20)


class Pile(aggregates.Aggregate):
    """
    Counts values; it piles up those of a task for that, and sends none of them.
    """

    ordered = True

    def zero(self) -> Any:
        return 0

    def add(self, acc: Any, value: Any) -> Any:
        return acc + 1

    def add_many(self, acc: Any, values: Any) -> Any:
        return acc + len(list(values))

    def merge(self, a: Any, b: Any) -> Any:
        return a + b


class Ballast:
    """
    Four megabytes in memory, and nothing in a pipe.
    """

    def __init__(self) -> None:
        self.data = b"x" * (4 << 20)

    def __reduce__(self) -> Any:
        return int, ()


def killed_by_kernel(path: str, which: object, record: Any) -> Any:
    """
    End as one does whom the kernel kills for want of memory: with a count of that in the file.
    """
    if record == which:
        with open(path, "w") as file:
            file.write("oom_kill 1\n")
        os.kill(os.getpid(), signal.SIGKILL)
    return record


class StopsWhenSent:
    """
    The first process that pickles one of these is stopped.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGSTOP)
        return int, (1,)


def stops_when_sent(path: str, record: int) -> Iterator[tuple[int, Any]]:
    """
    Pairs of a key and something that stops the process when that is to be handed over.
    """
    yield record % 7, StopsWhenSent(path)


def stop_once_at(path: str, stopped: str, which: object, record: Any) -> Any:
    """
    Stop this process at record C{which}, once.
    """
    note(path)
    if record == which:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(stopped, os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGSTOP)
    return record


def pid_of(record: object) -> int:
    """
    The worker's process id.
    """
    return os.getpid()


def slow_pid_of(record: object) -> int:
    """
    The same, after long enough for others to get a record, too.
    """
    time.sleep(0.05)
    return os.getpid()


def garbage(first_only: bool, record: Any) -> Any:
    """
    Write something to the worker's result pipe.
    """
    if current_task().attempt == 1 or not first_only:
        os.write(4, b"this is no message")
    return record


def change_everything(record: Any) -> Any:
    """
    Leave the process other than it was.
    """
    os.chdir("/")
    os.environ["TXMAPREDUCE_TEST"] = "changed"
    os.environ.pop("PATH", None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout = None  # type: ignore[assignment]
    sys.stderr = None  # type: ignore[assignment]
    sys.stdin = None  # type: ignore[assignment]
    return record


def read_stdin(record: object) -> str:
    """
    Ask the user.
    """
    try:
        return input("what now? ")
    except EOFError:
        return "end of file"


def surroundings(names: list[str], record: object) -> dict[str, Any]:
    """
    What this process looks like.
    """
    import warnings

    return {
        "cwd": os.getcwd(),
        "path": list(sys.path),
        "argv": list(sys.argv),
        "environ": {name: os.environ.get(name) for name in names},
        "filters": [entry[0] for entry in warnings.filters if entry[2] is BytesWarning],
    }


def fork_and_stay(path: str, record: Any) -> Any:
    """
    Leave a child of one's own behind, which holds every pipe, and end.
    """
    pid = os.fork()
    if not pid:
        time.sleep(60)
        os._exit(0)
    with open(path, "w") as file:
        file.write(str(pid))
    os.kill(os.getpid(), signal.SIGKILL)


def fork_or_work(record: int) -> Iterator[tuple[int, int]]:
    """
    A little work; now and then a child of one's own that stays.
    """
    if os.getpid() % 3 == 0 and not os.fork():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
        os._exit(0)
    time.sleep(0.01)
    yield record, sum(range(10_000))


def die_once(path: str, forks: bool, record: object) -> None:
    """
    Write down the time, and end this process by SIGKILL; the next one writes down its own time. C{forks}: a child of
    one's own stays behind, in a group of its own, for a moment.
    """
    first = not os.path.exists(path)
    if first and forks and not os.fork():
        os.setpgid(0, 0)
        time.sleep(0.5)
        os._exit(0)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{time.monotonic()} ".encode())
    os.close(fd)
    if first:
        os.kill(os.getpid(), signal.SIGKILL)


def fork_and_loop(path: str, record: object) -> object:
    """
    Leave a child of one's own behind, and go into a loop in C that holds the GIL.
    """
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
        os._exit(0)
    with open(path, "a") as file:
        file.write(f"{pid}\n")
    return hold_the_gil(record)


def ignore_term_and_loop(path: str, record: object) -> object:
    """
    A loop in C that SIGTERM does not end.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(path)
    return hold_the_gil(record)


def blob(size: int, record: int) -> bytes:
    """
    Many bytes.
    """
    return bytes([record]) * size


def fail_to_start(text: str) -> None:
    """
    An initializer that raises.
    """
    raise RuntimeError(text)


def die_at_start() -> None:
    """
    An initializer that ends the process.
    """
    print("no license for this machine", file=sys.stderr)
    os._exit(3)


def remember(value: object) -> None:
    """
    An initializer that leaves something for the mappers.
    """
    sys.remembered = value  # type: ignore[attr-defined]


def remembered(record: object) -> Any:
    """
    What L{remember} left.
    """
    return sys.remembered  # type: ignore[attr-defined]


def modules(record: object) -> list[str]:
    """
    The packages that are loaded in this process.
    """
    return [name.partition(".")[0] for name in sys.modules]


def look_around(record: object) -> tuple[list[str], str, list[int]]:
    """
    The import path, all of standard input, and the open descriptors.
    """
    return sys.path, sys.stdin.read(), sorted(int(name) for name in os.listdir("/proc/self/fd"))


def last_digit(record: int) -> str:
    """
    The last digit, as text.
    """
    return str(record)[-1:]


def pair(record: int) -> tuple[int, str]:
    """
    The number and its digits.
    """
    return record, str(record)


def counted(path: str, record: int) -> Iterator[tuple[int, int]]:
    """
    Pairs of a key and 1, counted and written down, not too fast.
    """
    note(path)
    current_task().counter("test", "records").increment()
    time.sleep(0.002)
    yield record % 7, 1


def raising(kind: type[BaseException], record: object) -> None:
    """
    Raise.
    """
    raise kind("on purpose")


def raising_value(record: object) -> None:
    """
    Raise an exception that tells the record.
    """
    raise ValueError(record)


class Unloadable:
    """
    Pickles, but does not come back.
    """

    def __reduce__(self) -> Any:
        return int, ("not a number",)


def unloadable(record: object) -> Unloadable:
    """
    A result that can't be loaded.
    """
    return Unloadable()


def lock_first(record: int) -> Iterator[tuple[int, Any]]:
    """
    Pairs, of which the first has a value that can't be pickled.
    """
    import threading

    time.sleep(0.005)
    yield (0, 1) if record else (1, threading.Lock())


def left(a: Any, b: Any) -> Any:
    """
    The first of two.
    """
    return a


class SumThatDies(aggregates.Sum):
    """
    A sum that kills a worker, once, in the last fold: as soon as that has finished C{after} sums.
    """

    finished = 0

    def __init__(self, path: str, after: int = 0) -> None:
        super().__init__()
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "after", after)

    def finish(self, acc: Any) -> Any:
        SumThatDies.finished += 1
        if SumThatDies.finished <= self.after:  # type: ignore[attr-defined]
            return super().finish(acc)
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL))  # type: ignore[attr-defined]
        except FileExistsError:
            return super().finish(acc)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it is dead")


def keys_of(record: int) -> Iterator[tuple[str, int]]:
    """
    Ten keys, shared with other records.
    """
    for n in range(10):
        yield f"key {record * n % 50}", record


def many_keys_of(record: int) -> Iterator[tuple[int, int]]:
    """
    Two thousand keys, the same for each record.
    """
    for n in range(2000):
        yield n, 1


class Unsendable:
    """
    A key that does something when it is pickled, as it is when a worker hands over what it kept.
    """

    def __init__(self, act: Callable[[int], object], number: int) -> None:
        self.act = act
        self.number = number

    def __reduce__(self) -> Any:
        return self.act(self.number)


def unsendable(act: Callable[[int], object], record: int) -> Iterator[tuple[Any, int]]:
    """
    One such key.
    """
    yield record % 5, 1
    if record == 50:
        yield Unsendable(act, 3), 1
