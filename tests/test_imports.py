"""Imports run one way, and what is light stays light. A new module is entered in `LAYERS` before this test passes."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import diffbench

ROOT = Path(__file__).resolve().parent.parent

LAYERS = (
    "errors complaint garbage edition",
    "line atomic canonical text truth interval proportion holdout hookspecs seeds templates workseal secret "
    "plain_yaml disguise",
    "account spending judge_settings archive",
    "question fence wording",
    "rival offline_grade sighting",
    "offline_choice",
    "sheet",
    "tier tuning base cache gate_report judge sandbox workwire latent_row vocabulary figure units rule "
    "answer_form exhibit",
    "recipe worktask redaction ordinary panel choices agreement duration separation trivial standing tally "
    "finding_evidence "
    "dialect prompts",
    "offline_account chat_server",
    "offline_agent",
    "offline_judge openai_judge quote",
    "trial",
    "scores game",
    "truth_match game_prospect",
    "record organism mixing method worker workserver scaffold table latent_table evidence_file judging game_score",
    "conclusion",
    "prospect interpretation",
    "kappa repeat gold answers",
    "bias attack survey",
    "calibration attack_trial attack_report",
    "calibration_page attack_run",
    "attack_page",
    "score_columns precision announce adapter codes decoders losses architecture study",
    "tokenizer",
    "residual corpus diff options contract columns run_folder checkpoint dashboard",
    "conversation sampled activations evidence plugins summary strata weight_edit layout lens design selection "
    "sensitivity rank_correlation verification",
    "game_file discrepancy chart shading steering_file",
    "framing",
    "game_page",
    "contenders harvest pairing planted gauge dataset prediction continuation weights",
    "standings change_detection rounding stream own_data interview",
    "standings_page change_page webpage own_pair dictionary exchange lora expression localisation board",
    "lessons movement behaviour entry leaderboard_file",
    "finetune direction",
    "site_tables alignment claim_scores edit controls fits input_files scaling latent_scaling",
    "patching",
    "causal disentangling handle fit_score pair diff_file tiny training board_page latents weight_sensitivity",
    "site_pages attribution budget_curve",
    "site steering",
    "decoding",
    "rollout spoken",
    "worded",
    "exclusive triples",
    "formats.settings formats.folding",
    "formats.weights formats.hooks",
    "formats.source",
    "formats.normaliser formats.carried formats.saelens formats.gemma_scope formats.ckkissane",
    "formats.dictionary_learning",
    "formats.crosscoder_learning",
    "formats",
    "layer_rule invariants",
    "activity gate cell findings leaderboard planted_pair planted_score",
    "overlap template_share ablation interpolation probing report",
    "synopsis report_tied report_finding report_tables report_steering",
    "report_curves report_method",
    "report_part",
    "report_page",
    "drawn",
    "build check ranking fitting",
    "catalogue comparison export testing readiness",
    "bench ground gathering untrained replay",
    "interpretability causal_score attribution_score kl_dashboard steering_trial",
    "feature_dashboard",
    "tied_dashboard",
    "picture",
    "grid score workers consistency",
    "ending intake planted_trial",
    "cells stored_cell submission asking arithmetic",
    "runner stored_pair cell_choice seed_group measurement packing inspection",
    "projection rescore seed_run game_ground steering_run merging",
    "publishing",
    "campaign arena recount board_diff",
    "examination",
    "study_plan slice_plan",
    "reproduction",
    "reproduction_page",
    "cli.terminal",
    "cli",
    "result",
    "request outlets.folder outlets.source",
    "outlets.hf_dataset outlets.lm_eval outlets.inspect_log outlets.neuronpedia",
    "outlets",
    "cli.export",
    "cli.listing cli.own cli.seeds cli.gates cli.submission cli.slice",
    "cli.author cli.dictionaries cli.organisms cli.run cli.latents cli.leaderboard cli.rescore cli.consistency",
    "cli.planted cli.reproduce cli.judge cli.game cli.steer cli.report",
    "__main__",
)
"""Modules of the engine, low to high: each imports only what stands in an earlier line, inside functions too."""

UPWARD = {("judge", "offline_judge"), ("judge", "openai_judge")}
"""The judge's own hook names the bundled judges, as any plugin's would."""

LIGHT = (
    "errors complaint garbage line atomic canonical text truth interval hookspecs seeds tier tuning recipe holdout "
    "mixing base "
    "cache gate_report judge account question spending panel rule offline_judge secret judge_settings fence "
    "answer_form exhibit dialect prompts chat_server openai_judge quote record organism method options contract "
    "run_folder plugins table columns summary "
    "figure scores dashboard steering_file cell_choice steering_run cli.steer slice_plan publishing cli.slice tally "
    "study study_plan reproduction reproduction_page cli.reproduce "
    "board board_page webpage edition entry site_tables site_pages site leaderboard_file leaderboard scaffold "
    "ordinary checkpoint conversation sampled dataset own_data own_pair "
    "drawn build readiness catalogue latent_row latent_table fits input_files grid workers cells runner campaign "
    "check "
    "cell cli request result outlets outlets.source outlets.folder outlets.hf_dataset outlets.lm_eval "
    "outlets.inspect_log outlets.neuronpedia cli.export "
    "agreement duration ending trial finding_evidence judging conclusion interpretation "
    "prospect replay wording rival sheet choices truth_match offline_grade offline_choice "
    "offline_account offline_agent stored_cell stored_pair projection rescore seed_group seed_run "
    "cli.rescore cli.consistency "
    "cli.terminal cli.listing cli.own cli.seeds cli.gates cli.author cli.organisms cli.run cli.latents "
    "cli.leaderboard formats cli.dictionaries cli.planted cli.judge "
    "plain_yaml disguise kappa repeat gold answers bias attack survey calibration attack_trial attack_report "
    "calibration_page attack_run attack_page "
    "chart shading report synopsis report_tied report_finding report_tables report_curves report_method report_part "
    "report_steering report_page cli.report "
    "sighting game game_prospect game_score game_file framing game_page game_ground arena cli.game "
    "archive redaction verification discrepancy submission asking arithmetic packing inspection merging recount "
    "board_diff examination cli.submission"
)
"""Modules whose import loads no torch."""

OWNERS = {
    "transformers": "diffbench.residual diffbench.untrained diffbench.sampled diffbench.tokenizer diffbench.tiny "
    "diffbench.decoding diffbench_organisms.bases.tinyworld.pretrain diffbench_organisms.bases.tinyworld.tokenizer",
    "tokenizers": "diffbench.tiny diffbench_organisms.bases.tinyworld.tokenizer",
    "pandas": "diffbench.columns diffbench.summary diffbench.board diffbench.leaderboard diffbench.result "
    "diffbench.outlets.source diffbench.outlets.hf_dataset",
    "pyarrow": "diffbench.evidence_file diffbench.latent_table diffbench.outlets.hf_dataset",
    "peft": "diffbench.adapter diffbench.lora",
    "jinja2": "diffbench.webpage",
    "markupsafe": "diffbench.webpage diffbench.chart diffbench.shading diffbench.report_curves "
    "diffbench.report_finding diffbench.report_method diffbench.report_part diffbench.report_page "
    "diffbench.report_steering diffbench.report_tied",
    "openai": "diffbench.chat_server",
    "datasets": "diffbench.dataset diffbench.export",
    "huggingface_hub": "diffbench.checkpoint diffbench.dataset",
    "click": "diffbench.cli diffbench.cli.terminal diffbench.cli.export diffbench.cli.seeds diffbench.cli.own "
    "diffbench.cli.listing "
    "diffbench.cli.author diffbench.cli.organisms diffbench.cli.run diffbench.cli.latents "
    "diffbench.cli.leaderboard diffbench.cli.rescore diffbench.cli.consistency diffbench.cli.planted "
    "diffbench.cli.dictionaries diffbench.cli.reproduce diffbench.cli.judge diffbench.cli.game diffbench.cli.steer "
    "diffbench.cli.slice "
    "diffbench.cli.submission diffbench.cli.report",
}
"""Who may import what is heavy, or speaks to people."""

FOR_FAMILIES = set("atomic base canonical errors recipe seeds text truth".split())
"""Modules that a bundled family or base may use besides the public names."""

FOLDERS = {"diffbench": "diffbench", "methods": "diffbench_methods", "organisms": "diffbench_organisms"}


@dataclass(frozen=True)
class Import:
    """One import of a module: what, where, and how many dots."""

    target: str
    name: str | None
    dots: int
    line: int


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path: Path) -> Iterator[Import]:
    """Every import that can run, at the top or inside a function."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if is_for_types(node):
            continue
        pending.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, None, 0, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (Import(node.module or "", alias.name, node.level, node.lineno) for alias in node.names)


