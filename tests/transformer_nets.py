"""Transformers of every family from configuration, with random weights: small, and whole.

No two sizes of one are equal unless the architecture makes them so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["NETS", "Net"]

VOCABULARY = 61
LENGTH = 11


@dataclasses.dataclass(frozen=True)
class Net:
    """How to build one architecture, what it reads, and what it has.

    Attributes
    ----------
    granularities : str
        Those that it has, apart by spaces.
    generates : bool
        Whether it generates text.
    part : str
        Method of the model that returns the part meant.
    options : dict
        Granularity -> options of pruning that it takes there.
    """

    model: str
    config: str
    values: dict[str, Any]
    inputs: Callable[[], dict[str, torch.Tensor]]
    granularities: str = "head head_dim ffn hidden layer"
    generates: bool = False
    part: str = ""
    options: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def build(self, seed: int = 0) -> nn.Module:
        """The model with weights, norms and biases at random: fresh ones hide permuted indices."""
        import transformers

        torch.manual_seed(seed)
        config = getattr(transformers, self.config)(**self.values)
        model = getattr(transformers, self.model)(config)
        if self.part:
            model = getattr(model, self.part)()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                scale = 0.1 if parameter.dim() > 1 else 0.3
                parameter.add_(noise * scale)
        return model.eval()


def _ids(length: int = LENGTH, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, VOCABULARY, (2, length), generator=generator)


def _text() -> dict[str, torch.Tensor]:
    return {"input_ids": _ids()}


def _padded() -> dict[str, torch.Tensor]:
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, LENGTH - 4 :] = 0
    return {"input_ids": _ids(), "attention_mask": mask}


def _two_texts() -> dict[str, torch.Tensor]:
    return {"input_ids": _ids(), "decoder_input_ids": _ids(7, seed=1)}


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _image() -> dict[str, torch.Tensor]:
    return {"pixel_values": _noise(2, 3, 16, 16)}


def _image_and_text() -> dict[str, torch.Tensor]:
    return _image() | {"input_ids": _ids(8)}


def _speech() -> dict[str, torch.Tensor]:
    return {"input_features": _noise(2, 10, 24), "decoder_input_ids": _ids(7)}


def _sound() -> dict[str, torch.Tensor]:
    return {"input_values": _noise(2, 800)}


# What an encoder hands out is as wide as the residual stream.
_HANDED_OUT: dict[str, dict[str, Any]] = {"hidden": {"prune_outputs": True}}
# A grouped product wants rows of 16 bytes, and two projections lie in one tensor.
_ROWS = {"round_to": 8}

_ENDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

_ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
    "num_labels": 7,
}

_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 44,
    "max_position_embeddings": 64,
    **_ENDS,
}

_GROUPED: dict[str, Any] = _DECODER | {"num_attention_heads": 4, "num_key_value_heads": 2}

_VISION: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "num_labels": 7,
}

_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 3,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}

_BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 24,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 44,
    "max_position_embeddings": 32,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    **_ENDS,
}

_WHISPER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "num_mel_bins": 10,
    "d_model": 24,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 44,
    "max_source_positions": 12,
    "max_target_positions": 32,
    "decoder_start_token_id": 1,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    **_ENDS,
}

_TOWER: dict[str, Any] = {key: value for key, value in _VISION.items() if key != "num_labels"}
_WORDS: dict[str, Any] = {key: value for key, value in _ENCODER.items() if key != "num_labels"} | {
    "hidden_size": 20,
    "intermediate_size": 36,
    **_ENDS,
}

NETS: dict[str, Net] = {
    "bert": Net("BertForSequenceClassification", "BertConfig", _ENCODER, _padded),
    "bert_mlm": Net("BertForMaskedLM", "BertConfig", _ENCODER, _text),
    "roberta": Net("RobertaForMaskedLM", "RobertaConfig", _ENCODER, _padded),
    "distilbert": Net(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {
            "vocab_size": VOCABULARY,
            "dim": 24,
            "n_layers": 3,
            "n_heads": 4,
            "hidden_dim": 40,
            "max_position_embeddings": 32,
            "num_labels": 7,
        },
        _padded,
    ),
    "deberta": Net(
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        _ENCODER
        | {
            "relative_attention": True,
            "position_buckets": 8,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
        },
        _padded,
        # Its code computes the scale of scores from the width of heads, in a tensor.
        "head ffn hidden layer",
    ),
    "gpt2": Net(
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 24,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 64,
            **_ENDS,
        },
        _text,
        generates=True,
    ),
    "gpt_neox": Net(
        "GPTNeoXForCausalLM", "GPTNeoXConfig", _DECODER | {"rotary_pct": 0.5}, _text, generates=True
    ),
    "opt": Net(
        "OPTForCausalLM",
        "OPTConfig",
        _DECODER | {"ffn_dim": 44, "word_embed_proj_dim": 32},
        _text,
        generates=True,
    ),
    "llama": Net("LlamaForCausalLM", "LlamaConfig", _GROUPED, _text, generates=True),
    "llama_tied": Net(
        "LlamaForCausalLM",
        "LlamaConfig",
        _GROUPED | {"tie_word_embeddings": True},
        _padded,
        generates=True,
    ),
    "llama_eager": Net(
        "LlamaForCausalLM",
        "LlamaConfig",
        _GROUPED | {"attn_implementation": "eager"},
        _padded,
        generates=True,
    ),
    "mistral": Net(
        "MistralForCausalLM",
        "MistralConfig",
        _GROUPED | {"sliding_window": 6},
        _text,
        generates=True,
    ),
    "qwen2": Net("Qwen2ForCausalLM", "Qwen2Config", _GROUPED, _text, generates=True),
    "qwen3": Net(
        "Qwen3ForCausalLM", "Qwen3Config", _GROUPED | {"head_dim": 12}, _text, generates=True
    ),
    "gemma": Net(
        "GemmaForCausalLM",
        "GemmaConfig",
        _GROUPED | {"head_dim": 12, "num_key_value_heads": 1},
        _text,
        generates=True,
    ),
    "phi": Net(
        "PhiForCausalLM",
        "PhiConfig",
        _DECODER | {"partial_rotary_factor": 0.5},
        _text,
        generates=True,
    ),
    "mixtral": Net(
        "MixtralForCausalLM",
        "MixtralConfig",
        _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2},
        _text,
        generates=True,
        options={"hidden": _ROWS, "ffn": _ROWS},
    ),
    "mamba": Net(
        "MambaForCausalLM",
        "MambaConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 24,
            "state_size": 5,
            "num_hidden_layers": 3,
            "conv_kernel": 4,
            "expand": 2,
            "time_step_rank": 3,
            **_ENDS,
        },
        _text,
        "ffn hidden layer",
        generates=True,
    ),
    "t5": Net(
        "T5ForConditionalGeneration",
        "T5Config",
        _T5,
        _two_texts,
        generates=True,
        options=_HANDED_OUT,
    ),
    "t5_gated": Net(
        "T5ForConditionalGeneration",
        "T5Config",
        _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        _two_texts,
        generates=True,
        options=_HANDED_OUT,
    ),
    "bart": Net(
        "BartForConditionalGeneration",
        "BartConfig",
        _BART,
        _two_texts,
        generates=True,
        options=_HANDED_OUT,
    ),
    "vit": Net("ViTForImageClassification", "ViTConfig", _VISION, _image),
    "deit": Net("DeiTForImageClassification", "DeiTConfig", _VISION, _image),
    "swin": Net(
        "SwinForImageClassification",
        "SwinConfig",
        {
            "image_size": 16,
            "patch_size": 2,
            "embed_dim": 12,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
            "num_labels": 7,
        },
        _image,
    ),
    "clip": Net(
        "CLIPModel",
        "CLIPConfig",
        {"text_config": _WORDS, "vision_config": _TOWER, "projection_dim": 10},
        _image_and_text,
        options=_HANDED_OUT,
    ),
    "siglip": Net(
        "SiglipModel",
        "SiglipConfig",
        {"text_config": _WORDS | {"projection_size": 24}, "vision_config": _TOWER},
        _image_and_text,
        options=_HANDED_OUT,
    ),
    "dinov2": Net(
        "Dinov2ForImageClassification",
        "Dinov2Config",
        {key: value for key, value in _VISION.items() if key != "intermediate_size"}
        | {"mlp_ratio": 2},
        _image,
    ),
    "whisper": Net(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        _WHISPER,
        _speech,
        generates=True,
        options=_HANDED_OUT,
    ),
    "wav2vec2": Net(
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 40,
            "conv_dim": (12, 14),
            "conv_stride": (5, 4),
            "conv_kernel": (10, 3),
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
            "mask_time_prob": 0.0,
        },
        _sound,
    ),
}
