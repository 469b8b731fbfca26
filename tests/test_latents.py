"""Latents: every column against its definition in float64, one latent at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine_factory import dictionary_diff, rows
from torch import Tensor

from diffbench import dictionary, latents
from diffbench.activations import Activations
from diffbench.decoders import norm_share, relative_norm
from diffbench.diff import DictionaryDiff
from diffbench.errors import OptionError
from diffbench.latent_scaling import Beta, _ratio, _sums, latent_scaling

T, D, N = 400, 12, 18


def held_out(seed: int = 0) -> Activations:
    draw = torch.Generator().manual_seed(seed)
    h_b = torch.randn(T, D, generator=draw) + 0.5
    return rows(h_b, 0.3 * torch.randn(T, D, generator=draw) + 0.2 * h_b)


def dictionary_of(kind: str) -> DictionaryDiff:
    diff = dictionary_diff(kind, n=N, d=D)
    assert diff.threshold is not None
    return replace(diff, threshold=torch.zeros(N))  # so that latents fire often


def own_activities(diff: DictionaryDiff, h_b: Tensor, h_t: Tensor) -> Tensor:
    """f [T, n] in float64 from the definition; SAEs of one model read h_t."""
    x = {"delta": h_t - h_b, "both": torch.cat([h_b, h_t], dim=1)}.get(diff.input, h_t).double()
    return (x @ diff.encoder.double().T + diff.encoder_bias.double()).clamp_min(0)


def least_squares(f: Tensor, d: Tensor, y: Tensor) -> float:
    """argmin_β Σ_t ‖y_t - β f_t d‖², by stacking all coordinates into one regression."""
    regressor = (f[:, None] * d[None, :]).reshape(-1, 1)
    return float(torch.linalg.lstsq(regressor, y.reshape(-1, 1)).solution)


@pytest.mark.parametrize("mirrored", [False, True])
def test_every_beta_of_a_crosscoder_is_a_least_squares_fit(mirrored: bool) -> None:
    """The error has the latent's own contribution to that model put back."""
    diff, data = dictionary_of("both"), held_out()
    columns = latent_scaling(diff, data)
    h_b, delta = (x.double() for x in data.load())
    streams = {"base": h_b, "tuned": h_b + delta}
    f = own_activities(diff, h_b, h_b + delta)
    decoders = {"base": diff.decoder_base.double(), "tuned": diff.decoder_tuned.double()}  # type: ignore[union-attr]
    biases = {"base": diff.bias_base.double(), "tuned": diff.bias_tuned.double()}  # type: ignore[union-attr]
    regressor = decoders["base" if mirrored else "tuned"]
    suffix = "_mirrored" if mirrored else ""
    for j in range(0, N, 3):
        for model, h in streams.items():
            hat = f @ decoders[model] + biases[model]
            own = f[:, j : j + 1] * decoders[model][j]
            for target, y in (("activation", h), ("reconstruction", hat), ("error", h - (hat - own))):
                wanted = least_squares(f[:, j], regressor[j], y)
                found = float(columns[f"beta_{target}_{model}{suffix}"][j])
                assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5), (j, model, target)


@pytest.mark.parametrize("kind", ["delta", "tuned", "base"])
def test_an_sae_has_betas_of_the_activation_and_nothing_else(kind: str) -> None:
    diff, data = dictionary_of(kind), held_out()
    columns = latent_scaling(diff, data)
    assert set(columns) == {"beta_activation_base", "beta_activation_tuned", "nu_activation"}
    h_b, delta = (x.double() for x in data.load())
    f = own_activities(diff, h_b, h_b + delta)
    assert diff.decoder is not None
    for j in range(0, N, 4):
        beta = {
            m: least_squares(f[:, j], diff.decoder[j].double(), h) for m, h in (("base", h_b), ("tuned", h_b + delta))
        }
        assert float(columns["beta_activation_base"][j]) == pytest.approx(beta["base"], rel=1e-4, abs=1e-5)
        assert float(columns["beta_activation_tuned"][j]) == pytest.approx(beta["tuned"], rel=1e-4, abs=1e-5)
        if not columns["nu_activation"][j].isnan():
            assert float(columns["nu_activation"][j]) == pytest.approx(beta["base"] / beta["tuned"], rel=1e-3)


