"""Chart: pictures of scores as SVG inside a page. No script, no library; every text is escaped here.

Colours are CSS variables (``--s1`` to ``--s6``), text is in ``currentColor``, and series differ by dash and marker too.
A picture has a title and a description in words; `numbers` sets the figures themselves beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from diffbench.line import one_line
from diffbench.table import number

DASHES = ("", "6 3", "2 3", "8 3 2 3", "12 4", "4 6")
SERIES = len(DASHES)
"""Series that can be told apart."""
HEIGHTS = "heights by the square root of the count"
MARK = 2.6
WIDEST = 8e307
"""Ends of axes: the distance between two of them is a number still."""
LABEL = 26
"""Characters of a name that a picture has room for."""

Form = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Point:
    """A measured point, with the ends of its interval where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """A line. ``style`` picks colour, dash and marker: 0..`SERIES` - 1."""

    name: str
    points: tuple[Point, ...]
    style: int = 0


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis measures. ``low`` and ``high`` are its ends; None: from the data.

    Attributes:
        log2: positions by log2(1 + x), so that 0 has a place too.
        ticks: where marks stand; None: at round values.
    """

    label: str
    low: float | None = None
    high: float | None = None
    log2: bool = False
    ticks: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """A named value with its interval; ``value`` None: none, and ``note`` says why."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where values lie on a stretch of the picture; what lies outside is drawn at the edge."""

    low: float
    high: float
    start: float
    end: float
    log2: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (self._place(one) for one in (self.low, self.high, value))
        share = (value - low) / ((high - low) or 1.0)
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 1)

    def _place(self, value: float) -> float:
        return math.log2(1 + max(0.0, value)) if self.log2 else value


