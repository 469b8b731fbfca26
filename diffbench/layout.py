"""Layout: which columns a table of scores has, what they mean, and how a narrow terminal goes without some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from diffbench.table import FULL_WIDTH, LABEL_WIDTH, NOTE_WIDTH, Column, Row, clip, count, number, precise, text_table
from diffbench.tier import COMPONENT_BUDGETS


def figure(row: Row, name: str, form: Callable[[float, str], str] = number) -> str:
    """The figure ``name`` of a summary row."""
    state = row[f"{name}_state"]
    return form(0.0 if state != "ok" else float(row[name]), state)


def with_interval(row: Row, name: str) -> str:
    """The figure with its 95% interval; a trailing ``d`` says that the interval is over documents."""
    text = figure(row, name)
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if row[f"{name}_state"] != "ok" or _absent(low) or _absent(high):
        return text
    return f"{text} [{number(low)}, {number(high)}]{'d' if row['unit'] == 'documents' else ''}"


def _both(row: Row, first: str, second: str) -> str:
    """``.62/.41``; one word if neither is a number."""
    texts = figure(row, first), figure(row, second)
    return texts[0] if len(set(texts)) == 1 and row[f"{first}_state"] != "ok" else "/".join(texts)


def over_budgets(row: Row, stem: str) -> str:
    """A score at every budget, as ``.31 .52 .70 .84``; one word if none of them is a number."""
    texts = [figure(row, f"{stem}_at_{k}") for k in COMPONENT_BUDGETS]
    states = {row[f"{stem}_at_{k}_state"] for k in COMPONENT_BUDGETS}
    return texts[0] if len(states) == 1 and states != {"ok"} else " ".join(texts)


METHOD: Column[Row] = Column(
    "method", lambda row: clip(row["label"], LABEL_WIDTH), "options that were passed stand behind it", True
)
LAYOUT: tuple[Column[Row], ...] = (
    METHOD,
    Column(
        "lift [95%]",
        lambda row: with_interval(row, "headline"),
        "what rows are sorted by: mean over the budgets of R at affected positions minus PCA's at the same budget; "
        "higher is better, 0 = as good as PCA. The interval is over method seeds (t, from 3 seeds on), or, marked d, "
        "over documents, where there is one seed or seeds make no difference; neither covers other organisms",
    ),
    Column(
        "R@1 2 4 8",
        lambda row: over_budgets(row, "r"),
        "R_hybrid at affected positions of the first 1, 2, 4, 8 components: the share they take away of the KL between "
        "the tuned model and the same model run on the reference's unedited stream at that layer (the coverage says "
        "how much of the whole KL that is); 1 = all of it, negative = worse than doing nothing; higher is better",
    ),
    Column(
        "in/out",
        lambda row: _both(row, "installed", "removed"),
        "share of the changed behaviour that the first 8 components bring to the reference / that goes when they are "
        "taken out of the tuned model; higher is better",
    ),
    Column(
        "claims",
        lambda row: figure(row, "claims_recall"),
        "share of the claims that one of the first ten findings locates (AUROC of at least .9); higher is better",
    ),
    Column(
        "AUROC",
        lambda row: figure(row, "auroc_best10"),
        "affected against near-miss probes, best of the first ten findings, each for the claim it fits best; being a "
        "best of many its chance level is not .5: the bar is the random-dictionary row; higher is better",
    ),
    Column(
        "hit (null)",
        lambda row: f"{figure(row, 'first_hit', count)} ({figure(row, 'first_hit_shuffled', count)})",
        "rank of the first finding with AUROC of at least .9; in brackets the median over shuffled rankings; lower is "
        "better",
    ),
    Column(
        "detect",
        lambda row: figure(row, "detection_lift"),
        "how much better the judge tells activating contexts by the explanations than by a random dictionary's "
        "(balanced accuracy); higher is better",
    ),
    Column(
        "account",
        lambda row: figure(row, "account_structured"),
        "what a judge concludes from all findings, held against the truth by a program: where and which words; "
        "1 is all of it, 0 is saying nothing, wrong claims count double; higher is better",
    ),
    Column(
        "full",
        lambda row: figure(row, "r_full"),
        "R_hybrid of the full edit at all positions; not matched in budget, so nothing is sorted by it; "
        "higher is better",
    ),
    Column("error", lambda row: figure(row, "r_error"), "R_hybrid of what the full edit leaves out; lower is better"),
    Column(
        "FVE",
        lambda row: figure(row, "fve"),
        "fraction of variance explained of the dictionary's own target, held-out text; higher is better",
    ),
    Column("L0", lambda row: figure(row, "l0"), "mean active components per position; lower is sparser"),
    Column(
        "dead",
        lambda row: figure(row, "dead_share"),
        "share of components that never fire on held-out text; lower is better",
    ),
    Column(
        "s",
        lambda row: number(row["method_seconds"]) if not _absent(row["method_seconds"]) else "n/a",
        "seconds of the method process, without the harvest that every method is charged; lower is better; n/a of a "
        "submission, whose cost was not measured here",
    ),
    Column(
        "notes",
        lambda row: clip(row["notes"], NOTE_WIDTH),
        "seeds whose mean the row shows ('3 of 4 seeds': one failed, the mean is over three and the row is ranked "
        "apart); 'trivial': a cheap baseline; 'own track': reads what others may not; what the method says where that "
        "is not 'changed'",
        text=True,
    ),
)
"""Rows that failed or do not apply say so under `lift` and leave the other scores empty."""
_KEPT_WITHOUT_SCORES = ("method", "lift [95%]", "s", "notes")
DROPPED = ("dead", "L0", "FVE", "error", "full", "detect", "account", "hit (null)", "AUROC", "claims", "in/out")
"""Columns that a narrow terminal goes without, in this order."""

DETAILS: tuple[Column[Row], ...] = (
    METHOD,
    Column(
        "rand/noise",
        lambda row: _both(row, "random_at_8", "noise_at_8"),
        "what R@8 has to beat: R at affected positions of 8 random components of the same Diff / of random directions "
        "as long as what the 8 add",
    ),
    Column(
        "area",
        lambda row: figure(row, "area"),
        "mean height of the curve of R at affected positions over log2 of the number of components",
    ),
    Column(
        "model",
        lambda row: figure(row, "r_model_affected"),
        "R_model at affected positions: the full edit put into the reference, which runs on by itself; its measure is "
        "the layer's ceiling, not 1",
    ),
    Column(
        "need",
        lambda row: figure(row, "necessity_affected"),
        "necessity at affected positions: how far the tuned model without the full edit is back at the reference; its "
        "measure is the necessity of the layer's true difference",
    ),
    Column(
        "template",
        lambda row: figure(row, "top_in_template"),
        "R of the first 8 components at template tokens; beside it stands R at the first 9 tokens of a response",
    ),
    Column(
        "start", lambda row: figure(row, "top_in_response_start"), "R of the first 8 at the first 9 response tokens"
    ),
    Column(
        "off KL",
        lambda row: figure(row, "off_target_kl", precise),
        "KL in nats that installing the first 8 components causes off the affected positions; lower is better",
    ),
    Column(
        "select",
        lambda row: figure(row, "selectivity"),
        "share of that KL per position that is at affected positions; .5 = everywhere alike",
    ),
    Column(
        "apart",
        lambda row: figure(row, "disentangling"),
        "removing a claim's components removes its behaviour, minus what goes of the other claims'; 1 is perfect",
    ),
    Column(
        "cut",
        lambda row: _both(row, "attribution_cut", "attribution_cut_random"),
        "share of the KL at a context that its component of most negative KL attribution takes away / a random one",
    ),
    Column(
        "says",
        lambda row: _both(row, "direction_best10", "direction_best10_shuffled"),
        "share of a finding's tokens that move as it says, best of ten / the same over shuffles of all tokens",
    ),
    Column(
        "P@10",
        lambda row: _both(row, "precision_at_10", "precision_shuffled"),
        "share of the first ten findings that locate a claim / of shuffled rankings",
    ),
    Column("over", lambda row: figure(row, "over_listing"), "share of the first ten findings that locate no claim"),
    Column(
        "- shuf",
        lambda row: figure(row, "detection_over_shuffled"),
        "detection minus detection with other findings' explanations, paired by finding",
    ),
    Column(
        "- raw",
        lambda row: figure(row, "detection_over_untrained"),
        "detection minus that of a dictionary trained on the difference of two untrained models",
    ),
    Column("fuzz", lambda row: figure(row, "fuzzing_lift"), "fuzzing minus a random dictionary's"),
    Column("odd", lambda row: figure(row, "intruder_lift"), "intruder detection minus a random dictionary's"),
    Column("steer", lambda row: figure(row, "intervention_lift"), "intervention scoring minus a random dictionary's"),
    Column(
        "grade",
        lambda row: _both(row, "account_grade", "account_choice"),
        "of what the judge concludes: its grade / whether the right one of several statements is picked by it",
    ),
)
"""More scores of the same rows; those that failed are left out."""
DETAILS_DROPPED = (
    *("start", "template", "rand/noise", "odd", "steer", "- raw", "over", "area", "fuzz", "P@10", "- shuf", "select"),
    *("says", "need", "grade"),
)


def cells_of(rows: Sequence[Row], columns: Sequence[Column[Row]] = LAYOUT) -> list[list[str]]:
    """The cells of one section; the first line is PCA's at the same budgets, where it was measured."""
    if columns is DETAILS:
        return [[column.cell(row) for column in columns] for row in rows if row["scored"]]
    cells = [
        [column.cell(row) if row["scored"] or column.head in _KEPT_WITHOUT_SCORES else "" for column in columns]
        for row in rows
    ]
    texts = sorted({over_budgets(row, "pca") for row in rows if row["scored"] and row["pca_at_1_state"] == "ok"})
    if texts:
        note = "what lift is over" if len(texts) == 1 else "differs between rows: see CSV"
        pca = {"method": "PCA at the same k", "R@1 2 4 8": texts[0], "notes": note}
        cells.insert(0, [pca.get(column.head, "") for column in columns])
    return cells


def section_text(rows: Sequence[Row], width: int = FULL_WIDTH, details: bool = False) -> str:
    """One section as plain text, with as many columns as fit."""
    if not details:
        return text_table(LAYOUT, cells_of(rows), width, DROPPED)
    return text_table(DETAILS, cells_of(rows, DETAILS), width, DETAILS_DROPPED)


def _absent(value: Any) -> bool:
    return value is None or value != value or not isinstance(value, int | float)