def module_name(path: Path) -> str:
    top, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([FOLDERS.get(top, top), *(part for part in rest if part != "__init__")])


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def engine_target(found: Import) -> str | None:
    """The engine's module that an import leads to; None for public names and everything outside."""
    if found.target == "diffbench" and found.name is not None:
        return found.name if (ROOT / "diffbench" / found.name).is_dir() or is_module(found.name) else None
    return found.target.removeprefix("diffbench.") if found.target.startswith("diffbench.") else None


def is_module(name: str) -> bool:
    return (ROOT / "diffbench" / f"{name}.py").is_file()


RANK = {module: rank for rank, line in enumerate(LAYERS) for module in line.split()}


def test_every_module_has_its_place() -> None:
    modules = {module_name(path).removeprefix("diffbench.") for path in sources("diffbench")} - {"diffbench"}
    new, gone = sorted(modules - set(RANK)), sorted(set(RANK) - modules)
    assert not new, f"enter {new} in LAYERS of {__name__}: above all that they import, below all that import them"
    assert not gone, f"take {gone} out of LAYERS of {__name__}"
    assert len(RANK) == sum(len(line.split()) for line in LAYERS), "a module stands in LAYERS twice"


@pytest.mark.parametrize("path", sources("diffbench"), ids=module_name)
def test_the_engine_imports_downwards(path: Path) -> None:
    module = module_name(path).removeprefix("diffbench.")
    if module == "diffbench":
        return
    for found in imports(path):
        assert found.dots == 0, f"{path}:{found.line}: write engine imports out in full"
        target = engine_target(found)
        if target is None or (module, target) in UPWARD:
            continue
        assert RANK[target] < RANK[module], f"{path}:{found.line}: {module} must not import {target}"


