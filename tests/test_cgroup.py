"""
Tests for L{txmapreduce._pool.cgroup}, on folders that look like those of control groups.
"""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from txmapreduce._pool.cgroup import OomKills, _counter, folders

VERSION_2 = "low 0\nhigh 0\nmax 12\noom 3\noom_kill {}\noom_group_kill 9\n"
VERSION_1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


class FolderTests(SynchronousTestCase):
    """
    Tests for L{folders}.
    """

    def found(self, text: str, controller: str = "memory") -> list[str]:
        membership = Path(self.mktemp())
        membership.write_text(text)
        return [str(folder) for folder in folders(controller, Path("/cg"), membership)]

    def test_version_2(self) -> None:
        """
        The own group first, then those above it.
        """
        self.assertEqual(self.found("0::/a/b\n"), ["/cg/a/b", "/cg/a", "/cg"])

    def test_version_1(self) -> None:
        """
        Each controller has a hierarchy of its own; the others don't count.
        """
        self.assertEqual(self.found("5:memory:/x\n4:cpu,cpuacct:/a\n"), ["/cg/memory/x", "/cg/memory"])
        self.assertEqual(self.found("5:memory:/x\n4:cpu,cpuacct:/\n", "cpuacct"), ["/cg/cpuacct"])

    def test_both(self) -> None:
        """
        A system may have both, of which the version 2 part has no controllers.
        """
        self.assertEqual(self.found("5:memory:/x\n0::/\n"), ["/cg/memory/x", "/cg/memory", "/cg"])

    def test_none(self) -> None:
        """
        A system without control groups has no folders.
        """
        self.assertEqual(list(folders("memory", Path("/cg"), Path("/there/is/no/such/file"))), [])


class CounterTests(SynchronousTestCase):
    """
    Tests for L{OomKills}.
    """

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def kills(self, number: int, name: str = "memory.events", text: str = VERSION_2) -> OomKills:
        (self.folder / name).write_text(text.format(number))
        return OomKills(_counter(iter([self.folder / "nothing", self.folder])))

    def test_number(self) -> None:
        """
        The number is read in both versions.
        """
        self.assertEqual(self.kills(7).count(), 7)
        (self.folder / "memory.events").unlink()
        self.assertEqual(self.kills(5, "memory.oom_control", VERSION_1).count(), 5)

    def test_nothing_to_read(self) -> None:
        """
        Without such a file, where it is gone, or where an old kernel does not count, nothing is ever explained. Nor is
        anything where the number was not to be had when the worker began.
        """
        kills = self.kills(3)
        self.assertFalse(kills.explain(None))
        (self.folder / "memory.events").unlink()
        for none in (kills, OomKills(None), self.kills(3, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n")):
            self.assertEqual((none.count(), none.explain(0)), (None, False))

    def test_explains(self) -> None:
        """
        A death is explained when the number has grown in the worker's lifetime, not otherwise.
        """
        kills = self.kills(3)
        self.assertFalse(kills.explain(3))
        self.kills(4)
        self.assertTrue(kills.explain(3))

    def test_once(self) -> None:
        """
        Each step of the number explains one death.
        """
        kills = self.kills(3)
        self.kills(5)
        self.assertEqual([kills.explain(3) for _ in range(4)], [True, True, False, False])
        self.kills(6)
        self.assertEqual((kills.explain(5), kills.explain(3)), (True, False))
