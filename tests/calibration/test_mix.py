"""Sources in shares, languages in shares, each sample once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.calibration.languages import language_of, language_shares, script_counts
from quantui.calibration.mix import interleaved, parts
from quantui.calibration.schema import Calibration, Source, loads
from quantui.calibration.sources import choose_samples, read_samples
from quantui.errors import CalibrationError

WEIGHTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)


@given(weights=WEIGHTS, count=st.integers(1, 500))
def test_parts_are_the_shares_within_one(weights: list[float], count: int) -> None:
    found = parts(weights, count)
    assert sum(found) == count
    assert all(abs(part - weight * count / sum(weights)) < 1 for part, weight in zip(found, weights, strict=True))


@given(quotas=st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(any))
def test_places_are_spread_evenly(quotas: list[int]) -> None:
    places = interleaved(quotas)
    assert Counter(places) == {i: quota for i, quota in enumerate(quotas) if quota}
    for end in range(len(places)):
        had = Counter(places[:end])
        assert all(abs(had[i] - quota * end / len(places)) <= len(quotas) for i, quota in enumerate(quotas))


def four(folder: Path) -> Calibration:
    """Files as msModelSlim mixes them, of different sizes, with weights."""
    kinds: dict[str, Any] = {
        "boolq": [{"title": f"t{i}", "question": f"is it {i}", "passage": "so it is", "answer": i % 2 == 0} for i in range(60)],
        "gsm8k": [{"question": f"What is {i} and {i}?", "answer": f"It is {2 * i}\n#### {2 * i}"} for i in range(80)],
    }
    for kind, rows in kinds.items():
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kind, held in (("ceval", "val"), ("mmlu", "test")):
        (folder / kind / "dev").mkdir(parents=True)
        (folder / kind / held).mkdir()
        names = "id,question,A,B,C,D,answer\n" if kind == "ceval" else ""
        for part, count in (("dev", 5), (held, 40)):
            rows = "".join(f"{f'{i},' if kind == 'ceval' else ''}{part} {i}?,1,2,3,4,B\n" for i in range(count))
            (folder / kind / part / f"law_{part}.csv").write_text(names + rows)
        subjects = {"law": ["Law", "法律", "Social"]} if kind == "ceval" else {"mmlu_all_sets": ["law"]}
        (folder / kind / "subject_mapping.json").write_text(json.dumps(subjects))
    (folder / "mix.yaml").write_text(
        "samples: 50\nsources:\n"
        "  - {kind: boolq, path: boolq.jsonl, weight: 4}\n  - {kind: gsm8k, path: gsm8k.jsonl, weight: 3}\n"
        "  - {kind: ceval, path: ceval, weight: 2}\n  - {kind: mmlu, path: mmlu, weight: 1.5}\n"
    )
    return loads((folder / "mix.yaml").read_text(), where="mix.yaml", base=folder)


def test_four_sources_come_in_the_shares_asked_for(tmp_path: Path) -> None:
    calibration = four(tmp_path)
    chosen = choose_samples(calibration)
    counts = Counter(sample.source for sample in chosen.samples)
    assert len(chosen.samples) == 50 and not chosen.notes
    for source, weight in enumerate((4, 3, 2, 1.5)):
        assert abs(counts[source] - 50 * weight / 10.5) <= 1
    assert read_samples(calibration) == chosen.samples
    assert choose_samples(calibration, limit=12).samples == chosen.samples[:12]
    assert read_samples(calibration.model_copy(update={"seed": 1})) != chosen.samples


def test_benchmark_questions_are_chats_with_their_answers(tmp_path: Path) -> None:
    samples = {sample.source: sample for sample in read_samples(four(tmp_path).model_copy(update={"shuffle": False}))}
    asked = {source: [m["content"] for m in sample.messages] for source, sample in samples.items()}
    assert asked[0][0].startswith("t") and "Question: is it" in asked[0][0] and asked[0][1] in ("yes", "no")
    assert asked[1][1].rpartition("#### ")[2].isdigit()
    assert asked[2][0].startswith("以下是中国关于法律考试") and asked[2][0].count("Answer: B") == 5
    assert asked[3][0].startswith("The following are multiple choice questions (with answers) about law.")
    assert asked[3][0].count("Answer: B") == 5 and asked[3][0].endswith("Answer:") and asked[3][1] == "B"


def test_benchmarks_of_another_form_are_refused(tmp_path: Path) -> None:
    four(tmp_path)
    cases: list[tuple[str, str, str]] = [
        ("boolq", "gsm8k.jsonl", "there is no column passage as boolq has it; there are question, answer"),
        ("ceval", "boolq.jsonl", "ceval is a folder"),
        ("ceval", "mmlu", "there is no column question; there are dev 0"),
        ("mmlu", "boolq.jsonl", "mmlu is a folder"),
    ]
    for kind, path, what in cases:
        source = Source.model_validate({"kind": kind, "path": tmp_path / path})
        with pytest.raises(CalibrationError, match=what.replace("(", r"\(")):
            read_samples(Calibration(sources=(source,)))
    (tmp_path / "ceval" / "val" / "law_val.csv").write_text("id,question,A,B,C\n1,2,3,4,5\n")
    with pytest.raises(CalibrationError, match="there is no column D; there are id, question"):
        read_samples(Calibration(sources=(Source(kind="ceval", path=tmp_path / "ceval"),)))


def texts(folder: Path, name: str, *rows: str, **choices: Any) -> Source:
    """A source of plain texts."""
    (folder / name).write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return Source(kind="jsonl", path=folder / name, **choices)


def test_equal_samples_are_used_once_and_what_is_missing_is_noted(tmp_path: Path) -> None:
    one = texts(tmp_path, "a.jsonl", *["same"] * 5, "a", weight=1)
    two = texts(tmp_path, "b.jsonl", "same", *[f"b{i}" for i in range(20)], weight=1)
    chosen = choose_samples(Calibration(sources=(one, two), samples=10))
    found = [sample.text for sample in chosen.samples]
    assert len(found) == len(set(found)) == 10
    assert "source 1 has only" in chosen.notes[0]
    plain = Calibration(sources=(one.model_copy(update={"weight": None}),))
    assert len(read_samples(plain)) == 6
    assert len(read_samples(plain.model_copy(update={"dedupe": True}))) == 2


def test_languages_come_in_the_shares_asked_for(tmp_path: Path) -> None:
    english = [f"This is the sentence number {i} of them." for i in range(300)]
    chinese = [f"这是第{i}句话，用中文写的。" for i in range(60)]
    code = [f"def f{i}(x):\n    y = x + {i}\n    return y\n" for i in range(60)]
    source = texts(tmp_path, "a.jsonl", *english, *chinese, *code)
    chosen = choose_samples(Calibration(sources=(source,), samples=40, languages={"en": 1, "zh": 2, "code": 1}))
    assert Counter(language_of(sample.plain) for sample in chosen.samples) == {"en": 10, "zh": 20, "code": 10}
    short = choose_samples(Calibration(sources=(source,), samples=200, languages={"zh": 1, "en": 1}))
    assert len(short.samples) == 200 and "only 60 samples are Chinese; 100 were asked for" in short.notes


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How much is 23 + 16?", "en"), ("Say these words backwards: fish glass queen", "en"), ("13加24等于多少?", "zh"),
        ("请解释 transformer 模型的工作原理", "zh"), ("import os\nprint(os.getcwd())\n", "code"), ("42", "other"),
        ("int main() {\n  return 0;\n}", "code"), ("Der Hund ist nicht auf dem Dach", "other"), ("これはペンです", "other"),
        ("Привет, как дела", "other"), ("", "other"),
    ],
)  # fmt: skip
def test_languages_are_told_apart(text: str, language: str) -> None:
    assert language_of(text) == language


def test_scripts_and_shares() -> None:
    assert script_counts("ab 狐狸 я 1!") == {"Latin": 2, "Han": 2, "Cyrillic": 1}
    assert language_shares(["the fox", "狐狸", "the hen", "你好"]) == {"en": 0.5, "zh": 0.5}
    assert script_counts("\ud800") == {}


@given(text=st.text(max_size=30))
def test_any_text_has_a_language(text: str) -> None:
    assert language_of(text) in ("en", "zh", "code", "other")
