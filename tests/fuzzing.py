"""
Feeds the coordinator's decoders with made-up bytes: frames, reports, plain data, and answers to a task. Whatever comes,
they give values or raise ProtocolError, quickly and within a limit on memory.

With atheris, where that can be imported, inputs follow the code that they reach; without it they are real frames with
bytes changed, cut, doubled and spliced. This process limits its own memory: what takes more ends in a MemoryError.

    scripts/fuzz                    20,000 inputs
    scripts/fuzz --count 10000000   so many
    scripts/fuzz --own              without atheris, even where it is installed
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from txmapreduce._schedule.events import FoldAttempt, MapAttempt
from txmapreduce._tasks.runner import Program
from txmapreduce._values import plain
from txmapreduce._wire.frames import Decoder, encode
from txmapreduce._wire.messages import Done, Failed, Hello, Parts, Release, Report
from txmapreduce.aggregates import Collect
from txmapreduce.backends._handles import Task, answer_of, failure_of
from txmapreduce.errors import ProtocolError

FRAME = 1 << 20
"""The limit on frames. Memory may grow by four times as much."""
HANG = 10
"""Seconds after which an input counts as one that hangs."""

UP = (Hello, Done, Failed, Parts, Release)
PROGRAM = Program(abs, Collect(), plain_maps=True, plain_result=True)
_ATTEMPTS = (MapAttempt(1, 1, 0, 0, 3, 2, False), FoldAttempt(1, 1, (), None, True), FoldAttempt(1, 1, (), None, False))
TASKS = [Task(attempt, None, None) for attempt in _ATTEMPTS]  # type: ignore[arg-type]


def seeds() -> list[bytes]:
    """
    Real frames, of every message that a worker sends.
    """
    values: list[Any] = [[1, 2], (1, 2**70), {"a": {1, 2}}, [None, 0.5, b"x", "\xe9"], list(range(300)), [[[]]]]
    report = Report((("g", "n", 5),), ((1, "bad"),), "busy").encoded()
    messages: list[Any] = [Hello(1, 77), Parts(1, 2, (1, 0), (b"x",)), Release((1, 2))]
    messages += [Failed(1, 1, 1, 0, "map", ("builtins.KeyError",), "KeyError: 1", "Traceback", (b"x",))]
    for value in values:
        parts = plain.dumps(value)
        messages.append(Done(1, 1, False, 2, 2, 0.1, (1,), (*parts, *report)))
    return [b"".join(map(bytes, encode(message))) for message in messages]


def one(data: bytes) -> None:
    """
    Everything that the coordinator does with a worker's bytes.
    """
    for decode in (frames, Report.decoded, lambda data: plain.received([[data]])):
        try:
            decode(data)
        except ProtocolError:
            continue


def frames(data: bytes) -> None:
    decoder = Decoder(UP, max_frame=FRAME, max_header=FRAME // 4, scratch=4096)
    while data:
        taken = 0
        for place in decoder.buffers():
            part = data[taken : taken + len(place)]
            place[: len(part)] = part
            taken += len(part)
        data = data[taken:]
        for message in decoder.received(taken):
            answers(message)
    decoder.ended()


def answers(message: object) -> None:
    for task in (*TASKS, None):
        try:
            if isinstance(message, Done):
                answer_of(message, task, PROGRAM, 2)
            elif isinstance(message, Failed):
                failure_of(message, task, 77)
        except ProtocolError:
            continue


def mutations(rng: random.Random) -> Iterator[bytes]:
    """
    Inputs without an end. Half of them are changed behind the frame's prefix only, and so get further.
    """
    corpus = seeds()
    corpus += [frame[8:] for frame in corpus] + [plain.dump([n, (n,), {n: {n}}]) for n in range(5)]
    edits: list[Callable[[bytearray, int], None]] = [
        lambda data, at: data.__setitem__(at, rng.randrange(256)),
        lambda data, at: data.__setitem__(at, data[at] ^ 1 << rng.randrange(8)),
        lambda data, at: data.__setitem__(at, rng.choice(b"\x80\x90\xc0\xc1\xc6\xc7\xc9\xcf\xd4\xdb\xdd\xdf\xff")),
        lambda data, at: data.__delitem__(slice(at, at + rng.randrange(1, 9))),
        lambda data, at: data.__setitem__(slice(at, at), data[at : at + rng.randrange(1, 40)] * rng.randrange(1, 9)),
        lambda data, at: data.__setitem__(slice(at, None), rng.choice(corpus)[-rng.randrange(1, 99) :]),
        lambda data, at: data.__setitem__(slice(at, at), rng.randbytes(rng.randrange(1, 9))),
    ]
    while True:
        data = bytearray(rng.choice(corpus))
        low = 8 if data.startswith(b"txm") and rng.random() < 0.7 else 0
        for _ in range(rng.choice((1, 1, 2, 4, 8))):
            if len(data) > low:
                rng.choice(edits)(data, rng.randrange(low, len(data)))
        yield bytes(data)


def peak() -> int:
    """
    The most memory that this process has had, in bytes.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def bound_memory() -> None:
    """
    Let this process grow by four frames and some room for the interpreter.
    """
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        limit = used + 4 * FRAME + (32 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def own_loop(count: int, seed: int) -> None:
    bound_memory()
    for number, data in enumerate(itertools.islice(mutations(random.Random(seed)), count)):
        signal.alarm(HANG)
        try:
            one(data)
        except BaseException:
            print(f"input {number} of seed {seed}: {data.hex()}", file=sys.stderr)
            raise
    signal.alarm(0)


def with_atheris(count: int, seed: int, report: Callable[[], None]) -> None:
    import atexit

    import atheris  # type: ignore[import-not-found]

    for function in (Report.decoded, plain.received, answer_of, failure_of, Decoder._next, Decoder._parsed):
        atheris.instrument_func(getattr(function, "__func__", function))
    atexit.register(report)  # libFuzzer ends the process
    options = [f"-runs={count}", f"-seed={seed}", f"-timeout={HANG}", "-rss_limit_mb=512", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", "-verbosity=0"], one)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/fuzz")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--own", action="store_true")
    options = parser.parse_args()
    for frame in seeds():
        one(frame)
    before, began = peak(), time.perf_counter()
    use_atheris = not options.own and find_spec("atheris") is not None

    def report() -> None:
        seconds, grown = time.perf_counter() - began, (peak() - before) / FRAME
        how = "atheris" if use_atheris else "own mutations of real frames, without coverage"
        print(
            f"{options.count} inputs ({how}), {options.count / seconds:.0f} a second; memory grew by {grown:.1f} frames"
        )
        if not use_atheris and grown > 4:
            raise SystemExit("that is more than four frames")

    if use_atheris:
        with_atheris(options.count, options.seed, report)
    else:
        own_loop(options.count, options.seed)
        report()


if __name__ == "__main__":
    main()
