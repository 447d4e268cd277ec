"""The plan of a conversion: every move, and everything that is wrong with it, from headers and config alone. No torch."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

from quantui.checkpoint.convert import config as configs
from quantui.checkpoint.convert.decoder import Decoder, chatglm, decoder_of, internlm2, plain
from quantui.checkpoint.convert.fields import wrong_values
from quantui.checkpoint.convert.kinds import KINDS, Kind, recognise
from quantui.checkpoint.convert.layout import Layout, Rows, Side
from quantui.checkpoint.convert.vision import projector_layout, vision_layout, vision_of
from quantui.checkpoint.files import Checkpoint, Tensor
from quantui.checkpoint.inspect import section, whole
from quantui.checkpoint.write import Entry
from quantui.errors import CheckpointError

Cast = Literal["keep", "bf16", "fp16"]
CASTS = {"bf16": "BF16", "fp16": "F16"}
CONFIG_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
TORCH_DTYPES = {**CONFIG_DTYPES, "F8_E4M3": "float8_e4m3fn", "I64": "int64", "I32": "int32", "U8": "uint8", "BOOL": "bool"}
FLOATS = ("F64", "F32", "F16", "BF16")
RECORD = "quantui_conversion.json"

BUFFERS = re.compile(r"(^|\.)(rotary_emb|rotary_pos_emb)\.inv_freq$|\.position_ids$|\.attn\.(masked_)?bias$")
"""What old checkpoints hold besides weights: tables that the model computes by itself."""

MOST_LAYERS = 10_000
"""More than this, a config kept from before is not worth reading."""

HEADS = re.compile(r"(^|\.)(lm_head|output|output_layer)\.weight$")
"""What the output projection is called in any of the layouts."""


class Problem(NamedTuple):
    """One thing that is wrong: the tensor or file it concerns, and what."""

    name: str
    what: str


@dataclass(frozen=True)
class Move:
    """One tensor of the result and the rows it is made of.

    Attributes:
        target: what it will be called, its dtype and shape.
        parts: rows of source tensors, one behind the other.
        scale: the tensor of block scales its values are multiplied by, "" where bytes move as they are.
    """

    target: Entry
    parts: tuple[Rows, ...]
    scale: str = ""


@dataclass(frozen=True)
class Plan:
    """What a conversion will do.

    Attributes:
        kind: which one it is.
        source: the folder it reads.
        config: config.json of the result.
        moves: every tensor of the result, in the order the source holds them.
        dropped: source tensors that the result has no place for, each with the reason.
        aliases: tensors that share their data with one that moves, each with that one.
        problems: everything that is wrong; with any of them nothing is written.
        notes: what a person should know.
        allow_extra: whether tensors without a place are dropped.
    """

    kind: Kind
    source: Checkpoint
    config: dict[str, Any]
    moves: tuple[Move, ...]
    dropped: dict[str, str]
    aliases: dict[str, str]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    allow_extra: bool = False

    @property
    def nbytes(self) -> int:
        """Size of all tensors of the result in bytes."""
        return sum(move.target.nbytes for move in self.moves)


def make_plan(
    source: Checkpoint, *, dtype: Cast = "keep", allow_extra: bool = False, image_token_id: int | None = None
) -> Plan:
    """The plan for a folder, with every problem in it.

    Args:
        source: the folder to convert.
        dtype: what floating-point weights are stored as; "keep" leaves each as it is.
        allow_extra: drop tensors that belong to no place instead of reporting them.
        image_token_id: the token that stands for a picture, where the folder's tokenizer does not tell.

    Raises:
        CheckpointError: there is no conversion for this model.
    """
    kind = recognise(source)
    texts = wrong_values(kind.name, source.config, len(source.tensors)) or kind.refusals(source.config)
    problems = [Problem("config.json", text) for text in texts]
    if problems:
        return Plan(kind, source, {}, (), {}, {}, tuple(problems), ())
    stored = _stored(source, dtype)
    if kind.name in ("pickled", "fp8"):
        moves, dropped, aliases, problems = _as_they_are(source, kind, dtype)
        config = {name: value for name, value in source.config.items() if name != "quantization_config"}
        if dtype != "keep" or kind.name == "fp8":
            config = {name: value for name, value in config.items() if name != "torch_dtype"} | {"dtype": stored}
    else:
        layout, config = _translated(source, kind, stored, image_token_id)
        side: Side = "original" if kind.name == "internvl-back" else "native"
        moves, dropped, problems = _resolve(layout, side, source, dtype, tied=_tied(config))
        moves += _heads_again(source, moves) if kind.name == "internvl-back" and _tied(config) else []
        aliases = {}
    unplaced = [problem for problem in problems if problem.what == EXTRA]
    if image_token_id is not None and kind.name == "internvl":
        vocab = whole(section(config, "text_config"), "vocab_size")
        if not 0 <= image_token_id < vocab:
            what = f"{image_token_id} stands for a picture, and the model has {vocab} rows for tokens"
            problems.append(Problem("image token", what))
    if allow_extra:
        dropped |= {problem.name: "belongs to no place; dropped because extra tensors are allowed" for problem in unplaced}
        problems = [problem for problem in problems if problem not in unplaced]
    return Plan(kind, source, config, tuple(moves), dropped, aliases, tuple(problems), (), allow_extra)


EXTRA = "belongs to no place in the result"
TABLE = "a table that the model computes by itself"
TIED = "the embedding again, which the model ties to it"
"""Why a head is dropped; `native.check_heads` looks whether it is true."""


def refuse(plan: Plan) -> None:
    """Stops where the plan has problems.

    Raises:
        CheckpointError: it has; all of them are named.
    """
    if not plan.problems:
        return
    shown = "; ".join(f"{problem.name} {problem.what}" for problem in plan.problems[:20])
    more = f"; and {len(plan.problems) - 20} more" if len(plan.problems) > 20 else ""
    count = "1 problem" if len(plan.problems) == 1 else f"{len(plan.problems)} problems"
    todo = "restore what is named from the original checkpoint"
    if any(problem.what == EXTRA for problem in plan.problems):
        todo += ", or drop tensors that belong nowhere with --allow-extra"
    raise CheckpointError(f"{count}: {shown}{more}", where=str(plan.source.folder), todo=todo)


def _translated(source: Checkpoint, kind: Kind, stored: str, image_token_id: int | None) -> tuple[Layout, dict[str, Any]]:
    """The layout of both sides, and the config of the result."""
    original = source.config
    if kind.name == "internvl":
        config = configs.internvl_config(original, stored, -1 if image_token_id is None else image_token_id)
        fused = configs.architecture(section(original, "llm_config")) == "InternLM2ForCausalLM"
        return _internvl(original, config, fused=fused), config
    if kind.name == "internvl-back":
        native = _as_tied(original, stored_head="language_model.lm_head.weight" in source.tensors)
        written = section(_record(source.folder), "source_config")
        config = dict(written) if fits(written, native) else configs.github_config(native, stored)
        config["torch_dtype"] = stored
        fused = configs.architecture(section(config, "llm_config")) == "InternLM2ForCausalLM"
        return _internvl(config, native, fused=fused), config
    if kind.name == "chatglm":
        config = configs.chatglm_config(original, stored)
        config["tie_word_embeddings"] &= "transformer.output_layer.weight" not in source.tensors  # its code ties nothing
        decoder = Decoder(
            vocab=config["vocab_size"], hidden=config["hidden_size"], intermediate=config["intermediate_size"],
            blocks=config["num_hidden_layers"], heads=config["num_attention_heads"], kv_heads=config["num_key_value_heads"],
            head=config["head_dim"], bias=config["attention_bias"], tied=config["tie_word_embeddings"],
        )  # fmt: skip
        return chatglm(decoder, multi_query=bool(original.get("multi_query_attention"))), config
    config = configs.internlm_config(original, stored)
    decoder = decoder_of(config)
    return (internlm2 if kind.name == "internlm2" else plain)(decoder), config


def _internvl(original: dict[str, Any], native: dict[str, Any], *, fused: bool) -> Layout:
    text, ratio = native["text_config"], float(native.get("downsample_ratio") or 0.5)
    vision = vision_of(configs.VISION_DEFAULTS | section(original, "vision_config"))
    decoder = decoder_of(text)
    made = Layout()
    made.add(vision_layout(vision), "vision_model.", "vision_tower.")
    made.add(projector_layout(vision.hidden, decoder.hidden, ratio), "mlp1.", "multi_modal_projector.")
    made.add((internlm2 if fused else plain)(decoder), "language_model.", "language_model.")
    return made


def _as_tied(native: dict[str, Any], *, stored_head: bool) -> dict[str, Any]:
    """A native InternVL's config whose text part says if the head is the embedding, as transformers settles it.

    It ties where the outer config says so, whose default is True, but not where a head of its own is stored.
    """
    text = section(native, "text_config")
    said = native.get("tie_word_embeddings", True) or text.get("tie_word_embeddings")
    return native | {"text_config": text | {"tie_word_embeddings": bool(said) and not stored_head}}


def fits(original: dict[str, Any], native: dict[str, Any]) -> bool:
    """Whether an InternVLChatModel config, kept from before, still describes this native model."""
    kind = KINDS["internvl"]
    if not original or wrong_values(kind.name, original, MOST_LAYERS) or kind.refusals(original):
        return False
    made = configs.internvl_config(original, "", -1)
    return all(_agree(section(made, part), section(native, part)) for part in ("text_config", "vision_config")) and all(
        made[name] == native.get(name, made[name]) for name in ("downsample_ratio", "vision_feature_layer", "image_seq_length")
    )


def _agree(kept: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two native parts are the same model; how it was trained, and what one of them leaves unsaid, does not count."""
    names = kept.keys() & now.keys() - {*configs.UNIMPORTANT, "rope_theta", "rope_scaling", "rope_parameters"}
    sizes = {"hidden_size", "num_hidden_layers", "model_type"}
    return names >= sizes and all(kept[name] == now[name] for name in names) and configs.rope(kept) == configs.rope(now)


