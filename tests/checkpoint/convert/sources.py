"""Checkpoints in the layouts of their authors, made of transformers' random models by renaming written a second time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from quantui.checkpoint.convert.run import convert
from quantui.events import EventReader, EventWriter, Stamped
from quantui.spec import ConvertSpec

UPSTREAM = Path(__file__).parents[2] / "fixtures" / "upstream"
IMAGE = 96
"""The image token of every model made here."""

TEXT: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2, "rms_norm_eps": 1e-5,
    "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SIGHT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 2, "attention_bias": True,
    "use_qk_norm": False, "norm_type": "layer_norm", "layer_norm_eps": 1e-6, "initializer_range": 0.2,
}  # fmt: skip
INSIDE = {
    "lambda_1": "ls1", "lambda_2": "ls2", "layernorm_before": "norm1", "layernorm_after": "norm2",
    "attention.projection_layer": "attn.proj", "attention.q_norm": "attn.q_norm", "attention.k_norm": "attn.k_norm",
}  # fmt: skip
OUTSIDE = {
    "vision_tower.embeddings.cls_token": "vision_model.embeddings.class_embedding",
    "vision_tower.embeddings.position_embeddings": "vision_model.embeddings.position_embedding",
    "vision_tower.embeddings.patch_embeddings.projection": "vision_model.embeddings.patch_embedding",
    "multi_modal_projector.layer_norm": "mlp1.0", "multi_modal_projector.linear_1": "mlp1.1",
    "multi_modal_projector.linear_2": "mlp1.3",
}  # fmt: skip
INTERNLM2 = {
    "embed_tokens": "tok_embeddings", "lm_head": "output", "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2",
}  # fmt: skip

Tensors = dict[str, Any]


def random(model: Any, dtype: Any = None) -> Any:
    """The model with norms and biases that are random too, as fresh ones are ones and zeros that would hide mistakes."""
    import torch

    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.to(dtype).eval() if dtype else model.eval()


def native_text(kind: str, dtype: Any = None, **options: Any) -> Any:
    """A random text model of transformers: Llama, Qwen2, Qwen3, Glm ..."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**TEXT | options)
    return random(getattr(transformers, f"{kind}ForCausalLM")(config), dtype)


def native_internvl(kind: str, sight: Mapping[str, Any] | None = None, *, dtype: Any = None, side: int = 28,
                    tile: int = 28, layer: int = -1, **options: Any) -> Any:  # fmt: skip
    """A random native InternVL of patches of 7, with pictures of `tile` and position embeddings of `side` pixels."""
    import torch
    import transformers

    torch.manual_seed(0)
    text = getattr(transformers, f"{kind}Config")(**TEXT | options)
    vision = transformers.InternVLVisionConfig(
        **SIGHT | dict(sight or {}), image_size=[side, side], patch_size=[7, 7], layer_scale_init_value=0.1
    )
    config = transformers.InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=(tile // 14) ** 2,
        downsample_ratio=0.5, vision_feature_layer=layer, tie_word_embeddings=text.tie_word_embeddings,
    )  # fmt: skip
    return random(transformers.InternVLForConditionalGeneration(config), dtype)


def saved(model: Any, folder: Path) -> Tensors:
    """What transformers itself writes of a model, by the names it writes."""
    model.save_pretrained(folder)
    return tensors_of(folder)


