"""
Bytes to messages and back: sans-IO and bounded.

A frame is a prefix (C{b"txm"}, a byte for the version, four for the length of the header, big end first), a header, and
buffers one after another. The header is one msgpack array: the message's kind (its place in C{KINDS}), its plain fields
in their order, and the array of the lengths of its buffers.

The rules:

  - Limits hold before anything is allocated, and on both sides: what L{encode} lets through, a L{Decoder} takes.
  - A header is checked to the last item against the annotations of its message. What is not exactly a message is a
    L{ProtocolError}. After one the decoder takes nothing any more, since nobody knows where the next frame starts.
  - A message owns its memory: a buffer is C{bytes} when it is small, and else a C{bytearray} that was read into place.
  - A buffer that the sender has put elsewhere has no bytes here. Instead of its length stands where it is: C{~place}.
  - Each byte is handled a bounded number of times, however the reads are cut.

Strings may hold lone surrogates (names of files, texts of exceptions): both sides let them pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from struct import Struct
from typing import Any, Final, get_args, get_type_hints

import msgpack

from .._values.loading import Buffer
from ..errors import ProtocolError
from .headers import check_items, unpacked
from .messages import KINDS, VERSION, Message

MAX_FRAME: Final = 1 << 30  # How many bytes the buffers of a message may have, together.
MAX_HEADER: Final = 1 << 20  # How many bytes a header may have.
_PREFIX: Final = Struct(">4sI")
_MAGIC: Final = b"txm" + bytes([VERSION])
_JOINED: Final = 4096  # Copying less than this costs less than one more iovec.
_SMALL: Final = 32 * 1024  # Copying less than this out of scratch costs less than a place of its own.
_TOGETHER: Final = 64  # Large buffers that are opened at once: a few fill any pipe, and readv takes 1024 iovecs.


def _checker(annotation: Any) -> Callable[[object], bool]:
    """
    A function that says whether a value is exactly what the annotation says: of a class, or tuples of such values.
    """
    items = get_args(annotation)
    if not items:
        classes = {annotation, int} if annotation is float else {annotation}  # As type checkers see it.
        return lambda value: type(value) in classes
    if items[-1] is not Ellipsis:
        return lambda value: type(value) is tuple and (*map(type, value),) == items
    check = _checker(items[0])
    return lambda value: type(value) is tuple and (not value or all(map(check, value)))


class _Shape:
    """
    How the messages of one class look in a header. Worked out once, since dataclasses answer slowly.
    """

    def __init__(self, kind: int, cls: type[Message]) -> None:
        hints = get_type_hints(cls)
        del hints["buffers"]
        self.kind = kind
        self.cls = cls
        self.names = (*hints, "buffers")
        self.annotations = (int, *hints.values(), tuple[int, ...])
        self.types = [tuple if get_args(hint) else hint for hint in self.annotations]
        self.checks = [(place, _checker(hint)) for place, hint in enumerate(self.annotations)]
        self.nested = [(place, check) for place, check in self.checks if self.types[place] is tuple]

    def check(self, fields: tuple[Any, ...]) -> None:
        """
        Refuse the items of a header that are not of the annotated types, to the last item.
        """
        usual = [*map(type, fields)] == self.types
        if len(fields) != len(self.types):
            raise ProtocolError(f"{self.cls.__name__} has {len(self.types)} items in its header, not {len(fields)}.")
        for place, check in self.nested if usual else self.checks:
            if not check(fields[place]):
                wrong = f"its {self.names[place - 1]} should be {self.annotations[place]}"
                raise ProtocolError(f"{self.cls.__name__}: {wrong}, not {fields[place]!r:.40}.")

    def message(self, plain: Sequence[object], buffers: Sequence[Buffer]) -> Message:
        """
        The message with these fields.
        """
        return self.cls._make((*plain, tuple(buffers)))


_SHAPES: Final = {cls: _Shape(kind, cls) for kind, cls in enumerate(KINDS)}


def _check_header(length: int, limit: int) -> None:
    if length > limit:
        raise ProtocolError(f"A message has a header of {length} bytes. The limit is {limit}.")


def _check_lengths(lengths: Sequence[int], limit: int) -> None:
    if lengths and min(lengths) < 0:
        raise ProtocolError(f"A message announces a buffer of {min(lengths)} bytes.")
    if sum(lengths) > limit:
        raise ProtocolError(f"A message has buffers of {sum(lengths)} bytes. The limit is {limit}.")


_pack: Final = msgpack.Packer(unicode_errors="surrogatepass").pack  # One for all, since a new one takes as long again.


Lend = Callable[[Buffer], "int | None"]
"""Puts a buffer where the other side finds it and says where, or says that it can't."""


