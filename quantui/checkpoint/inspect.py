"""What a model is, from its headers and config alone: architecture, sizes, and the table of its Linear layers."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quantui.checkpoint.files import Checkpoint, Tensor, open_checkpoint
from quantui.errors import CheckpointError

DTYPES = {
    "BF16": "bf16",
    "F16": "fp16",
    "F32": "fp32",
    "F64": "fp64",
    "F8_E4M3": "fp8",
    "I8": "int8",
    "I32": "int32",
    "U8": "uint8",
}

NOT_LINEAR = re.compile(
    r"(^|\.)((?!patch_)\w*embed(dings?|s)?(_(tokens|positions|in)\w*)?|wte|wpe|shared|\w*norm\w*|ln_\w+|cls_token"
    r"|relative_attention_bias|(mlp|ffn|mixer|block_sparse_moe)\.gate|block_sparse_moe\.router(\.layer)?)$"
)
"""Modules that own a two-dimensional weight but are no nn.Linear, by the names transformers' models use: embeddings, norms, and
the routers of mixtures of experts."""

NOT_LINEAR_IN = {
    "gpt2": r"\.(c_attn|q_attn|c_proj|c_fc)$",  # transformers' transposed Conv1D, which the engine does not quantize
    "openai-gpt": r"\.(c_attn|c_proj|c_fc)$",
    "gpt_oss": r"\.router$",
}
"""What is no nn.Linear in models of one type only."""

CONVERTIBLE = ("internvl_chat", "internlm2", "internlm", "chatglm")
"""Model types whose own code no longer runs; `quantui.checkpoint.convert` makes native ones of them."""

Renames = tuple[tuple[str, str], ...]
_LLAVA: Renames = (
    (r"^language_model\.lm_head$", "lm_head"),
    (r"^language_model\.(model\.)?", "model.language_model."),
    (r"^((image_|video_|vision_)tower|vision_model|multi_modal_projector|vision_embed_tokens)(?=\.|$)", r"model.\1"),
)
_LLAVA_TYPES = (
    "aria", "aya_vision", "fuyu", "gemma3", "got_ocr2", "internvl", "llava", "llava_next", "llava_next_video",
    "llava_onevision", "mistral3", "mllama", "paligemma", "pp_chart2table", "video_llava", "vipllava",
)  # fmt: skip
_QWEN_VL: Renames = (
    (r"^visual\.", "model.visual."),
    (r"^model\.(?!language_model\.|visual\.)", "model.language_model."),
)
_MIXTRAL: Renames = (
    (r"\.block_sparse_moe\.", ".mlp."),
    (r"(\.experts\.\d+)\.w1$", r"\1.gate_proj"),
    (r"(\.experts\.\d+)\.w2$", r"\1.down_proj"),
    (r"(\.experts\.\d+)\.w3$", r"\1.up_proj"),
)
MODULE_RENAMES: dict[str, Renames] = {
    "gpt_neox": ((r"^embed_out$", "lm_head"),),
    "phimoe": (*_MIXTRAL, (r"\.mlp\.gate$", ".mlp.router")),
    **dict.fromkeys(("mixtral", "minimax", "minimax_m2"), _MIXTRAL),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), _QWEN_VL),
    **dict.fromkeys(_LLAVA_TYPES, _LLAVA),
}
"""By model type, checkpoint name to module name, each pair applied in turn; other types store their tensors by module name.
Sources: transformers/conversion_mapping.py of 5.17; llmcompressor/modeling/moe/linear_experts.py of 0.14.0.1 for experts."""


@dataclass(frozen=True)
class Linear:
    """One Linear layer by its module name; the weight is (out_features, in_features)."""

    name: str
    out_features: int
    in_features: int
    dtype: str

    @property
    def parameters(self) -> int:
        """Number of weight elements."""
        return self.out_features * self.in_features


@dataclass(frozen=True)
class ModelSummary:
    """What a person wants to know of a model folder before anything is loaded.

    Attributes:
        name: the folder's name.
        architecture: the class name config.json gives ("LlamaForCausalLM").
        family: the same without its ending ("Llama").
        kind: whether it reads pictures too.
        parameters: number of elements of all tensors.
        dtype: what most of them are stored as.
        bytes: size of the weight files.
        blocks: number of decoder blocks, 0 when the config does not say.
        quantized: the method a quantized checkpoint names ("compressed-tensors"), else None.
        remote_code: True when transformers has no class of its own for it.
    """

    name: str
    architecture: str
    family: str
    kind: Literal["text", "image-text"]
    parameters: int
    dtype: str
    bytes: int
    blocks: int
    quantized: str | None
    remote_code: bool


def summarize(folder: Path) -> ModelSummary:
    """The summary of a model folder.

    Raises:
        CheckpointError: it is not a whole model folder.
    """
    return summary_of(open_checkpoint(folder))


def summary_of(checkpoint: Checkpoint) -> ModelSummary:
    """The summary of an opened checkpoint; what the config says in no sensible way counts as not said."""
    config = checkpoint.config
    text = section(config, "text_config") or section(config, "llm_config") or config
    named = config.get("architectures")
    architecture = str(named[0] if isinstance(named, list) and named else config.get("model_type", "unknown"))
    dtypes = Counter[str]()
    for tensor in checkpoint.tensors.values():
        dtypes[tensor.dtype] += tensor.nbytes
    stored = dtypes.most_common(1)[0][0] if dtypes else "unknown"
    return ModelSummary(
        name=checkpoint.folder.name,
        architecture=architecture,
        family=re.sub(r"(For[A-Z]\w*|LMHeadModel|Model)$", "", architecture),
        kind="image-text" if "vision_config" in config else "text",
        parameters=sum(tensor.elements for tensor in checkpoint.tensors.values()),
        dtype=DTYPES.get(stored, stored.lower()),
        bytes=checkpoint.nbytes,
        blocks=whole(text, "num_hidden_layers") or whole(text, "num_layers"),
        quantized=_quant_method(config),
        remote_code=needs_remote_code(config),
    )


def section(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of a config that is a mapping; {} if it is not there or no mapping."""
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def whole(config: dict[str, Any], name: str) -> int:
    """A positive whole number of a config; 0 if it is not there or none."""
    value = config.get(name)
    return value if type(value) is int and value > 0 else 0


