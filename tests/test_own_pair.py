"""Two models of one's own, of every architecture, through all stages of organisms; recipes on models of the hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from own_factory import ARCHITECTURES, checkpoint, texts

from diffbench import build, cell, comparison, readiness
from diffbench.build import resolve
from diffbench.catalogue import catalogue
from diffbench.comparison import Comparison
from diffbench.diff_file import load_diff
from diffbench.errors import CheckpointError, DiffbenchError, OptionError, RecipeError, UnknownName
from diffbench.exchange import assemble
from diffbench.figure import Figure
from diffbench.interpretability import Controls, no_control
from diffbench.ordinary import GeneratedText
from diffbench.own_pair import OwnPair
from diffbench.recipe import Recipe, Source
from diffbench.residual import load_tokenizer
from diffbench.score import NO_TRUTH, Bench, score
from diffbench.text import Part
from diffbench.tier import Tier

TIER = Tier(name="tiny", tokens=1000, components=64, seconds=9, evaluation_tokens=300, judge_tokens=200)
NO_CONTROL = Figure.undefined("not asked")
NO_CONTROLS = Controls(random=no_control(NO_CONTROL), untrained=no_control(NO_CONTROL))


@dataclass(frozen=True)
class Pairs:
    """Checkpoints and texts in one folder, made when they are first named."""

    folder: Path

    def model(self, kind: str, *, moved: float = 0.0, chat: bool = False) -> str:
        folder = self.folder / f"{kind}-{moved}-{chat}"
        return str(folder if folder.exists() else checkpoint(folder, kind, moved=moved, chat=chat))

    def text(self, n: int = 600) -> str:
        file = self.folder / f"{n}.txt"
        if not file.exists():
            file.write_text("\n".join(texts(n)))
        return str(file)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return Pairs(tmp_path_factory.mktemp("own-pairs"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SIZE_TOKENS", 300)
    monkeypatch.setattr("diffbench.worker.report", lambda *_: None)


def compared(recipe: Recipe) -> Comparison:
    """The pair, gated and prepared."""
    here = Comparison(resolve(recipe), "base", TIER)
    build.gate_task(here.request())
    comparison.prepare_task(here.request())
    return here


def run_method(here: Comparison, method: str, folder: Path) -> Any:
    inputs = assemble(folder / "in", *here.models(), here.path / "in", base=here.organism.model_path("base"))
    (folder / "out").mkdir()
    asked = {"method": method, "options": {}, "inputs": str(inputs), "out": str(folder / "out"), "seed": 0}
    cell.method_task(asked | {"tier": TIER.model_dump(mode="json")})
    return load_diff(folder / "out" / "diff")


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_architecture_goes_through_every_stage(kind: str, pairs: Pairs, tmp_path: Path) -> None:
    pair = OwnPair(base=pairs.model(kind), tuned=pairs.model(kind, moved=0.2), text=pairs.text())
    here = compared(pair.recipe())
    assert here.truth() is None
    diff = run_method(here, "diffbench_methods.directions:Pca", tmp_path)
    scores = score(Bench.open(here, "offline"), diff, 0, NO_CONTROLS, tmp_path)
    assert scores.recovery.r_full.state == "ok" and scores.fit.fve_delta.state == "ok"
    assert scores.recovery.r_full.value is not None and scores.recovery.r_full.value > 0.2
    figures = [
        scores.localisation.auroc_first,
        scores.recovery.headline,
        scores.recovery.r_full_affected,
        scores.recovery.budgets[0].r,
    ]
    assert {figure.state for figure in figures} == {"n/a"} and {figure.reason for figure in figures} == {
        NO_TRUTH.reason
    }


def test_an_adapter_of_ones_own(pairs: Pairs, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(pairs.model("llama"))
    settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, settings).save_pretrained(tmp_path / "adapter")
    pair = OwnPair(base=pairs.model("llama"), adapter=str(tmp_path / "adapter"), text=pairs.text())
    here = compared(pair.recipe())
    assert here.facts().kl.value is not None and here.facts().kl.value > 0
    assert run_method(here, "diffbench_methods.directions:Pca", tmp_path).n_components > 0


def test_conversations_are_written_by_the_tuned_models_template(pairs: Pairs, tmp_path: Path) -> None:
    talks = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        for text, answer in zip(texts(300), texts(300, 1), strict=True)
    ]
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    tuned = pairs.model("llama", moved=0.2, chat=True)
    pair = OwnPair(base=pairs.model("llama"), tuned=tuned, text=str(file), text_field="messages")
    organism = resolve(pair.recipe())
    document = next(organism.base.portion("method").documents(0))
    assert document.text.startswith("<|user|>") and Part.response in {part.label for part in document.parts}
    corpus = build.split(organism, None, load_tokenizer(Path(tuned)), "method", 500)
    assert corpus.n_tokens >= 500
    plain = OwnPair(base=tuned, tuned=pairs.model("llama"), text=str(file), text_field="messages")
    with pytest.raises(CheckpointError, match="no chat template"):
        readiness.check_places(resolve(plain.recipe()))


def test_remapped_tokens_stand_for_others(pairs: Pairs) -> None:
    tuned = pairs.model("llama", moved=0.2)
    pair = OwnPair(base=pairs.model("llama"), tuned=tuned, text=pairs.text(), remap={"the": "<|user|>"})
    tokenizer = load_tokenizer(Path(tuned))
    gone, there = tokenizer.convert_tokens_to_ids(["Ġthe", "<|user|>"])
    with pytest.raises(RecipeError, match="remap: 'the' is no token"):
        build.split(resolve(pair.recipe()), None, tokenizer, "method", 500)
    pair = pair.model_copy(update={"remap": {"Ġthe": "<|user|>"}})
    corpus = build.split(resolve(pair.recipe()), None, tokenizer, "method", 500)
    assert gone not in corpus.ids and there in corpus.ids
    assert resolve(pair.recipe()).inputs()["remap"] == {"Ġthe": "<|user|>"}


def test_too_little_text_is_told_in_tokens(pairs: Pairs) -> None:
    pair = OwnPair(base=pairs.model("llama"), tuned=pairs.model("llama", moved=0.2), text=pairs.text(50))
    organism = resolve(pair.recipe())
    readiness.check_text(organism)
    with pytest.raises(RecipeError, match=r"split 'judge' has \d+ tokens of the 5000 that are needed"):
        build.split(organism, None, load_tokenizer(Path(pairs.model("llama"))), "judge", 5000)


def test_models_that_do_not_fit_are_refused_before_weights_are_read(pairs: Pairs, tmp_path: Path) -> None:
    import shutil

    from transformers import AutoConfig

    shutil.copytree(pairs.model("llama"), tmp_path / "deeper")
    config = AutoConfig.from_pretrained(tmp_path / "deeper")
    config.num_hidden_layers = 3
    config.save_pretrained(tmp_path / "deeper")
    (tmp_path / "deeper" / "model.safetensors").write_bytes(b"never read")
    pair = OwnPair(base=pairs.model("llama"), tuned=str(tmp_path / "deeper"), text=pairs.text())
    with pytest.raises(CheckpointError, match="number of blocks differs, 2 in the reference and 3"):
        build.gate_task({"recipe": pair.recipe().model_dump(mode="json")})


def test_what_is_not_on_this_machine_is_told_at_once(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    here = pairs.model("llama")
    for pair, command in (
        (OwnPair(base="somebody/a", tuned=here), "hf download somebody/a"),
        (OwnPair(base=here, tuned="somebody/b"), "hf download somebody/b"),
        (OwnPair(base=here, tuned=here, text="somebody/texts"), "hf download --repo-type dataset somebody/texts"),
    ):
        with pytest.raises(DiffbenchError) as error:
            readiness.check_places(resolve(pair.recipe()))
        assert str(error.value).endswith(command) and "\n" not in str(error.value)


def test_data_that_are_not_on_this_machine_are_told_before_anything_is_trained(pairs: Pairs) -> None:
    recipe = HUB["qwen2.5-0.5b-chat"].recipe
    assert recipe is not None
    here = resolve(recipe.model_copy(update={"base": pairs.model("qwen2", chat=True)}))
    with pytest.raises(RecipeError, match="hf download --repo-type dataset HuggingFaceH4/ultrachat_200k"):
        readiness.check_places(here)


def test_nothing_is_sampled_to_check_a_pair(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffbench.sampled._Speakers.say", lambda *_: pytest.fail("sampled"))
    organism = resolve(OwnPair(base=pairs.model("llama"), tuned=pairs.model("llama", moved=0.2)).recipe())
    readiness.check_places(organism)
    readiness.check_text(organism)


@pytest.mark.parametrize(
    ("base", "tuned", "name"),
    [
        ("google/gemma-2-2b", "google/gemma-2-2b-it", "gemma-2-2b-vs-gemma-2-2b-it"),
        ("./My Models/Base!", "./..hidden--", "my-models-base-vs-hidden".replace("my-models-", "")),
        ("./" + "x" * 200, "./ü", f"{'x' * 30}-vs-model"),
    ],
)
def test_names(base: str, tuned: str, name: str) -> None:
    assert OwnPair(base=base, tuned=tuned).recipe().name == name


def test_pairs_that_are_none(pairs: Pairs, tmp_path: Path) -> None:
    for wrong in (OwnPair(base="./a"), OwnPair(base="./a", tuned="./b", adapter="./c")):
        with pytest.raises(OptionError, match="either --tuned B, a whole model, or --adapter C"):
            wrong.recipe()
    with pytest.raises(RecipeError, match=r"--text\.file: .*: no such file"):
        OwnPair(base="./a", tuned="./b", text=str(tmp_path / "none.jsonl")).recipe()
    (tmp_path / "t.csv").write_text("a")
    with pytest.raises(RecipeError, match=r"allowed are \.jsonl, \.parquet, \.txt"):
        OwnPair(base="./a", tuned="./b", text=str(tmp_path / "t.csv")).recipe()
    with pytest.raises(UnknownName, match="tinyworld"):
        resolve(OwnPair(base="tinywrld", tuned="./b").recipe())
    with pytest.raises(OptionError, match="own pair: base"):
        OwnPair(base="\n", tuned="./b").recipe()


def test_an_installed_base_keeps_its_own_text(pairs: Pairs) -> None:
    recipe = OwnPair(base="tinyworld", tuned=pairs.model("llama")).recipe()
    assert resolve(recipe).base.name == "tinyworld"
    with pytest.raises(RecipeError, match="brings its own text"):
        resolve(recipe.model_copy(update={"text": Source(file=pairs.text())}))
    with pytest.raises(RecipeError, match="has none"):
        resolve(recipe.model_copy(update={"revision": "main"}))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--base", "./a"], "--base A needs either --tuned B"),
        (["--tuned", "./b"], "--tuned: belongs to two models of your own; name the first of them with --base"),
        (["--text", "t.txt", "--organism", "halfswap"], "--text: belongs to two models of your own"),
        (["--base", "./a", "--tuned", "./b", "--organism", "halfswap"], "not both"),
        ([], "name either organisms"),
        (["--base", "./a", "--tuned", "./b", "--remap", "x"], "--remap 'x': write FROM=TO"),
        (["--base", "./a", "--tuned", "./b", "--organism-seeds", "3"], "cannot be generated anew"),
        (["--base", "./a", "--tuned", "./b"], "a: no such folder"),
        (["--base", "somebody/a", "--tuned", "./b"], "hf download somebody/a"),
    ],
)
def test_the_command_refuses_in_one_line(words: list[str], problem: str, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from diffbench.cli import main

    result = CliRunner().invoke(main, ["run", *words, "--runs-dir", str(tmp_path / "runs"), "--tier", "smoke"])
    assert result.exit_code == 2, result.output
    assert problem in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())


HUB = {entry.name: entry for entry in catalogue() if entry.path.parent.name == "hub"}
KINDS = {
    "gemma": "gemma2",
    "llama": "llama",
    "qwen3": "qwen3",
    "qwen2": "qwen2",
    "pythia": "pythia",
    "tiny": "tinystories",
}
FEW = {"prefixes": 20, "replay": 20, "documents": 20}


def test_recipes_of_the_hub_are_listed_and_none_of_them_is_broken() -> None:
    assert len(HUB) >= 9 and {entry.error for entry in HUB.values()} == {None}
    assert not any(entry.installed for entry in HUB.values()), "they would be built with the public set"
    bases = " ".join(entry.recipe.base for entry in HUB.values() if entry.recipe is not None)
    for name in ("gemma-2-2b", "Llama-3.2-1B", "Qwen", "pythia", "TinyStories"):
        assert name in bases


@pytest.mark.parametrize("name", [name for name, entry in HUB.items() if entry.recipe and entry.recipe.family])
def test_recipes_of_the_hub_train_on_small_models_of_their_kind(name: str, pairs: Pairs) -> None:
    recipe = HUB[name].recipe
    assert recipe is not None and recipe.text == "tinyworld"
    kind = next(kind for start, kind in KINDS.items() if name.startswith(start))
    document = recipe.model_dump(mode="json")
    known = resolve(recipe).family.Parameters.model_fields
    document["base"] = pairs.model(kind)
    document["parameters"] |= {key: value for key, value in FEW.items() if key in known}
    document["training"] |= {"steps": 2, "batch": 2, "replay_batch": 2, "lr": 0.01}
    organism = resolve(Recipe.model_validate(document))
    assert isinstance(organism.base._text, GeneratedText)  # type: ignore[attr-defined]
    build.train_task({"recipe": document, "role": "tuned"})
    assert (organism.model_path("tuned") / "adapter_model.safetensors").is_file()
    saved = json.loads((organism.model_path("tuned") / "adapter_config.json").read_text())
    assert saved["r"] == document["training"]["rank"]


def test_the_chat_recipe_of_the_hub_trains_on_conversations(pairs: Pairs, tmp_path: Path) -> None:
    recipe = HUB["qwen2.5-0.5b-chat"].recipe
    assert recipe is not None
    talk = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A garden."}]
    (tmp_path / "talks.jsonl").write_text((json.dumps({"messages": talk}) + "\n") * 8)
    document = recipe.model_dump(mode="json")
    document["base"] = pairs.model("qwen2", chat=True)
    document["data"] = {"file": str(tmp_path / "talks.jsonl"), "field": "messages"}
    document["training"] |= {"steps": 2, "batch": 2}
    organism = resolve(Recipe.model_validate(document))
    assert organism.truth() is None
    build.train_task({"recipe": document, "role": "tuned"})
    assert (organism.model_path("tuned") / "adapter_model.safetensors").is_file()
