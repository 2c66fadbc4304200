"""The models whose pruning is timed, and what Torch-Pruning has to be told about each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import architectures

__all__ = ["MODELS", "build", "rival_options"]

TORCHVISION = ("resnet50", "densenet121", "convnext_base", "vit_b_16", "swin_b")
MODELS = (*TORCHVISION, "llama_1b")

# 1.5 billion parameters with 32 query heads on 8 key heads: Llama 3.2's smallest shape, untied.
LLAMA = {
    "vocab_size": 128_256,
    "hidden_size": 2_048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8_192,
    "max_position_embeddings": 2_048,
    "use_cache": False,
}

# Layers and vocabulary, by parameters. PyTorch's own global pruning holds over 50 bytes for every
# weight, so 24 GB of memory hold the first one's and not the second's.
FLOAT32_LLAMAS = {"llama_374m_float32": (4, 32_000), "llama_1b_float32": (10, 128_256)}


def build(name: str) -> tuple[nn.Module, Any]:
    """Return a model in eval mode and one example."""
    torch.manual_seed(0)
    if name in FLOAT32_LLAMAS:
        layers, vocabulary = FLOAT32_LLAMAS[name]
        model = _llama(torch.float32, layers, vocabulary)
        return model.eval(), {"input_ids": torch.arange(1, 33)[None]}
    if name.startswith("llama"):
        return _llama().eval(), {"input_ids": torch.arange(1, 33)[None]}
    architectures.import_torchvision()
    import torchvision

    return torchvision.models.get_model(name, weights=None).eval(), torch.randn(1, 3, 224, 224)


def _llama(
    dtype: torch.dtype = torch.bfloat16, layers: int = 16, vocabulary: int = 128_256
) -> nn.Module:
    architectures.import_torchvision()
    import transformers

    kind = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        # Initialising 1.5 billion normals takes longer than everything that is measured.
        with torch.device("meta"):
            model = transformers.LlamaForCausalLM(
                transformers.LlamaConfig(
                    **{**LLAMA, "num_hidden_layers": layers, "vocab_size": vocabulary}
                )
            )
        model = model.to_empty(device="cpu")
    finally:
        torch.set_default_dtype(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.02, 0.02) if parameter.ndim > 1 else parameter.fill_(1)
    # The rotary frequencies are buffers, which to_empty leaves without values.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    return model


def rival_options(name: str, model: nn.Module) -> dict[str, Any]:
    """Return what Torch-Pruning's examples pass for such a model, and the layers it must keep."""
    heads: dict[nn.Module, int] = {}
    options: dict[str, Any] = {"num_heads": heads}
    if name.startswith("llama"):
        for layer in model.model.layers:
            attention = layer.self_attn
            heads[attention.q_proj] = LLAMA["num_attention_heads"]
            heads[attention.k_proj] = LLAMA["num_key_value_heads"]
            heads[attention.v_proj] = LLAMA["num_key_value_heads"]
        return options | {
            "ignored_layers": [model.lm_head],
            "output_transform": lambda output: output.logits.sum(),
        }
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            heads[module] = module.num_heads
    last: Callable[[], nn.Module] = lambda: [  # noqa: E731
        module for module in model.modules() if isinstance(module, nn.Linear)
    ][-1]
    return options | {"ignored_layers": [last()]}
