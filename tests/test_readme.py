"""
The README and the documentation do what they say: each of their snippets is run.

A C{python} block runs as a script, and of a C{console} block the lines that start with C{$ txmapreduce}. Each block has
a fresh interpreter in an empty folder of its own and must end with exit code 0. Comments directly before a block, which
readers don't see, change that:

    - C{<!-- test: continue -->}: the block goes on where the one before it ended. A C{python} block that follows a
      C{python} block is one script with it; otherwise they share the folder alone.
    - C{<!-- test: before}, lines of Python, C{-->}: a script that runs first, in the same folder, to make the files
      that the block needs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from twisted.trial.unittest import SynchronousTestCase

TOP = Path(__file__).parent.parent
PAGES = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]

BLOCK = re.compile(
    r"(?P<hints>(?:^[ ]*<!-- test: (?:(?!-->).)*-->\s*\n)*)"
    r"^(?P<indent>[ ]*)```(?P<language>python|console)\b[^\n]*\n(?P<code>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
HINT = re.compile(r"<!-- test: (?P<what>continue|before)\s(?P<code>.*?)-->", re.DOTALL)
COMMAND = re.compile(r"^\$ (txmapreduce\b.*)$", re.MULTILINE)


@dataclass
class Step:
    """
    A script for C{python} or for C{bash}.
    """

    language: str
    code: str


def steps_of(block: re.Match[str]) -> list[Step]:
    code = dedent(block["code"])
    steps = [Step("python", dedent(hint["code"])) for hint in HINT.finditer(block["hints"]) if hint["what"] == "before"]
    if block["language"] == "python":
        steps.append(Step("python", code))
    elif commands := COMMAND.findall(code):
        steps.append(Step("bash", "\n".join(["set -e", *commands])))
    return steps


def groups(page: str) -> list[tuple[int, list[Step]]]:
    """
    The page's blocks, each with the number of its line, and with those that continue it.
    """
    found: list[tuple[int, list[Step]]] = []
    hints = 0
    for block in BLOCK.finditer(page):
        whats = [hint["what"] for hint in HINT.finditer(block["hints"])]
        hints += len(whats)
        steps = steps_of(block)
        if "continue" not in whats:
            found.append((page.count("\n", 0, block.start("indent")) + 1, steps))
            continue
        before = found[-1][1]
        if [step.language for step in before[-1:] + steps] == ["python", "python"]:
            before[-1].code += steps.pop().code
        before.extend(steps)
    if hints != page.count("<!-- test:"):
        raise ValueError("a <!-- test: ... --> comment is unknown, or doesn't stand directly before a block")
    return [(line, steps) for line, steps in found if steps]


def run(step: Step, folder: Path) -> None:
    """
    Run the step as a script, and fail with what it printed.
    """
    script = folder / f"snippet.{step.language}"
    script.write_text(step.code, "utf-8")
    command = [sys.executable if step.language == "python" else "bash", script.name]
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        raise AssertionError(f"exit code {done.returncode} of\n{step.code}\n{done.stdout}")


class SnippetTests(SynchronousTestCase):
    """
    One test for each block, named after its page and line.
    """

    def test_readmeHasSnippets(self) -> None:
        """
        The README shows how the package is used, so this module has something to run.
        """
        self.assertTrue(groups((TOP / "README.md").read_text("utf-8")))


def add_test(page: Path, line: int, steps: list[Step]) -> None:
    def test(self: SnippetTests) -> None:
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        for step in steps:
            run(step, folder)

    name = "_".join(page.relative_to(TOP).with_suffix("").parts)
    setattr(SnippetTests, f"test_{name}_line_{line}", test)


for _page in PAGES:
    if _page.exists():
        for _line, _steps in groups(_page.read_text("utf-8")):
            add_test(_page, _line, _steps)


class ConventionTests(SynchronousTestCase):
    """
    The comments before blocks mean what this module's docstring says.
    """

    def test_blocks(self) -> None:
        """
        Each block stands for itself, in lists too, and of a console block the package's commands count.
        """
        page = (
            "# Title\n```python\na = 1\n```\n\n- in a list\n  ```python\n  b = 2\n  ```\n\n"
            "```console\n$ ls\n$ txmapreduce --help\nUsage\n```\n"
        )
        self.assertEqual(
            groups(page),
            [
                (2, [Step("python", "a = 1\n")]),
                (7, [Step("python", "b = 2\n")]),
                (11, [Step("bash", "set -e\ntxmapreduce --help")]),
            ],
        )

    def test_continue(self) -> None:
        """
        A block that continues shares the script of the one before, or its folder.
        """
        page = (
            "```python\na = 1\n```\nand\n\n<!-- test: continue -->\n```python\nb = a\n```\n"
            "<!-- test: continue -->\n\n```console\n$ txmapreduce\n```\n"
        )
        self.assertEqual(groups(page), [(1, [Step("python", "a = 1\nb = a\n"), Step("bash", "set -e\ntxmapreduce")])])

    def test_before(self) -> None:
        """
        Files can be made out of the readers' sight.
        """
        page = "<!-- test: before\nmake()\n-->\n```python\nuse()\n```\n"
        self.assertEqual(groups(page), [(4, [Step("python", "make()\n"), Step("python", "use()\n")])])

    def test_skipIsNoWord(self) -> None:
        """
        There is no way to leave a block out, nor does a comment go unnoticed.
        """
        self.assertRaises(ValueError, groups, "<!-- test: skip -->\n```python\n1 / 0\n```\n")
        self.assertRaises(ValueError, groups, "<!-- test: continue -->\nText between.\n```python\n1 / 0\n```\n")

    def test_failure(self) -> None:
        """
        A snippet that raises fails its test, with the traceback.
        """
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        error = self.assertRaises(AssertionError, run, Step("python", "1 / 0\n"), folder)
        self.assertIn("ZeroDivisionError", str(error))
