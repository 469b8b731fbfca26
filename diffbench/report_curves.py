"""Report curves: the pictures of one organism in a run's report: lifts, budgets, layers, steps and doses."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from diffbench.chart import Axis, Bar, Point, Series, forest, legend, lines, numbers
from diffbench.figure import Figure
from diffbench.line import one_line
from diffbench.report import Method, Part
from diffbench.summary import Row
from diffbench.synopsis import interval
from diffbench.table import number
from diffbench.tier import COMPONENT_BUDGETS
from diffbench.webpage import figure_text

FLOOR = -1.0
"""Lower end of the pictures of R: what lies under it is drawn at the edge."""
DOSED = (-0.5, 1.5)
"""Ends of the pictures of doses."""
BUDGETS_TEXT = (
    "R at affected positions of a method's first k components (solid, with its interval) beside PCA of the differences "
    "(dashed) and random components of the same Diff (dotted). 1 is all of the KL, under 0 is worse than nothing. What "
    "lies under -1 is drawn at the edge."
)
LAYERS_TEXT = (
    "Coverage is the part of the KL that runs through a layer's stream; the ceiling is what the true difference itself "
    "recovers there, so no method can be asked for more. The vertical line is the layer that was scored."
)
STEPS_TEXT = (
    "The reference's blocks replaced by the tuned model's, one after another from below: where does it turn? What lies "
    "under -1 is drawn at the edge."
)
DOSES_TEXT = (
    "The first 8 components (of task arithmetic: the whole difference) added to the reference at several strengths, "
    "beyond 1 too. Installed is the share of the changed behaviour; 1 is as much as the tuned model has. "
    "What lies outside -.5 to 1.5 is drawn at the edge. Lowest seed."
)


def lifts(rows: Sequence[Row]) -> Markup:
    """Lift over PCA of every row, with intervals."""
    bars = []
    for row in rows:
        name, state = one_line(row["label"]), row["headline_state"]
        if state == "ok":
            value, low, high = row["headline"], row["headline_low"], row["headline_high"]
            bars.append(Bar(name, value, low, high, interval(row, "headline"), quiet=row["control"]))
        else:
            words = {"error": "failed", "not_applicable": "does not apply"}
            bars.append(Bar(name, None, note=words.get(row["status"], "n/a"), quiet=row["control"]))
    text = "Mean over 1, 2, 4 and 8 components of R at affected positions minus PCA's; right is better."
    return forest("Lift over PCA by method", text, bars, "lift over PCA", zero="as good as PCA")


def curve_of(method: Method) -> tuple[Point, ...]:
    """Mean budget curve over the seeds that have scores; intervals where the table has them."""
    curves = [
        {point.k: point.r.value for point in record.scores.recovery.curve if point.r.value is not None}
        for record in method.records
        if record.scores is not None
    ]
    row = method.summary
    means = {k: sum(curve[k] for curve in curves) / len(curves) for k in set.intersection(*map(set, curves))}
    found = {k: Point(k, value) for k, value in means.items()}
    for k in COMPONENT_BUDGETS:
        if row[f"r_at_{k}_state"] == "ok":
            found[k] = Point(k, row[f"r_at_{k}"], row[f"r_at_{k}_low"], row[f"r_at_{k}_high"])
    return tuple(found[k] for k in sorted(found))


def budget_curves(methods: Sequence[Method]) -> Markup:
    """A small picture for every method, all on the same axes, each beside PCA."""
    scored = [method for method in methods if method.summary["scored"] and method.shown is not None]
    curves = {id(method): curve_of(method) for method in scored}
    drawn = [method for method in scored if len(curves[id(method)]) > 1]
    if not drawn:
        return Markup()
    most = max(point.x for method in drawn for point in curves[id(method)])
    low = min(point.y for method in drawn for point in curves[id(method)])
    x = Axis("components", 0.0, most, log2=True, ticks=tuple(k for k in (0, 1, 4, 16, 64, 256) if k <= most))
    y = Axis("R", max(FLOOR, min(0.0, low)), 1.0)
    panels = []
    for method in drawn:
        row, name = method.summary, one_line(method.summary["label"])
        series = [
            Series("PCA of the differences", _budget(row, "pca"), 1),
            Series("random components of the same Diff", _budget(row, "random"), 2),
            Series(name, curves[id(method)], 0),
        ]
        text = f"R at affected positions of the first k components of {name}, beside PCA and random components."
        picture = lines(f"Budget curve of {name}", text, series, x, y, small=True)
        panels.append(Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(picture, name))
    keys = legend([Series("the method", (), 0), Series("PCA", (), 1), Series("random components of the Diff", (), 2)])
    return Markup('{}<div class="panels">{}</div>{}').format(
        keys, Markup().join(panels), _curve_table([(one_line(m.summary["label"]), curves[id(m)]) for m in drawn])
    )


def layer_profile(part: Part) -> Markup:
    """Coverage and ceiling by layer."""
    pair = part.section.pair
    names = ("coverage", "ceiling", "ceiling_affected", "necessity")
    words = ("coverage", "ceiling", "ceiling, affected positions", "necessity of the true difference")
    series = [
        Series(word, tuple(_point(layer.layer, getattr(layer, name)) for layer in pair.layers
                           if getattr(layer, name).value is not None), style)
        for style, (name, word) in enumerate(zip(names, words, strict=True))
    ]  # fmt: skip
    ends = [
        end for one in series for point in one.points for end in (point.y, point.low, point.high) if end is not None
    ]
    every = -(-len(pair.layers) // 12)
    x = Axis("layer", ticks=tuple(float(layer.layer) for layer in pair.layers[::every]))
    y = Axis("share of KL", min([0.0, *ends]), max([1.0, *ends]))
    text = f"Coverage, ceiling and necessity of the true difference at each layer; layer {pair.layer} was scored."
    picture = lines("What each layer carries", text, series, x, y, mark=float(pair.layer))
    rows = [
        [f"{layer.layer}{' (scored)' if layer.layer == pair.layer else ''}",
         *(figure_text(getattr(layer, name)) for name in names)]
        for layer in pair.layers
    ]  # fmt: skip
    return Markup('<div class="picture">{}</div>{}').format(picture, numbers(("layer", *words), rows))


def stitching(methods: Sequence[Method]) -> Markup:
    """R of the first k components put into the reference, of methods whose components are whole blocks."""
    found = []
    for method in methods:
        scores = method.shown.record.scores if method.shown else None
        if scores is None or scores.recovery.headline.value is not None:
            continue
        points = tuple(_point(p.k, p.r_model) for p in scores.recovery.curve if p.r_model.value is not None)
        if len(points) > 2:
            found.append((one_line(method.summary["label"]), points))
    if not found:
        return Markup()
    series = [Series(name, points, style) for style, (name, points) in enumerate(found[:4])]
    text = "R_model when the first k blocks of the reference are replaced by the tuned model's, from below."
    x = Axis("blocks replaced", 0.0)
    low = min(point.y for one in series for point in one.points)
    picture = lines("Interpolation curve", text, series, x, Axis("R in the reference", max(FLOOR, min(0.0, low)), 1.0))
    return Markup('<div class="picture">{}</div>{}').format(picture, _curve_table(found))


def doses(methods: Sequence[Method]) -> Markup:
    """How much of the behaviour comes when the top 8 components are added at several strengths."""
    panels, rows = [], []
    for method in methods:
        scores = method.shown.record.scores if method.shown else None
        points = [dose for dose in (scores.behaviour.dose if scores else ()) if dose.installed.value is not None]
        if len(points) < 2:
            continue
        name = one_line(method.summary["label"])
        series = [Series(name, tuple(_point(dose.strength, dose.installed) for dose in points), 0)]
        text = f"Share of the changed behaviour that {name} brings to the reference, by strength."
        x = Axis("strength", 0.0, max(dose.strength for dose in points))
        picture = lines(f"Doses of {name}", text, series, x, Axis("installed", *DOSED), small=True)
        panels.append(Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(picture, name))
        for dose in points:
            rows.append((name, f"{dose.strength:g}", figure_text(dose.installed), figure_text(dose.off_target_kl)))
    if not panels:
        return Markup()
    heads = ("method", "strength", "installed", "off-target KL, nats")
    return Markup('<div class="panels">{}</div>{}').format(Markup().join(panels), numbers(heads, rows))


def _budget(row: Row, stem: str) -> tuple[Point, ...]:
    return tuple(
        Point(k, row[f"{stem}_at_{k}"]) for k in COMPONENT_BUDGETS if row[f"{stem}_at_{k}_state"] == "ok"
    )  # fmt: skip


def _point(x: float, figure: Figure) -> Point:
    return Point(x, figure.value or 0.0, figure.low, figure.high)


def _curve_table(curves: Sequence[tuple[str, Sequence[Point]]]) -> Markup:
    places = sorted({point.x for _, points in curves for point in points})
    rows = []
    for name, points in curves:
        known = {point.x: number(point.y) for point in points}
        rows.append([name, *(known.get(place, "") for place in places)])
    return numbers(("components", *(f"{place:g}" for place in places)), rows)
