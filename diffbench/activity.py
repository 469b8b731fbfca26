"""Activity: how strongly each component of a Diff is at work at each position.

DictionaryDiff: f_j. DirectionDiff: <delta - centre, v>. WeightDiff of rank-one components: sigma (v . x_in) of the
tuned model at the module. OutputDiff: its per-token score. Shapes: T positions, n components, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffbench.causal import MOST_BYTES, token_kl
from diffbench.corpus import Corpus
from diffbench.diff import Diff, OutputDiff, WeightDiff
from diffbench.edit import Streams, edit_of
from diffbench.errors import DiffError
from diffbench.residual import Model, blocks, hidden, unembed, vocabulary

BATCH_DOCUMENTS = 32


@torch.inference_mode()
def activity(
    diff: Diff, reference: Model, tuned: Model, corpus: Corpus, rows: Tensor, components: Sequence[int] | None = None
) -> Tensor:
    """Activity [T, n] at the positions where ``rows`` [N, L] is True, in order; n is len(components) if given.

    A Diff without per-token activity has no column.

    Raises:
        DiffError: if it is not finite somewhere, or a WeightDiff names a module that the models do not have, or of
            another width.
    """
    if not has_activity(diff):
        return torch.zeros(int(rows.sum()), 0)
    chosen = slice(None) if components is None else list(components)
    parts = []
    for start, batch in corpus.batches(BATCH_DOCUMENTS):
        wanted = rows[start : start + len(batch), : batch.ids.shape[1]]
        if bool(wanted.any()):
            parts.append(_batch(diff, reference, tuned, batch, wanted)[:, chosen])
    found = torch.cat(parts) if parts else torch.zeros(0, diff.n_components)[:, chosen]
    broken = (~found.isfinite()).any(dim=0).nonzero().flatten().tolist()
    if broken:
        component = broken[0] if components is None else components[broken[0]]
        raise DiffError(f"component {component}: its activity is NaN or infinite at some position")
    return found


def has_activity(diff: Diff) -> bool:
    """Whether components have an activity at each token: whole differences of parameters have none."""
    return diff.n_components > 0 and not (isinstance(diff, WeightDiff) and diff.whole)


@torch.inference_mode()
def streams(reference: Model, tuned: Model, corpus: Corpus, rows: Tensor, layer: int) -> Streams:
    """Paired residual rows of a whole corpus where ``rows`` [N, L] is True."""
    h_b, h_t, position = [], [], []
    for start, batch in corpus.batches(BATCH_DOCUMENTS):
        wanted = rows[start : start + len(batch), : batch.ids.shape[1]]
        h_b.append(hidden(reference, batch.ids, batch.mask, layer)[wanted].float())
        h_t.append(hidden(tuned, batch.ids, batch.mask, layer)[wanted].float())
        position.append(wanted.nonzero()[:, 1])
    return Streams(h_b=torch.cat(h_b), h_t=torch.cat(h_t), position=torch.cat(position))


def _batch(diff: Diff, reference: Model, tuned: Model, batch: Corpus, rows: Tensor) -> Tensor:
    edit = edit_of(diff)
    if edit is not None:
        return edit.activity(streams(reference, tuned, batch, rows, edit.layer))
    if isinstance(diff, WeightDiff):
        return _weight_activity(diff, tuned, batch, rows)
    assert isinstance(diff, OutputDiff)
    return _output_activity(diff, reference, tuned, batch, rows)


def _weight_activity(diff: WeightDiff, tuned: Model, batch: Corpus, rows: Tensor) -> Tensor:
    modules = {name: _reader(tuned, name) for name in sorted(set(diff.modules))}
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}

    with _watched(modules, seen, rows):
        last = hidden(tuned, batch.ids, batch.mask, len(blocks(tuned)) - 1)[rows]
    above = {name: module for name, module in modules.items() if not seen[name]}
    if above:  # they read each position alone, so the rows that are asked for are enough
        with _watched(above, seen, None):
            for part in last.split(max(1, MOST_BYTES // (4 * vocabulary(tuned)))):
                unembed(tuned, part)
    columns = []
    for name, v, sigma in zip(diff.modules, diff.v, diff.sigma, strict=True):
        if not seen[name]:
            raise DiffError(f"modules: {name[:80]!r} takes no part in what the model computes")
        x = torch.cat(seen[name])
        if x.shape[1] != v.numel():
            raise DiffError(f"v: {v.numel()} entries, but module {name} reads vectors of {x.shape[1]}")
        columns.append(sigma * (x @ v))
    return torch.stack(columns, dim=1) if columns else torch.zeros(int(rows.sum()), 0)


def _reader(tuned: Model, name: str) -> nn.Module:
    """A module by name, if it has one weight and reads vectors."""
    try:
        module: nn.Module = tuned.get_submodule(name)
    except AttributeError:
        raise DiffError(f"modules: the models have no module {name[:80]!r}") from None
    if not isinstance(getattr(module, "weight", None), Tensor) or isinstance(module, nn.Embedding):
        raise DiffError(f"modules: {name[:80]!r} is no module with one weight that reads vectors")
    return module


@contextmanager
def _watched(modules: Mapping[str, nn.Module], seen: dict[str, list[Tensor]], rows: Tensor | None) -> Iterator[None]:
    """What modules read while inside, [T, d_in] each, at ``rows`` [B, L] (None: everywhere)."""
    handles = []
    for name, module in modules.items():

        def keep(_module: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
            read = args[0].flatten(0, -2) if rows is None else args[0][rows.to(args[0].device)]
            seen[name].append(read.cpu().float() if rows is None else read.to(rows.device).float())

        handles.append(module.register_forward_pre_hook(keep))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _output_activity(diff: OutputDiff, reference: Model, tuned: Model, batch: Corpus, rows: Tensor) -> Tensor:
    last = len(blocks(tuned)) - 1
    h_t = hidden(tuned, batch.ids, batch.mask, last)[rows]
    h_b = hidden(reference, batch.ids, batch.mask, last)[rows] if diff.score == "kl" else h_t
    step = max(1, MOST_BYTES // (4 * vocabulary(tuned)))
    parts = []
    for part in (slice(start, start + step) for start in range(0, len(h_t), step)):
        log_t = unembed(tuned, h_t[part]).float().log_softmax(-1)
        if diff.score == "tokens":
            assert diff.token_scores is not None  # checked on loading
            parts.append(log_t.exp() @ diff.token_scores)
        else:
            parts.append(token_kl(log_t, unembed(reference, h_b[part])))
    return torch.cat(parts)[:, None] if parts else torch.zeros(0, 1)
