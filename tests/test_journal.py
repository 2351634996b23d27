"""
Tests for L{txmapreduce._run.journal}.
"""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce._run.journal import MAGIC, Commit, Identity, records, sealed

bodies = st.lists(st.binary(max_size=40), max_size=5)


def journal(bodies: list[bytes]) -> bytes:
    whole, seal = MAGIC, b""
    for body in bodies:
        record, seal = sealed(seal, body)
        whole += record
    return whole


def read(data: bytes) -> list[bytes]:
    file = io.BytesIO(data)
    file.seek(len(MAGIC))
    return [record.body for record in records(file.read, len(data))]


class FormatTests(SynchronousTestCase):
    @given(bodies)
    def test_roundTrip(self, bodies: list[bytes]) -> None:
        """
        What was written is read.
        """
        self.assertEqual(read(journal(bodies)), bodies)

    @given(bodies)
    def test_cut(self, bodies: list[bytes]) -> None:
        """
        Cut at any byte, the journal has the records that were whole before it.
        """
        whole = journal(bodies)
        ends = [len(journal(bodies[:n])) for n in range(1, len(bodies) + 1)]
        for size in range(len(MAGIC), len(whole) + 1):
            self.assertEqual(read(whole[:size]), bodies[: sum(end <= size for end in ends)])

    @given(bodies, st.data())
    def test_flipped(self, bodies: list[bytes], data: st.DataObject) -> None:
        """
        Wherever a bit is flipped, the records before it are read, and none behind it.
        """
        whole = bytearray(journal([*bodies, b"last"]))
        bit = data.draw(st.integers(8 * len(MAGIC), 8 * len(whole) - 1))
        whole[bit // 8] ^= 1 << bit % 8
        intact = sum(len(journal(bodies[:n])) <= bit // 8 for n in range(1, len(bodies) + 1))
        self.assertEqual(read(bytes(whole)), bodies[:intact])

    def test_order(self) -> None:
        """
        A record is good only behind those that it was written behind.
        """
        first, seal = sealed(b"", b"a")
        second, _ = sealed(seal, b"b")
        self.assertEqual(read(MAGIC + second), [])
        self.assertEqual(read(MAGIC + first + first), [b"a"])

    def test_bodies(self) -> None:
        """
        Identities and commits come back as they were.
        """
        identity = Identity({"flat": "True"}, {"mapper": b"12"})
        self.assertEqual(Identity.decoded(identity.encoded()), identity)
        commit = Commit(3, b"digest", 10, 4, 2, b"report", (1, 0, 2), (b"a", b"", b"c"))
        self.assertEqual(Commit.decoded(commit.encoded()), commit)
