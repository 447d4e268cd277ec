"""The cards of finished statistics and sensitivity jobs."""

from __future__ import annotations

from typing import Any

import pytest

from quantui.ui.i18n import PAGES, translator
from quantui.ui.widgets.cards import result_card
from quantui.ui.widgets.sensitivity import sensitivity_card
from quantui.ui.widgets.statistics import statistics_card

RESULT: dict[str, Any] = {
    "out": "/w/stats/chat",
    "layers": 29,
    "kv_layers": 4,
    "peak_memory_bytes": 500_000_000,
    "seconds": {"load": 1.0, "observe": 2.0},
    "offenders": [{"layers": ["model.layers.0.mlp.down_proj"], "channel": 7, "absmax": 123.4, "ratio": 9.0}],
}


@pytest.mark.parametrize("lang", PAGES)
def test_it_names_what_was_seen_and_what_stands_out(lang: str) -> None:
    shown = statistics_card(translator(lang), RESULT)
    for part in ("29", "123", "7", "/w/stats/chat", ">model.layers.0.mlp.down_proj<"):
        assert part in shown
    assert "&lt;" not in shown


@pytest.mark.parametrize("lang", PAGES)
def test_scores_name_what_costs_most(lang: str) -> None:
    worst = [{"group": "model.layers.0.<mlp>.down_proj", "kl": 0.593}]
    shown = sensitivity_card(translator(lang), {"method": "fisher", "layers": 28, "worst": worst, "out": "/w/s", "seconds": {}})
    assert ">model.layers.0.&lt;mlp&gt;.down_proj<" in shown and "0.593" in shown and "&lt;span" not in shown


@pytest.mark.parametrize("lang", PAGES)
def test_an_older_result_that_says_less_is_shown_all_the_same(lang: str) -> None:
    assert "/w/stats/chat" in statistics_card(translator(lang), {"out": "/w/stats/chat"})


@pytest.mark.parametrize("lang", PAGES)
def test_memory_of_a_device_is_shown_where_there_was_one(lang: str) -> None:
    t = translator(lang)
    for card, result in ((result_card, QUANTIZED), (statistics_card, RESULT)):
        assert t("result.device_memory") not in card(t, result | {"peak_device_memory_bytes": None})
        shown = card(t, result | {"peak_device_memory_bytes": 80_000_000_000})
        assert t("result.device_memory") in shown and "80" in shown


QUANTIZED: dict[str, Any] = {"out": "/w/q", "bytes_before": 2, "bytes_after": 1, "layers_left": 1, "layers_quantized": 28}


@pytest.mark.parametrize("lang", PAGES)
def test_a_quantize_jobs_card_leads_to_what_it_gathered_or_says_why_nothing_was(lang: str) -> None:
    t = translator(lang)
    shown = result_card(t, QUANTIZED | {"stats": "/w/runs/1/stats", "stats_samples": 32})
    assert 'data-table="/w/runs/1/stats"' in shown and "32" in shown
    why = "no statistics were gathered: GPTQModifier changes layers before the data reaches those behind them"
    assert t.error(why)[1:] in result_card(t, QUANTIZED | {"stats_note": why})
    assert lang == "en" or t.error(why) != why
    assert t("result.statistics") not in result_card(t, QUANTIZED)
