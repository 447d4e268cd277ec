"""One number for all token ids of a calibration: equal numbers, equal ids in the same order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np


class TokenHash:
    """Takes samples as they are rendered, in any order and as often as wanted."""

    def __init__(self) -> None:
        self._digests: dict[int, bytes] = {}

    def add(self, index: int, ids: Sequence[int]) -> None:
        """The ids of one sample."""
        self._digests[index] = hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).digest()

    def __bool__(self) -> bool:
        return bool(self._digests)

    def hexdigest(self) -> str:
        """SHA-256 over the SHA-256 of each sample's ids (int64, little-endian), in the order of the samples."""
        return hashlib.sha256(b"".join(self._digests[index] for index in sorted(self._digests))).hexdigest()


def token_hash(samples: Iterable[Sequence[int]]) -> str:
    """The hash of samples in their order."""
    found = TokenHash()
    for index, ids in enumerate(samples):
        found.add(index, ids)
    return found.hexdigest()
