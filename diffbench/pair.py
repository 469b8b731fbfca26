"""ModelPair: all that a method can see of two models. Hands out what was declared, and counts what was used.

Shapes: B texts, L positions, d residual width, V vocabulary, T activation rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffbench.activations import Activations, Rows
from diffbench.adapter import is_adapter
from diffbench.corpus import Corpus
from diffbench.errors import AccessError
from diffbench.exchange import ACTIVATIONS, TEXT
from diffbench.lens import Lens
from diffbench.method import Access
from diffbench.residual import (
    Model,
    blocks,
    hidden,
    load_model,
    load_pair,
    load_tokenizer,
    logits,
    vocabulary,
    vocabulary_of,
)
from diffbench.stream import Stream
from diffbench.vocabulary import Vocabulary

Side = Literal["reference", "tuned"]


class ModelPair:
    """A reference and a tuned model, the tuned model's tokenizer, unlabelled text and shared activations.

    Attributes:
        layer: the 0-based block whose output the run is about.
        usage: tokens, calls and FLOPs so far.
    """

    def __init__(self, folder: Path, access: frozenset[Access]) -> None:
        self._folder = folder
        self._access = access
        self.usage: dict[str, int] = {}
        self.layer = self._stored.layer

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that both models are read with."""
        return load_tokenizer(self._folder / "tuned")

    @property
    def width(self) -> int:
        """Residual width d."""
        return self._stored.width

    @cached_property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(blocks(self._model("tuned")))

    @cached_property
    def vocabulary(self) -> int:
        """Rows V of the unembedding."""
        return vocabulary(self._model("tuned"))

    def text(self) -> Corpus:
        """The method split: token ids without any label."""
        return Corpus.load(self._folder / TEXT)

    def activations(self) -> Activations:
        """Paired activations of the method split at `layer`; shared by all methods, charged to each.

        Raises:
            AccessError: if the method did not declare "activations".
        """
        self._need("activations")
        self.usage["activation_rows"] = len(self._stored)  # the same rows, however often they are asked for
        return self._stored

    def training_rows(self) -> tuple[Rows, Activations]:
        """Rows to train a dictionary on, and rows of held-out documents to rank its latents on.

        Where the run stores a sample only, the sample is held out and rows of all other text are made on the fly.

        Raises:
            AccessError: if the method did not declare "activations".
            CacheError: if there is one document only.
        """
        stored = self.activations()
        if stored.first_document == 0:
            return stored.split()
        text = self.text().rows(slice(stored.first_document))
        reference, tuned = self._both
        return Stream(reference, tuned, text, stored.layer, stored, charge=self._charge_both), stored

    @torch.inference_mode()
    def hidden(self, side: Side, ids: Tensor, mask: Tensor, layer: int) -> Tensor:
        """Residual stream [B, L, d] leaving block ``layer`` of one model.

        Raises:
            AccessError: if the method did not declare "activations".
        """
        self._need("activations")
        self._forward(side, int(mask.sum()))
        return hidden(self._model(side), ids, mask, layer)

    @torch.inference_mode()
    def logits(self, side: Side, ids: Tensor, mask: Tensor) -> Tensor:
        """Next-token logits [B, L, V] of one model.

        Raises:
            AccessError: if the method did not declare "logits".
        """
        self._need("logits")
        self._forward(side, int(mask.sum()))
        return logits(self._model(side), ids, mask)

    @torch.inference_mode()
    def generate(self, side: Side, prompts: Sequence[str], *, new_tokens: int, sample: bool = True) -> list[str]:
        """Continue each prompt by at most ``new_tokens`` tokens; sampling follows torch's global seed.

        Raises:
            AccessError: if the method did not declare "generate".
        """
        self._need("generate")
        answers = []
        for prompt in prompts:
            encoded = self.tokenizer(prompt, return_tensors="pt", verbose=False)
            ids = encoded["input_ids"].to(self._model(side).device)
            out = self._model(side).generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                do_sample=sample,
                pad_token_id=self.tokenizer.pad_token_id or 0,
            )
            self._forward(side, int(out.shape[1]))
            answers.append(self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
        return answers

    def weights(self, side: Side) -> dict[str, Tensor]:
        """Copies of one model's parameters by name.

        Raises:
            AccessError: if the method did not declare "weights".
        """
        self._need("weights")
        self._count("weight_reads", 1)
        return {name: tensor.detach().cpu().clone() for name, tensor in self._model(side).state_dict().items()}

    def logit_lens(self, vectors: Tensor, top: int = 10) -> list[tuple[list[str], list[str]]]:
        """Tokens that residual directions [n, d] promote and suppress most, through the tuned model's unembedding.

        The final norm's gain is applied, its division is not (it is no function of a direction alone). Only tokens
        that occur in the text are named.
        """
        return self._lens.read(vectors, top)

    @cached_property
    def _lens(self) -> Lens:
        return Lens.of(self._model("tuned"), self.tokenizer, self.text())

    @cached_property
    def _stored(self) -> Activations:
        return Activations.open(self._folder / ACTIVATIONS)

    def _model(self, side: Side) -> Model:
        if not hasattr(self, f"_{side}"):
            setattr(self, f"_{side}", load_model(self._folder / side, rows=self._words.rows))
        return getattr(self, f"_{side}")

    @cached_property
    def _words(self) -> Vocabulary:
        return vocabulary_of(self._folder / "reference", self._folder / "tuned")

    @cached_property
    def _both(self) -> tuple[Model, Model]:
        """Both models as the rows were harvested with them."""
        dtype, tuned = self._stored.dtype, self._folder / "tuned"
        if dtype == "float32" and not is_adapter(tuned):
            return self._model("reference"), self._model("tuned")
        return load_pair(self._folder / "reference", tuned, dtype=dtype)

    def _charge_both(self, n_tokens: int) -> None:
        for model in self._both:
            self._charge(model, n_tokens)

    def _need(self, access: Access) -> None:
        if access not in self._access:
            declared = ", ".join(sorted(self._access)) or "nothing"
            raise AccessError(f"the method used {access!r} but declares {declared}; add it to `access`")

    def _forward(self, side: Side, n_tokens: int) -> None:
        self._charge(self._model(side), n_tokens)

    def _charge(self, model: Model, n_tokens: int) -> None:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        self._count("calls", 1)
        self._count("tokens", n_tokens)
        self._count("flops", 2 * parameters * n_tokens)

    def _count(self, what: str, n: int) -> None:
        self.usage[what] = self.usage.get(what, 0) + n
