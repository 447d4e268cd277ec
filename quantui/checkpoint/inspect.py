"""What a model is, from its headers and config alone: architecture, sizes, and the table of its Linear layers."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quantui.checkpoint.files import Checkpoint, open_checkpoint
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
    r"(^|[._])(embed\w*|wte|wpe|word_embeddings|tok_embeddings|shared|norm\w*|layernorm\w*|ln_\w+|conv\d?|cls_token)(\.|$)"
)
"""Modules that own a two-dimensional weight but are no Linear, by the names transformers' models use."""

MODULE_RENAMES = (
    (re.compile(r"^language_model\.model\."), "model.language_model."),
    (re.compile(r"^language_model\.lm_head$"), "lm_head"),
    (re.compile(r"^(vision_tower|vision_model|visual|multi_modal_projector|connector)\."), r"model.\1."),
)
"""Checkpoint name to module name for image-text models of transformers 5. Source: transformers/conversion_mapping.py."""


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
    """The summary of an opened checkpoint."""
    config = checkpoint.config
    text = config.get("text_config") or config.get("llm_config") or config
    architecture = next(iter(config.get("architectures") or []), str(config.get("model_type", "unknown")))
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
        blocks=int(text.get("num_hidden_layers") or text.get("num_layers") or 0),
        quantized=(config.get("quantization_config") or {}).get("quant_method"),
        remote_code=needs_remote_code(config),
    )


def needs_remote_code(config: dict[str, Any]) -> bool:
    """Whether no class of the installed transformers takes this config, so that code from the folder would have to run."""
    return str(config.get("model_type", "")) not in native_model_types()


@functools.cache
def native_model_types() -> frozenset[str]:
    """The model types transformers has classes for; its table is read as text, since importing it takes seconds."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    table = Path(next(iter(spec.submodule_search_locations))) / "models" / "auto" / "auto_mappings.py"
    return frozenset(re.findall(r'\("([\w.-]+)", "\w+Config"\)', table.read_text(encoding="utf-8")))


def check_loadable(checkpoint: Checkpoint, *, trust_remote_code: bool) -> None:
    """Refuses what cannot be quantized as it is.

    Raises:
        CheckpointError: it needs remote code that was not allowed, or it is quantized by another method already.
    """
    config, where = checkpoint.config, str(checkpoint.folder)
    if needs_remote_code(config) and not trust_remote_code:
        raise CheckpointError(
            f"model type {config.get('model_type')!r} needs Python code that comes with the model, which is not run unasked",
            where=where,
            todo="read that code and allow it with --trust-remote-code, or use the model's native transformers checkpoint",
        )
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method is not None and method != "compressed-tensors":
        raise CheckpointError(f"the model is quantized already ({method})", where=where, todo="start from its float checkpoint")


def linear_layers(checkpoint: Checkpoint) -> list[Linear]:
    """The Linear layers by module name, in the order of the blocks.

    From headers: every two-dimensional `.weight` that is no embedding, norm or convolution. A tied lm_head has no tensor
    of its own and is not listed.
    """
    image_text = "vision_config" in checkpoint.config
    layers = []
    for tensor in checkpoint.tensors.values():
        name, _, leaf = tensor.name.rpartition(".")
        if leaf == "weight" and len(tensor.shape) == 2 and not NOT_LINEAR.search(name):
            module = _module_name(name) if image_text else name
            layers.append(Linear(module, tensor.shape[0], tensor.shape[1], tensor.dtype))
    return sorted(layers, key=lambda layer: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", layer.name)])


def _module_name(name: str) -> str:
    for pattern, replacement in MODULE_RENAMES:
        renamed, count = pattern.subn(replacement, name)
        if count:
            return renamed
    return name
