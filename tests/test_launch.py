"""
Tests for L{txmapreduce._pool.launch}: real children, with a reactor that was imported already, so that nothing is
launched ahead but where a test says so.
"""

from __future__ import annotations

import os
import sys
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from tests.support import python
from txmapreduce._pool import launch
from txmapreduce._pool.launch import Launched, ahead, environment, take

from .leftovers import descriptors

SCRIPT = """
import sys
from txmapreduce import MapReduce
from txmapreduce._pool import launch
launched = []
start = launch.Launched._start
def counted(self, theirs):
    launched.append("twisted.internet.reactor" in sys.modules)
    return start(self, theirs)
launch.Launched._start = counted
def square(x):
    return x * x
if __name__ == "__main__":
    print(MapReduce(square).run_sync([2]), launched)
    print(MapReduce(square).run_sync([3]), launched)
"""


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


class LaunchTests(SynchronousTestCase):
    """
    Children that are launched ahead of the reactor.
    """

    def without_reactor(self) -> None:
        modules = {name: module for name, module in sys.modules.items() if name != "twisted.internet.reactor"}
        self.patch(launch, "sys", mock.Mock(modules=modules, executable=sys.executable, path=sys.path))

    def test_taken(self) -> None:
        """
        Who needs a child with the same environment takes one that is there; with another environment it is a new one.
        """
        self.without_reactor()
        env = environment()
        with ahead(2, None, env):
            waiting = list(launch._ahead)
            taken, other = take(dict(env)), take({**env, "OTHER": "1"})
            self.assertEqual((len(waiting), taken in waiting, other in waiting), (2, True, False))
            taken.kill()
            other.kill()

    def test_rest_is_ended(self) -> None:
        """
        What nobody takes is ended with the context, however that ends, and leaves nothing.
        """
        self.without_reactor()
        before = descriptors()
        with self.assertRaises(KeyError), ahead(4, 3, environment()):
            waiting = list(launch._ahead)
            raise KeyError
        self.assertEqual(len(waiting), 3)
        self.assertTrue(all(gone(launched.pid) for launched in waiting))
        self.assertEqual(descriptors(), before)

    def test_none_can_be_started(self) -> None:
        """
        That is no error here: the pool will try again.
        """
        self.without_reactor()
        self.patch(Launched, "_start", mock.Mock(side_effect=OSError))
        with ahead(2, None, environment()):
            self.assertEqual(launch._ahead, [])

    def test_reactor_is_there(self) -> None:
        """
        With a reactor nothing is launched ahead.
        """
        with ahead(2, None, environment()):
            self.assertEqual(launch._ahead, [])

    def test_script(self) -> None:
        """
        A script's first run has its workers launched before the reactor is imported, as many as it has use for, and the
        next run uses them.
        """
        self.assertEqual(python("-c", SCRIPT).stdout.split("\n")[:2], ["[4] [False]", "[9] [False]"])

    def test_environment(self) -> None:
        """
        A child's environment is this process's, with one thread for each library that counts processors, and what the
        user wants on top of that.
        """
        env = environment(2, {"MKL_NUM_THREADS": "7"})
        self.assertEqual((env["OMP_NUM_THREADS"], env["MKL_NUM_THREADS"], env["PATH"]), ("2", "7", os.environ["PATH"]))
