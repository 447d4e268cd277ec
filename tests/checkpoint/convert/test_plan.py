"""Plans of configs that are wrong in any way: a sentence each, no traceback, no endless loop, no memory. No torch."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantui.checkpoint.convert.config import github_config
from quantui.checkpoint.convert.kinds import KINDS
from quantui.checkpoint.convert.plan import Plan, make_plan, refuse
from quantui.checkpoint.convert.prepare import plan_of, prepare_conversion
from quantui.checkpoint.files import Checkpoint, Tensor, open_checkpoint
from quantui.errors import CheckpointError
from tests.checkpoint import shards
from tests.checkpoint.convert.sources import UPSTREAM, spec_of

NAMES = ("chatglm2", "internlm2-text", "internvl-internlm2-github", "internvl-qwen2-github", "native")
BAD: list[Any] = [
    None, "", "x", "7", [], [1], {}, {"a": 1}, -1, 0, 1, 2, 3, 10**9, 10**30, 10**400, 1.5, float("inf"), float("nan"), True,
    False, ["a"], [None], [[]], {"type": "dynamic"}, {"type": 7, "factor": "x"}, 1e308, 1e-308, -1e-9, "GPT2LMHeadModel",
]  # fmt: skip
MORE = (
    "rope_scaling", "rope_parameters", "rope_theta", "head_dim", "rope_ratio", "auto_map", "_name_or_path", "rotary",
    "quantization_config", "hidden_act", "tie_word_embeddings", "attention_bias", "num_key_value_heads", "architectures",
    "model_type", "select_layer", "vision_feature_layer", "image_token_id", "quantization_bit", "pre_seq_len",
    "vision_config", "llm_config", "text_config", "layernorm_epsilon", "use_llm_lora", "norm_type", "n_layer", "depth",
)  # fmt: skip


@cache
def checkpoint(name: str) -> Checkpoint:
    """A fixture, or a native InternVL made of one by hand."""
    if name != "native":
        return open_checkpoint(UPSTREAM / name)
    original = checkpoint("internvl-qwen2-github")
    plan = make_plan(original, image_token_id=299)
    tensors = {move.target.name: Tensor(move.target.name, Path("x"), "F32", move.target.shape) for move in plan.moves}
    return Checkpoint(original.folder, plan.config, tensors, pickled=False)


def places(config: dict[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every field of a config, and some that are not there."""
    yield from ((*at, name) for name in (*config, *MORE))
    for name in ("llm_config", "vision_config", "text_config"):
        if not at and isinstance(config.get(name), dict):
            yield from places(config[name], (name,))


