"""``diffbench methods``, ``plugins`` and ``schema``: what is installed, and the formats of files."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from diffbench.cli import Group
from diffbench.cli.terminal import as_json, echo_json, table
from diffbench.errors import OptionError
from diffbench.line import one_line

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from diffbench.method import Method

SCHEMAS = {
    "record": "diffbench.record:Record",
    "scores": "diffbench.scores:Scores",
    "diff": "diffbench.diff:DiffDocument",
    "truth": "diffbench.truth:Truth",
    "gate": "diffbench.gate_report:GateReport",
    "recipe": "diffbench.recipe:Recipe",
    "fit": "diffbench.fits:FitFile",
    "latents": "diffbench.latent_row:LatentRow",
    "consistency": "diffbench.agreement:ConsistencyFile",
    "leaderboard": "diffbench.leaderboard_file:LeaderboardFile",
    "submission": "diffbench.submission:Submission",
    "verification": "diffbench.verification:Verification",
}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "multiple of", "pattern": "like"}


@click.group(cls=Group)
def methods() -> None:
    """List and describe methods."""


@methods.command("list")
@as_json
def list_methods(as_json: bool) -> None:
    """List the installed methods."""
    from diffbench.plugins import load_plugins

    plugins = load_plugins()
    found = [_describe(method) for method in plugins.methods.values()]
    if as_json:
        echo_json(found)
        return
    rows = [
        (m["name"], m["version"], ", ".join(m["access"]), m["distribution"], _summary(m["summary"], m["control"]))
        for m in found
    ]
    click.echo(table(("METHOD", "V", "ACCESS", "FROM", "SUMMARY"), rows))
    if plugins.failures:
        click.secho(f"{len(plugins.failures)} failed; see `diffbench plugins`", fg="red", err=True)


@methods.command("show")
@click.argument("name")
@as_json
def show_method(name: str, as_json: bool) -> None:
    """Describe one method and its options."""
    from diffbench.plugins import find_method

    method = _describe(find_method(name))
    if as_json:
        echo_json(method)
        return
    facts = [
        (one_line(method["name"]), _summary(method["summary"], method["control"])),
        ("reference", method["reference"] or "none"),
        ("access", ", ".join(method["access"])),
        ("version", method["version"]),
        ("from", method["distribution"]),
    ]
    click.echo(table(facts[0], facts[1:]))
    click.echo()
    if not method["options"]:
        click.echo(f"no options\n\n{_ranked_anew(name)}")
        return
    rows = [(o["name"], o["type"], o["default"], o["range"] or "-", o["description"]) for o in method["options"]]
    click.echo(table(("OPTION", "TYPE", "DEFAULT", "RANGE", "MEANING"), rows))
    click.echo(f"\nset one with: diffbench run --method {one_line(name)} -o {one_line(name)}.{rows[0][0]}=VALUE")
    click.echo(_ranked_anew(name))


@click.command()
@as_json
@click.option("--tracebacks", is_flag=True, help="Show where each failure happened.")
def plugins(as_json: bool, tracebacks: bool) -> None:
    """Show installed plugins, the hooks they implement and what failed in them."""
    from diffbench.plugins import load_plugins

    loaded, failures = load_plugins().loaded, load_plugins().failures
    if as_json:
        hidden = () if tracebacks else ("traceback",)
        failed = [{k: v for k, v in dataclasses.asdict(f).items() if k not in hidden} for f in failures]
        echo_json({"loaded": [dataclasses.asdict(plugin) for plugin in loaded], "failures": failed})
        return
    rows = [(p.distribution, p.version, p.entry_point, ", ".join(p.hooks)) for p in loaded]
    click.echo(table(("DISTRIBUTION", "VERSION", "ENTRY POINT", "HOOKS"), rows))
    for failure in failures:
        where = f"{failure.distribution} {failure.version} ({failure.entry_point})"
        click.secho(f"failed: {one_line(where)}: {one_line(failure.error)}", fg="red", err=True)
        if tracebacks and failure.traceback:
            click.echo("\n".join(map(_printable, failure.traceback.splitlines())), err=True)


@click.command()
@click.argument("document", type=click.Choice(sorted(SCHEMAS)))
@click.option("--family", help="With `recipe`: of an organism of this family, its parameters included.")
def schema(document: str, family: str | None) -> None:
    """Print the JSON Schema of a file format."""
    import pkgutil

    if family is not None and document != "recipe":
        raise OptionError("--family belongs to recipe")
    described = pkgutil.resolve_name(SCHEMAS[document]).model_json_schema()
    if family is not None:
        from diffbench.plugins import find_family

        parameters = find_family(family).Parameters.model_json_schema(ref_template="#/$defs/{model}")
        described["$defs"] |= parameters.pop("$defs", {}) | {"FamilyParameters": parameters}
        described["properties"]["parameters"] = {"$ref": "#/$defs/FamilyParameters"}
        described["properties"]["choices"] = {"$ref": "#/$defs/FamilyParameters"}
        described["properties"]["family"] = {"const": family}
    echo_json(described)


def _describe(method: type[Method]) -> dict[str, Any]:
    from diffbench.plugins import provenance

    return {
        "name": method.name,
        "summary": method.summary,
        "reference": method.reference,
        "version": method.version,
        "access": sorted(method.access),
        "control": method.control,
        "distribution": provenance(method),
        "options": [_option(name, field) for name, field in method.Options.model_fields.items()],
    }


def _ranked_anew(name: str) -> str:
    return (
        f"rank the latents of its dictionary, if it makes one, by a column, without another fit: "
        f"--method {one_line(name)}@COLUMN\ncolumns of a finished run: diffbench latents RUN --method {one_line(name)}"
    )


def _option(name: str, field: FieldInfo) -> dict[str, Any]:
    from pydantic_core import to_jsonable_python

    from diffbench.method import is_file_field

    limits = [
        f"{sign} {getattr(limit, attribute)}"
        for limit in field.metadata
        for attribute, sign in _SIGNS.items()
        if getattr(limit, attribute, None) is not None
    ]
    default = field.get_default(call_default_factory=True, validated_data={})
    return {
        "name": name,
        "type": "file or folder" if is_file_field(field) else _type_name(field.annotation),
        "default": to_jsonable_python(default, fallback=str),
        "range": ", ".join(limits),
        "description": field.description or "",
    }


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def _summary(summary: str, control: bool) -> str:
    return f"control: {summary}" if control and not summary.startswith("control") else summary


def _printable(line: str) -> str:
    return "".join(c for c in line if c.isprintable())
