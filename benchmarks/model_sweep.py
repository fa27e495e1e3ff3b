"""Checks many models of timm and torchvision against plain ways of one's own: is any number silently wrong?

    python -m benchmarks.model_sweep [--models PATTERN …] [--jobs 2] [--out FILE]

The models of `sweep.models`, with random weights of which none is degenerate, at a small input size. Columns:

    network     the output is the library's own network's, with the same weights
    layers      every layer listed has the units its module declares, and gives the same alone as in a batch
    capture     features are the same alone, all together, and by a hook of one's own, for each call of a module
    classifier  `classifier` is the network's output
    statistics  those of `collect` are a plain loop's, for every layer, with a last batch that is not full
    folded      the network that is quicker to run gives the same features of the layers named
    relevance   gradient × activation is autograd's; `lrp` is finite and not zero
    visualize   two classes and units of two layers: finite, and changed by the steps

✓ holds, ≠ differs, ✗ ends in a traceback, – was not reached; `refused` stands for one sentence to the user, which is
right for load, relevance and visualize alone. Sentences follow the table. The exit status is 1 if anything differs or
ends in a traceback. Each job is a process of bounded memory; a model that takes too long ends with it.
"""

import contextlib
import fnmatch
import multiprocessing
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from benchmarks.common.program import make_parser, print_header
from benchmarks.sweep.checks import CHECKS
from benchmarks.sweep.models import MODELS
from benchmarks.sweep.subject import Difference, load
from pipeline.activations.collect import NonFiniteActivationError
from pipeline.errors import UserError

MAX_MEMORY_BYTES = 8 << 30
REFUSABLE = ("load", "relevance", "visualize")
GOOD, DIFFERENT, REFUSED, FAILED, NOT_REACHED = "✓", "≠", "refused", "✗", "–"


@dataclass
class Row:
    """What came of one model: check → (status, sentence)."""

    name: str
    size_px: int = 0
    num_layers: int = 0
    cells: dict[str, tuple[str, str]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def faults(self) -> list[str]:
        return [f"{check}: {text}" for check, (status, text) in self.cells.items() if status in (DIFFERENT, FAILED)]

    @property
    def refusals(self) -> list[str]:
        return [f"{check}: {text}" for check, (status, text) in self.cells.items() if status == REFUSED]

    def __str__(self) -> str:
        cells = [self.cells.get(check, (NOT_REACHED, "")) for check in ("load", *CHECKS)]
        shown = [f"{status} {text}".strip() if status == GOOD else status for status, text in cells]
        size = str(self.size_px or NOT_REACHED)
        return f"| {' | '.join([f'`{self.name}`', size, str(self.num_layers), *shown, f'{self.seconds:.0f}'])} |"


HEADER = ["model", "px", "layers", "load", *CHECKS, "s"]


def check(name: str) -> Row:
    """All checks of one model; each is tried whatever came of those before."""
    row, started = Row(name=name), time.perf_counter()
    subject = None

    def attempt(check: str, function: object, *arguments: object) -> object:
        try:
            found = function(*arguments)  # type: ignore[operator]
        except Difference as error:
            row.cells[check] = (DIFFERENT, str(error))
        except (UserError, NonFiniteActivationError) as error:
            is_sentence = check in REFUSABLE and "\n" not in str(error)
            row.cells[check] = (REFUSED if is_sentence else DIFFERENT, f"{type(error).__name__}: {error}")
        except Exception as error:  # the table goes on, and shows what stopped this check
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in frames if "/pipeline/" in frame.filename] or frames
            place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
            row.cells[check] = (FAILED, " ".join(f"{type(error).__name__}: {error} ({place})".split()))
        else:
            row.cells[check] = (GOOD, found if isinstance(found, str) else "")
            return found
        return None

    subject = attempt("load", load, name)
    if subject is not None:
        row.size_px, row.num_layers = subject.model.input_size_px, len(subject.layers)  # type: ignore[attr-defined]
        for check_name, function in CHECKS.items():
            attempt(check_name, function, subject)
    row.seconds = time.perf_counter() - started
    return row


