"""The bundled dictionary methods: each trains its own design, and a pair of SAEs is put together and matched right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_factory import dictionary_diff, rows

from diffbench import dictionary, fitting
from diffbench.design import L1, Design, TopK
from diffbench.diff import DictionaryDiff
from diffbench.errors import OptionError
from diffbench.formats import write_dictionary
from diffbench.method import Context, resolve_options
from diffbench.planted import PlantedParameters, plant
from diffbench.planted_pair import PlantedPair
from diffbench.plugins import find_method
from diffbench.tier import TIERS

D, N = 12, 18
OPTIONS: dict[str, dict[str, Any]] = {
    "crosscoder-batchtopk": {"k": 3, "matryoshka": 2},
    "crosscoder-l1": {"penalty": 0.7, "error": "norm"},
    "crosscoder-shared": {"shared": 0.3, "shared_penalty": 0.2},
    "crosscoder-tied": {"eta": 3.0},
    "crosscoder-lambda": {"lambda_diff": -0.25, "k": 5},
    "diff-sae": {"direction": "base-tuned", "aux": 0.5, "dead_after": 77},
    "chat-sae": {"k": 4},
    "base-sae": {"k": 4},
}
DESIGNS = {
    "crosscoder-batchtopk": (Design(target="both", sparsity=TopK(3, 50_000, 1 / 32, 2), tying="free"), "energy"),
    "crosscoder-l1": (Design(target="both", sparsity=L1(0.7, 0.2), tying="free", error="norm"), "energy"),
    "crosscoder-shared": (
        Design(target="both", sparsity=L1(1.0, 0.2), tying="shared", shared=0.3, factor=0.2),
        "energy",
    ),
    "crosscoder-tied": (Design(target="both", sparsity=L1(2.0, 0.2), tying="triples", factor=3.0), "energy"),
    "crosscoder-lambda": (
        Design(target="both", sparsity=TopK(5, 50_000, 1 / 32), tying="free", cross=-0.25),
        "energy",
    ),
    "diff-sae": (Design(target="delta", sparsity=TopK(8, 77, 0.5), reverse=True), "energy"),
    "chat-sae": (Design(target="tuned", sparsity=TopK(4, 50_000, 1 / 32)), "specific_activation"),
    "base-sae": (Design(target="base", sparsity=TopK(4, 50_000, 1 / 32)), "specific_activation"),
}


def context(tmp_path: Path) -> Context:
    return Context(seed=0, layer=0, budget=TIERS["smoke"], out=tmp_path, report=lambda *_: None)


@pytest.mark.parametrize("name", DESIGNS)
def test_each_method_trains_its_own_design(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Design, str]] = []

    def watch(design: Design, options: Any, pair: Any, ctx: Any, *, order_by: str) -> str:
        seen.append((design, order_by))
        return "fitted"

    monkeypatch.setattr("diffbench.fit_dictionary", watch, raising=False)
    method = find_method(name)
    done = method(resolve_options(method, OPTIONS[name])).run(SimpleNamespace(), context(tmp_path))
    assert done == "fitted" and seen == [DESIGNS[name]]


@pytest.fixture(scope="module")
def pair() -> PlantedPair:
    return PlantedPair(plant(PlantedParameters(width=16, rows=6000, held_out_rows=1200), 0), frozenset({"activations"}))


@pytest.mark.parametrize("name", [*DESIGNS, "sae-pair"])
def test_each_method_fits_with_its_defaults(name: str, pair: PlantedPair, tmp_path: Path) -> None:
    """Also at the smallest tier's number of components, which a width of 128 leaves room for."""
    method = find_method(name)
    size = 128 * method.Options.model_fields["expansion"].default * (2 if name == "sae-pair" else 1)
    assert size <= TIERS["smoke"].components
    diff = method(resolve_options(method, {"batch": 64})).run(pair, context(tmp_path))
    assert isinstance(diff, DictionaryDiff)
    diff.check(16, 3, 10)
    assert diff.findings and float(diff.columns["frequency"].max()) > 0


