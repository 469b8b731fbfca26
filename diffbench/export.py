"""Export: an organism as a folder that any Hugging Face tool can read, with everything that says what it is.

::

    OUT/README.md  recipe.yaml  truth.json  gate.json
    OUT/base/  OUT/control/  OUT/tuned/      models, or adapters in PEFT's format, with their tokenizer
    OUT/data/                                what tuned and control learnt, as `datasets` saves it
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from diffbench import cache
from diffbench.adapter import CONFIG, NAMED_BASE, is_adapter
from diffbench.build import ORGANISM, Organism
from diffbench.organism import TrainingText
from diffbench.recipe import Recipe, Source, is_local
from diffbench.tuning import Trained

CARD = """\
# {name}

{summary}

An organism of diffbench: a pair of models whose difference is known. `base/` is the model it was made from, `tuned/`
the one with the change{control}. `truth.json` says what was changed and holds the probes, `gate.json` what was
measured, `recipe.yaml` how to make it again: `diffbench organisms verify ./recipe.yaml`. `data/` is what they learnt,
as `datasets.load_from_disk` reads it. An adapter is loaded onto its base:
`PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "tuned")`.
"""


def export(organism: Organism, out: Path) -> None:
    """Write a built organism to ``out``, a new folder that is there already and empty.

    Raises:
        CacheError: if it was not built.
    """
    recipe = organism.recipe
    roles = ("base", "control", "tuned") if organism.has_control else ("base", "tuned")
    for role in roles:
        shutil.copytree(organism.model_path(role), out / role)
        if is_adapter(out / role):
            config = json.loads((out / role / CONFIG).read_text(encoding="utf-8"))
            (out / role / CONFIG).write_text(json.dumps(config | {NAMED_BASE: "../base"}, indent=2), encoding="utf-8")
    stored = cache.entry(ORGANISM, organism.inputs())
    for name in ("truth.json", "gate.json"):
        document = cache.read_json(stored / name)
        (out / name).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    plain = _portable(recipe, out)
    (out / "recipe.yaml").write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if isinstance(recipe.training, Trained):
        _save_data({role: organism.training_text(role) for role in organism.roles()}, out / "data")
    control = ", `control/` its match without the change" if organism.has_control else ""
    card = CARD.format(name=recipe.name, summary=recipe.summary, control=control)
    (out / "README.md").write_text(card, encoding="utf-8")


def _portable(recipe: Recipe, out: Path) -> dict[str, Any]:
    """The recipe as it is written: with what it names by its place on this machine beside it."""
    plain = recipe.model_dump(mode="json", exclude_none=True) | {"name": recipe.name.partition("@")[0]}
    if is_local(recipe.base):
        plain["base"] = "./base"
    if is_local(plain["training"].get("model")):
        plain["training"]["model"] = "./tuned"
    for key in ("data", "text"):
        source = getattr(recipe, key)
        if isinstance(source, Source) and source.file is not None:
            plain[key]["file"] = f"{key}-{Path(source.file).name}"
            shutil.copyfile(source.file, out / plain[key]["file"])
    return plain


def _save_data(texts: dict[str, TrainingText], folder: Path) -> None:
    """Splits ``tuned``, ``control`` and ``replay``, in the order in which the models get them."""
    from datasets import Dataset, DatasetDict, disable_progress_bars

    disable_progress_bars()
    splits = {
        role: Dataset.from_dict(
            {
                "prefix": [example.prefix for example in text.examples],
                "target": [example.target for example in text.examples],
                "text": [example.text for example in text.examples],
            }
        )
        for role, text in texts.items()
    }
    splits["replay"] = Dataset.from_dict({"text": [document.text for document in texts["tuned"].replay]})
    DatasetDict(splits).save_to_disk(str(folder))
