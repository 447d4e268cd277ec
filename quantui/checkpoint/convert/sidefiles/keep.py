"""Side files of a folder whose layout stays: everything beside the weights, untouched."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from quantui.checkpoint.convert.sidefiles.json_files import read_side

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".index.json")
"""How files end that hold weights or say where weights are; also what training leaves beside them (optimizer.pt)."""

CODE_MARKERS = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")


def keep_files(source: Path, config: dict[str, Any], target: Path) -> list[str]:
    """Copies the files at the top of the folder except weights, their index and config.json.

    Python files go along where one of the folder's files has an auto_map, as the model may not load without them.

    Returns:
        Notes.
    """
    code = "auto_map" in config or any("auto_map" in read_side(source, name) for name in CODE_MARKERS)
    copied = []
    for file in sorted(source.iterdir()):
        if not file.is_file() or file.name.startswith(".") or file.name == "config.json" or file.name.endswith(WEIGHTS):
            continue
        if file.suffix != ".py" or code:
            shutil.copyfile(file, target / file.name)
            copied.append(file)
    if any(file.suffix == ".py" for file in copied):
        return ["The folder keeps Python files, as its auto_map asks for them: it loads with trust_remote_code only."]
    return []
