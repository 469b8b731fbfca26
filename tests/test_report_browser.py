"""The report in a browser: it opens, sorts, fits a phone, is whole without scripts, and asks for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, page, running
from report_factory import HOSTILE, write_report_run

from diffbench.report import read_report
from diffbench.report_page import page as report_page

TABLE = "#p1-scores"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_report_run(tmp_path_factory.mktemp("runs") / "demo")
    path = folder / "report.html"
    path.write_text(report_page(read_report(folder)), encoding="utf-8")
    return path


def test_a_finding_opens_by_mouse_and_by_key_and_nothing_is_asked_for(browser: Browser, report: Path) -> None:
    with page(browser) as seen:
        seen.open(report)
        assert not seen.texts("#p1-m2-f1 .txt"), "folded at first"
        seen.click("#p1-m2 > summary")
        seen.value("document.querySelector('#p1-m2-f1 > summary').focus()")
        seen.press("Enter")
        assert "the hat of anna is green ." in seen.texts("#p1-m2-f1 .txt")
        assert seen.value("getComputedStyle(document.querySelector('#p1-m2-f1 .h9')).backgroundColor") != (
            "rgba(0, 0, 0, 0)"
        )
        assert seen.complaints() == [] and seen.requests() == [report.as_uri()] and seen.overflow == 0


def test_a_link_to_a_finding_unfolds_it(browser: Browser, report: Path) -> None:
    with page(browser) as seen:
        seen.open(report, "#p1-m2-f2")
        assert seen.texts("#p1-m2-f2 .txt")


def test_tables_are_sorted_and_controls_stay_on_top(browser: Browser, report: Path) -> None:
    with page(browser) as seen:
        seen.open(report)
        rows = f"{TABLE} tbody th"
        before = seen.texts(rows)
        seen.click(f"{TABLE} thead th:nth-child(1) button")
        after = seen.texts(rows)
        assert after[:2] == before[:2] == ["PCA at the same k", "nothing"]
        assert after[2:] == sorted(before[2:]) != before[2:]
        seen.click(f"{TABLE} thead th:nth-child(2) button")
        assert seen.texts(rows)[2] == "diff-sae", "the highest lift first"
        assert seen.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_with_everything_open(browser: Browser, report: Path, tmp_path: Path, dark: bool) -> None:
    with page(browser, width=360, dark=dark) as seen:
        seen.open(report)
        seen.value("document.querySelectorAll('details').forEach(x => { x.open = true })")
        assert seen.overflow == 0
        assert seen.screenshot(tmp_path / "phone.png").stat().st_size > 5000
        back = seen.value("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, back[4:-1].split(","))) < 200) == dark


def test_without_scripts_everything_is_there(browser: Browser, report: Path) -> None:
    with page(browser, scripts=False) as seen:
        seen.open(report)
        assert len(seen.texts(f"{TABLE} tbody tr")) == 8
        assert not seen.texts("th button")
        seen.click("#p1-m2 > summary")
        seen.click("#p1-m2-f1 > summary")
        assert seen.texts("#p1-m2-f1 .txt"), "details need no script"


def test_a_hostile_run_runs_nothing(browser: Browser, tmp_path: Path) -> None:
    folder = write_report_run(tmp_path / "run", word=HOSTILE[:90])
    path = tmp_path / "report.html"
    path.write_text(report_page(read_report(folder)), encoding="utf-8")
    with page(browser) as seen:
        seen.open(path)
        assert seen.value("document.images.length + document.scripts.length") == 1
        assert seen.complaints() == [] and seen.requests() == [path.as_uri()]
