"""
The shape of the package: which module may know which, what may be loaded where, how long a module may be, and what is
public.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import txmapreduce

PACKAGE = Path(txmapreduce.__file__).parent

LADDER = [
    ["errors"],
    ["_values", "_wire", "_files", "_shuffle", "_tasks", "_worker", "_schedule", "_pool", "_run", "_cli"],
    ["_context"],
    ["_shuffle.partition"],
    ["_shuffle.ordering"],
    ["_aggregate"],
    ["aggregates"],
    ["_files.reading", "_files.space"],
    ["_files.planning"],
    ["inputs"],
    ["_files.base", "_files.formats"],
    ["_files.joining"],
    ["outputs", "sources"],
    ["_values.loading"],
    ["_values.byvalue"],
    ["_values.blame"],
    ["_values.codec"],
    ["_values.broadcast"],
    ["_shuffle.sides"],
    ["_wire.arena"],
    ["_wire.headers"],
    ["_wire.messages"],
    ["_wire.frames"],
    ["_shuffle.tables"],
    ["_shuffle.keys"],
    ["_shuffle.grouping"],
    ["_shuffle.blocks"],
    ["_shuffle.runs"],
    ["_shuffle.rows"],
    ["_shuffle.merge"],
    ["_shuffle.ranges", "_shuffle.spill"],
    ["_shuffle.interim"],
    ["_tasks.folding"],
    ["_tasks.careful", "_tasks.failures", "_tasks.fusing", "_tasks.mapping", "_tasks.writing"],
    ["_tasks.runner"],
    ["_values.plain"],
    ["_worker.lifeline", "_worker.notes", "_worker.surroundings"],
    ["_worker.answers"],
    ["_worker.dask", "_worker.loop"],
    ["job"],
    ["_schedule.events"],
    ["_schedule.delivery", "_schedule.limits"],
    ["_schedule.backups"],
    ["_schedule.chunking"],
    ["_schedule.partials", "_schedule.pieces"],
    ["_schedule.schedule"],
    ["_schedule.checked"],
    ["_pool.cgroup", "_pool.note", "_pool.output", "_pool.pipes"],
    ["_pool.launch"],
    ["_pool.process"],
    ["_pool.slots"],
    ["_pool.lending"],
    ["_pool.memory", "_pool.starts"],
    ["_pool.pool"],
    ["_shuffle.folder"],
    ["_background"],
    ["_blocking"],
    ["backends"],
    ["backends._cpus", "backends._handles", "backends._problems"],
    ["backends._session"],
    ["backends._dask"],
    ["backends._dask.versions"],
    ["backends._dask.connection"],
    ["backends._dask.handles"],
    ["backends._dask.shuffle"],
    ["backends._dask.session"],
    ["backends.dask", "backends.inline", "backends.processes"],
    ["_run.feeds"],
    ["_run.sides"],
    ["_run.lots", "_run.plan"],
    ["_run.turns"],
    ["_run.assembly"],
    ["_run.identity", "_run.journal"],
    ["_run.checkpoint", "_run.finishing", "_run.letters"],
    ["_run.coordinator"],
    ["_run.steps"],
    ["_run.async_input"],
    ["runs"],
    ["chains"],
    ["mapreduce"],
    ["joins"],
    ["sorting"],
    ["progress"],
    ["web"],
    ["service"],
    ["_cli.failures", "_cli.lines", "_cli.stdin"],
    ["_cli.names"],
    ["cli"],
    ["testing._case", "testing.functions"],
    ["testing.failing"],
    ["testing._deaths", "testing._failures", "testing._features", "testing._laws"],
    ["testing._reproducible", "testing._runs", "testing._streams", "testing._values"],
    ["testing._suite"],
    ["testing"],
]
"""A module may import what stands in the rows above its own. A new module gets its place in here."""

RUNG = {name: rung for rung, row in enumerate(LADDER) for name in row}

AROUND = ["progress", "web", "service", "cli", "testing"]
"""These alone may import the package itself, which shows everything else."""

PUBLIC = [
    "Broadcast",
    "Chain",
    "Csv",
    "Dask",
    "Draft",
    "Inline",
    "JsonLines",
    "MapReduce",
    "Parquet",
    "PartFiles",
    "PickleFiles",
    "Policy",
    "Processes",
    "Sink",
    "Source",
    "Split",
    "TextFiles",
    "WholeFiles",
    "Written",
    "__version__",
    "aggregates",
    "broadcast",
    "close_default_pool",
    "cogroup",
    "current_task",
    "errors",
    "join",
    "sort",
]


def module_name(path: Path) -> str:
    """
    The name inside the package: C{"backends"} for C{backends/__init__.py}, an empty one for the package itself.
    """
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(nodes: Iterator[ast.AST], path: Path) -> Iterator[str]:
    """
    The full names of what the import statements among the nodes import.
    """
    package = ["txmapreduce", *path.relative_to(PACKAGE).parts[:-1]]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            near = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*near, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_anywhere(path: Path) -> Iterator[str]:
    return imports(ast.walk(ast.parse(path.read_bytes())), path)


def at_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """
    What runs when the module is imported: everything but the bodies of functions.
    """
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from at_module_level(child)


def own_module(name: str) -> str | None:
    """
    The module of this package that an import of C{name} reaches, empty for the package itself, or C{None}.
    """
    top, *parts = name.split(".")
    if top != "txmapreduce":
        return None
    while parts and ".".join(parts) not in {*MODULES, *RUNG}:
        parts.pop()
    return ".".join(parts)


def may_import(importer: str, imported: str) -> bool:
    if imported == "":
        return importer in AROUND
    return imported == importer or RUNG.get(imported, len(LADDER)) < RUNG.get(importer, 0)


def loaded_by(statement: str) -> set[str]:
    """
    The names of all modules that a fresh interpreter has loaded after the statement.
    """
    program = f"import sys\nsys.path.insert(0, {str(PACKAGE.parent)!r})\n{statement}\nprint(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", program], text=True).split())


class LadderTests(SynchronousTestCase):
    """
    Imports go one way.
    """

    def test_everyModuleHasItsPlace(self) -> None:
        """
        No module of the package is missing in the ladder.
        """
        self.assertEqual(sorted(set(MODULES) - set(RUNG) - {""}), [])

    def test_importsGoUp(self) -> None:
        """
        A module imports only what stands above it, in functions and for type checking too.
        """
        wrong = {
            f"{importer} imports {imported or 'the package itself'}"
            for importer, path in MODULES.items()
            for imported in map(own_module, imports_anywhere(path))
            if importer and imported is not None and not may_import(importer, imported)
        }
        self.assertEqual(sorted(wrong), [])

    def test_ladderIsKept(self) -> None:
        """
        The check itself sees an import that goes down or sideways, or reaches for the package, in each way to write it.
        """
        path = PACKAGE / "backends" / "inline.py"
        source = (
            "import txmapreduce.mapreduce\n"
            "from txmapreduce import mapreduce, MapReduce\n"
            "from . import processes\n"
            "from .processes import Processes\n"
            "from .._run import coordinator\n"
            "from ..errors import MapReduceError\n"
            "import ast\n"
        )
        found = list(map(own_module, imports(ast.walk(ast.parse(source)), path)))
        sideways = ["backends.processes", "backends.processes"]
        self.assertEqual(found, ["mapreduce", "mapreduce", "", *sideways, "_run.coordinator", "errors", None])
        allowed = [name for name in found if name is not None and may_import("backends.inline", name)]
        self.assertEqual(allowed, ["errors"])


class LoadingTests(SynchronousTestCase):
    """
    What is loaded where.
    """

    def test_scheduleDecidesOnly(self) -> None:
        """
        The schedule has no clock, no I/O and no Twisted.
        """
        found = {name.split(".")[0] for name in imports_anywhere(MODULES["_schedule.schedule"])}
        outside = {"asyncio", "datetime", "io", "os", "select", "selectors", "socket", "threading", "time", "twisted"}
        self.assertEqual(found & outside, set())

    def test_reactorIsPassedIn(self) -> None:
        """
        No module installs a reactor by being imported.
        """
        wrong = [
            name
            for name, path in MODULES.items()
            for imported in imports(at_module_level(ast.parse(path.read_bytes())), path)
            if f"{imported}.".startswith("twisted.internet.reactor.")
        ]
        self.assertEqual(wrong, [])

    def test_workerIsLight(self) -> None:
        """
        A worker starts without Twisted, and loads no library before it needs it.
        """
        loaded = loaded_by("import txmapreduce._worker.loop, txmapreduce._worker.dask")
        self.assertIn("txmapreduce._worker.loop", loaded)
        self.assertEqual(loaded & {"asyncio", "click", "dill", "numpy", "twisted"}, set())

    def test_packageIsLight(self) -> None:
        """
        Importing the package alone loads no Twisted: its names are loaded on demand.
        """
        self.assertNotIn("twisted", loaded_by("import txmapreduce"))


class SizeTests(SynchronousTestCase):
    def test_modulesAreShort(self) -> None:
        """
        No module has more than 400 lines.
        """
        lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in MODULES.items()}
        self.assertEqual({name: count for name, count in lines.items() if count > 400}, {})


class PublicTests(SynchronousTestCase):
    def test_names(self) -> None:
        """
        The public names are these, each can be had from the top, and C{dir} shows them.
        """
        self.assertEqual(sorted(txmapreduce.__all__), sorted(PUBLIC))
        for name in PUBLIC:
            self.assertIsNotNone(getattr(txmapreduce, name))
        self.assertEqual(set(PUBLIC) - set(dir(txmapreduce)), set())

    def test_typesArePublished(self) -> None:
        """
        Type checkers of others may use the package's annotations.
        """
        self.assertTrue((PACKAGE / "py.typed").is_file())
