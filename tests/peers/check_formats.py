"""Load and save dictionaries with the libraries whose formats diffbench reads and writes; run by their own Python.

::

    python check_formats.py WORK

WORK/plan.json is a list of {library, action, kind, folder}; WORK/x.safetensors holds ``one`` [T, d] and ``both``
[T, 2, d]. ``load`` reads WORK/folder, which diffbench exported; ``save`` makes a random dictionary and saves it there
as the library does. Either way WORK/folder.safetensors gets what the library computes: ``f`` and ``hat``. Done cases
are listed in WORK/done.json, each with the version of the library; a case whose library is not installed is not.

This file imports nothing of diffbench: the libraries do not fit into one environment with it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

D, N, K, LAYER = 24, 40, 6, 3
Output = tuple[Tensor, Tensor]


def randomise(module: Any, seed: int) -> Any:
    """Every parameter anew, thresholds positive."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = torch.randn(parameter.shape, generator=draw) / max(parameter.shape[-1] ** 0.5, 2.0)
            parameter.copy_(values.abs() if "threshold" in name else 2 * values)
    return module


def fitting(function: Any, **values: Any) -> Any:
    """Call with those arguments that this version of the library knows."""
    known = inspect.signature(function).parameters
    return function(**{name: value for name, value in values.items() if name in known})


def saelens_load(folder: Path, kind: str, x: dict[str, Tensor]) -> Output:
    from sae_lens import SAE

    sae = SAE.load_from_disk(str(folder))
    assert sae.cfg.architecture() == kind, sae.cfg.architecture()
    return sae.encode(x["one"]), sae(x["one"])


def saelens_save(folder: Path, kind: str, x: dict[str, Tensor]) -> Output:
    from sae_lens import SAE, saes
    from sae_lens.saes import batchtopk_sae, topk_sae

    metadata = saes.sae.SAEMetadata(hook_name=f"blocks.{LAYER}.hook_resid_post")
    common = {"d_in": D, "d_sae": N, "metadata": metadata, "apply_b_dec_to_input": not kind.endswith("plain")}
    if kind == "batchtopk":
        trained: Any = batchtopk_sae.BatchTopKTrainingSAE(batchtopk_sae.BatchTopKTrainingSAEConfig(k=K, **common))
        randomise(trained, 1).topk_threshold.fill_(0.7)
        trained.save_inference_model(str(folder))
    elif kind == "topk trained":
        trained = topk_sae.TopKTrainingSAE(topk_sae.TopKTrainingSAEConfig(k=K, **common))
        randomise(trained, 2).save_inference_model(str(folder))
    else:
        name = kind.removesuffix(" plain")
        config = {"standard": "StandardSAE", "jumprelu": "JumpReLUSAE", "topk": "TopKSAE", "rescaled": "TopKSAE"}[name]
        extra = {"k": K, "rescale_acts_by_decoder_norm": name == "rescaled"} if config == "TopKSAE" else {}
        sae: Any = getattr(saes, config)(getattr(saes, config + "Config")(**common, **extra))
        randomise(sae, 3).save_model(str(folder))
    loaded = SAE.load_from_disk(str(folder))
    return loaded.encode(x["one"]), loaded(x["one"])


