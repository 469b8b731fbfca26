"""Valid records for tests: one call, with the parts that matter passed by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffbench.canonical import digest
from diffbench.record import (
    Budget,
    BudgetPoint,
    Cell,
    Figure,
    Fit,
    Hashes,
    Interpretability,
    LayerFacts,
    Localisation,
    PairFacts,
    Record,
    Recovery,
    Scores,
    Timings,
)
from diffbench.run_folder import CELLS, RECORD_FILE, Provenance, RunFile, cell_folder_name, write_run_file
from diffbench.tier import COMPONENT_BUDGETS, TIERS

CEILINGS = (0.50, 0.74, 0.90)
PCA = (0.28, 0.44, 0.61, 0.80)
ABSENT = Figure.not_applicable("no dictionary")


def figure(value: float, width: float | None = None) -> Figure:
    """A number, with an interval of that half-width if one is passed."""
    return Figure.of(value) if width is None else Figure.of(value, value - width, value + width)


def scores(lift: float = 0.2, **changes: Any) -> Scores:
    """Scores whose R is PCA's plus ``lift`` at every budget; ``changes`` replace parts by name, e.g. ``fve=``."""
    budgets = tuple(
        BudgetPoint(
            k=k,
            r=figure(pca + lift),
            r_pca=figure(pca),
            lift=figure(lift, 0.05),
            active_per_token=figure(k / 2),
        )
        for k, pca in zip(COMPONENT_BUDGETS, PCA, strict=True)
    )
    parts: dict[str, Any] = {
        "recovery": {
            "r_full": figure(0.97),
            "r_error": figure(0.02),
            "r_full_affected": figure(0.98),
            "r_error_affected": figure(0.01),
            "r_bias_affected": figure(0.0),
            "budgets": budgets,
            "headline": figure(lift, 0.05),
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
            "first_hit": figure(1),
            "first_hit_shuffled": figure(37.5),
            "n_affected": 60,
            "n_near_miss": 60,
        },
        "interpretability": {
            "judge": "ngram 1",
            "detection": figure(0.81),
            "control": figure(0.6),
        },
    }
    parts["interpretability"]["lift"] = changes.pop("detection_lift", figure(0.21, 0.08))
    top: dict[str, Any] = {"change_score": figure(0.04), "verdict": "changed", "n_findings": 10}
    for name, value in changes.items():
        home = next((part for part in parts.values() if name in part), top)
        assert name in home, name
        home[name] = value
    return Scores(
        recovery=Recovery(**parts["recovery"]),
        fit=Fit(**parts["fit"]),
        localisation=Localisation(**parts["localisation"]),
        interpretability=Interpretability(**parts["interpretability"]),
        **top,
    )


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
        "n_positions": 4000,
        "n_documents": 120,
        "matmul": "highest",
        "layers": tuple(
            LayerFacts(layer=i, coverage=figure(0.9 + i / 10), ceiling=figure(ceiling))
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


def _output_scores() -> Scores:
    names = ("r_full", "r_error", "r_full_affected", "r_error_affected", "r_bias_affected", "headline")
    nothing = Figure.not_applicable("an OutputDiff has no edit")
    budgets = tuple(
        BudgetPoint(k=k, r=nothing, r_pca=figure(pca), lift=nothing, active_per_token=nothing)
        for k, pca in zip(COMPONENT_BUDGETS, PCA, strict=True)
    )
    fit = {name: nothing for name in ("fve", "fve_delta", "l0", "dead_share")}
    return scores(budgets=budgets, n_components=0, **dict.fromkeys(names, nothing), **fit)


def _undefined_scores() -> Scores:
    names = ("r_full", "r_error", "r_full_affected", "r_error_affected", "r_bias_affected", "headline")
    nothing = Figure.undefined("KL is under its noise floor")
    budgets = tuple(
        BudgetPoint(k=k, r=nothing, r_pca=nothing, lift=nothing, active_per_token=figure(1)) for k in COMPONENT_BUDGETS
    )
    none = Figure.not_applicable("no finding reaches .9")
    return scores(budgets=budgets, first_hit=none, **dict.fromkeys(names, nothing))