def _record(folder: Path) -> dict[str, Any]:
    """What an earlier conversion noted about this folder; {} if it is not one or the file is damaged."""
    import json

    try:
        body = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _tied(config: dict[str, Any]) -> bool:
    parts = (config, section(config, "text_config"), section(config, "llm_config"))
    return any(bool(part.get("tie_word_embeddings")) for part in parts)


def _resolve(
    layout: Layout, side: Side, source: Checkpoint, dtype: Cast, *, tied: bool
) -> tuple[list[Move], dict[str, str], list[Problem]]:
    """The layout against what is really there."""
    expected = layout.shapes("original" if side == "native" else "native")
    problems = []
    for name, shape in expected.items():
        found = source.tensors.get(name)
        if found is None:
            problems.append(Problem(name, "is missing"))
        elif found.shape != shape:
            problems.append(Problem(name, f"has shape {list(found.shape)} where the config asks for {list(shape)}"))
    dropped: dict[str, str] = {}
    for name in source.tensors.keys() - expected.keys():
        if BUFFERS.search(name):
            dropped[name] = TABLE
        elif tied and HEADS.search(name):
            dropped[name] = TIED
        else:
            problems.append(Problem(name, EXTRA))
    wrong = {problem.name for problem in problems}
    moves = []
    for target, parts in layout.sources(side).items():
        if any(rows.tensor in wrong for rows in parts):
            continue
        stored = {source.tensors[rows.tensor].dtype for rows in parts}
        if odd := stored - set(FLOATS):
            problems.append(Problem(parts[0].tensor, f"is stored as {', '.join(sorted(odd))}, and weights are floats"))
            continue
        if len(stored) > 1:
            problems.append(Problem(target, f"would be made of parts of different dtypes: {', '.join(sorted(stored))}"))
            continue
        entry = Entry(target, _cast(stored.pop(), dtype), layout.shapes(side)[target])
        moves.append(Move(entry, tuple(parts)))
    return _in_order(moves, source), dropped, sorted(problems)


