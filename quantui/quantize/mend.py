"""What the engine does wrong on some machines, put right before it runs."""

from __future__ import annotations

import functools
import types
from typing import Any

from quantui.devices import widest_float


def mend_pinning() -> None:
    """Lets AWQ run where there is no accelerator: its cache pins memory, which only an accelerator's driver can do.

    Source: llm-compressor 0.14.0.1, pipelines/cache.py, `IntermediatesCache.pin_memory`.
    """
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_, **__: None


def mend_precision(device: Any) -> None:
    """Lets AWQ and rotations compute in float32 on a torch.device that has no float64: the engine knows that of Apple's alone.

    Source: llm-compressor 0.14.0.1, utils/dev.py, `get_high_precision`; compressed-tensors 0.19.0, transform/factory.
    """
    from compressed_tensors.transform.factory import hadamard, matrix_multiply, random_hadamard
    from llmcompressor.modeling import fuse
    from llmcompressor.modifiers.transform.awq import base as awq

    widest = widest_float(device)
    invert = matrix_multiply.high_precision_invert
    if widest == fuse.PRECISION or getattr(invert, "is_mended", False):
        return
    fuse.PRECISION, awq.get_high_precision = widest, lambda: widest
    for factory in (hadamard.HadamardFactory, random_hadamard.RandomHadamardFactory, matrix_multiply.RandomMatrixFactory):
        factory._create_weight = functools.partialmethod(_weight_in, factory._create_weight, widest)

    def inverted(weight: Any) -> Any:
        return invert(weight.cpu()).to(weight.device)

    inverted.is_mended = True  # type: ignore[attr-defined]
    matrix_multiply.high_precision_invert = inverted


def _weight_in(factory: Any, theirs: Any, widest: Any, size: int, *, precision: Any, **more: Any) -> Any:
    """The weight of a rotation, in float64 no more."""
    return theirs(factory, size, precision=widest if precision.itemsize > widest.itemsize else precision, **more)


def mend_offloaded() -> None:
    """Lets a layer that lies in memory round its weight when it is computed on an accelerator, outside of calibration too.

    The engine rounds what it has brought there and then has it brought there again, as it was, so that a model it leaves in
    memory computes with its float weights. Source: compressed-tensors 0.19.0, quantization/lifecycle/forward.py,
    `set_forward_quantized`, and offload/cache/base.py.
    """
    from compressed_tensors.offload import disable_offloading
    from compressed_tensors.quantization.lifecycle import initialize

    theirs = initialize.set_forward_quantized
    if getattr(theirs, "is_mended", False):
        return

    def set_forward_quantized(module: Any) -> None:
        theirs(module)
        rounded = module.forward.__func__

        @functools.wraps(rounded)  # AWQ asks for the names of its arguments
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            with disable_offloading():
                return rounded(self, *args, **kwargs)

        module.forward = types.MethodType(forward, module)

    set_forward_quantized.is_mended = True  # type: ignore[attr-defined]
    initialize.set_forward_quantized = set_forward_quantized


def dtypes_of(model: Any) -> dict[str, Any]:
    """The dtype of every parameter by name."""
    return {name: parameter.dtype for name, parameter in model.named_parameters()}


POSITIONS = ("cache_position", "position_embeddings", "position_ids")
"""What AutoRound takes from the first sample for all of them."""


def mend_autoround() -> None:
    """Lets AutoRound learn from samples of several lengths, and keep the zero points that it learns.

    The engine fills samples up to one length with positions of 0, and AutoRound takes those of the first sample for all; what
    was filled up counts in its loss, since it no longer reads the mask that the engine gives it; and of what it learns the
    engine takes scales alone. Source: llm-compressor 0.14.0.1, modifiers/autoround/base.py; auto_round 0.15.1,
    algorithms/block_runner.py, compressors/orchestrator.py (`quantize_block`) and data_type/int.py, whose codes begin at 0.
    """
    from llmcompressor.modifiers.autoround import AutoRoundModifier as Modifier

    fill, tell, finish = Modifier._pad_captured_inputs, Modifier._set_attention_masks, Modifier._postprocess_qparams
    if getattr(finish, "is_mended", False):
        return

    def filled(self: Any, captured: Any) -> Any:
        samples, masks = fill(self, captured)
        if masks is not None:
            longest = max(range(len(masks)), key=lambda index: int(masks[index].sum()))
            places = {key: value for key, value in samples[longest][1].items() if key in POSITIONS}
            samples = [(args, kwargs | places) for args, kwargs in samples]
        return samples, masks

    def told(self: Any, autoround: Any, *args: Any, **kwargs: Any) -> None:
        tell(self, autoround, *args, **kwargs)
        if masks := vars(autoround).get("attention_mask"):
            autoround.post_init()  # which quantize_block would do
            composer = autoround.alg_composer
            ids = [(mask.long() - 1) * 100 for mask in masks]  # it leaves out tokens of -100
            composer.compress_block = functools.partial(composer.compress_block, input_ids=ids)

    def finished(self: Any, model: Any, registered: dict[str, dict[str, Any]]) -> None:
        for name, module in model.named_modules():
            kept, learned = registered.get(name, {}), getattr(module, "zp", None)
            if "weight_zero_point" in kept and hasattr(learned, "reshape"):
                first, bits = kept["weight_zero_point"], module.quantization_scheme.weights.num_bits
                kept["weight_zero_point"] = (learned - 2 ** (bits - 1)).reshape(first.shape).to(first)
        finish(self, model, registered)

    finished.is_mended = True  # type: ignore[attr-defined]
    Modifier._pad_captured_inputs, Modifier._set_attention_masks = filled, told
    Modifier._postprocess_qparams = finished


