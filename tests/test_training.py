"""Training: every design's step against float64 autograd, both paths, folding back, and planted structure found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from design_factory import (
    DEAD_AFTER,
    DESIGNS,
    LATENTS,
    ROWS,
    WIDTH,
    K,
    batches,
    dead_latents,
    entries,
    make_dense,
    top_k,
    trainer,
)
from dictionary_reference import reference
from engine_factory import rows
from torch import Tensor

from diffbench import dictionary, training
from diffbench.activations import Activations
from diffbench.codes import SparseCode
from diffbench.decoders import norm_share, relative_norm, row_norms
from diffbench.design import L1, Design, TopK
from diffbench.diff import DictionaryDiff
from diffbench.errors import OptionError
from diffbench.options import DictionaryOptions, EitherOptions
from diffbench.scaling import Scaling, select_input
from diffbench.training import CLIP, Trainer

D = 32
TARGETS = {
    "delta": Design(target="delta", sparsity=TopK(3, 50_000, 1 / 32)),
    "both": Design(target="both", sparsity=TopK(3, 50_000, 1 / 32), tying="free"),
    "tuned": Design(target="tuned", sparsity=TopK(3, 50_000, 1 / 32)),
    "base": Design(target="base", sparsity=TopK(3, 50_000, 1 / 32)),
}


def worst(found: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest entry."""
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("name", DESIGNS)
def test_a_step_has_the_gradients_of_float64_autograd(name: str, path: str) -> None:
    """Loss, penalty, auxiliary loss of the dead, ties and unit rows; the reference selects by a full sort."""
    made = trainer(DESIGNS[name])
    if path == "dense":
        make_dense(made)
    x = batches(made.design.parts, 20)[19]
    value = made.gradients(x)
    dead = dead_latents(made)
    if isinstance(made.design.sparsity, TopK):
        assert 15 < len(dead) < LATENTS
    wanted = reference(made, x, dead)
    assert float(value) == pytest.approx(wanted.loss, rel=1e-6)
    for parameter, gradient in zip(made.parameters(), wanted.gradients, strict=True):
        assert parameter.grad is not None and gradient.abs().max() > 0
        assert worst(parameter.grad, gradient) < 1e-5  # 5e-7 here


def test_the_auxiliary_loss_reaches_dead_latents_and_no_other() -> None:
    made = trainer(DESIGNS["crosscoder"])
    x = batches(2, 20)[19]
    made.gradients(x)
    dead = dead_latents(made)
    assert made.encoder.grad is not None and (made.encoder.grad[dead].norm(dim=1) > 0).all()
    without = trainer(Design(target="both", sparsity=top_k(aux=0.0), tying="free"))
    without.gradients(x)
    assert without.encoder.grad is not None and not without.encoder.grad[dead].any()
    alive = torch.ones(LATENTS, dtype=torch.bool).index_fill(0, dead, False)
    assert torch.equal(made.encoder.grad[alive], without.encoder.grad[alive])


@pytest.mark.parametrize("name", DESIGNS)
def test_the_sparse_and_the_dense_path_train_alike(name: str) -> None:
    """Twenty steps: rounding grows, but the two losses stay together to four digits."""
    fast, dense = trainer(DESIGNS[name], steps=1, dead=False), make_dense(trainer(DESIGNS[name], steps=1, dead=False))
    for x in batches(fast.design.parts, 21)[1:]:
        one, other = float(fast.step(x)), float(dense.step(x))
        assert one == pytest.approx(other, rel=1e-4)


def test_the_sparse_path_is_the_one_in_use() -> None:
    made = trainer(DESIGNS["diff-sae"])
    code, _ = made.selection.select(torch.randn(ROWS, LATENTS), made.encoder_bias, torch.ones(LATENTS))
    assert isinstance(code, SparseCode)


def test_a_step_clips_the_whole_gradient_and_then_moves_by_adam() -> None:
    made = trainer(DESIGNS["crosscoder"], steps=0)
    x = 30 * batches(2, 1)[0]
    made.gradients(x)
    before = [parameter.clone() for parameter in made.parameters()]
    grads = [parameter.grad for parameter in made.parameters()]
    total = torch.cat([grad.flatten() for grad in grads if grad is not None]).norm()
    assert total > 10 * CLIP
    made._done = 0
    made.step(x)
    lr = made.options.lr / made.options.warm_up  # the first of the warm-up's steps
    for parameter, old, grad in zip(made.parameters(), before, grads, strict=True):
        assert grad is not None
        clipped = grad / total * CLIP
        torch.testing.assert_close(parameter, old - lr * clipped / (clipped.abs() + 1e-8), atol=1e-7, rtol=1e-4)


