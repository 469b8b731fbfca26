"""Valid records for tests: one call, with the parts that matter passed by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffbench.canonical import digest
from diffbench.figure import Figure
from diffbench.record import Budget, Cell, Hashes, Invariants, LayerFacts, PairFacts, Record, Timings
from diffbench.run_folder import CELLS, RECORD_FILE, Provenance, RunFile, cell_folder_name, write_run_file
from diffbench.scores import (
    Attribution,
    Behaviour,
    BudgetPoint,
    ClaimBehaviour,
    ClaimScores,
    ClaimSeparation,
    CurvePoint,
    Direction,
    Disentangling,
    DosePoint,
    Fit,
    Interpretability,
    Judged,
    Localisation,
    Recovery,
    Scores,
    SetScore,
    StratumScore,
)
from diffbench.tier import COMPONENT_BUDGETS, TIERS
from diffbench.truth_match import TruthMatch

CEILINGS = (0.50, 0.74, 0.90)
PCA = (0.28, 0.44, 0.61, 0.80)
ABSENT = Figure.not_applicable("no dictionary")


def figure(value: float, width: float | None = None) -> Figure:
    """A number, with an interval of that half-width if one is passed."""
    return Figure.of(value) if width is None else Figure.of(value, value - width, value + width)


BLOCKS = {
    "recovery": Recovery,
    "behaviour": Behaviour,
    "disentangling": Disentangling,
    "attribution": Attribution,
    "fit": Fit,
    "localisation": Localisation,
    "direction": Direction,
    "claims": ClaimScores,
    "interpretability": Interpretability,
}


def budget_points(lift: float) -> tuple[BudgetPoint, ...]:
    """R is PCA's plus ``lift`` at every budget."""
    return tuple(
        BudgetPoint(
            k=k,
            r=figure(pca + lift),
            r_pca=figure(pca),
            lift=figure(lift, 0.05),
            active_per_token=figure(k / 2),
            r_random=figure(0.05, 0.02),
            r_noise=figure(-0.1, 0.04),
            above_noise=pca + lift > -0.06,
            r_model=figure(0.8 * (pca + lift)),
            necessity=figure(0.7 * (pca + lift)),
        )
        for k, pca in zip(COMPONENT_BUDGETS, PCA, strict=True)
    )


def scores(lift: float = 0.2, **changes: Any) -> Scores:
    """Scores whose R is PCA's plus ``lift`` at every budget; ``changes`` replace parts by name, e.g. ``fve=``.

    Where two blocks have a field of one name, the change is called ``<block>_<field>``, e.g. ``detection_lift``.
    """
    parts = {name: dict(fields) for name, fields in _parts(lift).items()}
    top: dict[str, Any] = {"change_score": figure(0.04), "verdict": "changed", "n_findings": 10}
    renamed = {"disentangling_score": ("disentangling", "score")}
    for name, value in changes.items():
        if name in ("detection", "detection_lift"):
            part = {"score" if name == "detection" else "over_random": value}
            told = parts["interpretability"]["detection"]
            parts["interpretability"]["detection"] = told.model_copy(update=part)
            continue
        if name in renamed:
            block, field = renamed[name]
            parts[block][field] = value
            continue
        home = next((part for part in parts.values() if name in part), top)
        assert name in home, name
        home[name] = value
    return Scores(**{name: BLOCKS[name](**part) for name, part in parts.items()}, **top)


