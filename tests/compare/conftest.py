"""Tiny models, and what quantization makes of them, once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quantui.compare.pair import Pair, open_pair
from tests.compare.made import save_quantized
from tests.models import tiny

OpenPair = Callable[[str], Pair]


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama folder in float32, so that what rounding differs by shows."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tiny.save_llama(tmp_path_factory.mktemp("llama") / "model")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in bfloat16, which NVFP4 weights always come back in."""
    return tiny.save_llama(tmp_path_factory.mktemp("bf16") / "model")


@pytest.fixture(scope="session")
def quantized(llama: Path, bf16: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a scheme by its name in `made.SCHEMES`."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = save_quantized(bf16 if name == "nvfp4" else llama, tmp_path_factory.mktemp(name) / "out", name)
        return made[name]

    return get


@pytest.fixture(scope="session")
def open_one(llama: Path, bf16: Path, quantized: Callable[[str], Path]) -> OpenPair:
    """The pair of a scheme; one for the session, so a test leaves its switches on."""
    made: dict[str, Pair] = {}

    def get(name: str) -> Pair:
        if name not in made:
            made[name] = open_pair(bf16 if name == "nvfp4" else llama, quantized(name))
        return made[name]

    return get
