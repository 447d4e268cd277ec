"""A K/V cache that the engine's own scheme cannot say: a scale a channel, or values otherwise than keys."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from compressed_tensors.modeling import initialize_hooked_kv_cache
from compressed_tensors.quantization import is_cached_attention_module
from llmcompressor.core import Event, State
from llmcompressor.modifiers import Modifier
from pydantic import PrivateAttr

from quantui.numerics.minmax import EPSILON, absmax_scale, range_scale
from quantui.numerics.quantized import CacheScales
from quantui.recipe.schema import QuantArgs

KEPT = "kept_cache_scales"
"""The attribute of an attention module where its scales stand when calibration has ended."""
FUSED = ("qkv_proj", "query_key_value", "wqkv")
"""Names of projections that give queries, keys and values in one, in this order."""
FLOAT8_MAX = 448.0


class KVCacheModifier(Modifier):
    """Calibrates keys and values each as it is told.

    Scales by channel are of what the projections give, before keys are rotated, as Ascend's runtime wants them; others are of
    what the cache holds.

    Attributes:
        keys: how keys are cached, as a recipe says it.
        values: how values are, None for the same.
    """

    requires_calibration_data: bool = True

    keys: dict[str, Any]
    values: dict[str, Any] | None = None

    _seen: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]] = PrivateAttr(default_factory=dict)

    def on_initialize(self, state: State, **kwargs: Any) -> bool:
        """Nothing to prepare."""
        return True

    def on_calibration_start(self, state: State, event: Event, **kwargs: Any) -> None:
        """Watches keys and values of every attention layer."""
        for name, module in state.model.named_modules():
            if not is_cached_attention_module(module):
                continue
            for kind, args in self._args().items():
                if args.strategy == "channel":
                    self._watch_projection(name, module, kind)
                else:
                    initialize_hooked_kv_cache(state.model, module)
                    look = partial(self._look_at_heads, name, kind)
                    self.register_hook(module, lambda _module, states, look=look: look(states), kind)

    def on_calibration_end(self, state: State, event: Event, **kwargs: Any) -> None:
        """Leaves the scales on the attention modules."""
        self.remove_hooks()
        args = self._args()
        for name, module in state.model.named_modules():
            if (name, "key") in self._seen:
                setattr(module, KEPT, scales_of(name, module, args, {k: self._seen[name, k] for k in args}))

    def _args(self) -> dict[str, QuantArgs]:
        keys = QuantArgs(**self.keys)
        return {"key": keys, "value": keys if self.values is None else QuantArgs(**self.values)}

    def _watch_projection(self, name: str, module: torch.nn.Module, kind: str) -> None:
        own = getattr(module, f"{kind[0]}_proj", None)
        if own is not None:
            self.register_hook(own, lambda _module, _args, output: self._look(name, kind, output), "forward")
            return
        fused = next(getattr(module, known) for known in FUSED if hasattr(module, known))

        def look(_module: torch.nn.Module, _args: Any, output: torch.Tensor) -> None:
            size = (output.shape[-1] - fused.in_features) // 2
            self._look(name, kind, output[..., -2 * size : -size] if kind == "key" else output[..., -size:])

        self.register_hook(fused, look, "forward")

    def _look_at_heads(self, name: str, kind: str, states: torch.Tensor) -> None:
        """Takes keys or values (batch, heads, tokens, head size)."""
        self._look(name, kind, states.transpose(1, 2).flatten(2))

    def _look(self, name: str, kind: str, flat: torch.Tensor) -> None:
        """Takes keys or values (..., heads * head size)."""
        rows = flat.detach().flatten(0, -2)
        low, high = rows.amin(0), rows.amax(0)
        if (name, kind) in self._seen:
            before = self._seen[name, kind]
            low, high = torch.minimum(low, before[0]), torch.maximum(high, before[1])
        self._seen[name, kind] = (low, high)


def scales_of(
    name: str, module: torch.nn.Module, args: dict[str, QuantArgs], seen: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> CacheScales:
    """The scales of one attention layer's cache.

    Args:
        name: of its module.
        args: how keys and values are cached.
        seen: smallest and largest value by channel, (heads * head size,) each.
    """
    parts: dict[str, Any] = {}
    for kind, (low, high) in seen.items():
        one = args[kind]
        if one.strategy == "attn_head":
            shape = (-1, int(getattr(module, "head_dim")))  # noqa: B009 (mypy knows no attributes of modules)
            low, high = low.reshape(shape).amin(1), high.reshape(shape).amax(1)
        elif one.strategy == "tensor":
            low, high = low.amin().reshape(1), high.amax().reshape(1)
        if one.type == "float":
            parts[f"{kind}_scale"] = (torch.maximum(low.abs(), high.abs()) / FLOAT8_MAX).clamp(min=EPSILON)
        elif one.symmetric:
            parts[f"{kind}_scale"] = absmax_scale(low, high, one.num_bits)
        else:
            parts[f"{kind}_scale"], parts[f"{kind}_zero"] = range_scale(low, high, one.num_bits)
    keys = args["key"]
    fused = next((known for known in FUSED if hasattr(module, known)), None)
    stem = f"{name}.{fused}" if fused else name
    strategy: Any = {"tensor": "tensor", "attn_head": "head", "channel": "channel"}[keys.strategy]
    return CacheScales(
        name=name,
        kind="float8" if keys.type == "float" else "int",
        bits=keys.num_bits,
        strategy=strategy,
        before_rope=keys.strategy == "channel",
        key=f"{stem}.k_proj",
        value=f"{stem}.v_proj",
        **parts,
    )
