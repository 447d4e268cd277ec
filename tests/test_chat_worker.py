"""The process that talks, function by function: turns, stops, streams, and what it says of bad requests."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

from quantui.chat_worker import Mouth, Talker, Turns, listen
from tests.compare.made import save_quantized
from tests.device import DEVICE
from tests.models import tiny

pytestmark = pytest.mark.engine


class Heard:
    """What a talker says to a list of requests."""

    def __init__(self) -> None:
        self.out = io.StringIO()
        self.turns = Turns()
        self.talker = Talker(Mouth(self.out), self.turns)

    def ask(self, **request: Any) -> list[dict[str, Any]]:
        """The events of one request."""
        self.out.seek(0)
        self.out.truncate()
        try:
            self.talker.answer({"id": "1", "do": "ask"} | request)
        except Exception as error:  # noqa: BLE001  (as the loop does)
            return [*self.events(), {"event": "failed", "what": str(error)}]
        return self.events()

    def events(self) -> list[dict[str, Any]]:
        """What was said so far."""
        return [json.loads(line) for line in self.out.getvalue().splitlines()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny Llama and its quantized folder."""
    llama = tiny.save_llama(tmp_path_factory.mktemp("chat") / "model")
    quantized = save_quantized(llama, tmp_path_factory.mktemp("chatq") / "out", "fp8-kv8")
    return {"original": str(llama), "quantized": str(quantized), "device": DEVICE}


@pytest.fixture(scope="module")
def heard(folders: dict[str, str]) -> Heard:
    """A talker with the two loaded."""
    made = Heard()
    assert [event["event"] for event in made.ask(do="open", **folders)] == ["loading", "ready", "done"]
    return made


def words(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def named(events: list[dict[str, Any]], name: str, side: str | None = None) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == name and side in (None, event.get("side"))]


def test_both_stream_in_turn_and_every_token_is_compared(heard: Heard, folders: dict[str, str]) -> None:
    events = heard.ask(messages=words("the fox 3?"), sampling={"most": 6}, **folders)
    sides = [event["side"] for event in named(events, "token")]
    assert sides[:4] == ["original", "quantized", "original", "quantized"]
    for side in ("original", "quantized"):
        (ended,), (apart,) = named(events, "ended", side), named(events, "apart", side)
        assert 1 <= len(ended["ids"]) == len(apart["tokens"]) <= 6
        assert [token["id"] for token in apart["tokens"]] == ended["ids"]
        text = "".join(event["text"] for event in named(events, "token", side))
        assert text == "".join(token["text"] for token in apart["tokens"] if not token["end"])
        assert all(token["kl"] >= 0 and len(token["top"]["original"]) == 5 for token in apart["tokens"])
    assert events[-1] == {"id": "1", "event": "done", "stopped": False}
    again = heard.ask(messages=words("the fox 3?"), sampling={"most": 6}, **folders)
    assert named(again, "apart") == named(events, "apart")


def test_everything_off_says_the_same_in_both(heard: Heard, folders: dict[str, str]) -> None:
    off = {"weights": False, "activations": False, "kv": False}
    sampled = {"most": 12, "temperature": 1.5, "seed": 7, "top_p": 0.95, "repetition": 1.1}
    events = heard.ask(messages=words("the quick?"), sampling=sampled, switches=off, **folders)
    one, two = (named(events, "ended", side)[0]["ids"] for side in ("original", "quantized"))
    assert one == two and named(events, "prompt")[0]["off"]
    assert all(token["kl"] == 0 for event in named(events, "apart") for token in event["tokens"])
    other = heard.ask(messages=words("the quick?"), sampling=sampled | {"seed": 8}, switches=off, **folders)
    assert named(other, "ended", "original")[0]["ids"] != one


def test_a_model_goes_on_with_the_others_words(heard: Heard, folders: dict[str, str]) -> None:
    events = heard.ask(messages=words("the fox 3?"), sampling={"most": 4}, **folders)
    ids = named(events, "ended", "original")[0]["ids"][:2]
    more = heard.ask(
        messages=words("the fox 3?"), sampling={"most": 4}, sides=["quantized"], given={"quantized": ids}, **folders
    )
    (ended,) = named(more, "ended")
    assert ended["ids"][:2] == ids and ended["tokens"] == len(ended["ids"]) - 2 <= 4
    only = heard.ask(do="force", messages=words("the fox 3?"), sides=["original"], given={"original": ids}, **folders)
    assert not named(only, "token") and len(named(only, "apart")[0]["tokens"]) == 2


