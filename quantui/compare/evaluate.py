"""Both models on an evaluation set: teacher-forced first, decoded only where that cannot tell the answer already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quantui.calibration.languages import LANGUAGES, language_of
from quantui.calibration.render import render
from quantui.calibration.sample import Sample, plain
from quantui.compare.divergence import apart
from quantui.compare.figures import Row
from quantui.compare.pair import Pair
from quantui.compare.switches import SIDES, Side
from quantui.errors import CalibrationError
from quantui.evaluation.measure import ANSWER_TOKENS, padded
from quantui.evaluation.questions import Question

BATCH = 32
LOGITS = 1 << 26
"""Most logits of a batch, so that a large vocabulary does not fill the memory."""

Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Asked:
    """A question as tokens: all of it with its answer, and where the answer begins and ends."""

    question: Question
    inputs: dict[str, Any]
    first: int
    last: int

    @property
    def ids(self) -> list[int]:
        """The tokens of the answer, its end included."""
        found: list[int] = self.inputs["input_ids"][0, self.first : self.last].tolist()
        return found


def ask(pair: Pair, question: Question) -> Asked:
    """A question through the chat template.

    An answer ends with its first end-of-turn token: what a template writes behind that no model was ever asked to say.

    Raises:
        CalibrationError: its answer has no token, or it is longer than the context.
    """
    inputs = _inputs(pair, question.full)
    ids: list[int] = inputs["input_ids"][0].tolist()
    first = int(_inputs(pair, question.prompt)["input_ids"].shape[1])
    last = next((place + 1 for place in range(first, len(ids)) if ids[place] in pair.ends), len(ids))
    if last <= first:
        raise CalibrationError("its answer has no tokens", where=question.full.where, todo="write the answer, or drop the row")
    if pair.context and len(ids) > pair.context:
        what = f"it has {len(ids)} tokens, more than the {pair.context} of the model's context"
        raise CalibrationError(what, where=question.full.where, todo="shorten the row, or drop it")
    return Asked(question, inputs, first, last)


def measure(pair: Pair, questions: Sequence[Question], told: Told = lambda done, total: None) -> list[Row]:
    """Every question forced through both models, in float64 from the logits on.

    Args:
        told: called with (questions done, questions in all) after each batch.

    Raises:
        CalibrationError: a row cannot be used; it is named.
    """
    rows: list[Row] = []
    for batch in _batches(pair, questions):
        rows += _forced(pair, batch)
        told(len(rows), len(questions))
    return rows


def _batches(pair: Pair, questions: Sequence[Question]) -> Iterator[list[Asked]]:
    vocabulary = int(pair.models["original"].config.get_text_config().vocab_size)
    most = 1 if pair.mixes_rows else BATCH
    batch: list[Asked] = []
    for question in questions:
        asked = ask(pair, question)
        longest = max([asked, *batch], key=lambda one: one.inputs["input_ids"].shape[1]).inputs["input_ids"].shape[1]
        if batch and (len(batch) == most or (len(batch) + 1) * longest * vocabulary > LOGITS):
            yield batch
            batch = []
        batch.append(asked)
    if batch:
        yield batch


def _forced(pair: Pair, batch: Sequence[Asked]) -> list[Row]:
    inputs = padded([asked.inputs for asked in batch], left=False)
    longest = int(inputs["input_ids"].shape[1])
    begin = min(asked.first for asked in batch) - 1  # the token before an answer tells its first one
    found = {side: pair.logits(side, inputs, keep=longest - begin) for side in SIDES}
    counts = [asked.last - asked.first for asked in batch]
    flat = {
        side: torch.cat([logits[row, a.first - 1 - begin : a.last - 1 - begin] for row, a in enumerate(batch)])
        for side, logits in found.items()
    }
    ids = torch.tensor([token for asked in batch for token in asked.ids], device=pair.device)
    made = apart(flat["original"], flat["quantized"], ids, dtype=torch.float64)
    agrees = made.best_original == made.best_quantized
    columns = [part.cpu().split(counts) for part in (made.kl, made.original, made.quantized, agrees)]
    hits = {"original": made.best_original == ids, "quantized": made.best_quantized == ids}
    sure = {side: [bool(part.all()) for part in hit.cpu().split(counts)] for side, hit in hits.items()}
    return [
        _row(asked, [column[place].numpy() for column in columns], {side: sure[side][place] for side in SIDES})
        for place, asked in enumerate(batch)
    ]


def _row(asked: Asked, columns: Sequence[Any], sure: dict[Side, bool]) -> Row:
    question = asked.question
    text = "\n".join(plain(message["content"]) for message in question.prompt.messages if message["role"] != "system")
    category = question.category or LANGUAGES[language_of(text)]
    row = Row(question.full.where, category, text, question.answer, asked.ids, *columns)
    row.picture = str(question.full.image) if question.full.image else None
    for side, is_sure in sure.items():
        if is_sure:  # every token of the answer is the likeliest one, so this is what decoding would give
            row.answers[side], row.right[side] = question.answer, True
    return row


def decode(pair: Pair, questions: Sequence[Question], rows: Sequence[Row], told: Told = lambda done, total: None) -> None:
    """Lets each model answer the questions whose answer the forced pass could not tell; fills `answers` and `right`."""
    open_ones = [(side, place) for side in SIDES for place, row in enumerate(rows) if side not in row.answers]
    most = 1 if pair.mixes_rows else BATCH
    for start in range(0, len(open_ones), most):
        batch = open_ones[start : start + most]
        for side in SIDES:
            places = [place for other, place in batch if other == side]
            if places:
                texts = _answers(pair, side, [questions[place] for place in places])
                for place, text in zip(places, texts, strict=True):
                    rows[place].answers[side] = text
                    rows[place].right[side] = text.strip() == rows[place].expected.strip()
        told(start + len(batch), len(open_ones))


def _answers(pair: Pair, side: Side, batch: Sequence[Question]) -> list[str]:
    inputs = padded([_inputs(pair, question.prompt) for question in batch], left=True)
    length = inputs["input_ids"].shape[1]
    words = pair.tokenizer
    with torch.inference_mode():
        made = pair.models[side].generate(
            **inputs,
            past_key_values=pair.cache(side),
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            pad_token_id=words.pad_token_id if words.pad_token_id is not None else next(iter(sorted(pair.ends)), None),
        )
    return [str(text) for text in words.batch_decode(made[:, length:], skip_special_tokens=True)]


def _inputs(pair: Pair, sample: Sample) -> dict[str, Any]:
    inputs = render(sample, pair.processor, 1 << 30, dtype=pair.models["original"].dtype)
    return {name: value.to(pair.device) for name, value in inputs.items()}
