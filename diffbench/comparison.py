"""Comparison: an organism, the reference it is compared with, and a tier, prepared once for all methods.

Preparing makes the three disjoint splits of the organism's text, chooses the layer, harvests the activations, and
measures what does not depend on a method: coverage and ceiling per layer, PCA's curve, the KL to be recovered.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffbench import cache
from diffbench.build import GATE_CODE, Organism, resolve, split, stored_truth
from diffbench.canonical import digest
from diffbench.errors import CacheError
from diffbench.exchange import ACTIVATIONS, TEXT
from diffbench.figure import Figure
from diffbench.recipe import Recipe
from diffbench.record import LayerFacts, PairFacts
from diffbench.tier import COMPONENT_BUDGETS, Tier
from diffbench.truth import Stratum, Truth

if TYPE_CHECKING:
    from diffbench.judge import Judge

COMPARISON, CONTROLS = "comparisons", "controls"
CODE = (
    *GATE_CODE,
    "diffbench.comparison",
    "diffbench.exchange",
    "diffbench.handle",
    "diffbench.invariants",
    "diffbench.pairing",
    "diffbench.rounding",
    "diffbench.tier",
)
"""Code that a prepared comparison follows from."""
SCORE_CODE = (
    *CODE,
    "diffbench.account",
    "diffbench.activity",
    "diffbench.attribution",
    "diffbench.attribution_score",
    "diffbench.behaviour",
    "diffbench.bench",
    "diffbench.budget_curve",
    "diffbench.causal_score",
    "diffbench.choices",
    "diffbench.claim_scores",
    "diffbench.codes",
    "diffbench.conclusion",
    "diffbench.dashboard",
    "diffbench.decoders",
    "diffbench.decoding",
    "diffbench.design",
    "diffbench.diff_file",
    "diffbench.direction",
    "diffbench.disentangling",
    "diffbench.evidence",
    "diffbench.evidence_file",
    "diffbench.feature_dashboard",
    "diffbench.finding_evidence",
    "diffbench.findings",
    "diffbench.fit_score",
    "diffbench.gathering",
    "diffbench.ground",
    "diffbench.interpretability",
    "diffbench.interpretation",
    "diffbench.judge",
    "diffbench.judging",
    "diffbench.kl_dashboard",
    "diffbench.latent_row",
    "diffbench.latent_scaling",
    "diffbench.latents",
    "diffbench.lens",
    "diffbench.localisation",
    "diffbench.losses",
    "diffbench.movement",
    "diffbench.options",
    "diffbench.panel",
    "diffbench.picture",
    "diffbench.probing",
    "diffbench.question",
    "diffbench.ranking",
    "diffbench.rival",
    "diffbench.rollout",
    "diffbench.scaling",
    "diffbench.score",
    "diffbench.selection",
    "diffbench.sensitivity",
    "diffbench.sheet",
    "diffbench.spending",
    "diffbench.steering",
    "diffbench.tally",
    "diffbench.tied_dashboard",
    "diffbench.training",
    "diffbench.trial",
    "diffbench.truth_match",
    "diffbench.untrained",
    "diffbench.weight_sensitivity",
    "diffbench.weights",
    "diffbench.wording",
)
"""Code that scores follow from."""
SAMPLE_TOKENS, SAMPLE_SHARE = 50_000, 0.2
"""How much of a streamed text is stored: so many tokens, and no more than this share of it."""

Reference = Literal["base", "control"]
HarvestDtype = Literal["float32", "bfloat16", "auto"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared, on how much text, at which layer (None: by the rule), and how its activations are read.

    Attributes:
        harvest_dtype: what the models compute in while rows are harvested; auto: bfloat16 where it is exact enough.
        streaming: rows to train on are made on the fly, and only a sample is stored.
    """

    organism: Organism
    reference: Reference
    tier: Tier
    layer: int | None = None
    harvest_dtype: HarvestDtype = "float32"
    streaming: bool = False

    def inputs(self) -> dict[str, Any]:
        """What everything prepared follows from."""
        return {
            "stage": "comparison",
            "organism": self.organism.inputs(),
            "reference": self.organism.model_key(self.reference),
            "tier": self.tier.model_dump(mode="json", include={"tokens", "evaluation_tokens", "judge_tokens"}),
            "layer": self.layer,
            "harvest_dtype": self.harvest_dtype,
            "streaming": self.streaming,
            "code": cache.code_version(*CODE),
            "libraries": cache.libraries(),
        }

    @property
    def key(self) -> str:
        """SHA-256 of the inputs."""
        return digest(self.inputs())

    @property
    def path(self) -> Path:
        """Its cache entry, prepared or not."""
        return cache.entry(COMPARISON, self.inputs())

    def request(self) -> dict[str, Any]:
        """As a worker task's request."""
        return {
            "recipe": self.organism.recipe.model_dump(mode="json"),
            "reference": self.reference,
            "tier": self.tier.model_dump(mode="json"),
            "layer": self.layer,
            "harvest_dtype": self.harvest_dtype,
            "streaming": self.streaming,
        }

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Comparison:
        """The inverse of `request`."""
        return cls(
            organism=resolve(Recipe.model_validate(request["recipe"])),
            reference=request["reference"],
            tier=Tier.model_validate(request["tier"]),
            layer=request["layer"],
            harvest_dtype=request["harvest_dtype"],
            streaming=request["streaming"],
        )

    def models(self) -> tuple[Path, Path]:
        """Folders of the reference and the tuned model."""
        return self.organism.model_path(self.reference), self.organism.model_path("tuned")

    def facts(self) -> PairFacts:
        """What holds for the pair whatever the method."""
        return PairFacts.model_validate(cache.read_json(self.path / "facts.json"))

    def truth(self) -> Truth | None:
        """The organism's Truth; None: nobody knows what changed."""
        return stored_truth(self.organism)

    def seconds(self) -> float:
        """What preparing cost."""
        return float(cache.read_json(self.path / "seconds.json"))


