"""The report: whole, offline, in both languages, and harmless whatever a model has said."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from quantui.compare.report import FOLDER, LANGUAGES, collect, render, shown, write_report
from quantui.compare.report_plots import WIDTH, plot
from quantui.errors import CheckpointError, InputError
from quantui.recipe import llmcompressor
from quantui.recipe.schema import QuantArgs
from tests.sensitivity.tables import RECIPE, linears, saved, scores_of

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202egnp\x00"


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """A workspace with a quantized model and a comparison of it; the run's folder."""
    quantized = tmp_path / "quantized" / "chat-int8"
    quantized.mkdir(parents=True)
    config = {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 256, "num_key_value_heads": 2}
    (quantized / "config.json").write_text(json.dumps(config))
    made = {
        "model": "/m/chat", "recipe": "# int8\n" + HOSTILE, "bytes_before": 2562368, "bytes_after": 1585240, "layers_left": 1,
        "layers_quantized": 28, "kv_layers": 0, "seconds_total": 13.2, "versions": {"torch": "2.13"}, "token_hash": "abc",
    }  # fmt: skip
    (quantized / "quantui.json").write_text(json.dumps(made))
    run = tmp_path / "runs" / "20261121-120000-chat"
    run.mkdir(parents=True)
    spec = {"kind": "compare", "model": "/m/chat", "quantized": str(quantized), "out": "", "data": "/d.jsonl"}
    (run / "spec.json").write_text(json.dumps(spec))
    figures = dict.fromkeys(("kl_mean", "kl_median", "kl_p90", "kl_p99", "kl_max", "top1_agreement"), 0.5)
    result: dict[str, Any] = figures | {
        "perplexity_original": 1.01, "perplexity_quantized": 1.2, "exact_match_original": 0.995, "exact_match_quantized": 0.79,
        "tokens": 1882, "rows": 400, "flips": 80, "noise_floor": None, "data": "/d.jsonl", "data_hash": "0" * 64,
        "original": "/m/chat", "memory": {"original": 1, "quantized": 2, "shared": 3}, "device": "cpu",
        "categories": {HOSTILE: figures | {"rows": 2, "perplexity_original": 1.0, "perplexity_quantized": 1.0,
                                           "exact_match_original": None, "exact_match_quantized": None}},
        "layers": [{"name": "model.layers.0.mlp.down_proj", "sqnr_db": 6.4, "cosine": 0.9, "input_absmax": 33.5},
                   {"name": "exact", "sqnr_db": None, "cosine": 1.0}],
    }  # fmt: skip
    (run / "result.json").write_text(json.dumps(result))
    token = {"text": HOSTILE, "end": False, "id": 5, "kl": 4.0, "original": -0.1, "quantized": -3.0, "top": {}}
    row = {"question": HOSTILE + "x" * 1_000_000, "expected": "42", "answers": {"original": "42", "quantized": HOSTILE},
           "right": {"original": True, "quantized": False}, "kl_mean": 4.0, "kl_max": 4.0,
           "forced": {"tokens": [token], "first": 0}}  # fmt: skip
    (run / "rows.jsonl").write_text(json.dumps(row) + "\n")
    vote = {
        "choice": "original",
        "quantized": str(quantized),
        "question": HOSTILE,
        "answer_original": "1",
        "answer_quantized": "2",
    }
    (tmp_path / "votes.jsonl").write_text(json.dumps(vote) + "\nnot json\n")
    return run


@pytest.mark.parametrize("lang", LANGUAGES)
def test_it_holds_everything_and_nothing_from_outside(compared: Path, lang: str) -> None:
    html = render([collect(compared)], lang=lang)
    for text in ("79.0 %", "2.56 MB", "80 / 400", "0" * 64, "model.layers.0.mlp.down_proj", "torch 2.13", "6.4 dB", "33.5"):
        assert text in html, text
    assert not re.search(r"""(src|href)\s*=|@import|url\(|<script|https?:""", html)
    assert len(html) < 60_000 and "+998,0" in html  # a question of a megabyte is cut, which is said
    assert "\x1b" not in html and "\u202e" not in html and "&lt;script&gt;" in html and "⟦U+202E⟧" in html
    words = json.loads((FOLDER / f"words.{lang}.json").read_text(encoding="utf-8"))
    for name in ("done", "sizes", "quality", "worst", "votes"):
        assert words[name] in html