def one_latent(h_b: Tensor, h_t: Tensor, f: Tensor) -> DictionaryDiff:
    """A dictionary of delta = f d, whose single latent reads the first coordinate of h_t."""
    d = h_b.shape[1]
    return DictionaryDiff(
        layer=0,
        input="tuned",
        activation="relu",
        encoder=torch.eye(d)[:1],
        encoder_bias=torch.zeros(1),
        decoder=torch.eye(d)[:1],
        bias=torch.zeros(d),
        order=torch.arange(1),
    )


@pytest.mark.parametrize(("share", "nu"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0), (-0.5, -0.5)])
def test_nu_is_the_share_of_a_latent_that_the_base_has(share: float, nu: float) -> None:
    draw = torch.Generator().manual_seed(0)
    f = torch.rand(2000, generator=draw) * (torch.rand(2000, generator=draw) < 0.3)
    h_t = 0.01 * torch.randn(2000, 4, generator=draw)
    h_t[:, 0] = f
    h_b = 0.01 * torch.randn(2000, 4, generator=draw)
    h_b[:, 0] = share * f
    columns = latent_scaling(one_latent(h_b, h_t, f), rows(h_b, h_t - h_b))
    assert float(columns["nu_activation"]) == pytest.approx(nu, abs=2e-3)


def test_a_ratio_of_two_betas_that_are_noise_is_undefined_and_so_is_a_dead_latents() -> None:
    draw = torch.Generator().manual_seed(0)
    diff = replace(
        one_latent(torch.zeros(1, 4), torch.zeros(1, 4), torch.zeros(1)),
        decoder=torch.tensor([[0.0, 0.0, 0.0, 1.0]]),
    )
    h_b, h_t = torch.randn(500, 4, generator=draw), torch.randn(500, 4, generator=draw)
    nus = [
        float(latent_scaling(diff, rows(h_b[at : at + 100], (h_t - h_b)[at : at + 100]))["nu_activation"])
        for at in range(0, 500, 100)
    ]
    assert sum(nu != nu for nu in nus) >= 3  # each of two betas passes two standard errors once in twenty
    dead = replace(diff, encoder_bias=torch.tensor([-100.0]))
    columns = latent_scaling(dead, rows(h_b, h_t - h_b))
    assert all(column.isnan().all() for column in columns.values())


def test_the_standard_error_of_a_beta_is_that_of_repeated_samples() -> None:
    from diffbench import latent_scaling as module

    draw = torch.Generator().manual_seed(1)
    found, errors = [], []
    for _ in range(300):
        f = torch.rand(200, 1, generator=draw)
        u = 0.5 * f + f * torch.randn(200, 1, generator=draw)  # errors of unequal size
        sums = module._Sums(1)
        sums.add(f, u)
        beta = sums.beta(f.double().pow(2).sum(0), f.double().pow(4).sum(0))
        found.append(float(beta.value))
        errors.append(float(beta.error))
    assert torch.tensor(found).std().item() == pytest.approx(sum(errors) / len(errors), rel=0.12)


def crosscoder(base: list[list[float]], tuned: list[list[float]]) -> DictionaryDiff:
    n, d = len(base), len(base[0])
    b, t = torch.tensor(base), torch.tensor(tuned)
    both = torch.cat([b, t], dim=1)
    return DictionaryDiff(
        layer=0,
        input="both",
        activation="relu",
        encoder=torch.randn(n, 2 * d, generator=torch.Generator().manual_seed(0)),
        encoder_bias=torch.zeros(n),
        decoder_base=b,
        decoder_tuned=t,
        bias_base=torch.zeros(d),
        bias_tuned=torch.zeros(d),
        order=torch.arange(n),
        columns={"norm_share": norm_share(both), "relative_norm": relative_norm(both)},
    )


def test_nearest_cosines_by_hand() -> None:
    """0, 1: shared; 2: tuned-exclusive; 3: base-exclusive; 4: tuned-exclusive too."""
    diff = crosscoder(
        base=[[1, 0, 0], [0, 1, 0], [0, 0.01, 0], [0.8, 0.6, 0], [0.1, 0, 0]],
        tuned=[[1, 0, 0], [0, 1, 0], [0.6, 0.8, 0], [0, 0, 0.01], [0, 0, 1]],
    )
    columns = latents.latent_columns(diff, held_out_of(3))
    # 0: its tuned row [1,0,0] to base rows of the others: latent 4's [1,0,0]. 2: to shared and base-exclusive ones.
    assert columns["nearest_tuned"].tolist() == pytest.approx([1.0, 1.0, 0.96, float("nan"), 0.0], nan_ok=True)
    # 0: its base row to tuned rows of the others: 2's .6; 3: to shared and tuned-exclusive ones: 2's .48 + .48.
    assert columns["nearest_base"].tolist() == pytest.approx([0.6, 0.8, float("nan"), 0.96, float("nan")], nan_ok=True)
    assert columns["base_norm"].tolist() == pytest.approx((1 - diff.columns["relative_norm"]).tolist())


