"""Scores: all that a cell is scored by. The schema is versioned and published (`diffbench schema scores`).

R_hybrid = 1 - sum KL(p_tuned || p_E) / sum KL(p_tuned || p_none), where the reference's stream at the pair's layer is
edited and the tuned model goes on from it; R_model is the same with the edit put into the reference model, which runs
on by itself; necessity N = 1 - sum KL(p_ref || p_{tuned-E}) / sum KL(p_ref || p_tuned). Knows nothing of models.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffbench.figure import Figure
from diffbench.spending import FREE, Usage
from diffbench.truth import Schema

Verdict = Literal["changed", "unchanged", "abstain"]

MOST_STATED = 1000
"""Characters of a judge's statement that a record keeps."""


class BudgetPoint(Schema):
    """The top ``k`` components of the Diff's order at affected positions, beside what else costs as much."""

    k: int
    r: Figure = Field(description="R_hybrid, replace form")
    r_pca: Figure = Field(description="R_hybrid of the first k principal directions of the differences")
    lift: Figure = Field(description="r - r_pca, paired by document")
    active_per_token: Figure = Field(description="mean number of the k components that are active at a position")
    r_random: Figure = Field(
        description="R_hybrid of k random components of the same Diff, every fourth document: mean, t over five draws"
    )
    r_noise: Figure = Field(description="R_hybrid of random directions, at each position as long as what the k add")
    above_noise: bool | None = Field(description="whether r lies above the upper end of r_noise; null: no number")
    r_model: Figure = Field(description="R_model; the layer's ceiling is its measure")
    necessity: Figure = Field(description="N: the k components taken out of the tuned model")


class CurvePoint(Schema):
    """A point of the budget curve, at affected positions: the top ``k`` components; k = 0: biases alone.

    Of whole components, blocks of a model replaced from below among them, R_model is the interpolation curve: a hybrid
    run goes on in the tuned model above the layer, whose blocks are there already.
    """

    k: int
    r: Figure = Field(description="R_hybrid")
    r_model: Figure = Field(description="R_model; of single directions at the budgets alone")
    active_per_token: Figure


class StratumScore(Schema):
    """R_hybrid at the positions of one stratum; strata are chosen by the pair, never by an outcome."""

    stratum: str = Field(
        description="all, affected, near_miss, unrelated, response_start (first 9 response tokens), response_rest, "
        "template, or high_kl (top decile of KL(tuned || reference))"
    )
    positions: int
    kl_share: Figure = Field(description="share of KL(tuned || reference) at these positions")
    r_full: Figure
    r_error: Figure
    r_top: Figure = Field(description="of the top 8 components")


class SetScore(Schema):
    """R_hybrid at all positions of the latents whose |nu| lies under a bound, with no bias."""

    nu: str = Field(description="column: nu_activation, or for two decoders nu_error")
    below: float
    n: int = Field(description="latents in the set")
    replace: Figure = Field(description="sum over the set of f_t d_t - f_b d_b")
    additive: Figure = Field(description="sum over the set of f d_t, as in Minder & Dumas 2025")


class Recovery(Schema):
    """Causal scores at the pair's layer."""

    r_full: Figure = Field(description="R_hybrid of the full edit, all unmasked positions")
    r_error: Figure = Field(description="R_hybrid of what the full edit leaves out")
    r_full_affected: Figure
    r_error_affected: Figure
    r_bias_affected: Figure = Field(description="the point k = 0 of the budget curve: biases alone")
    r_model: Figure = Field(description="R_model of the full edit, all unmasked positions")
    r_model_affected: Figure
    necessity: Figure = Field(description="N of the full edit, all unmasked positions")
    necessity_affected: Figure
    budgets: tuple[BudgetPoint, ...]
    budget_mean: Figure = Field(description="mean over the budgets of R_hybrid at affected positions")
    headline: Figure = Field(description="mean over the budgets of R_hybrid at affected positions minus PCA's")
    curve: tuple[CurvePoint, ...] = ()
    area: Figure = Field(description="mean height of the curve from k = 1 to its end, over log2 k")
    strata: tuple[StratumScore, ...] = ()
    sets: tuple[SetScore, ...] = ()


class ClaimBehaviour(Schema):
    """What the top 8 components do to one claim's behaviour, as a share of what fine-tuning did to it."""

    claim: str
    n_probes: int
    reference: Figure = Field(description="mean behaviour of the reference after the claim's affected probes, 0..1")
    tuned: Figure = Field(description="the same of the tuned model")
    installed: Figure = Field(description="(reference + edit - reference) / (tuned - reference)")
    removed: Figure = Field(description="(tuned - (tuned - edit)) / (tuned - reference)")


class DosePoint(Schema):
    """The top 8 components added to the reference at a strength."""

    strength: float
    installed: Figure = Field(description="mean over the claims")
    off_target_kl: Figure = Field(description="mean KL(reference || reference + edit) off the affected positions, nats")