def lines(
    title: str, text: str, series: Sequence[Series], x: Axis, y: Axis, *, mark: float | None = None, small: bool = False
) -> Markup:
    """Lines with interval bands.

    Args:
        title: name of the picture.
        text: what it shows, in words.
        series: at most `SERIES`; none with points: a sentence instead of a picture.
        x: across.
        y: up.
        mark: an x with a vertical line through it.
        small: one of many beside each other, without labels of the axes.
    """
    points = [point for one in series for point in one.points]
    if not points:
        return Markup('<p class="none">{}: nothing was measured.</p>').format(one_line(title))
    wide, high = (220, 140) if small else (460, 270)
    left, below = (40, 24) if small else (46, 38)
    across = _scale(x, [point.x for point in points], left, wide - 10)
    ends = [end for point in points for end in (point.y, point.low, point.high) if end is not None]
    up = _scale(y, ends, high - below, 8)
    parts = [*_grid(x, y, across, up, wide, high, small)]
    if mark is not None:
        at = across(mark)
        parts.append(Markup('<line class="mk" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(at, up.start, up.end))
    parts += [_line(one, across, up) for one in series if one.points]
    return _svg(title, text, wide, high, parts, "sm" if small else "") + (Markup() if small else legend(series))


def forest(title: str, text: str, bars: Sequence[Bar], label: str, *, zero: str = "") -> Markup:
    """A dot with its interval for every row, about a line at 0.

    Args:
        title: name of the picture.
        text: what it shows, in words.
        bars: from above.
        label: of the axis.
        zero: what the line at 0 is.
    """
    ends = [end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None]
    if not ends:
        return Markup('<p class="none">{}: nothing was measured.</p>').format(one_line(title))
    left, wide, step = 190, 490, 20
    high = step * len(bars) + 58
    across = _scale(Axis(label, min(0.0, *ends), max(0.0, *ends)), [0.0], left, wide - 14)
    parts = []
    for tick in _ticks(across):
        parts.append(
            Markup('<line class="gr" x1="{0}" x2="{0}" y1="18" y2="{1}"/><text x="{0}" y="{2}" class="m">{3}</text>')
            .format(across(tick), high - 38, high - 24, number(tick))
        )  # fmt: skip
    at = across(0.0)
    parts.append(Markup('<line class="mk" x1="{0}" x2="{0}" y1="16" y2="{1}"/>').format(at, high - 38))
    edge = "e" if at > (left + wide) / 2 else ""
    parts.append(Markup('<text x="{}" y="11" class="{}">{}</text>').format(at, edge, one_line(zero)))
    parts += [_bar(bar, 30 + step * n, left, across) for n, bar in enumerate(bars)]
    middle = (left + wide) / 2
    parts.append(Markup('<text x="{}" y="{}" class="m">{}</text>').format(middle, high - 7, one_line(label)))
    return _svg(title, text, wide, high, parts)


def histogram(title: str, text: str, low: float, high: float, counts: Sequence[int], form: Form = number) -> Markup:
    """Bars of equal width from ``low`` to ``high``, their heights by the square root, so that rare values are seen.

    What stands beside it has to say so: `HEIGHTS`.
    """
    if not counts or sum(counts) <= 0:
        return Markup('<p class="none">{}: no value.</p>').format(one_line(title))
    wide, tall, most = 200, 62, math.sqrt(max(counts))
    step = wide / len(counts)
    parts = []
    for n, count in enumerate(counts):
        if count > 0:
            height = max(1.0, math.sqrt(count) / most * 44)
            box = (round(n * step, 1), round(46 - height, 1), round(max(0.8, step - 0.6), 1), round(height, 1))
            parts.append(Markup('<rect x="{}" y="{}" width="{}" height="{}"/>').format(*box))
    if low < 0 < high:
        at = round(-low / (high - low) * wide, 1)
        parts.append(Markup('<line class="mk" x1="{0}" x2="{0}" y1="2" y2="48"/>').format(at))
    parts.append(Markup('<text x="0" y="59">{}</text>').format(form(low)))
    parts.append(Markup('<text x="{}" y="59" class="e">{}</text>').format(wide, form(high)))
    told = f"Counts from {form(low)} to {form(high)}: {', '.join(map(str, counts))}."
    return _svg(title, f"{text} Heights go by the square root of the count. {told}", wide, tall, parts, "hi")


def scatter(
    title: str,
    text: str,
    points: Sequence[Point],
    x: Axis,
    y: Axis,
    marked: Sequence[Point] = (),
    beyond: Sequence[Point] = (),
) -> Markup:
    """Points, those of ``marked`` once more with a ring around them, those of ``beyond`` hollow at the edge."""
    if not points and not beyond:
        return Markup('<p class="none">{}: no point.</p>').format(one_line(title))
    wide, high = 460, 300
    across = _scale(x, [point.x for point in points or beyond], 46, wide - 10)
    up = _scale(y, [point.y for point in points or beyond], high - 38, 8)
    parts = [*_grid(x, y, across, up, wide, high, False)]
    edge = dict.fromkeys((across(point.x), up(point.y)) for point in beyond)
    far = "".join(f"M{at - MARK:g} {height - MARK:g}h{2 * MARK:g}v{2 * MARK:g}h{-2 * MARK:g}Z" for at, height in edge)
    parts += [Markup('<path class="far" d="{}"/>').format(far)] if far else []
    places = dict.fromkeys((across(point.x), up(point.y)) for point in points)
    dots = "".join(f"M{at:g} {height:g}h0" for at, height in places)
    parts.append(Markup('<path class="dots" d="{}"/>').format(dots))
    rings = dict.fromkeys((across(point.x), up(point.y)) for point in marked)
    parts += [Markup('<circle class="ring" cx="{}" cy="{}" r="5"/>').format(*place) for place in rings]
    return _svg(title, text, wide, high, parts)


def legend(series: Sequence[Series]) -> Markup:
    """Names of series beside a piece of their lines."""
    items = [
        Markup('<li><svg viewBox="0 0 34 10" width="34" height="10" aria-hidden="true">{}{}</svg> {}</li>').format(
            _stroke("M1 5H33", one.style), _marker(17, 5, one.style), one_line(one.name)
        )
        for one in series
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup().join(items))


def numbers(heads: Sequence[str], rows: Iterable[Sequence[object]], summary: str = "The numbers") -> Markup:
    """What a picture shows as a table that unfolds."""
    head = Markup().join(Markup('<th scope="col">{}</th>').format(one_line(text)) for text in heads)
    body = Markup().join(
        Markup("<tr>{}</tr>").format(
            Markup().join(
                Markup('<th scope="row">{}</th>' if n == 0 else "<td>{}</td>").format(one_line(cell))
                for n, cell in enumerate(row)
            )
        )
        for row in rows
    )
    table = '<details class="nums"><summary>{}</summary><div class="scroll" tabindex="0"><table><thead><tr>{}</tr>'
    return Markup(table + "</thead><tbody>{}</tbody></table></div></details>").format(one_line(summary), head, body)


def _svg(title: str, text: str, wide: float, high: float, parts: Iterable[Markup], kind: str = "") -> Markup:
    return Markup('<svg class="ch {}" viewBox="0 0 {} {}" role="img"><title>{}</title><desc>{}</desc>{}</svg>').format(
        kind, wide, high, one_line(title), one_line(text), Markup().join(parts)
    )


def _scale(axis: Axis, values: Sequence[float], start: float, end: float) -> _Scale:
    low = max(-WIDEST, min(WIDEST, min(values) if axis.low is None else axis.low))
    high = max(-WIDEST, min(WIDEST, max(values) if axis.high is None else axis.high))
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        high = low + (abs(low) if abs(low) > 1e-300 else 1.0)
    return _Scale(low, high, start, end, axis.log2)


def _ticks(scale: _Scale) -> list[float]:
    """Some three to six round values within the scale."""
    span = scale.high - scale.low
    step = 10.0 ** math.floor(math.log10(span))
    step = next(step * part for part in (0.2, 0.5, 1, 2) if span / (step * part) <= 6)
    first = math.ceil(scale.low / step - 1e-9)
    return [n * step for n in range(first, math.floor(scale.high / step + 1e-9) + 1)]


def _grid(x: Axis, y: Axis, across: _Scale, up: _Scale, wide: int, high: int, small: bool) -> Iterable[Markup]:
    for tick in y.ticks if y.ticks is not None else _ticks(up):
        kind = "ax" if tick == 0 else "gr"
        yield Markup(
            '<line class="{0}" x1="{1}" x2="{2}" y1="{3}" y2="{3}"/><text x="{4}" y="{5}" class="e">{6}</text>'
        ).format(kind, across.start, across.end, up(tick), across.start - 4, up(tick) + 4, number(tick))
    for tick in x.ticks if x.ticks is not None else _ticks(across):
        text = f"{tick:g}" if float(tick).is_integer() else number(tick)
        below = up.start + (18 if small else 14)
        yield Markup('<text x="{}" y="{}" class="m">{}</text>').format(across(tick), below, text)
    if not small:
        middle = (across.start + across.end) / 2
        yield Markup('<text x="{}" y="{}" class="m">{}</text>').format(middle, high - 6, one_line(x.label))
        at = (up.start + up.end) / 2
        yield Markup('<text transform="translate(11 {}) rotate(-90)" class="m">{}</text>').format(at, one_line(y.label))


def _line(one: Series, across: _Scale, up: _Scale) -> Markup:
    points = sorted(one.points, key=lambda point: point.x)
    path = "M" + "L".join(f"{across(point.x):g} {up(point.y):g}" for point in points)
    banded = [(p.x, p.low, p.high) for p in points if p.low is not None and p.high is not None]
    band = Markup()
    if len(banded) > 1:
        edge = [f"{across(x):g} {up(high):g}" for x, _, high in banded]
        edge += [f"{across(x):g} {up(low):g}" for x, low, _ in reversed(banded)]
        band = Markup('<path class="band s{}" d="M{}Z"/>').format(one.style + 1, "L".join(edge))
    marks = Markup().join(_marker(across(point.x), up(point.y), one.style) for point in points)
    return Markup("<g><title>{}</title>{}{}{}</g>").format(one_line(one.name), band, _stroke(path, one.style), marks)


def _stroke(path: str, style: int) -> Markup:
    dash = DASHES[style % SERIES]
    dashed = Markup(' stroke-dasharray="{}"').format(dash) if dash else Markup()
    return Markup('<path class="ln s{}"{} d="{}"/>').format(style % SERIES + 1, dashed, path)


def _marker(x: float, y: float, style: int) -> Markup:
    """Circle, square, triangle, diamond, upright cross, or none: a shape for each style."""
    m = MARK
    shapes = (
        f"M{x - m:g} {y:g}a{m} {m} 0 1 0 {2 * m:g} 0a{m} {m} 0 1 0 {-2 * m:g} 0Z",
        f"M{x - m:g} {y - m:g}h{2 * m:g}v{2 * m:g}h{-2 * m:g}Z",
        f"M{x:g} {y - m:g}l{m:g} {2 * m:g}h{-2 * m:g}Z",
        f"M{x:g} {y - m - 1:g}l{m + 1:g} {m + 1:g}l{-m - 1:g} {m + 1:g}l{-m - 1:g} {-m - 1:g}Z",
        f"M{x - m:g} {y - 0.8:g}h{2 * m:g}v1.6h{-2 * m:g}Z",
        "",
    )
    shape = shapes[style % SERIES]
    return Markup('<path class="pt s{}" d="{}"/>').format(style % SERIES + 1, shape) if shape else Markup()


def _bar(bar: Bar, y: float, left: int, across: _Scale) -> Markup:
    name = one_line(bar.name)
    short = name if len(name) <= LABEL else name[: LABEL - 1] + "…"
    kind = "q" if bar.quiet else ""
    label = Markup('<text x="{}" y="{}" class="e {}">{}</text>').format(left - 8, y + 4, kind, short)
    if bar.value is None:
        shown = Markup('<text x="{}" y="{}" class="q">{}</text>').format(left + 4, y + 4, one_line(bar.note, 40))
    else:
        whisker = Markup()
        if bar.low is not None and bar.high is not None:
            ends = (across(bar.low), across(bar.high), y)
            whisker = Markup('<line class="wh {3}" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(*ends, kind)
        style = 3 if bar.quiet else 0
        shown = whisker + _marker(across(bar.value), y, style)
    told = f"{name}: {bar.note or number(bar.value or 0.0)}"
    return Markup("<g><title>{}</title>{}{}</g>").format(one_line(told), label, shown)
