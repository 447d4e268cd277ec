"""Codes of a few bits put together into bytes and words, and taken apart again.

Every function also works on the meta device, where shapes alone are made: the first bit operation there would have torch
import some 800 modules, for seconds. Codes are signed int8 unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Words = np.ndarray[Any, np.dtype[np.int32]]

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring columns stands in each four bits of AWQ's word, from the lowest.
Source: lmdeploy 0.16.0, lmdeploy/lite/quantization/modules/linear.py."""

EIGHTS, ACROSS = 128, 128
"""Eights of rows, and words of each, that are turned at once: more would leave the processor's cache."""

LOW_HALVES = 0x0F0F0F0F


def dense_words(codes: Tensor, bits: int) -> Tensor:
    """Codes (rows, columns) as int32 words (rows, ceil(columns * bits / 32)): shifted to begin at 0, without a gap.

    Source: compressed_tensors/compressors/pack_quantized/helpers.py of 0.19.0.
    """
    import torch
    from torch.nn.functional import pad

    rows, columns = codes.shape
    words = -(-columns * bits // 32)
    if codes.is_meta:
        return torch.empty((rows, words), dtype=torch.int32, device="meta")
    unsigned = codes.contiguous().view(torch.uint8) + (1 << (bits - 1))
    if bits == 4 and columns % 8 == 0:
        pairs = unsigned.reshape(-1).view(torch.int16)  # two codes a lane, the even column low
        return (pairs | pairs >> 4).to(torch.uint8).view(torch.int32).reshape(rows, words)
    if 8 % bits == 0:
        count = 8 // bits
        unsigned = pad(unsigned, (0, words * 4 * count - columns))
        made = unsigned[:, ::count].clone(memory_format=torch.contiguous_format)
        for place in range(1, count):
            made |= unsigned[:, place::count] << (bits * place)
        return made.reshape(-1).view(torch.int32).reshape(rows, words)
    groups = -(-columns // 32)
    wide = pad(unsigned, (0, groups * 32 - columns)).view(rows, groups, 32).to(torch.int64)
    packed = torch.zeros((rows, groups, bits), dtype=torch.int64, device=codes.device)
    for place in range(32):
        word, shift = divmod(place * bits, 32)
        packed[..., word] |= (wide[..., place] << shift) & 0xFFFFFFFF
        if shift + bits > 32:
            packed[..., word + 1] |= wide[..., place] >> (32 - shift)
    return packed.to(torch.int32).view(rows, groups * bits)[:, :words].contiguous()


def dense_codes(words: Tensor, bits: int, columns: int) -> Tensor:
    """The inverse of `dense_words`: codes (rows, columns)."""
    import torch
    from torch.nn.functional import pad

    rows = words.shape[0]
    if words.is_meta:
        return torch.empty((rows, columns), dtype=torch.int8, device="meta")
    offset, mask = 1 << (bits - 1), (1 << bits) - 1
    if bits == 4 and columns == words.shape[1] * 8:
        pairs = words.reshape(-1).view(torch.uint8).to(torch.int16)
        spread = (pairs | pairs << 4).bitwise_and_(0x0F0F).view(torch.uint8)
        return spread.sub_(offset).view(torch.int8).reshape(rows, columns)
    if 8 % bits == 0:
        count = 8 // bits
        packed = words.reshape(-1).view(torch.uint8).reshape(rows, -1)
        made = torch.empty((rows, packed.shape[1], count), dtype=torch.uint8, device=words.device)
        for place in range(count):
            made[..., place] = (packed >> (bits * place)) & mask
        made -= offset
        return made.view(rows, -1)[:, :columns].contiguous().view(torch.int8)
    groups = -(-columns // 32)
    wide = pad(words.to(torch.int64) & 0xFFFFFFFF, (0, groups * bits - words.shape[1])).view(rows, groups, bits)
    made = torch.empty((rows, groups, 32), dtype=torch.int64, device=words.device)
    for place in range(32):
        word, shift = divmod(place * bits, 32)
        value = wide[..., word] >> shift
        if shift + bits > 32:
            value = value | (wide[..., word + 1] << (32 - shift))
        made[..., place] = value & mask
    return (made - offset).to(torch.int8).view(rows, -1)[:, :columns].contiguous()


def awq_pieces(words: Tensor) -> Iterator[Tensor]:
    """Dense words (out, n / 8) of 4-bit codes as AWQ's (n, out / 8), flattened, some rows at a time; out in eights.

    Each piece holds until the next is asked for. Two rows exchange halves of bytes, so that a byte holds one column of both;
    what is left is to transpose bytes, which then come in AWQ's order.
    """
    import numpy as np
    import torch

    eights = _by_bytes(words)
    _, count, _, _, across = eights.shape
    target = np.empty((4 * min(ACROSS, across), 2, count), dtype=np.int32)
    for first in range(0, across, ACROSS):
        for start in range(0, count, EIGHTS):
            tile = eights[:, start : start + EIGHTS, :, :, first : first + ACROSS].copy()
            _exchange(tile)
            turned = _transposed(tile.reshape(2, 4 * tile.shape[1], -1))
            target[: turned.shape[1], :, start : start + EIGHTS] = turned.transpose(1, 0, 2)
        yield torch.from_numpy(target[: 4 * (across - first)].reshape(-1))


def dense_pieces(words: Tensor, at_once: int) -> Iterator[Tensor]:
    """The inverse of `awq_pieces`, `at_once` dense rows at a time, in eights; n in eights."""
    import numpy as np
    import torch

    source, count = words.numpy().reshape(words.shape[0] // 2, 2, -1), words.shape[1]
    target = np.empty((min(at_once, count * 8), words.shape[0] // 8), dtype=np.int32)
    for begin in range(0, count, at_once // 8):
        made = torch.from_numpy(target[: 8 * (count - begin)])
        eights = _by_bytes(made)
        for first in range(0, eights.shape[4], ACROSS):
            for start in range(0, eights.shape[1], EIGHTS):
                into = eights[:, start : start + EIGHTS, :, :, first : first + ACROSS]
                end = begin + start + into.shape[1]
                turned = _transposed(source[4 * first : 4 * (first + ACROSS), :, begin + start : end].transpose(1, 0, 2).copy())
                _exchange(turned)
                into[...] = turned.reshape(into.shape)
        yield made.reshape(-1)


def _by_bytes(words: Tensor) -> Words:
    """Dense words (8 e, c) as (2, e, 2, 2, c): the rows in the low and those in the high halves of the bytes of AWQ's words."""
    rows, across = words.shape
    made: Words = words.numpy().reshape(rows // 8, 2, 2, 2, across).transpose(2, 0, 3, 1, 4)
    return made


def _exchange(tile: Words) -> None:
    """Has, in place, the high halves of the bytes of tile[0] and the low ones of tile[1] change places."""
    import numpy as np

    one, two = tile[0], tile[1]
    moved = one >> 4
    moved ^= two
    moved &= np.int32(LOW_HALVES)
    two ^= moved
    moved <<= 4
    one ^= moved


def _transposed(words: Words) -> Words:
    """Two matrices of words (2, rows, c), transposed byte by byte: (2, 4 c, rows / 4)."""
    import numpy as np
    import torch

    _, rows, across = words.shape
    # as the channels of a picture of two pixels, shuffled: the quickest transposition of bytes that torch has
    picture = torch.from_numpy(words.view(np.uint8).reshape(1, 2, 1, -1).transpose(0, 3, 1, 2))
    turned = torch.native_channel_shuffle(picture, rows).numpy().transpose(0, 2, 3, 1)
    made: Words = turned.reshape(2, 4 * across, rows).view(np.int32)
    return made


def _joined(pieces: Iterator[Tensor], shape: tuple[int, int]) -> Tensor:
    """Flattened pieces as one int32 tensor of a shape."""
    import torch

    made = torch.empty(shape, dtype=torch.int32)
    flat, end = made.view(-1), 0
    for piece in pieces:
        flat[end : end + piece.numel()] = piece
        end += piece.numel()
    return made


def awq_words(codes: Tensor) -> Tensor:
    """4-bit codes (out, n) as AWQ's int32 words (n, out / 8), shifted to begin at 0; for weights and zero points alike."""
    import torch

    out, columns = codes.shape
    if codes.is_meta:
        return torch.empty((columns, out // 8), dtype=torch.int32, device="meta")
    if columns % 8 == 0:
        return _joined(awq_pieces(dense_words(codes, 4)), (columns, out // 8))
    unsigned = (codes.contiguous().view(torch.uint8) + 8).view(-1, 8, columns)
    packed = torch.empty((out // 8, columns, 4), dtype=torch.uint8, device=codes.device)
    for byte in range(4):
        packed[..., byte] = unsigned[:, AWQ_ORDER[2 * byte]] | (unsigned[:, AWQ_ORDER[2 * byte + 1]] << 4)
    return packed.view(torch.int32).squeeze(-1).t().contiguous()


def awq_codes(words: Tensor) -> Tensor:
    """The inverse of `awq_words`: int8 codes (out, n)."""
    import torch

    columns, count = words.shape
    if words.is_meta:
        return torch.empty((count * 8, columns), dtype=torch.int8, device="meta")
    if columns % 8 == 0:
        return dense_codes(_joined(dense_pieces(words, count * 8), (count * 8, columns // 8)), 4, columns)
    packed = words.t().reshape(-1).view(torch.uint8).view(count, columns, 4)
    codes = torch.empty((count, 8, columns), dtype=torch.uint8, device=words.device)
    for byte in range(4):
        codes[:, AWQ_ORDER[2 * byte]] = packed[..., byte] & 0xF
        codes[:, AWQ_ORDER[2 * byte + 1]] = packed[..., byte] >> 4
    return (codes - 8).view(count * 8, columns).view(torch.int8)


def pairs_along_columns(codes: Tensor) -> Tensor:
    """4-bit codes (rows, columns) as bytes (rows, columns / 2), the even column in the low half; int8, not shifted.

    Source: msmodelslim/pytorch/llm_ptq/llm_ptq_tools/save/complex_quantifier.py, lines 131 to 189.
    """
    if codes.is_meta:
        return codes[:, ::2].contiguous()
    return (codes[:, 1::2] << 4) | (codes[:, ::2] & 0xF)


def from_pairs_along_columns(packed: Tensor) -> Tensor:
    """The inverse of `pairs_along_columns`."""
    import torch

    if packed.is_meta:
        return packed.repeat_interleave(2, 1)
    return torch.stack(((packed << 4) >> 4, packed >> 4), -1).flatten(1)


def pairs_along_rows(codes: Tensor) -> Tensor:
    """4-bit codes (rows, columns) as bytes (rows / 2, columns), the even row in the low half; int8, not shifted.

    Source: as `pairs_along_columns`.
    """
    if codes.is_meta:
        return codes[::2].contiguous()
    return (codes[1::2] << 4) | (codes[::2] & 0xF)


def from_pairs_along_rows(packed: Tensor) -> Tensor:
    """The inverse of `pairs_along_rows`."""
    import torch

    if packed.is_meta:
        return packed.repeat_interleave(2, 0)
    return torch.stack(((packed << 4) >> 4, packed >> 4), 1).flatten(0, 1)


def halves(codes: Tensor, *, first_high: bool = False) -> Tensor:
    """Unsigned 4-bit codes of any shape with an even last dimension as uint8 of half that: float4 low half first, NF4 high."""
    first, second = codes[..., ::2], codes[..., 1::2]
    if codes.is_meta:
        return first.contiguous()
    return (first << 4) | second if first_high else first | (second << 4)


def from_halves(packed: Tensor, *, first_high: bool = False) -> Tensor:
    """The inverse of `halves`."""
    import torch

    if packed.is_meta:
        return packed.repeat_interleave(2, -1)
    low, high = packed & 0xF, packed >> 4
    return torch.stack((high, low) if first_high else (low, high), -1).flatten(-2)