def _parts(lift: float) -> dict[str, dict[str, Any]]:
    mean = sum(PCA) / len(PCA) + lift
    strata = ("all", "affected", "near_miss", "unrelated", "response_start", "response_rest", "template", "high_kl")
    bounds = (0.1, 0.3, 0.6)
    return {
        "recovery": {
            "r_full": figure(0.97),
            "r_error": figure(0.02),
            "r_full_affected": figure(0.98),
            "r_error_affected": figure(0.01),
            "r_bias_affected": figure(0.0),
            "r_model": figure(0.7, 0.03),
            "r_model_affected": figure(0.72),
            "necessity": figure(0.65),
            "necessity_affected": figure(0.66),
            "budgets": budget_points(lift),
            "budget_mean": figure(mean, 0.04),
            "headline": figure(lift, 0.05),
            "curve": tuple(
                CurvePoint(k=k, r=figure(mean), r_model=figure(mean - 0.1), active_per_token=figure(k / 2))
                for k in (0, 1, 16)
            ),
            "area": figure(mean),
            "strata": tuple(
                StratumScore(
                    stratum=name,
                    positions=100,
                    kl_share=figure(0.2),
                    r_full=figure(0.9),
                    r_error=figure(0.03),
                    r_top=figure(mean),
                )
                for name in strata
            ),
            "sets": tuple(
                SetScore(nu="nu_error", below=bound, n=9, replace=figure(0.6), additive=figure(0.1)) for bound in bounds
            ),
        },
        "behaviour": {
            "installed": figure(0.62, 0.1),
            "removed": figure(0.41, 0.1),
            "off_target_kl": figure(0.02),
            "selectivity": figure(0.93),
            "claims": (
                ClaimBehaviour(
                    claim="swap",
                    n_probes=60,
                    reference=figure(0.02),
                    tuned=figure(0.5),
                    installed=figure(0.62),
                    removed=figure(0.41),
                ),
            ),
            "dose": (DosePoint(strength=2.0, installed=figure(0.8), off_target_kl=figure(0.07)),),
        },
        "disentangling": {
            "score": figure(0.55),
            "claims": (ClaimSeparation(claim="swap", components=(3,), removed=figure(0.6), others=figure(0.05)),),
        },
        "attribution": {
            "n_contexts": 32,
            "cut_top": figure(0.5),
            "cut_random": figure(0.02),
            "agreement": figure(0.7),
            "agreement_chance": figure(0.02),
        },
        "fit": {
            "fve": figure(0.91),
            "fve_delta": figure(0.88),
            "l0": figure(7.9),
            "dead_share": figure(0.03),
            "n_components": 512,
        },
        "localisation": {
            "auroc_first": figure(0.93),
            "auroc_best10": figure(0.98),
            "auroc_best10_shuffled": figure(0.71),
            "ap_first": figure(0.9),
            "precision_at_5": figure(0.6),
            "precision_at_10": figure(0.4),
            "precision_at_10_shuffled": figure(0.03),
            "first_hit": figure(1),
            "first_hit_shuffled": figure(37.5),
            "n_affected": 60,
            "n_near_miss": 60,
        },
        "direction": {
            "agreement_first": figure(0.8),
            "agreement_best10": figure(0.9),
            "agreement_best10_shuffled": figure(0.3),
            "agreement_shuffled": figure(0.1),
            "moved_found": figure(0.5),
        },
        "claims": {
            "recall": figure(0.5),
            "recall_direction": figure(0.25),
            "over_listing": figure(0.6),
            "found": ("swap",),
            "n_claims": 2,
        },
        "interpretability": {
            "judge": "ngram 1",
            "detection": judged(0.81, 0.6),
            "fuzzing": judged(0.7, 0.55),
            "intruder": judged(0.4, 0.22),
            "intervention": judged(0.9, 0.8),
            "findings": (),
            "match": truth_match(),
            "match_random": truth_match(),
            "account_over_random": figure(0.0),
        },
    }


def judged(score: float, control: float) -> Judged:
    """A test whose controls all have the same score."""
    return Judged(
        score=figure(score),
        **dict.fromkeys(("shuffled", "random", "untrained"), figure(control)),
        **dict.fromkeys(("over_shuffled", "over_random", "over_untrained"), figure(score - control, 0.08)),
    )


def truth_match() -> TruthMatch:
    """Of an account that is right for the most part."""
    values = {"auroc": 0.8, "precision": 0.5, "structured": 0.4, "grade": 0.75, "choice": 1.0, "chance": 0.125}
    figures = {
        name: figure(values.get(name, 0.3))
        for name, field in TruthMatch.model_fields.items()
        if field.annotation is Figure
    }
    return TruthMatch(**figures, verdict="changed", confidence=0.9, statement="It says green for blue.")