def changed(config: dict[str, Any], at: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The config with one field changed."""
    config = dict(config)
    if len(at) == 1:
        config[at[0]] = value
    elif isinstance(config.get(at[0]), dict):
        config[at[0]] = changed(config[at[0]], at[1:], value)
    return config


def planned(name: str, config: dict[str, Any]) -> Plan | None:
    """The plan, None where there is none; anything but a CheckpointError goes on up."""
    begun = time.process_time()
    try:
        return make_plan(replace(checkpoint(name), config=config), image_token_id=7)
    except CheckpointError as error:
        assert error.what and error.todo
        return None
    finally:
        assert time.process_time() - begun < 5


@settings(max_examples=4 * settings().max_examples)
@given(data=st.data())
def test_a_config_with_wrong_values_never_breaks_the_plan(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    config = checkpoint(name).config
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(list(places(checkpoint(name).config))))
        config = changed(config, at, data.draw(st.sampled_from(BAD)))
    planned(name, config)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MORE), inner, max_size=4),
    max_leaves=8,
)


@given(name=st.sampled_from(NAMES), body=st.dictionaries(st.sampled_from(MORE), VALUES))
def test_any_config_at_all_is_planned_or_refused(name: str, body: dict[str, Any]) -> None:
    planned(name, checkpoint(name).config | body)
    planned(name, {"model_type": checkpoint(name).config["model_type"]} | body)


@pytest.mark.parametrize("value", [10**9, 10**30, 5000])
@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("chatglm2", ("num_layers",)),
        ("chatglm2", ("num_attention_heads",)),
        ("internlm2-text", ("num_hidden_layers",)),
        ("internlm2-text", ("num_key_value_heads",)),
        ("internvl-qwen2-github", ("llm_config", "num_hidden_layers")),
        ("internvl-internlm2-github", ("vision_config", "num_hidden_layers")),
        ("native", ("text_config", "num_hidden_layers")),
    ],
)
def test_huge_numbers_are_refused_at_once(name: str, at: tuple[str, ...], value: int) -> None:
    plan = planned(name, changed(checkpoint(name).config, at, value))
    assert plan and plan.problems[0].name == "config.json" and at[-1] in plan.problems[0].what


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("internvl-qwen2-github", {"llm_config": None}, "llm_config names nothing"),
        ("internvl-qwen2-github", {"llm_config": 7}, "llm_config is 7, which is not a table"),
        ("internvl-qwen2-github", {"ps_version": "v1"}, "ps_version is not v2"),
        ("internvl-qwen2-github", {"use_llm_lora": 16}, "merge the LoRA weights"),
        ("internvl-qwen2-github", {"use_backbone_lora": 8}, "merge the LoRA weights"),
        ("internvl-qwen2-github", {"select_layer": -4}, "select_layer is -4, and vision_config has 2 layers"),
        ("internvl-qwen2-github", {"downsample_ratio": 0}, "downsample_ratio is 0, which is not a number above 0"),
        ("internlm2-text", {"num_key_value_heads": 4}, "num_key_value_heads is 4, which does not divide the 6"),
        ("internlm2-text", {"architectures": ["InternLM2ForRewardModel"]}, "has another head"),
        ("internlm2-text", {"rope_scaling": [1]}, "rope_scaling is [1], which is not a table"),
        ("chatglm2", {"pre_seq_len": 128}, "P-Tuning"),
        ("chatglm2", {"quantization_bit": 4}, "quantized by ChatGLM's own code"),
        ("chatglm2", {"vision_config": {}}, "GLM-4V"),
        ("chatglm2", {"rope_ratio": 3}, "nothing tells"),
        ("chatglm2", {"rope_ratio": [3]}, "rope_ratio is [3], which is not a number above zero"),
        ("chatglm2", {"add_bias_linear": True}, "biases in every Linear"),
        ("chatglm2", {"hidden_size": "64"}, "hidden_size is '64', which is not a whole number above zero"),
        ("native", {"text_config": {"model_type": "gemma"}}, "OpenGVLab's code has"),
    ],
    ids=str,
)
def test_what_has_no_native_counterpart_is_said(name: str, change: dict[str, Any], said: str) -> None:
    plan = planned(name, checkpoint(name).config | change)
    assert plan
    with pytest.raises(CheckpointError) as caught:
        refuse(plan)
    assert said in caught.value.what and not plan.moves


def test_kinds_without_a_conversion_name_those_that_have_one(tmp_path: Path) -> None:
    def refused(config: dict[str, Any]) -> CheckpointError:
        with pytest.raises(CheckpointError) as caught:
            make_plan(replace(checkpoint("internlm2-text"), config=config))
        return caught.value

    error = refused({"model_type": "baichuan"})
    assert "'baichuan'" in error.what and all(kind.source in error.todo for kind in KINDS.values())
    assert "native already" in refused({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}).what
    for name in ("internlm2-text", "internvl-qwen2-github", "chatglm2"):
        quantized = checkpoint(name).config | {"quantization_config": {"quant_method": "awq"}}
        assert "quantized already (awq)" in refused(quantized).what
    assert "weight_block_size" in str(planned("internlm2-text", {"model_type": "llama", "quantization_config": {
        "quant_method": "fp8"}}))  # fmt: skip


def test_an_image_token_outside_the_vocabulary() -> None:
    for number in (300, -1, 10**12):
        plan = make_plan(checkpoint("internvl-qwen2-github"), image_token_id=number)
        assert plan.problems[0].what == f"{number} stands for a picture, and the model has 300 rows for tokens"


def test_many_problems_are_told_at_once_and_cut_short() -> None:
    source = checkpoint("internvl-qwen2-github")
    few = dict(list(source.tensors.items())[:40])
    with pytest.raises(CheckpointError) as caught:
        refuse(make_plan(replace(source, tensors=few), image_token_id=7))
    assert caught.value.what.count(" is missing") == 20 and caught.value.what.endswith("more")


def test_pictures_that_make_no_sense_are_found_without_a_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    shutil.copytree(UPSTREAM / "internvl-qwen2-github", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"force_image_size": 7}))
    plan = plan_of(spec_of(folder, tmp_path / "made", image_token_id=299))
    assert any("sizes of pictures make no sense" in problem.what for problem in plan.problems)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="nothing tells which token stands for a picture"):
        prepare_conversion(None, model=str(folder), out=str(tmp_path / "made"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read(tmp_path: Path) -> None:
    folder = shards.write_llama(tmp_path / "source", model_type="internlm2", architectures=["InternLM2ForCausalLM"])
    (folder / "model.safetensors").chmod(0)
    with pytest.raises(CheckpointError, match="cannot be read"):
        prepare_conversion(None, model=str(folder), out=str(tmp_path / "made"))


@pytest.mark.parametrize("written", [{"llm_config": {"rope_scaling": 7}}, {"vision_config": []}, {"select_layer": "x"}])
def test_a_record_that_makes_no_sense_is_passed_over(tmp_path: Path, written: dict[str, Any]) -> None:
    native = checkpoint("native")
    kept = checkpoint("internvl-qwen2-github").config
    for body in (kept | written, kept | {"llm_config": kept["llm_config"] | {"rope_theta": 5.0}}, written):
        (tmp_path / "quantui_conversion.json").write_text(json.dumps({"source_config": body, "dropped": []}))
        plan = make_plan(replace(native, folder=tmp_path))
        assert plan.config["llm_config"] == github_config(native.config, "float32")["llm_config"] and not plan.problems
    (tmp_path / "quantui_conversion.json").write_text(json.dumps({"source_config": kept}))
    assert make_plan(replace(native, folder=tmp_path)).config == kept
