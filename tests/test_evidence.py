"""Excerpts: balanced, from disjoint documents, without shared windows, in an order that says nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffbench.evidence import WINDOW, Contexts, active_mask, sample_marked, sample_splits
from diffbench.question import Excerpt, Marked

World = tuple[list[list[str]], Tensor]


def small_world(n_documents: int = 60, length: int = 40, n_words: int = 50, seed: int = 0) -> World:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n_words, (n_documents, length), generator=generator).tolist()
    tokens = [["<bos>", *(f"w{number}" for number in row)] for row in drawn]
    return tokens, torch.tensor([(d, p) for d in range(n_documents) for p in range(1, length + 1)])


def named_world(n_documents: int = 60, length: int = 40) -> World:
    """Every token says where it is."""
    tokens = [["<bos>", *(f"{d}.{p}" for p in range(1, length + 1))] for d in range(n_documents)]
    return tokens, torch.tensor([(d, p) for d in range(n_documents) for p in range(1, length + 1)])


def documents(excerpts: tuple[Excerpt, ...]) -> set[str]:
    return {excerpt.tokens[-1].split(".")[0] for excerpt in excerpts}


def both(world: World, activity: Tensor, active: Tensor, n: int = 100, seed: int = 0) -> list[tuple[Excerpt, ...]]:
    return list(sample_splits(Contexts.of(*world, seed), activity, active, n, seed))


def some(n: int, share: float, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, generator=generator) * (torch.rand(n, generator=generator) < share)


def test_splits_take_different_documents_and_both_classes_equally() -> None:
    world = named_world()
    activity = some(len(world[1]), 0.1)
    explain, test = both(world, activity, activity > 0)
    assert not documents(explain) & documents(test)
    for excerpts in (explain, test):
        assert len(excerpts) == 100
        assert sum(excerpt.active for excerpt in excerpts) == 50
        assert all(excerpt.active == (excerpt.activity > 0) for excerpt in excerpts)


def test_kinds_of_documents_written_in_turn_reach_both_splits() -> None:
    world = named_world()
    activity = some(len(world[1]), 0.1)
    for excerpts in both(world, activity, activity > 0):
        assert {int(name) % 2 for name in documents(excerpts)} == {0, 1}


def test_windows_end_at_their_position_and_keep_bos() -> None:
    tokens, where = small_world()
    activity = torch.zeros(len(where))
    activity[where[:, 1] == 3] = 5.0
    for excerpts in both((tokens, where), activity, activity > 0):
        for excerpt in excerpts:
            assert 1 < len(excerpt.tokens) <= WINDOW
            if excerpt.active:
                assert excerpt.tokens[0] == "<bos>" and len(excerpt.tokens) == 4
    assert any(len(excerpt.tokens) == WINDOW for excerpt in excerpts)


def test_no_window_is_drawn_twice_where_text_recurs() -> None:
    tokens, where = small_world(n_documents=200, length=12, n_words=3)
    activity = some(len(where), 0.3)
    for seed in range(5):
        explain, test = both((tokens, where), activity, activity > 0, seed=seed)
        shown = {excerpt.tokens for excerpt in explain}
        assert test and not shown & {excerpt.tokens for excerpt in test}
        for excerpts in (explain, test):
            for wanted in (True, False):
                windows = [excerpt.tokens for excerpt in excerpts if excerpt.active == wanted]
                assert len(windows) == len(set(windows))


def test_text_that_only_repeats_leaves_nothing_to_test() -> None:
    tokens, where = small_world(n_documents=1)
    tokens, where = tokens * 30, torch.cat([where + torch.tensor([d, 0]) for d in range(30)])
    activity = (where[:, 1] % 2).double()
    explain, test = both((tokens, where), activity, activity > 0)
    assert len(explain) == 40 and test == ()


def test_active_excerpts_hold_the_strongest_and_span_the_range() -> None:
    world = named_world()
    activity = some(len(world[1]), 0.5)
    explain, _ = both(world, activity, activity > 0)
    drawn = sorted((excerpt.activity for excerpt in explain if excerpt.active), reverse=True)
    inside = {int(name) for name in documents(explain)}
    everything = activity[[d in inside for d in world[1][:, 0].tolist()]]
    strongest = everything.double().topk(25).values.tolist()
    assert drawn[:20] == pytest.approx(strongest[:20])
    rest = drawn[25:]
    assert min(rest) < 0.1 and max(rest) > 0.85
    assert sum(0.25 < value < 0.75 for value in rest) > 8


@pytest.mark.parametrize("back", [1, 2])
def test_half_of_the_inactive_ones_are_near_misses(back: int) -> None:
    tokens, where = small_world(n_words=500, n_documents=200)
    hot = torch.tensor([tokens[d][p] in {f"w{n}" for n in range(10)} for d, p in where.tolist()])
    generator = torch.Generator().manual_seed(0)
    activity = (hot & (torch.rand(len(hot), generator=generator) < 0.5)).double()
    for excerpts in both((tokens, where), activity, activity > 0, n=40):
        endings = {excerpt.tokens[-back] for excerpt in excerpts if excerpt.active}
        near = sum(excerpt.tokens[-back] in endings for excerpt in excerpts if not excerpt.active)
        assert len(excerpts) == 40
        assert near >= 5, "random inactive positions share one of some 20 in 500 words"


def test_order_says_nothing_of_the_class() -> None:
    world = named_world()
    activity = some(len(world[1]), 0.2)
    first = [
        sum(excerpt.active for excerpt in excerpts[:50])
        for seed in range(40)
        for excerpts in both(world, activity, activity > 0, seed=seed)
    ]
    assert 23 < sum(first) / len(first) < 27


def test_classes_stay_equal_when_one_is_scarce() -> None:
    world = named_world()
    for share in (0.005, 0.995):
        active = some(len(world[1]), share) > 0
        for excerpts in both(world, active.double(), active):
            n_active = sum(excerpt.active for excerpt in excerpts)
            assert 0 < n_active < 50 and len(excerpts) == 2 * n_active


def test_nothing_active_gives_nothing() -> None:
    world = named_world()
    for active in (torch.zeros(len(world[1])) > 0, torch.ones(len(world[1])) > 0):
        assert both(world, active.double(), active) == [(), ()]
    nowhere = torch.zeros(0)
    assert both(([], torch.zeros(0, 2)), nowhere, nowhere > 0) == [(), ()]


def test_same_seed_same_excerpts() -> None:
    world = small_world()
    activity = some(len(world[1]), 0.1)
    assert both(world, activity, activity > 0) == both(world, activity, activity > 0)
    assert both(world, activity, activity > 0) != both(world, activity, activity > 0, seed=1)


def test_active_mask() -> None:
    values = torch.tensor([0.0, 1e-30, 2.0])
    assert active_mask(values, sparse=True).tolist() == [False, True, True]
    ramp = torch.arange(1000.0)
    assert active_mask(ramp, sparse=False).nonzero().flatten().tolist() == list(range(980, 1000))
    for constant in (torch.full((500,), 3.0), torch.zeros(500), torch.zeros(0), torch.ones(1)):
        assert not active_mask(constant, sparse=False).any()
    tied = (torch.arange(1000) % 10 == 0).double()
    assert active_mask(tied, sparse=False).equal(tied > 0)


def test_excerpts_say_where_else_the_component_is_active() -> None:
    tokens, where = named_world()
    activity = some(len(where), 0.2)
    held = {(d, p): a for (d, p), a in zip(where.tolist(), activity.double().tolist(), strict=True)}
    contexts = Contexts.of(tokens, where, 0)
    windows = {contexts.window(i): place for i, place in enumerate(where.tolist())}
    for excerpts in both((tokens, where), activity, activity > 0):
        for excerpt in excerpts:
            document, position = windows[excerpt.tokens]
            start = position + 1 - len(excerpt.tokens)
            wanted = [held.get((document, p), 0.0) for p in range(start, position + 1)]
            assert list(excerpt.activities) == pytest.approx(wanted, rel=1e-5)
            assert excerpt.active_at == tuple(at for at, value in enumerate(wanted) if value > 0)


def test_how_excerpts_were_drawn_is_told() -> None:
    world = named_world()
    activity = some(len(world[1]), 0.5)
    explain, _ = both(world, activity, activity > 0)
    kinds = {kind: [e for e in explain if e.drawn == kind] for kind in ("top", "range", "near miss", "random")}
    assert len(kinds["top"]) == len(kinds["range"]) == 25 and len(kinds["near miss"]) + len(kinds["random"]) == 50
    assert min(e.activity for e in kinds["top"]) >= max(e.activity for e in kinds["range"])
    tokens, where = small_world(n_words=500, n_documents=200)
    hot = torch.tensor([tokens[d][p] in {f"w{n}" for n in range(10)} for d, p in where.tolist()])
    found, _ = both((tokens, where), (hot * some(len(hot), 0.5)).double(), hot & (some(len(hot), 0.5) > 0), n=40)
    endings = {e.tokens[-back] for back in (1, 2) for e in found if e.active}
    near = [e for e in found if e.drawn == "near miss"]
    assert near and all({e.tokens[-1], e.tokens[-2]} & endings for e in near)


def marked(world: World, active: Tensor, n: int = 100, seed: int = 0) -> tuple[tuple[Marked, ...], tuple[Marked, ...]]:
    return sample_marked(Contexts.of(*world, seed), active, n, seed)


def test_marks_stand_where_the_component_is_active_or_nowhere_of_it() -> None:
    world = named_world()
    active = some(len(world[1]), 0.1) > 0
    hot = {world[0][d][p] for (d, p), held in zip(world[1].tolist(), active.tolist(), strict=True) if held}
    right, wrong = marked(world, active)
    assert len(right) == len(wrong) == 50
    for context in right:
        assert {context.tokens[at] for at in context.marked} == set(context.tokens) & hot
    for context in wrong:
        assert not {context.tokens[at] for at in context.marked} & hot
        assert set(context.tokens) & hot, "of the same kind of window"
        assert all(context.tokens[at] != "<bos>" for at in context.marked)
    explain, _ = both(world, active.double(), active)
    inside = {e.tokens[-1].split(".")[0] for e in explain}
    assert not inside & {c.tokens[-1].split(".")[0] for c in (*right, *wrong)}, "of other documents"
    assert len({context.tokens for context in (*right, *wrong)}) == 100


def test_where_and_how_many_marks_stand_says_nothing() -> None:
    world = small_world(n_documents=800, length=30, n_words=400)
    for share in (0.02, 0.2, 0.6):
        right, wrong = marked(world, some(len(world[1]), share) > 0)
        assert len(right) > 20
        assert [(c.marked, len(c.tokens)) for c in right] == [(c.marked, len(c.tokens)) for c in wrong]


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_length_says_nothing_of_the_class(share: float) -> None:
    """In short documents a third of all windows are cut off by the beginning."""
    world = small_world(n_documents=400, length=30, n_words=60)
    late = torch.tensor([position > 8 for _, position in world[1].tolist()])
    activity = some(len(world[1]), share) * late  # active windows are rarely short
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for seed in range(6):
        for excerpts in both(world, activity, activity > 0, seed=seed):
            for excerpt in excerpts:
                lengths[excerpt.active].append(len(excerpt.tokens))
    clipped = {kind: sum(length < WINDOW for length in found) / len(found) for kind, found in lengths.items()}
    assert clipped[True] == pytest.approx(clipped[False], abs=0.03)
    assert sum(lengths[True]) / len(lengths[True]) == pytest.approx(sum(lengths[False]) / len(lengths[False]), abs=0.1)


def test_windows_that_were_shown_are_not_marked() -> None:
    tokens, where = small_world(n_documents=200, length=12, n_words=3)
    active = some(len(where), 0.3) > 0
    contexts = Contexts.of(tokens, where, 0)
    right, _ = sample_marked(contexts, active, 60, 0)
    taken = frozenset(context.tokens for context in right)
    again = sample_marked(contexts, active, 60, 0, taken)
    assert right and not taken & {context.tokens for part in again for context in part}
