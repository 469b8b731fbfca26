"""The site in a browser: sorting, filters, phones, the dark, no scripts, no requests.

Set DIFFBENCH_SHOTS to a folder to look at the pages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from browser import Browser
from record_factory import run_file, write_run
from site_factory import records

from diffbench.leaderboard import build

PAGES = ("index.html", "organisms/halfswap.html", "methods/diff-sae.html")
ROWS = "#rows tbody tr"
NAMES = f"{ROWS} > th"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.running() as found:
        yield found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build([write_run(folder / "runs" / "demo", records(), run_file("demo"))], folder / "site")
    return folder / "site"


def test_columns_sort_by_number_with_what_is_none_at_the_end(chromium: Browser, site: Path) -> None:
    lift = f"[...document.querySelectorAll('{ROWS}:not([data-pinned])')].map(r => r.cells[1].dataset.value ?? '')"
    pinned = "[...document.querySelectorAll('#rows tbody tr')].map(r => r.hasAttribute('data-pinned'))"
    head = "document.querySelector('#rows thead th:nth-child(2)').getAttribute('aria-sort')"
    with browser.page(chromium) as page:
        page.open(site / "index.html")
        assert page.value(head) is None
        presses = (
            (lambda: page.click("#rows thead th:nth-child(2) button"), "descending"),
            (lambda: page.press("Enter"), "ascending"),
            (lambda: page.press(" "), "descending"),
        )
        for press, order in presses:
            press()
            assert page.value(head) == order
            found = page.value(lift)
            numbers = [float(value) for value in found if value]
            assert numbers == sorted(numbers, reverse=order == "descending") and len(numbers) > 5
            assert "" in found and all(value == "" for value in found[len(numbers) :])
            top = page.value(pinned)
            assert top == sorted(top, reverse=True) and any(top)
        page.click("#rows thead th:nth-child(1) button")
        names = page.value(f"[...document.querySelectorAll('{ROWS}:not([data-pinned]) > th')].map(x => x.textContent)")
        assert names[0].lower() < names[-1].lower()
        assert page.value("document.querySelectorAll('#rows th[aria-sort]').length") == 1
        assert page.complaints() == []


def test_filters_hide_rows_say_how_many_and_are_kept_in_the_address(chromium: Browser, site: Path) -> None:
    with browser.page(chromium) as page:
        page.open(site / "index.html")
        everything = len(page.texts(NAMES))
        page.choose("select[data-filter=family]", "family-0")
        left = page.texts(NAMES)
        assert 0 < len(left) < everything and page.texts("output") == [f"{len(left)} of {everything} rows shown"]
        address = page.value("location.hash")
        assert address == "#family=family-0"
        page.choose("select[data-filter=family]", "")
        assert len(page.texts(NAMES)) == everything and page.value("location.hash") == ""
        page.choose("input[data-search]", "flaky")
        assert any("flaky" in name for name in page.texts(NAMES))
        assert {"oracle", "nothing"} <= set(page.texts(NAMES)), "controls stay"
        assert not any(name.startswith("diff-sae") for name in page.texts(NAMES))
        page.choose("select[data-filter=tier]", "laptop")
        assert page.texts(NAMES) == []
        page.click("button[type=reset]")
        page.value("new Promise(done => setTimeout(done, 50))")
        assert len(page.texts(NAMES)) == everything
        page.open(site / "index.html", address)
        assert (
            page.texts(NAMES) == left
            and page.value("document.querySelector('[data-filter=family]').value") == "family-0"
        )
        page.open(site / "index.html", "#family=nobody&%E0=x&=&q")
        assert len(page.texts(NAMES)) == everything
        for name in ("track", "access", "judge"):
            assert page.value(f"document.querySelector('select[data-filter={name}]').options.length") > 1
        assert page.complaints() == []


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (360, True)])
def test_pages_fit_load_nothing_and_complain_of_nothing(
    chromium: Browser, site: Path, tmp_path: Path, path: str, width: int, dark: bool
) -> None:
    with browser.page(chromium, width=width, dark=dark) as page:
        page.open(site / path)
        assert page.requests() == [(site / path).as_uri()]
        assert page.complaints() == []
        assert page.overflow <= 0, "the page itself scrolls sideways"
        back, ink = page.value("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
        assert (brightness(back) < brightness(ink)) == dark
        folder = Path(os.environ.get("DIFFBENCH_SHOTS", tmp_path))
        shot = page.screenshot(folder / f"{path.replace('/', '-')}-{width}.png")
        assert shot.stat().st_size > 5000


def brightness(colour: str) -> float:
    red, green, blue = (float(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("path", PAGES)
def test_without_scripts_all_is_there_and_what_needs_them_is_not(chromium: Browser, site: Path, path: str) -> None:
    with browser.page(chromium) as page:
        page.open(site / path)
        with_scripts = page.texts(NAMES)
    with browser.page(chromium, scripts=False) as page:
        page.open(site / path)
        assert page.texts(NAMES) == with_scripts
        assert page.texts("form") == [] and page.texts("button") == [] and page.texts("output") == []


def test_a_link_into_something_folded_opens_it(chromium: Browser, site: Path) -> None:
    with browser.page(chromium) as page:
        page.open(site / "organisms" / "halfswap.html")
        assert page.texts("#more caption") == []
        page.open(site / "organisms" / "halfswap.html", "#more")
        assert page.texts("#more caption") == ["More scores of the same rows"]


def test_the_keyboard_reaches_everything(chromium: Browser, site: Path) -> None:
    with browser.page(chromium) as page:
        page.open(site / "index.html")
        seen = []
        for _ in range(14):
            page.press("Tab")
            seen.append(page.value("document.activeElement.className || document.activeElement.tagName"))
        assert seen[0] == "skip" and {"A", "SUMMARY", "scroll"} <= set(seen)
        assert page.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_hostile_names_do_nothing(chromium: Browser, site: Path) -> None:
    [path] = (site / "methods").glob("img-src-x-*.html")
    with browser.page(chromium) as page:
        page.open(path)
        assert page.complaints() == [] and page.requests() == [path.as_uri()]
        assert page.value("document.images.length") == 0