def test_the_step_size_rises_and_falls() -> None:
    options = EitherOptions(k=K, batch=ROWS, lr=0.5, warm_up=50)
    made = Trainer(DESIGNS["diff-sae"], options, width=WIDTH, n=LATENTS, steps=200, seed=0)
    x, rates = batches(1, 1)[0], []
    for _ in range(200):
        made.step(x)
        rates.append(made._optimizer.param_groups[0]["lr"] / 0.5)
    assert [rates[at] for at in (0, 24, 49, 160, 180, 199)] == pytest.approx([0.02, 0.5, 1, 1, 0.5, 0.025])


def test_the_penalty_rises_over_its_share_of_the_steps() -> None:
    design = Design(target="both", sparsity=L1(2.0, 0.5), tying="free")
    made = Trainer(design, EitherOptions(batch=ROWS), width=WIDTH, n=LATENTS, steps=100, seed=0)
    x = batches(2, 1)[0]
    for done, share in ((0, 0.02), (24, 0.5), (49, 1.0), (80, 1.0)):
        made._done = done
        wanted = reference(made, x, torch.zeros(0, dtype=torch.int64), warm=share)
        assert float(made.gradients(x)) == pytest.approx(wanted.loss, rel=1e-5)


def test_latents_are_dead_after_so_many_rows_without_firing() -> None:
    made = trainer(DESIGNS["diff-sae"], steps=0, dead=False)
    made.encoder[:5], made.encoder_bias[:5] = 0.0, -1.0
    made._optimizer.param_groups[0]["lr"] = 0.0
    for step, x in enumerate(batches(1, 9), start=1):
        made.gradients(x)
        assert made._silent[:5].tolist() == [step * ROWS] * 5
        assert set(dead_latents(made).tolist()) >= set(range(5) if step * ROWS >= DEAD_AFTER else ())
    assert (made._silent == 0).any()


def test_decoders_start_equal_in_both_models_with_the_encoder_as_transpose() -> None:
    made = trainer(DESIGNS["crosscoder"], steps=0, dead=False)
    decoder = made.decoders.expand()
    assert torch.equal(decoder[:, :WIDTH], decoder[:, WIDTH:])
    torch.testing.assert_close(decoder[:, :WIDTH].norm(dim=1), torch.ones(LATENTS))
    torch.testing.assert_close(made.encoder * 2, decoder)


def test_ties_and_unit_rows_hold_after_training() -> None:
    unit = trainer(DESIGNS["diff-sae"], dead=False).decoders.expand()
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(LATENTS))
    shared = trainer(DESIGNS["shared l1"], dead=False).decoders.expand()
    tied = torch.isclose(shared[:, :WIDTH], shared[:, WIDTH:]).all(dim=1)
    assert tied.tolist() == [j < round(0.25 * LATENTS) for j in range(LATENTS)]
    triples = trainer(DESIGNS["tied l1"], dead=False).decoders.expand().view(-1, 3, 2, WIDTH)
    assert torch.equal(triples[:, 1, 0], triples[:, 0, 0]) and torch.equal(triples[:, 2, 1], triples[:, 0, 1])
    assert not triples[:, 1, 1].any() and not triples[:, 2, 0].any()
    assert (row_norms(triples[:, 0].reshape(-1, 2 * WIDTH), 2) > 0.1).all()


def planted(n: int, seed: int, *, latents: int = 40, k: int = 3) -> tuple[Tensor, Tensor]:
    """h_b and a delta that is a sparse sum of fixed unit directions; ``seed`` draws rows, never directions."""
    fixed, draw = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(latents, D, generator=fixed), dim=1)
    on = torch.rand(n, latents, generator=draw).argsort(dim=1) < k
    strength = on * (1 + torch.rand(n, latents, generator=draw))
    h_b = 5 * torch.randn(n, D, generator=draw) + 3
    return h_b, 0.05 * strength @ directions + 0.02


def train(
    design: Design, n: int = 4096, seed: int = 0, data: tuple[Tensor, Tensor] | None = None, **options: Any
) -> DictionaryDiff:
    chosen = DictionaryOptions(**({"expansion": 2, "batch": 128, "tokens": 12 * n, "lr": 1e-2} | options))
    h_b, delta = planted(n, 0) if data is None else data
    return training.train(rows(h_b, delta), design, chosen, seed=seed, max_components=512, report=lambda *_: None)


