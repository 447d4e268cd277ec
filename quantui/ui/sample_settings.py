"""What is typed into the form of the Calibration tab, as settings of a calibration file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from quantui.calibration.schema import Calibration, Language
from quantui.calibration.template import PLAIN
from quantui.errors import CalibrationError
from quantui.ui.sample_drafts import plain
from quantui.ui.services import Services

LEAST = {"samples": 1, "max_tokens": 1, "seed": 0}
LARGEST = 2**31 - 1
LANGUAGES: tuple[str, ...] = get_args(Language)
OWN, OTHER = "own", "other"
"""Of the choice of a template: the model's own, or another text."""
BARE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
"""Where the model has no template to begin with."""

Values = dict[str, Any]


def settings(
    services: Services, now: Calibration, name: str, value: Any, *, base: Path, template: Callable[[], str]
) -> Values | None:
    """The settings that another value of a field makes, as plain data; None where there is no such field.

    Args:
        services: whose folders may be read, and which language.
        now: the calibration before.
        name: of the field; weight.0 is that of the first source, language.en that of a language.
        value: as it was typed or chosen.
        base: where relative paths start.
        template: gives the model's own template.

    Raises:
        CalibrationError: the field cannot have it.
        AccessError: it names a file that may not be read.
    """
    field, _, part = name.partition(".")
    if field in LEAST:
        return {field: whole(services, str(value), LEAST[field])}
    if field in ("shuffle", "long"):
        return {field: value}
    if field == "pack":
        return {"pack": bool(value), "long": "truncate"} if value else {"pack": False}
    if field == "dedupe":
        return {"dedupe": {"yes": True, "no": False}.get(str(value))}
    if field == "template":
        return {"template": {OWN: None, PLAIN: PLAIN}.get(str(value)) if value != OTHER else template() or BARE}
    if field == "template_text":
        return {"template": _template(services, str(value or ""), base)}
    if field == "language" and part in LANGUAGES:
        return {"languages": _languages(services, now, part, value)}
    if field == "weight" and part.isdigit() and int(part) < len(now.sources):
        return {"sources": _weighed(services, now, int(part), value)}
    return None


def whole(services: Services, typed: str, least: int) -> int:
    """A whole number as it was typed.

    Raises:
        CalibrationError: it is none, or out of range.
    """
    text = typed.strip().replace(",", "").replace("_", "")
    if text.isascii() and text.isdigit() and len(text) < 12 and least <= int(text) <= LARGEST:
        return int(text)
    t = services.t
    raise CalibrationError(t("samples.wrong.number"), todo=t("samples.wrong.number_todo", least=least))


def share(services: Services, typed: Any) -> float | None:
    """A share or weight as it was typed, with or without %; None for nothing.

    Raises:
        CalibrationError: it is no number from 0 on.
    """
    text = str(typed or "").strip().removesuffix("%").strip()
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if 0 <= number < 1e9:
        return number
    t = services.t
    raise CalibrationError(t("samples.wrong.share"), todo=t("samples.wrong.share_todo"))


def _template(services: Services, text: str, base: Path) -> str | None:
    """Template text, or the file it names; nothing is the model's own."""
    if not text.strip():
        return None
    if not text.strip().endswith((".jinja", ".jinja2")) or "{" in text:
        return text
    name = text.strip()
    file = services.workspace.readable(name if name.startswith("~") else base / name)
    if not file.is_file():
        t = services.t
        raise CalibrationError(t("samples.wrong.no_file"), where=text, todo=t("samples.wrong.no_file_todo"))
    return str(file)


def _languages(services: Services, now: Calibration, language: str, typed: Any) -> dict[str, float] | None:
    """The shares of languages with another one; none at all where none is left."""
    number = share(services, typed)
    shares: dict[str, float] = {name: value for name, value in (now.languages or {}).items() if name != language}
    if number is not None:
        shares[language] = number
    return shares or None


def _weighed(services: Services, now: Calibration, at: int, typed: Any) -> list[Mapping[str, Any]]:
    """The sources, one of them with another weight; nothing or 0 takes it away."""
    sources = plain(now)["sources"]
    number = share(services, typed)
    sources[at].pop("weight", None)
    if number:
        sources[at]["weight"] = number
    return list(sources)
