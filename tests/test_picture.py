"""Dashboards of a cell, against the same things worked out the obvious way in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_factory import WIDTH, dictionary_diff, one_of_each
from score_factory import NO_CONTROLS, Prepared, quiet

from diffbench.attribution import attribute_each
from diffbench.controls import principal_directions, random_dictionary
from diffbench.dashboard import DASHBOARD, LEAST_COSINE, Dashboard, Move, read_dashboard
from diffbench.diff import Diff, Finding, WeightDiff
from diffbench.errors import RecordError
from diffbench.ground import Ground
from diffbench.interpretability import scene_of
from diffbench.kl_dashboard import MOST, MOST_WHOLE, OF_A_DOCUMENT, attributed, high_kl, histogram, kl_dashboards
from diffbench.picture import picture
from diffbench.score import score

pytest_plugins = ("score_factory",)


@pytest.fixture(scope="module")
def ground(prepared: Prepared) -> Ground:
    return Ground.of(prepared.bench.comparison, prepared.bench.reference, prepared.bench.tuned)


def named(diff: Diff, components: tuple[int, ...]) -> Diff:
    findings = tuple(
        Finding(rank=rank, component=component, score=1.0 / rank, tokens_up=("blue",))
        for rank, component in enumerate(components, start=1)
    )
    return replace(diff, findings=findings)


@pytest.fixture(scope="module")
def latents(prepared: Prepared) -> Diff:
    return random_dictionary(prepared.method_rows(), 24, 4, 0)


def test_high_kl_tokens_are_the_highest_and_few_of_a_document(ground: Ground) -> None:
    where = high_kl(ground, 10)
    assert int(where.sum()) == 10 and int(where.sum(dim=1).max()) <= OF_A_DOCUMENT
    assert not bool((where & ~ground.corpus.predicts).any())
    kl = (ground.token_kl * ground.corpus.predicts).double()
    greedy: dict[int, int] = {}
    expected = []
    for index in kl.flatten().argsort(descending=True).tolist():
        document = index // kl.shape[1]
        if greedy.get(document, 0) < OF_A_DOCUMENT and len(expected) < 10:
            greedy[document] = greedy.get(document, 0) + 1
            expected.append(float(kl.flatten()[index]))
    assert sorted(kl[where].tolist(), reverse=True) == pytest.approx(expected)


def test_a_finding_is_shown_where_it_is_among_the_three_most_responsible(ground: Ground, latents: Diff) -> None:
    names = [str(index) for index in range(10_000)]
    places = attributed(ground, latents)
    assert places is not None and 0 < len(places.where) <= MOST
    found = attribute_each(latents, ground.reference, ground.tuned, ground.corpus, high_kl(ground, MOST))
    kls = [float(ground.token_kl[document, position]) for document, position in places.where.tolist()]
    assert kls == sorted(kls, reverse=True)
    dashboards = kl_dashboards(ground, places, range(24), names)
    tops: dict[int, int] = dict.fromkeys(range(24), 0)
    for row in found.tolist():
        for component in sorted(range(24), key=lambda c: row[c])[:3]:
            tops[component] += 1
    assert [board.n_top for board in dashboards if board] == [tops[component] for component in range(24)]
    assert sum(board.n_first for board in dashboards if board) == len(places.where)
    assert all(board and board.chance == 3 / 24 and not board.either_way for board in dashboards)
    assert sum(board.n_top for board in dashboards if board) / 24 == pytest.approx(len(places.where) * 3 / 24)
    for component, board in enumerate(dashboards):
        assert board is not None and len(board.contexts) == min(6, tops[component])
        assert sum(board.attributions.counts) == len(places.where) == board.n_contexts
        assert board.attributions.low == pytest.approx(float(found[:, component].min()), rel=6e-3)
        for context in board.contexts:
            assert 1 <= context.place <= 3


def test_what_the_models_say_there_is_what_they_say(ground: Ground, latents: Diff) -> None:
    places = attributed(ground, latents)
    assert places is not None
    names = [f"t{index}" for index in range(ground.reference.config.vocab_size)]
    board = max(filter(None, kl_dashboards(ground, places, range(24), names)), key=lambda board: board.n_top)
    context = board.contexts[0]
    document, at = context.text.document, context.text.at
    row = ground.corpus.ids[document]
    start = next(
        start
        for start in range(len(row))
        if [f"t{token}" for token in row[start : start + len(context.text.tokens)].tolist()]
        == list(context.text.tokens)
    )
    ids = row[: start + at + 1][None]
    with torch.no_grad():
        p_r, p_t = (model.double()(ids).logits[0, -1].softmax(-1) for model in (ground.reference, ground.tuned))
        ground.reference.float(), ground.tuned.float()
    assert context.reference_top == f"t{int(p_r.argmax())}" and context.tuned_top == f"t{int(p_t.argmax())}"
    assert context.tuned_top_p == pytest.approx(float(p_t.max()), rel=6e-3)
    up = p_t * (p_t / p_r).log()
    down = p_r * (p_r / p_t).log()
    check_moves(context.increased, up, p_r, p_t)
    check_moves(context.decreased, down, p_r, p_t)
    kl = float(up.sum())
    if at + 1 < len(context.text.values):  # the token behind is shaded by the KL of its own prediction
        assert context.text.values[at + 1] == pytest.approx(kl, rel=1e-2, abs=2e-4)


def check_moves(moves: tuple[Move, ...], parts: torch.Tensor, p_r: torch.Tensor, p_t: torch.Tensor) -> None:
    best = parts.topk(len(moves))
    assert [move.token for move in moves] == [f"t{index}" for index in best.indices.tolist()]
    for move, value, index in zip(moves, best.values.tolist(), best.indices.tolist(), strict=True):
        assert move.nats == pytest.approx(value, rel=1e-2)
        assert move.reference == pytest.approx(float(p_r[index]), rel=1e-2)
        assert move.tuned == pytest.approx(float(p_t[index]), rel=1e-2)


def test_a_direction_of_either_sign_counts_by_size(prepared: Prepared, ground: Ground) -> None:
    pca = principal_directions(prepared.method_rows(), 4)[0]
    places = attributed(ground, pca)
    assert places is not None
    boards = kl_dashboards(ground, places, range(4), [str(index) for index in range(10_000)])
    found = attribute_each(pca, ground.reference, ground.tuned, ground.corpus, high_kl(ground, MOST))
    assert all(board and board.either_way and board.chance == 3 / 4 for board in boards)
    firsts = found.abs().argmax(dim=1)
    assert [board.n_first for board in boards if board] == [int((firsts == c).sum()) for c in range(4)]


def test_a_latent_that_adds_nothing_has_no_kl_dashboard(ground: Ground) -> None:
    alike = dictionary_diff("both")
    assert alike.decoder_base is not None and alike.decoder_tuned is not None
    decoder = alike.decoder_tuned.clone()
    decoder[4] = alike.decoder_base[4]
    places = attributed(ground, replace(alike, decoder_tuned=decoder))
    assert places is not None
    boards = kl_dashboards(ground, places, (3, 4), [str(index) for index in range(10_000)])
    assert boards[0] is not None and boards[1] is None
    assert boards[0].chance == pytest.approx(3 / (alike.n_components - 1), rel=1e-2), "of those that add something"


def test_feature_dashboards_show_where_a_latent_is_most_active(prepared: Prepared, ground: Ground) -> None:
    latents = named(random_dictionary(prepared.method_rows(), 24, 4, 0), (3, 5, 3))
    board = picture(prepared.bench, ground, latents)
    assert [finding.component for finding in board.findings] == [3, 5, 3]
    first, second, again = board.findings
    assert again.feature is None and again.kl is None  # the same component, shown once
    assert first.feature is not None and second.feature is not None and board.no_feature is None
    scene = scene_of(prepared.bench)
    feature = first.feature
    assert feature.n_positions == scene.corpus.n_tokens
    assert feature.frequency.value == pytest.approx(feature.n_active / feature.n_positions)
    assert sum(feature.activity.counts) == feature.n_active
    peaks = [shown.values[shown.at] for shown in feature.contexts]
    assert peaks == sorted(peaks, key=lambda value: -abs(value or 0)) and len(peaks) > 1
    assert peaks[0] == pytest.approx(feature.activity.high, rel=1e-2)
    assert len({shown.document for shown in feature.contexts}) == len(peaks)
    assert feature.relative_norm.state == "n/a" and not feature.nu
    cosines = [near.cosine for near in feature.neighbours]
    assert all(cosine >= LEAST_COSINE for cosine in cosines)
    assert cosines == sorted(cosines, reverse=True) and all(near.component != 3 for near in feature.neighbours)


def test_each_kind_of_diff_has_a_picture_or_says_why_not(prepared: Prepared, ground: Ground) -> None:
    for diff in one_of_each().values():
        found = picture(prepared.bench, ground, named(diff, (0, 1)[: max(1, diff.n_components)]))
        assert (found.no_kl is None) == any(finding.kl is not None for finding in found.findings), diff.kind
        assert (found.no_feature is None) == any(finding.feature is not None for finding in found.findings), diff.kind
        assert found.findings[0].tokens_up == ("blue",)
    none = picture(prepared.bench, ground, quiet(dictionary_diff("delta")))
    assert none.no_kl == none.no_feature == "the Diff has no findings" and not none.findings


def test_two_models_that_say_the_same_have_no_kl_to_attribute(prepared: Prepared, ground: Ground) -> None:
    same = replace(ground, token_kl=torch.zeros_like(ground.token_kl))
    board = picture(prepared.bench, same, named(dictionary_diff("delta"), (0,)))
    assert board.no_kl is not None and board.findings[0].kl is None and board.findings[0].feature is not None


def test_directions_that_have_nothing_in_common_are_no_neighbours(prepared: Prepared, ground: Ground) -> None:
    board = picture(prepared.bench, ground, named(principal_directions(prepared.method_rows(), 4)[0], (0, 1)))
    assert all(finding.feature is not None and not finding.feature.neighbours for finding in board.findings)


def tied(prepared: Prepared, *silent: int) -> Diff:
    """Four triples; some latents never fire."""
    from diffbench.latents import with_latents

    n = 12
    bias = torch.zeros(n)
    bias[list(silent)] = -1e9
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n // 3, WIDTH, generator=generator).repeat_interleave(3, dim=0)
    base, tuned = rows.clone(), rows.clone() * 1.1
    base[2::3], tuned[1::3] = 0, 0
    diff = replace(
        dictionary_diff("both", "relu"),
        encoder=torch.randn(n, 2 * WIDTH, generator=generator) / WIDTH,
        encoder_bias=bias,
        decoder=None,
        bias=None,
        decoder_base=base,
        decoder_tuned=tuned,
        bias_base=torch.zeros(WIDTH),
        bias_tuned=torch.zeros(WIDTH),
        group=torch.arange(n // 3).repeat_interleave(3),
        order=torch.arange(n),
        columns={},
    )
    return named(with_latents(diff, prepared.method_rows(), "frequency"), (0,))


def test_a_triple_whose_shared_latent_never_fires_comes_first(prepared: Prepared, ground: Ground) -> None:
    shown = picture(prepared.bench, ground, tied(prepared, 3, 4, 9, 10, 11)).tied  # triple 1 tuned only, 3 nothing
    assert shown is not None and [triple.triple for triple in shown.triples] == [0, 1, 2]
    alone = shown.triples[1]
    assert alone.beyond and alone.shared == alone.base == 0 and alone.tuned > 0
    assert alone.base_to_shared is None and alone.tuned_to_shared is None
    assert not shown.triples[0].beyond and not shown.triples[2].beyond
    assert (shown.examples[0].triple, shown.examples[0].chosen) == (1, "tuned") and shown.examples[0].tuned
    assert not shown.examples[0].base


def test_a_tied_crosscoder_has_its_triples(prepared: Prepared, ground: Ground) -> None:
    shown = picture(prepared.bench, ground, tied(prepared)).tied
    assert shown is not None and shown.n_triples == len(shown.triples) == 4
    assert not any(triple.beyond for triple in shown.triples)
    for triple in shown.triples:
        if triple.base_to_shared is not None:
            assert triple.base_to_shared == pytest.approx(triple.base / triple.shared, rel=2e-2)
        if triple.tuned_to_shared is not None:
            assert triple.tuned_to_shared == pytest.approx(triple.tuned / triple.shared, rel=2e-2)
    highest = max(shown.triples, key=lambda triple: triple.tuned_to_shared or 0)
    assert shown.examples[0].triple == highest.triple and shown.examples[0].chosen == "tuned"
    assert shown.base_text == shown.tuned_text and "no conversations" in shown.base_text
    assert picture(prepared.bench, ground, named(dictionary_diff("delta"), (0,))).tied is None


def test_scoring_writes_it_and_it_is_read_back(prepared: Prepared, tmp_path: Path) -> None:
    score(prepared.bench, quiet(dictionary_diff("delta")), 0, NO_CONTROLS, tmp_path)
    assert read_dashboard(tmp_path / DASHBOARD) == Dashboard(
        no_kl="the Diff has no findings", no_feature="the Diff has no findings"
    )
    (tmp_path / DASHBOARD).write_text('{"schema_version": 1, "findings": [{"rank": 0}]}')
    with pytest.raises(RecordError, match=r"dashboard\.json: findings\.0"):
        read_dashboard(tmp_path / DASHBOARD)


def test_a_histogram_counts_everything_once() -> None:
    values = torch.tensor([0.0, 0.1, 0.5, 1.0])
    assert sum(histogram(values).counts) == 4
    assert histogram(torch.ones(3)).counts == (3,)
    assert histogram(torch.zeros(0)).counts == ()


def test_whole_components_look_at_fewer_tokens(prepared: Prepared, ground: Ground) -> None:
    names = [name for name, _ in ground.reference.named_parameters()][:2]
    whole = WeightDiff(sigma=torch.ones(2), parameters=((names[0],), (names[1],)))
    board = picture(prepared.bench, ground, named(whole, (0, 1)))
    assert board.no_feature == "the Diff has no activity at single tokens"
    found = [finding.kl for finding in board.findings if finding.kl is not None]
    assert found and all(one.n_contexts <= MOST_WHOLE for one in found)