def test_the_exceptions_are_still_needed() -> None:
    for module, target in UPWARD:
        path = ROOT / "diffbench" / f"{module}.py"
        assert target in {engine_target(found) for found in imports(path)}


@pytest.mark.parametrize("path", sources("diffbench", "methods", "organisms", "tests"), ids=module_name)
def test_nobody_imports_the_folders_by_name(path: Path) -> None:
    for found in imports(path):
        top = found.target.partition(".")[0]
        assert found.dots or top not in ("methods", "organisms"), f"{path}:{found.line}: a second copy of the package"
        if path.is_relative_to(ROOT / "diffbench"):
            assert top not in ("diffbench_methods", "diffbench_organisms"), f"{path}:{found.line}: ask the plugins"


@pytest.mark.parametrize("path", sources("methods"), ids=module_name)
def test_methods_use_public_names_alone(path: Path) -> None:
    for found in imports(path):
        where = f"{path}:{found.line}"
        if found.dots:
            assert path.name == "__init__.py", f"{where}: methods do not import each other"
            continue
        top = found.target.partition(".")[0]
        assert top != "diffbench_organisms", f"{where}: a method knows no organism"
        if top == "diffbench":
            assert found.target == "diffbench" and found.name in diffbench.__all__, f"{where}: {found} is not public"


@pytest.mark.parametrize("path", sources("organisms"), ids=module_name)
def test_organisms_use_public_names_and_documents(path: Path) -> None:
    for found in imports(path):
        top, _, rest = found.target.partition(".")
        assert top != "diffbench_methods", f"{path}:{found.line}: an organism knows no method"
        if top == "diffbench" and not found.dots:
            allowed = rest in FOR_FAMILIES if rest else found.name in diffbench.__all__
            assert allowed, f"{path}:{found.line}: {found.target} is not for organisms"


@pytest.mark.parametrize("library", OWNERS)
def test_only_their_owners_import_libraries(library: str) -> None:
    users = {
        module_name(path)
        for path in sources(*FOLDERS)
        for found in imports(path)
        if not found.dots and found.target.partition(".")[0] == library
    }
    assert users <= set(OWNERS[library].split()), (
        f"{library} is imported by {sorted(users - set(OWNERS[library].split()))}"
    )


def test_light_modules_load_no_torch() -> None:
    names = ["diffbench", *(f"diffbench.{name}" for name in LIGHT.split()), "diffbench_methods", "diffbench_organisms"]
    code = (
        "import importlib, sys\n"
        f"for name in {names}:\n    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules and 'transformers' not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_public_names_exist_and_are_imported_when_used() -> None:
    assert set(diffbench._HOME) | {"__version__"} == set(diffbench.__all__)
    assert set(diffbench.__all__) <= set(dir(diffbench))
    for name in diffbench.__all__:
        assert getattr(diffbench, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        diffbench.no_such_name  # noqa: B018
    code = "import sys, diffbench; assert not {'torch', 'pydantic', 'click', 'pluggy'} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_names_for_type_checkers_are_the_lazy_ones() -> None:
    tree = ast.parse((ROOT / "diffbench" / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if is_for_types(node)]
    typed = {
        alias.name: (node.module or "").removeprefix("diffbench.")
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == diffbench._HOME
