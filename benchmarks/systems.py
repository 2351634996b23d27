"""
Which systems there are: one file each in C{peers/}, read without importing it.

An adapter's functions are named after the workloads, or C{workload__variant}. Constants say the rest:

  - C{NEEDS}: the package that has to be installed, if any;
  - C{COMMAND}: the command that has to be there, if any;
  - C{KIND}: C{"ours"}, C{"peer"} (default), or C{"reference"}: shown, but not what ratios refer to;
  - C{LIMITS}: functions that take far too long at full size, with the largest size that they get.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import Run
from workloads import WORKLOADS

__all__ = ["System", "systems"]

FOLDER = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class System:
    """
    One system.

    @ivar functions: the names of its adapter's functions.
    @ivar missing: what has to be installed before it can run, or C{""}.
    """

    name: str
    kind: str
    version: str
    functions: tuple[str, ...]
    limits: dict[str, int]
    missing: str

    def runs(self, workload: str, size: str, workers: int) -> list[Run]:
        """
        What to run for a workload: the function of that name, and its variants.
        """
        units = WORKLOADS[workload].sizes[size]
        return [
            Run(self.name, f"peers.{self.name}", name, workload, min(units, self.limits.get(name, units)), workers)
            for name in self.functions
            if name.split("__")[0] == workload
        ]


def _constants(tree: ast.Module) -> dict[str, Any]:
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue  # not for us
    return found


def _missing(constants: dict[str, Any]) -> str:
    package, command = constants.get("NEEDS"), constants.get("COMMAND")
    if package and importlib.util.find_spec(package) is None:
        return f"the package {package}"
    if command and shutil.which(command) is None:
        return f"the command {command}"
    return ""


def _version(package: str | None) -> str:
    try:
        return importlib.metadata.version(package) if package else platform.python_version()
    except importlib.metadata.PackageNotFoundError:
        return "(not installed, from its sources)"


def read(path: Path) -> System:
    """
    What an adapter says of itself.
    """
    tree = ast.parse(path.read_text("utf-8"))
    constants = _constants(tree)
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    missing = _missing(constants)
    return System(
        name=path.stem,
        kind=constants.get("KIND", "peer"),
        version="" if missing else _version(constants.get("NEEDS")),
        functions=tuple(name for name in names if name.split("__")[0] in WORKLOADS),
        limits=constants.get("LIMITS", {}),
        missing=missing,
    )


def systems() -> dict[str, System]:
    """
    All of them by name, ours first, then those that need nothing.
    """
    found = [read(path) for path in sorted(FOLDER.glob("*.py"))]
    found.sort(key=lambda system: (["ours", "peer", "reference"].index(system.kind), system.name))
    return {system.name: system for system in found}