def pair_facts(**changes: Any) -> PairFacts:
    """Facts of a pair with three layers, the second of which is scored."""
    facts: dict[str, Any] = {
        "layer": 1,
        "layer_rule": "smallest layer whose ceiling is at least .7",
        "kl": figure(0.231),
        "kl_noise": 1.2e-7,
        "kl_affected": figure(2.5),
        "kl_affected_share": figure(0.34),
        "trigger_rate": 0.031,
        "outlier_share": 0.001,
        "outlier_norms": (90.0, 95.0),
        "n_positions": 4000,
        "n_documents": 120,
        "matmul": "highest",
        "invariants": Invariants(nothing=figure(0.0), true_delta=figure(1.0), weight_delta=figure(1.0)),
        "r_mean_delta": figure(0.12),
        "r_mean_delta_affected": figure(0.2),
        "layers": tuple(
            LayerFacts(
                layer=i,
                coverage=figure(0.9 + i / 10),
                ceiling=figure(ceiling),
                ceiling_affected=figure(ceiling + 0.02),
                necessity=figure(ceiling - 0.05),
                necessity_affected=figure(ceiling - 0.04),
            )
            for i, ceiling in enumerate(CEILINGS)
        ),
    }
    return PairFacts(**{**facts, **changes})


def record(
    method: str = "diff-sae",
    seed: int = 0,
    *,
    status: str = "ok",
    reason: str | None = None,
    scored: Scores | None = None,
    pair: PairFacts | None = None,
    cell: dict[str, Any] | None = None,
    timings: dict[str, Any] | None = None,
    key: str | None = None,
) -> Record:
    """A record; ``cell`` and ``timings`` replace fields of those blocks."""
    asked: dict[str, Any] = {
        "organism": "halfswap",
        "organism_version": 1,
        "reference": "base",
        "method": method,
        "method_version": 1,
        "method_package": "diffbench 0.1.0",
        "control": False,
        "access": ("activations",),
        "seed": seed,
        "options_passed": {},
        "options": {"k": 8},
        "tier": "smoke",
        "judge": "ngram",
        **(cell or {}),
    }
    tier = TIERS["smoke"]
    cost: dict[str, Any] = {
        "started": "2026-01-02T03:04:05Z",
        "method_seconds": 12.5,
        "score_seconds": 3.25,
        "peak_memory_mb": 800.0,
        "harvest_seconds": 2.0,
        "sandbox": "landlock",
        "usage": {"tokens": 20000},
        "versions": {"torch": "2.4.0"},
        "platform": "Linux x86_64",
        **(timings or {}),
    }
    hashes: dict[str, Any] = {name: digest(name) for name in Hashes.model_fields}
    hashes["judged"] = {name: digest(name) for name in ("evidence.parquet", "verdicts.jsonl")}
    hashes["diff"] = {name: digest(name) for name in ("diff.json", "tensors.safetensors")}
    return Record(
        key=key or digest([asked, status]),
        cell=Cell(**asked),
        status=status,
        reason=reason,
        budget=Budget(tokens=tier.tokens, components=tier.components, seconds=tier.seconds),
        hashes=Hashes(**hashes),
        pair=pair or pair_facts(),
        scores=(scored or scores()) if status == "ok" else None,
        timings=Timings(**cost),
    )


def run_file(name: str = "demo", started: str = "2026-01-02T03:04:00Z") -> RunFile:
    """A ``run.json``."""
    provenance = Provenance(diffbench="0.1.0", python="3.11.9", platform="Linux x86_64", started=started)
    return RunFile(
        name=name,
        argv=("diffbench", "run", "--organism", "halfswap"),
        config={"tier": "smoke"},
        passed={},
        provenance=provenance,
    )


def write_run(folder: Path, records: list[Record], file: RunFile | None = None) -> Path:
    """A run folder with these records, in the order given."""
    write_run_file(folder, file or run_file(folder.name))
    for item in records:
        item.write(folder / CELLS / cell_folder_name(item.cell, item.key) / RECORD_FILE)
    return folder