class Behaviour(Schema):
    """Does the edit move what was changed, and little else?"""

    installed: Figure = Field(description="mean over the claims; the interval is over probes")
    removed: Figure
    off_target_kl: Figure = Field(description="mean KL(reference || reference + edit) off the affected positions, nats")
    selectivity: Figure = Field(
        description="share of that KL per position that is at affected ones: on/(on + off); .5 = everywhere alike"
    )
    claims: tuple[ClaimBehaviour, ...] = ()
    dose: tuple[DosePoint, ...] = ()


class ClaimSeparation(Schema):
    """The components that tell one claim's probes best, taken out of the tuned model."""

    claim: str
    components: tuple[int, ...] = Field(description="chosen on one half of the probes, tested on the other")
    removed: Figure = Field(description="share of this claim's behaviour that goes")
    others: Figure = Field(
        description="mean share of the other claims' behaviour that goes too, the other side of an exchange excepted"
    )


class Disentangling(Schema):
    """SHIFT/TPP on organisms with several changes: removing what finds A removes A and spares B."""

    score: Figure = Field(description="mean over the claims of removed - others; 1 is perfect, 0 tells nothing apart")
    claims: tuple[ClaimSeparation, ...] = ()


class Attribution(Schema):
    """KL attribution (Aranguri, Drori & Nanda 2025) at the tokens of the evaluation text where the models differ most.

    These are affected positions where the text has any, and no more than one of a document.
    """

    n_contexts: int = Field(description="tokens that the figures are means over")
    cut_top: Figure = Field(
        description="share of KL(p_ref || p_tuned) of the next token that the component of most negative attribution "
        "takes away when it is added to the reference at the best of five strengths; mean over contexts"
    )
    cut_random: Figure = Field(description="the same for another component, drawn at random, at its own best strength")
    agreement: Figure = Field(description="share of contexts whose top component is among the first ten findings")
    agreement_chance: Figure = Field(description="the same of a component drawn at random")


class Fit(Schema):
    """How well and how sparsely the Diff describes held-out activations."""

    fve: Figure = Field(description="fraction of variance explained of the dictionary's own target")
    fve_delta: Figure = Field(description="fraction of the variance of delta explained by the full edit")
    l0: Figure = Field(description="mean active components per position")
    dead_share: Figure = Field(description="share of components that never fire on held-out text")
    n_components: int


class Localisation(Schema):
    """Does |activity| tell affected from near-miss probes?"""

    auroc_first: Figure = Field(description="AUROC of the first finding, for the claim it fits best")
    auroc_best10: Figure = Field(description="best AUROC among the first ten findings")
    auroc_best10_shuffled: Figure = Field(
        description="the same of as many components, mean over 100 shuffled rankings of all of them"
    )
    ap_first: Figure = Field(
        description="average precision of the first finding, for the claim it fits best; ties enter together"
    )
    precision_at_5: Figure = Field(description="components with AUROC >= .9 among the first five findings, over five")
    precision_at_10: Figure
    precision_at_10_shuffled: Figure = Field(description="the same of as many components, mean over shuffled rankings")
    first_hit: Figure = Field(description="rank of the first finding with AUROC >= .9")
    first_hit_shuffled: Figure = Field(description="the same, median over 100 shuffled rankings of all components")
    n_affected: int
    n_near_miss: int


class Direction(Schema):
    """Do the words that findings name first move as they say at affected probes? As many are asked for as moved."""

    agreement_first: Figure = Field(
        description="of the first finding: share of the words that moved, in the ways of which it names any, that it "
        "names among as many first ones (R-precision), at a claim that it locates"
    )
    agreement_best10: Figure = Field(description="best of the first ten findings")
    agreement_shuffled: Figure = Field(description="of the first finding, with the word lists of others in its place")
    agreement_best10_shuffled: Figure = Field(
        description="best of the first ten findings, mean over 100 shuffles of all findings' word lists"
    )
    moved_found: Figure = Field(description="share of the words that really moved which the first ten findings name")


class ClaimScores(Schema):
    """Which claims the first ten findings find, and how much else they list."""

    recall: Figure = Field(
        description="share of the claims that a finding locates: AUROC >= .9 against near-miss probes and those of "
        "every other claim, the other side of an exchange excepted"
    )
    recall_direction: Figure = Field(
        description="share of the claims that a finding locates and names a word of that moved as it says"
    )
    over_listing: Figure = Field(
        description="share of the first ten findings that are at work at no claim's probes: AUROC < .9 for all of them"
    )
    found: tuple[str, ...] = Field((), description="ids of the claims that were located")
    n_claims: int


class FindingJudged(Schema):
    """What a judge made of one finding. Undefined where a test could not be held, or was not answered."""

    rank: int
    component: int
    explanation: str = Field(description="the judge's; empty: it was not asked for one, or gave none")
    detection: Figure
    fuzzing: Figure
    intruder: Figure
    intervention: Figure


