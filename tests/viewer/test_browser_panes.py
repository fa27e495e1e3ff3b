"""Two models or two neurons side by side in a real browser: panes that scroll together, kept in the address."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.atlas.site.site import write_site
from tests.support.synthetic_atlas import METHODS, build_synthetic_atlas

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.viewer.conftest import Serving, Visit, Visitor


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory, serving: Serving) -> str:
    """A site of two atlases: `many` has five methods of most units, `few` one method of fewer units."""
    folder = tmp_path_factory.mktemp("models")
    layers = {"conv_stem": (16, 9), "classifier": (1000, 4)}
    atlases = [
        build_synthetic_atlas(str(folder / "many"), name="many", layers=layers, methods=METHODS, seeds=1),
        build_synthetic_atlas(
            str(folder / "few"), name="few", layers=layers | {"conv_stem": (16, 8)}, methods=("vital",), seeds=1
        ),
    ]
    write_site(folder / "site", atlases)
    return serving(folder / "site")


def panes(page: Page) -> list[list[str]]:
    """The neurons of the two panes, from top to bottom."""
    page.locator(".compare-pane").nth(1).wait_for()
    return [
        page.locator(".compare-pane")
        .nth(side)
        .locator(".pane-neuron")
        .evaluate_all("neurons => neurons.map(neuron => neuron.dataset.neuron)")
        for side in (0, 1)
    ]


def tops(page: Page, neuron: str) -> list[float]:
    """How far below the top of its pane a neuron stands, in each pane."""
    return page.evaluate(
        """neuron => [...document.querySelectorAll('.compare-pane')].map(pane =>
             pane.querySelector(`[data-neuron="${neuron}"]`).getBoundingClientRect().top -
             pane.getBoundingClientRect().top)""",
        neuron,
    )


def test_two_models_stand_side_by_side_and_scroll_together(visitor: Visitor, two_models: str) -> None:
    visit = visitor(two_models)
    page = visit.open("#/atlas/many/conv_stem/0")
    page.get_by_role("link", name="Compare models").click()
    assert panes(page) == [["conv_stem:0"], ["conv_stem:0"]]
    assert page.evaluate("location.hash") == "#/compare/many?n=conv_stem%3A0&with=few"
    page = visit.open("#/compare/many?with=few")
    left, right = panes(page)
    assert left[:2] == ["conv_stem:0", "conv_stem:1"]
    assert right == [name if name != "conv_stem:8" else "" for name in left]
    assert "no unit that matches conv_stem:8" in page.locator(".compare-pane").nth(1).inner_text()
    link = page.locator(".compare-pane").nth(1).locator(".compare-link").first
    assert link.get_attribute("href") == "#/atlas/few/conv_stem/0?show=vital%3A0"

    first, second = (page.locator(".compare-pane").nth(side) for side in (0, 1))
    first.evaluate("pane => pane.querySelector('[data-neuron=\"conv_stem:3\"]').scrollIntoView()")
    page.wait_for_function("() => document.querySelectorAll('.compare-pane')[1].scrollTop > 0")
    here, there = tops(page, "conv_stem:3")
    assert here == pytest.approx(there, abs=60)  # the names above them differ by a line
    before = first.evaluate("pane => pane.scrollTop")
    second.focus()
    page.keyboard.press("Home")  # by keyboard, in the other pane
    page.wait_for_function("() => document.querySelectorAll('.compare-pane')[0].scrollTop === 0")
    assert before > 0
    second.hover()
    page.mouse.wheel(0, 400)
    page.wait_for_function("() => document.querySelectorAll('.compare-pane')[0].scrollTop > 0")


def test_the_second_of_a_pair_is_chosen_and_stays_in_the_address(visitor: Visitor, two_models: str) -> None:
    visit = visitor(two_models)
    page = visit.open("#/compare/many?n=conv_stem:8,classifier:1&with=few")
    assert panes(page) == [["conv_stem:8", "classifier:1"], ["", "classifier:1"]]
    box = page.get_by_label("compare with conv_stem:8").first
    box.fill("nothing:1")
    box.press("Enter")
    page.get_by_text("has no neuron “nothing:1”").wait_for()
    box.fill("conv_stem:2")
    box.press("Enter")
    page.locator('.pane-neuron[data-neuron="conv_stem:2"]').wait_for()
    assert "&m=conv_stem%3A2" in page.evaluate("location.hash")
    assert panes(page) == [["conv_stem:8", "classifier:1"], ["conv_stem:2", "classifier:1"]]
    page.reload()
    assert panes(page)[1] == ["conv_stem:2", "classifier:1"]
    page.get_by_label("Side by side with").select_option("another neuron of this atlas")
    page.get_by_role("heading", name="Compare neurons").wait_for()
    assert panes(page)[1] == ["", ""]
    visit.open("#/compare/many?n=conv_stem:0&with=gone")
    assert "This site has no atlas “gone”" in page.locator(".compare-page").inner_text()


def test_two_neurons_of_one_atlas_get_a_pane_each(comparison: Visit) -> None:
    page = comparison.open("#/compare/comparison?n=conv_stem:0,classifier:1")
    page.get_by_label("Side by side with").select_option("another neuron of this atlas")
    page.get_by_role("heading", name="Compare neurons").wait_for()
    assert panes(page) == [["conv_stem:0"], ["classifier:1"]]


@pytest.mark.parametrize("width", [390, 1280])
def test_panes_fit_the_window(visitor: Visitor, two_models: str, width: int) -> None:
    visit = visitor(two_models, viewport={"width": width, "height": 800})
    page = visit.open("#/compare/many?n=conv_stem:0,classifier:1&with=few")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    left, right = (page.locator(".compare-pane").nth(side).bounding_box() for side in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    for side in (0, 1):
        overflow = page.locator(".compare-pane").nth(side).evaluate("pane => pane.scrollWidth - pane.clientWidth")
        assert overflow == 0