def board_of_everything() -> list[Record]:
    """Every kind of row once: controls, competitors over seeds, n/a, undefined, failures, two references."""
    control = {"control": True}
    found = [
        record("nothing", cell=control, scored=scores(-0.53, r_full=figure(0.0), r_error=figure(1.0))),
        record(
            "oracle",
            cell=control,
            scored=scores(0.4, first_hit_shuffled=ABSENT, detection=ABSENT, detection_lift=ABSENT),
        ),
        record("random-dictionary", cell=control, scored=scores(-0.1, verdict="abstain")),
        record("added-noise", cell=control, status="error", reason="WorkerError: killed by signal 9"),
        *(record("diff-sae", seed, scored=scores(lift)) for seed, lift in enumerate((0.1, 0.12, 0.17))),
        *(record("crosscoder-l1", seed, scored=scores(lift)) for seed, lift in enumerate((0.02, -0.06))),
        record("crosscoder-l1", cell={"options": {"k": 16}, "options_passed": {"k": 16}}, scored=scores(0.15)),
        *(record("diff-sae", seed, cell={"ranking": "nu_error"}, scored=scores(0.3 + seed / 50)) for seed in range(2)),
        record("random-dictionary", cell={**control, "ranking": "energy"}, scored=scores(-0.2)),
        record("mean-difference", cell={"ranking": "energy"}, status="not_applicable", reason="no latents; none"),
        record(
            "mean-difference",
            scored=scores(-0.2, fve=ABSENT, l0=ABSENT, dead_share=ABSENT, n_components=1, verdict="unchanged"),
        ),
        record("token-kl", scored=_output_scores()),
        record("stitching", status="not_applicable", reason="the pair has different widths"),
        record("tied", status="error", reason="BudgetExceeded: 61.2 s of 60 s"),
        *(
            record("flaky", seed, scored=scores(0.5))
            if seed
            else record("flaky", seed, status="error", reason="DiffError: decoder holds NaN")
            for seed in range(4)
        ),
        record("reads-data", cell={"access": ("activations", "training_data")}, scored=scores(0.9)),
    ]
    quiet = pair_facts(kl=figure(1e-8), kl_affected_share=Figure.undefined("KL is under its noise floor"))
    found.append(record("diff-sae", cell={"reference": "control"}, scored=_undefined_scores(), pair=quiet))
    return found


RECOVERED = (
    *("r_full", "r_error", "r_full_affected", "r_error_affected", "r_bias_affected", "r_model", "r_model_affected"),
    *("necessity", "necessity_affected", "budget_mean", "headline", "area"),
)
CAUSAL = (*RECOVERED, "installed", "removed", "off_target_kl", "selectivity", "cut_top", "cut_random", "agreement")


def no_points(nothing: Figure, pca: bool) -> tuple[BudgetPoint, ...]:
    """Budgets at which nothing could be measured, but PCA's where ``pca``."""
    points = budget_points(0.0)
    gone = {name: nothing for name in BudgetPoint.model_fields if name not in ("k", "r_pca")} | {"above_noise": None}
    return tuple(
        BudgetPoint(k=point.k, r_pca=point.r_pca if pca else nothing, **gone)  # type: ignore[arg-type]
        for point in points
    )


def _output_scores() -> Scores:
    nothing = Figure.not_applicable("an OutputDiff has no edit")
    empty = dict.fromkeys(("curve", "strata", "sets", "dose"), ())
    names = (*CAUSAL, "fve", "fve_delta", "l0", "dead_share", "disentangling_score")
    changes = {"n_components": 0, "n_contexts": 0, **empty}
    budgets = no_points(nothing, pca=True)
    return scores(budgets=budgets, **changes, **dict.fromkeys(names, nothing))


def _undefined_scores() -> Scores:
    nothing = Figure.undefined("KL is under its noise floor")
    none = Figure.not_applicable("no finding reaches .9")
    return scores(budgets=no_points(nothing, pca=False), first_hit=none, **dict.fromkeys(CAUSAL, nothing))
