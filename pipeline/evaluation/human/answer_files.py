"""Answer files of human studies (`human-answers/1`), as the viewer's study page writes them, checked against an atlas.

The files come from people's browsers, by way of their mail: nothing in them is trusted. Every answer must be about a
visualization of the atlas, by its SHA-256, so that answers stay valid for a new build of the same visualizations and
never count for others.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.atlas.format.manifest import read_atlas
from pipeline.errors import UserError
from pipeline.evaluation.human.scores import RATED_TASKS, RATINGS, TASKS, HumanAnswer
from pipeline.io.parquet import read_table
from pipeline.io.root import Root, open_for_reading
from pipeline.neurons import nearest

ANSWERS_SCHEMA: Final = "human-answers/1"
MAX_FILE_BYTES: Final = 4 << 20  # 800 questions, the most that the page asks, take about 0.5 MB
MAX_ANSWERS: Final = 10_000
MAX_WORDS_LENGTH: Final = 200  # of atlas_viewer/study/session.js, like the next
MAX_RATER_LENGTH: Final = 80
MAX_MILLISECONDS: Final = 7 * 24 * 3600 * 1000  # a page left open over a week is no answer time

_SESSION = re.compile(r"[0-9a-f]{8,64}")
_COLUMNS: Final = ("neuron_id", "method", "seed", "label", "image_sha256")

VisualizationKey = tuple[str, str, int]  # neuron id, method, seed


@dataclass(frozen=True, kw_only=True)
class AtlasVisualizations:
    """The visualizations of an atlas, which answers are checked against."""

    url: str
    name: str
    model: str
    build_id: str
    methods: tuple[str, ...]
    sha256: Mapping[VisualizationKey, str]
    labels: Mapping[str, str]  # by neuron id


@dataclass(frozen=True, kw_only=True)
class AnswerFile:
    """One checked file: the answers of one session."""

    source: str
    session: str
    started: str
    build_id: str
    planned: int
    answers: tuple[HumanAnswer, ...]
    num_skipped: int  # questions whose visualizations could not be shown


@dataclass(kw_only=True)
class Study:
    """The answers of all files, each once, and counts of the rest."""

    answers: list[HumanAnswer] = field(default_factory=list)
    num_sessions: int = 0
    num_unfinished: int = 0
    num_other_builds: int = 0  # sessions of another build of the atlas, with the same visualizations
    num_skipped: int = 0
    num_repeated_files: int = 0  # of a session that another file has more of, or as much
    num_replaced: int = 0  # answers that their rater gave again in a later session


def read_study(atlas: Root, sources: Sequence[str]) -> Study:
    """The answers of several files about one atlas.

    A session that comes in several files (downloaded when paused, and again at the end) counts once: the file with the
    most answers. A rater who answers the same question in several sessions is heard in the latest.

    Args:
        atlas: a built atlas.
        sources: paths or URLs of answer files.

    Raises:
        UserError: a file is too large, no answer file, damaged, or about another atlas; the message names it.
    """
    visualizations = read_visualizations(atlas)
    return merge_sessions([read_answers(visualizations, source) for source in sources], visualizations.build_id)


def read_visualizations(atlas: Root) -> AtlasVisualizations:
    """Names and hashes of the visualizations of an atlas.

    Raises:
        UserError: there is no atlas, or a damaged one.
    """
    manifest = read_atlas(atlas)
    sha256: dict[VisualizationKey, str] = {}
    labels: dict[str, str] = {}
    for layer in manifest["layers"]:
        columns = read_table(atlas, layer["file"], _COLUMNS)
        for neuron, method, seed, label, digest in zip(*(columns[name] for name in _COLUMNS), strict=True):
            sha256[neuron, method, seed] = digest or ""
            labels[neuron] = label or "" if layer["is_classes"] else ""
    return AtlasVisualizations(
        url=atlas.url,
        name=manifest["name"],
        model=manifest["model"]["name"],
        build_id=manifest["build_id"],
        methods=tuple(manifest["methods"]),
        sha256=sha256,
        labels=labels,
    )


def read_answers(visualizations: AtlasVisualizations, source: str) -> AnswerFile:
    """Read and check one file; see `read_study` for the errors."""
    with open_for_reading(source) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"{source}: larger than the {MAX_FILE_BYTES} bytes that an answer file may have")
    return parse_answers(visualizations, data, source)


def parse_answers(visualizations: AtlasVisualizations, data: bytes, source: str) -> AnswerFile:
    """Check the bytes of one file.

    Args:
        visualizations: of the atlas.
        data: at most MAX_FILE_BYTES.
        source: names the file in errors.

    Raises:
        UserError: it is no answer file, damaged, or about another atlas.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{source}: not a JSON file ({type(error).__name__}); give files the study page saved"
        ) from error
    if not isinstance(value, dict) or value.get("schema") != ANSWERS_SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else type(value).__name__
        raise UserError(
            f"{source}: schema {_short(found)}, expected {ANSWERS_SCHEMA!r}; give files the study page saved"
        )
    rater = _text(value, "rater", source, MAX_RATER_LENGTH)
    session = _text(value, "session", source, 64)
    if not _SESSION.fullmatch(session):
        raise UserError(f"{source}: session {_short(session)}, expected hexadecimal digits")
    about = _member(value, "atlas", dict, source)
    names = _text(about, "name", f"{source}: atlas", 512), _text(about, "model", f"{source}: atlas", 512)
    if names != (visualizations.name, visualizations.model):
        raise UserError(
            f"{source}: answers about the atlas {_short(names[0])} of {_short(names[1])}, but {visualizations.url} is "
            f"{visualizations.name!r} of {visualizations.model!r}; give the atlas that was scored"
        )
    given = _member(value, "answers", list, source)
    if len(given) > MAX_ANSWERS:
        raise UserError(f"{source}: {len(given)} answers, at most {MAX_ANSWERS} are read")
    checked = [
        _check_answer(visualizations, rater, one, f"{source}: answer {i}") for i, one in enumerate(given, start=1)
    ]
    return AnswerFile(
        source=source,
        session=session,
        started=_text(value, "started", source, 64),
        build_id=_text(about, "build_id", f"{source}: atlas", 64),
        planned=_member(value, "planned", int, source),
        answers=tuple(answer for answer in checked if answer is not None),
        num_skipped=checked.count(None),
    )


