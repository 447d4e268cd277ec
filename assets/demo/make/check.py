"""Measures the committed models: float, int8 static, layer by layer, with fallback, and FP8; prints what README.md quotes."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, InternVLForConditionalGeneration, PreTrainedTokenizerBase

from . import vision
from .measure import Message, exact_match, labelled, perplexity
from .places import CHAT, CHAT_DATA, VISION, VISION_DATA
from .training import IGNORED, padded, settle

INT8 = {
    "num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": True, "dynamic": False, "observer": "static_minmax",
}  # fmt: skip
FP8 = {**INT8, "type": "float"}
CALIBRATION_ROWS = 256


@dataclass(frozen=True)
class Batch:
    """Padded evaluation chats and the float model's log probabilities of the answer tokens, (tokens, vocabulary)."""

    inputs: dict[str, Tensor]
    reference: Tensor


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def chats_of(path: Path) -> list[list[Message]]:
    """The chats of a jsonl file."""
    return [row["messages"] for row in read_rows(path)]


def linears(model: nn.Module) -> dict[str, nn.Module]:
    """The Linear layers a recipe would take: all but the head."""
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and not name.endswith("lm_head")}


def quantize(model: Any, tokenizer: Any, samples: list[dict[str, Tensor]], scheme: dict[str, Any], kv: bool = False) -> None:
    """Quantize in place with llm-compressor, everything static and per tensor but the head (and an image tower)."""
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    modifier = QuantizationModifier(
        config_groups={"all": {"targets": ["Linear"], "weights": scheme, "input_activations": scheme}},
        ignore=["re:.*lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*"],
        kv_cache_scheme=scheme if kv else None,
    )
    loader = DataLoader(samples, batch_size=1, collate_fn=lambda rows: rows[0])  # type: ignore[arg-type]
    oneshot(model=model, tokenizer=tokenizer, dataset=loader, num_calibration_samples=len(samples), recipe=[modifier])


def enable_only(model: nn.Module, names: Iterable[str]) -> None:
    """Quantize just these Linear layers from now on."""
    wanted = set(names)
    for name, module in linears(model).items():
        module.quantization_enabled = name in wanted


