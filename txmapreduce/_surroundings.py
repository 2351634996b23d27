"""
What a worker takes over from the coordinator's process, so that a user's code finds in one what it finds in the other.
"""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from typing import Any

from ._loading import Buffer

__all__ = ["surroundings", "take_over"]


def surroundings() -> bytes:
    """
    What workers take over from this process: import path, arguments, working directory and warnings filters.
    """
    try:
        cwd = os.getcwd()
    except OSError:  # it has been removed; the workers stay where they are
        cwd = "."
    facts: dict[str, Any] = {"path": list(sys.path), "argv": list(getattr(sys, "argv", [])), "cwd": cwd}
    return pickle.dumps({**facts, "filters": [entry for entry in warnings.filters if _can_travel(entry)]})


def _can_travel(entry: Any) -> bool:
    """
    Whether a warnings filter can be sent: its category may be a class that workers can't import.
    """
    return getattr(entry[2], "__module__", None) == "builtins"


def take_over(data: Buffer) -> None:
    """
    Make this process look like the coordinator's: working directory, import path, arguments, warnings filters.

    @param data: what L{surroundings} gave there.
    """
    facts = pickle.loads(data)
    sys.path[:] = facts["path"]
    sys.argv[:] = facts["argv"]
    warnings.filters[:] = facts["filters"]  # type: ignore[index]
    # Also tells the warnings module that its filters have changed. The thread that this is about, which waits for the
    # coordinator's end, sleeps in the kernel and holds no lock, so a fork in the user's code is as safe as without it.
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
    try:
        os.chdir(facts["cwd"])
    except OSError as error:
        print(f"the working directory of the coordinator can't be entered: {error}", file=sys.stderr)
