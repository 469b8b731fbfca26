"""Ablation of a tied crosscoder: against a float64 loop over rows, and where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine_factory import dictionary_diff, labelled_corpus, small_pair

from diffbench.ablation import ablate, reconstructions
from diffbench.activity import streams
from diffbench.diff import DictionaryDiff
from diffbench.errors import DiffError
from diffbench.study import Reading


def tied(seed: int = 0) -> DictionaryDiff:
    """Triples over common rows; the base's latent writes nothing into the tuned model, and the other way round."""
    diff = dictionary_diff("both", "relu", n=12, seed=seed)
    assert diff.decoder_base is not None and diff.decoder_tuned is not None
    rows = [decoder[::3].repeat_interleave(3, dim=0) / 2 for decoder in (diff.decoder_base, diff.decoder_tuned)]
    rows[0][2::3] = rows[1][1::3] = 0
    return replace(diff, decoder_base=rows[0], decoder_tuned=rows[1], group=torch.arange(4).repeat_interleave(3))


def value(reading: Reading) -> float:
    assert reading.figure is not None and reading.figure.value is not None, reading
    return reading.figure.value


def test_both_ablations_against_a_plain_loop() -> None:
    diff, corpus = tied(), labelled_corpus(300)
    rows = streams(*small_pair(), corpus, corpus.counts, diff.layer)
    d_b, d_t = (each.double()[::3] for each in (diff.decoder_base, diff.decoder_tuned))  # type: ignore[union-attr]
    bias_b, bias_t = diff.bias_base.double(), diff.bias_tuned.double()  # type: ignore[union-attr]
    errors = {name: 0.0 for name in ("whole", "firing", "vectors")}
    hats = {name: [] for name in errors}
    for h_b, h_t in zip(rows.h_b.double(), rows.h_t.double(), strict=True):
        f = (diff.encoder.double() @ torch.cat([h_b, h_t]) + diff.encoder_bias.double()).clamp_min(0)
        s, b, t = f[0::3], f[1::3], f[2::3]
        between = (d_b + d_t) / 2
        made = {
            "whole": ((s + b) @ d_b + bias_b, (s + t) @ d_t + bias_t),
            "firing": ((s + (b + t) / 2) @ d_b + bias_b, (s + (b + t) / 2) @ d_t + bias_t),
            "vectors": ((s + b) @ between + bias_b, (s + t) @ between + bias_t),
        }
        for name, (base, tuned) in made.items():
            errors[name] += float((h_b - base).square().sum() + (h_t - tuned).square().sum())
            hats[name].append(tuned - base)
    delta = (rows.h_t - rows.h_b).double()
    left = {name: float((delta - torch.stack(each)).var(dim=0, correction=0).sum()) for name, each in hats.items()}
    total = float(delta.var(dim=0, correction=0).sum())
    found = ablate(diff, *small_pair(), corpus)
    for name, loss in (("firing", found.firing), ("vectors", found.vectors)):
        assert value(loss.error) == pytest.approx(errors[name] / errors["whole"] - 1, rel=1e-4, abs=1e-6)
        assert value(loss.delta) == pytest.approx((left[name] - left["whole"]) / total, rel=1e-4, abs=1e-6)
    assert value(found.firing.error) != pytest.approx(value(found.vectors.error), abs=1e-3)


def test_outliers_are_left_out() -> None:
    diff, corpus = tied(), labelled_corpus(300)
    rows = streams(*small_pair(), corpus, corpus.counts, diff.layer)
    sizes = rows.h_b.norm(dim=1), rows.h_t.norm(dim=1)
    limits = (float(sizes[0].quantile(0.9)), float(sizes[1].quantile(0.8)))
    kept = (sizes[0] <= limits[0]) & (sizes[1] <= limits[1])
    assert 0.5 < float(kept.double().mean()) < 0.9
    errors = [
        float((rows.h_b - base)[kept].double().square().sum() + (rows.h_t - tuned)[kept].double().square().sum())
        for base, tuned in reconstructions(diff, rows.h_b, rows.h_t)
    ]
    found = ablate(diff, *small_pair(), corpus, limits)
    assert value(found.firing.error) == pytest.approx(errors[1] / errors[0] - 1, rel=1e-4, abs=1e-6)
    assert value(found.vectors.error) == pytest.approx(errors[2] / errors[0] - 1, rel=1e-4, abs=1e-6)
    assert value(found.firing.error) != pytest.approx(value(ablate(diff, *small_pair(), corpus).firing.error), abs=1e-4)


def test_equal_vectors_cost_nothing_to_make_equal() -> None:
    diff = tied()
    equal = diff.decoder_base.clone()  # type: ignore[union-attr]
    equal[1::3], equal[2::3] = 0, equal[::3]
    found = ablate(replace(diff, decoder_tuned=equal), *small_pair(), labelled_corpus(200))
    assert value(found.vectors.error) == pytest.approx(0, abs=1e-6)
    assert value(found.vectors.delta) == pytest.approx(0, abs=1e-6)
    assert abs(value(found.firing.error)) > 1e-3


def test_shared_firing_alone_costs_nothing_to_make_equal() -> None:
    diff = tied()
    quiet = diff.encoder_bias.clone()
    quiet[1::3] = quiet[2::3] = -1e6
    found = ablate(replace(diff, encoder_bias=quiet), *small_pair(), labelled_corpus(200))
    assert value(found.firing.error) == pytest.approx(0, abs=1e-6)
    assert abs(value(found.vectors.error)) > 1e-5


def test_the_whole_dictionary_is_the_engines_reconstruction() -> None:
    from diffbench.dictionary import reconstruction

    diff, corpus = tied(), labelled_corpus(100)
    rows = streams(*small_pair(), corpus, corpus.counts, diff.layer)
    whole = torch.cat(reconstructions(diff, rows.h_b, rows.h_t)[0], dim=1)
    assert torch.allclose(whole, reconstruction(diff, rows.h_b, rows.h_t)[1], atol=1e-5)


def test_two_equal_models_have_no_delta_to_lose() -> None:
    reference, _ = small_pair()
    found = ablate(tied(), reference, reference, labelled_corpus(100))
    assert found.firing.delta.figure is not None and found.firing.delta.figure.state == "undefined"
    assert value(found.firing.error) is not None


def test_a_crosscoder_without_triples_is_refused() -> None:
    with pytest.raises(DiffError, match="no tied triples"):
        ablate(dictionary_diff("both", "relu"), *small_pair(), labelled_corpus(100))
