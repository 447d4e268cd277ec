"""Every string is there in every language, is used, and no visible string stands in the code."""

from __future__ import annotations

import ast
import functools
import gc
import json
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantui.events import KINDS
from quantui.spec import QUANTIZE_STAGES
from quantui.ui.i18n import PAGES, preferred, translator
from quantui.ui.widgets.facts import sentence
from quantui.workspace import ASSETS

UI = Path(__file__).parents[2] / "quantui" / "ui"
FILES = sorted(UI.glob("**/*.py"))
VISIBLE = sorted([*UI.glob("tabs/*.py"), *UI.glob("widgets/*.py"), UI / "shell.py", UI / "notes.py", UI / "live.py"])
TEXTS = {lang: translator(lang).texts for lang in PAGES}
SPOKEN_ATTRIBUTES = {"title", "placeholder", "aria_label", "alt", "label", "info", "value"}
GRADIO_TEXTS = {"label", "info", "placeholder", "value"}


@functools.cache
def tree(file: Path) -> ast.Module:
    """The syntax tree of a file. CPython 3.11 gives a SystemError when garbage is collected meanwhile (gh-106905)."""
    gc.disable()
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    finally:
        gc.enable()


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def is_translation(call: ast.Call) -> bool:
    """Whether it is t(...), t.count(...), t.known(...) or the same on services.t."""
    target = call.func.value if isinstance(call.func, ast.Attribute) and call.func.attr in ("count", "known") else call.func
    return (isinstance(target, ast.Name) and target.id == "t") or (isinstance(target, ast.Attribute) and target.attr == "t")


def wanted() -> Iterator[tuple[str, str]]:
    """(file, pattern of the keys) of every translation in the code; what is filled in at run time matches anything."""
    for file in FILES:
        for call in calls(tree(file)):
            if not (is_translation(call) and call.args):
                continue
            key = call.args[0]
            end = r"\.(one|other)" if isinstance(call.func, ast.Attribute) and call.func.attr == "count" else ""
            if isinstance(key, ast.Constant):
                yield file.name, re.escape(str(key.value)) + end
            elif isinstance(key, ast.JoinedStr):
                parts = [re.escape(str(v.value)) if isinstance(v, ast.Constant) else ".+" for v in key.values]
                yield file.name, "".join(parts) + end
            elif isinstance(key, ast.Name) and file.name == "log.py":
                yield file.name, r"log\..+"  # a button's text, by name
            else:
                raise AssertionError(f"{file.name}:{call.lineno}: a key must stand in the call")


def test_every_language_has_the_same_keys_and_places() -> None:
    english = TEXTS["en"]
    for lang, texts in TEXTS.items():
        assert set(texts) == set(english), lang
        for key, text in texts.items():
            assert text.strip(), (lang, key)
            assert places(text) == places(english[key]), (lang, key)


def test_chinese_is_translated() -> None:
    same = {
        key
        for key, text in TEXTS["zh-CN"].items()
        if text == TEXTS["en"][key] and re.search("[A-Za-z]{3}", re.sub(r"{\w+}", "", text))
    }
    assert same <= {"app.name", "language.en", "unit.one.token", "unit.one.tokens"}


def test_every_key_in_the_code_exists_and_every_key_is_used() -> None:
    used: set[str] = set()
    for pattern, file in {pattern: file for file, pattern in wanted()}.items():
        named = set(filter(re.compile(pattern).fullmatch, TEXTS["en"]))
        assert named, (file, pattern)
        used |= named
    assert not TEXTS["en"].keys() - used


@pytest.mark.parametrize("lang", list(PAGES))
def test_what_jobs_say_has_words(lang: str) -> None:
    t = translator(lang)
    for stage in QUANTIZE_STAGES:
        assert t(f"stage.name.{stage}") and t(f"hint.stage.{stage}")
    for state in ("queued", "running", "done", "failed", "cancelled"):
        assert t(f"state.{state}")
    assert "failed" in KINDS


@pytest.mark.parametrize("file", VISIBLE, ids=lambda file: file.name)
def test_no_visible_text_stands_in_the_code(file: Path) -> None:
    """Text in tag(...), in attributes that are read, in Gradio components and in errors must come from t(...)."""
    for call in calls(tree(file)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        of_gradio = (
            isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id == "gr"
        )
        spoken: list[ast.expr] = []
        if name == "tag":
            spoken = [*call.args[1:], *(k.value for k in call.keywords if k.arg in SPOKEN_ATTRIBUTES)]
        elif of_gradio:
            spoken = [*call.args, *(k.value for k in call.keywords if k.arg in GRADIO_TEXTS)]
        elif name in ("figure", "empty", "panel", "change") or name.endswith("Error"):
            spoken = list(call.args)
        elif name == "clipped":
            spoken = call.args[:1]
        for text in spoken:
            assert not has_words(text), f"{file.name}:{call.lineno}: {ast.unparse(text)}"


def has_words(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and re.search(r"[A-Za-z]{2}", node.value) is not None and node.value not in ("auto",)
    if isinstance(node, ast.JoinedStr):
        return any(has_words(part) for part in node.values if isinstance(part, ast.Constant))
    return False


def test_scripts_hold_no_visible_text() -> None:
    """Scripts take their words from data attributes that Python filled in."""
    for file in ASSETS.glob("*.js"):
        code = re.sub(r"//.*", "", file.read_text(encoding="utf-8"))
        for text in re.findall(r"""(?:textContent|title|placeholder|innerText)\s*=\s*(["'`][^;]*)""", code):
            assert not re.search("[A-Za-z]{2}", re.sub(r"\$\{[^}]*\}", "", text)), (file.name, text)


@pytest.mark.parametrize(
    ("header", "lang"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"),
        ("en-GB,en;q=0.9,zh;q=0.5", "en"),
        ("fr-FR, zh;q=0.3, en;q=0.2", "zh-CN"),
        ("de", "en"),
        ("zh-TW", "zh-CN"),
        ("en;q=x, zh", "zh-CN"),
    ],
)
def test_the_browsers_language_is_the_first_choice(header: str, lang: str) -> None:
    assert preferred(header) == lang


def test_errors_are_translated_by_their_english_sentence() -> None:
    zh = translator("zh-CN")
    assert zh.error("unknown device 'gpu'") == "未知设备 'gpu'"
    assert zh.error("2 of 5 shards missing: a.safetensors") == "5 个分片中缺少 2 个：a.safetensors"
    peak = "the worker was ended by SIGKILL from outside; its peak memory was 1.0 GB of the 2.0 GB allowed"
    assert zh.error(peak) == "工作进程被外部的 SIGKILL 终止；峰值内存 1.0 GB，上限 2.0 GB"
    assert zh.error("something new") == "something new"
    assert translator("en").error("unknown device 'gpu'") == "unknown device 'gpu'"


def test_translated_errors_keep_what_is_filled_in() -> None:
    for file in (ASSETS / "i18n").glob("errors.*.json"):
        for english, text in json.loads(file.read_text(encoding="utf-8")).items():
            filled = re.findall(r"{\d*}", text)
            assert len(filled) == english.count("{}"), english


def test_sentences_end_in_the_languages_own_stop() -> None:
    assert sentence(translator("en"), "the folder exists already") == "The folder exists already."
    assert sentence(translator("zh-CN"), "the folder exists already") == "文件夹已存在。"
    assert sentence(translator("en"), "") == ""
