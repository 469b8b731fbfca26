"""Runs in the forms of other tools: what those tools require of them holds, and nothing a stranger wrote is markup."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from record_factory import board_of_everything, figure, record, scores, write_run
from run_factory import snapshot
from test_result import with_diff

from diffbench.canonical import file_digest
from diffbench.cli import main
from diffbench.columns import dictionary
from diffbench.diff import DictionaryDiff, Finding
from diffbench.diff_file import save_diff
from diffbench.errors import DiffbenchError, DiffError, OptionError, RecordError, UnknownName
from diffbench.leaderboard import build
from diffbench.outlets import FORMATS, Wanted, export_runs
from diffbench.outlets.inspect_log import _log
from diffbench.panel import Verdict
from diffbench.question import Detect, Intrude, Marked, Marks, Pick, question_key
from diffbench.record import Record
from diffbench.run_folder import CELLS, RECORD_FILE, cell_folder_name, read_run
from diffbench.spending import Usage
from diffbench.trial import Trial

HOSTILE = "<script>|`x`\n# head --- [a](http://e.vil)"


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo", board_of_everything())


def export(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


# --- what all forms share --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["hf-dataset", "lm-eval"])
def test_equal_records_give_equal_bytes(form: str, demo: Path, tmp_path: Path) -> None:
    again = write_run(tmp_path / "again" / "demo", list(reversed(board_of_everything())))
    for path, to in ((demo, "one"), (again, "two")):
        assert export_runs([path], tmp_path / to, Wanted(form))
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_the_command_lists_its_files(demo: Path, tmp_path: Path) -> None:
    result = export(demo, "--as", "hf-dataset", "--to", tmp_path / "out")
    assert result.exit_code == 0 and result.stderr == f"3 files in {tmp_path / 'out'}\n"
    assert [Path(line).relative_to(tmp_path / "out").as_posix() for line in result.stdout.splitlines()] == [
        "README.md",
        "data/rows.parquet",
        "data/summary.parquet",
    ]
    result = export(demo, "--as", "lm-eval", "--to", tmp_path / "json", "--method", "diff-sae", "--json")
    [file] = json.loads(result.stdout)["files"]
    assert Path(file).is_file() and Path(file).parent.name.startswith("diff-sae--")


REFUSED: dict[str, tuple[Any, ...]] = {
    "no form of export named 'hf-datset'; did you mean hf-dataset": ("demo", "--as", "hf-datset"),
    "no organism in there named 'halfswop'; did": ("demo", "--as", "lm-eval", "--organism", "halfswop"),
    "no method in there named 'diff-sea'": ("demo", "--as", "lm-eval", "--method", "diff-sea"),
    "neuronpedia: --model-id MODEL and --top N": ("demo", "--as", "neuronpedia", "--top", "3"),
    "--model-id 'a/b'": ("demo", "--as", "neuronpedia", "--top", "3", "--model-id", "a/b"),
    "--license 'MIT License'": ("demo", "--as", "hf-dataset", "--license", "MIT License"),
    "neither a run (no run.json) nor a leaderboard": ("empty", "--as", "lm-eval"),
    "no finished cell that can be read": ("bare", "--as", "lm-eval"),
    "is there and not an empty folder": ("demo", "--as", "lm-eval", "--to", "demo"),
    "keeps a DictionaryDiff or a DirectionDiff": (
        "failed", "--as", "neuronpedia", "--top", "1", "--model-id", "m"
    ),
    "no finished cell with scores lies in a run folder": ("failed", "--as", "inspect"),
    "names no evidence or no verdicts": ("old", "--as", "inspect"),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    message: str, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "bare", [])
    write_run(tmp_path / "failed", [record(status="error", reason="no")])
    old = record("pca")
    write_run(tmp_path / "old", [old.model_copy(update={"hashes": old.hashes.model_copy(update={"judged": None})})])
    before = snapshot(tmp_path)
    words = REFUSED[message]
    result = export(*words, *(() if "--to" in words else ("--to", "out")))
    assert result.exit_code == 2 and result.stdout == "", result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("diffbench: error: ") and message in line
    assert snapshot(tmp_path) == before and not (tmp_path / "out").exists()


def test_a_leaderboard_and_a_folder_of_runs_are_read(demo: Path, tmp_path: Path) -> None:
    build([demo], tmp_path / "board")
    runs = tmp_path / "many"
    write_run(runs / "a", board_of_everything()[:5])
    write_run(runs / "more" / "b", board_of_everything()[4:])
    for name, path in (("table", tmp_path / "board"), ("runs", runs), ("run", demo)):
        export_runs([path], tmp_path / name, Wanted("hf-dataset"))
    frames = {
        name: pq.read_table(tmp_path / name / "data" / "rows.parquet").to_pandas() for name in ("table", "runs", "run")
    }
    assert frames["table"].equals(frames["run"])
    assert frames["runs"].drop(columns="run").equals(frames["run"].drop(columns="run"))
    with pytest.raises(RecordError, match="a table alone holds no transcripts"):
        export_runs([tmp_path / "board"], tmp_path / "logs", Wanted("inspect"))


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "schema_version is 99": lambda board: board | {"schema_version": 99},
    "rows: no list of objects": lambda board: board | {"rows": [1]},
    "column 'headline' is missing or unknown": lambda board: board["rows"][0].pop("headline"),
    "column 'mine' is missing or unknown": lambda board: board["rows"][0].update(mine=1),
    "rows: headline: ": lambda board: board["rows"][0].update(headline="much"),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_table_that_is_none_is_refused(message: str, demo: Path, tmp_path: Path) -> None:
    build([demo], tmp_path / "board")
    path = tmp_path / "board" / "leaderboard.json"
    board = json.loads(path.read_text())
    changed = BROKEN[message](board)
    path.write_text(json.dumps(changed if isinstance(changed, dict) else board))
    with pytest.raises(RecordError, match=message) as caught:
        export_runs([tmp_path / "board"], tmp_path / "out", Wanted("lm-eval"))
    assert len(str(caught.value).splitlines()) == 1
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(RecordError, match="symbolic link"):
        export_runs([tmp_path / "board"], tmp_path / "out", Wanted("lm-eval"))


# --- Hugging Face ----------------------------------------------------------------------------------------------------


def test_datasets_reads_the_folder(demo: Path, tmp_path: Path) -> None:
    export_runs([demo], tmp_path / "out", Wanted("hf-dataset", licence="cc-by-4.0"))
    datasets.disable_progress_bars()
    cache = str(tmp_path / "cache")
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=cache)
    assert len(rows) == len(board_of_everything())
    for row in rows:
        assert (row["headline"] is None) == (row["headline_state"] != "ok")
        assert row["status"] == "ok" or row["headline"] is None
    table = datasets.load_dataset(str(tmp_path / "out"), "summary", split="train", cache_dir=cache)
    assert "nothing" in table["label"] and {"partial", "error", "ok"} <= set(table["status"])
    schema = pq.read_schema(tmp_path / "out" / "data" / "rows.parquet")
    assert schema.field("auroc_first").metadata[b"description"].decode() == dictionary()["auroc_first"]["description"]
    head = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])
    assert head["license"] == "cc-by-4.0" and [each["config_name"] for each in head["configs"]] == ["rows", "summary"]
    assert [each["name"] for each in head["dataset_info"][0]["features"]] == schema.names


def test_a_card_documents_every_column_and_holds_no_markup_of_a_stranger(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "demo", [record(HOSTILE, cell={"organism": HOSTILE, "judge": HOSTILE})])
    export_runs([folder], tmp_path / "out", Wanted("hf-dataset"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.count("---\n") >= 2 and "<script>" not in card and "](http:" not in card
    assert "\n# head" not in card and "- organisms: &lt;script&gt;" in card
    body = card.split("---\n", 2)[2]
    for name in ("headline", "auroc_first", "method_seconds", "label"):
        assert f"|{name} " in body or f"|{name}\\" in body, name


# --- lm-eval ---------------------------------------------------------------------------------------------------------


def results(folder: Path, method: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{method}--*/results_*.json"))]


def test_results_have_the_keys_of_the_harness_and_only_numbers_that_were_measured(demo: Path, tmp_path: Path) -> None:
    export_runs([demo], tmp_path / "out", Wanted("lm-eval"))
    [found] = results(tmp_path / "out", "diff-sae")
    by_task = ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples")
    tasks = set(found["results"])
    assert all(set(found[key]) == tasks for key in by_task) and len(tasks) == 2
    task = found["results"]["halfswap_v1_base_smoke_ngram"]
    assert task["headline,none"] == pytest.approx(0.13) and task["sample_len"] == 120
    # three seeds at .10, .12, .17: the standard error of their mean
    assert task["headline_stderr,none"] == pytest.approx(0.036055512754639 / 3**0.5)
    assert found["higher_is_better"]["halfswap_v1_base_smoke_ngram"]["headline"] is True
    assert found["config"]["model"] == "diff-sae" and found["diffbench"]["method_seeds"] == [0, 1, 2]
    quiet = found["results"]["halfswap_v1_control_smoke_ngram"]
    missing = found["configs"]["halfswap_v1_control_smoke_ngram"]["metadata"]["missing"]
    assert "headline,none" not in quiet and missing["headline"] == "undefined"
    for document in (found, *results(tmp_path / "out", "flaky"), *results(tmp_path / "out", "tied")):
        for name, metrics in document["results"].items():
            states = document["configs"][name]["metadata"]["missing"]
            for key, value in metrics.items():
                metric, comma, _ = key.partition(",")
                assert not comma or metric.removesuffix("_stderr") not in states
                assert not comma or value == "N/A" or isinstance(value, float | int)
    [failed] = results(tmp_path / "out", "tied")
    [about] = (config["metadata"] for config in failed["configs"].values())
    assert about["status"] == "error" and about["reason"] == "BudgetExceeded: 61.2 s of 60 s"


def test_a_standard_error_is_the_half_width_over_its_quantile(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "demo", [record("pca", scored=scores(fve=figure(0.5, 0.1), l0=figure(8.0)))])
    export_runs([folder], tmp_path / "out", Wanted("lm-eval"))
    [found] = results(tmp_path / "out", "pca")
    [metrics] = found["results"].values()
    assert metrics["fve_stderr,none"] == pytest.approx(0.1 / 1.9801, rel=1e-4)  # t of 119 degrees, 120 documents
    assert metrics["l0_stderr,none"] == "N/A"


def test_names_of_a_stranger_stay_in_the_folder(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "demo", [record("../../up", cell={"organism": "../x", "tier": "a b/c"})])
    files = export_runs([folder], tmp_path / "out", Wanted("lm-eval"))
    assert all(path.resolve().is_relative_to(tmp_path / "out") for path in files)


# --- inspect ---------------------------------------------------------------------------------------------------------


def verdict(question: Any, answer: Any, state: str = "ok", **changes: Any) -> Verdict:
    problem = None if state == "ok" else "words, no JSON"
    parts = {"raw": "{}", "usage": Usage(calls=1, tokens_in=7, tokens_out=2, cost=0.0)} | changes
    key = question_key(question)
    return Verdict(
        question=key, kind=question.kind, judge={"judge": "x"}, state=state, answer=answer, problem=problem, **parts
    )


def test_samples_are_scored_where_the_right_answer_is_known() -> None:
    contexts = (("a", "b"), ("a", "c"), (HOSTILE,), ("d",))
    detect = Detect(explanation="after a", contexts=contexts)
    odd = Intrude(contexts=tuple(Marked(tokens=tokens, marked=(0,)) for tokens in contexts))
    said = Marks(marks=(True, True, False, True))
    about: dict[str, Any] = {"rank": 1, "component": 4}
    asked = [
        (Trial(test="detection", right=(1, 0, 0, 1), verdict=verdict(detect, said), **about), detect),
        (Trial(test="intruder", right=(2,), verdict=verdict(odd, Pick(pick=2)), **about), odd),
        (Trial(test="intruder", right=(1,), verdict=verdict(odd, Pick(pick=2)), **about), odd),
        (Trial(test="intruder", right=(1,), verdict=verdict(odd, None, "malformed"), **about), odd),
        (Trial(test="summary", verdict=verdict(odd, Pick(pick=0))), None),
    ]
    log = json.loads(json.dumps(_log(record("pca"), asked)))
    found = log["samples"]
    assert [one["scores"] and one["scores"]["diffbench"]["value"] for one in found] == [0.75, "C", "I", None, None]
    assert found[0]["target"] == "yes, no, no, yes" and found[1]["target"] == "2"
    assert found[3]["error"]["message"] == "malformed: words, no JSON" and found[0]["error"] is None
    assert len({one["id"] for one in found}) == 5 == log["results"]["total_samples"]
    assert log["results"]["completed_samples"] == 4 and log["version"] == 2
    assert log["stats"]["model_usage"]["diffbench/ngram"] == {
        "input_tokens": 14, "output_tokens": 4, "total_tokens": 18
    }  # fmt: skip
    assert json.loads(found[0]["input"][0]["content"])["contexts"][2] == [HOSTILE]
    assert "does not lead to" in found[4]["input"][0]["content"]
    [detection] = (one for one in log["results"]["scores"] if one["name"] == "detection")
    assert detection["metrics"]["score"]["value"] == 0.81


# --- Neuronpedia -----------------------------------------------------------------------------------------------------

VECTORS = Wanted("neuronpedia", model_id="tinyworld", top=2)


def dictionary_cell(folder: Path, decoder: torch.Tensor) -> Record:
    """A cell that keeps a crosscoder whose tuned decoders are these, over base decoders of ones."""
    item = record("crosscoder-l1")
    cell = folder / CELLS / cell_folder_name(item.cell, item.key)
    (cell / "diff").mkdir(parents=True)
    n, width = decoder.shape
    found = (Finding(rank=1, component=2, score=1.0, text=HOSTILE), Finding(rank=2, component=0, score=0.5))
    diff = DictionaryDiff(
        layer=1, input="both", activation="relu", encoder=torch.ones(n, 2 * width), encoder_bias=torch.zeros(n),
        decoder_base=torch.ones(n, width), decoder_tuned=decoder, bias_base=torch.zeros(width),
        bias_tuned=torch.zeros(width), order=torch.tensor([2, 0, 1]), findings=found,
    )  # fmt: skip
    save_diff(diff, cell / "diff")
    digests = {path.name: file_digest(path) for path in (cell / "diff").iterdir()}
    item = item.model_copy(update={"hashes": item.hashes.model_copy(update={"diff": digests})})
    item.write(cell / RECORD_FILE)
    return item


def test_vectors_of_another_width_than_the_model_has_are_refused_and_others_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_run(tmp_path / "demo", [])
    item = dictionary_cell(folder, torch.tensor([[1.0, 5.0], [2.0, 2.0], [4.0, 5.0]]))
    with pytest.raises(
        OptionError, match="gemma-2-2b: its residual stream has width 2304, and halfswap crosscoder-l1 s0 2"
    ):
        export_runs([folder], tmp_path / "out", Wanted("neuronpedia", model_id="gemma-2-2b", top=2))
    assert not (tmp_path / "out").exists()
    export_runs([folder], tmp_path / "out", VECTORS)
    [entry, _] = json.loads((tmp_path / "out" / "vectors.index.json").read_text())["vectors"]
    assert (entry["width"], entry["base"]) == (2, item.hashes.base)
    assert entry["note"].startswith("width 2, of the pair halfswap (base model ") and "tinyworld" in entry["note"]
    assert [line.message for line in caplog.records] == [entry["note"]]


def test_vectors_are_bodies_of_uploads(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "demo", [])
    with_diff(folder, record("pca"))
    dictionary_cell(folder, torch.tensor([[1.0, 5.0], [2.0, 2.0], [4.0, 5.0]]))
    export_runs([folder], tmp_path / "out", VECTORS)
    bodies = [json.loads(line) for line in (tmp_path / "out" / "vectors.jsonl").read_text().splitlines()]
    entries = json.loads((tmp_path / "out" / "vectors.index.json").read_text())["vectors"]
    assert [(entry["method"], entry["component"]) for entry in entries] == [
        ("crosscoder-l1", 2), ("crosscoder-l1", 0), ("pca", 0), ("pca", 1)
    ]  # fmt: skip
    assert bodies[0]["vector"] == pytest.approx([0.6, 0.8]) and entries[0]["norm"] == 5.0
    assert bodies[1]["vector"] == [0.0, 1.0] and bodies[2]["vector"] == [0.0, 0.0, 1.0, 0.0]
    for body in bodies:
        assert set(body) == {
            "modelId", "layerNumber", "hookType", "vector", "vectorDefaultSteerStrength", "vectorLabel"
        }  # fmt: skip
        assert (body["modelId"], body["layerNumber"], body["hookType"]) == ("tinyworld", 1, "hook_resid_post")
        assert body["vectorDefaultSteerStrength"] == 10.0 and len(body["vectorLabel"]) <= 200
    assert "\n" not in bodies[0]["vectorLabel"] and "+ green <b>; - blue" in bodies[2]["vectorLabel"]


@pytest.mark.parametrize("value, word", [(float("nan"), "not finite"), (float("inf"), "not finite"), (1.0, "zero")])
def test_a_vector_that_is_none_is_refused_by_name(value: float, word: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "demo", [])
    dictionary_cell(folder, torch.tensor([[value, 1.0], [2.0, 2.0], [4.0, 5.0]]))
    with pytest.raises(DiffError, match=f"halfswap crosscoder-l1 s0: component 0: its vector is {word}"):
        export_runs([folder], tmp_path / "out", VECTORS)
    assert not (tmp_path / "out").exists()
    assert export_runs([folder], tmp_path / "out", Wanted("neuronpedia", model_id="m", top=1))


def test_a_diff_that_is_not_what_was_scored_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "demo", [])
    item = with_diff(folder, record("pca"))
    cell = folder / CELLS / cell_folder_name(item.cell, item.key)
    (cell / "diff" / "diff.json").write_text((cell / "diff" / "diff.json").read_text() + " ")
    with pytest.raises(RecordError, match="missing or changed since it was scored"):
        export_runs([folder], tmp_path / "out", VECTORS)
    with pytest.raises(OptionError, match="at least 1, got 0"):
        export_runs([folder], tmp_path / "out", Wanted("neuronpedia", model_id="m", top=0))


def test_forms_are_told_in_help_and_unknown_ones_refused(demo: Path, tmp_path: Path) -> None:
    words = " ".join(CliRunner().invoke(main, ["export", "--help"]).output.split())
    assert all(form in words for form in FORMATS)
    with pytest.raises(UnknownName):
        export_runs([demo], tmp_path / "out", Wanted("csv"))
    assert issubclass(UnknownName, DiffbenchError) and read_run(demo).records
