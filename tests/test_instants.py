"""
A few random instants. See L{tests.instants}; C{scripts/instants} has the large numbers.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from . import instants


class InstantsTests(SynchronousTestCase):
    def test_ended(self) -> None:
        """
        One second after the coordinator was killed, terminated, or its run cancelled, at a random instant, there is
        none of its processes, nor any that they forked; and the run has ended once.
        """
        for way in "kill", "term", "cancel":
            self.assertEqual(instants.instants(way, 2), [])