def test_a_dictionary_in_which_nothing_fires_is_refused(
    pair: PlantedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fitting.train

    def silenced(*args: Any, **kwargs: Any) -> DictionaryDiff:
        diff = plain(*args, **kwargs)
        return replace(diff, encoder_bias=torch.full_like(diff.encoder_bias, -1e6))

    monkeypatch.setattr(fitting, "train", silenced)
    method = find_method("crosscoder-l1")
    with pytest.raises(OptionError, match="no latent fires on held-out rows; take a smaller penalty"):
        method(resolve_options(method, {"batch": 64, "tokens": 640})).run(pair, context(tmp_path))


def test_the_usual_penalty_for_norms_leaves_latents_alive(pair: PlantedPair, tmp_path: Path) -> None:
    method = find_method("crosscoder-l1")
    diff = method(resolve_options(method, {"batch": 64, "error": "norm"})).run(pair, context(tmp_path))
    assert float(diff.columns["frequency"].sum()) > 1


def test_a_finished_sae_is_used_as_it_is(pair: PlantedPair, tmp_path: Path) -> None:
    sae = dictionary_diff("tuned", n=N, d=16, layer=pair.layer)
    write_dictionary(sae, tmp_path / "mine", "saelens")
    method = find_method("chat-sae")
    diff = method(resolve_options(method, {"pretrained": str(tmp_path / "mine")}))
    object.__setattr__(pair, "n_layers", 3)
    object.__setattr__(pair, "vocabulary", 10)
    found = diff.run(pair, context(tmp_path))
    assert torch.equal(found.encoder, sae.encoder) and torch.equal(found.threshold, sae.threshold)
    other = find_method("chat-sae")(resolve_options(method, {"pretrained": str(tmp_path / "other")}))
    write_dictionary(dictionary_diff("tuned", n=N, d=24, layer=pair.layer), tmp_path / "other", "saelens")
    with pytest.raises(OptionError, match="pretrained: other does not fit these models: encoder: has shape"):
        other.run(pair, context(tmp_path))


def sae(kind: str, seed: int, n: int = N) -> DictionaryDiff:
    diff = dictionary_diff(kind, n=n, d=D, seed=seed)
    assert diff.threshold is not None
    return diff


def test_a_pair_is_its_two_saes_side_by_side() -> None:
    from diffbench_methods.saes import _side_by_side

    base, tuned = sae("base", 1), sae("tuned", 2, n=N + 4)
    both = _side_by_side(base, tuned)
    both.check(D, 3, 10)
    h_b, h_t = torch.randn(200, D), torch.randn(200, D)
    own = torch.cat([dictionary._activate(base, h_b), dictionary._activate(tuned, h_t)], dim=1)
    torch.testing.assert_close(dictionary.encode(both, h_b, h_t), own, atol=1e-5, rtol=1e-5)
    hats = [dictionary.reconstruction(base, h_b, h_t)[1], dictionary.reconstruction(tuned, h_b, h_t)[1]]
    found = dictionary.reconstruction(both, h_b, h_t)[1]
    torch.testing.assert_close(found, torch.cat(hats, dim=1), atol=1e-4, rtol=1e-4)


def test_matching_by_hand() -> None:
    """Base rows e0, e1; tuned rows e0, (.6, .8), -e1 and a dead e2."""
    from diffbench_methods.saes import _matched, _side_by_side

    def of(kind: str, decoder: list[list[float]]) -> DictionaryDiff:
        n = len(decoder)
        return DictionaryDiff(
            layer=0,
            input="base" if kind == "base" else "tuned",
            activation="threshold",
            encoder=torch.zeros(n, 3),
            encoder_bias=torch.zeros(n),
            threshold=torch.zeros(n),
            decoder=torch.tensor(decoder),
            bias=torch.zeros(3),
            order=torch.arange(n),
        )

    both = _side_by_side(of("base", [[1, 0, 0], [0, 1, 0]]), of("t", [[2, 0, 0], [0.6, 0.8, 0], [0, -1, 0], [0, 0, 1]]))
    both.columns.update({"frequency": torch.tensor([1.0, 1, 1, 1, 1, 0]), "energy": torch.full((6,), 2.0)})
    nan = float("nan")
    columns = _matched(both, 2).columns
    wanted = [1.0, 0.8, 1.0, 0.8, 0.0, nan]
    assert columns["match_cosine"].tolist() == pytest.approx(wanted, nan_ok=True)
    assert columns["unmatched"].tolist() == pytest.approx([1 - x for x in wanted], nan_ok=True)
    assert columns["novel_energy"].tolist() == pytest.approx([2 * (1 - x * x) for x in wanted], nan_ok=True)


def test_models_that_do_not_differ_have_nothing_to_train_on(tmp_path: Path) -> None:
    class Same:
        width = 8

        def training_rows(self) -> tuple[Any, Any]:
            stored = rows(torch.randn(300, 8), torch.zeros(300, 8))
            return stored, stored

    found: Any = fitting.fit_dictionary(
        DESIGNS["diff-sae"][0], find_method("diff-sae").Options(), Same(), context(tmp_path), order_by="energy"
    )
    assert found.verdict == "unchanged" and found.n_components == 0