def logits_of(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Float32 logits of every next token, (rows, length - 1, vocabulary)."""
    logits: Tensor = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    return logits[:, :-1].float()


@torch.inference_mode()
def score(model: Any, batches: list[Batch]) -> tuple[float, float]:
    """Exact match and mean KL divergence (nats a token) with the answers given.

    A chat matches when every answer token, its end included, is the most likely one: then greedy generation says the same.
    """
    right, chats, divergence, tokens = 0, 0, 0.0, 0
    for batch in batches:
        labels = batch.inputs["labels"][:, 1:]
        logits = logits_of(model, batch.inputs)
        right += int(((logits.argmax(-1) == labels) | (labels == IGNORED)).all(1).sum())
        said = logits[labels != IGNORED].log_softmax(-1)
        divergence += nn.functional.kl_div(said, batch.reference, log_target=True, reduction="sum").item()
        chats, tokens = chats + len(labels), tokens + len(said)
    return right / chats, divergence / tokens


@torch.inference_mode()
def reference_batches(model: Any, tokenizer: PreTrainedTokenizerBase, chats: list[list[Message]]) -> list[Batch]:
    """Evaluation batches of 100 chats with the float model's answers."""
    out = []
    for start in range(0, len(chats), 100):
        inputs = padded([labelled(tokenizer, chat) for chat in chats[start : start + 100]], tokenizer.pad_token_id)
        logits = logits_of(model, inputs)
        out.append(Batch(inputs, logits[inputs["labels"][:, 1:] != IGNORED].log_softmax(-1)))
    return out


def calibration_samples(tokenizer: PreTrainedTokenizerBase, folder: Path) -> list[dict[str, Tensor]]:
    """Tokenized calibration chats."""
    chats = chats_of(folder / "calibration.jsonl")[:CALIBRATION_ROWS]
    return [dict(tokenizer.apply_chat_template(c, return_tensors="pt", return_dict=True)) for c in chats]


def damage_table(model: Any, batches: list[Batch]) -> list[tuple[str, float, float]]:
    """(layer, exact match, KL divergence) with only that layer quantized, the most damaging first."""
    table = []
    for name in linears(model):
        enable_only(model, [name])
        table.append((name, *score(model, batches)))
    return sorted(table, key=lambda row: -row[2])


def print_table(table: list[tuple[str, float, float]], shown: int = 8) -> None:
    """Print the most damaging layers and the sum of the rest."""
    print("  only this layer quantized                     exact match  KL, nats a token")
    for name, match, divergence in table[:shown]:
        print(f"    {name:42} {match:12.1%}  {divergence:.5f}")
    rest = [divergence for _, _, divergence in table[shown:]]
    print(f"    each of the other {len(rest):<24} {'':12}  at most {max(rest):.5f}")


def generated(model: Any, tokenizer: PreTrainedTokenizerBase, chats: list[list[Message]], title: str) -> None:
    """Print exact match of generated answers, and perplexity."""
    match, surprise = exact_match(model, tokenizer, chats), perplexity(model, tokenizer, chats)
    print(f"  {title:22} exact match {match:6.1%}  perplexity {surprise:.3f}", flush=True)


def check_chat(folder: Path = CHAT, data: Path = CHAT_DATA) -> None:
    """Print the figures of the `chat` model."""
    settle()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chats = chats_of(data / "evaluation.jsonl")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    samples = calibration_samples(tokenizer, data)
    total = sum(p.numel() for p in model.parameters())
    print(f"chat: {total:,} parameters, {(folder / 'model.safetensors').stat().st_size:,} bytes")
    generated(model, tokenizer, chats, "float")
    batches = reference_batches(model, tokenizer, chats)
    quantize(model, tokenizer, samples, INT8)
    generated(model, tokenizer, chats, "int8 static")
    table = damage_table(model, batches)
    print_table(table)
    for count in (1, 2, 3):
        enable_only(model, (name for name, _, _ in table[count:]))
        generated(model, tokenizer, chats, f"int8, {count} worst float")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    quantize(model, tokenizer, samples, FP8, kv=True)
    generated(model, tokenizer, chats, "fp8 static, fp8 kv")


def pictures_of(folder: Path, rows: list[dict[str, Any]]) -> list[Image.Image]:
    """The pictures of evaluation or calibration rows."""
    return [Image.open(folder / row["image"]).convert("RGB") for row in rows]


def calibration_pictures(processor: vision.ImageOnlyProcessor, data: Path, dtype: torch.dtype) -> list[dict[str, Tensor]]:
    """Model inputs of the calibration pictures, question and answer."""
    rows = read_rows(data / "calibration.jsonl")
    out = []
    for row, image in zip(rows, pictures_of(data, rows), strict=True):
        text = vision.prompt(processor, row["question"]) + row["answer"] + vision.END
        inputs = dict(processor(text=[text], images=[[image]], return_tensors="pt"))
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        out.append(inputs)
    return out


def check_vision(folder: Path = VISION, data: Path = VISION_DATA) -> None:
    """Print the figures of the `vision` model."""
    settle()
    processor = vision.load_processor(folder)
    rows = read_rows(data / "evaluation.jsonl")
    images, expected = pictures_of(data, rows), [row["answer"] for row in rows]
    for title, scheme in (("float", None), ("int8 static text part", INT8), ("fp8 static text part", FP8)):
        model = InternVLForConditionalGeneration.from_pretrained(folder, dtype="auto").eval()
        if scheme is None:
            total = sum(p.numel() for p in model.parameters())
            print(f"vision: {total:,} parameters, {(folder / 'model.safetensors').stat().st_size:,} bytes")
        else:
            quantize(model, processor.tokenizer, calibration_pictures(processor, data, model.dtype), scheme)
        print(f"  {title:22} exact match {vision.exact_match(model, processor, images, expected):6.1%}")
