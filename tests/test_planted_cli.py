"""``diffbench planted``: its table, its JSON, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import Install

from diffbench.cli import main
from diffbench.planted import CHANGED, PlantedParameters
from diffbench.planted_trial import PCA, RANDOM, TRUE

KEYS = "width=16 shared=10 base_only=2 tuned_only=2 rescaled=2 rotated=2 recorrelated=2 rate_low=0.1 rows=2048"
FEW = [part for key in f"{KEYS} held_out_rows=1000".split() for part in ("-p", key)]
METHODS = """
import diffbench
class Odd(diffbench.Method):
    name, summary = "odd", "odd"
    def run(self, pair, ctx):
        {body}
@diffbench.hookimpl
def diffbench_methods():
    return [Odd]
"""


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["planted", *arguments])


def test_the_table_shows_methods_and_baselines() -> None:
    result = command(*FEW, "--method", "pca", "--method", "mean-difference")
    assert result.exit_code == 0, result.output
    head, _, header, *rest = result.stdout.splitlines()
    assert head == "10 of 20 planted features changed, width 16, 2,048 rows"
    assert header.split()[:1] == ["METHOD"] and "P R F1 @10" in header and "RECORRELATED" in header
    assert [line.split("  ")[0] for line in rest[:5]] == [
        f"({TRUE})",
        f"({PCA})",
        f"({RANDOM})",
        "pca",
        "mean-difference",
    ]
    assert "1.00 1.00 1.00" in rest[0]


def test_json_holds_every_row() -> None:
    result = command(*FEW, "--method", "pca", "--json", "--seeds", "3", "--seed", "5")
    document: Mapping[str, Any] = json.loads(result.stdout)
    assert [row["seed"] for row in document["rows"] if row["method"] == "pca" and not row["baseline"]] == [5, 6, 7]
    assert document["parameters"]["width"] == 16 and len(document["means"]) == 4
    assert (
        json.loads(command(*FEW, "--method", "pca", "--json", "--seeds", "3", "--seed", "5").stdout)["means"][0]
        == document["means"][0]
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-p", "noise"), "-p 'noise': write KEY=VALUE"),
        (("-p", "noise=-1"), "planted: noise: "),
        (("-p", "nose=1"), "planted: no parameter 'nose'"),
        (("--method", "nobody"), "no method named 'nobody'"),
        (("-o", "pca.components=0", "--method", "pca"), "pca: option components: "),
        (("-o", "pca"), "-o 'pca': write METHOD.KEY=VALUE"),
    ],
)
def test_a_bad_command_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    result = command(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith(f"diffbench: error: {said}")


def test_a_failing_method_is_shown_and_costs_the_exit_code(install: Install) -> None:
    install("odd", METHODS.format(body="raise ValueError('\\x1b[31mred')"))
    result = command(*FEW, "--method", "odd", "--method", "pca")
    assert result.exit_code == 1 and "ValueError: red" in result.stdout
    assert "failed: odd seed 0: ValueError: red" in result.stderr
    assert any(line.startswith("pca ") for line in result.stdout.splitlines())


def test_a_method_without_components_is_undefined_in_the_table(install: Install) -> None:
    install("odd", METHODS.format(body="return diffbench.no_change(ctx.layer, pair.width)"))
    [line] = [line for line in command(*FEW, "--method", "odd").stdout.splitlines() if line.startswith("odd ")]
    assert line.count("undef.") == 3 * 3 + 2 + len(CHANGED)
    assert not any(number in line.split()[:-1] for number in (".00", "1.00"))


def test_parameters_are_listed() -> None:
    lines = command("--parameters").stdout.splitlines()
    assert len(lines) == 1 + len(PlantedParameters.model_fields) and all("  " in line for line in lines)
