"""Outliers of activations moved into the weights that read them: msModelSlim's m1, m2, m4 to m6, and lmdeploy's AWQ."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from compressed_tensors.utils import getattr_chain, match_named_modules, update_offload_parameter
from llmcompressor.core import Event, State
from llmcompressor.modifiers import Modifier
from pydantic import Field, PrivateAttr

from quantui.numerics import lmdeploy, smooth
from quantui.numerics.fake import fake_activation, fake_weight
from quantui.quantize.modifiers.feeds import FEEDS, Feed
from quantui.recipe.schema import QuantArgs

SAMPLE_ROWS = 512
"""Tokens on which a search compares outputs."""
ONLY_NORMS = ("m1", "m2", "m5")
"""Methods that go from norms to Linears and not from one Linear to another."""


@dataclass
class Group:
    """A source, its readers, and what they were seen to read.

    Attributes:
        feed: which they are.
        source: the norm or Linear.
        readers: the Linears that read it.
        head_size: channels of an attention head.
        low, high: extremes by channel, float32.
        rows: a sample of what is read, float32, (tokens, channels).
    """

    feed: Feed
    source: torch.nn.Module
    readers: list[torch.nn.Module]
    head_size: int
    low: torch.Tensor | None = None
    high: torch.Tensor | None = None
    rows: list[torch.Tensor] = field(default_factory=list)

    def look(self, x: torch.Tensor, *, sample: bool) -> None:
        """Takes a tensor (..., channels) into the statistics."""
        flat = x.detach().flatten(0, -2).float()
        low, high = flat.amin(0), flat.amax(0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        if sample and sum(map(len, self.rows)) < SAMPLE_ROWS:
            self.rows.append(flat[:: max(len(flat) // 64, 1)].clone())

    @property
    def absmax(self) -> torch.Tensor:
        """Largest magnitude by channel."""
        assert self.low is not None and self.high is not None
        return torch.maximum(self.low.abs(), self.high.abs())

    @property
    def weight_max(self) -> torch.Tensor:
        """Largest magnitude of the readers' weights by input channel."""
        return torch.stack([reader.weight.detach().abs().amax(0).float() for reader in self.readers]).amax(0)

    def loss(self, scale: torch.Tensor) -> float:
        """Squared error of the readers' outputs with these scales and their own schemes, as a share of the outputs'."""
        lost, total = 0.0, 0.0
        x = torch.cat(self.rows)[:SAMPLE_ROWS]
        for reader in self.readers:
            weights, inputs = (_args(reader, kind) for kind in ("weights", "input_activations"))
            weight = reader.weight.detach().float()
            expected = x @ weight.T
            read = x / scale
            if inputs is not None:
                read = fake_activation(read, inputs, read.amin(), read.amax())
            made = weight * scale
            found = read @ (made if weights is None else fake_weight(made, weights)).T
            lost += float((found - expected).square().sum())
            total += float(expected.square().sum())
        return lost / total if total else 0.0


class OutlierSuppressionModifier(Modifier):
    """Scales channels so that activations are easier to quantize and the model computes the same.

    The fields are those of `quantui.recipe.methods.OutlierSuppression`; formulas stand in `quantui.numerics.smooth`.
    """

    requires_calibration_data: bool = True

    method: Literal["m1", "m2", "m4", "m5", "m6", "lmdeploy"]
    alpha: float | None = None
    beta: float | None = None
    ignore: list[str] = Field(default_factory=list)

    _groups: list[Group] = PrivateAttr(default_factory=list)

    def on_initialize(self, state: State, **kwargs: Any) -> bool:
        """Finds the groups of the model's text decoder."""
        self._groups = groups_of(state.model, self.ignore, only_norms=self.method in ONLY_NORMS)
        return True

    def on_calibration_start(self, state: State, event: Event, **kwargs: Any) -> None:
        """Watches what the first reader of every group reads."""
        for group in self._groups:
            self.register_hook(group.readers[0], partial(_look, group, sample=self.method in ("m2", "m6")), "forward_pre")

    def on_sequential_epoch_end(self, state: State, event: Event, modules: list[torch.nn.Module], **kwargs: Any) -> None:
        """Scales the groups that samples have passed through."""
        there = set(modules)
        done = [group for group in self._groups if group.low is not None and group.readers[0] in there]
        with torch.no_grad():
            for group in done:
                apply(group, scale_of(group, self.method, self.alpha, self.beta))
                group.low = group.high = None
                group.rows.clear()

    def on_calibration_end(self, state: State, event: Event, **kwargs: Any) -> None:
        """Stops watching."""
        self.remove_hooks()


