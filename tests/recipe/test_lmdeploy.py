"""Command lines of `lmdeploy lite` in every spelling."""

from __future__ import annotations

import pytest

from quantui.errors import RecipeError
from quantui.recipe.imported import Imported
from quantui.recipe.importing import import_text
from quantui.recipe.lmdeploy_table import COMMANDS
from quantui.recipe.schema import Gptq, OutlierSuppression, QuantArgs, Recipe
from quantui.recipe.words import scheme_words

FIXED = OutlierSuppression(method="lmdeploy")
"""AWQ with the fixed strength that lmdeploy has where it does not search."""


def words(made: Imported) -> str:
    """The scheme of its only group."""
    [group] = made.recipe.groups
    return scheme_words(group)


def said(made: Imported, parameter: str) -> str:
    """What became of a parameter."""
    [line] = [line for line in (*made.carried, *made.not_carried) if line.parameter == parameter]
    return line.says


@pytest.mark.parametrize(
    "text",
    [
        "lmdeploy lite auto_awq internlm/internlm-chat-7b --w-bits 4 --w-group-size 128 --work-dir w",
        "lmdeploy lite auto_awq --model internlm/internlm-chat-7b --w_bits 4 --w_group_size 128 --work_dir w",
        "python3 -m lmdeploy.lite.apis.auto_awq --model m --w_bits 4 --w_group_size 128 --work_dir w",
        "python3 lmdeploy/lite/apis/auto_awq.py --model m --w_bits=4",
        "CUDA_VISIBLE_DEVICES=0 lmdeploy lite auto_awq m --calib-dataset 'ptb' --calib-samples 64 --batch-size 1",
        "lmdeploy lite auto_awq \\\n   /root/m \\\n  --search-scale False \\\n  --w-bits 4",
        "$ lmdeploy lite auto_awq m \u2014\u2014w-bits 4",
    ],
)
def test_awq_in_every_spelling(text: str) -> None:
    made = import_text(text)
    assert words(made) == "W4A16 int4 group 128 asymmetric" and made.recipe.outliers == FIXED
    assert made.recipe.ignore[0] == "re:.*lm_head" and said(made, "model").startswith("not carried over")


def test_no_samples_mean_plain_rounding() -> None:
    made = import_text("lmdeploy lite auto_awq m --calib-samples 0")
    assert made.recipe.outliers is None and words(made) == "W4A16 int4 group 128 asymmetric"
    assert "plain rounding" in said(made, "calib_samples")


@pytest.mark.parametrize(
    ("flags", "symmetric"),
    [
        ("--kv_sym False", False),
        ("--kv_sym True", True),
        ("", False),
        ("--kv-sym", True),
    ],
)
def test_keys_and_values(flags: str, symmetric: bool) -> None:
    made = import_text(f"lmdeploy lite kv_qparams W T {flags}")
    assert made.recipe == Recipe(kv_cache=QuantArgs(symmetric=symmetric, observer="static_minmax"))
    assert any("no engine of lmdeploy read" in note for note in made.notes) == symmetric


def test_gptq_and_smooth_quant() -> None:
    made = import_text("lmdeploy lite auto_gptq m --w-group-size 32")
    assert words(made) == "W4A16 int4 group 32" and made.recipe.gptq == Gptq(actorder=None)
    assert any("groups of 128 only" in note for note in made.notes)
    made = import_text("lmdeploy lite smooth_quant m --search-scale True")
    assert words(made) == "W8A8 int8 dynamic" and made.recipe.outliers == FIXED
    assert "one strength" in said(made, "search_scale")
    assert words(import_text("lmdeploy lite smooth_quant m --quant-dtype float8_e4m3fn")) == "W8A8 fp8 dynamic"


def test_calibrate_asks_for_statistics() -> None:
    made = import_text("lmdeploy lite calibrate m --search-scale True")
    assert made.request == "statistics" and made.recipe == Recipe() and any("only measures" in note for note in made.notes)


def test_the_commands_of_one_run_make_one_recipe() -> None:
    made = import_text(
        "# first\npip install lmdeploy\nlmdeploy lite calibrate --model m --work_dir w && "
        "lmdeploy lite kv_qparams --work_dir w --turbomind_dir t\nlmdeploy lite auto_awq --model m --work_dir w; "
        "lmdeploy convert internlm w --model-format awq"
    )
    assert made.request == "recipe" and made.recipe.outliers and made.recipe.kv_cache and words(made).startswith("W4A16")
    assert {line.parameter for line in made.not_carried} >= {"pip", "lmdeploy"}


@pytest.mark.parametrize(
    ("text", "what", "todo", "where"),
    [
        ("lmdeploy lite auto_awk m", "no command 'auto_awk'", "did you mean auto_awq?", "1:1"),
        ("lmdeploy lite", "no command of lmdeploy lite", "auto_awq", "1:1"),
        ("lmdeploy lite auto_awq m --w-bits 8", "4-bit weights, not 8", "smooth_quant", "1:35"),
        ("lmdeploy lite auto_awq m --w-sym", "never worked", "leave w_sym out", "1:26"),
        ("lmdeploy lite auto_awq m --w_sym True", "never worked", "leave w_sym out", "1:34"),
        ("lmdeploy lite auto_awq m --w-group-size 0", "w_group_size is 0", "128", "1:41"),
        ("lmdeploy lite auto_awq m --bits 4", "no parameter '--bits'", "did you mean w-bits?", "1:26"),
        ("lmdeploy lite auto_awq m n", "'n' belongs to no parameter", "quote", "1:26"),
        ("lmdeploy lite smooth_quant m --quant-dtype int4", "quant_dtype is int4", "use one of int8", "1:44"),
        ("lmdeploy lite smooth_quant m --quant-dtype float8_e5m2", "no scheme here", "fp8", "1:44"),
        ("lmdeploy lite kv_qparams w t --kv-bits 4", "kv_bits is 4", "kv_bits 8", "1:40"),
        ("lmdeploy lite kv_qparams w t --kv_sym", "--kv_sym has no value", "VALUE", "1:30"),
        ("lmdeploy lite auto_awq m\nlmdeploy lite smooth_quant m", "which quantizes too", "one of them", "2:1"),
        ("lmdeploy lite get_small_sharded_hf a b", "no command", "shards", "1:1"),
    ],
)
def test_refused(text: str, what: str, todo: str, where: str) -> None:
    with pytest.raises(RecipeError) as caught:
        import_text(text, "lmdeploy")
    error = caught.value
    assert what in error.what and todo in error.todo and error.where == f"pasted text:{where}"


def test_every_parameter_is_accounted_for() -> None:
    own = {"w_bits": "4", "w_group_size": "128", "kv_bits": "8", "quant_dtype": "int8"}
    values = {"int": "8", "bool": "False", "str": "x", "switch": ""}
    for name, table in COMMANDS.items():
        for key, parameter in table.items():
            if key == "w_sym":
                continue  # refused
            flag = key.replace("_", "-")
            made = import_text(f"lmdeploy lite {name} --{flag} {own.get(key, values[parameter.kind])}")
            assert [line for line in (*made.carried, *made.not_carried) if line.parameter == key], (name, key)
