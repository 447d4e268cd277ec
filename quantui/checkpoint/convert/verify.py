"""Proof that a converted folder is the model it was: logits of both sides on one fixed input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from quantui.checkpoint.convert.config import architecture
from quantui.checkpoint.convert.originals import can_run, logits
from quantui.checkpoint.convert.plan import TORCH_DTYPES, Plan
from quantui.checkpoint.convert.stream import Source
from quantui.checkpoint.files import Checkpoint, open_checkpoint
from quantui.checkpoint.inspect import needs_remote_code, section, whole
from quantui.checkpoint.load import load_model
from quantui.errors import CheckpointError, ResultError

TOLERANCE = 1e-3
"""Largest difference of float32 logits, as a share of the largest; two ways to compute the same sum differ by about 1e-6."""

TOKENS = 24
"""How many text tokens the fixed input has."""


@dataclass(frozen=True)
class Comparison:
    """How far both sides are apart: `difference` is the largest of any logit, `largest` the largest logit itself."""

    difference: float
    largest: float
    tokens: int


def compare(plan: Plan, target: Path) -> Comparison | None:
    """Runs source and target in float32 on the same tokens, and a picture where the model reads pictures.

    The original layouts run through `originals`, which reads their own tensor names and shares no code with the mapping;
    native folders run through transformers. None where the source is a model that neither of them runs.

    Raises:
        ResultError: the logits differ by more than TOLERANCE, or are not finite.
        CheckpointError: the target does not load, or the source cannot be run from its config.
    """
    import torch

    given = fixed_input(plan)
    written = open_checkpoint(target)
    with torch.inference_mode():
        if plan.kind.name == "internvl-back":
            found, expected = _run_original(written, given, {}), _run_native(plan.source, given, _rounded(plan))
        else:
            found, expected = _run_native(written, given, {}), _run_source(plan, given)
    if found is None or expected is None:
        return None
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    if not torch.isfinite(found).all() or not difference <= TOLERANCE * max(largest, 1e-6):
        what = (
            f"the converted model gives other logits than the original: off by {difference:.4g}, the largest is {largest:.4g}"
        )
        raise ResultError(what, where=str(target), todo="nothing was kept; please report the model's config.json")
    return Comparison(difference, largest, given.ids.shape[1])


class Given(NamedTuple):
    """The fixed input: ids (1, L) int64, pixels (1, 3, H, W) float32 or None, and which token stands for the picture."""

    ids: Any
    pixels: Any
    image_token: int | None


def fixed_input(plan: Plan) -> Given:
    """Text tokens all over the vocabulary, and a picture of sine waves where the model reads pictures."""
    import torch

    native = plan.source.config if plan.kind.name == "internvl-back" else plan.config
    text, image = section(native, "text_config") or native, native.get("image_token_id")
    vocab = whole(text, "vocab_size") or 32
    ids = [(7 + 13 * place * place) % vocab for place in range(TOKENS)]
    ids = [token if token != image else (token + 1) % vocab for token in ids]
    if native.get("model_type") != "internvl":
        return Given(torch.tensor([ids]), None, None)
    places = whole(native, "image_seq_length")
    ids = ids[:4] + [int(native["image_token_id"])] * places + ids[4:]
    side = round((places / float(native["downsample_ratio"]) ** 2) ** 0.5) * section(native, "vision_config")["patch_size"][0]
    pixels = torch.sin(torch.arange(3 * side * side, dtype=torch.float32) * 0.37).reshape(1, 3, side, side)
    return Given(torch.tensor([ids]), pixels, int(native["image_token_id"]))


def _run_source(plan: Plan, given: Given) -> Any:
    """Logits (1, L, vocabulary) float32 of the source; None if nothing here runs it."""
    config = {name: value for name, value in plan.source.config.items() if name != "quantization_config"}
    if can_run(config):  # blocks of FP8 are made floats while they are read
        return _run_original(plan.source, given, _rounded(plan))
    if plan.kind.name != "pickled" or needs_remote_code(plan.source.config):
        return None
    return _run_native(plan.source, given, _rounded(plan))


def _rounded(plan: Plan) -> dict[str, Any]:
    """Source tensors that the conversion stores in another dtype, each with that: both sides are to compute the same."""
    import torch

    tensors = plan.source.tensors
    pairs = [(rows.tensor, move.target.dtype) for move in plan.moves for rows in move.parts]
    return {name: getattr(torch, TORCH_DTYPES[dtype]) for name, dtype in pairs if tensors[name].dtype != dtype}


def _speaks(config: dict[str, Any]) -> bool:
    """Whether transformers makes a model of this config that answers tokens, and maybe pictures, with logits."""
    from transformers.models.auto import modeling_auto

    pictures = "vision_config" in config
    text, seen = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return architecture(config) in (seen if pictures else text).values()


def _run_original(checkpoint: Checkpoint, given: Given, rounded: dict[str, Any]) -> Any:
    config = {name: value for name, value in checkpoint.config.items() if name != "quantization_config"}
    with Source(checkpoint) as source:

        def read(name: str) -> Any:
            values = source.floats(name)
            return values.to(rounded[name]).float() if name in rounded else values

        try:
            return logits(config, read, given.ids, given.pixels, given.image_token)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
            what = f"the source cannot be run from its config ({type(error).__name__}: {error})"
            todo = "restore the original config.json, or convert it without comparing logits"
            raise CheckpointError(what, where=str(checkpoint.folder / "config.json"), todo=todo) from error


def _run_native(checkpoint: Checkpoint, given: Given, rounded: dict[str, Any]) -> Any:
    if needs_remote_code(checkpoint.config) or not _speaks(checkpoint.config):
        return None
    model = load_model(checkpoint.folder, image_text="vision_config" in checkpoint.config)
    for dtype in set(rounded.values()):
        for parameter in model.parameters():  # not the model, whose tables of angles would be rounded too
            parameter.data = parameter.data.to(dtype)
    model = model.float()
    inputs = {"input_ids": given.ids} if given.pixels is None else {"input_ids": given.ids, "pixel_values": given.pixels}
    return model(**inputs).logits.float()
