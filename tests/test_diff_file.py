"""Diffs that strangers left on disk: one clear line each, and nothing else ever comes out."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_factory import WIDTH, dictionary_diff, one_of_each
from safetensors.torch import load_file, save_file

from diffbench import diff_file
from diffbench.diff import Diff
from diffbench.diff_file import load_diff, save_diff
from diffbench.errors import DiffError
from diffbench.tiny import VOCABULARY

HEADER, TENSORS = "diff.json", "tensors.safetensors"
DIFFS = one_of_each()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, tuple) and one and isinstance(one[0], torch.Tensor):
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(type(one) is type(other) and one == other)


@pytest.mark.parametrize("kind", DIFFS)
def test_saved_and_loaded_exactly(kind: str, tmp_path: Path) -> None:
    diff = DIFFS[kind]
    save_diff(diff, tmp_path)
    again = load_diff(tmp_path)
    assert type(again) is type(diff)
    for item in fields(diff):
        assert same(getattr(diff, item.name), getattr(again, item.name)), item.name
    again.check(WIDTH, 3, VOCABULARY)
    assert sorted(os.listdir(tmp_path)) == [HEADER, TENSORS]


@pytest.mark.parametrize("activation", ["relu", "topk"])
def test_what_a_diff_leaves_out_stays_out(activation: str, tmp_path: Path) -> None:
    save_diff(dictionary_diff("delta", activation), tmp_path)
    again = load_diff(tmp_path)
    assert again.threshold is None and again.group is None  # type: ignore[union-attr]
    assert again.k == (5 if activation == "topk" else None)  # type: ignore[union-attr]


def test_views_and_shared_memory_can_be_saved(tmp_path: Path) -> None:
    square = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))
    diff = replace(
        dictionary_diff("delta", n=WIDTH), encoder=square.T, decoder=square, order=torch.arange(2 * WIDTH)[::2] // 2
    )
    save_diff(diff, tmp_path)
    again = load_diff(tmp_path)
    assert torch.equal(again.encoder, square.T)  # type: ignore[union-attr]


Break = Callable[[Path], Any]


def header(change: Callable[[dict[str, Any]], Any]) -> Break:
    def apply(folder: Path) -> None:
        document = json.loads((folder / HEADER).read_text())
        change(document)
        (folder / HEADER).write_text(json.dumps(document))

    return apply


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Break:
    def apply(folder: Path) -> None:
        found = load_file(folder / TENSORS)
        change(found)
        save_file(found, folder / TENSORS)

    return apply


def text(content: str | bytes) -> Break:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / HEADER).write_bytes(raw)


def link(name: str) -> Break:
    def apply(folder: Path) -> None:
        (folder / name).rename(folder / "elsewhere")
        (folder / name).symlink_to(folder / "elsewhere")

    return apply


def fifo(name: str) -> Break:
    def apply(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return apply


def rewrite(change: Callable[[bytes], bytes]) -> Break:
    return lambda folder: (folder / TENSORS).write_bytes(change((folder / TENSORS).read_bytes()))


FORMS: dict[str, tuple[Break, str]] = {
    "no header": (lambda folder: (folder / HEADER).unlink(), f"{HEADER}: missing"),
    "no tensors": (lambda folder: (folder / TENSORS).unlink(), f"{TENSORS}: missing"),
    "header is a link": (link(HEADER), f"{HEADER}: not a plain file"),
    "tensors are a link": (link(TENSORS), f"{TENSORS}: not a plain file"),
    "header is a pipe": (fifo(HEADER), f"{HEADER}: not a plain file"),
    "tensors are a pipe": (fifo(TENSORS), f"{TENSORS}: not a plain file"),
    "empty header": (text(""), HEADER),
    "no JSON": (text("{'a': 1}"), HEADER),
    "not UTF-8": (text(b'{"a": "\xff"}'), f"{HEADER}: no readable JSON"),
    "a list": (text("[]"), HEADER),
    "deep lists": (text("[" * 100_000), HEADER),
    "deep objects": (text('{"a":' * 100_000), HEADER),
    "unknown kind": (header(lambda d: d["header"].update(kind="code")), f"{HEADER}: header"),
    "unknown key": (header(lambda d: d.update(code="x")), f"{HEADER}: code"),
    "unknown key of the kind": (header(lambda d: d["header"].update(path="x")), HEADER),
    "newer schema": (header(lambda d: d.update(schema_version=2)), f"{HEADER}: schema_version"),
    "negative layer": (header(lambda d: d["header"].update(layer=-1)), "layer"),
    "layer no number": (header(lambda d: d["header"].update(layer="one")), "layer"),
    "another verdict": (header(lambda d: d.update(verdict="maybe")), f"{HEADER}: verdict"),
    "rank 0": (header(lambda d: d["findings"][0].update(rank=0)), "findings.0.rank"),
    "negative component": (header(lambda d: d["findings"][0].update(component=-1)), "findings.0.component"),
    "huge score": (header(lambda d: d["findings"][0].update(score=float("inf"))), "findings.0.score"),
    "score NaN": (header(lambda d: d["findings"][0].update(score=float("nan"))), "findings.0.score"),
    "change_score NaN": (header(lambda d: d.update(change_score=float("nan"))), "change_score"),
    "note NaN": (header(lambda d: d["notes"].update(loss=float("nan"))), "notes"),
    "long text": (header(lambda d: d["findings"][0].update(text="x" * 5000)), "findings.0.text"),
    "many tokens": (header(lambda d: d["findings"][0].update(tokens_up=["x"] * 51)), "tokens_up"),
    "many findings": (header(lambda d: d.update(findings=d["findings"] * 1001)), "findings"),
    "empty tensors": (rewrite(lambda _: b""), f"{TENSORS}: not readable"),
    "pickle": (rewrite(lambda _: pickle.dumps({"encoder": 1})), f"{TENSORS}: not readable"),
    "half a file": (rewrite(lambda raw: raw[: len(raw) // 2]), f"{TENSORS}: not readable"),
    "more than it says": (rewrite(lambda raw: raw + b"x"), f"{TENSORS}: not readable"),
    "huge header length": (rewrite(lambda raw: struct.pack("<Q", 2**63) + raw[8:]), f"{TENSORS}: not readable"),
    "shape no number": (rewrite(lambda raw: raw.replace(b"[24,32]", b"[9e9,9]")), f"{TENSORS}: not readable"),
    "shape beyond the data": (rewrite(lambda raw: raw.replace(b"[24,32]", b"[99,99]")), f"{TENSORS}: not readable"),
    "missing tensor": (tensors(lambda t: t.pop("encoder")), f"{TENSORS}: tensor 'encoder' is missing"),
    "foreign tensor": (tensors(lambda t: t.update(code=torch.zeros(1))), f"{TENSORS}: unknown tensor 'code'"),
}


@pytest.mark.parametrize("case", FORMS)
def test_a_hostile_form_is_one_line(case: str, tmp_path: Path) -> None:
    damage, message = FORMS[case]
    save_diff(DIFFS["dictionary"], tmp_path)
    damage(tmp_path)
    with pytest.raises(DiffError) as caught:
        load_diff(tmp_path)
    line = str(caught.value)
    assert message in line
    assert "\n" not in line
    assert len(line) < 500


@pytest.mark.parametrize("name", [HEADER, TENSORS])
def test_sizes_are_looked_at_before_anything_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_diff(DIFFS["dictionary"], tmp_path)
    monkeypatch.setattr(diff_file, "HEADER_BYTES" if name == HEADER else "TENSOR_BYTES", 10)
    with pytest.raises(DiffError, match=f"{name}: .* bytes, more than 10"):
        load_diff(tmp_path)


@pytest.mark.parametrize("kind", ["weight", "direction", "output"])
def test_tensors_of_another_kind_are_foreign(kind: str, tmp_path: Path) -> None:
    save_diff(DIFFS[kind], tmp_path)
    found = load_file(tmp_path / TENSORS) | {"encoder": torch.zeros(1)}
    save_file(found, tmp_path / TENSORS)
    with pytest.raises(DiffError, match="unknown tensor 'encoder'"):
        load_diff(tmp_path)


def test_a_weight_diff_with_more_modules_than_vectors(tmp_path: Path) -> None:
    save_diff(DIFFS["weight"], tmp_path)
    header(lambda d: d["header"].update(modules=["a", "b", "c"]))(tmp_path)
    with pytest.raises(DiffError, match=r"tensor 'u\.2' is missing"):
        load_diff(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_method_cannot_save_what_cannot_be_loaded(value: float, tmp_path: Path) -> None:
    diff: Diff = replace(DIFFS["output"], change_score=value)
    with pytest.raises((DiffError, ValueError)):
        save_diff(diff, tmp_path)
    assert not (tmp_path / HEADER).exists()
