"""Whether a run is going on and how fast, read from its log alone: what `neuron-atlas status` can know from afar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

from jobs.reporting.progress import RecentRate, format_duration, format_rate

LogEntry: TypeAlias = Mapping[str, Any]  # a line of the run's log, as JSON gives it

# Silence of a run that is going on: up to a multiple of its longest task, some more for its start (nodes that boot, a
# model that loads), and the time that a log in an object store waits before it is sent.
QUIET_FACTOR: Final = 3.0
MIN_QUIET_S: Final = 300.0
ENDED: Final = ("done", "failed")  # statuses of entries that are tasks; others are remarks


@dataclass(frozen=True, kw_only=True)
class Liveness:
    """The last signs of life of a run.

    Attributes:
        age_s: how long ago the log was last written to.
        last: the entry of the last task that ended, with or without success.
        last_age_s: how long ago that was.
        longest_s: seconds of the task that took longest.
        rates: stage → recent items per second, of the stages that the last run worked on.
    """

    age_s: float
    last: LogEntry
    last_age_s: float
    longest_s: float
    rates: Mapping[str, float]

    @property
    def seems_alive(self) -> bool:
        """Whether the log was written to within the time that a run can be silent."""
        return self.age_s <= max(MIN_QUIET_S, QUIET_FACTOR * self.longest_s)


def read_liveness(entries: Sequence[LogEntry], now: datetime) -> Liveness | None:
    """The liveness of the last run in a log at a time (UTC); None if no task ever ended."""
    ended = [entry for entry in entries if entry["status"] in ENDED]
    if not ended:
        return None
    run = entries[-1].get("run")
    of_run = [entry for entry in ended if entry.get("run") == run]
    return Liveness(
        age_s=_age_s(entries[-1], now),
        last=ended[-1],
        last_age_s=_age_s(ended[-1], now),
        longest_s=max(entry["seconds"] for entry in of_run or ended),
        rates=_rates(of_run, now),
    )


def describe_liveness(liveness: Liveness, left: Mapping[str, int]) -> str:
    """Lines for a terminal.

    Args:
        liveness: of a run.
        left: stage → items to do; stages with nothing to do get no line.
    """
    last = liveness.last
    where = f" on {last['worker']}" if last.get("worker") else ""
    lines = [f"last task: {last['stage']} {last['task']} {last['status']}{where}, {_ago(liveness.last_age_s)}"]
    todo = {stage: count for stage, count in left.items() if count and liveness.rates.get(stage)}
    if not any(left.values()):
        return lines[0]
    if not liveness.seems_alive:
        lines.append(
            f"the log is silent for {format_duration(liveness.age_s)}, its longest task took "
            f"{format_duration(liveness.longest_s)}: the run was ended, or waits for workers; the same command goes on"
        )
    elif not todo:
        lines.append("the run seems to be going on")
    else:
        lines += [
            f"{stage}: {format_rate(rate)} recently, {format_duration(count / rate)} left"
            for stage, count in todo.items()
            if (rate := liveness.rates[stage])
        ]
    return "\n".join(lines)


def _rates(ended: Sequence[LogEntry], now: datetime) -> dict[str, float]:
    rates: dict[str, RecentRate] = {}
    for entry in ended:
        if not entry["count"]:  # a batch that is split, a merge
            continue
        ended_s = datetime.fromisoformat(entry["time"]).timestamp()
        rate = rates.setdefault(entry["stage"], RecentRate(ended_s - entry["seconds"]))
        rate.add(ended_s, entry["count"])
    return {stage: rate.per_second(now.timestamp()) for stage, rate in rates.items()}


def _age_s(entry: LogEntry, now: datetime) -> float:
    return max(0.0, (now - datetime.fromisoformat(entry["time"])).total_seconds())  # clocks differ


def _ago(seconds: float) -> str:
    return f"{format_duration(seconds)} ago"
