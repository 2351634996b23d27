"""
Real workers that don't live long. See L{tests.chaos}, of which this is a little.
"""

from __future__ import annotations

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from . import chaos


class ChaosTests(TestCase):
    timeout = 100

    async def test_some(self) -> None:
        """
        A run of each kind gives what it has to, though its workers are ended again and again, and leaves nothing.
        """
        said: list[str] = []
        self.assertEqual(await chaos.batch(reactor, range(len(chaos.KINDS)), said.append), 0, said)
