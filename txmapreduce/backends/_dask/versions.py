"""
What has to be the same here and on a cluster.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from twisted.logger import Logger

__all__ = ["PROBE", "compare"]

_log = Logger()

PROBE = (
    "{'python': '%d.%d' % __import__('sys').version_info[:2], **{"
    "name: __import__(name).__version__ if __import__('importlib.util').util.find_spec(name) else '' "
    "for name in ('txmapreduce', 'dill', 'msgpack', 'distributed')}}"
)
"""An expression that gives the versions where it is evaluated. It needs nothing there but Python."""


def compare(where: str, theirs: dict[str, str]) -> str | None:
    """
    What is wrong with the versions at C{where}, if that matters. Other differences are logged.
    """
    ours = here()
    if theirs["python"] != ours["python"]:
        return (
            f"{where} has Python {theirs['python']} and this process has {ours['python']}: functions can't be sent "
            "from one to the other, so the cluster and its clients need the same"
        )
    missing = [f"{name}=={ours[name]}" for name in ("txmapreduce", "dill", "msgpack") if not theirs[name]]
    if missing:
        return f"{where} has no {' and no '.join(missing)}: install it there with pip install {' '.join(missing)}"
    if theirs["txmapreduce"] != ours["txmapreduce"]:
        return (
            f"{where} has txmapreduce {theirs['txmapreduce']} and this process has {ours['txmapreduce']}: "
            "install the same version on both"
        )
    for name in ("dill", "msgpack", "distributed"):
        if theirs[name] != ours[name]:
            _log.warn(
                "{where} has {name} {theirs} and this process has {ours}",
                where=where,
                name=name,
                theirs=theirs[name],
                ours=ours[name],
            )
    return None


def here() -> dict[str, str]:
    """
    The versions in this process.
    """
    names = ("txmapreduce", "dill", "msgpack", "distributed")
    versions: dict[str, Any] = {name: import_module(name).__version__ for name in names}
    return {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", **versions}
