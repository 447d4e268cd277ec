"""Layer names of the original architectures as names of the native model."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.recipe.original_names import entries, entry, native_names, pattern_of


@pytest.mark.parametrize(
    ("original", "native"),
    [
        ("model.layers.3.feed_forward.w2", ["model.layers.3.mlp.down_proj"]),
        ("model.layers.3.attention.wqkv", [f"model.layers.3.self_attn.{part}_proj" for part in "qkv"]),
        ("output", ["lm_head"]),
        ("transformer.encoder.layers.27.mlp.dense_4h_to_h", ["model.layers.27.mlp.down_proj"]),
        ("transformer.encoder.layers.0.mlp.dense_h_to_4h", ["model.layers.0.mlp.gate_up_proj"]),
        ("transformer.encoder.layers.0.self_attention.query_key_value",
         [f"model.layers.0.self_attn.{part}_proj" for part in "qkv"]),
        ("transformer.output_layer", ["lm_head"]),
        ("mlp1.1", ["model.multi_modal_projector.linear_1"]),
        ("mlp1.3", ["model.multi_modal_projector.linear_2"]),
        ("vision_model.encoder.layers.2.mlp.fc2", ["model.vision_tower.encoder.layer.2.mlp.fc2"]),
        ("vision_model.encoder.layers.2.attn.qkv",
         [f"model.vision_tower.encoder.layer.2.attention.{part}_proj" for part in "qkv"]),
        ("language_model.output", ["lm_head"]),
        ("language_model.model.layers.1.feed_forward.w1", ["model.language_model.layers.1.mlp.gate_proj"]),
        ("language_model.model.layers.1.mlp.down_proj", ["model.language_model.layers.1.mlp.down_proj"]),
        ("model.layers.1.mlp.down_proj", ["model.layers.1.mlp.down_proj"]),
        ("lm_head", ["lm_head"]),
        ("vision_model.encoder.layers.*.mlp.fc1", ["model.vision_tower.encoder.layer.*.mlp.fc1"]),
        ("*.w2", ["*mlp.down_proj"]),
        ("*query_key_value", ["*self_attn.q_proj", "*self_attn.k_proj", "*self_attn.v_proj"]),
        ("*.self_attention.*", ["*.self_attn.*"]),
        ("*.o_proj", ["*.o_proj"]),
        ("*mlp*", ["*mlp*"]),
        ("mlp1*", ["multi_modal_projector*"]),
    ],
)  # fmt: skip
def test_native_names(original: str, native: list[str]) -> None:
    assert list(native_names(original)) == native


def test_entries_come_once_and_say_whether_anything_was_translated() -> None:
    assert entries(["output", "lm_head", "model.layers.0.mlp.up_proj"]) == (("lm_head", "model.layers.0.mlp.up_proj"), True)
    assert entries(["lm_head"]) == (("lm_head",), False)
    assert entry("a.*") == r"re:a\..*$" and entry("a.b") == "a.b"


@given(st.text("ab.*?[]!{},\\-(", max_size=8), st.text("ab.{},", max_size=6))
def test_globs_mean_what_they_mean_elsewhere(glob: str, name: str) -> None:
    pattern = re.compile(pattern_of(glob), re.DOTALL)
    if not any(char in glob for char in "{["):
        assert bool(pattern.fullmatch(name)) == fnmatch.fnmatchcase(name, glob)


def test_braces_are_alternatives() -> None:
    pattern = re.compile(pattern_of("layers.{1,13}.mlp"))
    assert pattern.fullmatch("layers.13.mlp") and not pattern.fullmatch("layers.3.mlp")