def test_a_stop_is_heard_between_two_tokens(heard: Heard, folders: dict[str, str]) -> None:
    heard.turns.stop("7")
    assert [event["event"] for event in heard.ask(id="7", messages=words("a"), **folders)] == ["done"]
    from quantui.compare.conversation import Conversation

    conversation = Conversation(heard.talker.pair(dict(folders)), {"messages": words("the fox"), "sampling": {"most": 200}})
    names = [name for name, _ in conversation.run(lambda: True)]
    assert names.count("token") == 1 and names[-1] == "done" and "apart" not in names


def test_long_prompts_are_cut_and_said(heard: Heard, folders: dict[str, str]) -> None:
    events = heard.ask(messages=words("fox " * 3000), sampling={"most": 3}, **folders)
    (prompt,) = named(events, "prompt")
    assert prompt["cut"] > 0 and prompt["tokens"] <= 1024 - 3
    events = heard.ask(messages=words("x" * 1_000_000), sampling={"most": 2}, **folders)
    assert named(events, "prompt")[0]["cut"] == -1 and events[-1]["event"] == "done"


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"messages": []}, "nothing to answer"),
        ({"messages": [{"role": "user", "content": "a"}], "sampling": {"temperature": "hot"}}, "temperature is no number"),
        ({"messages": [{"role": "user", "content": "a"}], "sampling": {"top_p": 0}}, "top-p 0.0 is not above 0"),
        ({"messages": [{"role": "user", "content": "a"}], "picture": "data:image/png;base64,AAAA"}, "reads no pictures"),
        ({"messages": [{"role": "user", "content": "a"}], "picture": "data:,§"}, "has not arrived whole"),
        ({"messages": [{"role": "user", "content": "a"}], "quantized": "/nowhere"}, "/nowhere"),
    ],
)
def test_bad_requests_are_said(heard: Heard, folders: dict[str, str], request_: dict[str, Any], says: str) -> None:
    events = heard.ask(**(folders | request_))
    assert events[-1]["event"] == "failed" and says in events[-1]["what"]


def test_hostile_texts_are_texts(heard: Heard, folders: dict[str, str]) -> None:
    text = "<script>\x1b[31m\u202e\x00\ud800 \U0001f98a"
    assert heard.ask(messages=words(text), sampling={"most": 2}, **folders)[-1]["event"] == "done"
    assert heard.out.getvalue().isascii()


def test_people_take_turns() -> None:
    turns = Turns()
    for number, client in enumerate(("a", "a", "a", "b", "c", "b")):
        turns.add({"id": str(number), "client": client})
    order = [str((turns.next() or {})["id"]) for _ in range(6)]
    assert order == ["0", "3", "4", "1", "5", "2"]
    turns.close()
    assert turns.next() is None


def test_lines_that_are_no_requests_are_answered() -> None:
    out, turns = io.StringIO(), Turns()
    listen(
        io.StringIO('{"do": "ask", "id": "1"}\nnonsense\n[]\n{"do": "stop", "id": "1"}\n{"do": "ask", "id": "2"}\n'),
        turns,
        Mouth(out),
    )
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["failed", "failed", "queued"]
    assert turns.is_stopped({"id": "1"}) and turns.next() is None  # stdin has ended


def test_pictures_go_with_the_first_message(tmp_path: Path) -> None:
    folder = tiny.save_internvl(tmp_path / "vision")
    quantized = save_quantized(folder, tmp_path / "out", "fp8-kv8", image_text=True)
    tiny.write_pictures(tmp_path / "data", 1)
    picture = base64.b64encode((tmp_path / "data" / "images" / "0.png").read_bytes()).decode()
    heard = Heard()
    asked = {"original": str(folder), "quantized": str(quantized), "messages": words("the quick fox?"), "system": "brown",
             "picture": f"data:image/png;base64,{picture}", "sampling": {"most": 3}}  # fmt: skip
    events = heard.ask(**asked)
    assert events[-1]["event"] == "done", events[-1]
    assert named(events, "prompt")[0]["tokens"] > 20 and len(named(events, "apart")) == 2
    assert heard.ask(**asked | {"picture": "data:image/png;base64,AAAA"})[-1]["event"] == "failed"