def _heads_again(source: Checkpoint, moves: list[Move]) -> list[Move]:
    """The tied head that the way here left out, so that the way back gives every tensor the original had."""
    made = {move.target.name: move for move in moves}
    heads = {"language_model.lm_head.weight": "embed_tokens", "language_model.output.weight": "tok_embeddings"}
    dropped = section(_record(source.folder), "dropped")
    pairs = ((head, made.get(f"language_model.model.{table}.weight")) for head, table in heads.items())
    return [replace(table, target=replace(table.target, name=head)) for head, table in pairs if table and head in dropped]


def _as_they_are(
    source: Checkpoint, kind: Kind, dtype: Cast
) -> tuple[list[Move], dict[str, str], dict[str, str], list[Problem]]:
    """Names stay; pickles become safetensors, blocks of FP8 become floats."""
    moves: list[Move] = []
    problems: list[Problem] = []
    aliases: dict[str, str] = {}
    scales: set[str] = set()
    seen: dict[tuple[Any, ...], str] = {}
    blocks = section(source.config, "quantization_config").get("weight_block_size") or [128, 128]
    for name in sorted(source.tensors, key=lambda name: (bool(HEADS.search(name)),)):
        tensor = source.tensors[name]
        region = (tensor.shard, tensor.offset, tensor.shape, tensor.stride, tensor.dtype)
        if tensor.elements and seen.setdefault(region, name) != name:
            aliases[name] = seen[region]
            continue
        scale = f"{name}_scale_inv"
        if kind.name == "fp8" and tensor.dtype == "F8_E4M3":
            problems += _check_scale(tensor, source.tensors.get(scale), blocks)
            scales.add(scale)
            moves.append(_whole(tensor, CASTS.get(dtype, "BF16"), scale))
        elif not (kind.name == "fp8" and name.endswith("_scale_inv")):
            moves.append(_whole(tensor, _cast(tensor.dtype, dtype)))
    left = [name for name in source.tensors if kind.name == "fp8" and name.endswith("_scale_inv") and name not in scales]
    problems += [Problem(name, EXTRA) for name in left]
    return _in_order(moves, source), {}, aliases, problems


