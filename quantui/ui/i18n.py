"""Every visible string by key, in every language the page speaks.

The page is built once a language, each on a path of its own ("" and "zh-CN"), because Gradio's own I18n follows the
browser's language and cannot be switched by hand; whole pages also leave nothing half translated.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from quantui.workspace import ASSETS

PAGES = {"en": "", "zh-CN": "zh-CN"}
"""Language to the path of its page; the first is what everything else falls back to."""


PLACE = re.compile(r"\{\}")
STOPS = {".": "。", "; ": "；", ": ": "：", ", ": "、"}
"""How the parts of a translated sentence are joined, by what joins them in English."""
LISTED = 40
"""Characters of an entry of a list at most; longer ones are parts of a sentence."""


@dataclass(frozen=True)
class Translator:
    """The texts of one language: `t("run.cancel")`, `t("unit.seconds", n="3.4")`, `t.count("layers", 3)`."""

    lang: str
    texts: Mapping[str, str]
    sentences: Sentences

    def __call__(self, key: str, **values: object) -> str:
        """The text of a key with its {places} filled in; without values as it stands, for a script to fill.

        Raises:
            KeyError: there is no such key; a test looks at every key that is used.
        """
        text = self.texts[key]
        return text.format_map(values) if values else text

    def count(self, key: str, number: int) -> str:
        """The text of `key.one` or `key.other` for a number of things, the number in {n}."""
        form = "one" if number == 1 else "other"
        return self(f"{key}.{form}", n=f"{number:,}")

    def error(self, text: str) -> str:
        """What an error says, in this language where it is known; else as the core said it, in English."""
        return self.sentences.translate(text)

    def known(self, key: str, otherwise: str) -> str:
        """The text of a key that data made up ("stage." + name), or `otherwise` where there is none."""
        return self.texts.get(key, otherwise)


class Sentences:
    """Sentences of the core, which speaks English, by their English form: "unknown device {}" to "未知设备 {}".

    A translation may change the order of what is filled in ({1} before {0}); what is filled in is translated too. A sentence
    that is not known as a whole is translated part by part, as "where: what; what to do." of an error is, or a list.
    """

    def __init__(self, known: Mapping[str, str]) -> None:
        self._exact = {english: text for english, text in known.items() if not PLACE.search(english)}
        self._patterns = [_pattern(english, text) for english, text in known.items() if english not in self._exact]
        # The one with the most fixed letters says the most, so it is tried first.
        self._patterns.sort(key=lambda pattern: -sum(map(len, pattern.fixed)))
        self.translate = functools.lru_cache(maxsize=4096)(self._translate)

    def _translate(self, text: str) -> str:
        """The sentence in this language, or as it is."""
        if text in self._exact:
            return self._exact[text]
        for pattern in self._patterns:
            if all(part in text for part in pattern.fixed) and (found := pattern.form.fullmatch(text)):
                return pattern.text.format(*(self.translate(part) if part != text else part for part in found.groups()))
        return self._in_parts(text)

    def _in_parts(self, text: str) -> str:
        if text.endswith(".") and (told := self.translate(text[:-1])) != text[:-1]:
            return f"{told}{STOPS['.']}"
        for mark in ("; ", ": ", ", "):
            parts = text.split(mark)
            if len(parts) == 1 or (mark == ", " and max(map(len, parts)) > LISTED):
                continue
            told_parts = [self.translate(part) for part in parts]
            if told_parts != parts:
                return STOPS[mark].join(told_parts)
        return text


class _Pattern(NamedTuple):
    """A sentence with places to fill: what stands between them, how it is recognised, and its translation."""

    fixed: tuple[str, ...]
    form: re.Pattern[str]
    text: str


def _pattern(english: str, text: str) -> _Pattern:
    parts = PLACE.split(english)
    form = re.compile("(.*?)".join(re.escape(part) for part in parts), re.DOTALL)
    return _Pattern(tuple(part for part in parts if part), form, text)


@functools.cache
def translator(lang: str) -> Translator:
    """The translator of one of the languages in PAGES."""
    folder = ASSETS / "i18n"
    texts = json.loads((folder / f"{lang}.json").read_text(encoding="utf-8"))
    sentences = folder / f"errors.{lang}.json"
    known = json.loads(sentences.read_text(encoding="utf-8")) if sentences.exists() else {}
    return Translator(lang, texts, Sentences(known))


def preferred(accept: str) -> str:
    """The best language for an Accept-Language header ("zh-CN,zh;q=0.9,en;q=0.8")."""
    wanted: list[tuple[float, str]] = []
    for item in accept.split(","):
        name, _, quality = item.strip().partition(";q=")
        try:
            wanted.append((-float(quality or 1), name.lower()))
        except ValueError:
            continue
    for _, name in sorted(wanted, key=lambda pair: pair[0]):
        for lang in PAGES:
            if name.split("-")[0] == lang.split("-")[0].lower():
                return lang
    return next(iter(PAGES))
