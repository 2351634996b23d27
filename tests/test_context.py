"""
What a function can ask about the task that runs it.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txmapreduce import _context, current_task
from txmapreduce._context import Task


class ContextTests(SynchronousTestCase):
    """
    C{current_task} and L{Task}.
    """

    def test_outside(self) -> None:
        """
        Where no task runs, it is a RuntimeError that says where to call it.
        """
        with self.assertRaises(RuntimeError) as caught:
            current_task()
        self.assertIn("MapReduce job", str(caught.exception))

    def test_nested(self) -> None:
        """
        The current task is the one that was entered last and not left.
        """
        outer, inner = Task(None), Task(None)
        _context.enter(outer)
        self.addCleanup(lambda: self.assertRaises(RuntimeError, current_task))
        self.addCleanup(_context.leave)
        self.assertIs(current_task(), outer)
        _context.enter(inner)
        self.assertIs(current_task(), inner)
        _context.leave()
        self.assertIs(current_task(), outer)

    def test_counters(self) -> None:
        """
        Counters of one name are one counter; names are text.
        """
        task = Task(None)
        task.counter("a", "b").increment()
        task.counter("a", "b").increment(5)
        task.counter(1, 2).increment(-1)  # type: ignore[arg-type]
        self.assertEqual(task.counters, {("a", "b"): 6, ("1", "2"): -1})

    def test_status(self) -> None:
        """
        The last status counts.
        """
        task = Task(None)
        task.status("one")
        task.status(2)  # type: ignore[arg-type]
        self.assertEqual(task.status_text, "2")

    def test_random(self) -> None:
        """
        Random numbers depend on the seed and the chunk, begin anew with each attempt, and go on within one.
        """

        def drawn(task: Task, index: int) -> list[float]:
            task.begin(index, 1)
            return [task.random.random() for _ in range(3)]

        one, other = Task(5), Task(5)
        first = drawn(one, 0)
        self.assertEqual(len(set(first)), 3)
        self.assertNotEqual(drawn(one, 1), first)
        self.assertEqual(drawn(one, 0), first)
        self.assertEqual(drawn(other, 0), first)
        self.assertNotEqual(drawn(Task(6), 0), first)
        self.assertNotEqual(drawn(Task(None), 0), drawn(Task(None), 0))

    def test_begin(self) -> None:
        """
        An attempt begins with nothing of the one before.
        """
        task = Task(None)
        task.counter("a", "b").increment()
        task.status("busy")
        task.begin(7, 2)
        self.assertEqual((task.index, task.attempt, task.status_text, dict(task.counters)), (7, 2, "", {}))
