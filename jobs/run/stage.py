"""What a stage is, and what it reports."""

from dataclasses import dataclass
from typing import Protocol

from jobs.reporting.progress import format_duration
from jobs.run.session import Session
from pipeline.recipe.recipe import Stage as StageName


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """What a stage did.

    Attributes:
        stage: its name.
        noun: what is counted, in the plural.
        done: now.
        already: by earlier runs.
        failed: without success, now or earlier.
        remark: for the report's line.
        nothing_to_do: whether all was done before.
        seconds: how long it took; the runner fills it in.
    """

    stage: StageName
    noun: str
    done: int = 0
    already: int = 0
    failed: int = 0
    remark: str = ""
    nothing_to_do: bool = False
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.nothing_to_do:
            failed = f", {self.failed} failed" if self.failed else ""
            text = f"{self.stage}: nothing to do, {self.already} {self.noun} already done{failed}"
            return f"{text}; {self.remark}" if self.remark else text
        parts = [f"{self.done} {self.noun} done"]
        if self.already:
            parts.append(f"{self.already} already done")
        if self.failed:
            parts.append(f"{self.failed} failed")
        text = f"{self.stage}: {', '.join(parts)} ({format_duration(self.seconds)})"
        return f"{text}; {self.remark}" if self.remark else text


class Stage(Protocol):
    """A stage of the pipeline."""

    @property
    def name(self) -> StageName:
        """As the command line calls it."""
        ...

    @property
    def noun(self) -> str:
        """What it counts, in the plural."""
        ...

    def run(self, session: Session) -> StageReport:
        """Do what is left.

        Raises:
            RunStoppedError: an earlier stage is not finished, or going on could not help.
        """
        ...
