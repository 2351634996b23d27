"""
Tests for L{txmapreduce._wire.messages}.
"""

from typing import get_args, get_type_hints

import msgpack
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce._wire import messages
from txmapreduce._wire.messages import KINDS, Counts, Forget, Message, Report
from txmapreduce.errors import ProtocolError

SCALARS = {bool, int, float, str, bytes}


def scalars(annotation: object) -> set[object]:
    """
    The classes that an annotation is made of.
    """
    items = [item for item in get_args(annotation) if item is not Ellipsis]
    return {annotation} if not items else set().union(*map(scalars, items))


class MessagesTests(SynchronousTestCase):
    def test_kinds(self) -> None:
        """
        A message's kind is its place among these. New ones go to the end, or C{VERSION} changes.
        """
        names = "Hello Surroundings Define Map Fold HandOver Forget Done Failed Parts Spills Release Free"
        self.assertEqual([cls.__name__ for cls in KINDS], names.split())

    def test_every_message_once(self) -> None:
        """
        C{KINDS} and the type C{Message} hold every message of the module once.
        """
        defined = {value for value in vars(messages).values() if isinstance(value, type) and hasattr(value, "_fields")}
        self.assertEqual(len(KINDS), len(set(KINDS)))
        self.assertEqual(set(KINDS), defined - {Counts, Report})
        self.assertEqual(set(KINDS), set(get_args(Message)))

    def test_frozen(self) -> None:
        """
        A message doesn't change any more.
        """
        for cls in KINDS:
            message = cls._make([()] * len(cls._fields))
            for name in cls._fields:
                with self.assertRaises(AttributeError):
                    setattr(message, name, ())

    def test_buffers_last(self) -> None:
        """
        Every message has buffers, behind its plain fields: the frame has them in this order.
        """
        self.assertEqual({cls._fields[-1] for cls in KINDS}, {"buffers"})

    def test_plain_fields(self) -> None:
        """
        Plain fields are scalars and tuples of them, which is all that a header can hold.
        """
        for cls in KINDS:
            hints = get_type_hints(cls)
            del hints["buffers"]
            self.assertLessEqual(set().union(*map(scalars, hints.values())), SCALARS, cls)

    def test_documented(self) -> None:
        """
        Each message says what it means.
        """
        for cls in KINDS:
            # A dataclass without a docstring gets its signature for one.
            self.assertFalse((cls.__doc__ or cls.__name__).startswith(cls.__name__), cls)

    def test_equal(self) -> None:
        """
        Messages are values: equal when their fields are.
        """
        self.assertEqual(Forget(1), Forget(1))
        self.assertNotEqual(Forget(1), Forget(2))


class ReportTests(SynchronousTestCase):
    """
    What a task says on the side.
    """

    def test_nothing_to_say(self) -> None:
        """
        A report without anything in it takes no buffer.
        """
        self.assertEqual(Report().encoded(), ())

    def test_round_trip(self) -> None:
        """
        Counters of any size, lone surrogates and many bad records come back as they were.
        """
        report = Report(
            (("group", "n\udcff", 2**200), ("a", "b", -1)),
            tuple((n, f"bad {n}") for n in range(3000)),
            "busy",
            Counts(1, 2**40, 3),
        )
        (data,) = report.encoded()
        self.assertEqual(Report.decoded(data), report)

    def test_garbage(self) -> None:
        """
        Whatever is not a report is a L{ProtocolError}.
        """
        for data in (
            b"",
            b"\xc1",
            msgpack.packb(7),
            msgpack.packb(((1,), (), "", (0, 0, 0))),
            msgpack.packb(((("a", "b", "x"),), (), "", (0, 0, 0))),
            msgpack.packb(((), (), "")),
            msgpack.packb(((), (), "", ("x", 0, 0))),
            msgpack.packb(((), (), "", (0, 0, 0, 0))),
        ):
            self.assertRaises(ProtocolError, Report.decoded, data)
