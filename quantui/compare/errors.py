"""What quantization does to the output of each layer, given the same input, and what bfloat16 alone does to the whole model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from quantui.compare.divergence import apart
from quantui.compare.evaluate import Asked
from quantui.compare.pair import Pair
from quantui.compare.sites import Site, bytes_of
from quantui.devices import widest_float

NOISE_BYTES = 2 << 30
"""Largest model of which a second copy is made to find its noise floor."""


class _Sums:
    """Sums over what has passed: of outputs squared, of errors squared, of products, and the size of inputs."""

    def __init__(self) -> None:
        self.signal = self.error = self.dot = self.other = 0.0
        self.largest = self.input = 0.0
        self.count = 0

    def add(self, x: torch.Tensor, exact: torch.Tensor, rounded: torch.Tensor) -> None:
        """Two outputs of one layer on one input."""
        self.largest = max(self.largest, float(x.abs().max()))
        wide = widest_float(x.device)
        self.input += float(x.to(wide).square().sum())
        self.count += x.numel()
        one, two = exact.to(wide), rounded.to(wide)
        self.signal += float(one.square().sum())
        self.other += float(two.square().sum())
        self.error += float((one - two).square().sum())
        self.dot += float((one * two).sum())

    def told(self) -> dict[str, float | None]:
        """SQNR in dB (None where there is no error), cosine, largest magnitude and root mean square of the input."""
        sqnr = 10 * math.log10(self.signal / self.error) if self.error > 0 and self.signal > 0 else None
        size = math.sqrt(self.signal * self.other)
        rms = math.sqrt(self.input / self.count) if self.count else 0.0
        return {"sqnr_db": sqnr, "cosine": self.dot / size if size else None, "input_absmax": self.largest, "input_rms": rms}


def layer_errors(pair: Pair, asked: Sequence[Asked], told: Callable[[int, int], None]) -> list[dict[str, Any]]:
    """Every switchable layer's output in float and quantized, on the inputs it gets in the model; nothing is kept but sums.

    Inputs are those of the original; where quantization has folded a rescaling into the weights they are those of the
    quantized model, and the float weight is rescaled likewise.
    """
    sums = {name: _Sums() for name in pair.sites}
    model = pair.models["quantized" if pair.folded else "original"]
    modules = dict(model.named_modules())
    hooks = [modules[name].register_forward_hook(_look(pair, site, sums[name])) for name, site in pair.sites.items()]
    try:
        for number, one in enumerate(asked):
            pair.logits("quantized" if pair.folded else "original", one.inputs, keep=1)
            told(number + 1, len(asked))
    finally:
        for hook in hooks:
            hook.remove()
    return [{"name": name, "scheme": pair.sites[name].words} | each.told() for name, each in sums.items()]


def _look(pair: Pair, site: Site, sums: _Sums) -> Callable[..., None]:
    def hook(module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if pair.folded:
            if site.can_fit:
                weights = site.fit()
                exact = torch.nn.functional.linear(args[0], weights["weight"], weights.get("bias"))
                sums.add(args[0], exact, output)
            return
        sums.add(args[0], output, site.module(args[0]))

    return hook


def noise_floor(pair: Pair, asked: Sequence[Asked], told: Callable[[int, int], None]) -> float | None:
    """Mean KL in nats a token between the original computed in float32 and in bfloat16; None for models too large to copy."""
    original = pair.models["original"]
    if bytes_of(list(original.parameters())) > NOISE_BYTES or not asked:
        return None
    is_exact = original.dtype == torch.float32
    copied = copy.deepcopy(original).to(torch.bfloat16 if is_exact else torch.float32)
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for number, one in enumerate(asked):
            keep = int(one.inputs["input_ids"].shape[1]) - one.first + 1
            count = one.last - one.first
            made = [
                model(**_in_dtype(one.inputs, model.dtype), use_cache=False, logits_to_keep=keep).logits[0, :count]
                for model in ((original, copied) if is_exact else (copied, original))
            ]
            total += float(apart(made[0], made[1], torch.tensor(one.ids, device=pair.device), dtype=torch.float64).kl.sum())
            tokens += count
            told(number + 1, len(asked))
    return total / max(tokens, 1)


def by_position(pair: Pair, asked: Sequence[Asked], told: Callable[[int, int], None]) -> dict[str, Any]:
    """Mean KL at the image tokens and at the text tokens of rows with pictures, prompts included; {} for text models."""
    image = getattr(pair.processor, "image_token_id", None)
    if image is None or not pair.image_text:
        return {}
    sums = {"image": [0.0, 0], "text": [0.0, 0]}
    for number, one in enumerate(asked):
        ids = one.inputs["input_ids"][0]
        logits = [pair.logits(side, one.inputs)[0, :-1] for side in ("original", "quantized")]
        kl = apart(logits[0], logits[1], ids[1:], dtype=torch.float64).kl
        here = ids[:-1] == image
        for name, mask in (("image", here), ("text", ~here)):
            sums[name][0] += float(kl[mask].sum())
            sums[name][1] += int(mask.sum())
        told(number + 1, len(asked))
    return {name: {"kl_mean": total / count if count else None, "tokens": count} for name, (total, count) in sums.items()}


def _in_dtype(inputs: dict[str, Any], dtype: Any) -> dict[str, Any]:
    return {name: value.to(dtype) if value.dtype.is_floating_point else value for name, value in inputs.items()}
