"""Exclusive latents: experiments 2 and 4 of Aranguri 2025 (tied crosscoder), repeated on halfswap.

Experiment 2: a standard crosscoder of no-swap (our control) and half-swap has latents exclusive to each side that both
promote blue and green, with decoders of cosine .97; of the base and half-swap it has one on the tuned side alone, and
a shared one of cosine .91 to it. Experiment 4: an exclusive latent is more similar to some decoder of the other model
than a shared latent is to any other. Exclusive: a share of the decoder norm above .7 or below .3.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch.nn.functional import normalize

from benchmarks.grid_time import GridFailed, run
from benchmarks.lines import Goal, Line, Part
from benchmarks.settings import Settings
from diffbench.diff import DictionaryDiff
from diffbench.diff_file import load_diff
from diffbench.errors import DiffbenchError
from diffbench.latent_row import LATENTS
from diffbench.run_folder import FITS, read_run

METHOD, LAYER, EXPANSION, PENALTY = "crosscoder-l1", 1, 16, 1.0
TOKENS, QUICK_TOKENS = 2_000_000, 50_000
SEEDS = (0, 1, 2)
COLOURS = {"blue", "green"}
TOP = 3
EXCLUSIVE = 0.7


@dataclass(frozen=True, slots=True)
class Found:
    """What one crosscoder has. Cosines are None where there are no two latents to compare.

    Attributes:
        tuned: blue and green latents exclusive to half-swap.
        other: blue and green latents exclusive to the model it is compared with.
        twins: largest cosine of a decoder of the former to one of the latter.
        shared: largest cosine of a decoder of the former to the base decoder of a shared blue and green latent.
        rise: experiment 4, median nearest cosine of exclusive latents minus that of shared ones.
    """

    tuned: int
    other: int
    twins: float | None
    shared: float | None
    rise: float | None


def measure(settings: Settings) -> Part:
    """A crosscoder of each pair and seed, through the command line, and what its latents are."""
    tokens, seeds = (QUICK_TOKENS, SEEDS[:1]) if settings.quick else (TOKENS, SEEDS)
    asked = {"expansion": EXPANSION, "penalty": PENALTY, "tokens": tokens}
    words = ["--reference", "base", "--reference", "control", "--layer", str(LAYER)]
    words += [word for seed in seeds for word in ("--seed", str(seed))]
    words += [word for name, value in asked.items() for word in ("-o", f"{METHOD}.{name}={value}")]
    lines, raw = [], {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            run(Path(folder), "exclusive", [METHOD], words)
            records = read_run(Path(folder) / "exclusive").records
            for record in records:
                cell = record.cell
                [fit] = (Path(folder) / "exclusive" / FITS).glob(f"*--s{cell.seed}--{str(record.fit)[:8]}")
                diff = load_diff(fit / "diff")
                assert isinstance(diff, DictionaryDiff)
                found = look(diff, pd.read_parquet(fit / LATENTS))
                raw[f"{cell.reference} s{cell.seed}"] = found
                lines += _lines(cell.reference, cell.seed, found)
        except (GridFailed, DiffbenchError) as error:
            return Part([Line("exclusive", METHOD, state=str(error))])
    return Part(lines, raw)


def look(diff: DictionaryDiff, table: pd.DataFrame) -> Found:
    """Read both experiments off a crosscoder and the table of its latents."""
    assert diff.decoder_base is not None and diff.decoder_tuned is not None
    table = table.sort_values("latent")
    share = torch.tensor(table.norm_share.to_numpy(copy=True))
    live = torch.tensor(table.frequency.to_numpy(copy=True)) > 0
    tuned, other = live & (share > EXCLUSIVE), live & (share < 1 - EXCLUSIVE)
    shared = live & ~tuned & ~other
    coloured_t, coloured_b = (torch.tensor([set(words[:TOP]) >= COLOURS for words in table[column]])
                              for column in ("tokens_up_tuned", "tokens_up_base"))  # fmt: skip
    rows_t, rows_b = normalize(diff.decoder_tuned, dim=1), normalize(diff.decoder_base, dim=1)

    def closest(of: torch.Tensor, to: torch.Tensor) -> float | None:
        return float((rows_t[of] @ rows_b[to].T).max()) if bool(of.any() and to.any()) else None

    nearest = {side: torch.tensor(table[f"nearest_{side}"].to_numpy(copy=True)) for side in ("tuned", "base")}
    exclusive = torch.cat([nearest["tuned"][tuned], nearest["base"][other]])
    usual = torch.cat([nearest["tuned"][shared], nearest["base"][shared]])
    return Found(
        tuned=int((tuned & coloured_t).sum()),
        other=int((other & coloured_b).sum()),
        twins=closest(tuned & coloured_t, other & coloured_b),
        shared=closest(tuned & coloured_t, shared & coloured_b),
        rise=float(exclusive.nanmedian() - usual.nanmedian()) if len(exclusive) and len(usual) else None,
    )


def _lines(reference: str, seed: int, found: Found) -> list[Line]:
    who = f"{'no-swap' if reference == 'control' else 'base'} and half-swap, seed {seed}"
    counts = f"blue and green exclusive latents: {found.tuned} of half-swap's, {found.other} of the other's"
    name, cosine, goal, published = (
        ("cosine of twins", found.twins, 0.9, 0.97)
        if reference == "control"
        else ("cosine to a shared one", found.shared, 0.9, 0.91)
    )
    lines = [Line("exclusive", who, ours=float(found.tuned), against=counts)]
    if cosine is None:
        lines.append(Line("exclusive", f"{name}: {who}", state="no two such latents"))
    else:
        lines.append(
            Line("exclusive", f"{name}: {who}", cosine, "published", published, ratio=cosine, goal=Goal(least=goal))
        )
    if found.rise is None:
        return [*lines, Line("exclusive", f"nearest cosine, exclusive - shared: {who}", state="no exclusive latents")]
    rise = Line(
        "exclusive", f"nearest cosine, exclusive - shared: {who}", found.rise, ratio=found.rise, goal=Goal(least=0)
    )
    return [*lines, rise]