class ControlScores(Schema):
    """The four tests on something of which nobody claims that it means anything."""

    detection: Figure
    fuzzing: Figure
    intruder: Figure
    intervention: Figure


class Judged(Schema):
    """One test over the first ten findings, beside its controls. Intervals are over findings."""

    score: Figure = Field(description="mean over the findings that could be tested")
    shuffled: Figure = Field(description="the same with the explanations of other findings")
    random: Figure = Field(description="the same for a random dictionary on the same pair")
    untrained: Figure = Field(description="the same for a dictionary trained on the difference of two untrained models")
    over_shuffled: Figure = Field(description="score - shuffled, paired by finding")
    over_random: Figure = Field(description="score - random")
    over_untrained: Figure = Field(description="score - untrained")


class TruthMatch(Schema):
    """Agreement of one account with the truth: by a program alone, and by a judge.

    Whoever abstains gets 0 where something was changed and one half where nothing was; a wrong account never gets more.
    """

    auroc: Figure = Field(
        description="of the account's patterns, affected against near-miss contexts; .5 tells nothing apart"
    )
    auroc_unrelated: Figure = Field(description="the same against near-miss and unrelated contexts")
    precision: Figure = Field(
        description="share of the words it lists, each with its way, that moved so; words that a claim says to move so "
        "and that were not seen to are left out"
    )
    recall: Figure = Field(
        description="share of the words that moved which it lists with their way; of each way no more are asked for "
        "than an account can list"
    )
    f1: Figure = Field(description="2 hits / (listed + moved)")
    net: Figure = Field(description="(hits - wrong) / max(listed, moved), -1..1")
    structured: Figure = Field(
        description="h(2 auroc - 1) + h((hits - 2 wrong) / max(listed, moved)), at least -1, with h(x) = x/2, and x "
        "where it is negative; abstaining: 0. Where nothing was changed: 1 for saying so, .5 for abstaining, 0 for any "
        "change"
    )
    grade: Figure = Field(description="a judge's grade over 4; abstaining: 0, where nothing was changed .5")
    choice: Figure = Field(
        description="1 if the statement that a judge takes it to speak of is the right one, else 0; chance if it "
        "abstains or the judge cannot tell"
    )
    chance: Figure = Field(description="one over the number of statements")
    brier: Figure = Field(
        description="(confidence - right)^2, where right is the choice, and the verdict where nothing was changed; "
        "lower is better, .25 knows nothing"
    )
    verdict: Literal["changed", "unchanged", "abstain"] | None = Field(
        None, description="the account's; null: there is no account"
    )
    confidence: float | None = Field(None, ge=0, le=1, description="the account's, in itself")
    statement: str = Field("", max_length=MOST_STATED, description="the account in words, cut to one line")

    @classmethod
    def none(cls, why: Figure) -> TruthMatch:
        """The score where there is none."""
        return cls(**{name: why for name, field in cls.model_fields.items() if field.annotation is Figure})


class Interpretability(Schema):
    """What a judge who reads a finding's evidence can tell of other documents, and makes of all findings together."""

    judge: str = Field(description="name and version of the judge that scored")
    detection: Judged = Field(
        description="balanced accuracy: is the component active at the last token of a context, by its explanation?"
    )
    fuzzing: Judged = Field(
        description="balanced accuracy: do marks stand where the component is active, by its explanation?"
    )
    intruder: Judged = Field(
        description="share of right picks: which of five contexts is not the component's? Chance: .2; no explanation"
    )
    intervention: Judged = Field(
        description="share of right picks: which of two continuations was written with the component added to the "
        "reference, by its explanation? Chance: .5"
    )
    findings: tuple[FindingJudged, ...] = ()
    match: TruthMatch = Field(description="what the judge concludes from all findings, held against the truth")
    match_random: TruthMatch = Field(
        description="the same for a random dictionary on the pair, whose evidence shows as well what the models say"
    )
    account_over_random: Figure = Field(description="structured score of the account - that of the random dictionary's")
    questions: int = Field(0, description="that the judge was asked")
    unanswered: int = Field(0, description="of these: refused, malformed, or not reached")
    usage: Usage = Field(FREE, description="that the answers cost when they were first given")


class Scores(Schema):
    """All that a cell is scored by. Identical for the same inputs on the same machine.

    The version is raised whenever a score changes its meaning; records of another one are re-scored, never mixed.
    """

    schema_version: Literal[3] = 3
    recovery: Recovery
    behaviour: Behaviour
    disentangling: Disentangling
    attribution: Attribution
    fit: Fit
    localisation: Localisation
    direction: Direction
    claims: ClaimScores
    interpretability: Interpretability
    change_score: Figure
    verdict: Verdict
    n_findings: int
