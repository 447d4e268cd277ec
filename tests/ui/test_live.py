"""What the page is told when it asks again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quantui.events import Done, EventReader, Failed, Log, Progress, Stamped
from quantui.ui import live, rail
from quantui.ui.services import Services
from tests.ui.conftest import ONE_LANGUAGE, RESULT, play, submit


def ask(services: Services, run: str = "", after: int = 0, have: dict[str, str] | None = None) -> dict[str, Any]:
    return live.answer(services, {"run": run, "after": after, "have": have or {}})


def lines(told: dict[str, Any]) -> list[list[Any]]:
    return list(json.loads(told["lines"]))


def test_an_empty_workspace(services: Services) -> None:
    told = ask(services)
    assert told["run"] == ""
    assert services.t("run.none") in told["parts"]["run"]
    assert services.t("jobs.none") in told["parts"]["jobs"]
    assert told["parts"]["running"] == ""
    assert told["wait"] == live.WAIT_IDLE
    json.dumps(told)


def test_only_what_changed_is_sent_again(services: Services) -> None:
    run = submit(services.store)
    first = ask(services)
    assert first["run"] == run.id
    second = ask(services, run.id, have=first["digests"])
    assert second["parts"] == {}
    play(services.store, run, Progress("load", 1, 4, "shards"))
    third = ask(services, run.id, have=second["digests"])
    assert {"run", "jobs", "running"} <= set(third["parts"]) <= {"run", "jobs", "running", "run-note", "device"}
    assert third["runs"] != second["runs"]


def test_a_log_line_crosses_once(services: Services) -> None:
    run = submit(services.store)
    play(services.store, run, Log("info", "one"), Progress("load", 0, 1), Log("warning", "<b>two</b>"))
    first = ask(services, run.id)
    assert [line[4] for line in lines(first)] == ["one", "<b>two</b>"]
    assert first["last"] == 3
    assert lines(ask(services, run.id, after=3)) == []
    play(services.store, run, Failed("it broke", "layer 3", "turn it round"))
    third = ask(services, run.id, after=3)
    assert [(line[2], line[4]) for line in lines(third)] == [("error", "it broke\nlayer 3\nturn it round")]


@ONE_LANGUAGE
def test_a_long_log_comes_in_pieces(services: Services) -> None:
    run = submit(services.store)
    play(services.store, run, *(Log("info", str(n)) for n in range(live.LINES + 10)))
    first = ask(services, run.id)
    assert first["more"] and len(lines(first)) == live.LINES
    second = ask(services, run.id, after=first["last"])
    assert not second["more"] and len(lines(second)) == 10


def test_a_running_job_is_asked_about_often(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    run = submit(services.store)
    play(services.store, run, Progress("quantize", 1, 4, "layers", 128, 256, "samples", 12.0))
    told = ask(services, run.id)
    assert told["wait"] == live.WAIT_NEW
    monkeypatch.setattr(live, "NEW_SECONDS", 0.0)
    assert ask(services, run.id)["wait"] == live.WAIT_OPEN
    assert told["title"].startswith("38 %")
    assert 'style="width:37.5%"' in told["parts"]["run"]
    assert run.id in told["parts"]["running"]
    other = submit(services.store)
    play(services.store, other, Done(), result=RESULT)
    assert ask(services, other.id)["wait"] == live.WAIT_OTHER


def test_a_finished_run_shows_its_result(services: Services) -> None:
    run = submit(services.store)
    play(services.store, run, Log("info", "x"), Done(), result=RESULT)
    told = ask(services, run.id)
    card = told["parts"]["run"]
    for text in ("2.6 MB", "1.5 MB", "1.74×", "98 %", "81.8 %", "−16.2", "1.052", "1.311", "1.2 GB", "21 "):
        assert text in card, text
    assert "lm_head stays &lt;float&gt;" in card
    assert 'data-text="/somewhere/quantized/chat-fp8"' in card
    assert lines(told)[-1][4] == services.t("log.done")
    assert told["wait"] == live.WAIT_IDLE


def test_a_result_without_evaluation(services: Services) -> None:
    run = submit(services.store)
    keys = ("exact_match_before", "exact_match_after", "perplexity_before", "perplexity_after", "evaluation_samples")
    play(services.store, run, Done(), result=RESULT | dict.fromkeys(keys))
    card = ask(services, run.id)["parts"]["run"]
    assert services.t("result.exact_match") not in card
    assert "1.74×" in card


@pytest.mark.parametrize("reason", ["run", "cancelled"])
def test_a_failed_run_says_what_to_do(services: Services, reason: Any) -> None:
    run = submit(services.store)
    play(services.store, run, Progress("quantize", 1, 4), Failed("the scales are <nan>", "layers.3", "turn it round", reason))
    told = ask(services, run.id)["parts"]["run"]
    if reason == "run":
        assert "The scales are &lt;nan&gt;." in told
        assert "Turn it round." in told
        assert 'class="stage failed"' in told
    else:
        assert services.t("failure.cancelled") in told
        assert 'class="stage cancelled"' in told


def test_the_queue_has_positions(services: Services) -> None:
    first, _, third = (submit(services.store, name=f"run {n}") for n in range(3))
    play(services.store, first, Log("info", "x"))
    told = ask(services, third.id)
    assert services.t("run.position", n=2) in told["parts"]["run"]
    assert services.t("jobs.position", n=1) in told["parts"]["jobs"]
    assert services.t("header.waiting", n=2) in told["parts"]["running"]
    assert told["parts"]["jobs"].index(third.id) < told["parts"]["jobs"].index(first.id)


def test_an_address_of_no_run(services: Services) -> None:
    told = ask(services, "20200101-000000-<gone>")
    assert 'class="problem"' in told["parts"]["run"]
    assert "<gone>" not in told["parts"]["run"]


def test_the_run_picked_last_comes_first(services: Services) -> None:
    old, new = submit(services.store), submit(services.store)
    assert ask(services)["run"] == new.id
    rail.remember(services.workspace, run=old.id)
    assert ask(services)["run"] == old.id


def test_names_are_escaped_everywhere(services: Services) -> None:
    run = submit(services.store, name="<img src=x>")
    play(services.store, run, Progress("<i>", 0, 3, "<u>"))
    for part in ask(services, run.id)["parts"].values():
        assert "<img" not in part and "<u>" not in part


def test_cancelling_what_waits(services: Services) -> None:
    run = submit(services.store)
    assert live.cancel(services, run.id) == {}
    assert services.store.get(run.id).state == "cancelled"
    assert "problem" in live.cancel(services, "no-such-run")


@ONE_LANGUAGE
def test_an_answer_reads_no_line_a_second_time(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page on a run with many lines, and others beside it, costs little to keep true; bench/page.py has the seconds."""
    run, *_ = [submit(services.store) for _ in range(3)]
    play(services.store, run, *(Log("info", f"line {n}") for n in range(300)))
    read: list[int] = []
    reads = EventReader.read

    def counted(reader: EventReader) -> list[Stamped]:
        found = reads(reader)
        read.append(len(found))
        return found

    monkeypatch.setattr(EventReader, "read", counted)
    for _ in range(3):
        ask(services, run.id, after=300)
    assert sum(read) == 300
