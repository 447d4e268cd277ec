"""The table of a benchmark run: what the quantized model reached, what the original did, and the difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

ERRORS = "_stderr"
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def table(original: dict[str, dict[str, Any]], quantized: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each task and metric that both have: quantized, original, their difference, and standard errors."""
    rows = []
    for task, metrics in original.items():
        for key, value in metrics.items():
            metric, _, filtered = key.partition(",")
            before, after = _number(value), _number(quantized.get(task, {}).get(key))
            if metric.endswith(ERRORS) or not filtered or before is None or after is None:
                continue
            error = f"{metric}{ERRORS},{filtered}"
            rows.append(
                {
                    "task": task,
                    "metric": metric if filtered == "none" else f"{metric} ({filtered})",
                    "quantized": after,
                    "original": before,
                    "diff": after - before,
                    "stderr_original": _number(metrics.get(error)),
                    "stderr_quantized": _number(quantized[task].get(error)),
                }
            )
    return rows


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def columns(schemes: Sequence[str], dtype: str) -> dict[str, str]:
    """What the two columns are called: the commonest kind of the quantized weights, and the dtype of the original.

    Args:
        schemes: of the quantized layers, as "W8A8 int8 static".
        dtype: as torch says it.
    """
    kinds = Counter(scheme.split()[1] for scheme in schemes if " " in scheme)
    named = kinds.most_common(1)[0][0] if kinds else "quantized"
    return {"quantized": named, "original": DTYPES.get(dtype.removeprefix("torch."), dtype)}


def shown(rows: Sequence[dict[str, Any]], named: Mapping[str, str]) -> str:
    """The table as text: what the quantized model reached, the original, and the difference.

    Args:
        named: how the columns of the two are called, as `columns` says.
    """
    title = ("task", "metric", named["quantized"], named["original"], "diff")
    body = [
        (row["task"], row["metric"], f"{row['quantized']:.4f}", f"{row['original']:.4f}", f"{row['diff']:+.4f}") for row in rows
    ]
    widths = [max(len(line[column]) for line in (title, *body)) for column in range(len(title))]
    lines = []
    for line in (title, *body):
        words = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
        lines.append("  ".join([*words, *(cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True))]))
    return "\n".join(lines)
