"""The report of a run: one file that says what its folder says, whoever wrote that folder."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from game_factory import Agent, played, states
from game_factory import sheet as game_sheet
from record_factory import board_of_everything, figure, record, run_file, scores, write_run
from report_factory import (
    HOSTILE,
    dashboard,
    evidence,
    null_record,
    scored,
    sheet,
    steering,
    write_cell,
    write_report_run,
)

from diffbench import report as reports
from diffbench import report_page
from diffbench.account import Account
from diffbench.agreement import Activity, Agreement, ConsistencyFile, Contradictions, Matching, Span, Words
from diffbench.cli import main
from diffbench.dashboard import DASHBOARD
from diffbench.errors import RecordError
from diffbench.figure import Figure
from diffbench.finding_evidence import EVIDENCE
from diffbench.game_file import write_game
from diffbench.report import read_report
from diffbench.report_page import DEPTHS, page
from diffbench.run_folder import RECORD_FILE, write_run_file
from diffbench.sheet import SHEET
from diffbench.steering_file import write_steering
from diffbench.synopsis import overall

VOID = {"meta", "link", "br", "img", "input", "hr", "path", "line", "rect", "circle"}
LOADS = {"src", "srcset", "action", "formaction", "data", "poster", "background", "ping", "manifest"}


class Tree(HTMLParser):
    """Tags in order; whatever is not closed where it should be is an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def counted(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def is_one_file(text: str) -> Tree:
    """Well-formed, with unique anchors that all links find; nothing loads, nothing runs but the page's own script."""
    tree = Tree(text)
    ids = Counter(attrs["id"] for _, attrs in tree.tags if attrs.get("id"))
    assert max(ids.values()) == 1, [name for name, n in ids.items() if n > 1]
    for tag, attrs in tree.tags:
        assert not LOADS & set(attrs) and not any(name.startswith("on") for name in attrs), (tag, attrs)
        if tag == "link":
            assert attrs["href"] == "data:,"
        elif "href" in attrs:
            target = attrs["href"] or ""
            assert target.startswith("#") and target[1:] in ids, target
    assert tree.counted("script") == 1 and tree.counted("iframe") == tree.counted("img") == 0
    text.encode("utf-8")
    return tree


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return page(read_report(run))


@pytest.fixture(scope="module")
def tree(text: str) -> Tree:
    return is_one_file(text)


def test_the_page_is_one_well_formed_file_and_always_the_same(run: Path, text: str, tree: Tree) -> None:
    assert page(read_report(run)) == text
    [policy] = [attrs["content"] for _, attrs in tree.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert (policy or "").startswith("default-src 'none'") and tree.counted("style") == 1
    assert tree.counted("h1") == 1 and tree.counted("main") == 1


def test_the_first_sentences_say_who_is_best_and_how_sure_that_is(run: Path) -> None:
    told = overall(read_report(run))
    assert told.startswith("On halfswap diff-sae recovers most: lift over PCA .11. Next is tied with -.20")
    assert "too few, or too alike, for a test" in told
    assert "Share of the true claims that is located: diff-sae .50" in told
    assert told.endswith("6 of 8 cells are scored, 1 failed, 1 not applicable.")


def test_one_seed_is_said_to_be_one_seed_and_less_than_pca_to_be_less(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [record("one", scored=scores(-0.1)), record("two", scored=scores(-0.3))])
    told = overall(read_report(tmp_path / "a"))
    assert "-.10 [-.15, -.05], which is less than PCA of the differences recovers" in told
    assert "With one seed of each method nobody knows" in told


def test_pca_is_not_said_to_recover_more_than_pca(tmp_path: Path) -> None:
    write_run(
        tmp_path / "a", [record("pca", cell={"baseline": True}, scored=scores(0.0)), record("sae", scored=scores(-0.3))]
    )
    told = overall(read_report(tmp_path / "a"))
    assert told.startswith("On halfswap no method recovers more than PCA of the differences at the same number of comp")
    assert "Next is sae with -.30" in told and "recovers most" not in told


def test_three_seeds_are_tested(tmp_path: Path) -> None:
    seeds = range(4)
    apart = [record("one", n, scored=scores(0.5 + n / 100)) for n in seeds]
    apart += [record("two", n, scored=scores(0.1 + n / 90)) for n in seeds]
    write_run(tmp_path / "apart", apart)
    assert "separated by a paired test over 4 units" in overall(read_report(tmp_path / "apart"))
    close = [record("one", n, scored=scores(0.1 + (n % 2) / 10)) for n in seeds]
    close += [record("two", n, scored=scores(0.1 + (n // 2) / 11)) for n in seeds]
    write_run(tmp_path / "close", close)
    found = read_report(tmp_path / "close")
    assert "not separated by a paired test over 4 units" in overall(found)
    assert "are not separated" in is_one_file(page(found)).text


def test_alarms_on_nulls_are_told(tmp_path: Path) -> None:
    records = [null_record("loud", "changed"), null_record("quiet", "unchanged"), null_record("silent", "abstain")]
    write_run(tmp_path / "nulls", [*records, null_record("oracle", "changed", control=True)])
    found = read_report(tmp_path / "nulls")
    assert (
        "identity is a null: 1 of 3 methods say that something was changed (loud), and 1 of the controls."
        in overall(found)
    )
    assert "null: identity" in is_one_file(page(found)).text


def test_every_kind_of_row_is_shown(tmp_path: Path) -> None:
    write_run(tmp_path / "all", board_of_everything())
    found = read_report(tmp_path / "all")
    tree = is_one_file(page(found))
    for expected in ("killed by signal 9", "the pair has different widths", "decoder holds NaN", "reads-data", "n/a"):
        assert expected in tree.text, expected
    assert len(found.parts) == 2 and "against its control" in overall(found)


def test_findings_stand_beside_the_truth(text: str, tree: Tree) -> None:
    assert "Says green where blue is right." in tree.text
    assert "✓ located: Says green where blue is right." in tree.text
    assert '<b class="tok ok">green ✓</b>' in text and '<b class="tok no">blue ✗</b>' in text
    assert '<b class="tok ">wrong</b>' in text
    assert "Active before colours." in tree.text or "Before green." in tree.text


def test_dashboards_are_drawn(text: str, tree: Tree) -> None:
    assert '<i class="h9" title="2">green</i>' in text, "KL"
    assert '<i class="h9" title="9">green</i>' in text, "activity"
    assert "at 12 of 32 tokens of high KL" in tree.text and "attribution -0.25, place 1" in tree.text
    assert "<0.1% → 50%" in tree.text and "97% → 48%" in tree.text
    assert text.count('href="#p1-m2-f2"') >= 2, "a neighbour that is shown is a link"
    assert "9 of 12 triples fire" in tree.text and "Tuned latent, chats" in tree.text
    assert "with the component" in tree.text, "steered texts"
    assert "fitted green" in tree.text, "the log"


def test_what_there_is_not_is_said(tree: Tree) -> None:
    assert "its cell has no dashboard" in tree.text
    assert "No steering was measured in this run" in tree.text
    assert "diffbench run --organism halfswap" in tree.text and "Interpolation curve" in tree.text
    assert "WorkerError: green killed by signal 9" in tree.text and "no adapter" in tree.text


def test_controls_and_pca_are_pinned(tree: Tree) -> None:
    assert sum("data-pinned" in attrs for _, attrs in tree.tags) >= 3
    assert sum("data-sortable" in attrs for tag, attrs in tree.tags if tag == "table") >= 4


def test_a_file_that_is_another_than_its_record_says_is_named_and_not_shown(tmp_path: Path) -> None:
    write_run_file(tmp_path, run_file())
    item = record("diff-sae", scored=scored())
    folder = write_cell(tmp_path, item, dashboard(), sheet(), evidence())
    other = write_cell(tmp_path / "other", item, dashboard("secret"), sheet("secret"), evidence("secret"))
    names = (EVIDENCE, DASHBOARD, SHEET)
    for name in names:
        (folder / name).write_bytes((other / name).read_bytes())
    found = read_report(tmp_path)
    problem = "does not match the SHA-256 in its record, and is not shown"
    assert list(found.problems) == [f"cells/{folder.name}/{name}: {problem}" for name in names]
    tree = is_one_file(page(found))
    assert "Not all files of this run are what its records say." in tree.text and "secret" not in tree.text
    for name in names:
        (folder / name).unlink()
    assert all("is missing, and its record speaks of it" in problem for problem in read_report(tmp_path).problems)
    for name in names:
        (folder / name).symlink_to(other / name)
    linked = read_report(tmp_path).problems
    assert len(linked) == 3 and all("a symbolic link, which is not followed" in problem for problem in linked)


def test_links_are_never_followed(tmp_path: Path) -> None:
    write_run_file(tmp_path / "run", run_file())
    folder = write_cell(tmp_path / "run", record("diff-sae", scored=scored()), log="in the run\n")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "log.txt").write_text("a secret")
    (folder / "log.txt").unlink()
    (folder / "log.txt").symlink_to(secret / "log.txt")
    for name in ("games", "steering", "consistency"):
        (tmp_path / "run" / name).symlink_to(secret)
    found = read_report(tmp_path / "run")
    assert len(found.problems) == 4 and all("symbolic link" in problem for problem in found.problems)
    assert "a secret" not in page(found)


def test_damaged_files_are_named_and_hide_nothing(tmp_path: Path) -> None:
    write_run_file(tmp_path, run_file())
    folder = write_cell(tmp_path, record("diff-sae", scored=scored()))
    (folder / DASHBOARD).write_text("{")
    (folder / EVIDENCE).write_bytes(b"PAR1")
    (tmp_path / "games").mkdir()
    (tmp_path / "games" / "empty").mkdir()
    (tmp_path / "consistency").mkdir()
    (tmp_path / "consistency" / "x.json").write_text("[]")
    damaged = tmp_path / "cells" / "damaged"
    damaged.mkdir()
    (damaged / RECORD_FILE).write_text("no json")
    (tmp_path / "cells" / "unfinished").mkdir()
    found = read_report(tmp_path)
    assert len(found.problems) == 4
    tree = is_one_file(page(found))
    assert "cells/damaged/record.json: " in tree.text and "cells/unfinished" in tree.text and "diff-sae" in tree.text


def test_nothing_that_a_stranger_wrote_becomes_markup(tmp_path: Path) -> None:
    clean = HOSTILE.replace("\x00", "")
    folder = write_report_run(tmp_path / "run", word=HOSTILE[:90])
    argv, config = (HOSTILE, "--x", HOSTILE), {HOSTILE: [HOSTILE]}
    document = run_file(HOSTILE).model_copy(update={"argv": argv, "config": config}).model_dump(mode="json")
    document["config"]["lone"] = "\ud800"
    (folder / "run.json").write_text(json.dumps(document), encoding="ascii")
    cell = {"organism": clean, "options_passed": {"k": clean}, "judge": clean, "method_package": clean}
    names = {"sandbox": HOSTILE, "versions": {HOSTILE: HOSTILE}, "usage": {HOSTILE: 3}, "platform": HOSTILE}
    write_cell(
        folder, record(clean, cell=cell, scored=scored(explanation=HOSTILE), timings=names), dashboard(clean[:90])
    )
    write_cell(folder, record(f"{clean}2", cell=cell, status="error", reason=HOSTILE))
    write_steering(folder, steering(HOSTILE[:90], HOSTILE))
    (folder / "steering" / "<b>x\u202e").mkdir()
    found = read_report(folder)
    assert ["steering/<b>x" in problem and "\u202e" not in problem for problem in found.problems] == [True]
    text = page(found)
    tree = is_one_file(text)
    assert "alert(1)" in tree.text and "<img" not in text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u0000\ud800-\udfff]", text)
    assert "49" not in re.findall(r"evil(.{0,12})", tree.text), "templates are not filled in twice"


def test_a_page_that_would_be_too_large_shows_less_and_says_so(
    run: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_page, "MOST_BYTES", len(text.encode()) - 1)
    less = page(read_report(run))
    assert len(less.encode()) < len(text.encode())
    assert "less than usual" in is_one_file(less).text
    monkeypatch.setattr(report_page, "MOST_BYTES", 10)
    least = is_one_file(page(read_report(run)))
    assert "no dashboards" in least.text and "Says green" in least.text
    assert DEPTHS[-1].findings == 0


def test_of_very_many_rows_only_the_first_ones_have_details(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST_SHOWN", 2)
    found = read_report(run)
    assert found.unread == 3
    assert [bool(method.shown and method.shown.evidence) for method in found.parts[0].methods].count(True) == 1
    assert "Of 3 rows only the scores are shown" in is_one_file(page(found)).text


def test_a_run_without_a_record_has_a_page(tmp_path: Path) -> None:
    write_run_file(tmp_path, run_file())
    found = read_report(tmp_path)
    assert "No cell of this run has a record that can be read." in is_one_file(page(found)).text
    (tmp_path / "none").mkdir()
    with pytest.raises(RecordError, match="no run folder"):
        read_report(tmp_path / "none")


def agreement(row: str) -> ConsistencyFile:
    one, none = figure(0.8, 0.1), Figure.not_applicable("its components are directions")
    found = Agreement(
        kind="dictionary",
        n_components=(512, 512),
        matching=Matching(cosine=one, share=one, chance_cosine=figure(0.3), chance_share=figure(0.0)),
        spans=(Span(k=8, overlap=figure(0.7), chance=figure(0.06)),),
        activity=Activity(spearman=none, chance=none),
        words=Words(jaccard=figure(0.4), control=figure(0.01)),
        contradictions=Contradictions(
            matched=9, contradicting=2, examples=(HOSTILE,), verdicts={"changed": 2}, verdicts_differ=figure(0.0)
        ),
    )
    cell = {"organism": "halfswap", "organism_version": 1, "reference": "base", "tier": "smoke", "pair": "0" * 64}
    more = {"method": row, "method_version": 1, "ranking": None, "options": {}, "control": False, "key": "k"}
    return ConsistencyFile(**cell, **more, seeds=(0, 1), fits=(None, None), agreement=found)


def test_games_and_agreement_of_seeds_are_shown(tmp_path: Path) -> None:
    write_run_file(tmp_path, run_file())
    for seed in range(2):
        write_cell(tmp_path, record("diff-sae", seed))
    write_game(tmp_path, played(of=game_sheet()), game_sheet())
    told = Account(verdict="changed", statement=HOSTILE, confidence=0.7, tokens_up=("<b>",))
    write_game(tmp_path, played(Agent(states(told, after=2)), of=game_sheet(), seed=1), game_sheet())
    (tmp_path / "consistency").mkdir()
    (tmp_path / "consistency" / "a.json").write_text(agreement("diff-sae<b>").model_dump_json())
    found = read_report(tmp_path)
    assert len(found.games) == 2 and len(found.consistency) == 1 and not found.problems
    text = page(found)
    tree = is_one_file(text)
    assert "Diffing games" in tree.text and "abstaining:" in tree.text and "<b>" in tree.text
    assert ".80 [.70, .90] (.30)" in tree.text and "2 of 9" in tree.text and "diff-sae<b>" in tree.text
    assert "\u202e" not in text


def test_steering_is_shown_with_its_controls(tmp_path: Path) -> None:
    write_run_file(tmp_path, run_file())
    write_cell(tmp_path, record("diff-sae"))
    write_steering(tmp_path, steering())
    text = page(read_report(tmp_path))
    tree = is_one_file(text)
    assert "halfswap: diff-sae, seed 0" in tree.text and "No steering was measured" not in tree.text
    assert "80% [75%, 85%]" in tree.text and "42% [37%, 47%]" in tree.text and "2% [-3%, 7%]" in tree.text
    assert "reference, random component" in tree.text and "DiffError: green" in tree.text
    assert "green !" in tree.text and "place 1 in the method's order, attribution -0.25 nats" in tree.text


def test_the_command_writes_the_file_and_prints_its_path(run: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(main, ["report", str(run)])
    assert (done.exit_code, done.stdout) == (0, f"{run / 'report.html'}\n")
    out = tmp_path / "deep" / "x.html"
    done = runner.invoke(main, ["report", str(run / "run.json"), "--out", str(out), "--json"])
    told = json.loads(done.stdout)
    assert told == {"file": str(out), "bytes": out.stat().st_size, "problems": []}
    assert out.read_text(encoding="utf-8") == (run / "report.html").read_text(encoding="utf-8")


def test_the_command_says_what_is_wrong(tmp_path: Path, run: Path) -> None:
    runner = CliRunner()
    gone = runner.invoke(main, ["report", str(tmp_path / "gone")])
    assert gone.exit_code == 2 and "no such folder" in gone.stderr
    (tmp_path / "file").write_text("")
    refused = runner.invoke(main, ["report", str(run), "--out", str(tmp_path / "file" / "x.html")])
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1 and "--out" in refused.stderr
