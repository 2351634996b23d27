"""
From what a worker is asked to what it answers: the same wherever the worker lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .._shuffle.rows import Rows
from .._shuffle.spill import Spilled
from .._shuffle.tables import Items, Partition, pieces
from .._tasks.failures import class_names, error_text, traceback_text
from .._tasks.runner import STAYS, WHOLE, MapTask, Runner, TaskError
from .._values.codec import Codec
from .._values.loading import Buffer
from .._values.plain import dumps as dump_plain
from .._wire.messages import NO_CHUNK, Done, Failed, Fold, Map, cut

__all__ = ["answer_fold", "answer_map", "encoded", "failed", "size_of"]


def answer_map(
    runner: Runner, codec: Codec, message: Map, npartitions: int = 1, kept: Sequence[Sequence[Buffer]] = ()
) -> Done:
    """
    Run a map task.

    @param npartitions: how many parts its partial is wanted in, where that can be cut.
    @param kept: what tasks of the step before gave, encoded, where the message's split is of that and does not have it.
    @raise TaskError: the user's code raised, or a value could not be loaded or sent.
    """
    source = _loaded(codec, message, kept)
    task = MapTask(
        message.attempt,
        message.first,
        message.count,
        message.chunksize,
        message.hold,
        message.task,
        message.careful,
        message.start,
        message.stop,
    )
    outcome = runner.map(task, source)
    del source
    lengths: tuple[int, ...] = ()
    buffers: tuple[Buffer, ...] = ()
    if not outcome.held:
        parts = [outcome.partial] if npartitions == 1 else runner.parts(outcome.partial, npartitions)
        lengths, buffers = encoded(dump_plain if runner.program.plain_maps else codec.dumps, parts, message.first)
    return Done(
        message.run,
        message.task,
        outcome.held,
        outcome.records,
        outcome.size,
        outcome.seconds,
        lengths,
        (*buffers, *outcome.report.encoded()),
    )


def answer_fold(runner: Runner, codec: Codec, message: Fold) -> Done:
    """
    Run a reduce task.

    @raise TaskError: as for L{answer_map}.
    """
    partials = (codec.loads(part) for part in cut(message.buffers, message.lengths))
    partition = WHOLE if message.partition < 0 else (message.partition, message.npartitions)
    result = runner.fold(partials, message.finish, message.attempt, message.kept, partition, message.task)
    parts = pieces(result) if message.finish else runner.parts(result, message.npartitions)
    dump = dump_plain if message.finish and runner.program.plain_result else codec.dumps
    sizes: list[int] = []
    lengths, buffers = encoded(dump, _measured(parts, sizes), NO_CHUNK)
    return Done(message.run, message.task, False, 0, sum(sizes), 0.0, lengths, (*buffers, *runner.report().encoded()))


def failed(run: int, task: int, where: TaskError, codec: Codec) -> Failed:
    """
    What the user's code raised.
    """
    error = where if where.__cause__ is None else where.__cause__
    pickled = codec.dump_exception(error)
    return Failed(
        run,
        task,
        where.chunk,
        where.record,
        where.stage,
        class_names(error),
        error_text(error) + where.detail,
        traceback_text(error),
        () if pickled is None else (pickled,),
    )


def encoded(
    dump: Callable[[Any], list[Buffer]], values: Iterable[Any], chunk: int
) -> tuple[tuple[int, ...], tuple[Buffer, ...]]:
    """
    The buffers of several values, one after the other, and how many each has.

    @raise TaskError: one can't be sent.
    """
    lengths: list[int] = []
    buffers: list[Buffer] = []
    try:
        for value in values:
            parts = [] if value is STAYS else dump(value)
            lengths.append(len(parts))
            buffers.extend(parts)
    except TaskError:  # a result that is made while it is encoded
        raise
    except BaseException as error:
        raise TaskError(chunk, NO_CHUNK, "result") from error
    return tuple(lengths), tuple(buffers)


def size_of(part: object) -> int:
    """
    How many values or keys a part has.
    """
    return len(part) if isinstance(part, (dict, list, set, Items, Partition, Rows, Spilled)) else 1


def _measured(parts: Iterable[Any], sizes: list[int]) -> Iterator[Any]:
    for part in parts:
        sizes.append(size_of(part))
        yield part


def _loaded(codec: Codec, message: Map, kept: Sequence[Sequence[Buffer]]) -> Any:
    try:
        source = codec.loads(message.buffers)
        return source.of(receipt for part in kept for receipt in codec.loads(part)) if kept else source
    except BaseException as error:
        raise TaskError(message.first, NO_CHUNK, "load") from error