def prepare_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Worker task: prepare a comparison unless it is prepared. Request: `Comparison.request`."""
    from diffbench.worker import report

    comparison = Comparison.of(request)
    path = cache.publish(COMPARISON, comparison.inputs(), lambda folder: _prepare(comparison, folder, report))
    return {"path": str(path)}


def _prepare(comparison: Comparison, folder: Path, report: Callable[[str, float], None]) -> None:
    from diffbench.harvest import harvest
    from diffbench.layer_rule import choose_layer
    from diffbench.pairing import check_pair, check_text
    from diffbench.residual import find_tokenizer, load_pair, load_tokenizer, outline, pair_of
    from diffbench.rounding import choose_dtype

    started = time.monotonic()
    organism, tier, truth = comparison.organism, comparison.tier, comparison.truth()
    base, paths = organism.model_path("base"), comparison.models()
    tokenizer, shapes = load_tokenizer(paths[1], base=base), [outline(path, base=base) for path in paths]
    known = find_tokenizer(paths[0], base=base)
    words = check_pair(shapes[0], shapes[1], tokenizer, comparison.layer, reference_tokenizer=known)
    report("writing text", 0.0)
    sizes = {"method": tier.tokens, "evaluation": tier.evaluation_tokens, "judge": tier.judge_tokens}
    corpora = {name: split(organism, truth, tokenizer, name, n) for name, n in sizes.items()}
    for corpus in corpora.values():
        check_text(corpus, words)
    report("choosing the layer", 0.2)
    text, both = corpora["method"], partial(load_pair, *paths, base=base)
    layer, rule = (comparison.layer, "chosen by hand") if comparison.layer is not None else choose_layer(*both(), text)
    report(f"harvesting layer {layer}", 0.4)
    in_turn = partial(pair_of, *paths, base=base)  # both models are in memory before and after, never during it
    dtype, ratio = choose_dtype(comparison.harvest_dtype, lambda dtype: in_turn(dtype=dtype), text, layer)
    first = _first_stored(text) if comparison.streaming else 0
    activations = harvest(*in_turn(dtype=dtype), text, layer, first_document=first, scratch=folder)
    (folder / "in").mkdir()
    activations.save(folder / "in" / ACTIVATIONS)
    corpora["method"].save(folder / "in" / TEXT, labelled=False)
    for name in ("evaluation", "judge"):
        corpora[name].save(folder / f"{name}.safetensors", labelled=True)
    report("measuring ceilings and PCA", 0.6)
    apart = partial(load_pair, *paths, base=base, apart=True)
    facts = _measure(folder, both, apart, corpora["evaluation"], activations, rule)
    facts = facts.model_copy(
        update={"harvest_dtype": dtype, "harvest_ratio": ratio, "streamed": comparison.streaming, "vocabulary": words}
    )
    (folder / "facts.json").write_text(facts.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / "seconds.json").write_text(json.dumps(time.monotonic() - started), encoding="utf-8")


def _first_stored(corpus: Any) -> int:
    """The first document of the sample of a streamed text; those before it are trained on.

    Raises:
        CacheError: if the text is one document.
    """
    if len(corpus) < 2:
        raise CacheError("streaming: one document cannot be split into text to train on and held-out text")
    first: int = corpus.tail(min(SAMPLE_TOKENS, int(SAMPLE_SHARE * corpus.n_tokens)))
    return max(1, first)


def _measure(
    folder: Path,
    both: Callable[[], tuple[Any, Any]],
    apart: Callable[[], tuple[Any, Any]],
    corpus: Any,
    activations: Any,
    rule: str,
) -> PairFacts:
    """What holds for the pair whatever the method; its KL sums are written into ``folder``.

    Raises:
        CheckpointError: if a causal score whose value is known has another one.
    """
    from safetensors.torch import save_file

    from diffbench.causal import recovery, sweep
    from diffbench.gate import trigger_rate
    from diffbench.invariants import measure_invariants
    from diffbench.patching import outlier_limits
    from diffbench.precision import use_fast_matmul
    from diffbench.residual import blocks
    from diffbench.strata import inside

    reference, tuned = both()
    layer, layers = activations.layer, range(len(blocks(tuned)))
    token_kl = sweep(reference, tuned, corpus, {}).token_kl
    limits = outlier_limits(reference, tuned, corpus, list(layers))
    limits[layer] = activations.outlier_norms or limits[layer]
    arms = _arms(activations, layers)
    kl = sweep(reference, tuned, corpus, arms, strata=inside(corpus, token_kl), limits=limits).kl
    stored = {name: kl[name].sums for name in ("reference", "tuned", *(f"pca{k}" for k in COMPONENT_BUDGETS))}
    stored |= {"none": kl[f"none@{layer}"].sums, "positions": kl["reference"].positions, "token_kl": token_kl}
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, folder / "kl.safetensors")
    whole, affected, noise = (
        kl[name].mean(stratum)
        for name, stratum in (("reference", None), ("reference", Stratum.affected), ("self", None))
    )
    assert whole is not None and noise is not None  # a corpus without any position is refused before
    floor, none = noise_floor(abs(noise)), kl[f"none@{layer}"]
    return PairFacts(
        layer=layer,
        layer_rule=rule,
        kl=Figure.of(whole),
        kl_noise=abs(noise),
        kl_affected=Figure.undefined("no affected positions") if affected is None else Figure.of(affected),
        kl_affected_share=Figure.of(kl["reference"].total(Stratum.affected) / kl["reference"].total())
        if affected is not None and whole > floor
        else Figure.undefined("no affected positions, or no KL above its noise floor"),
        trigger_rate=trigger_rate(corpus),
        outlier_share=activations.outlier_share,
        outlier_norms=limits[layer],
        n_positions=int(corpus.predicts.sum()),
        n_documents=len(corpus),
        matmul=use_fast_matmul(),
        invariants=measure_invariants(apart, corpus, layer, {layer: limits[layer]}, floor),
        r_mean_delta=recovery(kl["mean"], none, None, floor),
        r_mean_delta_affected=recovery(kl["mean"], none, Stratum.affected, floor),
        layers=tuple(
            LayerFacts(
                layer=at,
                coverage=_coverage(kl[f"none@{at}"], kl["reference"], floor),
                ceiling=recovery(kl[f"delta@{at}"], kl["reference"], None, floor),
                ceiling_affected=recovery(kl[f"delta@{at}"], kl["reference"], Stratum.affected, floor),
                necessity=recovery(kl[f"without@{at}"], kl["tuned"], None, floor),
                necessity_affected=recovery(kl[f"without@{at}"], kl["tuned"], Stratum.affected, floor),
            )
            for at in layers
        ),
    )


def _arms(activations: Any, layers: range) -> dict[str, Any]:
    """What is measured of a pair whatever the method: each layer's ceilings, PCA's curve, the mean difference."""
    import torch

    from diffbench.controls import principal_directions
    from diffbench.edit import ActivationEdit
    from diffbench.patching import Arm, none, true_delta

    layer = activations.layer
    directions, _ = principal_directions(activations, min(max(COMPONENT_BUDGETS), activations.width))
    pca = ActivationEdit(directions)
    arms = {f"none@{at}": Arm(at, none) for at in layers}
    arms |= {f"delta@{at}": Arm(at, true_delta, "model") for at in layers}
    arms |= {f"without@{at}": Arm(at, true_delta, "without", "reference") for at in layers}
    arms["self"] = Arm(layer, true_delta)
    arms["mean"] = Arm(layer, lambda rows: directions.bias.expand_as(rows.h_b))
    for k in COMPONENT_BUDGETS:
        components = torch.arange(min(k, directions.n_components))
        arms[f"pca{k}"] = Arm(layer, partial(pca.subset, components=components))
    return arms


def _coverage(hybrid_none: Any, reference: Any, floor: float) -> Figure:
    """KL(tuned || hybrid none) / KL(tuned || reference)."""
    mean = reference.mean()
    if mean is None or mean <= floor:
        return Figure.undefined("KL(tuned || reference) is at or under its noise floor")
    return Figure.of(hybrid_none.total() / reference.total())


def noise_floor(noise: float) -> float:
    """Mean KL in nats at or under which nothing can be recovered: ten times what the patching path itself makes."""
    from diffbench.layer_rule import LEAST_FLOOR

    return max(LEAST_FLOOR, 10 * noise)


def control_inputs(comparison: Comparison, judge: type[Judge]) -> dict[str, Any]:
    """What a judge's controls on a pair follow from."""
    return {
        "stage": "control",
        "comparison": comparison.key,
        "components": comparison.tier.components,
        "judge": judge().identity(),
        "code": [cache.plugin_version(judge), cache.code_version(*SCORE_CODE)],
        "libraries": cache.libraries(),
    }
