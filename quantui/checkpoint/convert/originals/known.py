"""Which original architectures can be run, and what their config.json says of them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "InternLMForCausalLM": "internlm",
    "InternLM2ForCausalLM": "internlm2",
    "ChatGLMModel": "chatglm",
    "ChatGLMForConditionalGeneration": "chatglm",
    "InternVLChatModel": "internvl_chat",
}
"""Classes with a language head, and the model_type their configs carry."""

IN_INTERNVL = ("llama", "qwen2", "qwen3", "internlm2")
"""Language parts of InternVL known here. Source: OpenGVLab/InternVL, internvl_chat/internvl/model/internvl_chat."""

VISION_DEFAULTS = {
    "patch_size": 14, "qkv_bias": False, "hidden_size": 3200, "num_attention_heads": 25, "qk_normalization": True,
    "num_hidden_layers": 48, "hidden_act": "gelu", "norm_type": "rms_norm", "layer_norm_eps": 1e-6,
}  # fmt: skip
"""What InternVisionConfig fills in. Source: OpenGVLab/InternVL b9b1bb8, configuration_intern_vit.py."""

PUBLISHED_RATIOS: dict[Any, Literal["base", "positions", ""]] = {16: "positions", 50: "base", 500: "base", 10000: "base"}
"""What rope_ratio acts on in the models that have one.

Source: config.json of THUDM/chatglm2-6b-32k (16), chatglm3-6b-32k (50), chatglm3-6b-128k and glm-4-9b-chat (500), and
glm-4-9b-chat-1m (10000).
"""

ROPES = ("default", "linear", "dynamic", "llama3", "yarn")


@dataclass(frozen=True)
class Rope:
    """How positions become angles.

    Attributes:
        kind: one of ROPES.
        theta: the base of the wavelengths.
        limit: tokens the model was trained on.
        settings: factor and what else the kind needs.
    """

    kind: str
    theta: float
    limit: int
    settings: dict[str, Any]


def kind_of(config: dict[str, Any]) -> str:
    """The name of the architecture as config.json's model_type gives it; empty when its class is not known here."""
    classes = config.get("architectures")
    if isinstance(classes, list) and classes:
        return ARCHITECTURES.get(str(classes[0]), "")
    kind = config.get("model_type")
    return kind if isinstance(kind, str) and kind in ARCHITECTURES.values() else ""


def why_not(config: dict[str, Any]) -> str:
    """Why the checkpoint cannot be run here, without a full stop; empty when it can."""
    kind = kind_of(config)
    if not kind:
        return f"the original architecture {_called(config)} is not known here"
    if config.get("quantization_config"):
        return "the original weights are quantized"
    if kind == "chatglm":
        return _why_not_chatglm(config)
    if kind == "internvl_chat":
        return _why_not_internvl(config)
    return _why_not_language(config)


def rope_of(config: dict[str, Any]) -> Rope:
    """The rotary embedding of a Llama-like config, in the spelling of its time.

    InternLM has a table `rotary` of its own, which its config class fills in when it is missing. The fourth and the fifth
    generation of transformers write `rope_scaling` and `rope_parameters`. Source: InternLM/InternLM, modeling_internlm.py.
    """
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if config.get("model_type") == "internlm" and "rope_theta" not in config:
        rotary = config.get("rotary") or {"base": 10000, "type": "dynamic"}
        settings = {"rope_theta": rotary["base"], "type": rotary["type"], "factor": rotary.get("scaling_factor", 1.0)}
    kind = settings.get("rope_type") or settings.get("type") or "default"
    theta = settings.get("rope_theta") or config.get("rope_theta") or 10000.0
    return Rope(
        "default" if kind == "origin" else kind, float(theta), int(config.get("max_position_embeddings", 2048)), settings
    )


def ratio_scales(config: dict[str, Any]) -> Literal["base", "positions", ""]:
    """What ChatGLM's `rope_ratio` acts on; empty when config.json does not tell.

    ChatGLM2 divides the positions by it, ChatGLM3 and GLM-4 multiply the base of 10000 with it, and they share one model_type.
    What tells them apart is the name the config keeps, then the ratio itself.

    Source: ztxz16/fastllm issue 374 (both originals side by side), alibaba/rtp-llm chat_glm_v2.py and chat_glm_v3.py.
    """
    if config.get("rope_ratio", 1) == 1:
        return "base"
    names = " ".join([str(config.get("_name_or_path", "")), *map(str, (config.get("auto_map") or {}).values())]).lower()
    if "chatglm2" in names or "codegeex2" in names:
        return "positions"
    if any(name in names for name in ("chatglm3", "glm-4", "codegeex4")):
        return "base"
    return PUBLISHED_RATIOS.get(config["rope_ratio"], "")


def _called(config: dict[str, Any]) -> str:
    classes = config.get("architectures")
    return ", ".join(map(str, classes if isinstance(classes, list) and classes else [config.get("model_type")]))


def _why_not_language(config: dict[str, Any]) -> str:
    rope = rope_of(config)
    if rope.kind not in ROPES or {"mscale", "alpha", "mrope_section"} & {key for key, value in rope.settings.items() if value}:
        return f"the rotary scaling {rope.settings} is not known here"
    if config.get("rope_pos_id_version", "default") != "default":
        return f"positions of the kind {config['rope_pos_id_version']} are not known here"
    if (config.get("partial_rotary_factor") or rope.settings.get("partial_rotary_factor") or 1) != 1:
        return "a rotary embedding over a part of each head is not known here"
    return _why_not_activation(config, "silu")


def _why_not_activation(config: dict[str, Any], known: str) -> str:
    name = config.get("hidden_act", known)
    return "" if name == known else f"the activation {name} is not known here"


def _why_not_internvl(config: dict[str, Any]) -> str:
    language, vision = config.get("llm_config"), config.get("vision_config")
    if not isinstance(language, dict) or not isinstance(vision, dict):
        return "llm_config or vision_config is missing"
    if kind_of(language) not in IN_INTERNVL:
        return f"the language part {_called(language)} is not known here"
    if vision.get("model_type", "intern_vit_6b") != "intern_vit_6b":
        return f"the vision part {vision['model_type']} is not known here"
    if (norm := vision.get("norm_type", "rms_norm")) not in ("layer_norm", "rms_norm"):
        return f"the vision norm {norm} is not known here"
    return _why_not_activation(vision, "gelu") or _why_not_language(language)


def _why_not_chatglm(config: dict[str, Any]) -> str:
    if "kv_channels" not in config or "vision_config" in config:
        return "this is no ChatGLM2, ChatGLM3 or GLM-4 language model, though its config says chatglm"
    if config.get("quantization_bit"):
        return "the original weights are quantized"
    if config.get("pre_seq_len"):
        return "a trained prefix (pre_seq_len) is not known here"
    if not ratio_scales(config):
        return "config.json does not tell whether rope_ratio divides positions (ChatGLM2) or scales the base (ChatGLM3)"
    return ""
