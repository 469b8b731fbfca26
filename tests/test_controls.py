from __future__ import annotations

import numpy as np
import pytest
import torch
from engine_factory import WIDTH, rows

from diffbench import dictionary
from diffbench.activations import Activations
from diffbench.controls import principal_directions, random_dictionary
from diffbench.edit import ActivationEdit, Streams


def activations(n: int = 3000) -> Activations:
    draw = torch.Generator().manual_seed(0)
    spread = torch.linspace(3, 0.2, WIDTH)
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=draw)).Q
    delta = (torch.randn(n, WIDTH, generator=draw) * spread) @ rotation + 2.0
    return rows(torch.randn(n, WIDTH, generator=draw), delta)


def streams(found: Activations) -> Streams:
    base, delta = found.load()
    return Streams(base, base + delta, found.position)


def test_principal_directions_are_those_of_numpy() -> None:
    found = activations()
    diff, spread = principal_directions(found, 5)
    delta = found.load()[1].double().numpy()
    _, _, expected = np.linalg.svd(delta - delta.mean(axis=0), full_matrices=False)
    cosines = np.abs(np.sum(diff.directions.double().numpy() * expected[:5], axis=1))
    assert cosines == pytest.approx(np.ones(5), abs=1e-5)
    along = (delta - delta.mean(axis=0)) @ diff.directions.double().numpy().T
    assert spread.numpy() == pytest.approx(along.std(axis=0), rel=1e-4)
    assert diff.centre.numpy() == pytest.approx(delta.mean(axis=0), abs=1e-5)
    assert torch.equal(diff.bias, diff.centre)
    largest = diff.directions.abs().argmax(dim=1, keepdim=True)
    assert bool((diff.directions.gather(1, largest) > 0).all())  # a sign of its own on every machine
    diff.check(WIDTH, 3, 10)


def test_all_principal_directions_are_the_difference_and_a_set_has_no_mean() -> None:
    found = activations()
    edit, here = ActivationEdit(principal_directions(found, WIDTH)[0]), streams(found)
    delta = here.h_t - here.h_b
    torch.testing.assert_close(edit.full(here), delta, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        edit.subset(here, torch.arange(WIDTH)),
        delta - edit.diff.centre,
        atol=1e-4,
        rtol=1e-4,  # type: ignore[union-attr]
    )


def test_more_principal_directions_than_there_are() -> None:
    assert principal_directions(activations(), 100)[0].n_components == WIDTH


def test_random_dictionary_is_tied_unit_and_fires_k_times() -> None:
    found, k = activations(), 6
    diff = random_dictionary(found, 64, k, seed=1)
    diff.check(WIDTH, 3, 10)
    assert diff.decoder is not None
    torch.testing.assert_close(diff.decoder.norm(dim=1), torch.ones(64))
    scalar = diff.encoder / diff.decoder
    torch.testing.assert_close(scalar, scalar[0, 0].expand_as(scalar))
    here = streams(found)
    f = dictionary.encode(diff, here.h_b, here.h_t)
    assert float((f > 0).float().sum(dim=1).mean()) == pytest.approx(k, rel=0.03)
    torch.testing.assert_close((f > 0).float().mean(dim=0), diff.columns["frequency"], atol=2e-3, rtol=0)
    torch.testing.assert_close(f.pow(2).mean(dim=0), diff.columns["energy"], rtol=1e-2, atol=1e-3)
    energy = diff.columns["energy"][diff.order]
    assert (energy.diff() <= 0).all()


def test_its_scalar_is_the_best_one() -> None:
    found = activations()
    diff = random_dictionary(found, 64, 6, seed=1)
    here = streams(found)
    delta = (here.h_t - here.h_b).double()
    centred = delta - delta.mean(dim=0)
    hat = dictionary.added_by_all(diff, here.h_b, here.h_t).double() - delta.mean(dim=0)
    assert float((centred * hat).sum() / hat.pow(2).sum()) == pytest.approx(1, abs=1e-3)


def test_the_seed_decides() -> None:
    found = activations(500)
    one, same, other = (random_dictionary(found, 32, 4, seed) for seed in (1, 1, 2))
    assert torch.equal(one.encoder, same.encoder) and torch.equal(one.order, same.order)
    assert not torch.equal(one.encoder, other.encoder)
