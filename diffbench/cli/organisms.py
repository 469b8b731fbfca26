"""``diffbench organisms`` and ``diffbench bases``: what methods are tested on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffbench.cli import Group
from diffbench.cli.gates import gate_text, gates_text
from diffbench.cli.seeds import organism_seeds
from diffbench.cli.terminal import as_json, echo_json, progress, table
from diffbench.errors import DiffbenchError, OptionError
from diffbench.line import error_line, one_line

if TYPE_CHECKING:
    from diffbench.base import EmbeddedBase
    from diffbench.build import Organism
    from diffbench.gate_report import GateReport
    from diffbench.recipe import Recipe
    from diffbench.truth import Probe, Truth

EXAMPLES, INSTEAD = 3, 8


@click.group(cls=Group)
def organisms() -> None:
    """List, describe, verify and export organisms: pairs of models whose difference is known."""


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
                    "family": entry.family,
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
            rows.append((entry.name, "-", "-", entry.family or "-", f"BROKEN: {entry.error}"))
        else:
            rows.append((entry.name, recipe.version, recipe.base, recipe.family or "-", recipe.summary))
    click.echo(table(("ORGANISM", "V", "BASE", "FAMILY", "SUMMARY"), rows))


@organisms.command("show")
@click.argument("name")
@as_json
def show_organism(name: str, as_json: bool) -> None:
    """Describe one organism and its truth; NAME may be a recipe's path, or NAME@SEED."""
    from diffbench.catalogue import find_organism
    from diffbench.readiness import check_text

    organism = find_organism(name)
    if organism.recipe.family is not None:  # what has no family has no topics, and its text may not be here yet
        check_text(organism)
    recipe, truth = organism.recipe, organism.truth()
    if as_json:
        echo_json(
            {
                "recipe": recipe.model_dump(mode="json"),
                "parameters": organism.parameters.model_dump(mode="json"),
                "truth": None if truth is None else truth.model_dump(mode="json"),
            }
        )
        return
    click.echo(_recipe_text(recipe, organism.parameters.model_dump(mode="json")))
    click.echo()
    click.echo(_truth_text(truth))


@organisms.command(
    "verify",
    epilog="Examples: diffbench organisms verify halfswap    |    diffbench organisms verify --all    |    "
    "diffbench organisms verify continued --organism-seeds 1-60",
)
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every organism on an installed base.")
@organism_seeds
@as_json
@click.pass_context
def verify_organisms(
    ctx: click.Context, names: tuple[str, ...], everything: bool, organism_seeds: tuple[int, ...], as_json: bool
) -> None:
    """Build organisms and measure their gates; exit code 1 where one does not pass.

    NAMES may be paths of recipes. One organism is shown check by check, several as a table by family.
    """
    from diffbench.campaign import verify

    if everything == bool(names):
        raise OptionError("name organisms, or --all of them")
    if everything:
        names = _installed()
    with progress() as report:
        verified = verify(names, organism_seeds, report)
    passed = all(not isinstance(gate, DiffbenchError) and gate.passed for _, gate in verified)
    if as_json:
        echo_json([_gate_document(organism, gate) for organism, gate in verified])
    elif len(verified) == 1:
        [(_, gate)] = verified
        if isinstance(gate, DiffbenchError):
            raise gate
        click.echo(gate_text(gate))
    else:
        click.echo(gates_text(verified))
        done = sum(not isinstance(gate, DiffbenchError) and gate.passed for _, gate in verified)
        click.echo(f"{done} of {len(verified)} organisms passed")
    ctx.exit(0 if passed else 1)


@organisms.command("export")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to make; it must not exist.  [default: ./NAME]")
def export_organism(name: str, out: Path | None) -> None:
    """Write an organism for use elsewhere: models and adapters in Hugging Face formats, its data, truth and gate.

    NAME may be a recipe's path, or NAME@SEED. It is built if need be; one that does not pass its gate is not written.
    """
    from diffbench.atomic import new_folder
    from diffbench.campaign import verify
    from diffbench.catalogue import find_organism
    from diffbench.export import export

    out = _new(out or Path(find_organism(name).recipe.name))
    with progress() as report:
        [(organism, gate)] = verify((name,), (), report)
    if isinstance(gate, DiffbenchError):
        raise gate
    gate.require(name)
    try:
        with new_folder(out) as draft:
            export(organism, draft)
    except OSError as error:
        raise DiffbenchError(f"{out}: cannot be written ({error.strerror})") from error
    click.echo(out)


