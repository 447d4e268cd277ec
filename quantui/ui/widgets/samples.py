"""Samples as the model gets them: text with special tokens, token boundaries and the cut, pictures with their tiles."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from quantui.calibration.edits import Choice
from quantui.calibration.preview import View
from quantui.calibration.sample import Sample
from quantui.errors import InputError
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Child, Markup, clipped, join, tag
from quantui.ui.widgets.facts import problem, sentence

TAIL = 600
"""Characters shown of what is cut off."""
HEAD = 24_000
"""Characters shown of what is kept."""


class Piece(NamedTuple):
    """A part of the text: what it is (text, special, picture) and which tokens it is, from 0, the last left out."""

    kind: str
    text: str
    first: int
    last: int


def sample_cards(
    t: Translator,
    views: Sequence[View],
    choice: Choice,
    *,
    boundaries: bool,
    editing: int | None,
    wrong: Mapping[int, InputError],
) -> Markup:
    """One card a sample, in their order.

    Args:
        t: the language.
        views: the samples that are shown.
        choice: all that are known, the shown ones first.
        boundaries: whether each token is set apart.
        editing: the one whose words are being edited.
        wrong: what could not be done, by sample.
    """
    cards = []
    for view in views:
        sample = choice.samples[view.index]
        said = problem(t, wrong[view.index]) if view.index in wrong else None
        body = editor(t, sample, view.index) if view.index == editing else _body(t, view, boundaries)
        head = _head(t, view, choice.is_pinned(view.index), view.index + 1 == len(choice.samples), _editable(sample))
        pinned = " pinned" if choice.is_pinned(view.index) else ""
        cards.append(
            tag("article", head, said, body, cls=f"sample{pinned}", data_sample=view.index, data_tokens=len(view.ids),
                data_language=view.language)
        )  # fmt: skip
    return join(*cards)


def _head(t: Translator, view: View, pinned: bool, is_last: bool, editable: bool) -> Markup:
    name = Path(view.where).name
    numbered = tag("strong", t("samples.number", n=numbers.whole(view.index + 1)))
    place = tag("span", clipped(name, 34), cls="where", title=view.where)
    row = tag("div", numbered, place, _buttons(t, view.index, pinned, is_last, editable), cls="sample-head")
    return join(row, tag("div", *_facts(t, view), cls="sample-facts"))


def _facts(t: Translator, view: View) -> list[Markup]:
    """Tokens, what is cut off, the picture, the language."""
    facts = [tag("span", t.count("count.tokens", len(view.ids)), title=t("hint.samples.tokens"))] if view.ids else []
    if lost := len(view.ids) - view.kept:
        facts.append(tag("span", t("samples.lost", n=numbers.whole(lost)), cls="lost"))
    if view.image_tokens:
        facts.append(tag("span", t.count("samples.image_tokens", view.image_tokens), title=t("hint.samples.image_tokens")))
    facts.append(tag("span", t(f"samples.kind.{view.kind}")))
    facts.append(tag("span", t(f"samples.language.{view.language}"), cls=f"language {view.language}"))
    return facts


def _buttons(t: Translator, index: int, pinned: bool, is_last: bool, editable: bool) -> Markup:
    def button(name: str, disabled: bool = False, **more: str) -> Markup:
        hint = t(f"hint.samples.{name}")
        return tag(
            "button", t(f"samples.{name}"), type="button", cls="quiet", data_do=name, data_at=index, title=hint,
            aria_label=hint, disabled=disabled, **more,
        )  # fmt: skip

    return tag(
        "div",
        button("up", index == 0),
        button("down", is_last),
        button("pin", aria_pressed=str(pinned).lower()),
        button("edit", not editable),
        button("drop"),
        cls="sample-buttons",
    )


def _editable(sample: Sample) -> bool:
    """Whether its words can be changed: ids have none, and content in parts is more than words."""
    if sample.ids is not None or sample.tokens is not None:
        return False
    return all(isinstance(message["content"], str) for message in sample.messages)


def editor(t: Translator, sample: Sample, index: int) -> Markup:
    """The words of a sample to be changed, one field a message."""
    fields: list[Child] = []
    messages = [(message["role"], message["content"]) for message in sample.messages] or [("", sample.text or "")]
    for role, content in messages:
        area = tag(
            "textarea",
            f"\n{content}",
            data_role=role,
            rows=min(12, 2 + len(content) // 48),
            aria_label=role or t("samples.text"),
        )  # the parser drops the first newline of a textarea
        fields.append(tag("label", tag("span", role, cls="role"), area))
    buttons = tag(
        "div",
        tag("button", t("samples.take"), type="button", cls="go", data_do="take", data_at=index),
        tag("button", t("samples.leave"), type="button", cls="quiet", data_do="leave"),
        cls="editor-buttons",
    )
    return tag("div", *fields, buttons, cls="sample-editor")


def _body(t: Translator, view: View, boundaries: bool) -> Markup:
    said = tag("div", tag("p", sentence(t, view.problem)), cls="problem", role="alert") if view.problem else None
    text = tag("div", *_text(t, view, boundaries), cls="sample-text", tabindex="0") if view.text else None
    return join(said, _pictures(t, view), text)


def _text(t: Translator, view: View, boundaries: bool) -> Iterator[Markup]:
    """The pieces with the cut line among them; what is far behind it, or very long, is left out."""
    is_cut, shown = False, 0
    for piece in pieces(view, boundaries):
        if piece.first >= view.kept and not is_cut:
            is_cut, shown = True, 0
            yield tag("span", t("samples.cut_here", n=numbers.whole(view.kept)), cls="cut-line", role="separator")
        room = (TAIL if is_cut else HEAD) - shown
        if room <= 0:
            if is_cut:
                yield tag("span", t("samples.rest"), cls="off")
                return
            continue
        yield _piece(t, piece, view, piece.text[:room], is_cut, boundaries)
        shown += len(piece.text)


def _piece(t: Translator, piece: Piece, view: View, text: str, is_cut: bool, boundaries: bool) -> Markup:
    off = " off" if is_cut else ""
    if piece.kind == "picture":
        ids = view.ids[piece.first : piece.last]
        said = t.count("samples.image_tokens", max(map(ids.count, set(ids))))  # less those that stand around it
        return tag("span", said, cls=f"special picture{off}", title=text)
    if piece.kind == "special":
        return tag("span", text, cls=f"special{off}", title=_ids(t, view, piece))
    if boundaries:
        return tag("span", text.replace("\n", "⏎\n"), cls=f"token{off}", title=_ids(t, view, piece))
    return tag("span", text, cls=f"words{off}")


def _ids(t: Translator, view: View, piece: Piece) -> str:
    ids = view.ids[piece.first : piece.last]
    return t("samples.ids", ids=t("list.comma").join(map(str, ids[:8])))


def pieces(view: View, boundaries: bool) -> Iterator[Piece]:
    """The text in pieces of one kind each; a piece a token where boundaries are asked for.

    Tokens that share a place, as the bytes of one character or the tokens of a picture do, are one piece.
    """
    place, waiting = 0, Piece("text", "", 0, 0)
    for kind, begin, end, first, last in _places(view):
        begin = max(begin, place)
        gap, place = view.text[place:begin], max(end, place)
        own = view.text[begin:place]
        joins = kind == waiting.kind == "text" and not boundaries and (first < view.kept) == (waiting.first < view.kept)
        if joins:
            waiting = Piece("text", waiting.text + gap + own, waiting.first, last)
            continue
        if waiting.text:
            yield waiting
        if gap:
            yield Piece("text", gap, first, first)
        waiting = Piece(kind, own, first, last)
    if waiting.text:
        yield waiting
    if place < len(view.text):
        yield Piece("text", view.text[place:], len(view.ids), len(view.ids))


def _places(view: View) -> Iterator[tuple[str, int, int, int, int]]:
    """Kind, place in the text and tokens of every different place."""
    first = 0
    while first < len(view.ids):
        last = first + 1
        while last < len(view.ids) and view.spans[last] == view.spans[first] and (last < view.kept) == (first < view.kept):
            last += 1
        begin, end = view.spans[first]
        kind = "special" if view.special[first] else "text"
        yield "picture" if kind == "special" and view.image_tokens and last - first > 1 else kind, begin, end, first, last
        first = last


def _pictures(t: Translator, view: View) -> Markup | None:
    """The whole picture, and beside it the tiles as the vision tower gets them."""
    if view.picture is None or view.size is None:
        return None
    size = t("samples.size", width=numbers.whole(view.size[0]), height=numbers.whole(view.size[1]))
    whole = tag("figure", _image(view.picture, size), tag("figcaption", size), cls="whole")
    columns = view.grid[0] if view.grid else min(len(view.tiles), 4) or 1
    tiles = [_image(tile, t("samples.tile", n=number + 1)) for number, tile in enumerate(view.tiles)]
    said = t("list.comma").join((t.count("samples.tiles", len(tiles)), t.count("samples.image_tokens", view.image_tokens)))
    grid = tag("div", *tiles, cls="tiles", style=f"--columns:{columns}")
    cut = tag("figure", grid, tag("figcaption", said, title=t("hint.samples.tiles")), cls="cut-up")
    return tag("div", whole, cut, cls="sample-pictures")


def _image(png: bytes, alt: str) -> Markup:
    """A picture that takes its room before it is decoded, or what stands under it would move away from the pointer."""
    width, height = struct.unpack(">2I", png[16:24])  # where a PNG's header has them
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return tag("img", src=source, width=width, height=height, alt=alt, title=alt, loading="lazy")
