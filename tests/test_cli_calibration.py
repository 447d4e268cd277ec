"""`quantui calibration preview`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantui import cli
from quantui.workspace import ASSETS

DEMO = ASSETS / "demo"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `calibration preview` in this process: exit code, stdout, stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main(["calibration", "preview", *map(str, arguments)])
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out, said.err

    return command


def test_it_prints_samples_numbers_and_the_histogram(run: Run) -> None:
    code, out, err = run(DEMO / "chat-data" / "calibration.yaml", "--model", DEMO / "chat", "--limit", 2)
    assert code == 0 and not err
    assert "#1 " in out and "#2 " in out and "#3 " not in out and "<|begin|><|user|>" in out
    for title in ("samples      256 of 256", "languages", "vocabulary", "forecast", "token hash", "█"):
        assert title in out


def test_json_is_one_object_with_everything(run: Run) -> None:
    code, out, _ = run(DEMO / "vision-data" / "calibration.yaml", "--model", DEMO / "vision", "--limit", 1, "--json")
    body: dict[str, Any] = json.loads(out)
    assert code == 0 and set(body) == {"samples", "set", "warnings", "forecast"}
    (sample,) = body["samples"]
    assert sample["kind"] == "picture" and sample["image_tokens"] > 0 and len(sample["ids"]) == len(sample["spans"])
    assert body["set"]["samples"] == 128 and body["set"]["total_tokens"] > 0 and len(body["set"]["token_hash"]) == 64


def test_warnings_are_in_plain_words(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("sources: [{kind: texts, texts: [the fox is quick, the fox is brown]}]\nmax_tokens: 2\n")
    chats = [{"messages": [{"role": "user", "content": "你好吗"}, {"role": "assistant", "content": "很好"}]}]
    (tmp_path / "evaluation.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    code, out, _ = run(tmp_path / "c.yaml", "--model", DEMO / "chat")
    assert code == 0
    assert "warning: there are only 2 samples" in out and "warning: 100 % of the samples are cut at 2 tokens" in out
    assert "warning: the calibration is mostly English, the evaluation data mostly Chinese" in out and "of them cut off" in out
    _, out, _ = run(tmp_path / "c.yaml", "--model", DEMO / "chat", "--evaluation", "none")
    assert "Chinese" not in out


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "No such file"),
        ("sources: []", "sources: "),
        ("sources: [{kind: jsonl, path: gone.jsonl}]", "there is no such file"),
        ("sources: [{kind: jsonl, path: empty.jsonl}]", "it holds no samples"),
        ("sources: [{kind: jsonl, path: broken.jsonl}]", "broken.jsonl:2: the line is not valid JSON"),
        ("sources: [{kind: jsonl, path: latin.jsonl}]", "latin.jsonl:1: the file is not UTF-8 text"),
        ("sources: [{kind: jsonl, path: good.jsonl, key: x}]", "there is no column x; there are text"),
        ("sources: [{kind: images, path: .}]", "the model reads no pictures"),
        ("sources: [{kind: dataset, path: scripted}]", "carries a loading script"),
        ("sources: [{kind: hub, id: a/b}]", "HF_HUB_OFFLINE is set"),
        ("sources: [{kind: jsonl, path: good.jsonl}]\ntemplate: gone.jinja", "gone.jinja"),
        ("sources: [{kind: jsonl, path: chat.jsonl}]\ntemplate: \"{{ raise_exception('no') }}\"", "chat template refuses"),
        ("sources: [{kind: jsonl, path: good.jsonl}]\nlong: drop\nmax_tokens: 1", "no sample is left"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_bad_input_is_exit_code_2_and_one_sentence(
    run: Run, tmp_path: Path, text: str | None, what: str, as_json: bool
) -> None:
    for name, body in {
        "empty.jsonl": b"", "broken.jsonl": b'{"text": "a"}\n{"text": \n', "latin.jsonl": b'{"text": "\xe4"}\n',
        "good.jsonl": b'{"text": "a good one"}\n', "a.png": b"x", "scripted/scripted.py": b"exit()",
        "chat.jsonl": b'{"messages": [{"role": "user", "content": "hi"}]}\n',
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(body)
    if text is not None:
        (tmp_path / "c.yaml").write_text(text)
    code, out, err = run(tmp_path / "c.yaml", "--model", DEMO / "chat", *(["--json"] if as_json else []))
    assert code == 2 and what in err and err.count("\n") == 1 and "Traceback" not in err
    assert not as_json or json.loads(out)["exit_code"] == 2


def test_a_folder_that_is_no_model_is_refused(run: Run, tmp_path: Path) -> None:
    code, _, err = run(DEMO / "chat-data" / "calibration.yaml", "--model", tmp_path)
    assert code == 2 and str(tmp_path) in err