def _quant_method(config: dict[str, Any]) -> str | None:
    quantization = section(config, "quantization_config")
    return str(quantization.get("quant_method") or "unknown") if quantization else None


def needs_remote_code(config: dict[str, Any]) -> bool:
    """Whether no class of the installed transformers takes this config, so that code from the folder would have to run."""
    return str(config.get("model_type", "")) not in native_model_types()


@functools.cache
def native_model_types() -> frozenset[str]:
    """The model types transformers has classes for; its tables are read as text, since importing them takes seconds."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    folder = Path(next(iter(spec.submodule_search_locations))) / "models" / "auto"
    tables = [(folder / name).read_text(encoding="utf-8") for name in ("auto_mappings.py", "configuration_auto.py")]
    return frozenset(re.findall(r'"([\w.-]+)"[,:] "(?!AutoConfig)\w+Config"', "\n".join(tables)))


def check_loadable(checkpoint: Checkpoint, *, trust_remote_code: bool) -> None:
    """Refuses what cannot be quantized as it is.

    Raises:
        CheckpointError: it needs remote code that was not allowed, it is quantized by another method already, or its weights
            have a name that transformers does not look for.
    """
    config, where = checkpoint.config, str(checkpoint.folder)
    if config.get("model_type") in CONVERTIBLE and not trust_remote_code:
        what = f"model type {config.get('model_type')!r} is an original layout, which today's transformers does not load"
        raise CheckpointError(what, where=where, todo="convert it first: the Convert tab, or `python -m quantui convert`")
    if needs_remote_code(config) and not trust_remote_code:
        raise CheckpointError(
            f"model type {config.get('model_type')!r} needs Python code that comes with the model, which is not run unasked",
            where=where,
            todo="read that code and allow it with --trust-remote-code, or use the model's native transformers checkpoint",
        )
    method = _quant_method(config)
    if method is not None and method != "compressed-tensors":
        raise CheckpointError(f"the model is quantized already ({method})", where=where, todo="start from its float checkpoint")
    shards = {tensor.shard for tensor in checkpoint.tensors.values()}
    expected = ("model.safetensors", "pytorch_model.bin")
    if len(shards) == 1 and not any(
        (checkpoint.folder / name).is_file() for file in expected for name in (file, f"{file}.index.json")
    ):
        what = f"transformers does not look for weights in a file named {next(iter(shards)).name}"
        raise CheckpointError(what, where=where, todo=f"rename it {expected[checkpoint.pickled]}")


def weight_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """(module name, tensor) of every two-dimensional `.weight`."""
    renames = [
        (re.compile(pattern), name) for pattern, name in MODULE_RENAMES.get(str(checkpoint.config.get("model_type", "")), ())
    ]
    for tensor in checkpoint.tensors.values():
        name, _, leaf = tensor.name.rpartition(".")
        if leaf == "weight" and len(tensor.shape) == 2:
            for pattern, replacement in renames:
                name = pattern.sub(replacement, name)
            yield name, tensor


def linear_layers(checkpoint: Checkpoint) -> list[Linear]:
    """The Linear layers by module name, in the order of the blocks.

    From headers: every two-dimensional `.weight` that is no embedding, norm or convolution. A tied lm_head has no tensor
    of its own and is not listed.
    """
    model_type = str(checkpoint.config.get("model_type", ""))
    no_linear = re.compile("|".join([NOT_LINEAR.pattern, *filter(None, [NOT_LINEAR_IN.get(model_type)])]))
    layers = [
        Linear(name, tensor.shape[0], tensor.shape[1], tensor.dtype)
        for name, tensor in weight_tensors(checkpoint)
        if not no_linear.search(name)
    ]
    return sorted(layers, key=lambda layer: _natural(layer.name))


def _natural(name: str) -> list[int | str]:
    """A sort key that puts layer 2 before layer 10."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name))]
