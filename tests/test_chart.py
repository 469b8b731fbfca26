"""Pictures: what they draw, what they say in words, and that no text becomes markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from markupsafe import Markup

from diffbench.chart import DASHES, MARK, SERIES, Axis, Bar, Point, Series, forest, histogram, lines, numbers, scatter

BAD = '</title><script>alert(1)</script>"&\u202e'
TWO = (Point(0, 0.1, 0.0, 0.2), Point(4, 0.5, 0.4, 0.7))


def svg(markup: Markup) -> ElementTree.Element:
    """The first picture, which is well-formed."""
    found = re.search(r"<svg.*?</svg>", markup, re.DOTALL)
    assert found
    return ElementTree.fromstring(found.group())


def texts(root: ElementTree.Element) -> list[str]:
    return ["".join(part.itertext()) for part in root.iter("text")]


def test_a_picture_has_a_role_a_title_and_a_description() -> None:
    for found in (
        lines("Name", "What it shows.", [Series("a", TWO)], Axis("x"), Axis("y")),
        forest("Name", "What it shows.", [Bar("a", 0.1, 0.0, 0.2)], "lift"),
        histogram("Name", "What it shows.", -1.0, 2.0, [1, 4, 0]),
        scatter("Name", "What it shows.", TWO, Axis("x"), Axis("y"), TWO[:1]),
    ):
        root = svg(found)
        assert root.get("role") == "img"
        assert root.find("title").text == "Name"  # type: ignore[union-attr]
        assert root.find("desc").text.startswith("What it shows.")  # type: ignore[union-attr]
        assert isinstance(found, Markup)
        assert "#" not in found, "a colour of its own"


def test_texts_are_escaped_wherever_they_stand() -> None:
    bars = [Bar(BAD, None, note=BAD), Bar(BAD, 1.0, 0.5, 2.0, BAD)]
    for found in (
        lines(BAD, BAD, [Series(BAD, TWO)], Axis(BAD), Axis(BAD)),
        lines(BAD, BAD, [], Axis(BAD), Axis(BAD)),
        forest(BAD, BAD, bars, BAD, zero=BAD),
        histogram(BAD, BAD, 0, 1, [1]),
        scatter(BAD, BAD, TWO, Axis(BAD), Axis(BAD)),
        numbers([BAD], [[BAD]], BAD),
    ):
        assert "<script" not in found and "\u202e" not in found
    root = svg(lines(BAD, BAD, [Series(BAD, TWO)], Axis("x"), Axis("y")))
    assert root.find("title").text == BAD.replace("\u202e", "")  # type: ignore[union-attr]


def test_series_differ_by_dash_and_by_marker() -> None:
    assert len(set(DASHES)) == SERIES
    found = lines("n", "t", [Series(str(n), TWO, n) for n in range(SERIES)], Axis("x"), Axis("y"))
    root = svg(found)
    drawn = [path for path in root.iter("path") if "ln" in (path.get("class") or "")]
    assert len({path.get("stroke-dasharray") for path in drawn}) == SERIES
    markers = [path.get("d", "") for path in root.iter("path") if "pt" in (path.get("class") or "")]
    shapes = {re.sub(r"^M[\d.]+ [\d.]+", "", shape) for shape in markers}
    assert len(shapes) == SERIES - 1, "one style has no marker"
    assert found.count("<li>") == SERIES, "and a legend names them"


def test_log_axes_have_a_place_for_zero_and_values_outside_stand_at_the_edge() -> None:
    points = (Point(0, 0.0), Point(1, 0.5), Point(3, -7.0))
    root = svg(lines("n", "t", [Series("a", points)], Axis("k", 0, 3, log2=True), Axis("R", -1, 1)))
    [path] = [path.get("d") for path in root.iter("path") if "ln" in (path.get("class") or "")]
    numbers_in = [tuple(map(float, pair.split())) for pair in path[1:].split("L")]  # type: ignore[index]
    (x0, y0), (x1, y1), (x3, y3) = numbers_in
    assert x1 - x0 == pytest.approx((x3 - x0) / 2, abs=0.2), "log2(1 + 1) is half of log2(1 + 3)"
    bottom = 270 - 38
    assert y3 == bottom and y1 < y0 < bottom


def test_bands_need_two_intervals() -> None:
    one = lines("n", "t", [Series("a", (TWO[0], Point(4, 0.5)))], Axis("x"), Axis("y"))
    assert "band" not in one and "band" in lines("n", "t", [Series("a", TWO)], Axis("x"), Axis("y"))


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-9, 1e12])
def test_equal_values_make_a_picture(value: float) -> None:
    points = (Point(1.0, value), Point(1.0, value))
    svg(lines("n", "t", [Series("a", points)], Axis("x"), Axis("y")))
    svg(scatter("n", "t", points, Axis("x"), Axis("y")))
    svg(forest("n", "t", [Bar("a", value)], "x"))


@pytest.mark.parametrize("ends", [(-1e308, 1e308), (-1.7e308, 0.0), (1.7e308, 1.7e308), (-5e-324, 5e-324)])
def test_huge_and_tiny_values_make_a_picture(ends: tuple[float, float]) -> None:
    low, high = ends
    points = (Point(low, low, low, high), Point(high, high, low, high))
    for found in (
        lines("n", "t", [Series("a", points)], Axis("x"), Axis("y")),
        scatter("n", "t", points, Axis("x"), Axis("y")),
        forest("n", "t", [Bar("a", high, low, high)], "x"),
        histogram("n", "t", low, high, [1, 2]),
    ):
        svg(found)
        assert "nan" not in found and "inf" not in found


def test_points_beyond_the_scale_are_hollow_and_at_its_edge() -> None:
    root = svg(scatter("n", "t", TWO, Axis("x", 0, 1), Axis("y", 0, 1), beyond=[Point(0.0, 9.0)]))
    [far] = [path.get("d", "") for path in root.iter("path") if path.get("class") == "far"]
    assert far.startswith(f"M{46 - MARK:g} {8 - MARK:g}h"), "top left"
    assert "far" not in scatter("n", "t", TWO, Axis("x"), Axis("y"))
    assert "<svg" in scatter("n", "t", [], Axis("x"), Axis("y"), beyond=TWO)


def test_what_is_empty_is_said() -> None:
    for found in (
        lines("Curves", "t", [Series("a", ())], Axis("x"), Axis("y")),
        forest("Curves", "t", [Bar("a", None, note="n/a")], "x"),
        histogram("Curves", "t", 0, 1, [0, 0]),
        histogram("Curves", "t", 0, 1, []),
        scatter("Curves", "t", [], Axis("x"), Axis("y")),
    ):
        assert "<svg" not in found and "Curves" in found


def test_a_bar_without_a_value_says_why_and_long_names_are_cut() -> None:
    root = svg(forest("n", "t", [Bar("x" * 60, None, note="failed"), Bar("b", -0.5, -0.6, -0.4)], "lift"))
    assert "failed" in texts(root)
    assert max(map(len, texts(root))) < 40
    assert any("x" * 60 in (title.text or "") for title in root.iter("title")), "the whole name is its title"


def test_histograms_draw_every_bin_that_is_not_empty() -> None:
    root = svg(histogram("n", "t", -1, 1, [1, 0, 100, 4]))
    heights = [float(box.get("height", 0)) for box in root.iter("rect")]
    assert len(heights) == 3 and heights[1] == max(heights) and heights[2] == pytest.approx(heights[1] / 5, abs=0.2)


def test_numbers_are_a_table_with_heads() -> None:
    found = numbers(("k", "R"), [("1", ".5"), ("2", ".7")])
    root = ElementTree.fromstring(found)
    assert root.tag == "details"
    assert [head.get("scope") for head in root.iter("th")] == ["col", "col", "row", "row"]