def explained(diff: DictionaryDiff, h_b: Tensor, delta: Tensor) -> float:
    target, hat = dictionary.reconstruction(diff, h_b, h_b + delta)
    return 1 - float((target - hat).pow(2).sum() / (target - target.mean(dim=0)).pow(2).sum())


def l0(diff: DictionaryDiff, h_b: Tensor, delta: Tensor) -> float:
    return float((dictionary.encode(diff, h_b, h_b + delta) > 0).float().sum(dim=1).mean())


def tensors(diff: DictionaryDiff) -> dict[str, Tensor]:
    found = {name: getattr(diff, name) for name in DictionaryDiff.__dataclass_fields__}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)} | diff.columns


@pytest.mark.parametrize("reverse", [False, True])
def test_a_planted_small_difference_is_found_with_the_sparsity_asked_for(reverse: bool) -> None:
    diff = train(Design(target="delta", sparsity=TopK(3, 50_000, 1 / 32), reverse=reverse))
    held_out = planted(4000, 5)
    assert explained(diff, *held_out) > 0.8  # .97 here, whichever way the difference was taken
    assert l0(diff, *held_out) == pytest.approx(3, rel=0.1)


def test_the_direction_of_the_difference_is_what_is_trained_on() -> None:
    """Positive sums of directions need one latent a direction; turned round, they need others."""
    plain, turned = (train(Design(target="delta", sparsity=top_k(k=3), reverse=way)) for way in (False, True))
    delta = planted(500, 5)[1]
    mean = delta.mean(dim=0)
    for diff, sign in ((plain, 1.0), (turned, -1.0)):
        f = dictionary.encode(diff, torch.zeros_like(delta), delta)
        strongest = f.argmax(dim=1)
        assert diff.decoder is not None
        along = (diff.decoder[strongest] * (delta - mean)).sum(dim=1)
        assert (along > 0).double().mean() > 0.9, sign
    assert not torch.allclose(plain.encoder, turned.encoder)


def test_a_short_fit_has_the_sparsity_asked_for() -> None:
    """As many steps as the smoke tier's 20 000 rows give by default."""
    data = planted(2432, 0, k=8)
    diff = train(
        Design(target="delta", sparsity=TopK(8, 50_000, 1 / 32)), data=data, tokens=4 * 2432, lr=1e-3, expansion=4
    )
    assert l0(diff, *planted(2000, 5, k=8)) == pytest.approx(8, rel=0.15)


