"""Which languages and scripts a text is in, roughly: enough to see that traffic and calibration do not match."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np

SCRIPTS: tuple[tuple[str, int, int], ...] = (
    ("Latin", 0x41, 0x5A), ("Latin", 0x61, 0x7A), ("Latin", 0xC0, 0x24F), ("Greek", 0x370, 0x3FF), ("Cyrillic", 0x400, 0x52F),
    ("Hebrew", 0x590, 0x5FF), ("Arabic", 0x600, 0x6FF), ("Devanagari", 0x900, 0x97F), ("Thai", 0xE00, 0xE7F),
    ("Latin", 0x1E00, 0x1EFF), ("Kana", 0x3040, 0x30FF), ("Han", 0x3400, 0x4DBF), ("Han", 0x4E00, 0x9FFF),
    ("Hangul", 0xAC00, 0xD7AF), ("Han", 0xF900, 0xFAFF), ("Han", 0x20000, 0x323AF),
)  # fmt: skip
"""Code points of letters by script, in rising order; what lies between is digits, signs and rarer scripts."""

_NAMES = list(dict.fromkeys(name for name, *_ in SCRIPTS))
_BOUNDS = np.array([edge for _, low, high in SCRIPTS for edge in (low, high + 1)])
_SCRIPT_OF = np.array([value for name, *_ in SCRIPTS for value in (_NAMES.index(name), -1)])

HAN_SHARE = 0.3
"""A text with this share of Han among its letters is Chinese, unless Kana stands beside it."""
CODE_LINES = 0.3
"""A text with this share of lines that look like code is code."""

_ENGLISH = frozenset(
    re.split(
        " ",
        "the of and to a in is it you that was for on are with as his they be at this have from or had by what how which who "
        "why when where there their will would can could do does not all your my me these those write give tell",
    )
)
_OTHERS = frozenset(
    re.split(
        " ",
        "der die das und ist nicht ein eine zu mit auf für von le la les des et est une dans pour que qui pas el los las es en "
        "una por con para il di che non per un o os um uma não do da em",
    )
).difference(_ENGLISH)
"""Small words: of English, and of other languages in Latin letters."""
_WORD = re.compile(r"[^\W\d_]+")
_CODE = re.compile(
    r"[;{}]\s*$|^\s*(def|class|import|from|return|#include|public|private|static|const|let|var|func|fn|if\s*\(|for\s*\(|while\s*\()\b"
    r"|^\s*(SELECT|INSERT|UPDATE)\s|=>|::|^\s*(#!|//|/\*|```)|\w\(.*\)\s*[:;]?\s*$|^\s*[\w.\[\]]+\s*[-+*/]?=\s*\S"
)

LANGUAGES: Mapping[str, str] = MappingProxyType({"en": "English", "zh": "Chinese", "code": "code", "other": "other"})


def language_of(text: str) -> str:
    """en, zh, code or other."""
    counts = script_counts(text)
    letters = sum(counts.values())
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and sum(bool(_CODE.search(line)) for line in lines) / len(lines) >= CODE_LINES and (len(lines) > 1 or "(" in text):
        return "code"
    if not letters:
        return "other"
    if counts["Han"] / letters >= HAN_SHARE and counts["Kana"] < counts["Han"] / 10:
        return "zh"
    if counts["Latin"] / letters < 0.5:
        return "other"
    words = [word.lower() for word in _WORD.findall(text[:20_000])]
    english, others = sum(word in _ENGLISH for word in words), sum(word in _OTHERS for word in words)
    return "en" if english >= others and (english or text.isascii()) else "other"


def script_counts(text: str) -> Counter[str]:
    """Letters by script."""
    if not text:
        return Counter()
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    places = np.searchsorted(_BOUNDS, points, side="right") - 1
    scripts = np.where(places >= 0, _SCRIPT_OF[places], -1)
    found = np.bincount(scripts[scripts >= 0], minlength=len(_NAMES))
    return Counter({name: int(count) for name, count in zip(_NAMES, found, strict=True) if count})


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Counts as shares of their sum, the largest first."""
    total = sum(counts.values())
    return {name: count / total for name, count in sorted(counts.items(), key=lambda item: -item[1])} if total else {}


def language_shares(texts: Iterable[str]) -> dict[str, float]:
    """The share of texts in each language."""
    return shares(Counter(language_of(text) for text in texts))
