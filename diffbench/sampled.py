"""Sampled text: what the models of a pair say unprompted, half each, where no other text is named.

Texts are drawn at temperature 1 from the beginning-of-text token on, in chunks that are kept in the cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from diffbench import cache
from diffbench.checkpoint import Place
from diffbench.errors import CheckpointError
from diffbench.ordinary import OrdinaryText, portion_of, refuse_topics
from diffbench.seeds import derive
from diffbench.text import Document
from diffbench.workwire import report

KIND = "texts"
ROWS = 64
"""Texts of each model in a chunk."""
LONGEST, SHORTEST = 128, 8
"""Tokens of a text; what ends earlier is left out."""
BARREN = 4
"""Chunks without a new text of a portion after which the models are taken to have said all they say."""
CODE = ("diffbench.ordinary", "diffbench.residual", "diffbench.sampled")


@dataclass(frozen=True)
class SampledText(OrdinaryText):
    """Text of one or two models in turn; endless but for models that repeat themselves.

    Attributes:
        base: a whole model.
        tuned: another one, or an adapter on the first; None: the base alone speaks.
        seed: of all that is drawn; the same for every portion.
        name: the portion; None: all of it.
    """

    base: Place
    tuned: Place | None
    seed: int
    name: str | None = None
    at_hand = False

    def key(self) -> Any:
        """Models, seed and code."""
        return self._inputs(0) | {"chunk": None}

    def check(self) -> None:
        """Look for the models, without letting them speak.

        Raises:
            CheckpointError: if one is not on this machine.
        """
        for place in filter(None, (self.base, self.tuned)):
            place.folder()

    def portion(self, name: str) -> OrdinaryText:
        """The texts whose hash is in that portion's range."""
        return SampledText(self.base, self.tuned, self.seed, name)

    def documents(
        self, seed: int, topics: Mapping[str, float] | None, **told: Mapping[str, Any] | None
    ) -> Iterator[Document]:
        """Texts without a label, the same whatever ``seed``, none of them twice; sampled as they are asked for.

        Raises:
            RecipeError: if they are to be about something.
        """
        refuse_topics("text sampled from models", topics, told)
        speakers = _Speakers(self.base, self.tuned)
        seen: set[str] = set()
        barren = 0
        for index in count():
            fresh = [text for text in dict.fromkeys(self._chunk(index, speakers)) if text not in seen]
            seen.update(fresh)
            own = [text for text in fresh if self.name is None or portion_of(text) == self.name]
            yield from map(Document, own)
            barren = 0 if own else barren + 1
            if barren == BARREN:
                return

    def _chunk(self, index: int, speakers: _Speakers) -> list[str]:
        def fill(folder: Path) -> None:
            report(f"sampling text from the models, texts {2 * ROWS * index} on", 0.0)
            texts = speakers.say(derive(self.seed, "sampled", str(index)))
            (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")

        path = cache.publish(KIND, self._inputs(index), fill)
        texts: list[str] = cache.read_json(path / "texts.json")
        return texts

    def _inputs(self, index: int) -> dict[str, Any]:
        return self._fixed | {"chunk": index}

    @cached_property
    def _fixed(self) -> dict[str, Any]:
        return {
            "stage": "sampled",
            "models": [self.base.key(), None if self.tuned is None else self.tuned.key()],
            "seed": self.seed,
            "code": cache.code_version(*CODE),
            "libraries": cache.libraries(),
        }


class _Speakers:
    """The models of a pair, loaded when they first have to speak."""

    def __init__(self, base: Place, tuned: Place | None) -> None:
        self._base, self._tuned = base, tuned

    def say(self, seed: int) -> list[str]:
        """Texts of each model in turn."""
        told = [speaker(derive(seed, str(index))) for index, speaker in enumerate(self._loaded)]
        return [text for texts in zip(*told, strict=True) for text in texts if text]

    @cached_property
    def _loaded(self) -> list[Callable[[int], list[str]]]:
        from diffbench.residual import load_model, load_tokenizer, vocabulary_of

        base = self._base.folder()
        folders = [base] if self._tuned is None else [base, self._tuned.folder()]
        tokenizer = load_tokenizer(folders[-1], base=base)
        rows = vocabulary_of(base, folders[-1], base=base).rows
        return [_speaker(load_model(folder, base=base, rows=rows), tokenizer) for folder in folders]


def _speaker(model: Any, tokenizer: Any) -> Callable[[int], list[str]]:
    """What gives `ROWS` texts of a model from a seed; a text that is too short is empty."""
    import torch
    from transformers import GenerationConfig

    rows = int(model.get_output_embeddings().weight.shape[0])
    begins = _tokens(rows, tokenizer.bos_token_id, getattr(model.config, "bos_token_id", None))
    ends = _tokens(rows, tokenizer.eos_token_id, getattr(model.config, "eos_token_id", None))
    start = next(iter(begins + ends), None)
    if start is None:
        raise CheckpointError("text: the tokenizer has no token to begin with; name a text, for example --text FILE")
    # What is left open in a call is filled in from the model, which has it from a file beside its weights.
    model.generation_config = GenerationConfig()
    settings = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        max_new_tokens=_longest(model),
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else start,
        suppress_tokens=list(range(len(tokenizer), rows)) or None,
    )

    def say(seed: int) -> list[str]:
        ids = torch.full((ROWS, 1), start, device=model.device)
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            said = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)[
                :, 1:
            ].tolist()
        lengths = [next((n for n, token in enumerate(row) if token in ends), len(row)) for row in said]
        texts = tokenizer.batch_decode(
            [row[:n] for row, n in zip(said, lengths, strict=True)], skip_special_tokens=True
        )
        return [text if n >= SHORTEST and text.strip() else "" for text, n in zip(texts, lengths, strict=True)]

    return say


def _tokens(rows: int, *named: int | list[int] | None) -> list[int]:
    """The tokens that are named, each once, as far as the model has them."""
    told = [index for name in named for index in (name if isinstance(name, (list, tuple)) else [name])]
    return list(dict.fromkeys(index for index in told if index is not None and 0 <= index < rows))


def _longest(model: Any) -> int:
    """Tokens of a text: as many as the model has places for."""
    places = getattr(model.config, "max_position_embeddings", None) or LONGEST + 1
    return max(1, min(LONGEST, int(places) - 1))
