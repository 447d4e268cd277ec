"""Places of a model that can be the original's or the quantized model's, and how one becomes the other without reloading."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from quantui.compare.rounding import Once, Round, rounding

FIT_ROUNDS = 3
FIT_LIMIT = 0.5
"""Largest share of a weight that a fit may leave unexplained before it is no fit."""


@dataclass(eq=False)
class Site:
    """One Linear of the quantized model.

    Attributes:
        name: of the module.
        module: it, in the quantized model.
        words: its scheme for people ("W8A8 int8 static").
        bits: of its weight.
        quantized: its parameters as quantization left them, dequantized once.
        original: those of the original model.
        inputs, outputs: how what goes in and comes out is rounded.
        folded: whether other parameters of the model were rescaled too, so that the original's weight does not fit in as it is.
    """

    name: str
    module: Any
    words: str
    bits: int
    quantized: dict[str, Any]
    original: dict[str, Any]
    inputs: Round | None
    outputs: Round | None
    folded: bool = False
    _fit: dict[str, Any] | None = field(default=None)

    @property
    def rounds_activations(self) -> bool:
        """Whether anything is rounded while the model runs."""
        return self.inputs is not None or self.outputs is not None

    def set(self, *, weights: bool, activations: bool, whole: bool = False) -> None:
        """Makes it quantized, or the original's, in these respects.

        Args:
            whole: every other parameter of the model is the original's too.
        """
        chosen = self.quantized if weights else self.original if whole or not self.folded else self.fit()
        self.module._parameters.update(chosen)
        if activations and self.rounds_activations:
            self.module.forward = self._forward()
        else:
            self.module.__dict__.pop("forward", None)

    def fit(self) -> dict[str, Any]:
        """The original's weight rescaled as its neighbours ask for; the quantized one if no such rescaling is found."""
        if self._fit is None:
            made = fitted(self.quantized["weight"], self.original["weight"])
            self._fit = self.quantized | {"weight": torch.nn.Parameter(made, requires_grad=False)} if made is not None else {}
        return self._fit or self.quantized

    @property
    def can_fit(self) -> bool:
        """Whether its weight can be that of the original."""
        return not self.folded or self.fit() is not self.quantized

    def _forward(self) -> Round:
        """The module's forward with its inputs and outputs rounded."""
        inputs, outputs, linear = self.inputs, self.outputs, type(self.module).forward.__get__(self.module)
        if type(self.module).forward is torch.nn.Linear.forward:  # without asking the module for its parameters at every token
            parameters = self.module._parameters
            linear = functools.partial(torch.nn.functional.linear, weight=parameters["weight"], bias=parameters["bias"])

        def forward(x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = linear(x if inputs is None else inputs(x))
            return made if outputs is None else outputs(made)

        return forward


@dataclass(eq=False)
class CacheSite:
    """Keys and values of one attention layer.

    Attributes:
        name: of the attention module.
        index: of the layer, as caches count.
        words: the scheme for people.
        keys, values: how they are rounded.
        is_on: whether they are, where projections do it.
        hooked: whether projections do it, and not the cache.
    """

    name: str
    index: int
    words: str
    bits: int
    keys: Round
    values: Round
    is_on: bool = True
    hooked: bool = False

    def hook(self, key_layer: Any, value_layer: Any) -> None:
        """Rounds what the projections give, before RoPE, instead of what is written to the cache."""
        self.hooked = True
        for module, rounded in ((key_layer, self.keys), (value_layer, self.values)):
            module.register_forward_hook(functools.partial(self._rounded, rounded))

    def _rounded(self, rounded: Round, module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return rounded(output) if self.is_on else output


def fitted(quantized: torch.Tensor, original: torch.Tensor) -> torch.Tensor | None:
    """diag(rows) @ original @ diag(columns), nearest to the quantized weight; None where nothing of that form is near.

    SmoothQuant and AWQ scale columns of a weight, and the rows of the layer before, by factors that no file keeps.
    """
    target, base = quantized.detach().float(), original.detach().float()
    rows = torch.ones(base.shape[0], 1, device=base.device)
    columns = torch.ones(1, base.shape[1], device=base.device)
    for _ in range(FIT_ROUNDS):
        scaled = base * rows
        columns = (target * scaled).sum(0, keepdim=True) / scaled.square().sum(0, keepdim=True).clamp_min(1e-30)
        scaled = base * columns
        rows = (target * scaled).sum(1, keepdim=True) / scaled.square().sum(1, keepdim=True).clamp_min(1e-30)
    made = base * rows * columns
    left = float((target - made).norm() / target.norm().clamp_min(1e-30))
    return made.to(quantized.dtype) if left < FIT_LIMIT else None


def linear_sites(model: Any, twin: Any) -> list[Site]:
    """The quantized Linears of a model that compressed-tensors has opened and decompressed; its own forward is taken off.

    Args:
        twin: the original.
    """
    others = dict(twin.named_modules())
    found = []
    for name, module in list(model.named_modules()):
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None or not isinstance(module, torch.nn.Linear) or not isinstance(others.get(name), torch.nn.Linear):
            continue
        module.__dict__.pop("forward", None)
        found.append(
            Site(
                name, module, _words(scheme), scheme.weights.num_bits if scheme.weights else 16,
                quantized=parameters_of(module), original=parameters_of(others[name]),
                inputs=_rounding(module, "input", scheme.input_activations),
                outputs=_rounding(module, "output", scheme.output_activations),
            )
        )  # fmt: skip
    _share_inputs(found)
    return found


def cache_sites(model: Any) -> list[CacheSite]:
    """The quantized K/V caches of such a model; the engine's hooks, which look at a signature in every pass, are taken off."""
    found = []
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None or isinstance(module, torch.nn.Linear) or not hasattr(module, "kv_cache"):
            continue
        args = scheme.input_activations
        keys, values = _rounding(module, "k", args), _rounding(module, "v", args)
        if args is None or keys is None or values is None or hasattr(module, "q_scale"):
            continue
        for number, hook in list(module._forward_pre_hooks.items()):
            if getattr(hook, "__name__", "") == "_kv_cache_attention_hook":
                del module._forward_pre_hooks[number]
                module._forward_pre_hooks_with_kwargs.pop(number, None)
        found.append(CacheSite(name, int(module.layer_idx), _cache_words(args), args.num_bits, keys, values))
    return found


def left_to_the_engine(model: Any, taken: set[str]) -> list[Any]:
    """Modules with a scheme that are neither: the engine goes on rounding there, and has one switch for all of it."""
    named = ((name, module) for name, module in model.named_modules() if getattr(module, "quantization_scheme", None))
    return [module for name, module in named if name not in taken]


def differing(model: Any, twin: Any, taken: set[str]) -> Iterator[tuple[Any, str, Any, Any]]:
    """(module, parameter, its own value, the original's) of every parameter outside of sites that is not as in the original.

    Where the two are equal the model is given the original's, so that memory holds them once.
    """
    others = dict(twin.named_parameters(remove_duplicate=False))
    for module_name, module in model.named_modules():
        for leaf, own in list(module.named_parameters(recurse=False)):
            other = others.get(f"{module_name}.{leaf}" if module_name else leaf)
            if other is None or module_name in taken:
                continue
            if own.shape == other.shape and own.dtype == other.dtype and torch.equal(own, other):
                module._parameters[leaf] = other
            elif own.shape == other.shape:
                yield module, leaf, own, other


def parameters_of(module: Any) -> dict[str, Any]:
    """Weight and bias of a Linear, those that it has."""
    return {name: module._parameters[name] for name in ("weight", "bias") if module._parameters.get(name) is not None}


def _rounding(module: Any, role: str, args: Any) -> Round | None:
    if args is None:
        return None
    tensors = (getattr(module, f"{role}_{part}", None) for part in ("scale", "zero_point", "global_scale"))
    return rounding(args, *(tensor.data if tensor is not None else None for tensor in tensors))


def _share_inputs(sites: list[Site]) -> None:
    """Lets the layers of one parent whose inputs are rounded alike, as q, k and v are, do it once."""
    kept: dict[tuple[object, ...], Round] = {}
    for site in sites:
        scheme = site.module.quantization_scheme
        if site.inputs is None:
            continue
        scales = [getattr(site.module, f"input_{part}", None) for part in ("scale", "zero_point", "global_scale")]
        values = tuple(None if value is None else tuple(value.flatten().tolist()) for value in scales)
        key = (site.name.rpartition(".")[0], scheme.input_activations.model_dump_json(), values)
        site.inputs = kept.setdefault(key, Once(site.inputs))


def _words(scheme: Any) -> str:
    weights, inputs = scheme.weights, scheme.input_activations
    if weights is None:
        return f"A{inputs.num_bits}" if inputs else ""
    active = f"A{inputs.num_bits if inputs else 16}"
    how = "" if inputs is None else " static" if inputs.dynamic is False else " dynamic"
    group = f" g{weights.group_size}" if weights.group_size else ""
    return f"W{weights.num_bits}{active} {_value(weights.type)}{weights.num_bits}{group}{how}"


def _cache_words(args: Any) -> str:
    return f"{_value(args.type)}{args.num_bits} {_value(args.strategy)}{' dynamic' if args.dynamic else ''}"


def _value(name: Any) -> str:
    text = str(getattr(name, "value", name))
    return "fp" if text == "float" else text


def bytes_of(parameters: Iterator[Any] | list[Any]) -> int:
    """Bytes of parameters, each storage once."""
    seen = {parameter.data_ptr(): parameter.numel() * parameter.element_size() for parameter in parameters}
    return functools.reduce(int.__add__, seen.values(), 0)
