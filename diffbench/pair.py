"""ModelPair: all that a method can see of two models. Hands out what was declared, and counts what was used.

Shapes: B texts, L positions, d residual width, V vocabulary, T activation rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffbench.activations import Activations, Rows
from diffbench.adapter import LowRank, base_folder, is_adapter, low_rank
from diffbench.architecture import ends_of
from diffbench.continuation import continued, corpus_of
from diffbench.corpus import Corpus
from diffbench.errors import AccessError, CheckpointError
from diffbench.exchange import ACTIVATIONS, TEXT
from diffbench.lens import Lens, Words
from diffbench.method import Access, NotApplicable
from diffbench.prediction import Predictions, predictions, spread
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
from diffbench.weights import WeightChange, layer_of, read_out, weight_changes

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

    def predictions(
        self, *, tokens: int | None = None, documents: Sequence[Sequence[int]] | None = None
    ) -> Iterator[Predictions]:
        """What both models expect next, position by position, in blocks that fit in memory.

        Args:
            tokens: read about so many positions, of documents spread evenly over the text; None: all.
            documents: token ids to read in place of the text.

        Raises:
            AccessError: if the method did not declare "logits".
        """
        self._need("logits")
        text = self.text() if documents is None else corpus_of(documents, self.tokenizer.bos_token_id)
        return predictions(text, self.logits, self.vocabulary, None if tokens is None else spread(text, tokens))

    def generate(self, side: Side, prompts: Sequence[str], *, new_tokens: int, sample: bool = True) -> list[str]:
        """Continue each prompt by at most ``new_tokens`` tokens; sampling follows torch's global seed.

        Raises:
            AccessError: if the method did not declare "generate".
            OptionError: if a prompt is empty, or leaves no room for an answer.
        """
        self._need("generate")
        ids = self.tokenizer(list(prompts), verbose=False)["input_ids"] if prompts else []
        said = self.continuations(side, ids, new_tokens=new_tokens, sample=sample)
        return [self.tokenizer.decode(answer, skip_special_tokens=True) for answer in said]

    def continuations(
        self,
        side: Side,
        prompts: Sequence[Sequence[int]],
        *,
        new_tokens: int,
        sample: bool = True,
        seed: int | None = None,
    ) -> list[list[int]]:
        """The same with token ids: what one model says after each prompt, up to an end of text and without it.

        Sampling is at temperature 1 from the whole distribution; with the same ``seed`` both models draw with the same
        noise, so that they part only where their predictions differ. None: it follows torch's global seed. Both end
        where the tuned model's texts end.

        Raises:
            AccessError: if the method did not declare "generate".
            OptionError: if a prompt is empty, or leaves no room for an answer.
        """
        self._need("generate")
        model, ends, known = self._model(side), self._ends, len(self.tokenizer)
        said = continued(model, prompts, new_tokens=new_tokens, ends=ends, known=known, sample=sample, seed=seed)
        answers = list(said)
        lengths = (min(len(answer) + 1, new_tokens) for answer in answers)  # with the end that was said
        self._charge(model, sum(map(len, prompts)) + sum(lengths))
        return answers

    def weights(self, side: Side) -> dict[str, Tensor]:
        """Copies of one model's parameters by name, as in ``named_parameters()``: a tied one comes once.

        Raises:
            AccessError: if the method did not declare "weights".
        """
        self._need("weights")
        self._count("weight_reads", 1)
        return {name: tensor.detach().cpu().clone() for name, tensor in self._model(side).named_parameters()}

    def weight_changes(self) -> Iterator[WeightChange]:
        """All parameters of both models side by side, one at a time, each once.

        Raises:
            AccessError: if the method did not declare "weights".
            NotApplicable: if the models do not have the same parameters.
        """
        self._need("weights")
        self._count("weight_reads", 2)
        try:
            return weight_changes(self._model("reference"), self._model("tuned"))
        except CheckpointError as error:
            raise NotApplicable(str(error)) from None

    def adapter(self) -> tuple[LowRank, ...]:
        """What LoRA adapters add to the reference's matrices to make the tuned model's.

        Where the reference is an adapter on the same base too, what it adds comes with a negative scale.

        Raises:
            AccessError: if the method did not declare "weights".
            NotApplicable: if the models do not differ by plain LoRA adapters alone.
        """
        self._need("weights")
        self._count("weight_reads", 1)
        reference, tuned = self._folder / "reference", self._folder / "tuned"
        if not is_adapter(tuned):
            raise NotApplicable("the tuned model is a whole model and no adapter")
        base = base_folder(tuned)
        both = is_adapter(reference)
        if base.resolve() != (base_folder(reference) if both else reference).resolve():
            raise NotApplicable("the tuned model's adapter belongs on another model than the reference")
        try:
            found = low_rank(load_model(base), tuned)
            taken = low_rank(load_model(base), reference) if both else ()
        except CheckpointError as error:
            raise NotApplicable(str(error)) from None
        own = {name for name, _ in self._model("reference").named_parameters()}
        tied = next((each.module for each in (*found, *taken) if f"{each.module}.weight" not in own), None)
        if tied is not None:
            raise NotApplicable(f"the adapter changes {tied}, which has no matrix of its own in the reference")
        return (*found, *(LowRank(each.module, each.a, each.b, -each.scale) for each in taken))

    def read_out(self, modules: Sequence[str], vectors: Sequence[Tensor], top: int = 10) -> list[Words]:
        """Tokens that outputs of linear modules promote and suppress most, as the logit lens names them.

        Args:
            modules: one for each vector; of one that writes to nothing that can be read, no token is named.
            vectors: [d_out] each.
            top: tokens each way.
        """
        return read_out(self._model("tuned"), self._lens, modules, vectors, top)

    def layer_of(self, name: str) -> int | None:
        """The 0-based block that a module or parameter belongs to; None: to none."""
        return layer_of(self._model("tuned"), name)

    def token_names(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Tokens by name, as the logit lens names them: without the space before them."""
        return tuple(self._lens.words(list(ids)))

    def top_tokens(self, scores: Tensor, top: int = 10) -> tuple[str, ...]:
        """Names of the tokens with the largest of some scores [V], strongest first, none with a score of 0 or less."""
        best = scores.topk(min(top, len(scores)))
        return self.token_names(best.indices[best.values > 0].tolist())

    def logit_lens(self, vectors: Tensor, top: int = 10) -> list[tuple[list[str], list[str]]]:
        """Tokens that residual directions [n, d] promote and suppress most, through the tuned model's unembedding.

        The final norm's gain is applied, its division is not (it is no function of a direction alone). Only tokens
        that occur in the text are named.
        """
        return self._lens.read(vectors, top)

    @cached_property
    def _ends(self) -> list[int]:
        """Tokens that end a text, as the tuned model and its tokenizer have them."""
        return list(ends_of(self._model("tuned"), self.tokenizer))

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
