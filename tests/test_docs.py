"""The README says what is true: its example runs, its commands exist, and what is installed is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from diffbench import Context, ModelPair
from diffbench.catalogue import catalogue
from diffbench.cli import main
from diffbench.plugins import load_plugins
from diffbench.tier import TIERS
from diffbench.tiny import LAYER, LAYERS, VOCABULARY, WIDTH, tiny_pair

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
[EXAMPLE] = (code for code in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "(Method)" in code)


def test_the_method_of_the_readme_runs(tmp_path: Path) -> None:
    space: dict[str, Any] = {"__name__": "readme"}
    exec(compile(EXAMPLE, "README.md", "exec"), space)
    [method] = space["diffbench_methods"]()
    pair = ModelPair(tiny_pair(tmp_path), method.access)
    context = Context(seed=0, layer=LAYER, budget=TIERS["smoke"], out=tmp_path, report=lambda phrase, fraction: None)
    diff = method().run(pair, context)
    diff.check(WIDTH, LAYERS, VOCABULARY)
    assert [finding.rank for finding in diff.findings] == [1, 2, 3, 4]
    assert diff.verdict == "changed"


def test_the_readme_method_is_short() -> None:
    assert len([line for line in EXAMPLE.splitlines() if line.strip()]) <= 25


COMMANDS = sorted(set(re.findall(r"(?:^|`)diffbench ([a-z]+(?: [a-z]+)?)", README, flags=re.MULTILINE)))


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_readme_exist(line: str) -> None:
    command, *rest = line.split()
    inside = rest if command in ("leaderboard", "organisms", "new") else []
    result = CliRunner().invoke(main, [command, *inside, "--help"])
    assert result.exit_code == 0, result.output


def test_every_bundled_method_is_in_the_table_of_the_readme() -> None:
    missing = [name for name in load_plugins().methods if name not in README]
    assert not missing


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_organism_and_its_control_are_named_beside_their_family() -> None:
    """In organisms/README.md, those for models of the hub in their own card."""
    everywhere = (ROOT / "organisms" / "README.md").read_text(encoding="utf-8")
    hub = (ROOT / "organisms" / "hub" / "README.md").read_text(encoding="utf-8")
    rows = {match[1]: line for line in everywhere.splitlines() if (match := re.match(r"\| \[([a-z-]+)\]", line))}
    unnamed = []
    for entry in catalogue():
        assert entry.recipe is not None and entry.error is None, entry
        where = hub if entry.path.parent.name == "hub" else rows[str(entry.recipe.family)]
        if f"`{entry.name}`" not in where:
            unnamed.append(entry.name)
    assert not unnamed
    for name in re.findall(r"\]\(([^)]+)\)", everywhere):
        assert (ROOT / "organisms" / name).exists(), name
