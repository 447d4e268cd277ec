"""What most rooms of the library say is Chinese on the Chinese page: every sentence in their code is looked up."""

from __future__ import annotations

import ast
import gc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantui.ui.i18n import translator

PACKAGE = Path(__file__).parents[2] / "quantui"
ROOMS = ("recipe", "calibration", "formats", "numerics", "jobs")
FILES = sorted(file for room in ROOMS for file in (PACKAGE / room).rglob("*.py"))
HAN = re.compile("[\u4e00-\u9fff]")
SAID_BY_KEY = {"terms.py", "advice.py", "languages.py"}
"""Files whose words the page has under keys of its own."""
NO_SENTENCES = (
    "did you mean {}? ",  # a part of one
    "a block_structure with columns of", "a group_size of",
    "quant_stage: {quant_modifiers: {QuantizationModifier: {...}}}",
    "MindIE / vLLM-Ascend",
    "The following are multiple choice questions (with answers) about {}.\n\n",  # what the benchmark asks
    "What does the image show?",  # what is asked of a picture
    "# The fields of a recipe",
    "Made from `quantui/recipe/terms.py` by `python -m quantui.recipe.fields`; a test compares the two.",
)  # fmt: skip


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """Every string of a file that is no docstring, what is filled in as {}."""
    gc.disable()  # CPython 3.11 gives a SystemError when garbage is collected while it parses (gh-106905)
    tree = ast.parse(file.read_text(encoding="utf-8"))
    gc.enable()
    parts = {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node) if part is not node
    }
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (parts | bare):
            yield node.lineno, node.value


def is_sentence(text: str) -> bool:
    return " " in text.strip() and len(re.findall(r"[A-Za-z]{2,}", text)) >= 3 and not text.startswith(("re:", "^", "|"))


@pytest.mark.parametrize("file", [f for f in FILES if f.name not in SAID_BY_KEY], ids=lambda f: str(f.relative_to(PACKAGE)))
def test_every_sentence_is_known_in_chinese(file: Path) -> None:
    t = translator("zh-CN")
    said = [(line, text) for line, text in texts(file) if is_sentence(text) and text not in NO_SENTENCES]
    assert [(line, text) for line, text in said if not HAN.search(t.error(text))] == []


def test_an_error_is_translated_part_by_part() -> None:
    said = translator("zh-CN").error("/data/a.jsonl:3: the line is not a JSON object; mend or delete that line.")
    assert said == "/data/a.jsonl:3：该行不是 JSON 对象；请修正或删除该行。"
    assert (
        translator("zh-CN").error("through compressed-tensors: int8 static, W4A16")
        == "通过 compressed-tensors：int8 静态、W4A16"
    )
    assert translator("zh-CN").error("write it as quant_stage: {a: 1}; no such thing, really") != ""
    assert translator("en").error("nobody knows: this; or that.") == "nobody knows: this; or that."
