"""
Tests for L{txmapreduce._wire.frames}.
"""

import os
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any, get_args, get_type_hints

import msgpack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce._wire.frames import MAX_HEADER, Decoder, encode
from txmapreduce._wire.headers import MAX_BUFFERS
from txmapreduce._wire.messages import KINDS, VERSION, Done, Failed, Fold, Forget, Hello, Map, Message, Parts
from txmapreduce.errors import ProtocolError

MIB = 1 << 20
LARGE = 40_000  # A buffer of this size is read into a place of its own.

DONE = Done(1, 2, False, 3, 4, 0.5, (1, 1), (b"small", b"x" * LARGE))
FAILED = Failed(1, 2, 3, -1, "map", ("ValueError", "Exception"), "no \udcff", "Traceback", (b"pickle",))
FOLD = Fold(1, 2, 1, True, -1, 4, False, (2, 0, 1), (b"", b"y" * LARGE, b"z"))
SOME = [Hello(VERSION, 17), DONE, FAILED, Forget(3), FOLD]

quick = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def joined(*messages: Message) -> bytes:
    """
    The frames of these messages as one run of bytes.
    """
    return b"".join(b"".join(encode(message)) for message in messages)


def framed(header: bytes, *, version: int = VERSION, announced: int | None = None) -> bytes:
    """
    A header behind a prefix, whatever is in it.
    """
    length = len(header) if announced is None else announced
    return struct.pack(">3sBI", b"txm", version, length) + header


def packed(*items: object) -> bytes:
    return framed(msgpack.packb(items))


def feed(decoder: Decoder, data: bytes, sizes: Iterable[int] = ()) -> list[Message]:
    """
    Hand the bytes over as a C{readv} would that returns so many bytes at each call, and then as many as there is room
    for.
    """
    messages, rest, cuts = [], memoryview(data), iter(sizes)
    while rest:
        cut = rest[: next(cuts, len(rest))]
        done = 0
        for place in decoder.buffers():
            fits = min(len(place), len(cut) - done)
            place[:fits] = cut[done : done + fits]
            done += fits
        messages += decoder.received(done)
        rest = rest[done:]
    return messages


def decoded(data: bytes, sizes: Iterable[int] = (), **options: Any) -> list[Message]:
    decoder = Decoder(KINDS, **options)
    messages = feed(decoder, data, sizes)
    decoder.ended()
    return messages


def peak(call: Callable[[], object]) -> int:
    """
    How many bytes were allocated at most during the call.
    """
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


TEXT = st.text(st.characters(), max_size=20)  # Lone surrogates too.
BUFFERS = st.one_of(
    st.binary(max_size=50),
    st.binary(max_size=50).map(bytearray),
    st.binary(max_size=48).map(memoryview),
    st.sampled_from((4095, 4096, 32767, 32768, LARGE, 300_000)).map(bytes),
)
SCALARS: dict[object, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False),
    str: TEXT,
    bytes: st.binary(max_size=20),
}


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """
    Anything that the annotation of a plain field allows.
    """
    items = get_args(annotation)
    if not items:
        return SCALARS[annotation]
    if items[-1] is Ellipsis:
        return st.lists(values(items[0]), max_size=5).map(tuple)
    return st.tuples(*map(values, items))


def example(annotation: Any) -> Any:
    """
    One value that the annotation of a plain field allows.
    """
    items = [item for item in get_args(annotation) if item is not Ellipsis]
    return tuple(map(example, items)) if items else {int: 5, bool: True, float: 0.5, str: "s"}[annotation]


def messages_of(cls: type[Message]) -> st.SearchStrategy[Message]:
    hints = get_type_hints(cls)
    del hints["buffers"]
    plain = {name: values(hint) for name, hint in hints.items()}
    return st.builds(cls, **plain, buffers=st.lists(BUFFERS, max_size=4).map(tuple))