def scale_of(group: Group, method: str, alpha: float | None = None, beta: float | None = None) -> torch.Tensor:
    """The scales of a group by what it has seen: (input channels of the readers,), float32."""
    assert group.low is not None and group.high is not None
    if method == "m5":
        return smooth.masked(group.low, group.high, 0.7 if alpha is None else alpha)
    if method == "m2":
        return smooth.outlier_subset(group.low, group.high, group.weight_max, group.loss)
    if method == "m6":
        return smooth.searched(group.absmax, group.weight_max, group.loss, alpha, beta)
    if method == "lmdeploy":
        return _as_lmdeploy(group, 0.5 if alpha is None else alpha)
    if alpha is None:
        alpha = {"m1": 0.5, "m4": 0.9}[method]
    return smooth.by_exponents(group.absmax, group.weight_max, alpha, 1 - alpha if beta is None else beta)


def _as_lmdeploy(group: Group, ratio: float) -> torch.Tensor:
    """AWQ's scales with a fixed strength; values that several query heads read, and channels that a norm gives 0, are left."""
    ones = torch.ones_like(group.absmax)
    if group.feed.kind == "values" and group.source.weight.shape[0] != len(ones):
        return ones
    args = _args(group.readers[0], "weights")
    weights = torch.cat([reader.weight.detach() for reader in group.readers]).float()
    found = lmdeploy.channel_scale(group.absmax, weights, (args.group_size if args is not None else None) or -1, ratio)
    return torch.where(group.source.weight.detach() == 0, ones, found) if group.feed.kind == "norm" else found


def groups_of(model: Any, ignore: list[str], *, only_norms: bool) -> list[Group]:
    """The groups of a model's text decoder, layer by layer, without those one of whose readers is ignored.

    Raises:
        ValueError: it is not known which norm feeds which Linears in such a model.
    """
    config = model.config.get_text_config()
    if config.model_type not in FEEDS:
        raise ValueError(f"outlier suppression knows no model of type {config.model_type}, only {', '.join(FEEDS)}")
    left = {module for _, module in match_named_modules(model, ignore)} if ignore else set()
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found = []
    for layer in model.get_decoder().layers:
        for feed in FEEDS[config.model_type]:
            readers = [layer.get_submodule(path) for path in feed.readers]
            if (only_norms and feed.kind != "norm") or not left.isdisjoint(readers):
                continue
            found.append(Group(feed, layer.get_submodule(feed.source), readers, head_size))
    return found


def apply(group: Group, scale: torch.Tensor) -> None:
    """Divides the source by scales, (input channels of the readers,), and multiplies the readers; biases are folded."""
    divisor = scale
    if group.feed.kind == "values":
        divisor, scale = smooth.shared_by_heads(scale, group.source.weight.shape[0], group.head_size)
    if group.feed.rows == "last half":
        divisor = torch.cat((torch.ones_like(divisor), divisor))
    for name in ("weight", "bias"):
        old = getattr(group.source, name, None)
        if old is not None:
            made = old.float() / (divisor if old.ndim == 1 else divisor.unsqueeze(1))
            update_offload_parameter(group.source, name, made.to(old.dtype))
    for reader in group.readers:
        update_offload_parameter(reader, "weight", (reader.weight.float() * scale).to(reader.weight.dtype))


def _look(group: Group, _module: torch.nn.Module, args: tuple[Any, ...], *, sample: bool) -> None:
    group.look(args[0], sample=sample)


def _args(module: torch.nn.Module, kind: str) -> QuantArgs | None:
    """How a Linear's weights or inputs will be quantized, as a recipe says it."""
    args = getattr_chain(module, f"quantization_scheme.{kind}", None)
    if args is None:
        return None
    fields = ("num_bits", "symmetric", "group_size", "block_structure", "dynamic")
    said: dict[str, Any] = {name: getattr(args, name, None) for name in (*fields, "type", "strategy")}
    return QuantArgs(**{name: getattr(value, "value", value) for name, value in said.items()})