def test_the_damage_of_every_layer_is_drawn_and_the_cache_is_told(compared: Path, tmp_path: Path) -> None:
    scores = scores_of(linears(2), model="/m/chat")
    saved(tmp_path / "sensitivity" / "chat", scores)
    made = tmp_path / "quantized" / "chat-int8" / "quantui.json"
    recipe = llmcompressor.load(RECIPE).model_copy(update={"kv_cache": QuantArgs()})
    made.write_text(json.dumps(json.loads(made.read_text()) | {"recipe": llmcompressor.dumps(recipe)}))
    entry = collect(compared)
    assert list(entry.damage) == list(scores.names)
    assert entry.caches[1] == (8, 2 * 4 * 2 * 32 * 2048 * 8 * 2, 2 * 4 * 2 * 32 * 2048 * 8)
    html = render([entry, entry])
    drawn = re.findall(r'<rect class="c\d" .*?height="([\d.]+)"><title>([^<]+):', html)
    damage = [(float(height), name) for height, name in drawn if name in entry.damage]
    assert len(damage) == 2 * 14 + 2  # and the one layer that has a range, in each
    assert max(damage[:14])[1] == max(entry.damage, key=entry.damage.__getitem__)
    assert "16.8 MB → 8.39 MB" in html


def test_two_stand_side_by_side(compared: Path, tmp_path: Path) -> None:
    html = render([collect(compared), collect(tmp_path / "quantized" / "chat-int8")])
    assert html.count('<th scope="col">chat-int8</th>') == 6
    out = tmp_path / "report.html"
    write_report([compared], out, lang="zh-CN")
    assert "量化报告" in out.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_layers_in_float_are_outlined_and_typical_inputs_marked() -> None:
    names = [layer.name for layer in linears(2)]
    drawn = plot(dict.fromkeys(names, 1e-2) | {names[3]: 1.0}, marks={names[0]: 1e-3}, hollow=[names[3]])
    assert drawn is not None and [bar.name for bar in drawn.bars if bar.is_hollow] == [names[3]]
    first, tallest = drawn.bars[0], drawn.bars[3]
    assert first.mark is not None and first.y < first.mark and drawn.bars[1].mark is None
    assert tallest.y == 0 and tallest.height > first.height
    assert drawn.blocks == ((0.0, "0"), (WIDTH / 2, "1"))


def test_pictures_come_along_and_may_be_gone(compared: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "shown.png")
    row = json.loads((compared / "rows.jsonl").read_text())
    rows = [row | {"picture": str(tmp_path / name)} for name in ("shown.png", "gone.png")]
    (compared / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    found = re.findall(r'<img src="data:image/webp;base64,([^"]+)"', render([collect(compared)]))
    assert len(found) == 1
    assert Image.open(io.BytesIO(base64.b64decode(found[0]))).size == (320, 160)


def test_what_has_nothing_to_report_is_refused(compared: Path, tmp_path: Path) -> None:
    (compared / "result.json").unlink()
    with pytest.raises(CheckpointError, match="has not ended well"):
        collect(compared)
    with pytest.raises(CheckpointError, match="nothing to report"):
        collect(tmp_path)
    with pytest.raises(InputError, match="unknown"):
        render([], lang="de")


def test_both_languages_say_the_same_things() -> None:
    words = [json.loads((FOLDER / f"words.{lang}.json").read_text(encoding="utf-8")) for lang in LANGUAGES]
    assert words[0].keys() == words[1].keys()


def test_turning_marks_and_control_characters_are_shown() -> None:
    assert shown("a\x1bb\x7f\u2066c\nd") == "a␛b␡⟦U+2066⟧c\nd"
