"""
Jobs whose data is larger than their memory, in small: exact, within the bounds, and on the disk only where they must be.
"""

from __future__ import annotations

import importlib
import operator
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from tests import mappers
from tests.support import in_thread
from txmapreduce import MapReduce, PartFiles, Policy, Processes, aggregates
from txmapreduce.errors import SpillFailed

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import large  # noqa: E402

LIMIT = 60 << 20
PAIRS = 300_000
