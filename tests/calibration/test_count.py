"""Tokens told before a job are those it then counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quantui.calibration import count, schema
from quantui.calibration.count import count_tokens
from quantui.calibration.preview import open_seer
from quantui.calibration.sources import read_samples
from quantui.calibration.survey import survey
from quantui.checkpoint.files import open_checkpoint
from quantui.errors import CalibrationError
from quantui.workspace import ASSETS

DEMO = ASSETS / "demo"


def counted(model: str, **changed: Any) -> tuple[count.Count, int]:
    """The count and what the calibration tab shows."""
    calibration = schema.load(DEMO / f"{model}-data" / "calibration.yaml").model_copy(update=changed)
    samples = read_samples(calibration)
    template = {"plain": ""}.get(str(calibration.template), calibration.template)
    shown = survey(open_seer(DEMO / model, template), samples, calibration).total_tokens
    return count_tokens(open_checkpoint(DEMO / model), samples, calibration), shown


@pytest.mark.parametrize("model", ["chat", "vision"])
def test_a_small_set_is_counted_as_the_calibration_tab_does(model: str) -> None:
    made, shown = counted(model)
    assert made == (shown, True)


def test_a_template_of_the_file_and_its_cut_count() -> None:
    whole, plain, short = counted("chat"), counted("chat", template="plain"), counted("chat", max_tokens=20)
    assert plain[0] == (plain[1], True) and short[0] == (short[1], True)
    assert len({whole[1], plain[1], short[1]}) == 3


def test_of_a_large_set_the_first_samples_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "CHARACTERS", 4000)
    made, shown = counted("chat")
    assert not made.exact and made.tokens == pytest.approx(shown, rel=0.2)


def test_what_the_template_refuses_is_refused_before_the_job(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    (tmp_path / "set.yaml").write_text(
        "sources: [{kind: jsonl, path: rows.jsonl}]\ntemplate: \"{{ raise_exception('no system prompt') }}\"\n"
    )
    calibration = schema.load(tmp_path / "set.yaml")
    with pytest.raises(CalibrationError, match="no system prompt"):
        count_tokens(open_checkpoint(DEMO / "chat"), read_samples(calibration), calibration)
