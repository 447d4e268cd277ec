"""What is likely wrong with a set of samples, in plain words; the thresholds stand in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantui.calibration.languages import LANGUAGES
from quantui.calibration.survey import Survey


@dataclass(frozen=True)
class Thresholds:
    """Where advice begins.

    Attributes:
        cut: share of samples that lose text.
        fewest, most: samples; msModelSlim's and llm-compressor's examples use 30 to 512.
        duplicates: share of samples that are there twice.
        vocabulary: share of all tokens that occur, below which outliers of rare tokens are never seen.
        vocabulary_tokens: tokens from which on that share says something.
        language: how far the share of a language may be from that of the evaluation data.
    """

    cut: float = 0.2
    fewest: int = 20
    most: int = 2000
    duplicates: float = 0.05
    vocabulary: float = 0.02
    vocabulary_tokens: int = 20_000
    language: float = 0.5


@dataclass(frozen=True)
class Advice:
    """One warning.

    Attributes:
        key: which one, for translations.
        values: the numbers in it.
        text: in English.
    """

    key: str
    values: Mapping[str, Any]
    text: str


TEXTS: Mapping[str, str] = {
    "cut": "{percent} % of the samples are cut at {max_tokens} tokens",
    "vision_without_pictures": "no sample has a picture, but the recipe quantizes the vision tower",
    "too_few": "there are only {samples} samples; with less than {fewest} the ranges depend on chance",
    "too_many": "there are {samples} samples; more than {most} cost time and hardly change the ranges",
    "fewer_than_asked": "the sources hold {samples} samples, {asked} were asked for",
    "empty": "nothing is left of {empty} samples after the cut",
    "unusable": "{problems} samples cannot be used, and the job would stop at the first of them: {first}",
    "duplicates": "{duplicates} of {samples} samples are there twice",
    "vocabulary": "only {percent} % of the vocabulary occurs",
    "language": "the calibration is mostly {calibration}, the evaluation data mostly {evaluation}",
    "no_template": "the model has no chat template, so chats are given to it as plain lines",
}
"""What each warning says."""


def advise(
    found: Survey,
    *,
    vision_quantized: bool = False,
    evaluation_languages: Mapping[str, float] | None = None,
    thresholds: Thresholds | None = None,
) -> list[Advice]:
    """Warnings of a set, the gravest first.

    Args:
        vision_quantized: whether the recipe quantizes layers of the vision tower.
        evaluation_languages: shares of languages of what the result is measured on or used for.
    """
    limits = thresholds or Thresholds()
    said: list[Advice] = []

    def say(key: str, **values: Any) -> None:
        said.append(Advice(key, values, TEXTS[key].format(**values)))

    if found.problems:
        say("unusable", problems=len(found.problems), first=found.problems[0].rstrip("."))
    if found.empty:
        say("empty", empty=found.empty)
    if vision_quantized and not found.pictures:
        say("vision_without_pictures")
    if found.samples < limits.fewest:
        say("too_few", samples=found.samples, fewest=limits.fewest)
    elif found.samples < found.asked:
        say("fewer_than_asked", samples=found.samples, asked=found.asked)
    if found.samples > limits.most:
        say("too_many", samples=found.samples, most=limits.most)
    if found.cut > limits.cut * found.samples:
        say("cut", percent=round(100 * found.cut / found.samples), max_tokens=found.histogram.cut)
    if found.duplicates > limits.duplicates * found.samples:
        say("duplicates", duplicates=found.duplicates, samples=found.samples)
    covered = found.vocabulary_used / max(found.vocabulary_size, 1)
    if found.total_tokens >= limits.vocabulary_tokens and covered < limits.vocabulary:
        say("vocabulary", percent=round(100 * covered, 1))
    _compare_languages(found.languages, evaluation_languages or {}, limits, say)
    if any("no chat template" in note for note in found.notes):
        say("no_template")
    return said


def _compare_languages(here: Mapping[str, float], there: Mapping[str, float], limits: Thresholds, say: Any) -> None:
    if not here or not there:
        return
    most, wanted = max(here, key=lambda name: here[name]), max(there, key=lambda name: there[name])
    if most != wanted and there[wanted] - here.get(wanted, 0.0) >= limits.language:
        say("language", calibration=LANGUAGES[most], evaluation=LANGUAGES[wanted])