def test_matryoshka_prefixes_reconstruct_alone() -> None:
    """The first quarter of the latents explains far more than a quarter of a plain dictionary does."""
    held_out = planted(3000, 5)
    shares = []
    for prefixes in (1, 3):
        diff = train(Design(target="delta", sparsity=TopK(3, 50_000, 1 / 32, prefixes)))
        f = dictionary.encode(diff, held_out[0], held_out[0] + held_out[1])[:, : D // 2]
        assert diff.decoder is not None and diff.bias is not None
        left = held_out[1] - f @ diff.decoder[: D // 2] - diff.bias
        shares.append(1 - float(left.pow(2).sum() / (held_out[1] - held_out[1].mean(dim=0)).pow(2).sum()))
    assert shares[1] > shares[0] + 0.1  # .27 and .58 here


def test_a_penalty_buys_sparsity() -> None:
    held_out = planted(2000, 5)
    found = [
        l0(train(Design(target="both", sparsity=L1(penalty, 0.2), tying="free")), *held_out) for penalty in (0.3, 1, 4)
    ]
    assert found[0] > 1.3 * found[1] > 1.3 * 1.3 * found[2] > 0


def test_a_price_on_exclusive_firings_makes_them_rarer() -> None:
    """The two models fire the same directions at other times: exclusive latents are needed, and cost eta."""
    draw = torch.Generator().manual_seed(3)
    directions = torch.nn.functional.normalize(torch.randn(20, D, generator=draw), dim=1)
    on = torch.rand(2, 6000, 20, generator=draw) < 0.1
    on[1, :, :10] = on[0, :, :10]
    h_b, h_t = on.float() @ directions
    shares = []
    for eta in (1.0, 8.0):
        design = Design(target="both", sparsity=L1(0.3, 0.2), tying="triples", factor=eta)
        diff = train(design, data=(h_b, h_t - h_b), expansion=3, tokens=60_000)
        f = dictionary.encode(diff, h_b, h_t).view(-1, len(diff.order) // 3, 3)
        firing = (f > 0).float().mean(dim=(0, 1))
        shares.append(float(firing[1:].sum() / firing.sum()))
    assert shares[1] < 0.8 * shares[0]


def test_lambda_minus_one_sees_the_difference_alone() -> None:
    """h_b is wide and dense, delta sparse and small: the reconstruction of delta is good, that of h_b is not."""
    h_b, delta = planted(4096, 0)
    data = (h_b, 40 * delta)
    alone, plain = (
        train(Design(target="both", sparsity=TopK(3, 50_000, 1 / 32), tying="free", cross=cross), data=data)
        for cross in (-1.0, 0.0)
    )
    target = data[1]

    def of_delta(diff: DictionaryDiff) -> float:
        hat = dictionary.added_by_all(diff, h_b, h_b + target)
        return 1 - float((target - hat).pow(2).sum() / (target - target.mean(dim=0)).pow(2).sum())

    assert of_delta(alone) > of_delta(plain) + 0.2
    assert all(alone.columns[name].isnan().all() for name in ("relative_norm", "relative_norm_raw", "norm_share"))
    assert not plain.columns["relative_norm"].isnan().any()


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_fits_its_form(target: str) -> None:
    diff = train(TARGETS[target], n=1024, tokens=1024)
    diff.check(D, 3, 10)
    assert (diff.input, diff.activation, diff.layer) == (target, "threshold", 0)
    assert diff.notes["steps"] == 8 and diff.notes["rows"] == 1024 and diff.notes["matmul"] in ("medium", "highest")


def test_an_l1_dictionary_has_no_threshold_and_a_tied_one_its_triples() -> None:
    diff = train(Design(target="both", sparsity=L1(1.0, 0.2), tying="triples"), n=1024, tokens=1024)
    assert diff.activation == "relu" and diff.threshold is None and diff.group is not None
    assert len(diff.order) == 63 and diff.group.tolist() == [j // 3 for j in range(63)]
    assert train(TARGETS["both"], n=1024, tokens=1024).group is None


@pytest.mark.parametrize("name", DESIGNS)
def test_folding_back_is_exact(name: str) -> None:
    """Raw activities and reconstructions are the trained ones, whatever the scales of the two models."""
    design = DESIGNS[name]
    draw = torch.Generator().manual_seed(0)
    h_b = 100 * torch.randn(600, WIDTH, generator=draw) - 7
    h_t = h_b + torch.randn(600, WIDTH, generator=draw) * torch.rand(WIDTH, generator=draw) + 1
    stored = rows(h_b, h_t - h_b)
    scaling = Scaling.fit(stored, design.target)
    sign = -1.0 if design.reverse else 1.0
    x = scaling.apply(select_input(design.target, *stored.load())) * sign
    made = Trainer(design, EitherOptions(k=K, batch=100, lr=1e-2), width=WIDTH, n=LATENTS, steps=30, seed=0)
    for start in range(30):
        made.step(x[start % 6 * 100 :][:100])
    diff = training._fold(made, scaling, 0, 0.0)
    decoder = made.decoders.expand()
    weight = row_norms(decoder, design.parts).sum(dim=1) / design.price(LATENTS)
    pre = (x - made.bias if design.centred else x) @ made.encoder.T + made.encoder_bias
    theta = made.theta or 0.0
    assert theta > 0 or isinstance(design.sparsity, L1)
    f = pre * ((pre * weight > theta) & (pre > 0))
    hat = ((f @ decoder + made.bias) * sign / scaling.scale) + scaling.mean
    near = (pre * weight - theta).abs().amin(dim=1) < 2e-4  # rounding may flip a latent that lies on its threshold
    keep = ~near if isinstance(design.sparsity, TopK) else torch.ones_like(near)
    assert keep.double().mean() > 0.3 and float((f > 0).float().sum(dim=1).mean()) > 1
    base, delta = stored.load()
    raw = torch.cat([base, base + delta], dim=1) if design.target == "both" else None
    found = dictionary._activate(diff, select_input(design.target, base, delta) if raw is None else raw)
    torch.testing.assert_close(found[keep], f[keep], atol=1e-3, rtol=1e-3)
    _, folded = dictionary.reconstruction(diff, base, base + delta)
    torch.testing.assert_close((folded * scaling.scale)[keep], (hat * scaling.scale)[keep], atol=5e-3, rtol=1e-3)


def test_scaling_gives_each_model_unit_variance_around_its_mean() -> None:
    draw = torch.Generator().manual_seed(0)
    h_b, h_t = 3 * torch.randn(500, D, generator=draw) + 5, 0.1 * torch.randn(500, D, generator=draw)
    stored = rows(h_b, h_t - h_b)
    found = Scaling.fit(stored, "both")
    scaled = found.apply(select_input("both", *stored.load()))
    for part in (scaled[:, :D], scaled[:, D:]):
        assert float(part.mean()) == pytest.approx(0, abs=1e-4)
        assert float(part.pow(2).mean()) == pytest.approx(1, rel=1e-3)
    assert len(found.scale[:D].unique()) == len(found.scale[D:].unique()) == 1
    still = rows(torch.full((500, D), 3.0), h_t)
    assert torch.isfinite(Scaling.fit(still, "both").scale).all()  # one of the two may be constant


def test_what_each_target_is_trained_on() -> None:
    h_b, delta = planted(64, 0)
    assert select_input("delta", h_b, delta) is delta and select_input("base", h_b, delta) is h_b
    assert torch.equal(select_input("tuned", h_b, delta), h_b + delta)
    assert torch.equal(select_input("both", h_b, delta), torch.cat([h_b, h_b + delta], dim=1))


@pytest.mark.parametrize("target", ["delta", "both"])
def test_the_seed_decides(target: str) -> None:
    one, same, other = (train(TARGETS[target], n=1024, tokens=2048, seed=seed) for seed in (1, 1, 2))
    for name, tensor in tensors(one).items():
        assert torch.equal(tensor, tensors(same)[name]), name
    assert not torch.equal(one.encoder, other.encoder)


def test_by_default_every_row_is_seen_four_times() -> None:
    assert train(TARGETS["delta"], n=1024, tokens=None).notes["rows"] == 4 * 1024


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.3])
def test_constant_activations_are_refused(value: float) -> None:
    """0.1 has a mean that rounds: what is left is rounding, not variance."""
    constant = torch.full((1000, D), value)
    with pytest.raises(OptionError, match="constant"):
        train(TARGETS["delta"], data=(planted(1000, 0)[0], constant))


def test_activations_that_are_not_finite_are_refused() -> None:
    broken = rows(*planted(1000, 0))
    broken.delta[3, 2] = float("nan")
    with pytest.raises(OptionError, match="NaN or infinite"):
        options = DictionaryOptions(batch=64)
        training.train(broken, TARGETS["delta"], options, seed=0, max_components=512, report=lambda *_: None)


@pytest.mark.parametrize(
    ("design", "options", "message"),
    [
        ({"k": 65}, {}, "k: 65 is more than the dictionary's 64 latents"),
        ({"matryoshka": 8}, {}, "matryoshka: 8 prefixes are too many for 64 latents"),
        ({}, {"expansion": 100}, "expansion: 3200 latents are more than the tier's 512 components"),
        ({}, {"batch": 2000}, "batch: 2000 rows are more than the 1000 that were harvested"),
        ({}, {"tokens": 100}, "tokens: 100 are fewer than one batch of 128 rows"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(design: dict[str, int], options: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        train(Design(target="delta", sparsity=top_k(**({"k": 3} | design))), data=planted(1000, 0), **options)
    assert str(caught.value) == message


def test_a_diverged_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda made, x: step(made, x * 1e30))
    with pytest.raises(OptionError, match="diverged"):
        train(TARGETS["both"], n=1024, tokens=1024)


def test_k_may_be_the_whole_dictionary() -> None:
    diff = train(Design(target="delta", sparsity=top_k(k=D)), n=1024, expansion=1, tokens=2048)
    assert diff.threshold is not None and not diff.threshold.any()


def test_entries_of_a_code_are_what_was_selected() -> None:
    made = trainer(DESIGNS["crosscoder"])
    x = batches(2, 1)[0]
    weight = row_norms(made.decoders.expand(), 2).sum(dim=1)
    code, smallest = made.selection.select(x @ made.encoder.T, made.encoder_bias, weight)
    assert code.count() == K * ROWS and smallest is not None
    assert int((entries(code, LATENTS) * weight >= smallest * (1 - 1e-6)).sum()) == K * ROWS


def test_relative_norms_by_hand() -> None:
    decoder = torch.tensor([[0.0, 0, 3, 4], [3, 4, 0, 0], [1, 0, 0, 1], [1, 0, 0, 2]])
    assert relative_norm(decoder).tolist() == pytest.approx([1.0, 0.0, 0.5, 0.75])
    assert norm_share(decoder).tolist() == pytest.approx([1.0, 0.0, 0.5, 2 / 3])


def test_relative_norms_are_those_of_the_training_space_and_the_raw_ones_of_raw_decoders() -> None:
    h_b, delta = planted(2048, 0)
    diff = train(TARGETS["both"], data=(h_b, 9 * h_b + delta), tokens=8192)  # h_t = 10 h_b: equal trained norms
    assert diff.decoder_base is not None and diff.decoder_tuned is not None
    b, t = diff.decoder_base.norm(dim=1), diff.decoder_tuned.norm(dim=1)
    raw = 0.5 * ((t - b) / torch.maximum(t, b) + 1)
    torch.testing.assert_close(diff.columns["relative_norm_raw"], raw)
    assert float(raw.median()) > 0.9
    for name in ("relative_norm", "norm_share"):
        assert float((diff.columns[name] - 0.5).abs().median()) < 0.1, name
    trained = relative_norm(torch.cat([10 * diff.decoder_base, diff.decoder_tuned], dim=1))  # the scales are 10 : 1
    torch.testing.assert_close(diff.columns["relative_norm"], trained, atol=2e-3, rtol=0)


def test_a_latent_without_a_decoder_has_no_relative_norm_and_never_fires() -> None:
    nothing = torch.zeros(1, 4)
    assert relative_norm(nothing).isnan().all() and norm_share(nothing).isnan().all()
    made = trainer(DESIGNS["crosscoder"], dead=False)
    made.decoders.parameters[0][3] = 0.0
    made.theta = 0.0
    stored = rows(torch.randn(400, WIDTH), torch.randn(400, WIDTH))
    diff = training._fold(made, Scaling.fit(stored, "both"), 0, 0.0)
    diff.check(WIDTH, 3, 10)
    h_b, delta = stored.load()
    assert not (dictionary.encode(diff, h_b, h_b + delta)[:, 3] > 0).any()


def test_theta_is_a_running_mean_with_its_horizon() -> None:
    made = trainer(DESIGNS["diff-sae"], steps=0, dead=False)
    made._horizon = 10
    code, _ = made.selection.select(torch.randn(ROWS, LATENTS), made.encoder_bias, torch.ones(LATENTS))
    for smallest in (1.0, 2.0, 2.0):
        made._remember(code, smallest, ROWS)
    assert made.theta == pytest.approx(1.19)


def test_rise_and_fall_of_the_step_size_multiply() -> None:
    options = EitherOptions(k=K, batch=ROWS, lr=0.5, warm_up=50)
    made = Trainer(DESIGNS["diff-sae"], options, width=WIDTH, n=LATENTS, steps=20, seed=0)
    made._done = 18
    made.step(batches(1, 1)[0])
    assert made._optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 19 / 50 * 0.5)


def test_the_order_of_rows_follows_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = Activations.batches
    monkeypatch.setattr(Activations, "batches", lambda own, size, seed: seen.append(seed) or plain(own, size, seed))
    for seed in (1, 2):
        train(TARGETS["delta"], n=1024, tokens=1024, seed=seed)
    assert seen[0] != seen[1]


def test_scales_are_those_of_all_training_rows() -> None:
    h_b, delta = planted(2048, 0)
    delta[1024:] *= 50
    power = Scaling.fit(rows(h_b, delta), "delta").scale[0] ** -2
    assert float(power) == pytest.approx(float((delta - delta.mean(dim=0)).pow(2).mean()), rel=1e-2)


def test_prefixes_of_tied_crosscoders_cut_no_triple() -> None:
    design = Design(target="both", sparsity=top_k(matryoshka=3), tying="triples")
    assert design.bounds(126) == (30, 63, 126) and design.bounds(510) == (126, 255, 510)


def test_relative_norms_of_a_triple_stand_on_its_shared_latent() -> None:
    diff = train(Design(target="both", sparsity=L1(1.0, 0.2), tying="triples"), n=1024, tokens=2048)
    for name in ("relative_norm", "norm_share", "relative_norm_raw"):
        column = diff.columns[name].view(-1, 3)
        assert not column[:, 0].isnan().any() and column[:, 1:].isnan().all(), name
