"""The `vision` weights and config in OpenGVLab's GitHub layout (InternVLChatModel), tensor by tensor.

Source: huggingface/transformers@v4.52.1 src/transformers/models/internvl/convert_internvl_weights_to_hf.py, read backwards.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

# Native name (as stored) -> GitHub name; tried in order, every match applied.
RENAMES: tuple[tuple[str, str], ...] = (
    (r"^vision_tower\.embeddings\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^vision_tower\.embeddings\.position_embeddings$", "vision_model.embeddings.position_embedding"),
    (r"^vision_tower\.embeddings\.patch_embeddings\.projection\.", "vision_model.embeddings.patch_embedding."),
    (r"^vision_tower\.encoder\.layer\.", "vision_model.encoder.layers."),
    (r"\.lambda_([12])$", r".ls\1"),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.projection_layer\.", ".attn.proj."),
    (r"^multi_modal_projector\.layer_norm\.", "mlp1.0."),
    (r"^multi_modal_projector\.linear_1\.", "mlp1.1."),
    (r"^multi_modal_projector\.linear_2\.", "mlp1.3."),
)
SPLIT = re.compile(r"^vision_tower\.encoder\.layer\.(\d+)\.attention\.q_proj\.(weight|bias)$")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def github_name(name: str) -> str:
    """The GitHub name of a native tensor that is not part of a fused one."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def github_tensors(native: dict[str, Tensor]) -> dict[str, Tensor]:
    """All tensors renamed; q, k and v of the vision tower stacked, in this order, to one `attn.qkv`."""
    out: dict[str, Tensor] = {}
    for name, tensor in native.items():
        fused = SPLIT.match(name)
        if fused:
            parts = [native[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            layer, kind = fused.groups()
            out[f"vision_model.encoder.layers.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
        elif not re.search(r"^vision_tower\..*\.attention\.[kv]_proj\.", name):
            out[github_name(name)] = tensor
    return out


def llm_config(text: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """The `llm_config` of a Qwen2 text part, in the keys of its time (flat rope_theta, torch_dtype)."""
    kept = (
        "hidden_act",
        "hidden_size",
        "initializer_range",
        "intermediate_size",
        "max_position_embeddings",
        "max_window_layers",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "rms_norm_eps",
        "use_sliding_window",
        "vocab_size",
    )
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "attn_implementation": "eager",
        "model_type": "qwen2",
        "rope_scaling": None,
        "rope_theta": text["rope_parameters"]["rope_theta"],
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_bfloat16": True,
        "use_cache": True,
        **names,
        **{key: text[key] for key in kept},
    }


def vision_config(vision: dict[str, Any]) -> dict[str, Any]:
    """The `vision_config` of an InternViT."""
    same = (
        "attention_dropout",
        "hidden_act",
        "hidden_size",
        "initializer_range",
        "intermediate_size",
        "layer_norm_eps",
        "norm_type",
        "num_attention_heads",
        "num_channels",
        "num_hidden_layers",
    )
    return {
        "architectures": ["InternVisionModel"],
        "drop_path_rate": 0.0,
        "dropout": vision["hidden_dropout_prob"],
        "image_size": vision["image_size"][0],
        "initializer_factor": vision["layer_scale_init_value"],
        "model_type": "intern_vit_6b",
        "patch_size": vision["patch_size"][0],
        "qk_normalization": vision["use_qk_norm"],
        "qkv_bias": vision["attention_bias"],
        "torch_dtype": "bfloat16",
        "use_bfloat16": True,
        "use_flash_attn": False,
        **{key: vision[key] for key in same},
    }


def github_config(native: dict[str, Any], processor: dict[str, Any]) -> dict[str, Any]:
    """The config.json of an InternVLChatModel that computes the same; no auto_map, as no code lies beside it."""
    names = {key: native["text_config"][key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {
        "architectures": ["InternVLChatModel"],
        "downsample_ratio": native["downsample_ratio"],
        "dynamic_image_size": True,
        "force_image_size": native["vision_config"]["image_size"][0],
        "hidden_size": native["text_config"]["hidden_size"],
        "llm_config": llm_config(native["text_config"], names),
        "max_dynamic_patch": processor["max_patches"],
        "min_dynamic_patch": processor["min_patches"],
        "model_type": "internvl_chat",
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": native["vision_feature_layer"],
        "template": "internvl2_5",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": None,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": vision_config(native["vision_config"]),
    }


def write_github(native: Path, target: Path) -> None:
    """Write the GitHub layout of a native folder beside it."""
    target.mkdir(parents=True, exist_ok=True)
    tensors = github_tensors(load_file(native / "model.safetensors"))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "model.safetensors").chmod(0o644)
    config = json.loads((native / "config.json").read_text())
    images = json.loads((native / "preprocessor_config.json").read_text())
    tile = images["size"]["height"]
    write_json(target / "config.json", github_config(config, images))
    old_form = {
        "crop_size": tile,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": images["image_mean"],
        "image_std": images["image_std"],
        "resample": 3,
        "size": tile,
    }
    write_json(target / "preprocessor_config.json", old_form)
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        shutil.copyfile(native / name, target / name)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON the way checkpoint folders have it."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