def dictionary_learning_save(folder: Path, kind: str, x: dict[str, Tensor]) -> Output:
    from dictionary_learning import dictionary, trainers
    from dictionary_learning.trainers import matryoshka_batch_top_k  # 0.1.0 does not export it

    if kind == "AutoEncoderNew":
        model, config = randomise(dictionary.AutoEncoderNew(D, N), 4), {"dict_class": kind, "layer": LAYER}
        config |= {"trainer_class": "StandardTrainer", "submodule_name": f"resid_post_layer_{LAYER}"}
    else:
        values = {"steps": 100_000, "activation_dim": D, "dict_size": N, "k": K, "layer": LAYER, "lm_name": "model"}
        values |= {"device": "cpu", "submodule_name": f"resid_post_layer_{LAYER}", "group_fractions": [0.25, 0.75]}
        trainer = fitting(getattr(trainers, kind, None) or matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer, **values)
        model, config = randomise(trainer.ae, 5), trainer.config
        if "BatchTopK" in kind:
            model.threshold = torch.tensor(0.4)
    torch.save({name: value.cpu() for name, value in model.state_dict().items()}, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": config}, indent=4))
    return model.encode(x["one"]), model(x["one"])


def crosscoder(kind: str) -> Any:
    """A random dictionary of crosscoder_learning with the normaliser that training would have measured."""
    from dictionary_learning import dictionary

    name, normalisation = kind.split()[:2]
    draw = torch.Generator().manual_seed(6)
    shape = (D,) if name == "BatchTopKSAE" else (2, D)
    mean, deviation = torch.randn(shape, generator=draw), torch.rand(shape, generator=draw) + 0.2
    values: dict[str, Any] = {"activation_dim": D, "dict_size": N, "target_rms": 3.0}
    values |= {} if name == "BatchTopKSAE" else {"num_layers": 2, "code_normalization": normalisation}
    values |= {} if name == "CrossCoder" else {"k": K}
    if not kind.endswith("raw"):
        values |= {"activation_mean": mean, "activation_std": deviation}
    if normalisation == "MIXED":
        values |= {"code_normalization_alpha_sae": 0.7, "code_normalization_alpha_cc": 0.2}
    model = randomise(getattr(dictionary, name)(**values), 7)
    if name != "CrossCoder":
        model.threshold = torch.tensor(0.9)
    return model


def crosscoder_learning_save(folder: Path, kind: str, x: dict[str, Tensor]) -> Output:
    from dictionary_learning import dictionary

    model, name = crosscoder(kind), kind.split()[0]
    model.save_pretrained(str(folder))
    loaded = getattr(dictionary, name).from_pretrained(str(folder), from_hub=True)
    rows = x["one" if name == "BatchTopKSAE" else "both"]
    return loaded.encode(rows), loaded(rows)


def crosscoder_learning_load(folder: Path, kind: str, x: dict[str, Tensor]) -> Output:
    from dictionary_learning import dictionary

    model = getattr(dictionary, kind).from_pretrained(str(folder), from_hub=True)
    return model.encode(x["both"]), model(x["both"])


def version(library: str) -> str | None:
    """The version of an installed library, None where there is none."""
    module, distribution = {"saelens": ("sae_lens", "sae-lens")}.get(library, ("dictionary_learning",) * 2)
    try:
        importlib.import_module(module)
        crosscoders = hasattr(importlib.import_module("dictionary_learning.dictionary"), "BatchTopKCrossCoder")
    except ImportError:
        if module == "dictionary_learning" or importlib.util.find_spec(module) is None:
            return None
        crosscoders = False
    # Two projects share this module's name; what they hold tells them apart.
    if module == "dictionary_learning" and crosscoders != (library == "crosscoder_learning"):
        return None
    return importlib.metadata.version(distribution) if library != "crosscoder_learning" else "from its repository"


def main(work: Path) -> None:
    """Do every case whose library is installed."""
    plan = json.loads((work / "plan.json").read_text())
    x = load_file(work / "x.safetensors")
    versions = {library: version(library) for library in sorted({case["library"] for case in plan})}
    done = []
    for case in plan:
        if versions[case["library"]] is None:
            continue
        folder = work / case["folder"]
        folder.mkdir(exist_ok=True)
        with torch.no_grad():
            f, hat = globals()[f"{case['library']}_{case['action']}"](folder, case["kind"], x)
        save_file({"f": f.contiguous(), "hat": hat.contiguous()}, work / f"{case['folder']}.safetensors")
        done.append({"folder": case["folder"], "version": versions[case["library"]]})
    (work / "done.json").write_text(json.dumps(done))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
