"""Ranking a dictionary by a column, in memory and through its file, and the table of its latents."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from engine_factory import WIDTH, dictionary_diff, labelled_corpus, one_of_each, small_pair, word_tokenizer
from safetensors.torch import load_file, save_file

from diffbench import latent_table
from diffbench.attribution import attribute, responsibility
from diffbench.dictionary import difference_decoder
from diffbench.diff import MAX_COLUMNS, DictionaryDiff, DirectionDiff, WeightDiff, falling, order_of
from diffbench.diff_file import load_diff, save_diff, save_header
from diffbench.errors import DiffError, OptionError, RecordError
from diffbench.findings import MOST_FINDINGS
from diffbench.latent_row import PATTERNS, LatentRow, meaning
from diffbench.latent_table import numeric_columns, read_latents, top_latents, write_latents
from diffbench.lens import Lens
from diffbench.ranking import NoRanking, ranked, rankings
from diffbench.tiny import VOCABULARY

NAN = float("nan")


@pytest.fixture(scope="module")
def lens() -> Lens:
    return Lens.of(small_pair()[1], word_tokenizer(), labelled_corpus(400))


def with_columns(diff: DictionaryDiff, **columns: Any) -> DictionaryDiff:
    return replace(diff, columns={name: torch.as_tensor(values) for name, values in columns.items()})


@pytest.mark.parametrize("seed", range(5))
def test_falling_is_stable_and_puts_nan_last(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    column = torch.randint(-3, 4, (40,), generator=draw).float()
    column[torch.randperm(40, generator=draw)[:9]] = NAN
    column[3] = -1e30
    values = column.tolist()
    slow = sorted(range(40), key=lambda i: (math.isnan(values[i]), 0.0 if math.isnan(values[i]) else -values[i], i))
    assert falling(column).tolist() == slow
    assert falling(torch.full((3,), NAN)).tolist() == [0, 1, 2] and falling(torch.zeros(0)).tolist() == []


@pytest.mark.parametrize("kind", ["delta", "both", "tuned"])
def test_ranked_anew(kind: str, lens: Lens) -> None:
    diff = dictionary_diff(kind, n=60)
    column = torch.randn(60, generator=torch.Generator().manual_seed(1))
    column[7] = NAN
    diff = replace(with_columns(diff, mine=column), verdict="changed", change_score=0.5, notes={"a": 1})
    again = ranked(diff, "mine", lens)
    again.check(WIDTH, 3, VOCABULARY)
    assert again.order.tolist() == falling(column).tolist() and again.order[-1] == 7 and again.ranking == "mine"
    assert [f.component for f in again.findings] == again.order[:MOST_FINDINGS].tolist()
    assert [f.score for f in again.findings] == column[again.order[:MOST_FINDINGS]].tolist()
    words = lens.read(difference_decoder(diff)[again.order[:MOST_FINDINGS]])
    assert [(list(f.tokens_up), list(f.tokens_down)) for f in again.findings] == words
    assert (again.verdict, again.change_score, again.notes) == ("changed", 0.5, {"a": 1})


def test_undefined_latents_are_no_findings(lens: Lens) -> None:
    diff = with_columns(dictionary_diff("delta"), mine=[NAN] * 22 + [1.0, 2.0])
    assert [(f.rank, f.component) for f in ranked(diff, "mine", lens).findings] == [(1, 23), (2, 22)]


def test_what_cannot_be_ranked_says_what_can(lens: Lens) -> None:
    diff = with_columns(dictionary_diff("delta"), b=[1.0] * 24, a=[2.0] * 24, none=[NAN] * 24)
    assert rankings(diff) == ["a", "b", "kl_attribution"]
    assert {kind: rankings(other) for kind, other in one_of_each().items()} == {
        "dictionary": ["energy", "kl_attribution", "kl_attribution_tuned"],
        "direction": ["kl_attribution"],
        "weight": ["kl_attribution"],
        "output": [],
    }
    with pytest.raises(NoRanking, match=r"^there is no ranking 'nu_error'; rankings: a, b, kl_attribution$"):
        ranked(diff, "nu_error", lens)
    with pytest.raises(
        OptionError, match=r"^there is no ranking 'c' for any dictionary; rankings: a, b, kl_attribution$"
    ):
        ranked(diff, "c", lens)
    with pytest.raises(
        NoRanking, match=r"^the ranking 'none' is undefined for every component; rankings: a, b, kl_attribution$"
    ):
        ranked(diff, "none", lens)
    with pytest.raises(NoRanking, match=r"a weight diff has no latents to rank by 'a'; rankings: kl_attribution"):
        ranked(one_of_each()["weight"], "a", lens)
    with pytest.raises(NoRanking, match=r"^an output diff has no components to rank by 'kl_attribution'"):
        ranked(one_of_each()["output"], "kl_attribution", lens, lambda _: torch.ones(1))
    with pytest.raises(NoRanking, match=r"^the ranking 'kl_attribution' is measured on two models, and there are none"):
        ranked(diff, "kl_attribution", lens)
    with pytest.raises(NoRanking, match=r"^a dictionary diff without two decoders has no 'kl_attribution_tuned'"):
        ranked(diff, "kl_attribution_tuned", lens, lambda _: torch.ones(24))
    with pytest.raises(NoRanking, match=r"^the ranking 'kl_attribution' is undefined for every component"):
        ranked(diff, "kl_attribution", lens, lambda _: torch.full((24,), NAN))
    many = with_columns(dictionary_diff("delta"), **{f"column_{i:03}": [1.0] * 24 for i in range(200)})
    with pytest.raises(NoRanking, match="and 161 more") as caught:
        ranked(many, "nu_error", lens)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("kind", ["dictionary", "direction", "weight"])
def test_what_the_engine_measures_ranks_every_kind_that_has_a_handle(kind: str, lens: Lens, tmp_path: Path) -> None:
    diff = one_of_each()[kind]
    measured = torch.arange(diff.n_components).float()
    measured[1] = NAN
    seen: list[Any] = []

    def measure(asked: Any) -> torch.Tensor:
        seen.append(asked)
        return measured

    again = ranked(diff, "kl_attribution", lens, measure)
    again.check(WIDTH, 3, VOCABULARY)
    assert seen == [diff] and again.ranking == "kl_attribution" and type(again) is type(diff)
    expected = falling(measured).tolist()
    assert order_of(again).tolist() == expected and expected[-1] == 1
    assert [f.component for f in again.findings] == expected[:-1]
    assert [f.score for f in again.findings] == sorted((x for x in measured.tolist() if x == x), reverse=True)
    save_diff(diff, tmp_path)
    tensors = (tmp_path / "tensors.safetensors").read_bytes()
    save_header(again, tmp_path)
    loaded = load_diff(tmp_path)
    assert loaded.ranking == "kl_attribution" and order_of(loaded).tolist() == expected  # type: ignore[union-attr, arg-type]
    assert loaded.findings == again.findings and (tmp_path / "tensors.safetensors").read_bytes() == tensors


def test_what_a_method_said_of_a_component_stays_with_it(lens: Lens) -> None:
    values = torch.tensor([1.0, 2.0, 3.0])
    direction = one_of_each()["direction"]
    assert isinstance(direction, DirectionDiff)
    found = ranked(direction, "kl_attribution", lens, lambda _: values).findings
    assert [f.component for f in found] == [2, 1, 0] and [f.text for f in found] == [None, None, "it\nsays"]
    assert [(list(f.tokens_up), list(f.tokens_down)) for f in found] == lens.read(direction.directions.flip(0))
    weight = one_of_each()["weight"]
    assert isinstance(weight, WeightDiff)
    first, second = ranked(weight, "kl_attribution", lens, lambda _: values[:2]).findings
    assert (first.component, first.module, first.tokens_up) == (1, "model.layers.1.self_attn.q_proj", ())
    assert (second.tokens_up, second.score, second.rank) == (weight.findings[0].tokens_up, 1.0, 2)
    whole = WeightDiff(sigma=torch.ones(2), parameters=(("a.weight", "b.weight"), ("c",)))
    found = ranked(whole, "kl_attribution", lens, lambda _: values[:2]).findings
    assert [f.module for f in found] == ["c", "a.weight, b.weight"]


def test_two_decoders_can_be_ranked_by_the_tuned_one(lens: Lens) -> None:
    reference, tuned = small_pair()
    diff, text = dictionary_diff("both"), labelled_corpus(200)
    measure = partial(responsibility, reference=reference, tuned=tuned, text=text, decoder="tuned")
    again = ranked(diff, "kl_attribution_tuned", lens, measure)
    assert again.ranking == "kl_attribution_tuned"
    assert torch.equal(order_of(again), falling(measure(diff)))
    other = responsibility(diff, reference, tuned, text)
    assert not torch.equal(falling(other), order_of(again))


def test_kl_attribution_of_a_real_pair_ranks_what_is_responsible_first(lens: Lens) -> None:
    reference, tuned = small_pair(outlier=False)
    text = labelled_corpus(100)
    diff = dictionary_diff("both")
    again = ranked(diff, "kl_attribution", lens, partial(responsibility, reference=reference, tuned=tuned, text=text))
    slopes = attribute(diff, reference, tuned, text, text.predicts)
    assert again.order.tolist() == slopes.argsort(stable=True).tolist()  # type: ignore[union-attr]
    assert again.findings[0].score == pytest.approx(-float(slopes.min()) / int(text.predicts.sum()), rel=1e-4)


def test_a_ranking_in_the_header_is_the_order_that_is_loaded(tmp_path: Path) -> None:
    column = torch.randn(24, generator=torch.Generator().manual_seed(1))
    diff = with_columns(dictionary_diff("both"), mine=column)
    save_diff(diff, tmp_path)
    tensors = (tmp_path / "tensors.safetensors").read_bytes()
    assert load_diff(tmp_path).order.tolist() == diff.order.tolist() != falling(column).tolist()  # type: ignore[union-attr]
    save_header(replace(diff, ranking="mine", order=falling(column)), tmp_path)
    again = load_diff(tmp_path)
    assert isinstance(again, DictionaryDiff) and again.ranking == "mine"
    assert again.order.tolist() == falling(column).tolist()
    assert (tmp_path / "tensors.safetensors").read_bytes() == tensors


def stored(folder: Path, ranking: str, **columns: torch.Tensor) -> None:
    """A Diff on disk whose header names a ranking, with columns as a stranger may leave them."""
    save_diff(dictionary_diff("delta"), folder)
    document = json.loads((folder / "diff.json").read_text())
    document["header"]["ranking"] = ranking
    (folder / "diff.json").write_text(json.dumps(document))
    tensors = load_file(folder / "tensors.safetensors")
    save_file(tensors | {f"columns.{name}": column for name, column in columns.items()}, folder / "tensors.safetensors")


@pytest.mark.parametrize("column", [torch.ones(24, 1), torch.ones(24, dtype=torch.int64), torch.tensor(1.0), None])
def test_a_ranking_that_is_no_column_of_numbers_is_refused(column: torch.Tensor | None, tmp_path: Path) -> None:
    stored(tmp_path, "mine", **({} if column is None else {"mine": column}))
    with pytest.raises(DiffError, match=r"diff\.json: ranking: there is no column 'mine' of numbers"):
        load_diff(tmp_path)


def test_a_column_too_short_to_rank_by_is_refused_by_the_check(tmp_path: Path) -> None:
    stored(tmp_path, "mine", mine=torch.ones(7))
    with pytest.raises(DiffError, match=r"columns\.mine: has shape \[7\]"):
        load_diff(tmp_path).check(WIDTH, 3, VOCABULARY)


HOSTILE = ["", "A", "a b", "a@b", "../a", "a\n", "é", "x" * 65, "a\x1b[31m", "=1+1", "rank", "latent", "tokens_up_base"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_columns_are_refused(name: str, tmp_path: Path) -> None:
    diff = with_columns(dictionary_diff("delta"), **{name: [1.0] * 24})
    with pytest.raises(DiffError, match="columns: ") as caught:
        diff.check(WIDTH, 3, VOCABULARY)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 250
    save_diff(diff, tmp_path)
    with pytest.raises(DiffError, match="columns: "):
        load_diff(tmp_path)


def test_columns_are_few_and_finite() -> None:
    columns = {f"c{i}": [1.0] * 24 for i in range(MAX_COLUMNS + 1)}
    with pytest.raises(DiffError, match="columns: 201 of them, at most 200"):
        with_columns(dictionary_diff("delta"), **columns).check(WIDTH, 3, VOCABULARY)
    with pytest.raises(DiffError, match=r"columns\.a: holds infinite values; NaN"):
        with_columns(dictionary_diff("delta"), a=[1.0] * 23 + [-float("inf")]).check(WIDTH, 3, VOCABULARY)
    with pytest.raises(DiffError, match="ranking: there is no column 'b'"):
        replace(dictionary_diff("delta"), ranking="b").check(WIDTH, 3, VOCABULARY)


# --- latents.parquet -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [latent_table.ROWS, 7])
@pytest.mark.parametrize("kind", ["delta", "both"])
def test_the_table_holds_every_latent(
    kind: str, rows: int, lens: Lens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_table, "ROWS", rows)
    holes = torch.where(torch.arange(24) % 3 == 0, NAN, torch.arange(24).float())
    diff = with_columns(dictionary_diff(kind), energy=torch.rand(24), mine=holes)
    diff = replace(diff, group=torch.arange(24) // 3 if kind == "both" else None)
    write_latents(diff, lens, tmp_path / "latents.parquet")
    found = read_latents(tmp_path / "latents.parquet").to_pylist()
    assert [row["latent"] for row in found] == list(range(24))
    assert [row["latent"] for row in sorted(found, key=lambda row: row["rank"])] == diff.order.tolist()
    assert sorted(row["rank"] for row in found) == list(range(1, 25))
    assert [row["group"] for row in found] == ([i // 3 for i in range(24)] if kind == "both" else [None] * 24)
    assert [row["mine"] for row in found] == [None if i % 3 == 0 else float(i) for i in range(24)]
    assert [row["energy"] for row in found] == diff.columns["energy"].tolist()
    decoders = {"": difference_decoder(diff)}
    if kind == "both":
        decoders |= {"_tuned": diff.decoder_tuned, "_base": diff.decoder_base}  # type: ignore[dict-item]
    for side, decoder in decoders.items():
        assert [(row[f"tokens_up{side}"], row[f"tokens_down{side}"]) for row in found] == lens.read(decoder)
    assert {name for name in found[0] if name.startswith("tokens")} == {
        f"tokens_{way}{side}" for way in ("up", "down") for side in decoders
    }


def test_columns_say_what_they_mean(lens: Lens, tmp_path: Path) -> None:
    diff = with_columns(dictionary_diff("delta"), energy=[1.0] * 24, nu_error=[1.0] * 24, own_thing=[1.0] * 24)
    write_latents(diff, lens, tmp_path / "latents.parquet")
    schema = pq.read_schema(tmp_path / "latents.parquet")
    told = {field.name: field.metadata[b"description"].decode() for field in schema}
    assert all(told[name] for name in told if name != "own_thing") and told["own_thing"] == ""
    assert told["energy"] == LatentRow.model_fields["energy"].description
    assert told["nu_error"] == PATTERNS[1][1] == meaning("nu_reconstruction")


def test_an_empty_dictionary_has_an_empty_table(lens: Lens, tmp_path: Path) -> None:
    write_latents(dictionary_diff("delta", n=0), lens, tmp_path / "latents.parquet")
    assert len(read_latents(tmp_path / "latents.parquet")) == 0


def test_the_top_of_a_table(lens: Lens, tmp_path: Path) -> None:
    diff = with_columns(dictionary_diff("delta"), mine=[NAN, 3.0, 5.0, 3.0] + [NAN] * 20, none=[NAN] * 24)
    write_latents(diff, lens, tmp_path / "latents.parquet")
    table = read_latents(tmp_path / "latents.parquet")
    assert numeric_columns(table) == ["mine"]
    assert [row["latent"] for row in top_latents(table, "mine", 5)] == falling(diff.columns["mine"]).tolist()[:5]
    assert [row["latent"] for row in top_latents(table, None, 4)] == diff.order.tolist()[:4]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a table at all", None])
def test_a_table_that_is_none_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "latents.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecordError, match="no readable table") as caught:
        read_latents(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_foreign_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latents.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(RecordError, match="it lacks latent, rank, tokens_down, tokens_up"):
        read_latents(path)
    words = pa.array([["a"]], pa.list_(pa.string()))
    pq.write_table(pa.table({"latent": [0], "rank": [1], "tokens_up": words, "tokens_down": words, "x": ["y"]}), path)
    with pytest.raises(RecordError, match="column 'x' is neither numbers nor lists of tokens"):
        read_latents(path)
