"""What is done to modules, on a device that is not the CPU: see tests/elsewhere.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.elsewhere import There, same
from tests.numerics.test_elsewhere import SPREAD, normal

pytestmark = pytest.mark.engine


def linear(there: There, rows: int = 8, columns: int = 64, **scheme: Any) -> Any:
    """A Linear there, with a scheme and the parameters of one that was rounded by extremes."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, QuantizationStatus

    from quantui.numerics.minmax import round_weight

    made: Any = torch.nn.Linear(columns, rows, bias=True)
    args = QuantizationArgs(**({"num_bits": 8, "strategy": "channel", "symmetric": True} | scheme.pop("weights", {})))
    inputs = QuantizationArgs(**scheme["inputs"]) if "inputs" in scheme else None
    made.quantization_scheme = QuantizationScheme(targets=["Linear"], weights=args, input_activations=inputs)
    made.quantization_status = QuantizationStatus.FROZEN
    weight = normal(rows, columns)
    found = round_weight(weight, args.num_bits, symmetric=args.symmetric, sharing=args.group_size or "channel")
    tensors = {"weight": weight, "bias": normal(rows), "weight_scale": found.scale}
    tensors["weight_zero_point"] = found.offset.to(torch.int8)
    if inputs is not None:
        count = columns // (inputs.group_size or columns)
        tensors |= {"input_scale": torch.full((count,), 0.02), "input_zero_point": torch.full((count,), 3, dtype=torch.int8)}
    for name, tensor in tensors.items():
        setattr(made, name, torch.nn.Parameter(there(tensor), requires_grad=False))
    return made


class Model(torch.nn.Module):
    """One Linear, and where a batch goes."""

    def __init__(self, there: There, made: Any) -> None:
        super().__init__()
        self.o_proj = made
        self.device = SimpleNamespace()
        self.there = there

    def forward(self, x: Any) -> Any:
        return self.o_proj(x)


def observed(name: str, weights: bool, **args: Any) -> Callable[[There], Any]:
    """Scale and zero point that an observer finds in two looks."""

    def made(there: There) -> Any:
        from compressed_tensors.quantization import QuantizationArgs
        from llmcompressor.observers import Observer

        import quantui.quantize.observers  # noqa: F401

        args_of = QuantizationArgs(**({"num_bits": 8, "symmetric": False, "observer": name} | args))
        observer: Any = Observer.load_from_registry(name, base_name="weight" if weights else "input", args=args_of)
        shape = (1, 8, 2, 32) if weights else (6, 2, 32)
        for scale in (1.0, 20.0):
            observer.update_statistics_from_observed(there(normal(*shape) * scale))
        found = observer.get_qparams()
        held = found if isinstance(found, dict) else vars(found)
        return [held["scale"], held["zero_point"]]

    return made


def suppressed(method: str) -> Callable[[There], Any]:
    """Weights of a norm and its readers after a method has moved outliers."""

    def made(there: There) -> Any:
        from quantui.quantize.modifiers.feeds import Feed
        from quantui.quantize.modifiers.outliers import Group, apply, scale_of

        norm: Any = torch.nn.LayerNorm(64)
        for name in ("weight", "bias"):
            setattr(norm, name, torch.nn.Parameter(there(SPREAD + 0.5), requires_grad=False))
        readers = [linear(there), linear(there, 16)]
        group = Group(Feed("norm", "norm", ("q_proj",)), norm, readers, 8)
        for _ in range(2):
            group.look(there(normal(4, 6, 64) * SPREAD), sample=True)
        apply(group, scale_of(group, method))
        return [norm.weight.data, norm.bias.data, *(reader.weight.data for reader in readers)]

    return made


