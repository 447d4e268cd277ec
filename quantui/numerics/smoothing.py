"""SmoothQuant's scales: an input divided by them and a weight multiplied by them give the same product."""

from __future__ import annotations

from typing import Any


def smoothing_scales(span: Any, weight_absmax: Any, strength: float) -> Any:
    """The scale of every input channel, s = span^a / (2 w)^(1 - a); the span itself where a weight column is zero.

    Args:
        span: (channels,) largest minus smallest value of the input.
        weight_absmax: (channels,) largest magnitude of the column in any weight that reads this input.
        strength: a, 0 to 1; more moves more of the difficulty into the weights.

    Returns:
        (channels,), 1 where it would be zero.

    Source: llmcompressor/modifiers/transform/smoothquant/base.py of 0.14.0.1, _calculate_smoothing_scales.
    """
    import numpy as np

    doubled = 2.0 * weight_absmax
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.where(doubled > 0, span**strength / doubled ** (1 - strength), span)
    return np.where(np.isfinite(scales) & (scales > 0), scales, 1.0)