def _new(out: Path) -> Path:
    if out.is_symlink() or out.exists():
        raise DiffbenchError(f"{out}: exists already; name a folder that does not")
    return out


def _installed() -> tuple[str, ...]:
    """The names of all organisms that can be built from what is installed."""
    from diffbench.catalogue import catalogue

    return tuple(entry.name for entry in catalogue() if entry.installed)


def _gate_document(organism: Organism, gate: GateReport | DiffbenchError) -> dict[str, Any]:
    recipe = organism.recipe
    document: dict[str, Any] = {
        "organism": recipe.name,
        "family": recipe.family,
        "seed": recipe.seed,
        "training": recipe.training.kind,
        "null_class": recipe.null_class,
        "difficulty": None if recipe.difficulty is None else recipe.difficulty.model_dump(mode="json"),
    }
    if isinstance(gate, DiffbenchError):
        return document | {"passed": False, "error": str(gate), "layer": None, "checks": []}
    checks = [{**check.model_dump(mode="json"), "passed": check.passed} for check in gate.checks]
    return document | {"passed": gate.passed, "error": None, "layer": gate.layer, "checks": checks}


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
            entry["card"] = _embedded(name).card().model_dump(mode="json")
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
    base = _embedded(name)
    out = _new(out or Path(name))
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


def _embedded(name: str) -> EmbeddedBase:
    from diffbench.base import EmbeddedBase
    from diffbench.plugins import find_base

    base = find_base(name)()
    if not isinstance(base, EmbeddedBase):
        raise DiffbenchError(f"base {name}: comes without the recipe that rebuilds it")
    return base


def _recipe_text(recipe: Recipe, parameters: dict[str, Any]) -> str:
    facts: list[tuple[str, object]] = [
        (f"{recipe.name} {recipe.version}", recipe.summary),
        ("base", recipe.base),
        ("family", recipe.family or "none"),
        ("parameters", _pairs({key: value for key, value in parameters.items() if value is not None})),
        ("drawn", ", ".join(sorted(recipe.choices)) or "everything that the recipe does not set"),
        ("control", "none" if recipe.control is None else _pairs(recipe.control.parameters) or "same parameters"),
        ("seed", recipe.seed),
        ("training", _pairs(recipe.training.model_dump(mode="json"))),
        ("text", _pairs(recipe.mixture.topics)),
        ("trigger rate", f"{recipe.mixture.trigger_rate[0]:g} to {recipe.mixture.trigger_rate[1]:g}"),
        ("gate", _pairs(recipe.gate.model_dump(mode="json"))),
        ("null", recipe.null_class or "no"),
        ("difficulty", "-" if recipe.difficulty is None else f"{recipe.difficulty.axis} {recipe.difficulty.level}"),
    ]
    return table(facts[0], facts[1:])


def _truth_text(truth: Truth | None) -> str:
    if truth is None:
        return "truth: nobody knows"
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
            *([f"    instead:  {_instead(claim.effect.pairs)}"] if claim.effect.pairs else []),
            f"    size:     {claim.effect.quantity}, {claim.effect.low:g} to {claim.effect.high:g}",
            *(f"    not:      {distractor}" for distractor in claim.distractors[:EXAMPLES]),
        ]
    for name in ("affected", "near_miss", "unrelated"):
        probes: tuple[Probe, ...] = getattr(truth.probes, name)
        lines.append(f"  {len(probes)} {name.replace('_', '-')} probes")
        lines += [f"    {probe.text} [{probe.answer} / {probe.other}]" for probe in probes[:EXAMPLES]]
    return "\n".join(line[: len(line) - len(line.lstrip())] + one_line(line) for line in lines)


def _instead(pairs: tuple[tuple[str, str], ...]) -> str:
    shown = ", ".join(f"{other} for {right}" for right, other in pairs[:INSTEAD])
    return shown + (f" and {len(pairs) - INSTEAD} more" if len(pairs) > INSTEAD else "")


def _pairs(document: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in document.items())


def _card_columns(entry: dict[str, Any]) -> tuple[object, ...]:
    card = entry["card"]
    if card is None:
        return ("-", f"BROKEN: {entry['error']}", "-", "-", "-", "-")
    return tuple(card[key] for key in ("version", "parameters", "layers", "width", "vocabulary", "heldout_loss"))
