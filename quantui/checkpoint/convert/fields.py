"""What the fields of a config.json may hold: every value that a conversion computes with is checked before it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Any, NamedTuple

Config = Mapping[str, Any]
LARGEST = 2**31
"""No size of a model comes near it."""
HEADS = 4096
"""No model has as many attention heads."""


class Rule(NamedTuple):
    """A test of a value, and what it has to be in a person's words."""

    holds: Callable[[Any], bool]
    meaning: str


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30 and isfinite(value)


def _rope(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    kind = value.get("rope_type", value.get("type", "default"))
    theta, factor = value.get("rope_theta"), value.get("factor")
    return isinstance(kind, str) and all(given is None or (_number(given) and given > 0) for given in (theta, factor))


def _rotary(value: Any) -> bool:
    return isinstance(value, dict) and "base" in value and "type" in value and _rope({**value, "rope_theta": value["base"]})


def _pair(value: Any) -> bool:
    sizes = value if isinstance(value, list) else [value]
    return 0 < len(sizes) <= 2 and all(type(size) is int and 0 < size < LARGEST for size in sizes) and len(set(sizes)) == 1


SIZE = Rule(lambda value: type(value) is int and 0 < value < LARGEST, "a whole number above zero")
COUNT = Rule(lambda value: type(value) is int and 0 <= value < LARGEST, "a whole number")
LAYER = Rule(lambda value: type(value) is int and abs(value) < LARGEST, "the number of a layer")
NUMBER = Rule(_number, "a number")
ABOVE = Rule(lambda value: _number(value) and value > 0, "a number above zero")
SHARE = Rule(lambda value: _number(value) and 0 < value <= 1, "a number above 0 and up to 1")
FLAG = Rule(lambda value: type(value) is bool or value in (0, 1), "true or false")
TEXT = Rule(lambda value: isinstance(value, str), "a text")
NORM = Rule(lambda value: value in ("layer_norm", "rms_norm"), "layer_norm or rms_norm")
TABLE = Rule(lambda value: isinstance(value, dict), "a table")
ROPE = Rule(_rope, "a table of a type and numbers above zero")
ROTARY = Rule(_rotary, "a table of a base and a type")
SQUARE = Rule(_pair, "the side of a square")

Rules = dict[str, Rule]
_SIZES: Rules = {
    "vocab_size": SIZE, "hidden_size": SIZE, "intermediate_size": SIZE, "num_hidden_layers": SIZE, "num_attention_heads": SIZE,
    "max_position_embeddings": SIZE,
}  # fmt: skip
_TEXT: Rules = {
    **_SIZES, "num_key_value_heads": SIZE, "head_dim": SIZE, "rms_norm_eps": ABOVE, "rope_theta": ABOVE, "rope_scaling": ROPE,
    "rope_parameters": ROPE, "rotary": ROTARY, "hidden_act": TEXT, "model_type": TEXT, "attention_bias": FLAG, "bias": FLAG,
    "tie_word_embeddings": FLAG,
}  # fmt: skip
_VISION: Rules = {
    **_SIZES, "num_channels": SIZE, "hidden_act": TEXT, "layer_norm_eps": ABOVE, "norm_type": NORM, "attention_dropout": NUMBER,
    "initializer_range": NUMBER,
}  # fmt: skip
_SEEN: Rules = {
    **_VISION, "patch_size": SIZE, "image_size": SIZE, "dropout": NUMBER, "initializer_factor": NUMBER, "qkv_bias": FLAG,
    "qk_normalization": FLAG,
}  # fmt: skip
_SEEN_NATIVE: Rules = {
    **_VISION, "patch_size": SQUARE, "image_size": SQUARE, "attention_bias": FLAG, "use_qk_norm": FLAG,
}  # fmt: skip
_CHATGLM: Rules = {
    "hidden_size": SIZE, "ffn_hidden_size": SIZE, "num_layers": SIZE, "num_hidden_layers": SIZE, "num_attention_heads": SIZE,
    "kv_channels": SIZE, "multi_query_group_num": COUNT, "padded_vocab_size": SIZE, "vocab_size": SIZE, "seq_length": SIZE,
    "layernorm_epsilon": ABOVE, "attention_dropout": NUMBER, "rope_ratio": ABOVE, "auto_map": TABLE,
    "multi_query_attention": FLAG, "add_qkv_bias": FLAG, "tie_word_embeddings": FLAG,
}  # fmt: skip
_PICTURES: Rules = {"downsample_ratio": SHARE, "llm_config": TABLE, "vision_config": TABLE, "tie_word_embeddings": FLAG}
RULES: dict[str, dict[str, Rules]] = {
    "internvl": {
        "": {**_PICTURES, "select_layer": LAYER, "force_image_size": SIZE},
        "llm_config": _TEXT,
        "vision_config": _SEEN,
    },
    "internvl-back": {
        "": {**_PICTURES, "vision_feature_layer": LAYER, "image_seq_length": SIZE, "image_token_id": COUNT},
        "text_config": _TEXT,
        "vision_config": _SEEN_NATIVE,
    },
    "internlm2": {"": _TEXT},
    "internlm": {"": _TEXT},
    "chatglm": {"": _CHATGLM},
}
"""What may stand where: kind of conversion -> part of its config -> field -> rule. A field that is missing or null says
nothing, but for those in SAID."""

SAID = (
    "downsample_ratio", "select_layer", "vision_feature_layer", "qkv_bias", "qk_normalization", "norm_type", "layer_norm_eps",
    "patch_size", "image_size", "dropout", "max_position_embeddings",
)  # fmt: skip
"""Fields whose null is not the same as nothing."""

LAYERS = (
    "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_decoder_layers", "depth",
)  # fmt: skip
"""What the number of layers is called: transformers builds as many, so it has to be one that there are tensors for."""


def wrong_values(kind: str, config: Config, tensors: int) -> list[str]:
    """What in a config.json cannot be worked with, one sentence each.

    Args:
        kind: name of the conversion.
        config: config.json.
        tensors: how many tensors the checkpoint has, as no model has more layers.
    """
    said = []
    for part, rules in RULES.get(kind, {}).items():
        held: Any = config.get(part) if part else config
        for name, rule in rules.items() if isinstance(held, dict) else ():
            if name in held and (held[name] is not None or name in SAID) and not rule.holds(held[name]):
                said.append(f"{_path(part, name)} is {_shown(held[name])}, which is not {rule.meaning}")
        if isinstance(held, dict) and not said and "num_attention_heads" in rules:
            said += [_path(part, text) for text in _heads(held, rules)]
    for part, held in _parts(config):
        for name in LAYERS:
            layers = held.get(name)
            if type(layers) is int and layers > tensors:
                said.append(f"{_path(part, name)} is {_shown(layers)}, and there are {tensors} tensors")
    layer = {"internvl": "select_layer", "internvl-back": "vision_feature_layer"}.get(kind)
    return _layer(config, layer) if layer and not said else said


def _heads(held: Config, rules: Rules) -> Iterator[str]:
    heads, groups, name = held.get("num_attention_heads") or 0, 1, "num_key_value_heads"
    if name in rules:
        groups = held.get(name) or 1
    elif "multi_query_attention" in rules and held.get("multi_query_attention"):
        name = "multi_query_group_num"
        groups = held.get(name) or 0
    if heads > HEADS:
        yield f"num_attention_heads is {_shown(heads)}, and no model has so many"
    elif not groups or heads % groups:
        yield f"{name} is {_shown(groups)}, which does not divide the {heads} of num_attention_heads"


def _layer(config: Config, name: str) -> list[str]:
    """Whether the layer that pictures are taken from is there; they can be taken from before the first too."""
    vision = config.get("vision_config") or {}
    blocks = vision.get("num_hidden_layers") or 0
    layer = config.get(name)
    if layer is None or -blocks - 1 <= layer <= blocks or not blocks:
        return []
    return [f"{name} is {layer}, and vision_config has {blocks} layers"]


def _parts(config: Config) -> Iterator[tuple[str, Config]]:
    yield "", config
    yield from ((name, held) for name, held in config.items() if isinstance(held, dict))


def _path(part: str, name: str) -> str:
    return f"{part}.{name}" if part else name


def _shown(value: Any) -> str:
    text = f"{value:.4g}" if type(value) is float else repr(value) if type(value) is not int or abs(value) < 10**30 else "huge"
    return text if len(text) <= 60 else f"{text[:60]}..."
