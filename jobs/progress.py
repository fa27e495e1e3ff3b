"""Progress of a stage: a bar with rate and time left on a terminal, plain lines otherwise (logs, CI, `ray job`)."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self, TextIO

PLAIN_LINE_EVERY_S: Final = 10.0


def format_duration(seconds: float) -> str:
    """A duration as people say it: "8 s", "3 min 5 s", "2 h 10 min", "3 d 4 h"."""
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


def format_bytes(size_bytes: float) -> str:
    """A size in decimal units: "812 B", "3.4 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


class Progress:
    """Context of one stage; `advance` after every finished work.

    Args:
        stage: name of the stage.
        total: how many things there are to do.
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
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._stream.isatty():
            self._bar, self._task = self._make_bar()
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
        """Count `count` more things as finished, `failed` of them without success."""
        self.done += count
        self.failed += failed
        if self._bar is not None:
            note = f", {self.failed} failed" if self.failed else ""
            rate = self.done / max(self._clock() - self._started, 1e-9)
            self._bar.update(self._task, completed=self.done, rate=f"{rate:.2f} {self.noun}/s{note}")
        elif self._clock() - self._last_line >= PLAIN_LINE_EVERY_S and self.done < self.total:
            self._last_line = self._clock()
            self._write(self._line())

    def _make_bar(self) -> tuple[Any, Any]:
        from rich import console, progress

        bar = progress.Progress(
            progress.TextColumn("{task.description:<9}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(elapsed_when_finished=True),
            console=console.Console(file=self._stream),
            transient=True,  # the stage's report takes the place of its bar
        )
        return bar, bar.add_task(self.stage, total=self.total, rate="")

    def _line(self) -> str:
        elapsed = self._clock() - self._started
        text = f"{self.stage}: {self.done}/{self.total} {self.noun}"
        if self.done and elapsed > 0:
            rate = self.done / elapsed
            text += f", {rate:.2f}/s"
            if self.done < self.total:
                text += f", {format_duration((self.total - self.done) / rate)} left"
            else:
                text += f", {format_duration(elapsed)}"
        return text + (f", {self.failed} failed" if self.failed else "")

    def _write(self, line: str) -> None:
        print(line, file=self._stream, flush=True)
