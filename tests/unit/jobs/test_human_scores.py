"""Answer files of human studies: checked against their atlas, merged, and scored by `neuron-atlas human-scores`."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from pipeline.evaluation.human.answer_files import (
    MAX_FILE_BYTES,
    AtlasVisualizations,
    parse_answers,
    read_study,
    read_visualizations,
)
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from tests.support.synthetic_atlas import CLASS_NAMES, MODEL_NAME, build_synthetic_atlas

Document = dict[str, Any]


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Root:
    layers = {"conv_stem": (16, 3), "classifier": (1000, 3)}
    return build_synthetic_atlas(str(tmp_path_factory.mktemp("atlas")), layers=layers)


@pytest.fixture(scope="module")
def visualizations(atlas: Root) -> AtlasVisualizations:
    return read_visualizations(atlas)


def neuron(unit: int, layer: str = "classifier") -> str:
    return f"{MODEL_NAME}/{layer}/{unit}"


def one_answer(
    visualizations: AtlasVisualizations, task: str, value: object, *, unit: int = 0, method: str = "vital"
) -> Document:
    about = neuron(unit, "conv_stem" if task == "intermediate" else "classifier")
    dataset_images = [{"neuron": about, "rank": 1}, {"neuron": neuron(2), "rank": 0}] if task == "choice" else []
    return {
        "task": task,
        "neuron": about,
        "method": method,
        "seed": 0,
        "shown": {
            "label": "",
            "visualizations": [{"seed": 0, "sha256": visualizations.sha256[about, method, 0]}],
            "dataset_images": dataset_images,
        },
        "answer": value,
        "milliseconds": 1500,
    }


def document(
    visualizations: AtlasVisualizations, *answers: Document, rater: str = "ada", session: str = "0a" * 8
) -> Document:
    return {
        "schema": "human-answers/1",
        "session": session,
        "rater": rater,
        "atlas": {"name": visualizations.name, "model": visualizations.model, "build_id": visualizations.build_id},
        "seed": 7,
        "started": "2026-01-02T03:04:05.000Z",
        "settings": {},
        "planned": 4,
        "answers": list(answers),
    }


def four_tasks(visualizations: AtlasVisualizations, **options: Any) -> Document:
    answers = [
        one_answer(visualizations, "words", "red waves"),
        one_answer(visualizations, "choice", 1),
        one_answer(visualizations, "intermediate", 4),
        one_answer(visualizations, "class", 2, method="maco"),
    ]
    return document(visualizations, *answers, **options)


def write(folder: Path, name: str, value: object) -> str:
    path = folder / name
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


def parse(visualizations: AtlasVisualizations, value: object) -> Any:
    return parse_answers(visualizations, json.dumps(value).encode(), "answers.json")


def test_answers_become_records_with_the_names_of_the_atlas(visualizations: AtlasVisualizations) -> None:
    file = parse(visualizations, four_tasks(visualizations))
    assert [(a.task, a.method, a.answer, a.seconds) for a in file.answers] == [
        ("words", "vital", "red waves", 1.5),
        ("choice", "vital", 1, 1.5),
        ("intermediate", "vital", 4, 1.5),
        ("class", "maco", 2, 1.5),
    ]
    assert [a.name for a in file.answers] == [CLASS_NAMES[0], CLASS_NAMES[0], "", CLASS_NAMES[0]]


@pytest.mark.parametrize(("own_place", "chosen", "right"), [(0, 1, 1), (0, 2, 0), (1, 1, 0), (1, 2, 1)])
def test_a_choice_is_right_if_the_neurons_own_dataset_image_was_chosen(
    visualizations: AtlasVisualizations, own_place: int, chosen: int, right: int
) -> None:
    value = one_answer(visualizations, "choice", chosen)
    if own_place:
        value["shown"]["dataset_images"].reverse()
    assert parse(visualizations, document(visualizations, value)).answers[0].answer == right


def change(path: str, value: object) -> Callable[[Document], None]:
    """Sets what is at a path such as "answers.0.task"; `...` removes it."""

    def apply(whole: Document) -> None:
        *parents, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
        place: Any = whole
        for part in parents:
            place = place[part]
        if value is ...:
            del place[last]
        else:
            place[last] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", "human-answers/2", r"schema 'human-answers/2', expected 'human-answers/1'"),
        ("session", "../../etc", "session '../../etc', expected hexadecimal digits"),
        ("session", ..., "'session' is missing, expected str"),
        ("rater", "", "rater '', expected 1 to 80 characters"),
        ("rater", "x" * 81, "rater 'xxx.*, expected 1 to 80 characters"),
        ("atlas", [], "'atlas' is list, expected dict"),
        ("atlas.name", "another", r"about the atlas 'another'.*but .* is 'synthetic'.*give the atlas that was scored"),
        ("atlas.model", "timm:resnet18", "of 'timm:resnet18', but"),
        ("planned", True, "'planned' is bool, expected int"),
        ("answers", {}, "'answers' is dict, expected list"),
        ("answers", [{}] * 10_001, "10001 answers, at most 10000"),
        ("answers.1", 5, "answer 2: a int, expected an object"),
        ("answers.0.task", "word", r"answer 1: task 'word'.*words.*expected one of class, intermediate, choice, words"),
        ("answers.3.neuron", f"{MODEL_NAME}/classifier/99", "answer 4: neuron '.*/classifier/99' is not in the atlas"),
        ("answers.0.neuron", "\x1b[2J", r"neuron '\\x1b\[2J' is not in the atlas"),
        ("answers.0.method", "fourier", "no visualization of .* by 'fourier' with seed 0"),
        ("answers.0.seed", 1.5, "'seed' is float, expected int"),
        ("answers.0.seed", 1, r"shown visualizations of the seeds \[0\], expected first that of seed 1"),
        ("answers.0.shown.visualizations", [], r"shown visualizations of the seeds \[\]"),
        ("answers.0.shown.visualizations.0.sha256", "00", "is not the one that was scored"),
        ("answers.0.shown.visualizations.0.sha256", ..., "is not the one that was scored"),
        ("answers.0.answer", ..., "answer 1: 'answer' is missing"),
        ("answers.0.answer", 3, "words 3, expected text of at most 200"),
        ("answers.0.answer", "x" * 201, "expected text of at most 200 characters"),
        ("answers.1.answer", 3, "answer 2: 3, expected one of 1, 2"),
        ("answers.1.shown.dataset_images", [], "0 of 0 dataset images are the neuron's own, expected 1 of 2"),
        ("answers.2.answer", 6, "answer 3: 6, expected one of 1, 2, 3, 4, 5"),
        ("answers.2.answer", True, "True, expected one of"),
        ("answers.2.answer", "4", "'4', expected one of"),
        ("answers.2.milliseconds", -1, "milliseconds -1, expected 0 to"),
        ("answers.2.milliseconds", float("nan"), "milliseconds nan"),
        ("answers.2.milliseconds", "fast", "'milliseconds' is str, expected int or float"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    visualizations: AtlasVisualizations, path: str, value: object, message: str
) -> None:
    whole = copy.deepcopy(four_tasks(visualizations))
    change(path, value)(whole)
    with pytest.raises(ValueError, match=f"^answers.json.*{message}"):
        parse(visualizations, whole)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b'"text"', b"null"])
def test_what_is_no_answer_file_is_refused(visualizations: AtlasVisualizations, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"answers\.json: .*give files the study page saved"):
        parse_answers(visualizations, data, "answers.json")


def test_a_file_that_is_too_large_is_not_parsed(atlas: Root, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_bytes(b" " * (MAX_FILE_BYTES + 1))
    with pytest.raises(ValueError, match=f"larger than the {MAX_FILE_BYTES} bytes"):
        read_study(atlas, [str(path)])


def test_a_session_in_several_files_counts_once_with_most_answers(
    atlas: Root, visualizations: AtlasVisualizations, tmp_path: Path
) -> None:
    whole = four_tasks(visualizations)
    paused = {**whole, "answers": whole["answers"][:2]}
    files = [write(tmp_path, f"{i}.json", value) for i, value in enumerate((paused, whole, whole))]
    study = read_study(atlas, files)
    assert (len(study.answers), study.num_sessions, study.num_repeated_files, study.num_unfinished) == (4, 1, 2, 0)
    study = read_study(atlas, files[:1])
    assert (len(study.answers), study.num_unfinished) == (2, 1)


def test_a_question_answered_again_later_counts_once_as_it_was_last(
    atlas: Root, visualizations: AtlasVisualizations, tmp_path: Path
) -> None:
    first = document(visualizations, one_answer(visualizations, "class", 1))
    later = document(visualizations, one_answer(visualizations, "class", 5), session="0b" * 8)
    later["started"] = "2026-02-02T03:04:05.000Z"
    other = document(visualizations, one_answer(visualizations, "class", 3), session="0c" * 8, rater="bob")
    study = read_study(atlas, [write(tmp_path, f"{i}.json", one) for i, one in enumerate((later, first, other))])
    assert sorted((answer.rater, answer.answer) for answer in study.answers) == [("ada", 5), ("bob", 3)]
    assert (study.num_sessions, study.num_replaced) == (3, 1)


def test_skipped_questions_and_other_builds_are_counted(
    atlas: Root, visualizations: AtlasVisualizations, tmp_path: Path
) -> None:
    whole = document(
        visualizations, one_answer(visualizations, "class", None), one_answer(visualizations, "class", 4, unit=1)
    )
    whole["atlas"]["build_id"] = "f" * 16  # the same visualizations: their hashes are what counts
    study = read_study(atlas, [write(tmp_path, "answers.json", whole)])
    assert (len(study.answers), study.num_skipped, study.num_other_builds) == (1, 1, 1)


def test_the_command_prints_and_writes_the_scores(
    atlas: Root, visualizations: AtlasVisualizations, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "<script>alert(1)</script>|"
    files = [
        write(tmp_path, "ada.json", four_tasks(visualizations)),
        write(tmp_path, "bob.json", four_tasks(visualizations, rater=hostile, session="0b" * 8)),
    ]
    assert main(["human-scores", atlas.url, *files]) == 0
    printed = capsys.readouterr().out
    text = (tmp_path / "human.md").read_text(encoding="utf-8")
    assert printed == f"{text}\n"
    assert r"# Human study: Synthetic \<em\>atlas\</em\> & co." in text
    assert "| maco | 2.00 (2.00–2.00) | 2.00 (2.00–2.00) | – | 1.50 (1.50–1.50) | 2.0 | 2 | 2 | 1 |" in text
    assert "| vital | 1.00 (0.34–1.00) | 1.50 (1.50–1.50) | 2 | 2 | 1 |" in text
    assert hostile not in text
    assert "red waves" not in text

    rows = {(row["task"], row["method"], row["metric"]): row for row in read_rows(Root.open(tmp_path), "human.parquet")}
    assert rows["class", "maco", "median"]["value"] == 2.0
    assert rows["class", "", "agreement"]["value"] is None  # two equal ratings tell nothing
    assert rows["words", "vital", "rater_similarity"]["value"] == 1.0
    assert rows["choice", "vital", "accuracy"]["num_answers"] == 2


def test_the_command_writes_where_it_is_told_and_fails_with_a_message(
    atlas: Root, visualizations: AtlasVisualizations, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, "ada.json", four_tasks(visualizations))
    assert main(["human-scores", atlas.url, file, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "human.parquet").exists()
    assert not (tmp_path / "human.parquet").exists()
    capsys.readouterr()

    for arguments, message in (
        ([atlas.url, write(tmp_path, "empty.json", document(visualizations))], "no answers in it; nothing to score"),
        ([atlas.url, str(tmp_path / "missing.json")], "missing.json"),
        ([str(tmp_path), file], "no atlas.json; build the atlas first"),
    ):
        assert main(["human-scores", *arguments]) == 1
        assert message in capsys.readouterr().err