def merge_sessions(files: Iterable[AnswerFile], build_id: str) -> Study:
    """Every session once, every question once per rater; `build_id` is that of the atlas as it is now."""
    study = Study()
    sessions: dict[str, AnswerFile] = {}
    for file in files:
        before = sessions.get(file.session)
        study.num_repeated_files += before is not None
        if before is None or len(file.answers) + file.num_skipped > len(before.answers) + before.num_skipped:
            sessions[file.session] = file
    latest: dict[tuple[str, str, VisualizationKey], HumanAnswer] = {}
    for file in sorted(sessions.values(), key=lambda file: (file.started, file.session)):
        study.num_sessions += 1
        study.num_unfinished += len(file.answers) + file.num_skipped < file.planned
        study.num_skipped += file.num_skipped
        study.num_other_builds += file.build_id != build_id
        for answer in file.answers:
            key = (answer.rater, answer.task, (answer.neuron, answer.method, answer.seed))
            study.num_replaced += key in latest
            latest[key] = answer
    study.answers = list(latest.values())
    return study


def _check_answer(visualizations: AtlasVisualizations, rater: str, value: Any, where: str) -> HumanAnswer | None:
    """One answer; None for a question that was skipped because its visualizations did not come."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: a {type(value).__name__}, expected an object")
    task = _text(value, "task", where, 64)
    if task not in TASKS:
        raise UserError(f"{where}: task {task!r}{nearest(task, TASKS)}, expected one of {', '.join(TASKS)}")
    neuron, method = _text(value, "neuron", where, 512), _text(value, "method", where, 64)
    seed = _member(value, "seed", int, where)
    if neuron not in visualizations.labels:
        hint = nearest(neuron, list(visualizations.labels))
        raise UserError(f"{where}: neuron {_short(neuron)} is not in the atlas {visualizations.url}{hint}")
    shown = _member(value, "shown", dict, where)
    _check_visualizations(visualizations, neuron, method, seed, shown, where)
    seconds = _seconds(value, where)
    if "answer" not in value:
        raise UserError(f"{where}: 'answer' is missing")
    if value["answer"] is None:
        return None
    return HumanAnswer(
        rater=rater,
        task=task,
        neuron=neuron,
        method=method,
        seed=seed,
        answer=_answer(task, neuron, value["answer"], shown, where),
        name=visualizations.labels[neuron],
        seconds=seconds,
    )


def _check_visualizations(
    visualizations: AtlasVisualizations, neuron: str, method: str, seed: int, shown: Mapping[str, Any], where: str
) -> None:
    listed = _member(shown, "visualizations", list, where)
    seeds = [one.get("seed") if isinstance(one, dict) else None for one in listed]
    if not listed or seeds[0] != seed:
        raise UserError(
            f"{where}: shown visualizations of the seeds {_short(seeds)}, expected first that of seed {seed}"
        )
    for one, number in zip(listed, seeds, strict=True):
        known = visualizations.sha256.get((neuron, method, number)) if type(number) is int else None
        if not known:
            raise UserError(
                f"{where}: the atlas has no visualization of {neuron} by {_short(method)} with seed {_short(number)}: "
                f"{visualizations.url}"
            )
        if one.get("sha256") != known:
            raise UserError(
                f"{where}: the visualization of {neuron} by {method}, seed {number}, is not the one that was scored "
                "(sha256 differs); give the atlas as it was then"
            )


def _answer(task: str, neuron: str, answer: Any, shown: Mapping[str, Any], where: str) -> int | str:
    if task == "words":
        if not isinstance(answer, str) or len(answer) > MAX_WORDS_LENGTH:
            raise UserError(f"{where}: words {_short(answer)}, expected text of at most {MAX_WORDS_LENGTH} characters")
        return answer
    choices = RATINGS if task in RATED_TASKS else (1, 2)
    if type(answer) is not int or answer not in choices:
        raise UserError(f"{where}: {_short(answer)}, expected one of {', '.join(map(str, choices))}")
    if task in RATED_TASKS:
        return answer
    dataset_images = _member(shown, "dataset_images", list, where)
    own = [isinstance(one, dict) and one.get("neuron") == neuron for one in dataset_images]
    if len(own) != 2 or sum(own) != 1:
        raise UserError(f"{where}: {sum(own)} of {len(own)} dataset images are the neuron's own, expected 1 of 2")
    return int(own[answer - 1])


def _seconds(value: Mapping[str, Any], where: str) -> float:
    milliseconds = _member(value, "milliseconds", (int, float), where)
    if not 0 <= milliseconds <= MAX_MILLISECONDS:  # NaN, which JSON parsers let through, is refused too
        raise UserError(f"{where}: milliseconds {milliseconds}, expected 0 to {MAX_MILLISECONDS}")
    return milliseconds / 1000


def _text(value: Mapping[str, Any], name: str, where: str, limit: int) -> str:
    text = _member(value, name, str, where)
    if not text or len(text) > limit:
        raise UserError(f"{where}: {name} {_short(text)}, expected 1 to {limit} characters")
    return text


def _member(value: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: str) -> Any:
    member = value.get(name)
    if not isinstance(member, kind) or isinstance(member, bool):
        requested = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        found = type(member).__name__ if name in value else "missing"
        raise UserError(f"{where}: {name!r} is {found}, expected {requested}")
    return member


def _short(value: object) -> str:
    """A value from a file as an error may show it: short, and unable to steer the terminal."""
    return ascii(value)[:120]
