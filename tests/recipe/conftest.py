"""Tiny live modules for comparisons with the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def live_llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of a tiny Llama, and the model it loads as."""
    from transformers import AutoModelForCausalLM

    from tests.models.tiny import save_llama

    folder = save_llama(tmp_path_factory.mktemp("live") / "llama")
    return folder, AutoModelForCausalLM.from_pretrained(folder)
