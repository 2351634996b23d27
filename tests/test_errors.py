"""
Tests for L{txmapreduce.errors}.
"""

import copy
import pickle

from twisted.trial.unittest import SynchronousTestCase

from txmapreduce import errors
from txmapreduce.errors import MapReduceError, TaskFailed, TaskTimedOut, WorkerDied

FULL = (
    TaskFailed("It raised.", chunk=3, attempt=2, pid=17, remote_traceback="Traceback:\n  ValueError: no\n"),
    WorkerDied("It died.", chunk=3, attempt=2, pid=17, exit_code=None, signal=9, stderr="killed\n"),
    TaskTimedOut("It took too long.", chunk=3, attempt=2, pid=17),
)


class ErrorsTests(SynchronousTestCase):
    def test_all(self) -> None:
        """
        C{__all__} names every exception of the module that can be raised, in order, and nothing else.
        """
        defined = [name for name, value in vars(errors).items() if isinstance(value, type) and name[0] != "_"]
        self.assertEqual(errors.__all__, sorted(defined))

    def test_one_root(self) -> None:
        """
        Whoever catches L{MapReduceError} catches all of them, and what is no error of this package does not get caught.
        """
        for name in errors.__all__:
            self.assertTrue(issubclass(getattr(errors, name), MapReduceError), name)
        self.assertEqual(MapReduceError.__bases__, (Exception,))

    def test_documented(self) -> None:
        """
        Each says what it means, and each attribute of an error is explained.
        """
        for name in errors.__all__:
            self.assertTrue(getattr(errors, name).__doc__.strip(), name)
        for error in FULL:
            for attribute in vars(error):
                self.assertIn(f"@ivar {attribute}:", type(error).__doc__)

    def test_message_alone(self) -> None:
        """
        Nothing but a message is needed, and then the text is just that.
        """
        for name in errors.__all__:
            self.assertEqual(str(getattr(errors, name)("What went wrong.")), "What went wrong.")

    def test_remote_traceback(self) -> None:
        """
        The text of a L{TaskFailed} ends with the traceback from the worker.
        """
        self.assertEqual(str(FULL[0]), "It raised.\n\nTraceback:\n  ValueError: no")

    def test_stderr(self) -> None:
        """
        The text of a L{WorkerDied} ends with what the worker wrote to its standard error last.
        """
        self.assertEqual(str(FULL[1]), "It died.\nThe end of its standard error:\nkilled")

    def test_copies(self) -> None:
        """
        Errors come through pickle and copy with all that they know.
        """
        for error in (*FULL, *(getattr(errors, name)("What went wrong.") for name in errors.__all__)):
            pickles = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
            for copied in (*pickles, copy.copy(error), copy.deepcopy(error)):
                self.assertIs(type(copied), type(error))
                self.assertEqual((str(copied), copied.args, vars(copied)), (str(error), error.args, vars(error)))
