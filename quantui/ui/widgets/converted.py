"""How a conversion ended: what became what, how it was proved, and the way on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantui.checkpoint.convert.kinds import KINDS
from quantui.spec import ConvertSpec
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, class_name, middle_cut, tag
from quantui.ui.sources import BACK
from quantui.ui.widgets.facts import Row, change, copyable, facts, figure, sentence
from quantui.ui.widgets.times import notes_list, stage_times


def converted_card(t: Translator, spec: ConvertSpec, result: dict[str, Any]) -> Markup:
    """Sizes, tensors, logits and times of a finished conversion, where its folder is, and a button that quantizes it."""
    kind = KINDS.get(str(result.get("conversion")))
    read = sentence(t, kind.source) if kind else None
    source = Path(spec.model).name
    rows: list[Row] = [
        (t("convert.source"), tag("span", middle_cut(source, 32), title=spec.model), t("hint.convert.source")),
        (t("convert.became"), class_name(str(result.get("architecture") or numbers.NONE)), read),
        (t("convert.files"), t.count("count.files", int(result.get("shards") or 0)), t("hint.convert.files")),
    ]
    dropped = result.get("dropped") or {}
    if dropped:
        hint = "\n".join(f"{name}: {sentence(t, str(why))}" for name, why in list(dropped.items())[:40])
        rows.append((t("convert.dropped"), t.count("count.tensors", len(dropped)), hint))
    rows.append((t("result.time"), numbers.seconds(t, result.get("seconds_total")), t("hint.time")))
    return tag(
        "div",
        tag("div", _size(t, spec, result), _tensors(t, result), _logits(t, result), cls="figures"),
        tag("div", facts(rows), stage_times(t, result), cls="columns"),
        tag("div", tag("span", t("result.folder"), cls="label"), copyable(t, str(result["out"]), 72), cls="folder"),
        notes_list(t, result),
        None if result.get("conversion") == BACK else _onward(t, str(result["out"])),
        cls="card result",
        data_card="result",
    )


def _size(t: Translator, spec: ConvertSpec, result: dict[str, Any]) -> Markup:
    before, after = numbers.size(result["bytes_before"]), numbers.size(result["bytes_after"])
    cast = spec.dtype if spec.dtype != "keep" else "bf16" if result.get("conversion") == "fp8" else ""
    note = t("convert.cast", dtype=cast) if cast else t("convert.kept")
    return figure(t("result.size"), change(before, after), note, t("hint.size"))


def _tensors(t: Translator, result: dict[str, Any]) -> Markup:
    written, reread = int(result.get("tensors") or 0), int(result.get("tensors_reread") or 0)
    note = t("convert.all_reread") if written == reread else t("convert.reread", n=numbers.whole(reread))
    return figure(t("convert.tensors"), tag("strong", numbers.whole(written)), note, t("hint.convert.tensors"))


def _logits(t: Translator, result: dict[str, Any]) -> Markup:
    """How far both sides are apart at most, with the largest logit to measure that by."""
    label, hint, difference = t("convert.logits"), t("hint.convert.logits"), result.get("logit_difference")
    if difference is None:
        return figure(label, numbers.NONE, t("convert.not_compared"), hint)
    tokens = t.count("count.tokens", int(result.get("verified_tokens") or 0))
    note = t("convert.largest", n=f"{float(result.get('logit_largest') or 0):.3g}", tokens=tokens)
    return figure(label, tag("strong", f"{float(difference):.2g}"), note, hint)


def _onward(t: Translator, folder: str) -> Markup:
    button = tag(
        "button", t("convert.use"), type="button", cls="go", title=t("hint.convert.use"),
        data_act="send", data_event="use", data_tab="quantize", data_path=folder,
    )  # fmt: skip
    return tag("div", button, cls="onward")
