"""Keys of cached stages: the engine code a stage runs is hashed, unless it is listed here as deciding no number."""

from __future__ import annotations

import pytest
from test_imports import ROOT, engine_target, imports

from diffbench import build, comparison, grid, seed_group

DECIDES_NOTHING = set(
    # What people read, how files are written and found, and how processes are run.
    "errors line atomic canonical cache hookspecs plugins contract worker worktask workwire workserver workseal "
    "sandbox catalogue "
    # Contracts: plugins are hashed by `plugin_version`, and what they are asked for is in the key itself.
    "base judge offline_judge method".split()
)


def reached(*roots: str) -> set[str]:
    """Engine modules that are imported on the way from some, at the top or inside functions."""
    found: set[str] = set()
    pending = list(roots)
    while pending:
        module = pending.pop().partition(".")[0]  # a sub-package is hashed as a whole
        if module not in found:
            found.add(module)
            folder = ROOT / "diffbench" / module
            for path in sorted(folder.glob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]:
                pending += [target for each in imports(path) if (target := engine_target(each)) is not None]
    return found


@pytest.mark.parametrize(
    ("key", "roots"),
    [
        (build.BUILD_CODE, ("finetune",)),
        (build.GATE_CODE, ("gate",)),
        (comparison.CODE, ("comparison",)),
        (comparison.SCORE_CODE, ("score",)),
        (seed_group.CONSISTENCY_CODE, ("consistency",)),
        (grid.METHOD_CODE, ("cell", "controls", "findings", "fitting", "formats")),
    ],
    ids=["model", "gate", "comparison", "score", "consistency", "method"],
)
def test_all_code_that_numbers_follow_from_is_in_the_key(key: tuple[str, ...], roots: tuple[str, ...]) -> None:
    needed = {f"diffbench.{module}" for module in reached(*roots) - DECIDES_NOTHING}
    assert needed <= set(key), f"add {sorted(needed - set(key))} to the key, or say in this test why not"
    assert len(key) == len(set(key))
