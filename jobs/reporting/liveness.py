"""Whether a run is going on and how fast, read from its log alone: what `neuron-atlas status` can know from afar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from jobs.reporting.progress import RecentRate, format_duration, format_rate

# Silence of a run that is going on: up to the work that took longest, some more for its start (nodes that boot, a model
# that loads), and the time that a log in an object store waits before it is sent.
QUIET_FACTOR: Final = 3.0
MIN_QUIET_S: Final = 300.0
ENDED: Final = ("done", "failed")  # statuses of entries that are works; others are remarks


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """The last signs of a run.

    Attributes:
        age_s: how long ago the log was last written to.
        last: the entry of the last unit of work that ended, with or without success.
        last_age_s: how long ago that was.
        longest_s: seconds of the work that took longest.
        rates: stage → things per second of late, of the stages that the last run worked on.
    """

    age_s: float
    last: Mapping[str, Any]
    last_age_s: float
    longest_s: float
    rates: Mapping[str, float]

    @property
    def seems_alive(self) -> bool:
        """Whether the log was written to within the time that a run can be silent."""
        return self.age_s <= max(MIN_QUIET_S, QUIET_FACTOR * self.longest_s)


def take_pulse(entries: Sequence[Mapping[str, Any]], now: datetime) -> Pulse | None:
    """The pulse of the last run in a log at a time (UTC); None if no unit of work ever ended."""
    works = [entry for entry in entries if entry["status"] in ENDED]
    if not works:
        return None
    run = entries[-1].get("run")
    own = [entry for entry in works if entry.get("run") == run]
    return Pulse(
        age_s=_age_s(entries[-1], now),
        last=works[-1],
        last_age_s=_age_s(works[-1], now),
        longest_s=max(entry["seconds"] for entry in own or works),
        rates=_rates(own, now),
    )


def describe_pulse(pulse: Pulse, left: Mapping[str, int]) -> str:
    """Lines for a terminal.

    Args:
        pulse: of a run.
        left: stage → things to do; stages with nothing to do get no line.
    """
    last = pulse.last
    where = f" on {last['worker']}" if last.get("worker") else ""
    lines = [f"last work: {last['stage']} {last['work']} {last['status']}{where}, {_ago(pulse.last_age_s)}"]
    todo = {stage: count for stage, count in left.items() if count and pulse.rates.get(stage)}
    if not any(left.values()):
        return lines[0]
    if not pulse.seems_alive:
        lines.append(
            f"the log is silent for {format_duration(pulse.age_s)}, its longest work took "
            f"{format_duration(pulse.longest_s)}: the run was ended, or waits for workers; the same command goes on"
        )
    elif not todo:
        lines.append("the run seems to be going on")
    else:
        lines += [
            f"{stage}: {format_rate(pulse.rates[stage])} of late, {format_duration(count / pulse.rates[stage])} left"
            for stage, count in todo.items()
        ]
    return "\n".join(lines)


def _rates(works: Sequence[Mapping[str, Any]], now: datetime) -> dict[str, float]:
    rates: dict[str, RecentRate] = {}
    for entry in works:
        if not entry["count"]:  # a batch that is done again in its parts, a merge
            continue
        ended_s = datetime.fromisoformat(entry["time"]).timestamp()
        rate = rates.setdefault(entry["stage"], RecentRate(ended_s - entry["seconds"]))
        rate.add(ended_s, entry["count"])
    return {stage: rate.per_second(now.timestamp()) for stage, rate in rates.items()}


def _age_s(entry: Mapping[str, Any], now: datetime) -> float:
    return max(0.0, (now - datetime.fromisoformat(entry["time"])).total_seconds())  # clocks differ


def _ago(seconds: float) -> str:
    return f"{format_duration(seconds)} ago"