def half_quadratic(there: There) -> Any:
    """Scale and zero point of HQQ, by a norm before the Linear."""
    from quantui.quantize.modifiers.hqq import HQQModifier

    made = linear(there, weights={"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 32})
    norm: Any = torch.nn.LayerNorm(64)
    norm.weight = torch.nn.Parameter(there(SPREAD + 0.5), requires_grad=False)
    modifier = HQQModifier(targets=["Linear"])
    modifier._norms = {made: norm}
    modifier._solve(made, made.quantization_scheme.weights)
    return [made.weight_scale.data, made.weight_zero_point.data]


RANKS = {"num_bits": 8, "strategy": "group", "group_size": 16, "observer_kwargs": {"shards": 4, "sent": "rank"}}
BY_RANK = {"num_bits": 8, "symmetric": False, "strategy": "group", "group_size": 16, "observer": "msmodelslim"}


def progressive(there: There) -> Any:
    """Input scales of ranks, and those of what they send."""
    from quantui.quantize.progressive import find_progressively
    from quantui.quantize.sent import FOUND, find_sent

    made = linear(there, weights=RANKS, inputs=BY_RANK)
    model, batches = Model(there, made), [{"x": normal(2, 5, 64)}, {"x": normal(2, 5, 64) * 3}]
    for find in (find_progressively, find_sent):
        find(model, ({name: _Batch(there(x)) for name, x in batch.items()} for batch in batches))
    return [made.input_scale.data, made.input_zero_point.data, *getattr(made, FOUND)]


class _Batch:
    """A tensor that goes to the model's device by being there."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def to(self, _device: Any) -> torch.Tensor:
        """It."""
        return self.x


def outside(scheme: dict[str, Any]) -> Callable[[There], Any]:
    """What becomes of a module whose layer is kept in a file of its own."""

    def made(there: There) -> Any:
        import tempfile
        from pathlib import Path

        from quantui.quantize.outside import keep_outside

        module = linear(there, **scheme)
        with tempfile.TemporaryDirectory() as folder:
            assert keep_outside(Model(there, module), Path(folder)) == 1
        return [tensor.data for tensor in module.parameters()]

    return made


def cached(there: There) -> Any:
    """Scales of a cache by channel and by head."""
    from quantui.quantize.modifiers.kv_cache import scales_of
    from quantui.recipe.schema import QuantArgs

    args = {"key": QuantArgs(strategy="channel", symmetric=False), "value": QuantArgs(strategy="attn_head")}
    seen = (there(-SPREAD), there(SPREAD))
    module: Any = SimpleNamespace(head_dim=8)
    found = scales_of("a", module, args, {"key": seen, "value": seen})
    return [found.key_scale, found.key_zero, found.value_scale]


def gptq(there: There) -> Any:
    """Weights by the engine's own GPTQ, of which its two other halves are sums and products."""
    from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

    x = normal(128, 64)
    weights, hessian = (there(each)[None] for each in (normal(8, 64), x.T @ x))
    made = linear(there, weights={"num_bits": 4, "strategy": "group", "group_size": 32})
    scale, zero = made.weight_scale.data[None], made.weight_zero_point.data[None]
    return quantize_weight(weights, hessian, scale, zero, None, made.quantization_scheme.weights)


TWO_STAGE = {"num_bits": 4, "strategy": "group", "group_size": 32, "observer_kwargs": {"stages": 2}}
MODULES: dict[str, Callable[[There], Any]] = {
    **{name: observed(name, False) for name in ("histogram", "auto", "msmodelslim")},
    "msmodelslim's weights": observed("msmodelslim", True),
    "msmodelslim's two stages": observed("msmodelslim", True, num_bits=4, symmetric=True, observer_kwargs={"stages": 2}),
    "lmdeploy's weights": observed("lmdeploy", True, num_bits=4),
    **{method: suppressed(method) for method in ("m1", "m2", "m4", "m5", "m6", "lmdeploy")},
    "HQQ": half_quadratic,
    "ranks": progressive,
    "two stages outside": outside({"weights": TWO_STAGE}),
    "NF4 outside": outside({"weights": {"num_bits": 4, "strategy": "group", "group_size": 32, "observer": "nf4"}}),
    "ranks outside": outside({"weights": RANKS, "inputs": BY_RANK}),
    "K/V cache": cached,
    "GPTQ": gptq,
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_become_the_same_elsewhere(name: str) -> None:
    same(MODULES[name])