def held_out_of(d: int) -> Activations:
    draw = torch.Generator().manual_seed(2)
    return rows(torch.randn(200, d, generator=draw), torch.randn(200, d, generator=draw))


def test_nearest_cosines_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    diff = dictionary_diff("both", n=N, d=D)
    assert diff.decoder_base is not None and diff.decoder_tuned is not None
    both = torch.cat([diff.decoder_base, diff.decoder_tuned], dim=1)
    diff = replace(diff, columns={"norm_share": norm_share(both)})
    whole = latents._nearest(diff)
    monkeypatch.setattr(latents, "NEIGHBOURS", 5)
    for name, column in latents._nearest(diff).items():
        torch.testing.assert_close(column, whole[name], equal_nan=True)


def test_firing_ratios_of_triples() -> None:
    frequency = torch.tensor([0.2, 0.1, 0.02, 0.0004, 0.0, 0.0, 0.0, 0.3, 0.1, 0.5, 0.0, 0.0])
    found = latents._firing_ratios(frequency)
    nan = float("nan")
    assert found["base_to_shared"].tolist()[1::3] == pytest.approx([0.5, nan, nan, 0.0], nan_ok=True)
    assert found["tuned_to_shared"].tolist()[2::3] == pytest.approx([0.1, nan, nan, 0.0], nan_ok=True)
    # A triple under .05% of the rows is set aside; where the shared latent never fires there is a share, but no ratio.
    assert found["exclusive_share"].tolist()[1::3] == pytest.approx([1 / 3, nan, 1.0, 0.0], nan_ok=True)
    assert found["exclusive_share"].tolist()[2::3] == pytest.approx([1 / 11, nan, 1.0, 0.0], nan_ok=True)
    # Each column speaks of one member: no ranking lists another one for it.
    for name, silent in (("base_to_shared", (0, 2)), ("tuned_to_shared", (0, 1)), ("exclusive_share", (0,))):
        assert all(found[name][member::3].isnan().all() for member in silent), name


