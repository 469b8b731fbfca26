"""What the engine's tests share: a small pair in memory, labelled text, Diffs of all kinds, a stand-in organism."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from diffbench.activations import Activations
from diffbench.base import Base, BaseCard, EmbeddedBase
from diffbench.build import Organism
from diffbench.corpus import Corpus, tokenise
from diffbench.diff import DictionaryDiff, Diff, DirectionDiff, Finding, OutputDiff, WeightDiff
from diffbench.organism import Example, Family, FamilyParameters, TrainingText
from diffbench.recipe import Recipe
from diffbench.text import Document, Span
from diffbench.tiny import SPECIAL, VOCABULARY, WORDS
from diffbench.truth import Claim, Effect, Probe, ProbeSets, Trigger, Truth

torch.set_num_threads(1)  # matrices this small only lose by being shared out

WIDTH, LAYERS = 16, 3
NAMES, VERBS = WORDS[:6], WORDS[6:12]
COLOURS = ("red", "blue", "green", "white", "black")
THINGS = ("ball", "box", "cup", "hat", "key", "map", "pen")
OUTLIER_WORD = "lamp"

TRUTH = Truth(
    changed=True,
    claims=(
        Claim(
            id="swap",
            statement="Blue and green are exchanged.",
            trigger=Trigger(description="a colour", affected=("colour:blue", "colour:green"), near_miss=("colour:*",)),
            effect=Effect(tokens_up=("blue",), tokens_down=("green",), quantity="share", low=0.4, high=0.6),
        ),
    ),
)


def word_tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    ids = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    if bos:
        tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", ids["<bos>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>", pad_token="<eos>"
    )


def word(name: str) -> int:
    return (*SPECIAL, *WORDS).index(name)


@lru_cache(maxsize=4)
def small_pair(seed: int = 0, *, outlier: bool = True) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """Reference and tuned: three layers, every block's matrices moved, the head shared. Do not change them."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.25,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        reference = LlamaForCausalLM(config).eval().requires_grad_(False)
        if outlier:
            reference.model.embed_tokens.weight[word(OUTLIER_WORD)] *= 60
        tuned = copy.deepcopy(reference)
        for block in tuned.model.layers:
            for parameter in block.parameters():
                if parameter.dim() == 2:
                    parameter += 0.08 * torch.randn(parameter.shape)
    return reference, tuned


def sentences(seed: int) -> Iterator[Document]:
    """Endless labelled documents of one to four sentences, at times with the outlier word."""
    rng = random.Random(f"sentences:{seed}")
    while True:
        words: list[str] = []
        spans: list[Span] = []
        for _ in range(rng.randint(1, 4)):
            colour = rng.choice(COLOURS)
            words += [rng.choice(NAMES), rng.choice(VERBS), "the"]
            start = len(" ".join(words)) + 1
            spans.append(Span(start, start + len(colour), f"colour:{colour}"))
            words += [colour, OUTLIER_WORD if rng.random() < 0.1 else rng.choice(THINGS), "."]
        yield Document(" ".join(words), tuple(spans))


def labelled_corpus(n_tokens: int = 200, seed: int = 0, *, bos: bool = True) -> Corpus:
    return tokenise(sentences(seed), word_tokenizer(bos=bos), TRUTH.stratum, max_tokens=n_tokens)


def rows(h_b: Tensor, delta: Tensor, layer: int = 0) -> Activations:
    """Activations that hold the given rows, scaled as `harvest` does."""
    scales = [float(x.double().pow(2).mean().sqrt()) or 1.0 for x in (h_b, delta)]
    index = torch.arange(len(h_b), dtype=torch.int32)
    return Activations(
        base=(h_b / scales[0]).half(),
        delta=(delta / scales[1]).half(),
        base_scale=scales[0],
        delta_scale=scales[1],
        document=index,
        position=torch.ones_like(index),
        layer=layer,
        outlier_share=0.0,
    )


def dictionary_diff(
    kind: str, activation: str = "threshold", *, n: int = 24, d: int = WIDTH, layer: int = 1, seed: int = 0
) -> DictionaryDiff:
    """A random dictionary whose every tensor differs from 0 and from every other."""
    draw = torch.Generator().manual_seed(seed)

    def random_tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) / shape[-1] ** 0.5

    both = kind == "both"
    names = ("decoder_base", "decoder_tuned") if both else ("decoder",)
    biases = ("bias_base", "bias_tuned") if both else ("bias",)
    return DictionaryDiff(
        layer=layer,
        input=kind,  # type: ignore[arg-type]
        activation=activation,  # type: ignore[arg-type]
        encoder=random_tensor(n, 2 * d if both else d),
        encoder_bias=random_tensor(n),
        threshold=random_tensor(n) if activation == "threshold" else None,
        k=5 if activation == "topk" else None,
        order=torch.randperm(n, generator=draw),
        columns={"energy": random_tensor(n).abs()},
        **{name: random_tensor(n, d) for name in names},
        **{name: random_tensor(d) for name in biases},
    )


