"""
ampoule.ProcessPool, the other one on Twisted: a command of AMP for each item, as many in flight as there are items.

AMP takes no value of more than 64 KiB, so large items and large results can't be sent.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from ampoule import child, main, pool
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.task import Cooperator, react
from twisted.protocols import amp
from workloads import Input, batches, echo, spin, square, sum_triples, warm

NEEDS = "ampoule"
LIMITS = {"tiny_default": 20_000, "echo_small": 20_000}


def _command(name: str, argument: amp.Argument, response: amp.Argument) -> type[amp.Command]:
    return type(amp.Command)(name, (amp.Command,), {"arguments": [(b"x", argument)], "response": [(b"y", response)]})


Warm = _command("Warm", amp.Integer(), amp.Integer())
Square = _command("Square", amp.Integer(), amp.Integer())
Spin = _command("Spin", amp.Integer(), amp.Integer())
Echo = _command("Echo", amp.String(), amp.String())
SumTriples = _command("SumTriples", amp.ListOf(amp.Integer()), amp.Integer())


class Child(child.AMPChild):
    """
    What a worker can be asked for.
    """

    Warm.responder(lambda self, x: {"y": warm(x)})
    Square.responder(lambda self, x: {"y": square(x)})
    Spin.responder(lambda self, x: {"y": spin(x)})
    Echo.responder(lambda self, x: {"y": echo(x)})
    SumTriples.responder(lambda self, x: {"y": sum_triples(x)})


Work = Callable[[Any], Awaitable[Any]]


async def _work(inp: Input, work: Work, warmed: bool) -> Any:
    starter = main.ProcessStarter(env=dict(os.environ))  # without this their environment would be empty
    workers = pool.ProcessPool(Child, min=inp.workers, max=inp.workers, recycleAfter=0, starter=starter)
    await workers.start()
    if warmed:
        await gatherResults([workers.doWork(Warm, x=x) for x in range(2 * inp.workers)])
        inp.ready()
    answer = inp.answer(await work(workers))
    await workers.stop()
    return answer


def _react(inp: Input, work: Work, warmed: bool = True) -> Any:
    answers: list[Any] = []

    async def whole() -> None:
        answers.append(await _work(inp, work, warmed))

    try:
        react(lambda reactor: ensureDeferred(whole()))
    except SystemExit as end:
        if end.code:
            raise RuntimeError("see above") from end
    return answers[0]


def _mapping(inp: Input, command: type[amp.Command]) -> Work:
    async def work(workers: Any) -> list[Any]:
        calls = [workers.doWork(command, x=x) for x in inp.items]
        return [response["y"] for response in await gatherResults(calls, consumeErrors=True)]

    return work


def tiny_default(inp: Input) -> Any:
    return _react(inp, _mapping(inp, Square))


def tiny_chunk1(inp: Input) -> Any:
    return _react(inp, _mapping(inp, Square))


def echo_small(inp: Input) -> Any:
    return _react(inp, _mapping(inp, Echo))


def cpu(inp: Input) -> Any:
    return _react(inp, _mapping(inp, Spin))


def stream__sums(inp: Input) -> Any:
    async def work(workers: Any) -> int:
        sums: list[int] = []
        calls = (
            workers.doWork(SumTriples, x=batch).addCallback(lambda response: sums.append(response["y"]))
            for batch in batches(inp.generate())
        )
        cooperator = Cooperator()
        await gatherResults([cooperator.coiterate(calls) for _ in range(8)])
        return sum(sums)

    return _react(inp, work)


def startup(inp: Input) -> Any:
    return _react(inp, _mapping(inp, Square), warmed=False)
