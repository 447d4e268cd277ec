"""Answers token by token: both models in turn, under the same settings and with the same chance."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quantui.compare.pair import Pair
from quantui.compare.prompt import Prompt
from quantui.compare.switches import Side
from quantui.errors import InputError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the same for both models.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_k: only so many of the likeliest; 0 for all.
        top_p: only the likeliest that together have this probability.
        repetition: what logits of tokens that stand there already are divided by (multiplied, where negative).
        seed: what chance starts from.
        most: tokens of an answer.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition: float = 1.0
    seed: int = 0
    most: int = 256

    def __post_init__(self) -> None:
        todo = "set it within its bounds"
        if not 0 <= self.temperature <= 10:
            raise InputError(f"temperature {self.temperature} is not between 0 and 10", where="settings", todo=todo)
        if not 0 < self.top_p <= 1:
            raise InputError(f"top-p {self.top_p} is not above 0 and at most 1", where="settings", todo=todo)
        if not 0.1 <= self.repetition <= 10:
            raise InputError(f"repetition penalty {self.repetition} is not between 0.1 and 10", where="settings", todo=todo)
        if self.top_k < 0 or not 1 <= self.most <= 100_000:
            raise InputError(
                "top-k is negative, or the length of an answer is not from 1 to 100000", where="settings", todo=todo
            )


class Chance:
    """The noise of every step, drawn once for both models: where their distributions agree they take the same token.

    The likeliest of logits plus Gumbel noise is a draw from their softmax, and noise that is shared makes two near
    distributions choose alike. Source: Maddison et al., arXiv 1411.0030.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._step, self._noise = -1, torch.empty(0)

    def noise(self, step: int, size: int) -> torch.Tensor:
        """Gumbel noise (vocabulary,) of one step."""
        if step != self._step or self._noise.numel() != size:
            generator = torch.Generator().manual_seed((self._seed * 1_000_003 + step) % 2**63)
            even = torch.rand(size, generator=generator, dtype=torch.float64).clamp_(1e-300, 1 - 1e-16)
            self._step, self._noise = step, -torch.log(-torch.log(even))
        return self._noise


def choose(logits: torch.Tensor, sampling: Sampling, chance: Chance, step: int, seen: Collection[int] = ()) -> int:
    """The next token.

    Args:
        logits: (vocabulary,), of any float dtype.
        step: number of the token in the answer.
        seen: tokens that stand there already.
    """
    if sampling.repetition != 1 and seen:
        logits = logits.clone()
        places = torch.tensor(sorted(set(seen)), device=logits.device)
        values = logits[places]
        logits[places] = torch.where(values > 0, values / sampling.repetition, values * sampling.repetition)
    if sampling.temperature == 0:
        return int(logits.argmax())
    scores = logits.cpu().double() / sampling.temperature  # no NPU computes in float64
    if 0 < sampling.top_k < scores.numel():
        scores[scores < scores.topk(sampling.top_k).values[-1]] = -torch.inf
    if sampling.top_p < 1:
        order = scores.argsort(descending=True, stable=True)
        shares = scores[order].softmax(0)
        scores[order[(shares.cumsum(0) - shares) >= sampling.top_p]] = -torch.inf  # the first is always kept
    return int((scores + chance.noise(step, scores.numel())).argmax())


class Stream:
    """One model's answer as it grows.

    Args:
        given: the beginning of the answer that is put into its mouth.

    Attributes:
        ids: the answer's tokens so far, the given ones among them.
        first: logits (vocabulary,) behind the prompt, what is given included.
        cache: keys and values of all tokens that were read.
        seconds: time this model has taken to make tokens, reading the prompt not counted.
        reading: time it has taken to read the prompt.
    """

    def __init__(
        self, pair: Pair, side: Side, prompt: Prompt, sampling: Sampling, chance: Chance, given: Sequence[int] = ()
    ) -> None:
        self.pair, self.side, self.prompt, self.sampling, self.chance = pair, side, prompt, sampling, chance
        self.ids = list(given)
        self.given = len(self.ids)
        self.cache = pair.cache(side)
        self.seconds = self.reading = 0.0
        self.first: Any = None
        self._next: Any = None
        self.ended = False
        self.made = 0

    def step(self) -> int | None:
        """Makes one token; None where the answer has ended."""
        if self.ended:
            return None
        began = time.perf_counter()
        if self.first is None:
            inputs = self.prompt.extended(self.ids)
            self.first = self._next = self.pair.logits(self.side, inputs, self.cache, keep=1)[0, -1]
            self.reading = time.perf_counter() - began
            began = time.perf_counter()
        else:
            last = torch.tensor([[self.ids[-1]]], device=self.pair.device)
            self._next = self.pair.logits(self.side, {"input_ids": last}, self.cache, keep=1)[0, -1]
        seen = self.ids if self.sampling.repetition != 1 else ()
        token = choose(self._next, self.sampling, self.chance, len(self.ids), seen)
        self.ids.append(token)
        self.made += 1
        room = self.prompt.room
        full = len(self.ids) >= self.sampling.most + self.given or (room and len(self.ids) >= room)
        self.ended = token in self.pair.ends or bool(full)
        self.seconds += time.perf_counter() - began
        return token

    @property
    def speed(self) -> float:
        """Tokens a second, the first one not counted: it comes with the prompt."""
        return (self.made - 1) / self.seconds if self.made > 1 and self.seconds > 0 else 0.0


def in_turn(streams: Sequence[Stream]) -> Iterator[tuple[Side, int]]:
    """A token of each, again and again until all have ended."""
    while True:
        moved = False
        for stream in streams:
            token = stream.step()
            if token is not None:
                moved = True
                yield stream.side, token
        if not moved:
            return
