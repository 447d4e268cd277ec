"""The web process' side of a conversation: followed as it comes, said when it dies, let go when nobody talks."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quantui.jobs.chat import ChatProcess
from quantui.processes import identity

COMMAND = (sys.executable, str(Path(__file__).parent / "chatter.py"))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., ChatProcess]]:
    """Makes processes that are ended with the test."""
    made: list[ChatProcess] = []

    def start(wanted: Callable[[str], bool] = lambda device: False, idle: float = 60) -> ChatProcess:
        made.append(ChatProcess(tmp_path / "log" / "chat.log", wanted, COMMAND, idle))
        return made[-1]

    yield start
    for process in made:
        process.end()


def everything(chat: ChatProcess, request: str) -> list[str]:
    """All events of a request by name, waited for."""
    names: list[str] = []
    over = False
    while not over:
        events, over = chat.events(request, len(names), 10)
        names += [event["event"] for event in events]
    return names


def gone(pid: int) -> bool:
    """Whether a process is gone, waited for a little."""
    end = time.monotonic() + 10
    while identity(pid) is not None and time.monotonic() < end:
        time.sleep(0.05)
    return identity(pid) is None


def test_events_come_as_they_are_said(make: Callable[..., ChatProcess]) -> None:
    chat = make()
    request = chat.ask({"do": "ask", "words": 3, "pause": 0.3}, "cpu")
    first, over = chat.events(request, 0, 10)
    assert [event["text"] for event in first][:1] == ["w0"] and not over
    assert everything(chat, request) == ["token", "token", "token", "done"]
    assert chat.events("unknown", 0, 0)[0][0]["event"] == "failed"
    pid = chat.pid
    assert everything(chat, chat.ask({"do": "ask"}, "cpu")) == ["token", "done"]
    assert chat.pid == pid


def test_a_death_is_said_and_the_next_request_starts_anew(make: Callable[..., ChatProcess]) -> None:
    chat = make()
    request = chat.ask({"do": "ask", "words": 100, "pause": 0.2}, "cpu")
    waiting = chat.ask({"do": "ask"}, "cpu")
    pid = chat.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    for each in (request, waiting):
        assert everything(chat, each)[-1] == "failed"
    last = chat.events(request, 0, 0)[0][-1]
    assert last["died"] and "ended by SIGKILL while it answered" in last["what"]
    assert everything(chat, chat.ask({"do": "ask"}, "cpu")) == ["token", "done"]
    assert chat.pid not in (None, pid)
    for last_words in (" ", '{"id": "1", "ev'):
        assert everything(chat, chat.ask({"do": "ask", "die": last_words}, "cpu")) == ["failed"]


def test_it_is_let_go_when_nobody_talks(make: Callable[..., ChatProcess]) -> None:
    chat = make(idle=0.2)
    everything(chat, chat.ask({"do": "ask"}, "cpu"))
    pid = chat.pid
    assert pid is not None and gone(pid) and chat.pid is None
    assert everything(chat, chat.ask({"do": "ask"}, "cpu")) == ["token", "done"]


def test_it_makes_room_for_a_job_but_ends_its_sentence(make: Callable[..., ChatProcess]) -> None:
    chat = make(wanted=lambda device: device == "cpu")
    request = chat.ask({"do": "ask", "words": 4, "pause": 0.8}, "cpu")
    pid = chat.pid
    assert pid is not None
    assert everything(chat, request) == ["token"] * 4 + ["done"]
    assert gone(pid)


def test_another_device_is_another_process(make: Callable[..., ChatProcess]) -> None:
    chat = make()
    everything(chat, chat.ask({"do": "ask"}, "cpu"))
    pid = chat.pid
    assert pid is not None
    everything(chat, chat.ask({"do": "ask"}, "cuda:0"))
    assert gone(pid) and chat.pid != pid
