"""Hugging Face architectures from configuration, with random weights.

Small but structurally whole: several layers and heads, grouped queries where the family has
them, and no two sizes equal unless the architecture makes them so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["HF_ARCHITECTURES"]

Built = tuple[Callable[[], nn.Module], Callable[[], dict[str, Any]]]

VOCABULARY = 1_009
BATCH = 2
LENGTH = 23


def _ids(length: int = LENGTH, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, VOCABULARY, (BATCH, length), generator=generator)


def _text() -> dict[str, Any]:
    return {"input_ids": _ids()}


def _padded_text() -> dict[str, Any]:
    mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
    mask[1, LENGTH - 6 :] = 0
    return {"input_ids": _ids(), "attention_mask": mask}


def _text_to_text() -> dict[str, Any]:
    return {"input_ids": _ids(), "decoder_input_ids": _ids(13, seed=1)}


def _image(size: int) -> Callable[[], dict[str, Any]]:
    def build() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        return {"pixel_values": torch.randn(BATCH, 3, size, size, generator=generator)}

    return build


def _model(model: str, config: str, **values: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**values))

    return build


_ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "intermediate_size": 640,
    "max_position_embeddings": 64,
}

_DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 704,
    "max_position_embeddings": 128,
}

_QWEN3 = _DECODER | {"hidden_size": 240, "head_dim": 40}

_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 192,
    "d_kv": 24,
    "d_ff": 448,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 6,
}

_WHISPER = {
    "vocab_size": VOCABULARY,
    "num_mel_bins": 40,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 4,
    "d_model": 192,
    "encoder_ffn_dim": 640,
    "decoder_ffn_dim": 512,
    "max_source_positions": 60,
    "max_target_positions": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
}

_VISION = {
    "image_size": 96,
    "patch_size": 16,
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "intermediate_size": 640,
}


def _whisper_encoder() -> nn.Module:
    return _model("WhisperModel", "WhisperConfig", **_WHISPER)().get_encoder()


def _speech() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {"input_features": torch.randn(BATCH, 40, 120, generator=generator)}


def _speech_to_text() -> dict[str, Any]:
    return _speech() | {"decoder_input_ids": _ids(13, seed=1)}


HF_ARCHITECTURES: dict[str, Built] = {
    "bert": (
        _model("BertForSequenceClassification", "BertConfig", **_ENCODER, num_labels=7),
        _padded_text,
    ),
    "bert_mlm": (_model("BertForMaskedLM", "BertConfig", **_ENCODER), _text),
    "roberta": (_model("RobertaForMaskedLM", "RobertaConfig", **_ENCODER), _padded_text),
    "distilbert": (
        _model(
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            vocab_size=VOCABULARY,
            dim=192,
            n_layers=3,
            n_heads=6,
            hidden_dim=640,
            max_position_embeddings=64,
            num_labels=7,
        ),
        _padded_text,
    ),
    "gpt2": (
        _model(
            "GPT2LMHeadModel",
            "GPT2Config",
            vocab_size=VOCABULARY,
            n_embd=192,
            n_layer=4,
            n_head=6,
            n_positions=64,
            bos_token_id=1,
            eos_token_id=2,
        ),
        _text,
    ),
    "llama": (_model("LlamaForCausalLM", "LlamaConfig", **_DECODER), _text),
    "llama_eager": (
        _model("LlamaForCausalLM", "LlamaConfig", **_DECODER, attn_implementation="eager"),
        _padded_text,
    ),
    "llama_tied": (
        _model("LlamaForCausalLM", "LlamaConfig", **_DECODER, tie_word_embeddings=True),
        _text,
    ),
    "qwen2": (_model("Qwen2ForCausalLM", "Qwen2Config", **_DECODER), _text),
    "qwen3": (_model("Qwen3ForCausalLM", "Qwen3Config", **_QWEN3), _text),
    "mistral": (
        _model("MistralForCausalLM", "MistralConfig", **_DECODER, sliding_window=16),
        _text,
    ),
    "t5": (_model("T5ForConditionalGeneration", "T5Config", **_T5), _text_to_text),
    "t5_gated": (
        _model(
            "T5ForConditionalGeneration",
            "T5Config",
            **_T5,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        ),
        _text_to_text,
    ),
    "t5_encoder": (_model("T5EncoderModel", "T5Config", **_T5), _padded_text),
    "vit": (
        _model("ViTForImageClassification", "ViTConfig", **_VISION, num_labels=11),
        _image(96),
    ),
    "swin": (
        _model(
            "SwinForImageClassification",
            "SwinConfig",
            image_size=96,
            patch_size=4,
            embed_dim=48,
            depths=[2, 2, 2],
            num_heads=[2, 4, 8],
            window_size=6,
            num_labels=11,
        ),
        _image(96),
    ),
    "clip_vision": (_model("CLIPVisionModel", "CLIPVisionConfig", **_VISION), _image(96)),
    "clip_vision_projection": (
        _model("CLIPVisionModelWithProjection", "CLIPVisionConfig", **_VISION, projection_dim=96),
        _image(96),
    ),
    "whisper_encoder": (_whisper_encoder, _speech),
    "whisper": (
        _model("WhisperForConditionalGeneration", "WhisperConfig", **_WHISPER),
        _speech_to_text,
    ),
}
