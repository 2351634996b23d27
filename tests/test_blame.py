"""
Tests for L{txmapreduce._values.blame}.
"""

from __future__ import annotations

import functools
import os
import socket
import threading
import types
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.codec_support import Refuses, exact, made_up, pair, script
from txmapreduce._values.codec import Codec
from txmapreduce.errors import NotSerializable

ADVICE = "which can't be sent to another process: create it inside the function, or in the workers' initializer"


class NotSerializableTests(SynchronousTestCase):
    """
    What can't be sent is refused with a message that says where it is.
    """

    def refused(self, program: object) -> str:
        """
        The message for a program that consists of one mapper.
        """
        codec = Codec()
        error = self.assertRaises(NotSerializable, codec.encode_program, (program, len), {"mapper": program})
        self.assertEqual(codec.definitions, [])
        return str(error)

    def fetch(self, value: object) -> Callable[[], object]:
        """
        A function that uses a global.
        """
        function: Callable[[], object] = made_up("def fetch(): return thing", thing=value)["fetch"]
        return function

    def test_global(self) -> None:
        """
        For a global the message has the parameter, the function, the name and the type.
        """
        self.assertEqual(
            self.refused(self.fetch(threading.Lock())),
            f"mapper 'fetch' uses the global name 'thing', a _thread.lock, {ADVICE}",
        )

    def test_everyKind(self) -> None:
        """
        Locks, events, threads, files, sockets, generators and coroutines are refused.
        """

        async def coroutine() -> None:
            pass

        running = coroutine()
        self.addCleanup(running.close)
        with socket.socket() as sock, open(os.devnull) as text, open(os.devnull, "rb") as binary:
            for thing in (
                threading.RLock(), threading.Condition(), threading.Event(), threading.Semaphore(), sock, text, binary,
                threading.Thread(), threading.local(), (n for n in ()), running, types.ModuleType("nowhere"),
            ):  # fmt: skip
                message = self.refused(self.fetch(thing))
                self.assertTrue(message.startswith("mapper 'fetch' uses the global name 'thing', a"), message)
                self.assertIn(type(thing).__name__, message)

    def test_nested(self) -> None:
        """
        When a function uses a function that uses it, the message names both.
        """
        names = made_up("def fetch(): return helper()\ndef helper(): return lock", lock=threading.Lock())
        self.assertEqual(
            self.refused(names["fetch"]),
            "mapper 'fetch' uses the global name 'helper', which uses the global name 'lock', "
            f"a _thread.lock, {ADVICE}",
        )

    def test_otherPlaces(self) -> None:
        """
        Closure variables, defaults, partial arguments, attributes, items and class attributes are named.
        """
        lock = threading.Lock()

        class Client:
            def __init__(self) -> None:
                self.connection = lock

            def fetch(self) -> None:
                pass

        class Guarded:
            guard = lock

        class Slotted:
            __slots__ = ("guard",)

        slotted = Slotted()
        slotted.guard = lock
        client = Client()
        function = self.fetch(None)
        function.cache = lock
        for program, text in [
            (lambda: lock, "'<lambda>' uses the closure variable 'lock'"),
            (lambda x, y=lock: x, "'<lambda>' has the default argument 'y'"),
            (lambda x, *, y=lock: x, "'<lambda>' has the default argument 'y'"),
            (functools.partial(exact, lock), "partial of 'exact' has the argument 0"),
            (functools.partial(exact, other=lock), "partial of 'exact' has the argument 'other'"),
            (functools.partial(lambda: lock), "partial of '<lambda>' calls '<lambda>', which uses the closure"),
            (client.fetch, "'Client.fetch' is a method of a "),
            (client.fetch, "which has the attribute 'connection'"),
            (self.fetch({"a": [1, lock]}), "the global name 'thing', which has the key 'a', which holds at place 1"),
            (self.fetch(Guarded), "uses the global name 'thing', which has the attribute 'guard'"),
            (self.fetch(slotted), "uses the global name 'thing', which has the attribute 'guard'"),
            (function, "'fetch' has the attribute 'cache'"),
        ]:
            message = self.refused(program)
            self.assertIn(text, message)
            self.assertTrue(message.startswith("mapper ") and message.endswith(f", a _thread.lock, {ADVICE}"), message)

    def test_ownError(self) -> None:
        """
        When a user's C{__reduce__} raises, its error is in the message and is the cause.
        """
        codec = Codec()
        program = self.fetch(Refuses())
        error = self.assertRaises(NotSerializable, codec.encode_program, program, {"mapper": program})
        self.assertIn("uses the global name 'thing', a tests.codec_support.Refuses,", str(error))
        self.assertIn("RuntimeError('not me')", str(error))
        self.assertIsInstance(error.__cause__, RuntimeError)

    def test_tooDeep(self) -> None:
        """
        Data that is nested too deeply is refused, in programs and values, with a message of reasonable length.
        """
        deep: list[Any] = []
        for _ in range(50_000):
            deep = [deep]
        for message in (self.refused(self.fetch(deep)), self.unsent([1, deep])):
            self.assertIn("nested too deeply", message)
            self.assertLess(len(message), 1000)

    def unsent(self, value: object) -> str:
        """
        The message for a record or a result.
        """
        return str(self.assertRaises(NotSerializable, pair(len)[0].dumps, value))

    def test_values(self) -> None:
        """
        For a value the message has its type; for a list the place of the first item that can't be sent, and its type.
        """
        lock = threading.Lock()
        self.assertTrue(self.unsent(lock).startswith("a _thread.lock, can't be sent to another process: "))
        self.assertTrue(self.unsent([1, 2, {"a": lock}, lock]).startswith("item 2, a dict, can't be sent"))
        self.assertTrue(self.unsent((1, lock.acquire)).startswith("item 1, a builtin_function_or_method"))
        self.assertIn("RuntimeError('not me')", self.unsent([Refuses()]))
        self.assertIn("uses the closure variable 'lock', a _thread.lock", self.unsent([1, lambda: lock]))

    def test_nameThatIsNotThere(self) -> None:
        """
        A program's object that goes by a name which only this process knows is refused.
        """

        printed = script(
            """
            import functools
            class Sentinel:
                def __reduce__(self): return "MISSING"
            MISSING = Sentinel()
            for mapper in [lambda x: MISSING, functools.partial(print, MISSING)]:
                try: in_worker(mapper, 0)
                except NotSerializable as error: print(error)
            """
        )
        self.assertIn("mapper '<lambda>' uses the global name 'MISSING', a __main__.Sentinel, which can't", printed)
        self.assertIn("mapper partial of 'print' has the argument 0, a __main__.Sentinel, which can't", printed)
