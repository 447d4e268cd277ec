"""How many held-out questions a model answers exactly, and how surprised it is by the right answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from quantui.calibration.render import render
from quantui.calibration.sources import Sample
from quantui.errors import CalibrationError
from quantui.evaluation.questions import Question

BATCH = 32
ANSWER_TOKENS = 48
"""How many tokens a model may answer with; the demo's longest answer has fewer than half."""


@dataclass(frozen=True)
class Evaluation:
    """What a model made of the held-out questions.

    Attributes:
        exact_match: share of questions whose answer, generated greedily, equals the expected text after stripping.
        perplexity: exp of the mean negative log-likelihood per token of the expected answers, end of turn included.
        samples: number of questions.
    """

    exact_match: float
    perplexity: float
    samples: int


def evaluate(model: Any, processor: Any, questions: Sequence[Question], told: Callable[[int, int], None]) -> Evaluation:
    """Runs a model on held-out questions.

    Args:
        model: a transformers model in evaluation mode.
        processor: its tokenizer or processor.
        told: called with (questions done, questions in all) after each batch.
    """
    import torch

    right, surprise, tokens = 0, 0.0, 0
    with torch.no_grad():
        for start in range(0, len(questions), BATCH):
            batch = questions[start : start + BATCH]
            answers = _answers(model, processor, batch)
            right += sum(answer.strip() == question.answer.strip() for answer, question in zip(answers, batch, strict=True))
            batch_surprise, batch_tokens = _surprise(model, processor, batch)
            surprise, tokens = surprise + batch_surprise, tokens + batch_tokens
            told(start + len(batch), len(questions))
    mean = surprise / max(tokens, 1)
    return Evaluation(right / len(questions), math.exp(mean) if mean < 700 else math.inf, len(questions))


def _answers(model: Any, processor: Any, batch: Sequence[Question]) -> list[str]:
    inputs = padded([_inputs(model, processor, question.prompt) for question in batch], left=True)
    length = inputs["input_ids"].shape[1]
    tokenizer = getattr(processor, "tokenizer", processor)
    ends = _ends(model)
    made = model.generate(
        **inputs,
        max_new_tokens=ANSWER_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(ends), None),
    )
    return [str(text) for text in tokenizer.batch_decode(made[:, length:], skip_special_tokens=True)]


def _ends(model: Any) -> list[int]:
    """The tokens that end a turn."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def _surprise(model: Any, processor: Any, batch: Sequence[Question]) -> tuple[float, int]:
    """(sum of negative log-likelihoods in nats, number of tokens) over the answers.

    An answer ends with its first end-of-turn token: what a template writes behind that, often a line break, no model was ever
    asked to say.
    """
    import torch

    rows = [_inputs(model, processor, question.full) for question in batch]
    prompts = [_inputs(model, processor, question.prompt)["input_ids"].shape[1] for question in batch]
    inputs = padded(rows, left=False)
    logits = model(**inputs).logits[:, :-1].to(torch.float32)  # (rows, tokens - 1, vocabulary)
    targets = inputs["input_ids"][:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")  # (rows, tokens - 1)
    wanted = inputs["attention_mask"][:, 1:].bool()
    ends = torch.tensor(_ends(model), device=targets.device, dtype=targets.dtype)
    for row, prompt in enumerate(prompts):
        wanted[row, : prompt - 1] = False
        if (places := torch.isin(targets[row], ends).logical_and(wanted[row]).nonzero()).numel():
            wanted[row, int(places[0]) + 1 :] = False
    return float(losses[wanted].sum()), int(wanted.sum())


def _inputs(model: Any, processor: Any, sample: Sample) -> dict[str, Any]:
    inputs = render(sample, processor, 1 << 30, dtype=model.dtype)
    return {key: value.to(model.device) for key, value in inputs.items()}


def padded(rows: Sequence[dict[str, Any]], *, left: bool) -> dict[str, Any]:
    """One batch: what runs along the tokens is padded with zeros, everything else is put end to end."""
    import torch

    longest = max(row["input_ids"].shape[1] for row in rows)

    def widened(row: dict[str, Any], key: str) -> torch.Tensor:
        value: torch.Tensor = row[key]
        if value.shape[:2] != row["input_ids"].shape:
            return value
        gap = longest - value.shape[1]
        return torch.nn.functional.pad(value, (gap, 0) if left else (0, gap))

    return {key: torch.cat([widened(row, key) for row in rows]) for key in _keys(rows)}


def _keys(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    first = set(rows[0])
    for row in rows:
        if set(row) != first:
            raise CalibrationError("pictures and plain text stand in one evaluation file", todo="use one file for each")
    return iter(rows[0])
