"""
What the tests of the codec's modules share: the two sides of a run, scripts with a C{__main__}, and values that fail.
"""

from __future__ import annotations

import operator
import textwrap
from collections import deque
from pathlib import Path
from typing import Any

from tests import support
from txmapreduce._values.codec import Codec


class Refuses:
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class BadLoad:
    def __reduce__(self) -> Any:
        return operator.truediv, (1, 0)


def exact(one: Any, other: Any) -> bool:
    """
    Whether two values are equal, and all their parts of the same types. NaN is like NaN, 0.0 is not like -0.0.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(exact, one.items(), other.items()))
    if isinstance(one, (list, tuple, deque)):
        return len(one) == len(other) and all(map(exact, one, other))
    if isinstance(one, (set, frozenset)):
        return {(type(i), repr(i)) for i in one} == {(type(i), repr(i)) for i in other}
    return repr(one) == repr(other)


def through(value: Any) -> Any:
    """
    A value that went to the other side, which has no program.
    """
    return Codec().loads(Codec().dumps(value))


def pair(program: Any) -> tuple[Codec, Codec, Any]:
    """
    Both sides of a run, and the program as the worker has it.
    """
    coordinator, worker = Codec(), Codec()
    coordinator.encode_program(program, {"mapper": program})
    return coordinator, worker, worker.define(coordinator.definitions[0])


def made_up(source: str, **names: Any) -> dict[str, Any]:
    """
    The globals of a module that nobody can import.
    """
    names["__name__"] = "made_up_by_the_tests"
    exec(textwrap.dedent(source), names)
    return names


def python(code: str) -> str:
    """
    What a fresh interpreter prints that runs C{code} as a script.
    """
    done = support.python("-", stdin=code, cwd=Path("/"))
    if done.returncode:
        raise AssertionError(done.stderr)
    return done.stdout


WORKER = """
import pickle, sys
from txmapreduce._values.codec import Codec
definitions, payloads = pickle.load(sys.stdin.buffer)
codec = Codec()
program = [codec.define(blob) for blob in definitions][0]
answers = [[bytes(b) for b in codec.dumps(program(codec.loads(payload)))] for payload in payloads]
pickle.dump((answers, "dill" in sys.modules), sys.stdout.buffer)
"""

SCRIPT = f"""
import pickle, subprocess, sys
from txmapreduce._values.codec import Codec
from txmapreduce.errors import NotSerializable

def in_worker(program, *records):
    "The results, from a child that has another __main__."
    coordinator = Codec()
    coordinator.encode_program(program, {{"mapper": program}})
    payloads = [[bytes(b) for b in coordinator.dumps(record)] for record in records]
    parcel = pickle.dumps((coordinator.definitions, payloads))
    answer = subprocess.run([sys.executable, "-c", {WORKER!r}], input=parcel, stdout=-1, check=True).stdout
    answers, in_worker.dill = pickle.loads(answer)
    return [coordinator.loads(answer) for answer in answers]
"""


def script(code: str) -> str:
    """
    What a script prints whose C{__main__} has what C{code} defines.
    """
    return python(SCRIPT + textwrap.dedent(code))
