"""Texts: the two models and the random token ids of a harvesting job."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.jobs import Harvesting

PERTURBED = 0.01


def models(job: Harvesting, attention: str) -> tuple[Any, Any]:
    """A model and one whose weights are 1% different, in float32."""
    return _model(job.models, attention), _perturbed(_model(job.models, attention))


def _model(name: str, attention: str) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if name != "llama":
        return AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, attn_implementation=attention, local_files_only=True
        ).eval()
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=288,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
    )
    model = LlamaForCausalLM(config).eval()
    model.set_attn_implementation(attention)
    return model


@torch.no_grad()
def _perturbed(model: Any) -> Any:
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.add_(PERTURBED * parameter.std(correction=0) * torch.randn_like(parameter))
    return model


def token_ids(job: Harvesting, vocabulary: int, index: int) -> Tensor:
    """[documents, length]: the index-th block of random documents."""
    draw = torch.Generator().manual_seed(index)
    return torch.randint(3, vocabulary, (job.documents, job.length), generator=draw)
