"""The study page in a real browser: blind, kept through a reload, balanced, by keyboard and on a telephone."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.evaluation.human.answer_files import read_study
from tests.support.synthetic_atlas import CLASS_NAMES, HOSTILE_STRINGS, METHODS, NUM_REFERENCES, build_synthetic_atlas
from tests.viewer.test_browser_access import CONTRAST_SCRIPT
from tests.viewer.waiting import wait_for_address

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.viewer.conftest import Serving, Visit, Visitor

STUDY = "#/study/synthetic"
# Any name of a method, as a word or as part of a file's name; "pixel" alone would also match prose.
METHOD_PATTERN = re.compile("|".join(METHODS), re.IGNORECASE)
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True}


def start(visit: Visit, parameters: str = "", rater: str = "ada") -> Page:
    """Begin a study and wait for its first question."""
    page = visit.open(f"{STUDY}{parameters}")
    page.locator("#study-rater").fill(rater)
    page.get_by_role("button", name=re.compile("^Start")).click()
    wait_for_question(page, 1)
    return page


def wait_for_question(page: Page, number: int) -> None:
    """Wait until a question stands there with its visualizations."""
    page.locator("#study-place", has_text=re.compile(rf"^Question {number} of ")).wait_for()
    page.locator("#study-question").wait_for()


def number_of_questions(page: Page) -> int:
    return int(page.locator("#study-place").inner_text().split()[-1])


def give_answer(page: Page) -> None:
    """Answer the question that stands there, whatever it is, by keyboard alone."""
    if page.locator(".study-words").count():
        page.locator(".study-words input").focus()
        page.keyboard.type("blue waves")
        page.keyboard.press("Enter")
    else:
        page.keyboard.press("2")


def answer_all(page: Page, first: int = 1) -> None:
    total = number_of_questions(page)
    for number in range(first, total + 1):
        wait_for_question(page, number)
        give_answer(page)
    page.get_by_role("heading", name="Thank you").wait_for()


def download(page: Page, folder: Path, button: str = "Download the answers") -> dict[str, Any]:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=button).click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return json.loads(path.read_text(encoding="utf-8"))


def everything_visible(page: Page) -> str:
    """All that the page holds: its markup with every attribute, its address and title."""
    return "\n".join([page.content(), page.url, page.title(), page.evaluate("document.querySelector('title').text")])


def test_a_study_is_answered_by_keyboard_and_its_file_scores(
    visitor: Visitor, serving: Serving, tmp_path: Path
) -> None:
    root = build_synthetic_atlas(str(tmp_path / "atlas"), layers={"conv_stem": (16, 8), "classifier": (1000, 8)})
    base = serving(tmp_path / "atlas")
    page = start(visitor(base), "?items=3&seed=11")
    answer_all(page)
    assert page.locator(".study-metadata dd").nth(1).inner_text() == "11"
    answers = download(page, tmp_path)
    assert answers["schema"] == "human-answers/1"
    assert (answers["rater"], answers["seed"], answers["planned"]) == ("ada", 11, 12)
    assert [answer["task"] for answer in answers["answers"]] == [
        task for task in ("words", "choice", "intermediate", "class") for _ in range(3)
    ]
    by_method = Counter((answer["task"], answer["method"]) for answer in answers["answers"])
    assert sorted(by_method.values()) == [1, 1, 1, 1, 2, 2, 2, 2]  # two methods, three questions per task
    assert all(0 <= answer["milliseconds"] < 60_000 for answer in answers["answers"])
    given = {"words": "blue waves", "choice": 2, "intermediate": 2, "class": 2}
    assert all(answer["answer"] == given[answer["task"]] for answer in answers["answers"])

    study = read_study(root, [str(next(tmp_path.glob("answers-*.json")))])
    assert len(study.answers) == 12
    assert {answer.rater for answer in study.answers} == {"ada"}
    for answer, asked in zip(study.answers, answers["answers"], strict=True):
        if answer.task == "choice":
            assert answer.answer == (asked["shown"]["dataset_images"][1]["neuron"] == answer.neuron)


def test_no_question_tells_the_method(visitor: Visitor, comparison_site: str) -> None:
    visit = visitor(comparison_site)
    page = visit.open("#/study/comparison?items=3&tasks=words,choice,intermediate,class&methods=vital,maco,fourier")
    page.get_by_role("button", name=re.compile("^Start")).click()
    wait_for_question(page, 1)
    for number in range(1, number_of_questions(page) + 1):
        wait_for_question(page, number)
        assert not METHOD_PATTERN.findall(everything_visible(page)), number
        sources = page.eval_on_selector_all("#content img", "images => images.map(image => image.src)")
        assert sources
        assert all(source.startswith("blob:") for source in sources)
        give_answer(page)
    page.get_by_role("heading", name="Thank you").wait_for()


def test_a_reload_in_the_middle_loses_nothing(visit: Visit, tmp_path: Path) -> None:
    page = start(visit, "?items=2&tasks=words,class")
    for number in (1, 2):
        wait_for_question(page, number)
        give_answer(page)
    wait_for_question(page, 3)
    before = download(page, tmp_path, "Download")
    address, question = page.url, page.locator("#study-question").inner_text()
    page.reload()
    wait_for_question(page, 3)
    assert page.url == address
    assert page.locator("#study-question").inner_text() == question
    answer_all(page, first=3)
    after = download(page, tmp_path)
    assert after["answers"][:2] == before["answers"]
    assert len(after["answers"]) == after["planned"] == 4
    assert after["session"] == before["session"]


def test_a_paused_study_is_gone_on_with_or_deleted(visit: Visit) -> None:
    page = start(visit, "?items=3&tasks=class", rater="<b>grace</b>")
    give_answer(page)
    wait_for_question(page, 2)
    page.keyboard.press("Escape")
    saved = page.locator(".study-saved li")
    saved.wait_for()
    assert "<b>grace</b>" in saved.inner_text()
    assert "1 of 3 answered" in saved.inner_text()
    assert page.evaluate("location.hash") == f"{STUDY}?tasks=class&items=3"
    saved.get_by_role("link", name="Go on").click()
    wait_for_question(page, 2)
    page.get_by_role("button", name="Pause").click()
    saved.get_by_role("button", name="Delete").click()
    assert saved.count() == 1  # asks once more
    saved.get_by_role("button", name="Delete for good").click()
    page.locator(".study-saved").wait_for(state="detached")
    visit.open(STUDY)
    assert page.locator(".study-saved").count() == 0


def test_back_takes_the_last_answer_back(visit: Visit, tmp_path: Path) -> None:
    page = start(visit, "?items=2&tasks=class&seed=3")
    assert page.get_by_role("button", name="Back").is_disabled()
    page.keyboard.press("1")
    wait_for_question(page, 2)
    page.get_by_role("button", name="Back").click()
    wait_for_question(page, 1)
    page.keyboard.press("5")
    wait_for_question(page, 2)
    page.locator(".study-scale button").nth(3).click()
    page.get_by_role("heading", name="Thank you").wait_for()
    assert [answer["answer"] for answer in download(page, tmp_path)["answers"]] == [5, 4]


def test_keys_answer_once_and_only_what_is_asked(visit: Visit) -> None:
    page = start(visit, "?items=3&tasks=choice")
    page.keyboard.press("3")  # there are two dataset images
    page.keyboard.press("x")
    wait_for_question(page, 1)
    page.keyboard.down("1")
    wait_for_question(page, 2)
    page.keyboard.down("1")  # a key held down repeats
    page.keyboard.up("1")
    wait_for_question(page, 2)
    assert page.evaluate("document.activeElement.id") == "study-question"


def test_words_are_asked_for_and_nothing_recognized_is_an_answer(visit: Visit, tmp_path: Path) -> None:
    page = start(visit, "?items=2&tasks=words")
    assert page.evaluate("document.activeElement.matches('.study-words input')")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Next").click()
    wait_for_question(page, 1)  # empty is no answer by mistake
    page.get_by_role("button", name="I recognize nothing").click()
    wait_for_question(page, 2)
    page.locator(".study-words input").fill("<img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Next").click()
    answers = download(page, tmp_path)["answers"]
    assert [answer["answer"] for answer in answers] == ["", "<img src=x onerror=alert(1)>"]


def test_hostile_class_names_are_text(visit: Visit) -> None:
    units = [CLASS_NAMES.index(HOSTILE_STRINGS[0]), CLASS_NAMES.index(HOSTILE_STRINGS[7])]
    neurons = ",".join(f"classifier:{unit}" for unit in units)
    page = start(visit, f"?tasks=class&methods=vital&n={neurons}")
    names = []
    for number in (1, 2):
        wait_for_question(page, number)
        names.append(page.locator("#study-question bdi").text_content())
        assert page.locator("#content script, #content img[src=x], #study-question b").count() == 0
        page.keyboard.press("1")
    assert set(names) == {HOSTILE_STRINGS[0], HOSTILE_STRINGS[7]}


def test_intermediate_questions_show_all_dataset_images_with_their_parts(visit: Visit) -> None:
    page = start(visit, "?tasks=intermediate&items=1")
    assert page.locator(".study-dataset img").count() == NUM_REFERENCES
    assert page.locator(".study-dataset .top-image-box").count() == NUM_REFERENCES
    ranks = page.eval_on_selector_all(".study-dataset img", "images => images.map(image => image.style.left)")
    assert ranks == [f"{-100 * rank}%" if rank else "0%" for rank in range(NUM_REFERENCES)]


def test_without_dataset_images_their_tasks_say_so_and_are_left_out(
    visitor: Visitor, serving: Serving, tmp_path: Path
) -> None:
    build_synthetic_atlas(
        str(tmp_path), publish_examples="none", layers={"conv_stem": (16, 4), "classifier": (1000, 4)}
    )
    base = serving(tmp_path)
    page = visitor(base).open(STUDY)
    settings = page.locator(".study-settings").inner_text()
    assert settings.count("left out, this atlas does not publish its dataset images") == 2
    assert page.locator("[data-keep=task-intermediate]").is_disabled()
    assert page.locator(".study-asked li").count() == 2


def test_settings_stand_in_the_address_and_the_copied_link_is_without_the_name(visitor: Visitor, site: str) -> None:
    visit = visitor(site, permissions=["clipboard-read", "clipboard-write"])
    page = visit.open(STUDY)
    page.locator("#study-rater").fill("ada")
    page.locator("[data-keep=task-words]").uncheck()
    wait_for_address(page, "location.hash.includes('tasks=')")
    page.locator("[data-keep=method-maco]").uncheck()
    wait_for_address(page, "location.hash.includes('methods=vital')")
    page.locator("#study-items").fill("2")
    page.locator("#study-items").press("Enter")
    wait_for_address(page, "location.hash.includes('items=2')")
    page.locator("#study-layer").select_option("classifier")
    wait_for_address(page, "location.hash.includes('layer=classifier')")
    page.get_by_role("button", name="Start: 4 questions").wait_for()  # two of choice, two of class
    assert page.locator("#study-rater").input_value() == "ada"
    page.get_by_role("button", name="Copy a link to this study").click()
    page.get_by_role("button", name="Copied").wait_for()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.endswith("#/study/synthetic?layer=classifier&tasks=choice%2Cintermediate%2Cclass&methods=vital&items=2")


def test_settings_changed_one_right_after_the_other_all_stay(visit: Visit) -> None:
    page = visit.open(STUDY)
    page.evaluate(
        """() => {  // in one go, before the page follows the first
             const change = (id, value) => {
               const field = document.getElementById(id)
               field.value = value
               field.dispatchEvent(new Event('change', { bubbles: true }))
             }
             change('study-items', '2')
             change('study-layer', 'classifier')
             change('study-seed', '7')
           }"""
    )
    page.wait_for_function("() => document.getElementById('study-seed').value === '7'")
    address = page.evaluate("location.hash")
    assert all(part in address for part in ("layer=classifier", "items=2", "seed=7")), address


def test_named_neurons_alone_are_asked_about_and_unknown_ones_are_named(visit: Visit) -> None:
    page = visit.open(f"{STUDY}?n=classifier:1,classifier:2,conv_stem:99&tasks=class")
    assert page.locator(".study-button").inner_text() == "Start: 4 questions"
    page.locator(".study-settings summary").click()
    assert page.get_by_text("This atlas has no conv_stem:99.").is_visible()


def test_a_visualization_that_is_missing_can_be_skipped_and_names_no_file(visit: Visit, tmp_path: Path) -> None:
    visit.expected_messages.append("Failed to load resource.*404")
    visit.page.route("**/images/**", lambda route: route.fulfill(status=404))
    page = visit.open(f"{STUDY}?items=1&tasks=class")
    page.get_by_role("button", name=re.compile("^Start")).click()
    page.get_by_text("An image of this question could not be loaded").wait_for()
    assert not METHOD_PATTERN.findall(everything_visible(page))
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    wait_for_question(page, 1)
    page.route("**/images/**", lambda route: route.fulfill(status=404))
    page.reload()
    page.get_by_role("button", name="Skip this question").click()
    assert [answer["answer"] for answer in download(page, tmp_path)["answers"]] == [None]


def test_a_browser_that_keeps_nothing_says_so_and_still_works(visitor: Visitor, site: str, tmp_path: Path) -> None:
    visit = visitor(site)
    visit.page.add_init_script("Storage.prototype.setItem = () => { throw new Error('full') }")
    page = start(visit, "?items=2&tasks=class")
    page.keyboard.press("4")
    wait_for_question(page, 2)
    assert "keeps no answers" in page.locator(".notice").inner_text()
    page.keyboard.press("4")
    assert len(download(page, tmp_path)["answers"]) == 2


def test_answers_given_in_another_tab_are_not_overwritten(visitor: Visitor, site: str, tmp_path: Path) -> None:
    visit = visitor(site)
    page = start(visit, "?items=4&tasks=class")
    other = page.context.new_page()
    other.goto(page.url)
    wait_for_question(other, 1)
    other.keyboard.press("5")
    wait_for_question(other, 2)
    page.bring_to_front()
    page.keyboard.press("1")  # stale: this question was answered in the other tab
    wait_for_question(page, 2)
    page.keyboard.press("3")
    wait_for_question(page, 3)
    assert [answer["answer"] for answer in download(page, tmp_path, "Download")["answers"]] == [5, 3]


def test_an_address_without_answers_leads_to_the_start(visit: Visit) -> None:
    page = visit.open(f"{STUDY}/0123456789abcdef")
    assert "no unfinished answers under that address" in page.locator(".notice").inner_text()
    assert page.locator(".study-button").is_visible()


def test_the_about_page_and_the_comparison_lead_to_it(visit: Visit) -> None:
    page = visit.open("#/about?atlas=synthetic")
    page.get_by_role("link", name="A study").click()
    page.get_by_role("heading", name="Rate the visualizations").wait_for()
    visit.open("#/compare/synthetic?n=classifier:1")
    page.get_by_role("link", name="Rate them blind").click()
    page.locator(".study-button", has_text="Start").wait_for()
    assert page.evaluate("location.hash") == f"{STUDY}?n=classifier%3A1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_and_controls_have_names(visitor: Visitor, site: str, scheme: str) -> None:
    page = visitor(site, color_scheme=scheme).open(f"{STUDY}?items=1")
    page.locator(".study-settings summary").click()
    check_access(page)
    page.locator("#study-rater").fill("ada")
    page.get_by_role("button", name="Start: 4 questions").click()
    for number in range(1, 5):
        wait_for_question(page, number)
        check_access(page)
        give_answer(page)
    page.get_by_role("heading", name="Thank you").wait_for()
    check_access(page)


def check_access(page: Page) -> None:
    """Contrast, names of images and controls, one heading."""
    assert page.evaluate(CONTRAST_SCRIPT) == []
    assert page.locator("img:not([alt])").count() == 0
    unnamed = page.eval_on_selector_all(
        "button, a[href], input, select, progress",
        "controls => controls.filter(c => !(c.getAttribute('aria-label') || c.textContent.trim() || c.labels?.length"
        " || c.getAttribute('aria-labelledby') || c.querySelector('img')?.alt)).map(c => c.outerHTML)",
    )
    assert unnamed == []
    assert page.locator("h1").count() == 1


def test_a_telephone_shows_whole_questions_with_large_targets(visitor: Visitor, site: str) -> None:
    page = start(visitor(site, **PHONE), "?items=1")
    for number in range(1, 5):  # one of each task
        wait_for_question(page, number)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        targets = page.locator("#content button, #content input")
        boxes = targets.evaluate_all("targets => targets.map(t => t.getBoundingClientRect().toJSON())")
        assert all(box["height"] >= 43.5 and box["width"] >= 43.5 for box in boxes)
        assert max(box["bottom"] for box in boxes) <= 740, number  # visualizations and answers in sight together
        assert max(box["right"] for box in boxes) <= 360
        give_answer(page)
