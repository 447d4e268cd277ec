"""Numbers as people read them: with units and sensible digits. Sizes are decimal, as on a data sheet (1 MB = 10^6 bytes)."""

from __future__ import annotations

import functools
import time

from quantui.ui.i18n import Translator

NONE = "–"
"""What stands where there is no number."""


def _scaled(value: float, units: tuple[str, ...]) -> str:
    """The value in the largest unit that leaves at least 1 in front of the point."""
    unit = 0
    while abs(value) >= 999.5 and unit < len(units) - 1:
        value, unit = value / 1000, unit + 1
    digits = 1 if abs(value) < 99.95 and unit else 0
    return f"{value:.{digits}f} {units[unit]}".strip()


@functools.lru_cache(maxsize=1024)  # tables of thousands of layers have a few sizes
def size(nbytes: float | None) -> str:
    """Bytes: "512 B", "2.6 MB", "141 GB"."""
    return NONE if nbytes is None else _scaled(nbytes, ("B", "kB", "MB", "GB", "TB"))


def amount(number: float | None) -> str:
    """Parameters: "850", "1.3 M", "7.2 B" (billions)."""
    return NONE if number is None else _scaled(number, ("", "K", "M", "B", "T"))


def whole(number: int | None) -> str:
    """A count with thousands set apart: "131,072"."""
    return NONE if number is None else f"{number:,}"


def ratio(before: float, after: float) -> str:
    """How many times smaller: "1.7×"."""
    return f"{before / after:.2f}×" if after else NONE


def percent(share: float | None) -> str:
    """A share of 1: "98 %", "81.5 %"."""
    return NONE if share is None else f"{share * 100:.1f}".removesuffix(".0") + " %"


def points(before: float, after: float) -> str:
    """The difference of two shares in percentage points, with its sign: "−16.5"."""
    difference = round((after - before) * 100, 1)
    if not difference:
        return "±0"
    return f"{difference:+.1f}".removesuffix(".0").replace("-", "−")


def perplexity(value: float | None) -> str:
    """ "1.052", "13.4", "2,310"."""
    if value is None:
        return NONE
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def seconds(t: Translator, value: float | None, *, rough: bool = False) -> str:
    """A duration: "20 ms", "3.4 s", "42 s", "2 min 05 s", "1 h 12 min"; `rough` leaves out tenths, for what ticks."""
    if value is None:
        return NONE
    if value < 0.0995 and not rough:
        return t("unit.milliseconds", n=round(value * 1000))
    if value < 9.95 and not rough:
        return t("unit.seconds", n=f"{value:.1f}")
    total = int(value) if rough else round(value)
    if total < 60:
        return t("unit.seconds", n=total)
    if total < 3600:
        return t("unit.minutes", m=total // 60, s=f"{total % 60:02d}")
    return t("unit.hours", h=total // 3600, m=f"{total % 3600 // 60:02d}")


def moment(epoch: float) -> str:
    """Local time of day, with the date in front when it is not today's: "14:03", "11-21 14:03"."""
    then = time.localtime(epoch)
    today = time.strftime("%Y-%m-%d", then) == time.strftime("%Y-%m-%d")
    return time.strftime("%H:%M" if today else "%m-%d %H:%M", then)
