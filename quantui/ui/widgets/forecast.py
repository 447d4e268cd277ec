"""What a run will give, before it starts."""

from __future__ import annotations

from quantui.jobs.preflight import Forecast
from quantui.recipe.methods import Fallback
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, tag
from quantui.ui.widgets.facts import change, facts, figure


def forecast_table(t: Translator, forecast: Forecast) -> Markup:
    """Size, layers, samples, memory and disk of the run that the pickers describe."""
    saved = t("forecast.smaller", ratio=numbers.ratio(forecast.bytes_before, forecast.bytes_after))
    bits = t("unit.bits_per_weight", n=f"{forecast.bits_per_weight:.2f}".rstrip("0").rstrip("."))
    head = figure(
        t("forecast.size"),
        change(numbers.size(forecast.bytes_before), numbers.size(forecast.bytes_after)),
        f"{saved} · {bits}",
        t("hint.forecast_size"),
    )
    layers = t(
        "forecast.layers_value", quantized=numbers.whole(forecast.layers_quantized), left=numbers.whole(forecast.layers_left)
    )
    rows = [(t("forecast.layers"), layers, t("hint.layers"))]
    if forecast.fallback:
        rows.append((t("forecast.fallback"), _fallback(t, forecast.fallback), t("hint.forecast.fallback")))
    if forecast.kv_layers:
        rows.append((t("forecast.kv"), t.count("count.layers", forecast.kv_layers), t("hint.kv")))
    if forecast.calibration_samples:
        tokens = t.count("count.tokens", forecast.calibration_tokens)
        rows.append((t("forecast.calibration"), t.count("count.samples", forecast.calibration_samples), t("hint.calibration")))
        exact = tokens if forecast.calibration_tokens_exact else t("forecast.about", value=tokens)
        rows.append((t("forecast.tokens"), exact, t("hint.tokens")))
    else:
        rows.append((t("forecast.calibration"), t("forecast.none_needed"), t("hint.calibration")))
    rows.append(_memory(t, forecast))
    rows.append((t("forecast.disk"), t("forecast.free", size=numbers.size(forecast.free_disk_bytes)), t("hint.disk")))
    return tag("div", head, facts(rows), cls="forecast")


def _fallback(t: Translator, fallback: Fallback) -> str:
    if fallback.level is not None:
        return t("forecast.fallback_level", n=fallback.level)
    return t("forecast.fallback_bits", bits=f"{fallback.bits_per_weight:g}")


def _memory(t: Translator, forecast: Forecast) -> tuple[str, Markup, str]:
    need, free = forecast.memory_bytes, forecast.free_memory_bytes
    text = t("forecast.memory_value", need=numbers.size(need), free=numbers.size(free)) if free else numbers.size(need)
    tight = bool(free) and need > free
    return t("forecast.memory"), tag("span", text, cls="bad" if tight else ""), t("hint.memory")
