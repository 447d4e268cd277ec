"""One deterministic training loop for both models."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .muon import Muon

THREADS = 1  # two are little faster, and much slower on a busy machine
SEED = 7
IGNORED = -100  # label of a token without loss


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: a linear warm-up, then a cosine down to a twentieth."""

    steps: int
    rate: float
    warmup: int = 50

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def settle() -> None:
    """Make torch repeat itself: fixed threads, fixed seed, deterministic kernels only."""
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)


def padded(rows: list[tuple[list[int], list[int]]], pad: int) -> dict[str, Tensor]:
    """Right-padded `input_ids`, `labels` and `attention_mask`, each (rows, longest)."""
    longest = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
        "labels": torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
    }


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed cross entropy of the labelled tokens; logits (rows, length, vocabulary), labels (rows, length)."""
    return nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, head, norms and biases."""
    inner: list[nn.Parameter] = []
    outer: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        hidden = parameter.dim() == 2 and not any(part in name for part in ("embed", "lm_head"))
        (inner if hidden else outer).append(parameter)
    return [
        Muon(inner, lr=rate),
        torch.optim.AdamW(outer, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def step_loss(model: nn.Module, parts: list[dict[str, Tensor]]) -> float:
    """Gradients of the mean loss over all answer tokens of the parts of a step; returns that loss."""
    tokens = sum(int((part["labels"][:, 1:] != IGNORED).sum()) for part in parts)
    total = 0.0
    for part in parts:
        labels = part.pop("labels")
        loss = answer_loss(model(**part).logits, labels) / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def train(
    model: nn.Module,
    steps: Iterator[list[dict[str, Tensor]]],
    schedule: Schedule,
    say: Callable[[str], None] = print,
) -> None:
    """Train in place; every step is a list of padded parts whose gradients are summed."""
    used = optimizers(model, schedule.rate)
    model.train()
    started, shown = time.monotonic(), 0.0
    for step in range(schedule.steps):
        for optimizer in used:
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate_at(step)
        loss = step_loss(model, next(steps))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in used:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        shown = loss if step == 0 else 0.95 * shown + 0.05 * loss
        if (step + 1) % 100 == 0:
            say(f"step {step + 1}/{schedule.steps}  loss {shown:.4f}  {time.monotonic() - started:.0f} s")
    model.eval()
