"""Several sources as one stream of samples: shares that come out within one sample, whatever part of it is taken."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from quantui.calibration.languages import LANGUAGES, language_of
from quantui.calibration.sample import Sample

LOOKED_AT = 50
"""Rows looked at for each sample wanted, before a language counts as not there."""


def parts(weights: Sequence[float], count: int) -> list[int]:
    """How many of `count` each weight gets: the shares rounded down, the rest to the largest remainders."""
    total = sum(weights)
    exact = [weight * count / total for weight in weights]
    found = [int(share) for share in exact]
    order = sorted(range(len(weights)), key=lambda i: (found[i] - exact[i], i))
    for place in order[: count - sum(found)]:
        found[place] += 1
    return found


def interleaved(quotas: Sequence[int]) -> list[int]:
    """Which source each place is for, spread evenly: after any number of places each has had its share, within one."""
    places = [((turn + 0.5) / quota, source) for source, quota in enumerate(quotas) for turn in range(quota)]
    return [source for _, source in sorted(places)]


def mixed(
    streams: Sequence[Iterator[Sample]], weights: Sequence[float], count: int, note: Callable[[str], None]
) -> Iterator[Sample]:
    """Samples of several sources in shares of `count`; what one lacks the others fill, and that is noted."""
    quotas = parts(weights, count)
    had, dry = [0] * len(quotas), set[int]()
    for asked in interleaved(quotas):
        others = sorted((i for i in range(len(quotas)) if i != asked), key=lambda i: -weights[i])
        for source in (asked, *others):
            sample = None if source in dry else next(streams[source], None)
            if sample is not None:
                had[source] += 1
                yield sample
                break
            dry.add(source)
        else:
            break
    for source in sorted(dry):
        if had[source] < quotas[source]:
            note(
                f"source {source + 1} has only {had[source]} different samples of the {quotas[source]} that its weight asks for"
            )


def by_language(
    stream: Iterator[Sample], wanted: Mapping[str, float], count: int, note: Callable[[str], None]
) -> Iterator[Sample]:
    """Samples of the asked languages in shares of `count`, in the order they come; the rest fills what is not to be had."""
    names = list(wanted)
    quotas = dict(zip(names, parts([wanted[name] for name in names], count), strict=True))
    left, spare, given = dict(quotas), list[Sample](), 0
    for looked, sample in enumerate(stream):
        if not any(left.values()) or looked >= LOOKED_AT * count:
            break
        language = language_of(sample.plain)
        if left.get(language, 0):
            left[language] -= 1
            given += 1
            yield sample
        elif len(spare) < count:
            spare.append(sample)
    yield from spare[: count - given]
    for name, missing in left.items():
        if missing:
            note(f"only {quotas[name] - missing} samples are {LANGUAGES[name]}; {quotas[name]} were asked for")


def different(stream: Iterator[Sample], seen: set[bytes]) -> Iterator[Sample]:
    """Each sample once, whatever it is called."""
    for sample in stream:
        digest = hashlib.blake2b(sample.content.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield sample