def encode(message: Message, lend: Lend | None = None, *, max_frame: int = MAX_FRAME) -> list[Buffer]:
    """
    The frame of a message, in pieces for C{os.writev} (which takes 1024 of them at a time).

    Small neighbours are joined. Large buffers are the message's own: leave them alone until they are written.

    @raise ProtocolError: when the message is over a limit, or holds what can't be sent.
    """
    shape = _SHAPES[type(message)]
    try:
        buffers = [_flat(buffer) for buffer in message.buffers]
        lengths = [len(buffer) for buffer in buffers]
        _check_lengths(lengths, max_frame)
        if lend is not None and buffers:
            buffers, lengths = _lent(buffers, lengths, lend)
        header: bytes = _pack([shape.kind, *message[:-1], lengths])
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"{shape.cls.__name__} can't be sent: {error}") from error
    _check_header(len(header), MAX_HEADER)
    check_items(header)
    return _joined([_PREFIX.pack(_MAGIC, len(header)) + header, *buffers])


def _lent(buffers: list[Buffer], lengths: list[int], lend: Lend) -> tuple[list[Buffer], list[int]]:
    """
    The buffers that still have to be sent, and what stands in the header for all of them.
    """
    places = [lend(buffer) for buffer in buffers]
    rest = [buffer for buffer, place in zip(buffers, places, strict=True) if place is None]
    return rest, [length if place is None else ~place for length, place in zip(lengths, places, strict=True)]


def _flat(buffer: Buffer) -> Buffer:
    """
    The buffer as something whose C{len} is its number of bytes.
    """
    if isinstance(buffer, memoryview):
        return buffer.cast("B") if buffer.nbytes else b""
    return buffer


def _joined(pieces: list[Buffer]) -> list[Buffer]:
    """
    The pieces, with small neighbours made one and empty ones left out.
    """
    joined: list[Buffer] = []
    run: list[Buffer] = []
    for piece in pieces:
        if len(piece) < _JOINED:
            run.append(piece)
        else:
            joined += (b"".join(run), piece)
            run = []
    joined.append(b"".join(run))
    return [piece for piece in joined if piece]