def _check_scale(weight: Tensor, scale: Tensor | None, blocks: list[int]) -> list[Problem]:
    if scale is None:
        return [Problem(weight.name, "is FP8, but its scales are missing")]
    if len(weight.shape) != 2:
        return [Problem(weight.name, f"is FP8 with {len(weight.shape)} axes; only matrices are converted")]
    wanted = tuple(ceil(size / block) for size, block in zip(weight.shape, blocks, strict=True))
    if scale.shape != wanted or scale.dtype not in ("F32", "BF16", "F16"):
        return [Problem(scale.name, f"is {scale.dtype} {list(scale.shape)} where {list(wanted)} floats belong")]
    return []


def _whole(tensor: Tensor, dtype: str, scale: str = "") -> Move:
    rows = tensor.shape[0] if tensor.shape else 1
    return Move(Entry(tensor.name, dtype, tensor.shape), (Rows(tensor.name, 0, rows),), scale)


def restore(plan: Plan, names: set[str]) -> Plan:
    """The plan with some of its aliases written out after all."""
    moves = [*plan.moves]
    for name in sorted(names & plan.aliases.keys()):
        kept = next(move for move in plan.moves if move.target.name == plan.aliases[name])
        moves.append(replace(kept, target=replace(kept.target, name=name)))
    aliases = {name: kept for name, kept in plan.aliases.items() if name not in names}
    return replace(plan, moves=tuple(moves), aliases=aliases)


def _in_order(moves: list[Move], source: Checkpoint) -> list[Move]:
    """By where their first part stands, so that the source is read from front to back."""

    def place(move: Move) -> tuple[str, int]:
        rows = move.parts[0]
        tensor = source.tensors[rows.tensor]
        return str(tensor.shard), tensor.offset + rows.start * prod(tensor.shape[1:])

    return sorted(moves, key=place)


def _cast(stored: str, dtype: Cast) -> str:
    return CASTS[dtype] if dtype != "keep" and stored in FLOATS else stored


def _stored(source: Checkpoint, dtype: Cast) -> str:
    """What most of the result is stored as, as config.json writes it."""
    sizes = Counter[str]()
    for tensor in source.tensors.values():
        name = "BF16" if tensor.dtype == "F8_E4M3" else tensor.dtype
        sizes[_cast(name, dtype)] += tensor.nbytes
    most = max(sizes, key=lambda name: sizes[name], default="F32")
    return CONFIG_DTYPES.get(most, "float32")


__all__ = ["EXTRA", "RECORD", "Cast", "Move", "Plan", "Problem", "fits", "make_plan", "refuse", "restore", "whole"]
