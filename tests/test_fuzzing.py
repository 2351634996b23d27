"""
What the coordinator decodes takes any bytes. See L{tests.fuzzing}, of which this is a little.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from . import fuzzing, support


class FuzzingTests(SynchronousTestCase):
    def test_some(self) -> None:
        """
        Some thousand changed frames, in an interpreter with a limit on its memory: no crash, no hang.
        """
        done = support.python("-m", "tests.fuzzing", "--own", "--count", "5000", "--seed", "3")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("5000 inputs", done.stdout)

    @given(st.sampled_from(fuzzing.seeds()), st.binary(), st.data())
    def test_spliced(self, frame: bytes, piece: bytes, draw: st.DataObject) -> None:
        """
        Anything in place of a part of a frame gives messages or ProtocolErrors, and nothing else.
        """
        start = draw.draw(st.integers(0, len(frame)))
        end = draw.draw(st.integers(start, len(frame)))
        fuzzing.one(frame[:start] + piece + frame[end:])
