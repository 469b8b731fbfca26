"""Keys of cached stages: the engine code a stage runs is hashed, unless it is listed here as deciding no number."""

from __future__ import annotations

import pytest
from test_imports import ROOT, UPWARD, engine_target, imports

from diffbench import build, cache, comparison, grid, seed_group, steering_run
from diffbench.judge import Judge
from diffbench.offline_judge import OfflineJudge
from diffbench.openai_judge import OpenAIJudge

DECIDES_NOTHING = set(
    # What people read, how files are written and found, and how processes are run.
    "errors line atomic canonical cache hookspecs plugins contract worker worktask workwire workserver workseal "
    "sandbox catalogue run_folder garbage steering_file "
    # Contracts: plugins are hashed by `plugin_version`, and what they are asked for is in the key itself.
    "base judge method "
    # The forms in which judges are asked and answer; scores, which read more in them, have them in their key.
    "account question spending".split()
)


def reached(*roots: str) -> set[str]:
    """Engine modules that are imported on the way from some, at the top or inside functions.

    Where the engine names its own plugins the way ends: what a judge follows from is in the key of the judge.
    """
    found: set[str] = set()
    pending = list(roots)
    while pending:
        module = pending.pop().partition(".")[0]  # a sub-package is hashed as a whole
        if module not in found:
            found.add(module)
            folder = ROOT / "diffbench" / module
            for path in sorted(folder.glob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]:
                targets = {engine_target(each) for each in imports(path)} - {None}
                pending += [target for target in targets if target is not None and (module, target) not in UPWARD]
    return found


@pytest.mark.parametrize(
    ("key", "roots"),
    [
        (build.BUILD_CODE, ("finetune",)),
        (build.GATE_CODE, ("gate",)),
        (comparison.CODE, ("comparison",)),
        (comparison.SCORE_CODE, ("score",)),
        (seed_group.CONSISTENCY_CODE, ("consistency",)),
        (steering_run.STEERING_CODE, ("steering_trial",)),
        (grid.METHOD_CODE, ("cell", "controls", "findings", "fitting", "formats")),
    ],
    ids=["model", "gate", "comparison", "score", "consistency", "steering", "method"],
)
def test_all_code_that_numbers_follow_from_is_in_the_key(key: tuple[str, ...], roots: tuple[str, ...]) -> None:
    needed = {f"diffbench.{module}" for module in reached(*roots) - DECIDES_NOTHING}
    assert needed <= set(key), f"add {sorted(needed - set(key))} to the key, or say in this test why not"
    assert len(key) == len(set(key))


def test_the_key_of_scores_has_the_forms_of_questions_and_accounts() -> None:
    assert {"diffbench.account", "diffbench.question", "diffbench.spending"} <= set(comparison.SCORE_CODE)


@pytest.mark.parametrize("judge", [OfflineJudge, OpenAIJudge])
def test_all_code_that_a_judge_answers_by_is_in_its_key(judge: type[Judge]) -> None:
    own = judge.__module__.removeprefix("diffbench.")
    needed = {f"diffbench.{module}" for module in reached(own) - DECIDES_NOTHING - {own}}
    known = {*judge.code, *comparison.SCORE_CODE}
    assert needed <= known, f"add {sorted(needed - known)} to {judge.__name__}.code"
    assert cache.plugin_version(judge) == cache.code_version(judge.__module__, *judge.code)