def mend_groups() -> None:
    """Lets static scales of inputs go by group, as tensor-parallel ranks have them: the engine takes them for those of rows.

    Source: compressed-tensors 0.19.0, quantization/lifecycle/forward_helpers.py, `_process_group`.
    """
    from compressed_tensors.quantization.lifecycle import forward

    process = forward._process_group
    if getattr(process, "is_mended", False):
        return

    def process_group(x: Any, scale: Any, zero: Any, *args: Any, **kwargs: Any) -> Any:
        if scale.ndim == 1:
            scale, zero = scale.unsqueeze(0), None if zero is None else zero.unsqueeze(0)
        return process(x, scale, zero, *args, **kwargs)

    process_group.is_mended = True  # type: ignore[attr-defined]
    forward._process_group = process_group


CODES = {"msmodelslim": True, "lmdeploy": False}
"""Observers whose weights get the codes of the program they are named after; whether it adds zero points before rounding."""


def mend_codes() -> None:
    """Lets weights that are to be those of another program become its codes when they are compressed.

    The engine's go down to -2^(bits-1) where they are symmetric, which a division in bfloat16 can round to, and on a GPU it
    divides in float32. Source: compressed_tensors 0.19.0, compressors/naive_quantized/base.py and pack_quantized/base.py.
    """
    from compressed_tensors.compressors.naive_quantized import base as naive
    from compressed_tensors.compressors.pack_quantized import base as packed

    from quantui.numerics.minmax import Sharing, codes_of

    theirs = naive.quantize
    if getattr(theirs, "is_mended", False):
        return

    def quantize(x: Any, scale: Any, zero_point: Any, args: Any, dtype: Any = None, **more: Any) -> Any:
        two_stage = (args.observer_kwargs or {}).get("stages") == 2  # whose codes do reach the lowest
        if args.observer not in CODES or args.type != "int" or args.actorder is not None or two_stage:
            return theirs(x=x, scale=scale, zero_point=zero_point, args=args, dtype=dtype, **more)
        sharing: Sharing = args.group_size or ("tensor" if args.strategy == "tensor" else "channel")
        zero = None if args.symmetric else zero_point
        codes = codes_of(x, scale, zero, args.num_bits, sharing, zero_first=CODES[args.observer])
        return codes if dtype is None else codes.to(dtype)

    quantize.is_mended = True  # type: ignore[attr-defined]
    naive.quantize = packed.quantize = quantize


def take_codes(model: Any) -> None:
    """Gives layers whose codes the engine would round otherwise the weights that those codes come back as.

    It adds zero points before rounding. What is compared, evaluated and saved is then the same.
    """
    from compressed_tensors.utils import getattr_chain, update_offload_parameter

    from quantui.numerics.minmax import Rounded, codes_of

    for module in model.modules():
        args = getattr_chain(module, "quantization_scheme.weights", None)
        if args is None or CODES.get(args.observer, True) or args.symmetric or args.actorder is not None:
            continue
        scale, zero = module.weight_scale.detach(), module.weight_zero_point.detach()
        weight = module.weight.detach()
        codes = codes_of(weight, scale, zero, args.num_bits, args.group_size or "channel", zero_first=False)
        made = Rounded(codes, scale, zero.to(scale.dtype)).dequantized()
        update_offload_parameter(module, "weight", made.to(weight.dtype))


def restore_dtypes(model: Any, dtypes: dict[str, Any]) -> None:
    """Gives parameters the dtype they had: AutoRound turns the blocks it learns to float32 on a CPU and leaves them so."""
    for name, parameter in model.named_parameters():
        if parameter.dtype != dtypes.get(name, parameter.dtype):
            parameter.data = parameter.data.to(dtypes[name])
