"""A folder as a live model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from quantui.checkpoint.load import load_model
from quantui.errors import CheckpointError
from quantui.workspace import ASSETS

pytestmark = pytest.mark.engine


def test_what_the_files_lack_is_not_filled_with_random_numbers(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ASSETS / "demo" / "chat", tmp_path / "chat"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": config["num_hidden_layers"] + 1}))
    with pytest.raises(CheckpointError, match=r"9 tensors that its files do not hold, model\.layers\.4\.input_layernorm"):
        load_model(folder, image_text=False)