@pytest.mark.parametrize("kind", ["delta", "both", "tuned", "base"])
def test_energy_frequency_and_rise_are_their_definitions(kind: str) -> None:
    diff, data = dictionary_of(kind), held_out()
    columns = latents.latent_columns(diff, data)
    h_b, delta = data.load()
    f = own_activities(diff, h_b, h_b + delta)
    adds = f
    if kind in ("tuned", "base"):
        before = own_activities(diff, h_b, h_b)
        adds = f - before
        torch.testing.assert_close(columns["activation_rise"].double(), (f - before).mean(dim=0), atol=1e-5, rtol=1e-4)
    else:
        assert "activation_rise" not in columns
    size = dictionary.difference_decoder(diff).double().pow(2).sum(dim=1)
    torch.testing.assert_close(columns["energy"].double(), adds.pow(2).mean(dim=0) * size, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(columns["frequency"].double(), (f > 0).double().mean(dim=0), atol=5e-3, rtol=0)
    torch.testing.assert_close(columns["activation_mean"].double(), f.mean(dim=0), atol=1e-5, rtol=1e-4)


def test_what_is_ranked_falls_from_most_to_least_changed() -> None:
    diff, data = dictionary_of("both"), held_out()
    columns = latents.latent_columns(diff, data)
    for target in ("activation", "reconstruction", "error"):
        torch.testing.assert_close(columns[f"specific_{target}"], -columns[f"nu_{target}"].abs(), equal_nan=True)
    both = torch.stack([columns["nu_error"].abs(), columns["nu_reconstruction"].abs()])
    defined = ~both.isnan().any(dim=0)
    assert torch.equal(columns["specific"].isnan(), ~defined) and defined.any()
    least = int(columns["specific"].nan_to_num(nan=-1e9).argmax())
    ranks = [int((row < row[least]).sum()) for row in both]
    assert float(columns["specific"][least]) == -sum(ranks)


def test_the_order_is_that_of_the_column_asked_for_with_the_undefined_last() -> None:
    diff = latents.with_latents(dictionary_of("both"), held_out(), "specific_error")
    column = diff.columns["specific_error"][diff.order]
    told = int((~column.isnan()).sum())
    assert column[told:].isnan().all() and (column[: told - 1] >= column[1:told]).all()
    with pytest.raises(OptionError, match=r"no column 'nonsense'.*energy"):
        latents.with_latents(dictionary_of("delta"), held_out(), "nonsense")


def test_columns_fit_into_a_diff() -> None:
    for kind in ("delta", "both", "tuned", "base"):
        latents.with_latents(dictionary_of(kind), held_out(), "energy").check(D, 3, 10)


def test_each_nu_is_the_ratio_of_its_betas_and_the_mirrored_one_is_the_other_way_round() -> None:
    columns = latent_scaling(dictionary_of("both"), held_out())
    for target in ("activation", "reconstruction", "error"):
        for suffix, over, under in (("", "base", "tuned"), ("_mirrored", "tuned", "base")):
            nu = columns[f"nu_{target}{suffix}"]
            told = ~nu.isnan()
            wanted = columns[f"beta_{target}_{over}{suffix}"] / columns[f"beta_{target}_{under}{suffix}"]
            assert told.any()
            torch.testing.assert_close(nu[told], wanted[told], rtol=1e-4, atol=1e-5)


def test_one_beta_that_is_no_noise_defines_the_ratio() -> None:
    def beta(value: float, error: float) -> Beta:
        return Beta(torch.tensor([value], dtype=torch.float64), torch.tensor([error], dtype=torch.float64))

    assert float(_ratio(beta(0.1, 1.0), beta(2.0, 0.1))) == pytest.approx(0.05)
    assert float(_ratio(beta(2.0, 0.1), beta(0.1, 1.0))) == pytest.approx(20)
    assert _ratio(beta(0.1, 1.0), beta(0.1, 1.0)).isnan().all()
    assert _ratio(beta(2.0, 0.1), beta(0.0, 1.0)).isnan().all()  # and never infinite


def test_a_latent_that_fires_in_a_few_rows_has_no_beta() -> None:
    """One firing fits itself exactly: its standard error would be zero."""
    draw = torch.Generator().manual_seed(0)
    h_b, h_t = 0.01 * torch.randn(300, 4, generator=draw), 0.01 * torch.randn(300, 4, generator=draw)
    diff = replace(one_latent(h_b, h_t, h_t), encoder_bias=torch.tensor([-0.5]))
    for firings, told in ((1, False), (9, False), (10, True)):
        h_t[:firings, 0] = 1.0
        columns = latent_scaling(diff, rows(h_b, h_t - h_b))
        assert bool(columns["nu_activation"].isnan().any()) != told, firings


def test_the_standard_error_of_a_reconstructions_beta_is_its_own() -> None:
    diff, data = dictionary_of("both"), held_out()
    assert diff.decoder_tuned is not None and diff.bias_tuned is not None
    h_b, delta = (x.double() for x in data.load())
    f = own_activities(diff, h_b, h_b + delta)
    d = diff.decoder_tuned.double()
    u = (f @ d + diff.bias_tuned.double()) @ (d / d.pow(2).sum(dim=1, keepdim=True)).T
    beta = (f * u).sum(0) / f.pow(2).sum(0)
    wanted = (f.pow(2) * (u - beta * f).pow(2)).sum(0).sqrt() / f.pow(2).sum(0)
    found = _sums(diff, data, diff.decoder_tuned)["tuned"]["reconstruction"].error
    told = ~found.isnan()
    torch.testing.assert_close(found[told], wanted[told], rtol=1e-2, atol=1e-6)


def test_specific_is_the_sum_of_both_ranks_for_every_latent() -> None:
    columns = latents.latent_columns(dictionary_of("both"), held_out())
    sizes = [columns["nu_error"].abs(), columns["nu_reconstruction"].abs()]
    for j in (~columns["specific"].isnan()).nonzero().flatten().tolist():
        assert float(columns["specific"][j]) == -sum(int((size < size[j]).sum()) for size in sizes)


def test_where_the_difference_alone_is_identified_nothing_is_said_of_one_models_decoder() -> None:
    diff = dictionary_of("both")
    unknown = torch.full((N,), float("nan"))
    columns = latents.latent_columns(
        replace(diff, columns={"norm_share": unknown, "relative_norm": unknown}), held_out()
    )
    assert not [name for name in columns if name.startswith(("nu_", "beta_", "specific"))]
    assert columns["base_norm"].isnan().all()
    assert not columns["energy"].isnan().any()
