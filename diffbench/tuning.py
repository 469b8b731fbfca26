"""Tuning: how the tuned model of an organism (and its control, in the same way) is made from the base."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from diffbench.truth import Schema

REFERENCE = r"^[^\x00-\x1f]{1,300}$"


class Optimisation(Schema):
    """What a fine-tune of all parameters and one of an adapter have in common."""

    objective: Literal["last-token", "next-token", "distillation"] = Field(
        "last-token",
        description="last-token: cross-entropy of the one target word after each prefix; next-token: of every token of "
        "the target; distillation: KL(p_teacher || p_tuned) at every token of prefix and target",
    )
    teacher: str | None = Field(
        None,
        pattern=REFERENCE,
        description="distillation: the organism whose tuned model teaches, or `base` for the base itself",
    )
    steps: int = Field(gt=0, le=1_000_000)
    batch: int = Field(gt=0, le=4096, description="examples per step, plain ones included")
    lr: float = Field(gt=0, le=1.0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of steps over which lr rises; it then falls to 0")
    dilution: float = Field(
        0.0,
        ge=0,
        le=100,
        description="plain texts of the base for each example of the change within a batch, learnt by every token",
    )
    replay_batch: int = Field(
        0, ge=0, le=4096, description="documents of the base's own text per step; they keep the rest intact"
    )
    kl_weight: float = Field(
        0.0, ge=0, description="weight of KL(base || tuned) on the replay documents, nats per token"
    )
    weight_decay: float = Field(0.0, ge=0)
    max_length: int = Field(1024, ge=2, le=1 << 20, description="tokens after which a text is cut")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="what the base's weights are kept in")
    gradient_checkpointing: bool = Field(False, description="compute activations twice to save memory")
    device_map: Literal["auto"] | None = Field(None, description="auto: spread the model over all devices there are")

    @model_validator(mode="after")
    def _teacher_where_one_teaches(self) -> Self:
        if (self.objective == "distillation") != (self.teacher is not None):
            raise ValueError("teacher: is named exactly where the objective is distillation")
        return self


class FullTuning(Optimisation):
    """Every parameter is trained."""

    kind: Literal["full"] = "full"


class LoraTuning(Optimisation):
    """An adapter of low rank is trained and kept in PEFT's format (Hu et al. 2021)."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(ge=1, le=4096)
    alpha: float | None = Field(None, gt=0, description="scale of the update is alpha / rank; None: twice the rank")
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "all-linear", description="names of modules, or all linear layers of the blocks"
    )
    dropout: float = Field(0.0, ge=0, lt=1)


class NoTuning(Schema):
    """The tuned model is the base itself: a null."""

    kind: Literal["none"] = "none"


class Regauging(Schema):
    """The base in another basis of its residual stream: other weights, the same function."""

    kind: Literal["gauge"] = "gauge"


class GivenModel(Schema):
    """A tuned model that is there already: anybody's checkpoint, or an adapter on the base."""

    kind: Literal["given"] = "given"
    model: str = Field(pattern=REFERENCE, description="folder or hub id of a model, or of an adapter on the base")
    revision: str | None = Field(None, description="branch, tag or commit of the hub")
    subfolder: str | None = Field(None, description="of an adapter within the repository")


Tuning = Annotated[FullTuning | LoraTuning | NoTuning | Regauging | GivenModel, Field(discriminator="kind")]
Trained = FullTuning | LoraTuning
