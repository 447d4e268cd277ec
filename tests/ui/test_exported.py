"""The buttons that export a result, and the card of a finished export."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantui.ui.i18n import translator
from quantui.ui.widgets.exported import export_buttons, exported_card
from quantui.workspace import RECIPES


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_every_format_has_a_button_and_a_reason_where_it_cannot_be(language: str) -> None:
    t = translator(language)
    made = str(export_buttons(t, "run-1", (RECIPES / "fp8-w8a8-kv8.yaml").read_text(encoding="utf-8")))
    assert 'data-format="awq" disabled' in made or ("disabled" in made and 'data-format="awq"' in made)
    assert 'data-run="run-1"' in made and 'data-format="compressed-tensors"' not in made
    assert export_buttons(t, "run-1", "nothing") is None
    if language == "zh-CN":
        assert "AWQ 的输入保持浮点" in made


def test_the_card_tells_format_proof_and_folder(tmp_path: Path) -> None:
    result = {
        "format": "awq", "source_format": "compressed-tensors", "largest_deviation": 0.0, "tensors": 3, "layers": 14,
        "bytes_before": 1000, "bytes_after": 900, "files": ["model.safetensors"], "peak_memory_bytes": 5, "seconds_total": 1.0,
        "seconds": {"write": 1.0}, "out": str(tmp_path / "<made>"),
    }  # fmt: skip
    made = str(exported_card(translator("en"), result))
    assert "every weight is the same" in made and "from compressed-tensors" in made and "&lt;made&gt;" in made
    assert "0.002" in str(exported_card(translator("en"), result | {"largest_deviation": 0.002}))
