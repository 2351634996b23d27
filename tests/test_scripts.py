"""
The example, and what the scripts say where something is missing.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

TOP = Path(__file__).parent.parent
WORDCOUNT = TOP / "examples" / "wordcount" / "wordcount.py"
SCRIPTS = ("bench", "chaos", "fuzz", "simulate", "soak", "test", "wordcount")


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["env", *(f"{name}={value}" for name, value in environment.items()), *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


class WordcountTests(SynchronousTestCase):
    """
    The example counts words.
    """

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)

    def wordcount(self, *arguments: str) -> list[list[str]]:
        done = run([sys.executable, str(WORDCOUNT), *arguments])
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return [line.replace(",", "").split() for line in done.stdout.splitlines()]

    def test_anyNumberOfWorkers(self) -> None:
        """
        The counts are those of plain Python, for any number of workers, and for none.
        """
        text = "The cat's hat\nand THE dog\n" * 3000 + "a last line"
        files = []
        for number in range(3):
            files.append(str(self.folder / f"{number}.txt"))
            Path(files[-1]).write_text(text, "utf-8")
        counts = Counter(re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower()))
        ranks = sorted((-count, word) for word, count in counts.items())
        expected = [[str(-3 * count), word] for count, word in ranks[:4]]
        for workers in ["0", "1", "2", "5"]:
            self.assertEqual(self.wordcount("--top", "4", "--workers", workers, *files), expected)

    def test_bytesThatAreNoText(self) -> None:
        """
        A file that is no UTF-8 is counted all the same.
        """
        path = self.folder / "latin.txt"
        path.write_bytes(b"caf\xe9 caf\xe9\n")
        self.assertEqual(self.wordcount(str(path)), [["2", "caf"]])


class MissingTests(SynchronousTestCase):
    """
    Where something is missing, the scripts say what to install.
    """

    def assertSays(self, python: Path | str, text: str) -> None:
        for script in SCRIPTS:
            done = run(["bash", str(TOP / "scripts" / script)], PYTHON=str(python))
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn(text, done.stderr)

    def fake_python(self, lines: str) -> Path:
        path = Path(self.mktemp())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{lines}\n", "utf-8")
        path.chmod(0o755)
        return path.absolute()

    def test_noPython(self) -> None:
        """
        No Python at all.
        """
        self.assertSays("no-such-python", "Install Python 3.10 or later")

    def test_oldPython(self) -> None:
        """
        A Python that is too old.
        """
        old = f"""exec '{sys.executable}' -c "import sys; sys.version_info = (3, 9, 1); $2" """
        self.assertSays(self.fake_python(old), "is Python 3.9, and txmapreduce needs 3.10 or later")

    def test_noVenv(self) -> None:
        """
        A Python whose C{venv} module is another package, as on Debian.
        """
        version = "{}.{}".format(*sys.version_info)
        bare = f"""exec '{sys.executable}' -c "import sys; sys.modules['ensurepip'] = None; $2" """
        self.assertSays(self.fake_python(bare), f"sudo apt install python{version}-venv")
