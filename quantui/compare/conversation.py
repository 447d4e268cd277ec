"""One turn of a conversation with both models: their words as they come, then how far they are apart."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

from quantui.compare.divergence import Apart, forced
from quantui.compare.generate import Chance, Sampling, Stream, in_turn
from quantui.compare.pair import Pair
from quantui.compare.prompt import Prompt, make_prompt
from quantui.compare.switches import SIDES, Side, Switches
from quantui.compare.tokens import told
from quantui.compare.words import Writer
from quantui.errors import InputError

Event = tuple[str, dict[str, Any]]
SAMPLING = {
    "temperature": "the temperature", "top_k": "top-k", "top_p": "top-p", "repetition": "the repetition penalty",
    "seed": "the seed", "most": "the longest answer",
}  # fmt: skip
"""The settings a page may send, and what they are called."""


class Conversation:
    """What is asked, ready to be answered.

    Args:
        pair: the two models.
        request: `messages`, and where they are not what is usual `system`, `sampling`, `switches`, `sides` that answer, `given`
            ids that a side begins its answer with, `histories` of a side whose earlier answers differ. With `do` "force" what
            is given is the whole answer, which is only compared.
        picture: the file that goes with the first message.
    """

    def __init__(self, pair: Pair, request: Mapping[str, Any], *, picture: bytes | None = None) -> None:
        self.pair = pair
        self.request = request
        self.sampling = sampling_of(request.get("sampling") or {})
        self.switches = Switches.read(request.get("switches") or {})
        self.sides: tuple[Side, ...] = tuple(side for side in SIDES if side in (request.get("sides") or SIDES))
        self.picture = picture

    def run(self, is_stopped: Callable[[], bool]) -> Iterator[Event]:
        """Events in their order: `prompt`, `token` ..., `ended` of each side, `apart` of each answer, `done`.

        Raises:
            InputError: the messages or settings cannot be used.
        """
        self.pair.switch(self.switches)
        prompts = self._prompts()
        first = next(iter(prompts.values()))
        yield "prompt", {"tokens": first.tokens, "cut": first.cut, "off": self.pair.is_off(self.switches)}
        streams = self._streams(prompts)
        stopped = False
        if self.request.get("do") != "force":
            stopped = yield from self._stream(streams, is_stopped)
            for stream in streams:
                yield "ended", _ended(stream)
        if not stopped:
            yield from self._apart(streams, is_stopped)
        yield "done", {"stopped": stopped}

    def _streams(self, prompts: Mapping[Side, Prompt]) -> list[Stream]:
        chance = Chance(self.sampling.seed)
        given = self.request.get("given") or {}
        return [
            Stream(self.pair, side, prompts[side], self.sampling, chance, [int(token) for token in given.get(side) or ()])
            for side in self.sides
        ]

    def _apart(self, streams: list[Stream], is_stopped: Callable[[], bool]) -> Iterator[Event]:
        """Every answer forced through both models, the same words once."""
        seen: dict[tuple[object, ...], Apart] = {}
        for stream in streams:
            if not stream.ids or is_stopped():
                continue
            key = (id(stream.prompt), *stream.ids)
            if key not in seen:
                seen[key] = forced(self.pair, stream.prompt, stream.ids, streams)
            yield "apart", {"side": stream.side} | told(self.pair, stream.ids, seen[key], stream.side)

    def _prompts(self) -> dict[Side, Prompt]:
        """The prompt of each side: one and the same unless their earlier answers differ."""
        made: dict[str, Prompt] = {}
        prompts: dict[Side, Prompt] = {}
        histories = self.request.get("histories") or {}
        for side in self.sides:
            messages = [dict(message) for message in histories.get(side) or self.request.get("messages") or ()]
            if system := str(self.request.get("system") or "").strip():
                messages.insert(0, {"role": "system", "content": system})
            key = repr(messages)
            if key not in made:
                made[key] = make_prompt(
                    messages,
                    self.pair.processor,
                    picture=self.picture,
                    context=self.pair.context,
                    wanted=self.sampling.most,
                    dtype=self.pair.models["original"].dtype,
                    device=self.pair.device,
                )
            prompts[side] = made[key]
        return prompts

    def _stream(self, streams: list[Stream], is_stopped: Callable[[], bool]) -> Generator[Event, None, bool]:
        writers = {stream.side: Writer(self.pair.tokenizer) for stream in streams}
        for stream in streams:
            text = "".join(writers[stream.side].add(token) for token in stream.ids)
            if text:
                yield "token", {"side": stream.side, "text": text, "n": 0}
        counts = dict.fromkeys(SIDES, 0)
        for side, token in in_turn(streams):
            counts[side] += 1
            text = writers[side].add(token)
            yield "token", {"side": side, "text": text, "n": counts[side]}
            if is_stopped():
                return True
        return False


def sampling_of(given: Mapping[str, Any]) -> Sampling:
    """Sampling settings as a page sends them; what is missing or empty is as usual.

    Raises:
        InputError: one is no number, or out of bounds.
    """
    usual = Sampling()
    values = {}
    for name, called in SAMPLING.items():
        value = given.get(name)
        if value in (None, ""):
            continue
        try:
            values[name] = type(getattr(usual, name))(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"{called} is no number", where="settings", todo="write a number") from error
    return Sampling(**values)


def _ended(stream: Stream) -> dict[str, Any]:
    return {
        "side": stream.side,
        "ids": stream.ids,
        "tokens": stream.made,
        "seconds": round(stream.seconds, 4),
        "reading": round(stream.reading, 4),
        "speed": round(stream.speed, 2),
        "full": bool(stream.prompt.room) and len(stream.ids) >= stream.prompt.room,
    }
