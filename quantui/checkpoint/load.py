"""A model folder as a live model, and the same model on the meta device, which has names and shapes but no weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantui.checkpoint.inspect import Linear
from quantui.errors import CheckpointError


@dataclass(frozen=True)
class Outline:
    """What a model will be once loaded.

    Attributes:
        linears: every Linear by module name.
        classes: the names of all classes of its modules, base classes included.
        attention: module names of the attention layers that write a K/V cache.
        decoder: module name of the text decoder, "" if the model is nothing else.
    """

    linears: tuple[Linear, ...]
    classes: frozenset[str]
    attention: tuple[str, ...]
    decoder: str


def outline(folder: Path, *, image_text: bool, trust_remote_code: bool = False) -> Outline:
    """The outline of a model folder, from its config alone.

    Raises:
        CheckpointError: transformers has no model for the config.
    """
    return outline_of(empty_model(folder, image_text=image_text, trust_remote_code=trust_remote_code))


def empty_model(folder: Path, *, image_text: bool = False, trust_remote_code: bool = False) -> Any:
    """The model of a folder on the meta device, from its config alone.

    Raises:
        CheckpointError: transformers has no model for the config.
    """
    import torch
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            return _auto_class(image_text).from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # a class may raise anything on a config it was not made for
        raise _unloadable(folder, error) from error


def outline_of(model: Any) -> Outline:
    """The outline of a model that exists already."""
    import torch
    from compressed_tensors.quantization.lifecycle.initialize import is_cached_attention_module

    names = {"torch.bfloat16": "BF16", "torch.float16": "F16"}
    linears = tuple(
        Linear(name, module.out_features, module.in_features, names.get(str(module.weight.dtype), "F32"))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    )
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    return Outline(
        linears=linears,
        classes=frozenset(cls.__name__ for module in model.modules() for cls in type(module).__mro__),
        attention=tuple(name for name, module in model.named_modules() if is_cached_attention_module(module)),
        decoder=next((name for name, module in model.named_modules() if module is decoder), ""),
    )


def load_model(folder: Path, *, image_text: bool, trust_remote_code: bool = False) -> Any:
    """The model in evaluation mode, on the CPU, in the dtype it is stored in; pickles are read with weights_only.

    Raises:
        CheckpointError: transformers cannot load it, or would fill what the files lack with random numbers.
    """
    try:
        model, report = _auto_class(image_text).from_pretrained(
            folder, dtype="auto", trust_remote_code=trust_remote_code, weights_only=True, output_loading_info=True
        )
    except (MemoryError, RuntimeError):  # how memory runs out, which the worker explains
        raise
    except Exception as error:  # as above
        raise _unloadable(folder, error) from error
    quantized = getattr(model.config, "quantization_config", None) is not None  # its names are settled by who decompresses
    lacking = [] if quantized else sorted(set(report["missing_keys"]) & {name for name, _ in model.named_parameters()})
    if lacking:
        what = f"its config asks for {len(lacking)} tensors that its files do not hold, {lacking[0]} the first"
        raise CheckpointError(what, where=str(folder), todo="give it the config.json and all weight files of one model")
    return model.eval()


def _auto_class(image_text: bool) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if image_text else AutoModelForCausalLM


def _unloadable(folder: Path, error: Exception) -> CheckpointError:
    what = f"transformers cannot load the model ({' '.join(str(error).split())[:300]})"
    return CheckpointError(what, where=str(folder), todo="check that the folder is a native transformers checkpoint")
