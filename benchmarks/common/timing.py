"""Runs that take turns in one process, and steps that run in a process of their own."""

import multiprocessing
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")


def in_turn(runs: Mapping[str, Callable[[], Result]], repeats: int) -> dict[str, list[Result]]:
    """Results of each run by name. Runs take turns after a warm-up, so ratios hold while a machine's speed drifts."""
    for run in runs.values():
        run()
    results: dict[str, list[Result]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            results[name].append(run())
    return results


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a step took in a process of its own, and what it returned."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    result: Any


def in_process(step: Callable[..., Any], *arguments: Any) -> Usage:
    """Call `step(*arguments)` in a new process, so that its peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (step, arguments))


def _measured(step: Callable[..., Any], arguments: tuple[Any, ...]) -> Usage:
    wall, cpu = time.perf_counter(), time.process_time()
    result = step(*arguments)
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Usage(wall_s=wall_s, cpu_s=cpu_s, peak_mib=peak_mib, result=result)
