"""The result as a folder that re-opens: weights, processor, sidecar files, the recipe, and a config both readers understand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from quantui.recipe import llmcompressor
from quantui.recipe.schema import Recipe
from quantui.workspace import write_json

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".msgpack", ".h5")
NOT_SIDECARS = ("config.json", "recipe.yaml", "model.safetensors.index.json", "pytorch_model.bin.index.json", ".gitattributes")


def save(model: Any, processor: Any, source: Path, target: Path, recipe: Recipe) -> None:
    """Writes everything a loader needs into `target`.

    The live model is compressed in place: whoever needs its float weights must have used them before.

    Args:
        processor: None where the model has none.
        source: the float model's folder, whose other files (tokenizer, templates, licence ...) are taken along.
    """
    from llmcompressor.transformers.compression import compressed_tensors_utils as engine

    engine.update_and_save_recipe = lambda *_: None  # its recipe.yaml cannot always be read back; ours is written below
    model.save_pretrained(target, save_compressed=True)
    if processor is not None:
        processor.save_pretrained(target)
    copy_sidecars(source, target)
    (target / "recipe.yaml").write_text(llmcompressor.dumps(recipe, comment="Made by QuantUI."), encoding="utf-8")
    write_both_ignores(target / "config.json", _float_linears(model))
    for file in target.iterdir():
        file.chmod(0o644)  # transformers leaves the weights readable to their owner only


def copy_sidecars(source: Path, target: Path) -> None:
    """Copies files of the source folder that are no weights and that the target has not got, Python code included."""
    for file in source.iterdir():
        plain = file.is_file() and not file.name.startswith(".")
        if plain and file.suffix not in WEIGHTS and file.name not in NOT_SIDECARS and not (target / file.name).exists():
            shutil.copy2(file, target / file.name)


def write_both_ignores(config_file: Path, float_layers: list[str]) -> None:
    """Completes `ignore` in a saved config: the engine writes checkpoint names, transformers looks for module names."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    quantization = config.get("quantization_config")
    if quantization is None:
        return
    written = list(quantization.get("ignore") or [])
    quantization["ignore"] = written + [name for name in float_layers if name not in set(written)]
    write_json(config_file, config)


def folder_bytes(folder: Path) -> int:
    """Size of the weight files of a folder in bytes."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix in WEIGHTS)


def _float_linears(model: Any) -> list[str]:
    """Module names of the Linears that stayed float, where any Linear was quantized at all."""
    import torch

    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    return [name for name, module in linears if getattr(module, "quantization_scheme", None) is None]
