"""Numbers with their units."""

from __future__ import annotations

import time

import pytest

from quantui.ui import numbers
from quantui.ui.i18n import translator

EN, ZH = translator("en"), translator("zh-CN")


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_640_000, "2.6 MB"), (99_949_999, "99.9 MB"), (99_960_000, "100 MB"),
        (999_400_000, "999 MB"), (999_600_000, "1.0 GB"), (141e9, "141 GB"), (5e15, "5000 TB"), (None, "–"),
    ],
)  # fmt: skip
def test_size_is_decimal(nbytes: float | None, text: str) -> None:
    assert numbers.size(nbytes) == text


@pytest.mark.parametrize(("number", "text"), [(850, "850"), (1_312_000, "1.3 M"), (7_241_732_096, "7.2 B"), (None, "–")])
def test_amount(number: float | None, text: str) -> None:
    assert numbers.amount(number) == text


@pytest.mark.parametrize(
    ("value", "en", "zh"),
    [
        (0.021, "21 ms", "21 毫秒"),
        (0.4, "0.4 s", "0.4 秒"),
        (9.94, "9.9 s", "9.9 秒"),
        (9.96, "10 s", "10 秒"),
        (59.4, "59 s", "59 秒"),
        (59.6, "1 min 00 s", "1 分 00 秒"),
        (125, "2 min 05 s", "2 分 05 秒"),
        (4320, "1 h 12 min", "1 小时 12 分"),
        (None, "–", "–"),
    ],
)
def test_seconds(value: float | None, en: str, zh: str) -> None:
    assert (numbers.seconds(EN, value), numbers.seconds(ZH, value)) == (en, zh)


def test_what_ticks_has_no_tenths() -> None:
    assert numbers.seconds(EN, 3.9, rough=True) == "3 s"
    assert numbers.seconds(EN, 0.01, rough=True) == "0 s"


def test_shares_and_ratios() -> None:
    assert [numbers.percent(x) for x in (0.98, 0.8175, 1.0, 0.0, None)] == ["98 %", "81.8 %", "100 %", "0 %", "–"]
    assert numbers.points(0.98, 0.8175) == "−16.2"
    assert numbers.points(0.8, 0.82) == "+2"
    assert numbers.points(0.5, 0.5) == "±0"
    assert numbers.ratio(2_640_000, 1_520_000) == "1.74×"
    assert numbers.ratio(1, 0) == "–"
    assert [numbers.perplexity(x) for x in (1.0523, 13.42, 2310.4, None)] == ["1.052", "13.4", "2,310", "–"]
    assert numbers.whole(131072) == "131,072"


def test_counts_have_a_plural() -> None:
    assert EN.count("count.layers", 1) == "1 layer"
    assert EN.count("count.tokens", 131072) == "131,072 tokens"


def test_moment_names_the_day_when_it_is_not_today() -> None:
    now = time.time()
    assert len(numbers.moment(now)) == 5
    assert len(numbers.moment(now - 3 * 86400)) == 11