def work(connection: Connection) -> None:
    """A job: one name in, one row out, until the other side ends."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the libraries' own, on sizes and renamed models
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    with contextlib.suppress(EOFError):
        while True:
            connection.send(check(connection.recv()))


class Job:
    """A process that checks one model after another."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=work, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self.name, self.started = "", 0.0

    def give(self, name: str) -> None:
        self.name, self.started = name, time.monotonic()
        self.connection.send(name)

    def take(self) -> Row:
        """The row, or what ended the process."""
        try:
            row: Row = self.connection.recv()
        except EOFError:
            self.process.join()
            return Row(name=self.name, cells={"load": (FAILED, f"the process ended with {self.process.exitcode}")})
        return row

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def sweep(names: Sequence[str], num_jobs: int, timeout_s: float) -> Iterable[Row]:
    """Rows as they are finished."""
    waiting, jobs = list(reversed(names)), [Job() for _ in range(min(num_jobs, len(names)))]
    for job in jobs:
        job.give(waiting.pop())
    while jobs:
        ready = wait([job.connection for job in jobs], timeout=1.0)
        for job in list(jobs):
            is_late = time.monotonic() - job.started > timeout_s
            if job.connection not in ready and not is_late:
                continue
            row = job.take() if job.connection in ready else Row(name=job.name)
            if job.connection not in ready:
                row.cells["load"] = (FAILED, f"not finished in {timeout_s:.0f} s")
            yield row
            if not job.process.is_alive() or job.connection not in ready:
                job.end()
                jobs[jobs.index(job)] = job = Job()
            if waiting:
                job.give(waiting.pop())
            else:
                job.end()
                jobs.remove(job)


def report(rows: Sequence[Row]) -> str:
    """The table in the order of the names, then the sentences and the counts, as Markdown."""
    lines = [f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}", *map(str, rows)]
    for title, found in (
        ("Differences and tracebacks", {row.name: row.faults for row in rows}),
        ("Refusals", {row.name: row.refusals for row in rows}),
    ):
        lines += ["", f"**{title}**", ""]
        lines += [f"- `{name}` {sentence}" for name, sentences in found.items() for sentence in sentences] or ["none"]
    statuses = Counter(status for row in rows for status, _ in row.cells.values())
    num_clean = sum(not row.faults and not row.refusals for row in rows)
    lines += [
        "",
        f"{len(rows)} models, {num_clean} clean in every check; {sum(row.num_layers for row in rows)} layers; "
        f"{statuses[GOOD]} checks hold, {statuses[DIFFERENT]} differ, {statuses[FAILED]} end in a traceback, "
        f"{statuses[REFUSED]} are refused.",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--models", nargs="*", default=["*"], metavar="PATTERN", help="of the list, or further names")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for one model")
    parser.add_argument("--out", type=Path, help="write the table to this file as well")
    arguments = parser.parse_args()
    names = [name for name in MODELS if any(fnmatch.fnmatch(name, pattern) for pattern in arguments.models)]
    names += [name for name in arguments.models if "*" not in name and name not in names]
    print_header(
        "model sweep", f"timm {version('timm')}", f"torchvision {version('torchvision')}", f"{len(names)} models"
    )
    rows, started = [], time.monotonic()
    for row in sweep(names, arguments.jobs, arguments.timeout):
        rows.append(row)
        left_s = (time.monotonic() - started) / len(rows) * (len(names) - len(rows))
        print(f"[{len(rows)}/{len(names)}, {left_s / 60:.0f} min left] {row}", flush=True)
        for sentence in (*row.faults, *row.refusals):
            print(f"    {sentence}", flush=True)
    text = report(sorted(rows, key=lambda row: names.index(row.name)))
    print(f"\n{text}")
    if arguments.out:
        arguments.out.write_text(text + "\n")
    return int(any(row.faults for row in rows))


if __name__ == "__main__":
    sys.exit(main())
