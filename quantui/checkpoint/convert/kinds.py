"""Which conversion a model folder needs, and what in its config cannot be converted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from quantui.checkpoint.convert.config import LANGUAGES, VISION_DEFAULTS, architecture
from quantui.checkpoint.convert.originals.known import ratio_scales
from quantui.checkpoint.files import Checkpoint
from quantui.checkpoint.inspect import CONVERTIBLE, native_model_types, section, whole
from quantui.errors import CheckpointError

Name = Literal["internvl", "internvl-back", "internlm2", "internlm", "chatglm", "fp8", "pickled"]


@dataclass(frozen=True)
class Kind:
    """One conversion.

    Attributes:
        name: what it is called in files and options.
        source: what is read, in a person's words.
        target: the class of transformers that reads the result.
        refusals: what its config may say that has no native counterpart, one sentence each.
    """

    name: Name
    source: str
    target: str
    refusals: Callable[[dict[str, Any]], list[str]]


def recognise(checkpoint: Checkpoint) -> Kind:
    """The conversion this folder needs.

    Raises:
        CheckpointError: there is none for it; the supported ones are listed.
    """
    config, where = checkpoint.config, str(checkpoint.folder)
    model_type = str(config.get("model_type", ""))
    quantization = section(config, "quantization_config") or section(section(config, "llm_config"), "quantization_config")
    if model_type in BY_MODEL_TYPE and not quantization:
        return KINDS[BY_MODEL_TYPE[model_type]]
    if quantization.get("quant_method") == "fp8" and model_type not in BY_MODEL_TYPE:
        return KINDS["fp8"]
    if quantization:
        what = f"the model is quantized already ({quantization.get('quant_method')}), which has no conversion"
        raise CheckpointError(what, where=where, todo="start from its float checkpoint")
    if checkpoint.pickled:
        return KINDS["pickled"]
    if model_type == "internvl":
        return KINDS["internvl-back"]
    if model_type in native_model_types():
        what = f"{architecture(config) or model_type} is native already, in safetensors, so there is nothing to convert"
        raise CheckpointError(what, where=where, todo="quantize it as it is")
    supported = "; ".join(kind.source for kind in KINDS.values())
    raise CheckpointError(
        f"model type {model_type!r} has no conversion",
        where=where,
        todo=f"these have one: {supported}",
    )


def _none(config: dict[str, Any]) -> list[str]:
    return []


def _internvl(config: dict[str, Any]) -> list[str]:
    said = []
    language = section(config, "llm_config")
    if architecture(language) not in LANGUAGES:
        named = architecture(language) or language.get("model_type") or "nothing"
        said.append(f"llm_config names {named}; a text part may be {', '.join(LANGUAGES)}")
    if config.get("ps_version", "v1") != "v2":
        said.append("ps_version is not v2; the native model shuffles pixels in the second way only")
    vision = VISION_DEFAULTS | section(config, "vision_config")
    if vision["qk_normalization"] and vision["layer_norm_eps"] != 1e-6:
        said.append(f"layer_norm_eps is {vision['layer_norm_eps']}; the native norms of q and k have 1e-06")
    for name in ("use_backbone_lora", "use_llm_lora"):
        if config.get(name):
            said.append(f"{name} is {config[name]}; merge the LoRA weights into the model first")
    for part, names in (
        ("llm_config", ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size")),
        ("vision_config", ("hidden_size", "num_hidden_layers", "intermediate_size")),
    ):
        said += [f"{part} does not give {name}" for name in names if not whole(section(config, part), name)]
    return said


def _internlm(config: dict[str, Any]) -> list[str]:
    named = architecture(config)
    said = _sizes(config, "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size")
    if named not in ("", "InternLM2ForCausalLM", "InternLMForCausalLM"):
        said.append(f"{named} has another head than a language model; only ...ForCausalLM becomes Llama")
    return said


def _chatglm(config: dict[str, Any]) -> list[str]:
    said = _sizes(config, "hidden_size", "num_attention_heads", "ffn_hidden_size", "padded_vocab_size")
    if not (whole(config, "num_layers") or whole(config, "num_hidden_layers")):
        said.append("config.json does not give num_layers")
    wanted = {
        "rmsnorm": (True, "layer norms with biases"),
        "post_layer_norm": (True, "no norm behind the last block"),
        "apply_residual_connection_post_layernorm": (False, "residuals taken behind the norms"),
        "add_bias_linear": (False, "biases in every Linear"),
        "pre_seq_len": (None, "a P-Tuning prefix"),
        "quantization_bit": (0, "weights quantized by ChatGLM's own code"),
    }
    for name, (value, meaning) in wanted.items():
        if config.get(name, value) not in (value, value or None):
            said.append(f"{name} is {config[name]!r}: {meaning}, which the native model does not have")
    if not ratio_scales(config):
        said.append(f"rope_ratio is {config['rope_ratio']}, and nothing tells if it divides positions or scales the base")
    if "vision_config" in config:
        said.append("vision_config: GLM-4V has no conversion")
    if architecture(config) not in ("", "ChatGLMModel", "ChatGLMForConditionalGeneration"):
        said.append(f"{architecture(config)} has another head than a language model")
    return said


def _fp8(config: dict[str, Any]) -> list[str]:
    blocks = section(config, "quantization_config").get("weight_block_size")
    if not (isinstance(blocks, list) and len(blocks) == 2 and all(type(size) is int and size > 0 for size in blocks)):
        return ["quantization_config gives no weight_block_size; only block-quantized FP8 is converted"]
    return []


def _native_internvl(config: dict[str, Any]) -> list[str]:
    text = section(config, "text_config").get("model_type")
    return [] if text in LANGUAGES.values() else [f"text_config is {text!r}; OpenGVLab's code has qwen2, qwen3 and llama"]


def _sizes(config: dict[str, Any], *names: str) -> list[str]:
    return [f"config.json does not give {name}" for name in names if not whole(config, name)]


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("internvl", "InternVL in OpenGVLab's layout (internvl_chat)", "InternVLForConditionalGeneration", _internvl),
        Kind("internlm2", "InternLM2 (internlm2)", "LlamaForCausalLM", _internlm),
        Kind("internlm", "InternLM (internlm)", "LlamaForCausalLM", _internlm),
        Kind("chatglm", "ChatGLM2 and ChatGLM3 (chatglm)", "GlmForCausalLM", _chatglm),
        Kind("pickled", "pickled .bin weights of any model", "", _none),
        Kind("fp8", "FP8 weights quantized in blocks (quant_method fp8)", "", _fp8),
        Kind("internvl-back", "native InternVL, back to OpenGVLab's layout", "InternVLChatModel", _native_internvl),
    )
}
BY_MODEL_TYPE = dict(zip(CONVERTIBLE, ("internvl", "internlm2", "internlm", "chatglm"), strict=True))
