"""The Compare tab without a browser: which pairs there are, what an evaluation found, votes and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantui.ui import chats
from quantui.ui.compare_page import answer
from quantui.ui.services import Services
from quantui.workspace import write_json
from tests.ui.conftest import write_model

HOSTILE = "<script>alert(1)</script>"
ROW = {"where": "x:1", "question": HOSTILE, "expected": "42", "answers": {"original": "42", "quantized": HOSTILE},
       "right": {"original": True, "quantized": False}, "flips": True, "kl_mean": 1.5, "kl_max": 4.0, "tokens": 3}  # fmt: skip
FIGURES = {"kl_mean": 0.17, "kl_median": 0.002, "kl_p90": 0.3, "kl_p99": 3.2, "kl_max": 9.9, "top1_agreement": 0.95,
           "perplexity_original": 1.006, "perplexity_quantized": 1.189, "exact_match_original": 0.995,
           "exact_match_quantized": 0.79, "tokens": 1882}  # fmt: skip


@pytest.fixture
def quantized(services: Services) -> Path:
    """A quantized folder of the workspace that says what it was made from."""
    folder = write_model(services.workspace.quantized / "chat-int8")
    write_json(folder / "quantui.json", {"model": str(services.workspace.models / "chat"), "recipe": "int8"})
    (services.workspace.calibration / "chat" / "evaluation.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": "2 plus 3?"}, {"role": "assistant", "content": "5"}]}) + "\n"
    )
    return folder


def done(services: Services, quantized: Path) -> Path:
    """A comparison of it that has ended well; the run's folder."""
    told = answer(services, {"action": "measure", "data": str(services.workspace.calibration / "chat" / "evaluation.jsonl")})
    assert told["measuring"]
    run = services.store.list()[0]
    write_json(run.folder / "process.json", {"pid": 1, "identity": "x", "child": None, "device": "cpu", "started": 1.0})
    result: dict[str, Any] = FIGURES | {
        "kl_max_at": {"token": HOSTILE, "where": "x:1", "place": 0}, "noise_floor": 1e-7, "flips": 80, "rows": 400,
        "categories": {"English": FIGURES | {"rows": 200}, HOSTILE: FIGURES | {"rows": 200}}, "positions": {},
        "memory": {"original": 1, "quantized": 2, "shared": 3}, "original": "a", "quantized": "b",
        "data": "d", "data_hash": "0", "device": "cpu", "layers": [],
    }  # fmt: skip
    write_json(run.folder / "result.json", result)
    (run.folder / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    (run.folder / "events.jsonl").write_text(json.dumps({"seq": 1, "time": 2.0, "kind": "done"}) + "\n")
    return run.folder


def test_with_nothing_quantized_there_is_one_sentence_and_one_button(services: Services) -> None:
    told = answer(services, {"action": "look"})
    assert not told["ready"] and told["parts"]["models"].count("<button") == 1
    assert services.t("compare.nothing") in told["parts"]["models"]
    assert answer(services, {"action": "ask"})["problem"]["what"]


def test_the_newest_quantized_model_stands_beside_its_original(services: Services, quantized: Path) -> None:
    told = answer(services, {"action": "look"})
    assert told["ready"] and not told["pictures"]
    assert (told["original"], told["quantized"]) == (str(services.workspace.models / "chat"), str(quantized))
    assert "2 plus 3?" in told["parts"]["examples"]
    assert services.t("compare.not_measured") in told["parts"]["measures"]
    again = answer(services, {"action": "look", "have": told["digests"]})
    assert again["parts"] == {}


def test_other_shapes_and_outside_folders_are_refused(services: Services, quantized: Path, tmp_path: Path) -> None:
    config = json.loads((quantized / "config.json").read_text())
    write_json(quantized / "config.json", config | {"hidden_size": 32})
    said = answer(services, {"action": "ask", "messages": []})["problem"]
    assert "hidden_size" in said["what"] and chats.process_of(services).pid is None
    outside = write_model(tmp_path / "elsewhere")
    assert answer(services, {"action": "ask", "quantized": str(outside)})["problem"]["where"] == str(outside)
    assert outside.name not in answer(services, {"action": "look", "quantized": str(outside)})["quantized"]


def test_an_evaluation_shows_figures_and_changed_answers(services: Services, quantized: Path) -> None:
    folder = done(services, quantized)
    told = answer(services, {"action": "look"})
    shown = told["parts"]["measures"]
    assert not told["measuring"] and "99.5 %" in shown and "79 %" in shown and "0.17" in shown
    assert HOSTILE not in shown and "&lt;script&gt;" in shown and 'data-flip="&lt;script&gt;' in shown
    assert answer(services, {"action": "flip_picture", "row": 0}) == {"picture": None}
    picture = services.workspace.calibration / "chat" / "a.png"
    picture.write_bytes(b"png")
    (folder / "rows.jsonl").write_text(json.dumps(ROW | {"picture": str(picture)}) + "\n")
    assert 'data-picture="0"' in answer(services, {"action": "look"})["parts"]["measures"]
    assert answer(services, {"action": "flip_picture", "row": "0"}) == {"picture": "data:image/png;base64,cG5n"}
    assert answer(services, {"action": "flip_picture", "row": 7}) == {"picture": None}
    report = answer(services, {"action": "report"})
    assert report["file"] == "chat-int8-report.html" and HOSTILE not in report["text"]
    assert f'lang="{services.t.lang}"' in report["text"]


def test_votes_are_kept_counted_and_exported(services: Services, quantized: Path) -> None:
    vote = {"choice": "original", "quantized": str(quantized), "original": "o", "question": HOSTILE, "answer_original": "42"}
    for choice in ("original", "quantized", "original", "nonsense"):
        told = answer(services, {"action": "vote", "vote": vote | {"choice": choice}})
    assert "2" in told["parts"]["votes"] and services.t.count("compare.votes", 3) in told["parts"]["votes"]
    kept = json.loads(answer(services, {"action": "votes", "quantized": str(quantized)})["text"])
    assert [one["choice"] for one in kept] == ["original", "quantized", "original"]
    assert kept[0]["question"] == HOSTILE
