"""config.json of an original layout as that of transformers' own class, field by field, and back."""

from __future__ import annotations

from typing import Any

from quantui.checkpoint.convert.originals.known import ratio_scales, rope_of
from quantui.checkpoint.inspect import section, whole

Config = dict[str, Any]

TEXT_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "use_cache",
    "bos_token_id", "eos_token_id", "pad_token_id", "attention_bias", "attention_dropout", "mlp_bias",
    "use_sliding_window", "sliding_window", "max_window_layers", "layer_types", "tie_word_embeddings",
)  # fmt: skip
"""What a text part keeps under its own name; the rest of a saved config is the library's and says nothing of the model."""

UNIMPORTANT = (
    "dtype", "torch_dtype", "use_cache", "initializer_range", "layer_scale_init_value", "attention_dropout", "dropout",
    "hidden_dropout_prob", "projection_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "layer_types",
)  # fmt: skip
"""Native fields that may differ between two configs of one model that computes the same."""

VISION_FIELDS = {
    "hidden_size": "hidden_size", "intermediate_size": "intermediate_size", "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads", "num_channels": "num_channels", "hidden_act": "hidden_act",
    "layer_norm_eps": "layer_norm_eps", "norm_type": "norm_type", "attention_dropout": "attention_dropout",
    "dropout": "hidden_dropout_prob", "initializer_range": "initializer_range", "initializer_factor": "layer_scale_init_value",
    "qkv_bias": "attention_bias", "qk_normalization": "use_qk_norm",
}  # fmt: skip
"""Original name -> native name of what a vision part says."""

VISION_DEFAULTS: Config = {
    "hidden_size": 3200, "intermediate_size": 12800, "num_hidden_layers": 48, "num_attention_heads": 25, "num_channels": 3,
    "hidden_act": "gelu", "layer_norm_eps": 1e-6, "norm_type": "rms_norm", "attention_dropout": 0.0, "dropout": 0.0,
    "initializer_range": 0.02, "initializer_factor": 0.1, "qkv_bias": False, "qk_normalization": True,
    "patch_size": 14, "image_size": 224,
}  # fmt: skip
"""What an original vision config leaves unsaid. Source: configuration_intern_vit.py of OpenGVLab/InternVL."""

LANGUAGES = {
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "LlamaForCausalLM": "llama",
    "InternLM2ForCausalLM": "llama",
}
"""Architecture of an InternVL's text part -> the native model type it becomes."""


def text_config(original: Config, model_type: str) -> Config:
    """A text part as transformers' llama, qwen2 or qwen3 reads it.

    Source of InternLM's and InternLM2's default of `bias`: configuration_internlm2.py of internlm/internlm2-chat-7b.
    """
    native: Config = {"model_type": model_type}
    native |= {name: original[name] for name in TEXT_FIELDS if name in original}
    if str(original.get("model_type", "")).startswith("internlm"):
        native["attention_bias"] = bool(original.get("bias", True))  # of q, k, v and o; the MLP has none
    return native | rope(original)


def rope(original: Config) -> Config:
    """Rotary position embedding, in today's words and in those from before transformers 5, which serving programs read."""
    said = rope_of(original)
    kind, theta = said.kind, said.theta
    scaling = {name: value for name, value in said.settings.items() if name not in ("rope_type", "type", "rope_theta")}
    parameters = {"rope_type": kind, "rope_theta": theta, **scaling}
    if kind == "default":
        return {"rope_theta": theta, "rope_parameters": parameters}
    return {"rope_theta": theta, "rope_scaling": {"rope_type": kind, **scaling}, "rope_parameters": parameters}


def vision_config(original: Config) -> Config:
    """An InternViT as transformers' internvl_vision reads it."""
    said = VISION_DEFAULTS | original
    native: Config = {"model_type": "internvl_vision"}
    native |= {name: said[there] for there, name in VISION_FIELDS.items()}
    patch, image = whole(said, "patch_size"), whole(said, "image_size")
    return native | {
        "patch_size": [patch, patch],
        "image_size": [image, image],
        "projection_dropout": float(said["dropout"]),
        "use_absolute_position_embeddings": True,
        "use_mask_token": False,
        "use_mean_pooling": True,  # which makes the native class leave out a final norm that InternViT does not have
    }


