"""HTML made safe by construction: text is escaped where it becomes markup, so a log line or a file name cannot become a tag."""

from __future__ import annotations

from html import escape


class Markup(str):
    """HTML that has been made by `tag`, and is therefore not escaped again."""

    __slots__ = ()


Child = str | None
Attribute = str | int | float | bool | None

VOID = frozenset({"input", "br", "img", "hr", "wbr"})


def tag(name: str, *children: Child, cls: str = "", **attributes: Attribute) -> Markup:
    """One element: `tag("a", "text", cls="quiet", href="#", data_run="7")`.

    Args:
        name: the element's name.
        children: text (escaped), Markup (as it is) or None (left out).
        cls: the class attribute.
        attributes: underscores become hyphens, a trailing one is dropped (`for_`); None and False are left out, True is bare.
    """
    parts = [name]
    if cls:
        parts.append(f'class="{escape(cls)}"')
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            parts.append(f'{key}="{escape(str(value))}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if name in VOID else f"{opening}{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Children side by side, text escaped."""
    return Markup("".join(c if isinstance(c, Markup) else escape(c) for c in children if c is not None))


def middle_cut(text: str, width: int) -> str:
    """The text with its middle replaced by an ellipsis where it is longer than `width` characters."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def class_name(name: str) -> Markup:
    """The name of a model class, which may be broken before its "For..."."""
    head, middle, tail = name.partition("For")
    return join(head, tag("wbr"), middle + tail) if head and tail else join(name)


def clipped(text: str, width: int, cls: str = "") -> Markup:
    """Text cut in the middle, with the whole of it in a tooltip."""
    cut = middle_cut(text, width)
    return tag("span", cut, cls=cls, title=text if cut != text else None)
