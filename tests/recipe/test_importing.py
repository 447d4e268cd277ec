"""Pasted texts as recipes: goldens of the tools' own command lines, detection, and that nothing but RecipeError is raised."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.errors import RecipeError
from quantui.recipe import llmcompressor
from quantui.recipe.importing import VOCABULARIES, Imported, detect, import_text
from quantui.recipe.refusals import refusals
from tests.recipe.commands import COMMANDS

GOLDEN = Path(__file__).parent / "golden"
PLACE = re.compile(r"pasted text:(\d+)(:(\d+))?$")
WORDS = [
    "python3", "quant_internlm2.py", "quant_internvl2.py", "torchrun", "--w_bit", "8", "4", "16", "--a_bit",
    "--is_lowbit", "True", "False", "--disable_names", "model.layers.0.feed_forward.w2", "--anti_method", "m2", "m3",
    "--disable_level", "L5", "\\\n", "'", '"', "lmdeploy", "lite", "auto_awq", "kv_qparams", "--w-bits", "--kv_sym",
    "-m", "lmdeploy.lite.apis.calibrate", "\n", "QuantConfig(", "w_bit=4", ",", ")", "is_dynamic=True", ".kv_quant()",
    "Calibrator(m, c, disable_level='L3')", "names = []", "for i in range(3):\n    names.append(f'a.{i}')",
    "disable_names=names", "apiversion: modelslim_v1\n", "spec:\n", "  process:\n", "    - type: linear_quant\n",
    "      qconfig: {weight: {scope: per_channel, dtype: int8}}\n", "apiversion: modelslim_v0\n",
    "  calib_cfg: {w_bit: 8, a_bit: 8}\n", "quant_stage:", "${A}", "A=1", ";", "=", "--co_sparse", "--mindie_format",
    "None", "{}",
]  # fmt: skip


def _checked(made: Imported) -> None:
    """What holds for every import."""
    for line in (*made.carried, *made.not_carried):
        assert line.parameter and line.says and line.line >= 0
    assert all(line.says.startswith("not carried over, because ") for line in made.not_carried)
    if made.request == "recipe":
        assert llmcompressor.loads(llmcompressor.dumps(made.recipe)) == made.recipe


def _works(made: Imported) -> None:
    """What the tools' own guides do can work here too."""
    _checked(made)
    assert refusals(made.recipe) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_golden(name: str) -> None:
    made = import_text(COMMANDS[name])
    _works(made)
    shown = [f"from {made.vocabulary}: {made.request}"]
    shown += [f"+ {line.parameter} = {line.value}: {line.says}" for line in made.carried]
    shown += [f"- {line.parameter} = {line.value}: {line.says}" for line in made.not_carried]
    shown += [f"* {note}" for note in made.notes]
    text = llmcompressor.dumps(made.recipe, comment="\n".join(shown))
    file = GOLDEN / f"{name}.yaml"
    if os.environ.get("QUANTUI_WRITE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parameter_is_accounted_for(name: str) -> None:
    made = import_text(COMMANDS[name])
    told = {line.parameter for line in (*made.carried, *made.not_carried)}
    written = {flag.replace("-", "_") for flag in re.findall(r"--([A-Za-z][\w-]*)", COMMANDS[name])} - {"nproc_per_node"}
    assert written <= told


@pytest.mark.parametrize(
    ("text", "vocabulary"),
    [
        *((text, "lmdeploy" if name.startswith("lmdeploy") else "msmodelslim") for name, text in COMMANDS.items()),
        ("quant_stage:\n  quant_modifiers:\n    QuantizationModifier: {scheme: FP8}", "llmcompressor"),
        ("QuantizationModifier:\n  scheme: FP8", "llmcompressor"),
        ('{"quant_stage": {"quant_modifiers": {"QuantizationModifier": {"scheme": "FP8"}}}}', "llmcompressor"),
        ("q = QuantConfig(w_bit=8)", "msmodelslim"),
        ("apiversion: modelslim_v1\nspec: {}", "msmodelslim"),
        ("python -m lmdeploy.lite.apis.calibrate --model x", "lmdeploy"),
        ("run.sh --w_bit 8", "msmodelslim"),
        ("Dear reader", None),
    ],
)
def test_detect(text: str, vocabulary: str | None) -> None:
    assert detect(text) == vocabulary


def test_llmcompressor_yaml_is_listed_line_by_line() -> None:
    made = import_text(
        "quant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n      scheme: W8A8\n      targets: [Linear]\n"
    )
    assert made.vocabulary == "llmcompressor" and made.recipe.groups[0].weights is not None
    assert [(line.parameter.split(".")[-1], line.value, line.line) for line in made.carried] == [
        ("scheme", "W8A8", 4),
        ("targets", "Linear", 5),
    ]


@pytest.mark.parametrize(
    ("text", "vocabulary", "what"),
    [
        ("", "auto", "empty"),
        ("   \n", "auto", "empty"),
        ("Dear reader", "auto", "nothing tells"),
        ("x", "awq", "no vocabulary"),
        ("a\n b\x00", "auto", "cannot be shown"),
        ("x" * 2_000_000, "auto", "characters"),
        ("ls -l", "msmodelslim", "no command of msModelSlim"),
        ("ls -l", "lmdeploy", "no command of lmdeploy"),
        ("ls -l", "llmcompressor", "recipe"),
    ],
)
def test_refused(text: str, vocabulary: str, what: str) -> None:
    with pytest.raises(RecipeError, match=what) as caught:
        import_text(text, vocabulary)  # type: ignore[arg-type]
    assert PLACE.match(caught.value.where) and caught.value.todo


def test_a_character_nobody_sees_is_placed() -> None:
    with pytest.raises(RecipeError) as caught:
        import_text("a\n b\x00")
    assert caught.value.where == "pasted text:2:3"


@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=14).map(" ".join),
        st.lists(st.sampled_from(WORDS), max_size=10).map("".join),
    ),
    st.sampled_from(["auto", *VOCABULARIES]),
)
def test_any_text_is_a_recipe_or_refused_with_its_place(text: str, vocabulary: str) -> None:
    try:
        made = import_text(text, vocabulary)  # type: ignore[arg-type]
    except RecipeError as error:
        place = PLACE.match(error.where)
        assert place and 1 <= int(place.group(1)) <= text.count("\n") + text.count("\r") + 1 + len(text.splitlines()), (
            error.where
        )
        assert "\n" not in str(error) or "\n" in text
    else:
        _checked(made)


@pytest.mark.parametrize("text", [
    "for i in range(190000):\n    for j in range(range(10**12)):\n        n.append(j)",
    "n = []\nfor i in range(190000):\n    n.append('x')",
    "n = []\nfor i in range(190000):\n    n += ['x']",
    "n = ['a']\nfor i in range(60):\n    n = n + n",
    "s = 'a'\nfor i in range(60):\n    s = s + s",
    "s = 'a'\nfor i in range(60):\n    s = f'{s}{s}'",
    "for i in range(190000):\n    f(i, g(i), [h(i)] * 9)",
])  # fmt: skip
def test_a_few_lines_cannot_keep_it_busy(text: str) -> None:
    """Each would write out millions of items, or copy lists millions of items long."""
    with pytest.raises(RecipeError, match="writes out more than"):
        import_text(f"{text}\nQuantConfig()", "msmodelslim")


def test_a_long_list_of_names_is_read() -> None:
    made = import_text("QuantConfig(disable_names=[f'model.layers.{i}.mlp.up_proj' for i in range(6000)])", "msmodelslim")
    assert len(made.recipe.ignore) > 6_000
