"""
The folder in which the workers of one run spill: made when the first of them asks for it, and gone with the run.

A process of its own removes it, a shell that waits for the end of its standard input, which this process holds. So the
folder goes when the run has ended, in the background, and also when this process was killed, together with all its
workers. That process is there before the folder is.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool

from .._schedule.events import Unable
from .._tasks.runner import Program
from ..errors import SpillFailed

__all__ = ["SpillFolder"]

_SCRIPT = """trap '' INT TERM HUP
read -r _
for n in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$0" && exit; sleep 0.1; done"""
"""Workers that are being killed may still put a file there: then it is tried again."""


class SpillFolder:
    """
    The folder of one run.

    @ivar path: where it is, or will be.
    """

    def __init__(self, reactor: Any, program: Program, tell: Callable[[Unable], None]) -> None:
        """
        @param program: says in which folder to make it. Default: the system's folder for temporary files.
        @param tell: hears when it can't be made.
        """
        parent = None if program.spill is None else program.spill.folder
        self._tell = tell
        parent = os.path.abspath(tempfile.gettempdir() if parent is None else parent)
        self.path = os.path.join(parent, f"txmapreduce-{os.getpid()}-{os.urandom(8).hex()}")
        self._reactor = reactor
        self._remover: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """
        See to it that it is there.
        """
        if self._remover is not None:
            return
        try:
            self._remover = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, self.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.defpath},
                start_new_session=True,
            )
            os.mkdir(self.path, 0o700)
        except OSError as error:
            self._tell(Unable(SpillFailed(f"the spill folder {self.path} can't be made: {error.strerror}")))

    def remove(self) -> Deferred[Any]:
        """
        Remove it with all that is in there.

        @return: fires when it is gone.
        """
        if self._remover is None:
            return succeed(None)
        remover, self._remover = self._remover, None
        assert remover.stdin is not None
        with contextlib.suppress(OSError):  # the end of the input does as well; a fork may hold that open
            remover.stdin.write(b"\n")
            remover.stdin.flush()
        with contextlib.suppress(OSError):
            remover.stdin.close()
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), remover.wait)
