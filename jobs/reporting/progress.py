"""Progress of a stage: a bar with rate and time left on a terminal, plain lines otherwise (logs, CI, `ray job`)."""

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TextIO

from rich import progress
from rich.console import Console

PLAIN_LINE_EVERY_S: Final = 10.0
RECENT_S: Final = 3600.0  # holds many tasks of every stage, also batches of visualizations on a CPU


def format_duration(seconds: float) -> str:
    """A duration for people: "8 s", "3 min 5 s", "2 h 10 min", "3 d 4 h"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{seconds:.0f} s"
    seconds = round(seconds)
    for large, large_s, small, small_s in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if seconds >= large_s:
            return f"{seconds // large_s} {large} {seconds % large_s // small_s} {small}"
    raise AssertionError(seconds)  # 60 seconds or more always match


def format_rate(per_second: float) -> str:
    """A rate in the unit that gives it digits: "12.50/s", "3.2/min", "4.0/h"."""
    if per_second >= 1:
        return f"{per_second:.2f}/s"
    return f"{per_second * 60:.1f}/min" if per_second * 60 >= 1 else f"{per_second * 3600:.1f}/h"


def format_bytes(size_bytes: float) -> str:
    """A size in decimal units: "812 B", "3.4 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


class RecentRate:
    """Recent items per second: over the later half of the time, and not over more than `RECENT_S`.

    A mean since the start would be wrong for long after nodes joined or left; a short window would hold no task at all
    where a task takes longer, or all of those that began together and end together.

    Args:
        started_s: when the counting began.
    """

    def __init__(self, started_s: float) -> None:
        self._started_s = started_s
        self._past = deque([(started_s, 0)])  # (time, items done by then); the first is where the rate counts from
        self._done = 0

    def add(self, now_s: float, count: int) -> None:
        """Count `count` more items, at least one, as done at a time that is not before the last."""
        self._done += count
        self._past.append((now_s, self._done))
        window_s = min(RECENT_S, (now_s - self._started_s) / 2)
        while len(self._past) > 2 and self._past[1][0] <= now_s - window_s:
            self._past.popleft()

    def per_second(self, now_s: float) -> float:
        """The rate at `now_s`; 0 as long as nothing is done."""
        since_s, before = self._past[0]
        return (self._done - before) / max(now_s - since_s, 1e-9)


class Progress:
    """Context of one stage; `advance` after every finished task.

    Args:
        stage: name of the stage.
        total: how many items there are to do.
        noun: what is counted ("images", "neurons"), in the plural.
        stream: where to write; a bar is drawn only if it is a terminal.
        clock: seconds, monotonic; a test passes its own.
    """

    def __init__(
        self,
        stage: str,
        *,
        total: int,
        noun: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage, self.total, self.noun = stage, total, noun
        self.done = self.failed = 0
        self._stream = stream or sys.stderr
        self._clock = clock
        self._started = self._last_line = clock()
        self._rate = RecentRate(self._started)
        self._bar: progress.Progress | None = None

    def __enter__(self) -> Self:
        if self._stream.isatty():
            self._bar = self._make_bar()
            self._bar.start()
        else:
            self._write(f"{self.stage}: {self.total} {self.noun}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            self._write(self._line())

    def advance(self, count: int = 1, *, failed: int = 0) -> None:
        """Count `count` more items as finished, `failed` of them without success."""
        now = self._clock()
        self.done += count
        self.failed += failed
        self._rate.add(now, count)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, pace=self._pace())
        elif now - self._last_line >= PLAIN_LINE_EVERY_S and self.done < self.total:
            self._last_line = now
            self._write(self._line())

    def _make_bar(self) -> progress.Progress:
        bar = progress.Progress(
            progress.TextColumn("{task.description:<9}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn(self.noun),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[pace]}"),
            console=Console(file=self._stream),
            transient=True,  # the stage's report takes the place of its bar
        )
        bar.add_task(self.stage, total=self.total, pace="")
        return bar

    def _line(self) -> str:
        pace = self._pace()
        return f"{self.stage}: {self.done}/{self.total} {self.noun}" + (f", {pace}" if pace else "")

    def _pace(self) -> str:
        """Recent rate and time left, at the end mean rate and time taken; and what failed, with its share."""
        now = self._clock()
        elapsed, parts = now - self._started, []
        if self.done >= self.total > 0 and elapsed > 0:
            parts += [f"{format_rate(self.done / elapsed)}", format_duration(elapsed)]
        elif self.done:
            rate = self._rate.per_second(now)
            parts += [format_rate(rate), f"{format_duration((self.total - self.done) / rate)} left"]
        if self.failed:
            parts.append(f"{self.failed} failed ({self.failed / self.done:.1%})")
        return ", ".join(parts)

    def _write(self, line: str) -> None:
        print(line, file=self._stream, flush=True)