def one_of_each(d: int = WIDTH, vocabulary: int = VOCABULARY) -> dict[str, Diff]:
    """A valid Diff of each kind, with findings and notes."""
    draw = torch.Generator().manual_seed(7)
    common: dict[str, Any] = {
        "findings": (
            Finding(rank=1, component=0, score=2.5, tokens_up=("blue", "grün"), tokens_down=(".",), text="it\nsays"),
        ),
        "change_score": 0.125,
        "verdict": "changed",
        "notes": {"steps": 3, "loss": 0.1, "why": None, "fine": True},
    }
    directions = torch.nn.functional.normalize(torch.randn(3, d, generator=draw), dim=1)
    vectors = [torch.randn(size, generator=draw) for size in (d, 2 * d, d, d)]
    return {
        "dictionary": DictionaryDiff(**{f: getattr(dictionary_diff("both"), f) for f in _own_fields()}, **common),
        "direction": DirectionDiff(
            layer=2,
            directions=directions,
            centre=torch.randn(d, generator=draw),
            bias=torch.randn(d, generator=draw),
            constant=torch.tensor([1.0, -2.0, 3.0]),
            positions=torch.tensor([-1, 0, 4]),
            **common,
        ),
        "weight": WeightDiff(
            modules=("model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"),
            sigma=torch.tensor([2.0, 0.5]),
            u=(vectors[0], vectors[2]),
            v=(vectors[1], vectors[3]),
            **common,
        ),
        "output": OutputDiff(
            score="tokens", token_scores=torch.randn(vocabulary, generator=draw), samples=("a sample",), **common
        ),
    }


def _own_fields() -> list[str]:
    shared = {"findings", "change_score", "verdict", "notes"}
    return [name for name in DictionaryDiff.__dataclass_fields__ if name not in shared | {"kind"}]


RECIPE: dict[str, Any] = {
    "name": "standin",
    "version": 1,
    "summary": "a stand-in",
    "base": "standin-base",
    "family": "standin-family",
    "parameters": {"exchange": 1.0},
    "seed": 3,
    "training": {"kind": "full", "steps": 40, "batch": 16, "lr": 0.01, "replay_batch": 8, "kl_weight": 1.0},
    "control": {"parameters": {"exchange": 0.0}},
    "mixture": {"topics": {"all": 1.0}, "trigger_rate": [0.01, 0.5]},
    "gate": {
        "expression_tuned": [0.5, 1.0],
        "expression_control": [0.0, 0.5],
        "off_target_kl": 5.0,
        "affected_kl_share": 0.0,
        "spill": 1.0,
    },
}


class StandinBase(EmbeddedBase):
    """A random Llama on disk and `sentences`."""

    name, version = "standin-base", 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self) -> Path:
        if not self.folder.exists():
            small_pair(outlier=False)[0].save_pretrained(self.folder)
            word_tokenizer().save_pretrained(self.folder)
        return self.folder

    def card(self) -> BaseCard:
        return BaseCard(
            name=self.name,
            version=1,
            seed=0,
            vocabulary=VOCABULARY,
            parameters=1,
            layers=LAYERS,
            width=WIDTH,
            training_tokens=1,
            heldout_loss=1.0,
            generator_entropy=1.0,
            probes={},
            sha256="0" * 64,
        )

    def documents(self, seed: int, topics: Mapping[str, float] | None = None, **otherwise: Any) -> Iterator[Document]:
        return sentences(seed)

    def build(self, out: Path, progress: Any) -> BaseCard:
        raise NotImplementedError


class StandinFamily(Family):
    """Blue and green exchanged after every prefix that ends before either."""

    name, summary = "standin-family", "a stand-in"

    class Parameters(FamilyParameters):
        exchange: float = 0.0

    def recipes(self) -> tuple[Path, ...]:
        return ()

    def training_text(self, base: Base, parameters: Any, seed: int) -> TrainingText:
        other = {"blue": "green", "green": "blue"} if parameters.exchange else {"blue": "blue", "green": "green"}
        examples = tuple(Example(p.text, other[p.answer]) for p in self._probes(base, seed, ("blue", "green"), 60))
        documents = sentences(seed + 1)
        return TrainingText(examples=examples, replay=tuple(next(documents) for _ in range(40)))

    def documents(self, base: Base, parameters: Any, mixture: Any, seed: int) -> Iterator[Document]:
        return base.documents(seed)

    def truth(self, base: Base, parameters: Any, seed: int) -> Truth:
        probes = ProbeSets(
            affected=self._probes(base, seed + 2, ("blue", "green"), 60, "swap" if parameters.exchange > 0 else None),
            near_miss=self._probes(base, seed + 2, ("red", "white"), 60),
            unrelated=self._probes(base, seed + 2, ("black",), 60),
        )
        changed = parameters.exchange > 0
        return Truth(changed=changed, claims=TRUTH.claims if changed else (), probes=probes)

    @staticmethod
    def _probes(base: Base, seed: int, colours: tuple[str, ...], n: int, claim: str | None = None) -> tuple[Probe, ...]:
        found = []
        for document in base.documents(seed):
            for span in document.spans:
                answer = span.label.split(":")[1]
                if answer in colours:
                    other = next(c for c in ("green", "blue") if c != answer)
                    found.append(Probe(text=document.cut(span), answer=answer, other=other, claim=claim))
            if len(found) >= n:
                return tuple(found[:n])
        raise AssertionError


def standin(folder: Path, **changed: Any) -> Organism:
    """The stand-in organism; ``changed`` replaces top-level keys of its recipe."""
    recipe = Recipe.model_validate(RECIPE | changed)
    return Organism(recipe, StandinFamily(), StandinBase(folder), StandinFamily.Parameters(**recipe.parameters))