def internvl_config(original: Config, dtype: str, image_token_id: int) -> Config:
    """InternVLChatModel -> InternVLForConditionalGeneration."""
    language = section(original, "llm_config")
    text = text_config(language, LANGUAGES[architecture(language)])
    vision = vision_config(section(original, "vision_config"))
    tile = whole(original, "force_image_size") or vision["image_size"][0]
    ratio = float(original.get("downsample_ratio") or 0.5)
    text["tie_word_embeddings"] = bool(language.get("tie_word_embeddings"))
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "dtype": dtype,
        "image_token_id": image_token_id,
        "image_seq_length": round((tile // vision["patch_size"][0]) ** 2 * ratio**2),
        "downsample_ratio": ratio,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": int(original.get("select_layer", -1)),
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": text["tie_word_embeddings"],
        "text_config": {**text, "dtype": dtype},
        "vision_config": {**vision, "dtype": dtype},
    }


def internlm_config(original: Config, dtype: str) -> Config:
    """InternLM2ForCausalLM or InternLMForCausalLM -> LlamaForCausalLM."""
    return {"architectures": ["LlamaForCausalLM"], "dtype": dtype, **text_config(original, "llama")}


def chatglm_config(original: Config, dtype: str) -> Config:
    """ChatGLM2, ChatGLM3 -> GlmForCausalLM. Source of the defaults: configuration_chatglm.py of THUDM/chatglm2-6b."""
    heads = whole(original, "num_attention_heads")
    groups = whole(original, "multi_query_group_num") if original.get("multi_query_attention") else heads
    ratio = float(original.get("rope_ratio") or 1)
    positions = ratio_scales(original) == "positions"
    theta = 10000.0 if positions else 10000.0 * ratio
    rotary = {"rope_type": "linear", "factor": ratio} if positions else {"rope_type": "default"}
    ids = {name: original.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}  # Glm's own are GLM-4's
    return {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "dtype": dtype,
        "vocab_size": whole(original, "padded_vocab_size") or whole(original, "vocab_size"),
        "hidden_size": whole(original, "hidden_size"),
        "intermediate_size": whole(original, "ffn_hidden_size"),
        "num_hidden_layers": whole(original, "num_layers") or whole(original, "num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": whole(original, "kv_channels") or whole(original, "hidden_size") // max(heads, 1),
        "hidden_act": "silu",
        "max_position_embeddings": whole(original, "seq_length") or 2048,
        "rms_norm_eps": float(original.get("layernorm_epsilon") or 1e-5),
        "attention_bias": bool(original.get("add_qkv_bias")),
        "attention_dropout": float(original.get("attention_dropout") or 0.0),
        "use_cache": True,
        "partial_rotary_factor": 0.5,
        "rope_theta": theta,
        "rope_parameters": {**rotary, "rope_theta": theta, "partial_rotary_factor": 0.5},
        "tie_word_embeddings": bool(original.get("tie_word_embeddings")),
        **ids,
    }


def github_config(native: Config, dtype: str) -> Config:
    """InternVLForConditionalGeneration -> InternVLChatModel."""
    text, seen = section(native, "text_config"), section(native, "vision_config")
    patch, image = _side(seen, "patch_size", 14), _side(seen, "image_size", 448)
    language = {name: text[name] for name in TEXT_FIELDS if name in text}
    turned = rope(text)
    scaling = turned.get("rope_scaling")
    kind = next((name for name, kind in LANGUAGES.items() if kind == text.get("model_type")), "LlamaForCausalLM")
    ratio = float(native.get("downsample_ratio") or 0.5)
    tokens = whole(native, "image_seq_length") or round((image // patch) ** 2 * ratio**2)
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "downsample_ratio": ratio,
        "dynamic_image_size": True,
        "force_image_size": round((tokens / ratio**2) ** 0.5) * patch,
        "hidden_size": whole(text, "hidden_size"),
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 12,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": int(native.get("vision_feature_layer", -1)),
        "tie_word_embeddings": bool(text.get("tie_word_embeddings")),
        "torch_dtype": dtype,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "llm_config": {
            **language,
            "architectures": [kind],
            "model_type": text.get("model_type"),
            "rope_theta": turned["rope_theta"],
            "rope_scaling": {"type": scaling["rope_type"], **scaling} if scaling else None,
            "torch_dtype": dtype,
        },
        "vision_config": {
            **{there: seen[name] for there, name in VISION_FIELDS.items() if name in seen},
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            "patch_size": patch,
            "image_size": image,
            "drop_path_rate": 0.0,
            "use_flash_attn": False,
            "torch_dtype": dtype,
        },
    }


def architecture(config: Config) -> str:
    """The class name a config gives first, "" if it gives none."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def _side(config: Config, name: str, default: int) -> int:
    """A size that the native config writes as [height, width] or as one number."""
    value = config.get(name, default)
    return int(value[0] if isinstance(value, list) else value)
