"""
A cluster of several hosts with addresses of their own, one of which is cut off from the others. See L{tests.hosts}.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.hosts import ENVIRONMENT
from tests.support import environment

INSIDE = ["unshare", "--user", "--map-root-user", "--net"]


def missing() -> str | None:
    """
    What such a test needs and is not here.
    """
    if find_spec("distributed") is None:
        return "distributed is not installed"
    for command in ("unshare", "nsenter", "ip"):
        if shutil.which(command) is None:
            return f"there is no command {command}: network namespaces need Linux, util-linux and iproute2"
    tried = subprocess.run(
        [*INSIDE, "ip", "link", "add", "bridge", "type", "bridge"], stdin=subprocess.DEVNULL, capture_output=True
    )
    return f"network namespaces are not allowed: {tried.stderr.decode().strip()}" if tried.returncode else None


class HostsTests(TestCase):
    timeout = 150

    if (reason := missing()) is not None:
        skip = reason

    async def test_cutOff(self) -> None:
        """
        On several hosts a job by key gives what it gives on one. When the host of a worker is cut off, what that had
        and was at is done by others, and the result is exact; when the host of the scheduler is, one error says so.
        """
        done = await deferToThread(
            subprocess.run,
            [*INSIDE, sys.executable, "-m", "tests.hosts"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=self.timeout - 10,
            env=environment(**ENVIRONMENT),
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        found: dict[str, Any] = json.loads(done.stdout)
        self.assertEqual([found["whole"]["exact"], found["worker"]["exact"]], [True, True], found)
        self.assertIn("was lost", found["scheduler"]["error"])
        self.assertLess(found["scheduler"]["seconds"], 60)
