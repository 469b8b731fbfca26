"""Score columns: the figures of a record, each with a name, a meaning, a unit and a direction. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from diffbench.record import Record
from diffbench.tier import COMPONENT_BUDGETS

Kind = Literal["text", "json", "int", "number", "flag", "figure"]
STRATA = {
    "all": "all unmasked positions",
    "affected": "affected positions",
    "near_miss": "near-miss positions",
    "unrelated": "unrelated positions",
    "response_start": "the first 9 response tokens",
    "response_rest": "later response tokens",
    "template": "template tokens",
    "high_kl": "the top decile of KL(tuned || reference)",
}
SET_BOUNDS = (0.1, 0.3, 0.6)
"""Bounds on |nu| whose sets of latents have columns; a record may hold others, which stand in ``sets``."""


@dataclass(frozen=True, slots=True)
class Column:
    """One documented quantity; ``better`` is higher_is_better, None where neither direction is."""

    name: str
    kind: Kind
    description: str
    get: Callable[[Record], Any]
    unit: str = ""
    better: bool | None = None


def at(path: str) -> Callable[[Record], Any]:
    """Reads a dotted path; None where a part of it is absent."""
    names, whole = path.split("."), attrgetter(path)

    def read(record: Record) -> Any:
        try:
            return whole(record)
        except AttributeError:  # a part is absent, or there is no such name
            value: Any = record
            for name in names:
                value = None if value is None else getattr(value, name)
            return value

    return read


def parts(path: str) -> Callable[[Record], Any]:
    """Reads a tuple of parts as JSON without the nulls; None where there are no scores."""
    read = at(path)

    def dump(record: Record) -> Any:
        found = read(record)
        return None if found is None else [part.model_dump(mode="json", exclude_none=True) for part in found]

    return dump


def _layer(name: str) -> Callable[[Record], Any]:
    def read(record: Record) -> Any:
        layers = record.pair.layers
        return next((getattr(facts, name) for facts in layers if facts.layer == record.pair.layer), None)

    return read


def _part(block: str, key: str, value: Any, name: str) -> Callable[[Record], Any]:
    """Reads ``name`` of the part of ``scores.recovery.<block>`` whose ``key`` has that value."""
    asked = attrgetter(f"scores.recovery.{block}")
    told, wanted = attrgetter(key), attrgetter(name)

    def read(record: Record) -> Any:
        if record.scores is not None:
            for part in asked(record):
                if told(part) == value:
                    return wanted(part)
        return None

    return read


Line = tuple[str, str, str, str, bool | None]


def _columns(where: str, lines: Iterable[Line]) -> tuple[Column, ...]:
    return tuple(
        Column(name, "figure", text, at(f"{where}.{field}"), unit, better) for name, field, text, unit, better in lines
    )


R, KL = "share of KL", "nats"
RECOVERY = _columns(
    "scores.recovery",
    (
        ("headline", "headline", "mean over the budgets of R at affected positions minus PCA's", R, True),
        ("budget_mean", "budget_mean", "mean over the budgets of R at affected positions", R, True),
        ("area", "area", "mean height of the budget curve over log2 k, affected positions", R, True),
        ("r_full", "r_full", "R of the full edit; unmatched in budget", R, True),
        ("r_error", "r_error", "R of what the full edit omits", R, False),
        ("r_full_affected", "r_full_affected", "r_full at affected positions", R, True),
        ("r_error_affected", "r_error_affected", "r_error at affected positions", R, False),
        ("r_bias_affected", "r_bias_affected", "R of the biases alone at affected positions", R, None),
        ("r_model", "r_model", "R_model of the full edit; its measure is the ceiling", R, True),
        ("r_model_affected", "r_model_affected", "r_model at affected positions", R, True),
        ("necessity", "necessity", "N of the full edit; its measure is layer_necessity", R, True),
        ("necessity_affected", "necessity_affected", "necessity at affected positions", R, True),
    ),
)
BUDGETS = tuple(
    Column(f"{stem}_at_{k}", "figure", f"{text} at {k} components", _part("budgets", "k", k, name), unit, better)
    for k in COMPONENT_BUDGETS
    for stem, text, name, unit, better in (
        ("r", "R at affected positions", "r", R, True),
        ("pca", "R of PCA of the differences at affected positions", "r_pca", R, None),
        ("lift", "R at affected positions minus PCA's", "lift", R, True),
        ("active", "components of the set active per position", "active_per_token", "components", None),
        ("random", "R of random components of the same Diff", "r_random", R, None),
        ("noise", "R of random directions of the same length", "r_noise", R, None),
        ("model", "R_model at affected positions", "r_model", R, True),
        ("necessity", "necessity at affected positions", "necessity", R, True),
    )
)
STRATUM_FIGURES = tuple(
    Column(f"{stem}_in_{name}", "figure", f"{text}: {where}", _part("strata", "stratum", name, field), R, better)
    for name, where in STRATA.items()
    for stem, field, text, better in (
        ("full", "r_full", "R of the full edit", True),
        ("top", "r_top", "R of the top 8 components", True),
        ("kl", "kl_share", "share of KL(tuned || reference)", None),
    )
)
SETS = tuple(
    Column(f"{form}_nu_{bound}", "figure", f"R of the latents with |nu| < {bound}, {form} form", read, R, True)
    for bound in SET_BOUNDS
    for form in ("replace", "additive")
    for read in (_part("sets", "below", bound, form),)
)
BEHAVIOUR = (
    *_columns(
        "scores.behaviour",
        (
            ("installed", "installed", "behaviour that the top 8 components bring to the reference", "share", True),
            ("removed", "removed", "behaviour that goes when they are taken out of the tuned model", "share", True),
            ("off_target_kl", "off_target_kl", "KL that installing causes off the affected positions", KL, False),
            ("selectivity", "selectivity", "share of that KL per position at affected ones", "share", True),
        ),
    ),
    *_columns(
        "scores",
        (
            (
                "disentangling",
                "disentangling.score",
                "behaviour of a claim that goes with its components, minus what goes of the others",
                "share",
                True,
            ),
            ("attribution_cut", "attribution.cut_top", "KL that the top-attribution component cuts", R, True),
            ("attribution_cut_random", "attribution.cut_random", "the same for a random component", R, None),
            (
                "attribution_agreement",
                "attribution.agreement",
                "contexts whose top component is among the first ten findings",
                "share",
                True,
            ),
            (
                "attribution_agreement_chance",
                "attribution.agreement_chance",
                "the same of a component drawn at random",
                "share",
                None,
            ),
        ),
    ),
)
FIT = _columns(
    "scores.fit",
    (
        ("fve", "fve", "variance explained of the dictionary's own target", "share", True),
        ("fve_delta", "fve_delta", "variance of delta explained", "share", True),
        ("l0", "l0", "mean active components per position", "components", False),
        ("dead_share", "dead_share", "components that never fire", "share", False),
    ),
)
TRUTH = (
    *_columns(
        "scores.claims",
        (
            ("claims_recall", "recall", "claims that one of the first ten findings locates", "share", True),
            (
                "claims_direction",
                "recall_direction",
                "claims that one locates and names a moved token of",
                "share",
                True,
            ),
            ("over_listing", "over_listing", "first ten findings that locate no claim", "share", False),
        ),
    ),
    *_columns(
        "scores.localisation",
        (
            ("auroc_first", "auroc_first", "AUROC of the first finding", "AUROC", True),
            ("auroc_best10", "auroc_best10", "best AUROC of ten findings", "AUROC", True),
            ("auroc_shuffled", "auroc_best10_shuffled", "the same, mean over shuffled rankings", "AUROC", None),
            ("ap_first", "ap_first", "average precision of the first finding", "AP", True),
            ("precision_at_5", "precision_at_5", "first five findings with AUROC >= .9", "share", True),
            ("precision_at_10", "precision_at_10", "first ten findings with AUROC >= .9", "share", True),
            ("precision_shuffled", "precision_at_10_shuffled", "the same over shuffled rankings", "share", None),
            ("first_hit", "first_hit", "first finding with AUROC >= .9", "rank", False),
            ("first_hit_shuffled", "first_hit_shuffled", "the same, median over shuffled rankings", "rank", None),
        ),
    ),
    *_columns(
        "scores.direction",
        (
            ("direction_first", "agreement_first", "tokens of the first finding that move as it says", "share", True),
            ("direction_best10", "agreement_best10", "tokens that move as a finding says, best of ten", "share", True),
            ("direction_shuffled", "agreement_shuffled", "the first finding with others' tokens", "share", None),
            ("direction_best10_shuffled", "agreement_best10_shuffled", "best of ten over shuffles", "share", None),
            ("moved_found", "moved_found", "tokens that moved which ten findings name", "share", True),
        ),
    ),
)
_JUDGED = (
    ("detection", "balanced accuracy", "tells active contexts from others by the explanation"),
    ("fuzzing", "balanced accuracy", "tells right marks from wrong ones by the explanation"),
    ("intruder", "accuracy", "finds the context that does not belong, of five"),
    ("intervention", "accuracy", "tells a steered text from another by the explanation"),
)
JUDGING = tuple(
    column
    for test, unit, text in _JUDGED
    for column in _columns(
        f"scores.interpretability.{test}",
        (
            (test, "score", f"judge {text}; first ten findings", unit, True),
            (f"{test}_shuffled", "shuffled", "the same with other findings' explanations", unit, None),
            (f"{test}_random", "random", "the same for a random dictionary", unit, None),
            (f"{test}_untrained", "untrained", "the same for a dictionary of two untrained models", unit, None),
            (f"{test}_lift", "over_random", f"{test}: the judge's {unit} minus a random dictionary's", unit, True),
            (f"{test}_over_shuffled", "over_shuffled", f"{test} minus that of shuffled explanations", unit, True),
            (f"{test}_over_untrained", "over_untrained", f"{test} minus that of untrained models", unit, True),
        ),
    )
)
_MATCH = (
    ("auroc", "what the judge concludes: its patterns, affected against near-miss", "AUROC", True),
    ("auroc_unrelated", "the same against unrelated contexts too", "AUROC", True),
    ("precision", "words it lists that moved so", "share", True),
    ("recall", "words that moved which it lists", "share", True),
    ("f1", "of the words it lists", "F1", True),
    ("net", "hits less wrong words, over the longer of the two lists", "share", True),
    ("structured", "places and words together, no language model; abstaining: 0", "", True),
    ("grade", "a judge's grade of it, 0-4, over 4", "share", True),
    ("choice", "whether a judge picks the right statement by it", "share", True),
    ("chance", "of picking the right statement", "share", None),
    ("brier", "(confidence - right)^2", "", False),
)
MATCH = (
    *_columns(
        "scores.interpretability.match",
        ((f"account_{name}", name, text, unit, better) for name, text, unit, better in _MATCH),
    ),
    *_columns(
        "scores.interpretability",
        (("account_lift", "account_over_random", "structured minus that of a random dictionary's account", "", True),),
    ),
    *_columns(
        "scores.interpretability.match_random",
        (
            (f"account_random_{name}", name, f"{text}; of a random dictionary", unit, None)
            for name, text, unit, _ in _MATCH
        ),
    ),
)
OTHERS = (
    Column("change_score", "figure", "how much changed, says the method", at("scores.change_score")),
    Column("kl", "figure", "mean KL(tuned || reference)", at("pair.kl"), KL),
    Column("kl_affected", "figure", "mean KL at affected positions", at("pair.kl_affected"), KL),
    Column("kl_affected_share", "figure", "KL mass at affected positions", at("pair.kl_affected_share"), "share"),
    Column(
        "coverage",
        "figure",
        "KL(tuned || hybrid none) / KL(tuned || reference), may exceed 1",
        _layer("coverage"),
        "ratio",
    ),
    Column("r_mean_delta", "figure", "R of the mean difference, added everywhere", at("pair.r_mean_delta"), R),
    Column("r_mean_delta_affected", "figure", "the same at affected positions", at("pair.r_mean_delta_affected"), R),
    Column("ceiling", "figure", "R_model of the layer's true delta", _layer("ceiling"), R),
    Column("ceiling_affected", "figure", "ceiling at affected positions", _layer("ceiling_affected"), R),
    Column("layer_necessity", "figure", "N of the layer's true delta", _layer("necessity"), R),
    Column("layer_necessity_affected", "figure", "the same at affected positions", _layer("necessity_affected"), R),
)

FIGURES = (*RECOVERY, *BUDGETS, *STRATUM_FIGURES, *SETS, *BEHAVIOUR, *FIT, *TRUTH, *JUDGING, *MATCH, *OTHERS)
"""All figures. One fills four columns: see `diffbench.columns`."""