class Decoder:
    """
    Takes a stream of frames apart, in a loop of C{decoder.received(os.readv(fd, decoder.buffers()))}.

    What has been read and not been looked at stands in C{scratch[start:end]}. C{open} are the places to which the next
    bytes belong instead: the rests of large parts. While there are any, nothing stands in scratch.

    C{lengths} and C{parts} are of the frame under way: first its header, then, when C{fields} are known, its buffers.

    @param accept: the messages that this side may receive.
    @param borrow: gives the buffer that the other side has put elsewhere.
    @param max_frame: how many bytes the buffers of a message may have, together.
    @param max_header: how many bytes a header may have.
    @param scratch: how many bytes to read at once while nobody knows where they belong.
    """

    def __init__(
        self,
        accept: Collection[type[Message]],
        borrow: Callable[[int], Buffer] | None = None,
        *,
        max_frame: int = MAX_FRAME,
        max_header: int = MAX_HEADER,
        scratch: int = 256 * 1024,
    ) -> None:
        self._accept = {_SHAPES[cls].kind: _SHAPES[cls] for cls in accept}
        self._borrow = borrow
        self._max_frame = max_frame
        self._max_header = max_header
        self._scratch = memoryview(bytearray(max(scratch, 4 * _PREFIX.size)))
        self._small = min(_SMALL, len(self._scratch) // 4)
        self._start = self._end = 0
        self._open: deque[memoryview] = deque()
        self._lengths: list[int] = []
        self._parts: list[Buffer] = []
        self._fields: tuple[Any, ...] = ()
        self._broken = ""

    def buffers(self) -> list[memoryview]:
        """
        Where the next bytes belong, for C{os.readv}. Good until the next call of any method.
        """
        self._refuse_when_broken()
        if self._start:  # What waits is one part at most, and a small one: moving it costs little.
            waiting = self._scratch[self._start : self._end]
            self._scratch[: len(waiting)] = waiting
            self._start, self._end = 0, len(waiting)
        return [*self._open, self._scratch[self._end :]]

    def received(self, nbytes: int) -> list[Message]:
        """
        So many bytes have been read into the L{buffers}.

        @return: the messages that are complete now, in their order.
        @raise ProtocolError: when there is something among the bytes that is not a message. Messages before it that
            came in the same read are lost.
        """
        self._refuse_when_broken()
        self._end += self._fill(nbytes)
        messages: list[Message] = []
        try:
            while (message := self._next()) is not None:
                messages.append(message)
        except ProtocolError as error:
            self._break(str(error))
            raise
        return messages

    def ended(self) -> None:
        """
        The stream has ended.

        @raise ProtocolError: when that was in the middle of a message.
        """
        self._refuse_when_broken()
        if self._start != self._end or self._lengths:
            self._break("The stream ended in the middle of a message.")
        self._refuse_when_broken()

    def _refuse_when_broken(self) -> None:
        if self._broken:
            raise ProtocolError(self._broken)

    def _break(self, why: str) -> None:
        """
        Take nothing any more, and let go of what there is.
        """
        self._broken = why
        self._scratch = memoryview(b"")
        self._open.clear()
        self._parts.clear()

    def _fill(self, nbytes: int) -> int:
        """
        So many bytes were read: the open places came first. Returns how many went to scratch.
        """
        while self._open and nbytes >= len(self._open[0]):
            nbytes -= len(self._open.popleft())
        if not self._open:
            return nbytes
        self._open[0] = self._open[0][nbytes:]
        return 0

    def _next(self) -> Message | None:
        """
        The next message, when all of it is there.
        """
        if not (self._lengths or self._begun()) or not self._gathered():
            return None
        if not self._fields:
            self._fields = self._parsed(self._parts[0])
            self._lengths += self._fields[-1]
            if not self._gathered():
                return None
        fields, parts = self._fields, self._parts
        self._lengths, self._parts, self._fields = [], [], ()
        return self._accept[fields[0]].message(fields[1:-1], parts[1:])

    def _begun(self) -> bool:
        """
        Begin a frame when its prefix is there. What can't become a prefix is refused at its first byte.
        """
        if self._end - self._start < _PREFIX.size:
            _check_magic(bytes(self._scratch[self._start : self._end])[: len(_MAGIC)])
            return False
        magic, length = _PREFIX.unpack_from(self._scratch, self._start)
        _check_magic(magic)
        _check_header(length, self._max_header)
        self._start += _PREFIX.size
        self._lengths = [length]
        return True

    def _gathered(self) -> bool:
        """
        Take what there is of the frame's parts. Returns whether that is all that are known.
        """
        parts, lengths = self._parts, self._lengths
        while len(parts) < len(lengths) and len(self._open) < _TOGETHER:
            length = lengths[len(parts)]
            if length < 0:
                assert self._borrow is not None
                parts.append(self._borrow(~length))
            elif length >= self._small:
                parts.append(self._place(length))
            elif self._end - self._start < length:
                return False
            else:
                parts.append(bytes(self._scratch[self._start : self._start + length]))
                self._start += length
        return not self._open

    def _place(self, length: int) -> bytearray:
        """
        A place of its own for the next part. What there is in scratch is copied there, and the rest stays open.
        """
        place = bytearray(length)
        view = memoryview(place)
        have = min(length, self._end - self._start)
        view[:have] = self._scratch[self._start : self._start + have]
        self._start += have
        if have < length:
            self._open.append(view[have:])
        return place

    def _parsed(self, header: Buffer) -> tuple[Any, ...]:
        """
        The items of a header, which are known to be right.
        """
        fields = unpacked(header)
        kind = fields[0] if fields else None
        shape = self._accept.get(kind) if type(kind) is int else None
        if shape is None:
            name = KINDS[kind].__name__ if type(kind) is int and 0 <= kind < len(KINDS) else f"Kind {kind!r:.40}"
            raise ProtocolError(f"{name} is not a message that may come this way.")
        shape.check(fields)
        sent = fields[-1] if self._borrow is None else [length for length in fields[-1] if length >= 0]
        _check_lengths(sent, self._max_frame)
        return fields


def _check_magic(magic: bytes) -> None:
    if _MAGIC.startswith(magic):
        return
    if magic[:-1] == _MAGIC[:-1]:
        raise ProtocolError(f"The other side speaks version {magic[-1]} of the protocol, and this one {VERSION}.")
    raise ProtocolError(f"Not the start of a message: {magic!r}. Did something else write to this pipe?")
