"""Game ground: which pair and which evidence games are played on, found and checked before anything is made."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from diffbench.build import Organism
from diffbench.canonical import file_digest
from diffbench.catalogue import find_organism
from diffbench.cell_choice import CellChoice, choose_cell
from diffbench.errors import OptionError, RecordError
from diffbench.finding_evidence import EVIDENCE, FindingEvidence
from diffbench.game import Access, Budget, Manner
from diffbench.game_file import Setting
from diffbench.plugins import find_judge
from diffbench.readiness import check_places, check_text
from diffbench.record import read_document
from diffbench.run_folder import GAMES, read_run_file, refusal
from diffbench.seeds import derive
from diffbench.sheet import SHEET, Sheet
from diffbench.stored_cell import StoredCell
from diffbench.stored_pair import Pairs
from diffbench.truth import Schema

SHEET_BYTES = 1 << 24
MOST_REPEATS = 100


class GamePlan(Schema):
    """What games are asked for.

    Attributes:
        organism: name, or path of a recipe.
        row: of the method whose evidence the agent gets, as tables name it.
        cell_seed: of that method; None: there must be one such cell only. Likewise reference and tier.
        framings: presuppose or not.
        repeats: games of each framing; each has a seed and answers of its own.
        seed: of the first of them.
    """

    organism: str
    row: str | None = None
    reference: Literal["base", "control"] | None = None
    cell_seed: int | None = None
    tier: str | None = None
    agent: str = "offline"
    grader: str = "offline"
    access: Access = "both"
    framings: tuple[bool, ...] = Field((False,), min_length=1)
    repeats: int = Field(1, ge=1, le=MOST_REPEATS)
    seed: int = Field(0, ge=0)
    budget: Budget = Budget()
    manner: Manner = Manner()


@dataclass(frozen=True, slots=True)
class Ground:
    """What games are played on.

    Attributes:
        organism: None: no model is needed.
        stored: the cell whose evidence it is; None: there is none.
        pairs: where the cell's pair is found.
    """

    plan: GamePlan
    run: Path
    organism: Organism | None
    stored: StoredCell | None
    pairs: Pairs | None

    @property
    def setting(self) -> Setting:
        """As it is written down."""
        plan, stored = self.plan, self.stored
        asks = plan.access != "evidence"
        if stored is not None:
            name, reference = stored.cell.organism, stored.cell.reference
            pair = stored.hashes.reference_model, stored.hashes.tuned_model
        else:
            assert self.organism is not None
            name, reference = self.organism.recipe.name, plan.reference or "base"
            pair = self.organism.model_key(reference), self.organism.model_key("tuned")
        return Setting(
            organism=name,
            reference=reference,
            row=None if stored is None else stored.cell.row,
            cell=None if stored is None else stored.key,
            pair=pair,
            manner=plan.manner if asks else None,
            grader=find_judge(plan.grader)().identity(),
            grading=derive(plan.seed, "grading"),
        )

    @property
    def evidence(self) -> Path | None:
        """The file of the cell's evidence, as it was when it was judged."""
        return None if self.stored is None else _kept(self.stored, EVIDENCE)

    @property
    def sheet(self) -> Path | None:
        """The file of what is true of the pair, if the cell has one."""
        if self.stored is None or SHEET not in (self.stored.hashes.judged or {}):
            return None
        return _kept(self.stored, SHEET)

    def games(self) -> list[tuple[bool, int]]:
        """Framing and repeat of each game."""
        return [(presuppose, repeat) for repeat in range(self.plan.repeats) for presuppose in self.plan.framings]


def find_ground(plan: GamePlan, run: Path) -> Ground:
    """Look for all that games need before anything is made.

    Args:
        plan: what is asked for.
        run: the run folder; where no evidence is needed it may be missing.

    Raises:
        DiffbenchError: if run, cell, organism or grader are not there, or a file is not what it was.
    """
    with_evidence, asks = plan.access != "questions", plan.access != "evidence"
    named = find_organism(plan.organism) if plan.organism.endswith((".yaml", ".yml")) or "/" in plan.organism else None
    name = plan.organism if named is None else named.recipe.name
    stored = pairs = None
    if with_evidence:
        if plan.row is None:
            raise OptionError("method: a game on evidence needs the row whose evidence it is: --method ROW")
        pairs = Pairs(read_run_file(run), () if named is None else (named,))
        stored = _cell(plan, name, run)
        _kept(stored, EVIDENCE)
    elif plan.row is not None:
        raise OptionError("method: with --access questions the agent gets no method's evidence; leave --method out")
    organism = None
    if asks:
        organism = pairs.comparison(stored).organism if pairs and stored else named or find_organism(plan.organism)
        if (plan.reference or "base") == "control" and not organism.has_control:
            raise OptionError(f"reference: organism {name} has no control; use --reference base")
        check_places(organism)
        check_text(organism)
    problem = refusal(run / GAMES, stat.S_ISDIR)
    if problem is not None:
        raise RecordError(f"{run / GAMES}: {problem}")
    return Ground(plan, run, organism, stored, pairs)


def _cell(plan: GamePlan, organism: str, run: Path) -> StoredCell:
    asked = {"reference": plan.reference, "seed": plan.cell_seed, "tier": plan.tier}
    return choose_cell(CellChoice(organism=organism, row=str(plan.row), **asked), run)


def _kept(stored: StoredCell, name: str) -> Path:
    """A file beside a record that is what it was when the record was written."""
    path, known = stored.path / name, stored.hashes.judged or {}
    if name not in known:
        raise RecordError(f"{stored.name}: its record names no {name}; `diffbench rescore` makes it")
    problem = refusal(path, stat.S_ISREG)
    if problem is not None or not path.exists() or file_digest(path) != known[name]:
        raise RecordError(f"{path}: {problem or 'missing or changed since it was scored'}")
    return path


def read_sheet(path: Path) -> Sheet:
    """A sheet that a cell keeps.

    Raises:
        RecordError: if it is none.
    """
    return read_document(path, Sheet, SHEET_BYTES)


def read_evidence(path: Path) -> tuple[FindingEvidence, ...]:
    """The evidence that a cell keeps; raises as `diffbench.evidence_file.read_evidence` does."""
    from diffbench.evidence_file import read_evidence as read  # whose import starts a thread

    return read(path)
