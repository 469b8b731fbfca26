"""Arena: diffing games as somebody asks for them: on which pair, with which evidence, framed how, and how often.

Games on evidence alone need no model, and can be played on a run that somebody published. All others are tasks in
worker processes, which load the pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffbench import cache, runner
from diffbench.build import Organism, resolve, stored_truth
from diffbench.errors import DiffbenchError
from diffbench.finding_evidence import FindingEvidence
from diffbench.game import Notify, play
from diffbench.game_file import PlayedGame, Setting, read_game, write_game
from diffbench.game_ground import GamePlan, Ground, find_ground, read_evidence, read_sheet
from diffbench.game_prospect import grading_prospect, prospect, times
from diffbench.game_score import score_game
from diffbench.judge import Judge
from diffbench.panel import Panel
from diffbench.plugins import find_judge
from diffbench.quote import Quote
from diffbench.recipe import Recipe
from diffbench.repeat import again
from diffbench.sheet import Sheet
from diffbench.stored_pair import check_weights
from diffbench.workers import Job, Work, Workers

if TYPE_CHECKING:
    from torch import Tensor

    from diffbench.corpus import Corpus
    from diffbench.interview import Interview


def hold(plan: GamePlan, run: Path, notify: Notify) -> tuple[PlayedGame, ...]:
    """Play games, score them and write them into a run folder.

    Args:
        plan: what is asked for.
        run: the run folder; where no evidence is needed it may be missing, and is made.
        notify: gets a phrase and the fraction of the current stage that is done.

    Raises:
        DiffbenchError: if run, cell, organism or judges are not there, the pair is not the one of then, or an agent
            or grader breaks its contract. A game that comes to nothing raises nothing.
    """
    ground = find_ground(plan, run)
    find_judge(plan.agent)
    if ground.organism is None:
        return tuple(_hold_one(ground, presuppose, repeat, notify) for presuppose, repeat in ground.games())
    return _with_models(ground, ground.organism, notify)


def foresee(plan: GamePlan, run: Path) -> tuple[Quote, Quote]:
    """What the agent's part and the grading of all games would cost at most; nothing is asked, built or written.

    Raises:
        DiffbenchError: as `hold`, as far as it shows before.
    """
    ground = find_ground(plan, run)
    evidence = None if ground.evidence is None else read_evidence(ground.evidence)
    asks = plan.access != "evidence"
    quotes = [
        prospect(_agent(plan, repeat), evidence, asks=asks, budget=plan.budget, presuppose=presuppose)
        for presuppose, repeat in ground.games()
    ]
    total = quotes[0]
    for other in quotes[1:]:
        total += other
    grading = times(grading_prospect(find_judge(plan.grader)()), len(quotes))
    return total.model_copy(update={"judge": plan.agent}), grading


def game_task(request: Mapping[str, Any]) -> dict[str, Any]:
    """Worker task: play one game with the models of a pair, and write it.

    Request: recipe, plan, setting, presuppose, repeat, run (folder), evidence and sheet (files, or None).
    """
    from diffbench.interview import Interview
    from diffbench.worker import report

    organism, plan = resolve(Recipe.model_validate(request["recipe"])), GamePlan.model_validate(request["plan"])
    setting = Setting.model_validate(request["setting"])
    paths = organism.model_path(setting.reference), organism.model_path("tuned")
    models = Interview.open(*paths, base=organism.model_path("base"), manner=plan.manner)
    sheet = _measured(organism, models) if request["sheet"] is None else read_sheet(Path(request["sheet"]))
    evidence = None if request["evidence"] is None else read_evidence(Path(request["evidence"]))
    played = _played(plan, setting, evidence, models, sheet, request["presuppose"], request["repeat"], report)
    return {"folder": str(write_game(Path(request["run"]), played, sheet))}


def _with_models(ground: Ground, organism: Organism, notify: Notify) -> tuple[PlayedGame, ...]:
    """Build what is not there, and play every game in a process of its own."""
    plan, name = ground.plan, organism.recipe.name
    trusted = runner.trusted([organism], find_judge(plan.agent), find_judge(plan.grader))
    folders: dict[int, Path] = {}
    with runner.Workers(jobs=runner.default_jobs(), notify=notify, trusted=trusted) as workers:
        [report] = runner.build([organism], workers)
        if isinstance(report, DiffbenchError):
            raise report
        report.require(name)
        if ground.stored is not None and ground.pairs is not None:
            check_weights(ground.stored, ground.pairs.comparison(ground.stored))
        with cache.scratch() as logs:
            works = [
                Work(f"game {number + 1}", _job(workers, _request(ground, organism, *game), number, logs, folders))
                for number, game in enumerate(ground.games())
            ]
            workers.run("playing", works)
    return tuple(read_game(folders[number])[0] for number in sorted(folders))


def _request(ground: Ground, organism: Organism, presuppose: bool, repeat: int) -> dict[str, Any]:
    return {
        "recipe": organism.recipe.model_dump(mode="json"),
        "plan": ground.plan.model_dump(mode="json"),
        "setting": ground.setting.model_dump(mode="json"),
        "presuppose": presuppose,
        "repeat": repeat,
        "run": str(ground.run.absolute()),
        "evidence": None if ground.evidence is None else str(ground.evidence.absolute()),
        "sheet": None if ground.sheet is None else str(ground.sheet.absolute()),
    }


def _job(workers: Workers, request: Mapping[str, Any], number: int, logs: Path, folders: dict[int, Path]) -> Job:
    log = logs / f"{number}.log"
    task = workers.engine().submit(f"{game_task.__module__}:{game_task.__name__}", request, log=log)
    yield task
    result = task.wait()
    runner.needed(result, f"game {number + 1}", log)
    folders[number] = Path(result.answer["folder"])


def _hold_one(ground: Ground, presuppose: bool, repeat: int, notify: Notify) -> PlayedGame:
    """A game on evidence alone."""
    assert ground.evidence is not None
    evidence = read_evidence(ground.evidence)
    sheet = None if ground.sheet is None else read_sheet(ground.sheet)
    played = _played(ground.plan, ground.setting, evidence, None, sheet, presuppose, repeat, notify)
    write_game(ground.run, played, sheet)
    return played


def _played(
    plan: GamePlan,
    setting: Setting,
    evidence: tuple[FindingEvidence, ...] | None,
    models: Interview | None,
    sheet: Sheet | None,
    presuppose: bool,
    repeat: int,
    notify: Callable[[str, float], None],
) -> PlayedGame:
    """Play one game and score it. Grading has an allowance of its own, as large as the agent's."""
    agent, seed = _agent(plan, repeat), plan.seed + repeat
    game = play(agent, evidence, models, budget=plan.budget, presuppose=presuppose, seed=seed, notify=notify)
    grader = Panel(find_judge(plan.grader)(), allowance=plan.budget.allowance())
    return PlayedGame(setting=setting, game=game, score=score_game(game, sheet, grader, setting.grading))


def _agent(plan: GamePlan, repeat: int) -> Judge:
    judge = find_judge(plan.agent)()
    return again(judge, repeat) if repeat else judge


def _measured(organism: Organism, models: Interview) -> Sheet | None:
    """What is true of a pair, its moved words measured on these models; None: nobody knows."""
    from diffbench.movement import movements
    from diffbench.residual import last_logits
    from diffbench.sheet import sheet_of

    truth = stored_truth(organism)
    if truth is None:
        return None

    def pair(batch: Corpus) -> Iterator[Tensor]:
        for model in (models.first, models.second):
            yield last_logits(model, batch.ids, batch.mask)

    moved = movements(truth, models.tokenizer, pair) if truth.changed else ()
    return sheet_of(truth, models.tokenizer, moved)
