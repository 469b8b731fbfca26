"""``diffbench organisms`` and ``diffbench bases``: what methods are tested on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffbench.cli import Group
from diffbench.cli.terminal import as_json, echo_json, progress, table
from diffbench.errors import DiffbenchError
from diffbench.line import error_line, one_line

if TYPE_CHECKING:
    from diffbench.base import Base
    from diffbench.recipe import Recipe
    from diffbench.truth import Probe, Truth

EXAMPLES = 3


@click.group(cls=Group)
def organisms() -> None:
    """List, describe and verify organisms: pairs of models whose difference is known."""


@organisms.command("list")
@as_json
def list_organisms(as_json: bool) -> None:
    """List the installed organisms."""
    from diffbench.catalogue import catalogue

    entries = catalogue()
    if as_json:
        echo_json(
            [
                {
                    "name": entry.name,
                    "family": entry.family.name,
                    "path": str(entry.path),
                    "recipe": None if entry.recipe is None else entry.recipe.model_dump(mode="json"),
                    "error": entry.error,
                }
                for entry in entries
            ]
        )
        return
    rows: list[tuple[object, ...]] = []
    for entry in entries:
        recipe = entry.recipe
        if recipe is None or entry.error is not None:
            rows.append((entry.name, "-", "-", entry.family.name, f"BROKEN: {entry.error}"))
        else:
            rows.append((entry.name, recipe.version, recipe.base, recipe.family, recipe.summary))
    click.echo(table(("ORGANISM", "V", "BASE", "FAMILY", "SUMMARY"), rows))


@organisms.command("show")
@click.argument("name")
@as_json
def show_organism(name: str, as_json: bool) -> None:
    """Describe one organism and its truth; NAME may be the path of a recipe."""
    from diffbench.build import check_text
    from diffbench.catalogue import find_organism

    organism = find_organism(name)
    check_text(organism)
    recipe, truth = organism.recipe, organism.truth()
    if as_json:
        echo_json({"recipe": recipe.model_dump(mode="json"), "truth": truth.model_dump(mode="json")})
        return
    click.echo(_recipe_text(recipe))
    click.echo()
    click.echo(_truth_text(truth))


@organisms.command("verify")
@click.argument("name")
@as_json
@click.pass_context
def verify_organism(ctx: click.Context, name: str, as_json: bool) -> None:
    """Build an organism and measure its gate; exit code 1 where it does not pass. NAME may be a recipe's path."""
    from diffbench.run import verify

    with progress() as report:
        gate = verify(name, report)
    if as_json:
        checks = [{**check.model_dump(mode="json"), "passed": check.passed} for check in gate.checks]
        echo_json({"organism": gate.organism, "passed": gate.passed, "checks": checks})
    else:
        rows = [
            (c.name, f"{c.value:.4g}", _bound(c.low), _bound(c.high), c.unit or "-", "ok" if c.passed else "FAILED")
            for c in gate.checks
        ]
        click.echo(table(("CHECK", "VALUE", "LOWEST", "HIGHEST", "UNIT", "RESULT"), rows))
        click.echo(f"{gate.organism}: {'passed' if gate.passed else 'did not pass'}")
    ctx.exit(0 if gate.passed else 1)


@click.group(cls=Group)
def bases() -> None:
    """List and rebuild the base models that organisms stand on."""


@bases.command("list")
@as_json
def list_bases(as_json: bool) -> None:
    """List the installed bases."""
    from diffbench.plugins import load_plugins, provenance

    found: list[dict[str, Any]] = []
    for name, base in load_plugins().bases.items():
        entry: dict[str, Any] = {"name": name, "distribution": provenance(base), "card": None, "error": None}
        try:
            entry["card"] = base().card().model_dump(mode="json")
        except Exception as error:
            entry["error"] = error_line(error)
        found.append(entry)
    if as_json:
        echo_json(found)
        return
    rows = [(entry["name"], *_card_columns(entry), entry["distribution"]) for entry in found]
    click.echo(table(("BASE", "V", "PARAMETERS", "LAYERS", "WIDTH", "VOCABULARY", "LOSS", "FROM"), rows))


@bases.command("build")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to make; it must not exist.  [default: ./NAME]")
@as_json
def build_base(name: str, out: Path | None, as_json: bool) -> None:
    """Rebuild a base from its seed: tokenizer, weights and card."""
    from diffbench.plugins import find_base

    base: Base = find_base(name)()
    out = out or Path(name)
    if out.is_symlink() or out.exists():
        raise DiffbenchError(f"{out}: exists already; name a folder that does not")
    from diffbench.atomic import new_folder

    try:
        with new_folder(out) as draft, progress() as report:
            card = base.build(draft, report)
    except OSError as error:
        raise DiffbenchError(f"{out}: cannot be written ({error.strerror})") from error
    if as_json:
        echo_json(card.model_dump(mode="json"))
        return
    facts = [(key, value) for key, value in card.model_dump(mode="json").items() if key != "probes"]
    facts += [(f"probe {probe}", f"{accuracy:.3f}") for probe, accuracy in sorted(card.probes.items())]
    click.echo(table(facts[0], facts[1:]))


def _recipe_text(recipe: Recipe) -> str:
    facts: list[tuple[str, object]] = [
        (f"{recipe.name} {recipe.version}", recipe.summary),
        ("base", recipe.base),
        ("family", recipe.family),
        ("parameters", _pairs(recipe.parameters)),
        ("control", "none" if recipe.control is None else _pairs(recipe.control.parameters) or "same parameters"),
        ("seed", recipe.seed),
        ("training", _pairs(recipe.training.model_dump(mode="json"))),
        ("text", _pairs(recipe.mixture.topics)),
        ("trigger rate", f"{recipe.mixture.trigger_rate[0]:g} to {recipe.mixture.trigger_rate[1]:g}"),
        ("gate", _pairs(recipe.gate.model_dump(mode="json"))),
    ]
    return table(facts[0], facts[1:])


def _truth_text(truth: Truth) -> str:
    lines = ["truth: something changed" if truth.changed else "truth: nothing changed"]
    for claim in truth.claims:
        up, down = ", ".join(claim.effect.tokens_up[:12]), ", ".join(claim.effect.tokens_down[:12])
        lines += [
            f"  {claim.id}: {claim.statement}",
            f"    where:    {claim.trigger.description}",
            f"    affected: {', '.join(claim.trigger.affected)}",
            f"    alike:    {', '.join(claim.trigger.near_miss)}",
            f"    gain:     {up or 'none'}",
            f"    lose:     {down or 'none'}",
            f"    size:     {claim.effect.quantity}, {claim.effect.low:g} to {claim.effect.high:g}",
            *(f"    not:      {distractor}" for distractor in claim.distractors[:EXAMPLES]),
        ]
    for name in ("affected", "near_miss", "unrelated"):
        probes: tuple[Probe, ...] = getattr(truth.probes, name)
        lines.append(f"  {len(probes)} {name.replace('_', '-')} probes")
        lines += [f"    {probe.text} [{probe.answer} / {probe.other}]" for probe in probes[:EXAMPLES]]
    return "\n".join(line[: len(line) - len(line.lstrip())] + one_line(line) for line in lines)


def _pairs(document: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in document.items())


def _bound(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _card_columns(entry: dict[str, Any]) -> tuple[object, ...]:
    card = entry["card"]
    if card is None:
        return ("-", f"BROKEN: {entry['error']}", "-", "-", "-", "-")
    return tuple(card[key] for key in ("version", "parameters", "layers", "width", "vocabulary", "heldout_loss"))
