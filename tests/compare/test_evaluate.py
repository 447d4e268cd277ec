"""The figures of a comparison against the same computed directly in float64, row by row."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from quantui.compare.divergence import apart
from quantui.compare.errors import layer_errors, noise_floor
from quantui.compare.evaluate import ask, decode, measure
from quantui.compare.figures import KEYS, by_category, figures
from quantui.compare.pair import Pair
from quantui.compare.run import compare
from quantui.compare.switches import ALL_OFF, ALL_ON
from quantui.evaluation.questions import Question, read_questions
from quantui.events import EventReader, EventWriter
from quantui.spec import CompareSpec
from tests.compare.conftest import OpenPair
from tests.device import DEVICE
from tests.models import tiny

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions of different lengths, in two categories."""
    folder = tmp_path_factory.mktemp("data")
    tiny.write_chats(folder, rows=7)
    rows = [json.loads(line) for line in (folder / "evaluation.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["category"] = "odd" if number % 2 else "even"
        row["messages"][0]["content"] += " quick brown" * number
    (folder / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "evaluation.jsonl"


@pytest.fixture(scope="module")
def questions(data: Path) -> list[Question]:
    """The same, read."""
    return read_questions(data)


def direct(pair: Pair, questions: list[Question]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """KL and both log probabilities of every answer token, in float64, one row at a time and no cleverness."""
    kls, ones, twos = [], [], []
    for question in questions:
        asked = ask(pair, question)
        logs = [
            pair.logits(side, asked.inputs)[0].double().log_softmax(-1)[asked.first - 1 : asked.last - 1]
            for side in ("original", "quantized")
        ]
        kls.append((logs[0].exp() * (logs[0] - logs[1])).sum(-1))
        at = torch.tensor(asked.ids)[:, None]
        ones.append(logs[0].gather(1, at)[:, 0])
        twos.append(logs[1].gather(1, at)[:, 0])
    return torch.cat(kls).numpy(), torch.cat(ones).numpy(), torch.cat(twos).numpy()


@pytest.mark.parametrize("name", ["fp8-kv8", "w4a16", "int8-dynamic", "int8-one-scale"])
def test_figures_equal_a_direct_computation(name: str, open_one: OpenPair, questions: list[Question]) -> None:
    pair = open_one(name)
    kl, one, two = direct(pair, questions)
    rows = measure(pair, questions)
    found = figures(rows)
    assert tuple(found) == KEYS
    assert found["tokens"] == len(kl)
    expected = {
        "kl_mean": kl.mean(), "kl_median": np.median(kl), "kl_p90": np.quantile(kl, 0.9), "kl_p99": np.quantile(kl, 0.99),
        "kl_max": kl.max(), "perplexity_original": math.exp(-one.mean()), "perplexity_quantized": math.exp(-two.mean()),
    }  # fmt: skip
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=2e-3, abs=1e-9), key
    assert figures(measure(pair, questions)) == found
    assert set(by_category(rows)) == {"even", "odd"} and by_category(rows)["even"]["rows"] == 4


def test_with_everything_off_nothing_differs(open_one: OpenPair, questions: list[Question]) -> None:
    pair = open_one("fp8-kv8")
    pair.switch(ALL_OFF)
    rows = measure(pair, questions)
    decode(pair, questions, rows)
    pair.switch(ALL_ON)
    found = figures(rows)
    assert found["kl_max"] == 0 and found["top1_agreement"] == 1
    assert found["perplexity_original"] == found["perplexity_quantized"]
    assert found["exact_match_original"] == found["exact_match_quantized"] == 0
    assert not any(row.flips for row in rows)


def test_an_answer_that_forcing_is_sure_of_is_not_decoded(open_one: OpenPair, questions: list[Question]) -> None:
    """A question whose expected answer is what the original says greedily counts as right without being generated."""
    pair = open_one("fp8-kv8")
    rows = measure(pair, questions)
    decode(pair, questions, rows)
    said = rows[0].answers["original"]
    assert set(rows[0].answers) == {"original", "quantized"} and said != questions[0].answer
    full = questions[0].full
    new = Question(
        questions[0].prompt, type(full)(full.where, (*full.messages[:-1], {"role": "assistant", "content": said})), said
    )
    asked = ask(pair, new)
    again = measure(pair, [new])
    best = apart(*(pair.logits(s, asked.inputs)[0, asked.first - 1 : asked.last - 1] for s in ("original", "quantized")),
                 torch.tensor(asked.ids))  # fmt: skip
    assert ("original" in again[0].answers) == bool((best.best_original == torch.tensor(asked.ids)).all())
    decode(pair, [new], again)
    assert again[0].answers["original"].strip() == said.strip() or len(asked.ids) > 48


def test_layer_errors_are_those_of_the_layer_alone(open_one: OpenPair, questions: list[Question]) -> None:
    pair = open_one("int8-static")
    asked = [ask(pair, question) for question in questions[:3]]
    rows = {row["name"]: row for row in layer_errors(pair, asked, lambda done, total: None)}
    assert len(rows) == 14
    site = pair.sites["model.layers.0.self_attn.q_proj"]
    model = pair.models["original"]
    signal = error = 0.0
    for one in asked:
        with torch.inference_mode():
            x = model.model.layers[0].input_layernorm(model.model.embed_tokens(one.inputs["input_ids"]))
            exact, rounded = model.model.layers[0].self_attn.q_proj(x), site.module(x)
        signal += float(exact.double().square().sum())
        error += float((exact - rounded).double().square().sum())
    assert rows[site.name]["sqnr_db"] == pytest.approx(10 * math.log10(signal / error), rel=1e-4)
    assert 0.9 < rows[site.name]["cosine"] < 1
    assert pair.logits("original", asked[0].inputs).shape[0] == 1  # no hook is left
    floor = noise_floor(pair, asked, lambda done, total: None)
    assert floor is not None and 0 < floor < 1e-2


def test_the_job_writes_figures_and_rows(open_one: OpenPair, data: Path, llama: Path, quantized, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    spec = CompareSpec(name="t", model=str(llama), quantized=str(quantized("fp8-kv8")), data=str(data), device=DEVICE)
    events = EventWriter(tmp_path / "events.jsonl")
    result = compare(spec, events, tmp_path)
    again = compare(spec, events, tmp_path)
    assert {key: result[key] for key in KEYS} == {key: again[key] for key in KEYS}
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 7 == result["rows"] and result["tokens"] == sum(row["tokens"] for row in rows)
    first = rows[0]["forced"]["tokens"][0]
    assert set(first) >= {"text", "kl", "original", "quantized", "top"} and len(first["top"]["original"]) == 5
    assert result["categories"]["odd"]["rows"] == 3 and len(result["layers"]) == 14
    assert EventReader(tmp_path / "events.jsonl").read()
