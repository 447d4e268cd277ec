"""Codes of a few bits put together into bytes and words, and taken apart again.

Every function also works on the meta device, where shapes alone are made: the first bit operation there would have torch
import some 800 modules, for seconds. Codes are signed int8 unless said otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring columns stands in each four bits of AWQ's word, from the lowest.
Source: lmdeploy 0.16.0, lmdeploy/lite/quantization/modules/linear.py."""

EIGHTS = 128
"""Eights of rows transposed at once: the longer the runs that are written, the fewer the lines of cache that are touched."""

CACHED = 1 << 15
"""Words of each of eight lanes worked on at once: few enough to stay in the processor's cache."""

APART = 16
"""Words between two rows of a lane, since rows a power of two apart would share the same places of the cache."""

IN_ORDER = (0, 1, 2, 3, 4, 5, 6, 7)
SWAPS = (
    (16, 0x0000FFFF, ((0, 4), (1, 5), (2, 6), (3, 7))),
    (8, 0x00FF00FF, ((0, 2), (1, 3), (4, 6), (5, 7))),
    (4, 0x0F0F0F0F, ((0, 1), (2, 3), (4, 5), (6, 7))),
)
"""How eight words of eight 4-bit codes are transposed: which parts of which two words change places, from halves to codes.
Source: H. Warren, Hacker's Delight, section 7-3, with 4-bit codes for bits."""


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


def turned(words: Tensor, *, order: tuple[int, ...] = IN_ORDER, back: tuple[int, ...] = IN_ORDER) -> Tensor:
    """Dense words (rows, columns / 8) of 4-bit codes as those of the transposed matrix, (columns, rows / 8); rows in eights.

    Args:
        order: which row of every eight goes first, second ... before.
        back: which row of every eight of the result the first, second ... becomes after.
    """
    import numpy as np
    import torch

    rows, across = words.shape
    made = torch.empty((across, 8, rows // 8), dtype=torch.int32, device=words.device)
    if words.is_meta:
        return made.view(across * 8, rows // 8)
    eights, target = words.numpy().reshape(-1, 8, across), made.numpy()
    lanes = np.empty((8, EIGHTS, across + APART), dtype=np.int32)
    step = max(CACHED // lanes.shape[2], 1)
    for start in range(0, rows // 8, EIGHTS):
        count = min(EIGHTS, rows // 8 - start)
        for lane, row in zip(lanes, order, strict=True):
            lane[:count, :across] = eights[start : start + count, row]
        for first in range(0, count, step):
            _swap([lane[first : min(first + step, count)].reshape(-1) for lane in lanes])
        for lane, place in zip(lanes, back, strict=True):
            target[:, place, start : start + count] = lane[:count, :across].T
    return made.view(across * 8, rows // 8)


def _swap(lanes: list[np.ndarray[Any, np.dtype[np.int32]]]) -> None:
    """Transposes, in place, the eight words that stand at one place of eight lanes, for every place."""
    import numpy as np

    moved = np.empty_like(lanes[0])
    for shift, mask, pairs in SWAPS:
        for low, high in pairs:
            one, two = lanes[low], lanes[high]
            np.right_shift(one, shift, out=moved)
            moved ^= two
            moved &= mask
            two ^= moved
            moved <<= shift
            one ^= moved


def awq_turned(words: Tensor) -> Tensor:
    """Dense words (out, n / 8) of 4-bit codes as AWQ's (n, out / 8), without taking them apart."""
    return turned(words, order=AWQ_ORDER)


def from_awq_turned(words: Tensor) -> Tensor:
    """The inverse of `awq_turned`."""
    return turned(words, back=AWQ_ORDER)


def awq_words(codes: Tensor) -> Tensor:
    """4-bit codes (out, n) as AWQ's int32 words (n, out / 8), shifted to begin at 0; for weights and zero points alike."""
    import torch

    out, columns = codes.shape
    if codes.is_meta:
        return torch.empty((columns, out // 8), dtype=torch.int32, device="meta")
    if columns % 8 == 0:
        return awq_turned(dense_words(codes, 4))
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
        return dense_codes(from_awq_turned(words), 4, columns)
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
