"""What is picked, kept in rail.json."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantui import devices
from quantui.ui import rail
from quantui.ui.rail import Rail
from quantui.workspace import Workspace
from tests.ui.conftest import write_calibration, write_model


def test_the_demo_is_picked_first(filled: Workspace) -> None:
    picked = rail.load(filled)
    assert Path(picked.model).name == "chat"
    assert Path(picked.calibration) == filled.calibration / "chat" / "calibration.yaml"
    assert Path(picked.recipe).stem == "fp8-w8a8-kv8"
    assert picked.run == ""


def test_an_npu_is_not_asked_for_float8_at_first(filled: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "davinci0").touch()
    monkeypatch.setattr(devices, "DEV", tmp_path)
    assert Path(rail.load(filled).recipe).stem == "int8-w8a8-static"


def test_what_is_picked_is_remembered(filled: Workspace) -> None:
    rail.remember(filled, model=str(filled.models / "vision"), run="20260101-000000-x")
    again = rail.load(Workspace(filled.root))
    assert Path(again.model).name == "vision"
    assert again.run == "20260101-000000-x"


@pytest.mark.parametrize("text", ["", "[]", "{not json", '{"model": "/gone", "recipe": 3}', "\x00"])
def test_a_broken_or_stale_file_falls_back_to_the_demo(filled: Workspace, text: str) -> None:
    (filled.root / "rail.json").write_text(text)
    assert Path(rail.load(filled).model).name == "chat"


def test_an_empty_workspace_has_nothing_but_recipes(workspace: Workspace) -> None:
    picked = rail.load(workspace)
    assert (picked.model, picked.calibration) == ("", "")
    assert picked.recipe
    assert rail.save(workspace, Rail()) is None


def test_results_are_no_models(filled: Workspace) -> None:
    write_model(filled.quantized / "chat-fp8")
    assert [name for name, _ in rail.models(filled)] == ["chat", "vision"]


def test_names_that_stand_twice_show_their_folder(filled: Workspace, tmp_path: Path) -> None:
    write_model(tmp_path / "more" / "chat")
    names = [name for name, _ in rail.models(Workspace(filled.root, (tmp_path / "more",)))]
    assert f"chat ({tmp_path / 'more'})" in names


def test_calibration_files_are_named_by_their_folder(filled: Workspace) -> None:
    (filled.calibration / "chat" / "long.yaml").write_text("sources: []")
    (filled.calibration / "own.yaml").write_text("sources: []")
    assert {name for name, _ in rail.calibrations(filled)} == {"chat/calibration", "chat/long", "own", "vision"}


def test_another_model_brings_its_own_calibration(filled: Workspace) -> None:
    chat, vision = (str(filled.calibration / name / "calibration.yaml") for name in ("chat", "vision"))
    assert rail.matching_calibration(filled, str(filled.models / "vision"), chat) == vision
    assert rail.matching_calibration(filled, str(filled.models / "vision"), "") == vision
    own = str(write_calibration(filled.calibration / "of-my-own"))
    assert rail.matching_calibration(filled, str(filled.models / "vision"), own) == own
    assert rail.matching_calibration(filled, "/elsewhere/other", chat) == chat


def test_output_names_are_new(filled: Workspace) -> None:
    model, recipe = str(filled.models / "chat"), "/recipes/fp8.yaml"
    assert rail.output_name(filled, model, recipe, set()) == "chat-fp8"
    (filled.quantized / "chat-fp8").mkdir()
    assert rail.output_name(filled, model, recipe, {str(filled.quantized / "chat-fp8-2")}) == "chat-fp8-3"
    assert rail.output_name(filled, "", "", set()) == "result"


def test_a_typed_path_is_offered_too() -> None:
    assert rail.with_value([("a", "/a")], "/b") == [("a", "/a"), ("/b", "/b")]
    assert rail.with_value([("a", "/a")], "/a") == [("a", "/a")]
