"""
Workers that mean harm, and what they send, for the tests of C{trust="data"}.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from txmapreduce import current_task
from txmapreduce._aggregate import Aggregate
from txmapreduce._values import plain
from txmapreduce._wire.frames import Decoder, encode
from txmapreduce._wire.messages import Done, Failed, Hello, Parts, Release, Report
from txmapreduce._worker.loop import Worker
from txmapreduce.errors import ProtocolError, TaskFailed

UP = (Hello, Done, Failed, Parts, Release)


class Bomb:
    """
    Loading its pickle makes a file.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def bombs(rng: random.Random, path: str) -> list[bytes]:
    """
    Pickles that execute something: in every protocol, bare, nested, with things before and behind.
    """
    found = []
    for n in range(150):
        bomb: Any = Bomb(path)
        for _ in range(rng.randrange(3)):
            bomb = rng.choice([lambda v: [v], lambda v: {"key": v}, lambda v: (v, 1), lambda v: [1, v]])(bomb)
        data = pickle.dumps(bomb, n % 6)
        found.append(rng.choice([data, msgpack.packb(data), msgpack.packb([data]), data + b"." * rng.randrange(9)]))
        kind, code = rng.randrange(-128, 128), rng.randrange(256)
        found.append(msgpack.packb([msgpack.ExtType(kind % 128, data), code]))
    return found


def decode_frames(data: bytes) -> list[Any]:
    """
    What the coordinator makes of bytes on a result pipe.
    """
    decoder, found = Decoder(UP, max_frame=1 << 20), []
    while data:
        room = decoder.buffers()[0]
        taken = min(len(room), len(data))
        room[:taken] = data[:taken]
        found += decoder.received(taken)
        data = data[taken:]
    return found


def _in_frame(bomb: bytes) -> None:
    for message in decode_frames(b"".join(map(bytes, encode(Done(1, 1, False, 1, 1, 0.0, (1,), (bomb, bomb)))))):
        with contextlib.suppress(ProtocolError):
            Report.decoded(message.buffers[1])
        plain.received([message.buffers[:1]])


DECODED_HERE: tuple[Callable[[bytes], object], ...] = (
    decode_frames,
    _in_frame,
    Report.decoded,
    lambda bomb: plain.received([[bomb]]),
)
"""Everything that makes something of a worker's bytes in the coordinator, with C{trust="data"}."""


def _answer(place: str, proof: str) -> list[Any]:
    """
    The forged answers to the first task of the first run.
    """
    bomb = pickle.dumps(Bomb(proof))
    run, task = _identity()
    good = bytes(plain.dumps([1])[0])
    chunk, kinds = current_task().index, ("builtins.KeyError",)
    done = lambda **changes: Done(**{**_DONE, "run": run, "task": task, "buffers": (good,), **changes})  # noqa: E731
    return {
        "partial": [done(buffers=(bomb,))],
        "report": [done(buffers=(good, bomb))],
        "beside": [done(lengths=(2,), buffers=(good, bomb))],
        "nothing": [done(lengths=(0,), buffers=())],
        "too few": [done(lengths=(3,))],
        "negative": [done(lengths=(2, -1))],
        "too many": [done(lengths=(1, 1), buffers=(good, good))],
        "numbers": [done(records=-5, seconds=float("nan"))],
        "held": [done(held=True, lengths=(), buffers=())],
        "stage": [Failed(run, task, chunk, -1, "harm", kinds, "x", "y", (bomb,))],
        "chunk": [Failed(run, task, 77, -1, "map", kinds, "x", "y", (bomb,))],
        "exception": [Failed(run, task, chunk, -1, "map", kinds, "x", "y", (bomb,))],
        "foreign": [done(task=task + 99)],
        "parts": [Parts(run, 1, (1,), (bomb,))],
        "hello": [Hello(99, os.getpid())],
        "setup": [Failed(0, 0, -1, -1, "start", kinds, "x", "y", (bomb,))],
        "release": [Release((1, 2, 3))],
        "garbage": [],
    }[place]


_DONE: dict[str, Any] = {"held": False, "records": 1, "size": 1, "seconds": 0.0, "lengths": (1,)}

FORGERIES = (
    *("partial", "report", "beside", "nothing", "too few", "negative", "too many", "numbers", "stage", "chunk"),
    *("exception", "foreign", "parts", "garbage"),
)
OPAQUE = ("partial", "beside")
EXPECTED: dict[str, Any] = dict.fromkeys(FORGERIES, ProtocolError) | {"exception": TaskFailed}


def _identity() -> tuple[int, int]:
    """
    The numbers of the run and the task that this worker runs, from its own memory.
    """
    frame: Any = sys._getframe()
    while not isinstance(worker := frame.f_locals.get("self"), Worker):
        frame = frame.f_back
    return worker._note[1], worker._note[2]


def forge(place: str, proof: str, record: Any) -> Any:
    """
    Write a forged answer to the result pipe, and then wait for the end.
    """
    for message in _answer(place, proof):
        for piece in encode(message):
            os.write(4, piece)
    if place == "garbage":
        os.write(4, pickle.dumps(Bomb(proof)))
    if place == "exception":
        os._exit(0)  # that is an answer, so nobody ends this worker
    time.sleep(60)


def forge_once(proof: str, record: Any) -> Any:
    """
    The same for one record, at its first attempt.
    """
    if record == 2 and current_task().attempt == 1:
        forge("partial", proof, record)
    return record


# Mappers and reducers of tests


@dataclass(frozen=True, order=True)
class Point:
    x: int


def keyed_point(record: int) -> list[tuple[int, Point]]:
    return [(record, Point(record))]


class Farthest(Aggregate):
    """
    The greatest coordinate, by way of a point.
    """

    def zero(self) -> Any:
        return Point(-1)

    def add(self, acc: Any, value: Any) -> Any:
        return max(acc, value)

    def merge(self, a: Any, b: Any) -> Any:
        return max(a, b)

    def finish(self, acc: Any) -> Any:
        return acc.x


def tree(record: int) -> Any:
    return record, 2 ** (70 + record), {("a", record): frozenset({record})}.popitem(), [b"x", None, 0.5, "\udc80"]


def pairs(record: int) -> list[tuple[int, int]]:
    return [(record % 2, record)]


def listed(key: Any, values: Iterator[Any]) -> Iterator[Any]:
    yield key, list(values)


def many(record: int) -> Iterator[tuple[int, tuple[int, int]]]:
    return ((n, (n, 2**70)) for n in range(60_000) if n % 5 == record)


def first(a: Any, b: Any) -> Any:
    return a


def fail(record: int) -> None:
    raise LookupError(f"no {record}")


def odd_ones(record: int) -> int:
    current_task().counter("test", "seen").increment()
    if record % 2:
        return record
    raise ValueError("even")
