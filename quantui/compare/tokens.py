"""Tokens as a page or a report shows them: text, distance, and what else each model thought of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantui.compare.divergence import TOP, Apart, forced
from quantui.compare.evaluate import ask
from quantui.compare.pair import Pair
from quantui.compare.prompt import Prompt
from quantui.compare.switches import Side
from quantui.compare.words import one_token, pieces
from quantui.evaluation.questions import Question

DIGITS = 6


def told(pair: Pair, ids: Sequence[int], made: Apart, side: Side) -> dict[str, Any]:
    """An answer of one model, token by token.

    Returns:
        `tokens`: for each its text, id, kl, log probabilities (`original`, `quantized`) and both top lists of [text, log
        probability]; `first`: the place where the other model would go its own way, None if nowhere.
    """
    lists = {}
    for name in ("original", "quantized"):
        likely, logps = getattr(made, f"top_{name}").tolist(), getattr(made, f"logp_{name}").tolist()
        lists[name] = [
            [[one_token(pair.tokenizer, token), round(logp, DIGITS)] for token, logp in zip(row, values, strict=True)]
            for row, values in zip(likely, logps, strict=True)
        ]
    columns = (made.kl.tolist(), made.original.tolist(), made.quantized.tolist())
    tokens = [
        {
            "text": text or (one_token(pair.tokenizer, token) if token in pair.ends else ""),
            "end": token in pair.ends,
            "id": token,
            "kl": float(f"{kl:.6g}"),
            "original": round(one, DIGITS),
            "quantized": round(two, DIGITS),
            "top": {name: rows[place] for name, rows in lists.items()},
        }
        for place, (text, token, kl, one, two) in enumerate(zip(pieces(pair.tokenizer, ids), ids, *columns, strict=True))
    ]
    return {"tokens": tokens, "first": made.first_difference(ids, side)}


def told_tokens(pair: Pair, question: Question) -> dict[str, Any]:
    """The expected answer of a question, forced through both models."""
    asked = ask(pair, question)
    inputs = {
        name: value[:, : asked.first] if value.shape[:2] == asked.inputs["input_ids"].shape else value
        for name, value in asked.inputs.items()
    }
    made = forced(pair, Prompt(inputs, asked.first, 0, 0), asked.ids, top=TOP)
    return told(pair, asked.ids, made, "original")
