"""`neuron-atlas human-scores`: answer files of a human study → a table on the screen, human.parquet and human.md."""

import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Final

from pipeline.atlas.format.manifest import read_atlas
from pipeline.errors import UserError
from pipeline.evaluation.human.answer_files import Study, read_study
from pipeline.evaluation.human.scores import METRICS, TASKS, HumanScore, human_scores
from pipeline.io.parquet import write_table
from pipeline.io.root import Root

HUMAN_TABLE: Final = "human.parquet"
HUMAN_TEXT: Final = "human.md"
SCHEMA: Final[dict[str, str]] = {
    "task": "string",
    "method": "string",  # "": all methods together
    "metric": "string",
    "value": "float64",
    "low": "float64",  # 95 % interval, null without one
    "high": "float64",
    "num_answers": "int32",
    "num_raters": "int32",
    "num_neurons": "int32",
}

_TITLES: Final = {
    "class": "Class visualizations rated, with the class's name",
    "intermediate": "Intermediate visualizations rated, with their dataset images",
    "choice": "Choice between two dataset images",
    "words": "Free descriptions",
}
# Görgün et al., ICCV 2025, section 5: medians of 58 people.
_PUBLISHED: Final = {
    "class": {"maco": 2.0, "fourier": 1.5, "deepinversion": 3.0, "vital": 4.0},
    "intermediate": {"maco": 2.5, "fourier": 2.0, "vital": 4.0},
}
_NOTES: Final = {
    "class": "The paper's medians are of 58 people, about other visualizations.",
    "intermediate": "The paper's medians are of 58 people, about other visualizations.",
    "choice": "Intervals are Wilson's, as if every answer were independent. The dataset image that does not activate "
    "the neuron belongs to another neuron, with no dataset image or label in common; its activation is not measured.",
    "words": "The paper compared embeddings of the descriptions (medians MACO .35, Fourier .30, DeepInversion .40, "
    "VITAL .60). Here words are compared as they stand: lower numbers, good for comparing methods within this study.",
}


def score_files(atlas_url: str, sources: Sequence[str], out: str | None = None) -> str:
    """Score answer files, write human.parquet and human.md, and return the text of the latter.

    Args:
        atlas_url: folder or URL of the atlas that was scored.
        sources: paths or URLs of answer files.
        out: folder or URL to write to; beside the first answer file if not given.

    Raises:
        UserError: a file is no answer file or about another atlas, or nothing was answered.
    """
    atlas = Root.open(atlas_url)
    study = read_study(atlas, sources)
    if not study.answers:
        raise UserError(
            f"{', '.join(sources)}: no answers in {'it' if len(sources) == 1 else 'them'}; nothing to score"
        )
    manifest = read_atlas(atlas)
    scores = human_scores(study.answers, manifest["methods"])
    text = study_text(scores, study, title=manifest["title"])
    root = Root.open(out or os.path.dirname(sources[0]) or ".")
    write_table(root, HUMAN_TABLE, [_row(score) for score in scores], SCHEMA)
    root.write_text(HUMAN_TEXT, text)
    return text


def study_text(scores: Sequence[HumanScore], study: Study, *, title: str) -> str:
    """The report in Markdown. Names of raters, and what they wrote, do not stand in it."""
    raters = len({answer.rater for answer in study.answers})
    lines = [
        f"# Human study: {_plain(title)}",
        "",
        f"Answers: {len(study.answers)}. Raters: {raters}. Sessions: {study.num_sessions}. In brackets: the 95 % "
        "interval, over raters and neurons together unless a note says otherwise. – marks what these answers do not "
        "show.",
        *(f"\n{note}" for note in _what_was_left(study, raters)),
    ]
    for task in TASKS:
        of_task = [score for score in scores if score.task == task]
        if of_task:
            lines += ["", f"## {_TITLES[task]}", "", *_table(of_task), "", _NOTES[task]]
    lines += ["", "## Metrics", "", *(f"- `{name}` ({unit}): {meaning}" for name, (unit, meaning) in METRICS.items())]
    return "\n".join(lines) + "\n"


def _what_was_left(study: Study, raters: int) -> Iterator[str]:
    """What a reader should know of the answers: which are missing, which count once."""
    if raters == 1:
        yield "With one rater, intervals cover neurons alone: another person may rate differently."
    for count, words in (
        (study.num_unfinished, "sessions are unfinished; their answers count."),
        (study.num_skipped, "questions were skipped because their visualizations did not load."),
        (study.num_repeated_files, "files repeat a session; each counts once, with the most answers."),
        (study.num_replaced, "answers were given again by their rater in a later session; the latest counts."),
        (study.num_other_builds, "sessions scored another build of the atlas, with the same visualizations."),
    ):
        if count:
            yield f"{count} {words}"


def _table(scores: Sequence[HumanScore]) -> Iterator[str]:
    """A line per method, a column per metric."""
    task = scores[0].task
    metrics = [metric for metric in METRICS if any(score.metric == metric for score in scores)]
    published = _PUBLISHED.get(task, {})
    titles = ["method", *metrics, *(["median in the paper"] if published else []), "answers", "raters", "neurons"]
    yield f"| {' | '.join(titles)} |"
    yield f"|---|{'---:|' * (len(titles) - 1)}"
    for method in dict.fromkeys(score.method for score in scores):
        found = {score.metric: score for score in scores if score.method == method}
        most = max(found.values(), key=lambda score: score.num_answers)
        cells = [method or "all", *(_cell(found.get(metric)) for metric in metrics)]
        if published:
            cells.append(str(published.get(method, "–")))
        cells += [str(count) for count in (most.num_answers, most.num_raters, most.num_neurons)]
        yield f"| {' | '.join(cells)} |"


def _cell(score: HumanScore | None) -> str:
    if score is None or math.isnan(score.value):
        return "–"
    return f"{score.value:.2f}" + ("" if math.isnan(score.low) else f" ({score.low:.2f}–{score.high:.2f})")


def _row(score: HumanScore) -> dict[str, object]:
    """A row of SCHEMA: NaN is null there."""
    values = {name: getattr(score, name) for name in SCHEMA}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}


def _plain(text: str) -> str:
    """A title that comes from an atlas, so that it can neither steer a terminal nor be read as Markdown or HTML."""
    printable = "".join(letter for letter in text if letter.isprintable())[:200]
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", printable)
