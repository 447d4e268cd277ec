"""What becomes of samples that are longer or shorter than the cut: split into windows, dropped, or packed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from quantui.calibration.sample import Sample
from quantui.calibration.schema import Calibration
from quantui.errors import CalibrationError


def arrange(
    stream: Iterable[Sample],
    encode: Callable[[Sample], list[int]],
    calibration: Calibration,
    *,
    end: int | None = None,
    limit: int | None = None,
    note: Callable[[str], None] = lambda _text: None,
) -> list[Sample]:
    """The samples a calibration uses, of those that are drawn.

    Args:
        encode: all token ids of a sample.
        end: the token put behind each text where texts are packed.
        limit: only the first so many.

    Raises:
        CalibrationError: none is left, or a picture would have to be packed.
    """
    count = min(calibration.samples, limit or calibration.samples)
    if not calibration.reshapes:
        return [sample for sample, _ in zip(stream, range(count), strict=False)]
    if calibration.pack:
        found = _packed(stream, encode, calibration.max_tokens, count, end)
    elif calibration.long == "windows":
        found = _windows(stream, encode, calibration.max_tokens, count)
    else:
        found = _short(stream, encode, calibration.max_tokens, count, note)
    if not found:
        what = f"no sample is left: all are {'shorter' if calibration.pack else 'longer'} than {calibration.max_tokens} tokens"
        raise CalibrationError(what, where="calibration", todo="change max_tokens, or what is done with long samples")
    return found


def _packed(
    stream: Iterable[Sample], encode: Callable[[Sample], list[int]], size: int, count: int, end: int | None
) -> list[Sample]:
    found: list[Sample] = []
    buffer: list[int] = []
    for sample in stream:
        if sample.image is not None:
            raise CalibrationError("a picture cannot be packed", where=sample.where, todo="leave pack out, or the pictures")
        ids = encode(sample)
        buffer += ids if end is None or ids[-1:] == [end] else [*ids, end]
        while len(buffer) >= size and len(found) < count:
            found.append(
                Sample(f"window {len(found) + 1}, up to {sample.where}", ids=tuple(buffer[:size]), source=sample.source)
            )
            buffer = buffer[size:]
        if len(found) == count:
            break
    return found


def _windows(stream: Iterable[Sample], encode: Callable[[Sample], list[int]], size: int, count: int) -> list[Sample]:
    found: list[Sample] = []
    for sample in stream:
        ids = [] if sample.image is not None else encode(sample)
        if len(ids) <= size:
            found.append(sample)
        for begin in range(0, len(ids), size) if len(ids) > size else ():
            where = f"{sample.where} (tokens {begin} to {min(begin + size, len(ids))})"
            found.append(replace(Sample(where, source=sample.source), ids=tuple(ids[begin : begin + size])))
        if len(found) >= count:
            break
    return found[:count]


def _short(
    stream: Iterable[Sample], encode: Callable[[Sample], list[int]], size: int, count: int, note: Callable[[str], None]
) -> list[Sample]:
    found: list[Sample] = []
    dropped = 0
    for sample in stream:
        if len(encode(sample)) <= size:
            found.append(sample)
        else:
            dropped += 1
        if len(found) == count:
            break
    if dropped:
        note(f"{dropped} samples are longer than {size} tokens and were dropped")
    return found
