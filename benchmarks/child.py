"""
Run one function on one workload in this fresh interpreter: C{child.py MODULE FUNCTION WORKLOAD SIZE WORKERS FOLDER}.

What was measured is written to C{result.json} in the folder. For C{startup} there is nothing to measure in here: the
whole process is timed by the one that started it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

from workloads import WORKLOADS, Input, Workload, WrongAnswer, prepared


def _workload(name: str) -> Workload:
    if name in WORKLOADS:
        return WORKLOADS[name]
    from growth_jobs import GROWTH

    return GROWTH[name].workload


def _verdict(workload: Workload, inp: Input, answer: Any) -> str:
    try:
        workload.check(inp, answer)
    except WrongAnswer as error:
        return f"wrong answer: {error}"
    return "ok"


class Look:
    """
    Looks at the memory of all processes while the answer is there and the workers still are. It remembers what that
    cost, so that this can be taken off.
    """

    def __init__(self) -> None:
        self.memory = 0
        self.seconds = 0.0
        self.cpu = 0.0

    def __call__(self) -> None:
        start, cpu = time.perf_counter(), time.process_time()
        import psutil
        from memory import memory_of_all

        own = psutil.Process()
        self.memory = memory_of_all([own, *own.children(recursive=True)])
        self.seconds, self.cpu = time.perf_counter() - start, time.process_time() - cpu


def measured(function: Any, workload: Workload, inp: Input) -> dict[str, Any]:
    """
    Call an adapter's function, and check its answer after the clocks were stopped.
    """
    inp.look = look = Look()
    cpu = time.process_time()
    start = time.perf_counter()
    answer = function(inp)
    end = time.perf_counter()
    from memory import high_water_mark

    result: dict[str, Any] = {
        "work": (inp.answered_at or end) - (inp.ready_at or start),
        "wall": end - start - look.seconds,
        "ended_at": end,
        "units": inp.units,
        "prepare_cpu": cpu,
        "serial_cpu": inp.serial_cpu,
        "last_peak": look.memory,
        "parent_peak": high_water_mark(),
    }
    cpu = time.process_time()
    result["check"] = _verdict(workload, inp, answer)
    if inp.cleanup is not None:
        inp.cleanup()
    result["check_cpu"] = time.process_time() - cpu + look.cpu
    result["check_seconds"] = time.perf_counter() - end + look.seconds
    return result


def main() -> None:
    module, function, name, size, workers, folder = sys.argv[1:]
    call = getattr(importlib.import_module(module), function)
    workload = _workload(name)
    inp = prepared(workload, int(size), int(workers), folder)
    if name == "startup":
        workload.check(inp, call(inp))
        return
    result = measured(call, workload, inp)
    with open(os.path.join(folder, "result.json"), "w", encoding="utf-8") as file:
        json.dump(result, file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # freeing the answer would only take time


if __name__ == "__main__":
    main()