def tensors_of(folder: Path) -> Tensors:
    """Every tensor of every safetensors file of a folder."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def as_internlm2(tensors: Tensors, heads: int = 6, kv_heads: int = 2) -> Tensors:
    """Llama's tensors as InternLM2 stores them: for each key head its query heads, then the key, then the value."""
    import torch

    made = {}
    for name, tensor in tensors.items():
        if any(f"self_attn.{part}_proj" in name for part in "kv"):
            continue
        if "self_attn.q_proj" in name:
            query, key, value = (tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv")
            blocks = zip(query.chunk(kv_heads), key.chunk(kv_heads), value.chunk(kv_heads), strict=True)
            assert len(query) // heads * kv_heads == len(key)
            made[name.replace("self_attn.q_proj", "attention.wqkv")] = torch.cat([torch.cat(block) for block in blocks])
            continue
        for native, original in INTERNLM2.items():
            name = name.replace(native, original)
        made[name] = tensor
    return made


def as_github(native: Tensors, *, fused: bool = False, kv_heads: int = 2) -> Tensors:
    """A native InternVL's tensors as OpenGVLab's repository stores them."""
    import torch

    made = {}
    for name, tensor in native.items():
        if name.startswith("language_model."):
            made[name] = tensor
            continue
        if "attention.k_proj" in name or "attention.v_proj" in name:
            continue
        if "attention.q_proj" in name:
            tensor = torch.cat([native[name.replace("q_proj", f"{part}_proj")] for part in "qkv"], dim=0)
            name = name.replace("attention.q_proj", "attn.qkv")
        name = name.replace("vision_tower.encoder.layer.", "vision_model.encoder.layers.")
        for here, there in {**OUTSIDE, **(INSIDE if ".layers." in name else {})}.items():
            name = name.replace(here, there)
        made[name] = tensor
    if not fused:
        return made
    words = {name: tensor for name, tensor in made.items() if name.startswith("language_model.")}
    return {name: tensor for name, tensor in made.items() if name not in words} | as_internlm2(words, 6, kv_heads)


def old_rope(config: dict[str, Any]) -> dict[str, Any]:
    """rope_theta and rope_scaling as the fourth generation of transformers wrote them."""
    rope = dict(config["rope_parameters"])
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type")
    return {"rope_theta": theta, "rope_scaling": None if kind == "default" else rope | {"type": kind}}


def text_config(model: Any, architecture: str = "") -> dict[str, Any]:
    """The config of a text part as its authors wrote it."""
    config = json.loads(model.config.get_text_config().to_json_string())
    kept = {name: config[name] for name in (*TEXT, "hidden_act", "tie_word_embeddings", "attention_bias") if name in config}
    kept |= {"head_dim": config["head_dim"]} if config["model_type"] == "qwen3" else {}
    name = architecture or f"{type(model.config.get_text_config()).__name__.removesuffix('Config')}ForCausalLM"
    kind = config["model_type"]
    if name.startswith("InternLM"):
        kind = "internlm2" if "2" in name else "internlm"
        kept["bias"] = kept.pop("attention_bias")
    return {**kept, **old_rope(config), "architectures": [name], "model_type": kind, "torch_dtype": "float32"}


def github_config(model: Any, architecture: str = "", *, tile: int = 28) -> dict[str, Any]:
    """config.json as OpenGVLab's repository writes it."""
    sight = model.config.vision_config
    return {
        "architectures": ["InternVLChatModel"], "model_type": "internvl_chat", "downsample_ratio": 0.5,
        "dynamic_image_size": True, "force_image_size": tile, "llm_config": text_config(model, architecture),
        "max_dynamic_patch": 12, "min_dynamic_patch": 1, "ps_version": "v2", "template": "internvl2_5",
        "select_layer": model.config.vision_feature_layer, "torch_dtype": "float32", "use_thumbnail": True,
        "vision_config": {
            "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "attention_dropout": 0.0,
            "hidden_act": "gelu", "hidden_size": sight.hidden_size, "image_size": sight.image_size[0],
            "initializer_factor": 0.1, "intermediate_size": sight.intermediate_size, "layer_norm_eps": 1e-6,
            "norm_type": sight.norm_type, "num_attention_heads": sight.num_attention_heads, "num_channels": 3,
            "num_hidden_layers": sight.num_hidden_layers, "patch_size": sight.patch_size[0],
            "qk_normalization": sight.use_qk_norm, "qkv_bias": sight.attention_bias, "dropout": 0.0,
        },
    }  # fmt: skip


def write(folder: Path, config: Mapping[str, Any], tensors: Tensors, shards: int = 1) -> Path:
    """A checkpoint folder of safetensors files."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    files: dict[str, Tensors] = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        files.setdefault(f"model-{number % shards + 1:05}-of-{shards:05}.safetensors", {})[name] = tensor
    for file, held in files.items():
        save_file(held, folder / file, {"format": "pt"})
    index = {name: file for file, held in files.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def write_bins(folder: Path, config: Mapping[str, Any], *files: Tensors) -> Path:
    """A checkpoint folder of pickles."""
    import torch

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if len(files) == 1:
        torch.save(files[0], folder / "pytorch_model.bin")
        return folder
    index = {}
    for number, held in enumerate(files):
        file = f"pytorch_model-{number + 1:05}-of-{len(files):05}.bin"
        torch.save(held, folder / file)
        index |= dict.fromkeys(held, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


_runs = count()


def spec_of(source: Path, target: Path, **options: Any) -> ConvertSpec:
    """A convert job; pictures stand where IMAGE does."""
    return ConvertSpec(name="test", model=str(source), out=str(target), **{"image_token_id": IMAGE, **options})


def run(source: Path, target: Path, **options: Any) -> dict[str, Any]:
    """Converts in this process, without the comparison of logits unless asked for; returns the result."""
    return told(source, target, **options)[0]


def told(source: Path, target: Path, **options: Any) -> tuple[dict[str, Any], list[Stamped]]:
    """The same, with the events."""
    events = source.parent / f"events-{next(_runs)}.jsonl"
    writer = EventWriter(events)
    try:
        result = convert(spec_of(source, target, **{"verify": False, **options}), writer, source.parent)
    finally:
        writer.close()
    return result, EventReader(events).read()


def same(first: Tensors, second: Tensors) -> None:
    """Both hold the same names, dtypes, shapes and bytes."""
    import torch

    assert sorted(first) == sorted(second)
    for name, tensor in first.items():
        other = second[name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), name
        assert torch.equal(tensor.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8)), name
