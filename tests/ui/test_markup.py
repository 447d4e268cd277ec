"""Markup escapes what it is given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quantui.ui.markup import Markup, clipped, join, middle_cut, tag


def test_text_is_escaped_and_markup_is_not() -> None:
    inner = tag("b", "<script>")
    assert tag("p", "a < b", inner, None) == "<p>a &lt; b<b>&lt;script&gt;</b></p>"
    assert join("<", Markup("<br>")) == "&lt;<br>"


def test_attributes() -> None:
    made = tag("a", cls='x"y', data_run="1&2", hidden=True, disabled=False, title=None, for_="q", width=0)
    assert made == '<a class="x&quot;y" data-run="1&amp;2" hidden for="q" width="0"></a>'
    assert tag("img", src="x") == '<img src="x">'


@given(st.text(), st.text())
def test_no_text_becomes_a_tag(text: str, attribute: str) -> None:
    inside = tag("p", text, title=attribute)
    assert inside.count("<") == 2
    assert inside.count(">") == 2


@given(st.text(), st.integers(min_value=3, max_value=60))
def test_cut_in_the_middle(text: str, width: int) -> None:
    cut = middle_cut(text, width)
    assert len(cut) <= width or cut == text
    assert cut == text or (text.startswith(cut.split("…")[0]) and "…" in cut)


def test_what_is_cut_has_the_whole_in_a_tooltip() -> None:
    assert clipped("short", 10) == "<span>short</span>"
    assert clipped("0123456789", 5) == '<span title="0123456789">01…89</span>'