MESSAGES = st.one_of(*map(messages_of, KINDS))
OBJECTS = st.recursive(
    st.one_of(st.none(), *SCALARS.values()).filter(lambda value: not isinstance(value, str) or value.isascii()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab"), inner, max_size=2),
    max_leaves=12,
)


class RoundTripTests(SynchronousTestCase):
    """
    What goes in comes out.
    """

    @quick
    @given(
        st.lists(MESSAGES, max_size=4), st.lists(st.integers(1, 5000), max_size=20), st.sampled_from((0, 64, 262144))
    )
    def test_any_messages_any_reads(self, sent: list[Message], sizes: list[int], scratch: int) -> None:
        """
        Any messages come back equal, whatever each read returns and however little scratch there is.
        """
        self.assertEqual(decoded(joined(*sent), sizes, scratch=scratch), sent)

    def test_each_kind(self) -> None:
        """
        Each kind of message comes back, field by field and type by type.
        """
        for cls in KINDS:
            hints = get_type_hints(cls)
            del hints["buffers"]
            sent = cls(*map(example, hints.values()), buffers=(b"buffer",))
            (received,) = decoded(joined(sent))
            self.assertEqual(received, sent)
            self.assertIs(type(received), cls)
            self.assertEqual(repr(received), repr(sent))

    def test_cut_at_every_byte(self) -> None:
        """
        Two reads give the same as one, wherever the cut is.
        """
        data = joined(Hello(VERSION, 17), FAILED, Fold(1, 2, 1, True, -1, 4, False, (2,), (b"abc", b"", b"z" * 20)))
        whole = decoded(data, scratch=64)
        self.assertEqual(len(whole), 3)
        for cut in range(1, len(data)):
            self.assertEqual(decoded(data, [cut], scratch=64), whole)

    def test_byte_by_byte(self) -> None:
        """
        One byte per read gives the same as one read.
        """
        data = joined(*SOME)
        self.assertEqual(decoded(data, [1] * len(data)), SOME)

    def test_many_in_one_read(self) -> None:
        """
        One read gives all messages that it completes, in their order, and keeps the beginning of the next.
        """
        sent: list[Message] = [Forget(number) for number in range(1000)]
        data = joined(*sent)
        decoder = Decoder([Forget])
        self.assertEqual(feed(decoder, data[:-1]), sent[:-1])
        self.assertEqual(feed(decoder, data[-1:]), sent[-1:])

    def test_long_header(self) -> None:
        """
        A header may be longer than scratch.
        """
        sent = [Failed(1, 2, 3, 4, "map", (), "m" * 500_000, "t" * 500_000, ()), Forget(1)]
        for scratch in (64, 4096, 262144):
            self.assertEqual(decoded(joined(*sent), [1000] * 50, scratch=scratch), sent)

    def test_many_buffers(self) -> None:
        """
        A message may have as many buffers as the limit says, of all sizes.
        """
        sizes = [length for length in (0, 1, 500, LARGE) for _ in range(200)]
        few = Parts(1, 2, (), tuple(bytes(length) for length in sizes[::-1] + sizes + sizes[::7]))
        many = Parts(1, 2, tuple(range(MAX_BUFFERS)), (b"",) * MAX_BUFFERS)
        self.assertEqual(decoded(joined(few, many)), [few, many])

    def test_whole_number_as_float(self) -> None:
        """
        A whole number is good where a float is expected, as it is for type checkers.
        """
        sent = Done(1, 2, False, 3, 4, 0, (), ())
        self.assertEqual(decoded(joined(sent)), [sent])

    def test_through_a_pipe(self) -> None:
        """
        The pieces fit C{os.writev} and the places fit C{os.readv}.
        """
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        decoder = Decoder(KINDS, scratch=1000)
        received: list[Message] = []
        for message in SOME:
            size = os.writev(writer, encode(message))
            while size:
                count = os.readv(reader, decoder.buffers())
                received += decoder.received(count)
                size -= count
        os.close(writer)
        self.assertEqual(os.readv(reader, decoder.buffers()), 0)
        decoder.ended()
        self.assertEqual(received, SOME)


class EncodeTests(SynchronousTestCase):
    """
    L{encode} gives the pieces of a frame.
    """

    def test_format(self) -> None:
        """
        The wire format, byte for byte: prefix, header, buffers.
        """
        header = b"\x93\x06\x07\x92\x02\x03"
        self.assertEqual(encode(Forget(7, (b"ab", b"cde"))), [b"txm\x01\x00\x00\x00\x06" + header + b"abcde"])

    def test_large_buffers_are_not_copied(self) -> None:
        """
        A large buffer is a piece of its own, and the very object that was in the message.
        """
        large = bytes(LARGE), bytearray(LARGE)
        pieces = encode(Forget(7, (b"a", large[0], b"", b"b", b"c", large[1], b"")))
        self.assertIs(pieces[1], large[0])
        self.assertEqual(pieces[2], b"bc")
        self.assertIs(pieces[3], large[1])
        self.assertEqual(len(pieces), 4)

    def test_views(self) -> None:
        """
        A memoryview counts in bytes, whatever its format and shape are.
        """
        for view in (
            memoryview(b"12345678").cast("I"),
            memoryview(b"123456").cast("B", (2, 3)),
            memoryview(b"").cast("d"),
        ):
            self.assertEqual(decoded(joined(Forget(7, (view, b"!")))), [Forget(7, (view.tobytes(), b"!"))])

    def test_refused(self) -> None:
        """
        What no decoder would take, or msgpack can't hold, is refused before anything is sent.
        """
        strided = memoryview(b"12345678")[::2]
        wrong: list[tuple[Message, str]] = [
            (Forget(2**64), "can't be sent"),
            (Forget(object()), "can't be sent"),  # type: ignore[arg-type]
            (Forget(1, (strided,)), "can't be sent"),
            (Forget(1, (b"",) * (MAX_BUFFERS + 1)), "too many items"),
            (Failed(1, 2, 3, 4, "map", (), "m" * MAX_HEADER, "", ()), "header of 1048594 bytes"),
            (Forget(1, (bytes(MIB),) * 1025), "buffers of 1074790400 bytes"),
        ]
        for message, why in wrong:
            self.assertIn(why, str(self.assertRaises(ProtocolError, encode, message)))
        self.assertRaises(ProtocolError, encode, Forget(1, (b"12345",)), max_frame=4)

    def test_as_many_items(self) -> None:
        """
        The limit to the items of a tuple is the same on both sides.
        """
        most = Parts(1, 2, (0,) * MAX_BUFFERS, ())
        self.assertEqual(decoded(joined(most)), [most])
        self.assertRaises(ProtocolError, encode, Parts(1, 2, (0,) * (MAX_BUFFERS + 1), ()))

    def test_after_a_refusal(self) -> None:
        """
        Nothing of a message that was refused gets into the next one.
        """
        self.assertRaises(ProtocolError, encode, Done(1, 2, False, 2**70, 4, 0.5, (), ()))
        self.assertEqual(decoded(joined(DONE)), [DONE])


class MemoryTests(SynchronousTestCase):
    """
    Who owns what, and how much of it there is.
    """

    def test_kinds_of_buffers(self) -> None:
        """
        Small buffers are C{bytes}, large ones C{bytearray}.
        """
        (message,) = decoded(joined(Forget(1, (bytes(32767), bytes(32768)))))
        self.assertEqual([type(buffer) for buffer in message.buffers], [bytes, bytearray])

    def test_read_in_place(self) -> None:
        """
        The rest of a large buffer is read into the memory that the message hands out, and so are large ones that
        follow. Behind them there is room for the next frames.
        """
        sent = Forget(1, (b"a" * MIB, b"b" * MIB, b"small", b"c" * MIB))
        data = joined(sent, Forget(2))
        decoder = Decoder(KINDS)
        feed(decoder, data[:100])
        first, second, scratch = decoder.buffers()
        (message, after) = feed(decoder, data[100:])
        self.assertEqual([message, after], [sent, Forget(2)])
        self.assertIs(first.obj, message.buffers[0])
        self.assertIs(second.obj, message.buffers[1])
        self.assertEqual(len(scratch), 256 * 1024)

    def test_few_places(self) -> None:
        """
        However many large buffers are to come, C{readv} is given no more than it takes.
        """
        sent = Forget(1, (bytes(LARGE),) * 2000)
        data = joined(sent)
        decoder = Decoder(KINDS)
        feed(decoder, data[:20_000])
        self.assertLess(len(decoder.buffers()), 100)
        self.assertEqual(feed(decoder, data[20_000:]), [sent])

    def test_messages_own_their_memory(self) -> None:
        """
        A message stays as it is while the next ones are read, and its bytearrays can be resized.
        """
        decoder = Decoder(KINDS)
        (first,) = feed(decoder, joined(DONE))
        for _ in range(20):
            feed(decoder, joined(Forget(9, (b"\xff" * 30_000, b"\xff" * LARGE))))
        self.assertEqual(first, DONE)
        large = first.buffers[1]
        assert isinstance(large, bytearray)
        large.append(1)

    def test_always_room(self) -> None:
        """
        There is always a place for the next byte.
        """
        data = joined(*[Forget(1, (bytes(14),) * 3)] * 100)
        decoder = Decoder(KINDS, scratch=64)
        for at in range(len(data)):
            self.assertGreater(sum(map(len, decoder.buffers())), 0)
            feed(decoder, data[at : at + 1])

    def test_linear(self) -> None:
        """
        Four times the bytes take about four times as long, in reads of one byte: never anything quadratic.
        """

        def seconds(data: bytes) -> float:
            started = time.process_time()
            decoded(data, [1] * len(data))
            return time.process_time() - started

        for shape in (lambda n: [Forget(1, (bytes(n),))], lambda n: [Forget(1, (bytes(30_000),))] * (n // 30_000)):
            little, much = joined(*shape(60_000)), joined(*shape(240_000))
            self.assertLess(min(seconds(much) for _ in range(2)), 12 * min(seconds(little) for _ in range(3)))


class RefusalTests(SynchronousTestCase):
    """
    What is not exactly a message is a L{ProtocolError}, and nothing else.
    """

    def refused(self, data: bytes, why: str = "", **options: Any) -> None:
        decoder = Decoder(options.pop("accept", KINDS), **options)
        error = self.assertRaises(ProtocolError, feed, decoder, data)
        self.assertIn(why, str(error))
        for again in (decoder.buffers, decoder.ended, lambda: decoder.received(1), lambda: decoder.received(0)):
            self.assertEqual(str(self.assertRaises(ProtocolError, again)), str(error))

    def judged(self, data: bytes, **options: Any) -> None:
        """
        Either a L{ProtocolError}, or messages that are good enough to be sent on.
        """
        try:
            messages = feed(Decoder(KINDS, **options), data)
        except ProtocolError:
            return
        self.assertEqual(decoded(joined(*messages)), messages)

    def test_truncated_at_every_byte(self) -> None:
        """
        An end in the middle of a frame is an error, and gives no message that wasn't complete.
        """
        sent = [Hello(VERSION, 17), Forget(1, (b"abc", b"defg" * 20, b""))]
        ends = [len(joined(*sent[:count])) for count in range(3)]
        data = joined(*sent)
        for end in range(len(data) + 1):
            decoder = Decoder(KINDS, scratch=64)
            messages = feed(decoder, data[:end])
            self.assertEqual(messages, sent[: sum(end >= complete for complete in ends[1:])])
            if end in ends:
                decoder.ended()
            else:
                self.assertIn("middle", str(self.assertRaises(ProtocolError, decoder.ended)))
                self.assertRaises(ProtocolError, decoder.buffers)

    @quick
    @given(st.binary(max_size=200))
    def test_garbage(self, data: bytes) -> None:
        """
        Bytes that don't start a frame are refused.
        """
        self.judged(data)

    @quick
    @given(st.binary(max_size=3000))
    def test_garbage_header(self, header: bytes) -> None:
        """
        Any bytes as a header do no harm.
        """
        self.judged(framed(header), max_frame=MIB)

    @settings(quick, max_examples=300)
    @given(st.integers(0, len(KINDS)), st.lists(OBJECTS, max_size=11), st.lists(st.integers(-1, 9), max_size=3))
    def test_wrong_items(self, kind: int, items: list[object], lengths: list[int]) -> None:
        """
        Any msgpack values as the fields do no harm.
        """
        self.judged(packed(kind, *items, lengths) + bytes(27), max_frame=MIB)

    def test_bit_flips(self) -> None:
        """
        Whichever bit is wrong, there is an error or a message, and never more memory than the limit allows.
        """
        data = joined(Done(1, 2, False, 3, 4, 0.5, (1,), (b"abc",)))

        def flip() -> None:
            for bit in range(8 * len(data)):
                flipped = bytearray(data)
                flipped[bit // 8] ^= 1 << bit % 8
                self.judged(bytes(flipped), max_frame=MIB, max_header=MIB, scratch=1024)

        self.assertLess(peak(flip), 3 * MIB)

    def test_refused_at_its_first_byte(self) -> None:
        """
        Text that someone printed into the pipe is refused at once, not when there is enough of it for a prefix.
        """
        self.refused(b"h", "b'h'. Did something else write")
        self.refused(b"txt", "Not the start of a message")
        self.refused(b"\n" + joined(DONE), "Not the start of a message")

    def test_garbage_between_frames(self) -> None:
        """
        Garbage behind a good frame is refused, too.
        """
        self.refused(joined(DONE) + b"printed", "Not the start of a message")

    def test_wrong_version(self) -> None:
        """
        The other side must be of the same version. The error says what it is.
        """
        self.refused(
            framed(b"", version=VERSION + 1), f"speaks version {VERSION + 1} of the protocol, and this one {VERSION}"
        )

    def test_wrong_direction(self) -> None:
        """
        A message that is good but not for this side is refused by its name.
        """
        self.refused(joined(DONE), "Done is not a message that may come this way", accept=[Map, Fold])

    def test_what_was_wrong(self) -> None:
        """
        The error says what is wrong with a header.
        """
        bad: list[tuple[bytes, str]] = [
            (framed(b""), "can't be read"),
            (framed(b"\x93\x06\x07"), "can't be read"),
            (framed(b"\xc1"), "FormatError"),
            (framed(msgpack.packb((6, 7, ())) + b"\x00"), "extra data"),
            (framed(b"\x07"), "not an array but int"),
            (packed(), "Kind None"),
            (packed(99, 7, ()), "Kind 99 is not a message"),
            (packed(-1, 7, ()), "Kind -1 is not a message"),
            (packed(True, 7, ()), "Kind True is not a message"),
            (packed("x" * 100, 7, ()), "Kind 'xxx"),
            (packed([[]], 7, ()), "Kind ((),) is not"),
            (packed(6), "Forget has 3 items in its header, not 1"),
            (packed(6, 7), "Forget has 3 items in its header, not 2"),
            (packed(6, 7, 8, ()), "Forget has 3 items in its header, not 4"),
            (packed(6, True, ()), "Forget: its run should be <class 'int'>, not True"),
            (packed(6, 7.0, ()), "Forget: its run"),
            (packed(6, None, ()), "Forget: its run"),
            (packed(6, {}, ()), "Forget: its run"),
            (packed(6, {"a": 2}, ()), "can't be read"),
            (packed(6, msgpack.ExtType(1, b""), ()), "Forget: its run"),
            (packed(6, msgpack.Timestamp(1), ()), "can't be read"),
            (packed(6, 7, 8), "Forget: its buffers"),
            (packed(6, 7, ["1"]), "Forget: its buffers"),
            (packed(6, 7, [True]), "Forget: its buffers"),
            (packed(6, 7, [1, -1]), "a buffer of -1 bytes"),
            (packed(7, 1, 2, 0, 3, 4, 0.5, (), ()), "Done: its held"),
            (packed(7, 1, 2, False, 3, 4, True, (), ()), "Done: its seconds"),
            (packed(7, 1, 2, False, 3, 4, 0.5, [1.0], ()), "Done: its lengths"),
            (packed(8, 1, 2, 3, 4, "map", [7], "", "", ()), "Failed: its kinds"),
            (packed(8, 1, 2, 3, 4, "map", (), b"", "", ()), "Failed: its message"),
        ]
        for data, why in bad:
            self.refused(data, why)

    def test_announced_too_much(self) -> None:
        """
        Whoever announces more than the limits allow is refused at once, before anything is allocated.
        """
        too_much = [
            (framed(b"", announced=2**31), "header of 2147483648 bytes"),
            (framed(b"", announced=2**32 - 1), "header of 4294967295 bytes"),
            (packed(6, 7, [2**31]), "buffers of 2147483648 bytes"),
            (packed(6, 7, [2**64 - 1] * 9), "bytes. The limit is"),
            (packed(6, 7, [2**30, 1]), "buffers of 1073741825 bytes"),
            (packed(6, 7, [0] * (MAX_BUFFERS + 1)), "too many items"),
            (packed(6, 7, *[[0] * MAX_BUFFERS] * 4), "too many items"),
            (framed(b"\xdd\x7f\xff\xff\xff"), "can't be read"),
            (framed(b"\xdb\x7f\xff\xff\xff"), "can't be read"),
            (framed(b"\xc6\x7f\xff\xff\xff"), "can't be read"),
            (framed(b"\xdf\x7f\xff\xff\xff"), "can't be read"),
            (framed(b"\xc9\x7f\xff\xff\xff\x01"), "can't be read"),
        ]
        for data, why in too_much:
            self.assertLess(peak(lambda data=data, why=why: self.refused(data, why)), 2 * MIB)

    def test_limits_of_our_own(self) -> None:
        """
        A decoder can be given lower limits, and takes what is just within them.
        """
        header = len(msgpack.packb((6, 7, (3, 2))))
        sent = Forget(7, (b"abc", b"de"))
        self.assertEqual(decoded(joined(sent), max_frame=5, max_header=header), [sent])
        self.refused(joined(sent), "buffers of 5 bytes. The limit is 4", max_frame=4)
        self.refused(joined(sent), f"The limit is {header - 1}", max_header=header - 1)

    def test_nesting_bombs(self) -> None:
        """
        Arrays in arrays, each of which announces as many items as it may, cost no memory to speak of.
        """
        for tag in (
            b"\xdd\x00\x01\x00\x00",
            b"\xdc\xff\xff",
            b"\xdc\x04\x00",
            b"\xdc\x00\x40",
            b"\x9f",
            b"\x91",
            b"\x81",
            b"\x81\x00",
        ):
            for size in (300, 1024, 5000, MAX_HEADER):
                data = framed(tag * (size // len(tag)))
                self.assertLess(peak(lambda data=data: self.refused(data)), 6 * MIB, (tag, size))

    def test_wide_bombs(self) -> None:
        """
        A header full of tiny items costs no more than a few tens of its size.
        """
        for item in (b"\x00", b"\x90", b"\x80", b"\x91\x00", b"\xa2ab", b"\xc0", b"\xd4\x00\x00"):
            header = b"\xdc\x00\x03\x06\xdc\xff\xff" + item * (MAX_HEADER // len(item) - 8)
            self.assertLess(peak(lambda header=header: self.refused(framed(header))), 40 * MIB, item)

    def test_long_headers_are_walked(self) -> None:
        """
        The walk over long headers lets every kind of item pass that a message has, and refuses the others.
        """
        numbers = (0, 127, 128, 2**8, 2**16, 2**32, 2**64 - 1, -1, -32, -33, -(2**8), -(2**16), -(2**32), -(2**63))
        texts = ["t" * size for size in (0, 31, 32, 255, 256, 65535, 65536)]
        sent = Failed(1, 2, 3, -(2**63), "map", (*texts, "é\udcff"), "", "t" * 70_000, (bytes(300),) * 20)
        self.assertEqual(decoded(joined(sent)), [sent])
        sent = Done(1, 2, True, 3, 4, 1.5, numbers * 10, (bytes(300),) * 20)
        self.assertEqual(decoded(joined(sent)), [sent])
        padding = "x" * 2000
        for item in ({}, {1: 2}, msgpack.ExtType(1, b""), msgpack.ExtType(1, b"12345"), [[[]]]):
            self.refused(packed(6, padding, item), "something in it that no message has")
        self.refused(packed(6, padding, [[]]), "Forget: its run")
        self.refused(packed(6, [b"x" * size for size in (255, 256, 65536)], ()), "Forget: its run")
        self.refused(framed(b"\x93\x06\x07\xda" + bytes(2000)), "extra data")
        self.refused(framed(b"\x93\x06\xdb\xff\xff\xff\xff" + bytes(2000)), "can't be read")
