"""Folders, roots and atomic writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantui.errors import AccessError, OutputError
from quantui.workspace import (
    RECIPES,
    STAGING,
    Workspace,
    check_inside,
    default_root,
    free_bytes,
    staged_folder,
    sweep_staging,
    write_json,
)


def test_a_workspace_makes_its_folders(workspace: Workspace) -> None:
    assert {p.name for p in workspace.root.iterdir()} == {"models", "calibration", "recipes", "quantized", "runs"}


def test_a_workspace_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="--workspace"):
        Workspace(tmp_path / "file")


def test_the_default_is_the_variable_then_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUANTUI_WORKSPACE", raising=False)
    assert default_root() == tmp_path.resolve() / "workspace"
    monkeypatch.setenv("QUANTUI_WORKSPACE", str(tmp_path / "elsewhere"))
    assert default_root() == tmp_path.resolve() / "elsewhere"


def test_what_the_page_may_read_and_write(tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    extra.mkdir()
    workspace = Workspace(tmp_path / "w", (extra,))
    assert workspace.readable(workspace.models / "a") == workspace.models / "a"
    assert workspace.readable(extra / "m") == extra.resolve() / "m"
    assert workspace.readable(RECIPES / "a.yaml")
    assert workspace.writable(workspace.quantized / "new") == workspace.quantized / "new"
    with pytest.raises(AccessError, match="--allow"):
        workspace.writable(extra / "m")


@pytest.mark.parametrize("path", ["/etc/passwd", "models/../../secret", "../w-sibling/a", "link/a", "~"])
def test_paths_outside_the_roots_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    root = tmp_path / "w"
    (root / "models").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (root / "link").symlink_to(tmp_path / "secret")
    monkeypatch.chdir(root)
    with pytest.raises(AccessError) as caught:
        check_inside(path, (root.resolve(),))
    assert caught.value.where == path and str(root) in caught.value.todo


def test_with_no_roots_any_path_may_pass() -> None:
    assert check_inside("/etc/hosts", ()) == Path("/etc/hosts").resolve()


def test_models_are_found_two_levels_deep_but_not_half_written(tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    workspace = Workspace(tmp_path / "w", (extra,))
    hidden = workspace.quantized / f".z{STAGING}1-x"
    for folder in (workspace.models / "b", workspace.models / "a", workspace.quantized / "q", extra / "org" / "m", hidden):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    assert [p.name for p in workspace.model_folders()] == ["a", "b", "m", "q"]


def test_recipes_and_calibrations_are_listed(workspace: Workspace) -> None:
    (workspace.recipes / "mine.yaml").write_text("")
    (workspace.calibration / "chat").mkdir()
    (workspace.calibration / "chat" / "calibration.yaml").write_text("")
    assert workspace.recipe_files()[-1].name == "mine.yaml"
    assert [p.parent.name for p in workspace.calibration_files()] == ["chat"]


def test_the_demo_is_put_in_once(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantui.workspace.ASSETS", tmp_path / "assets")
    for name in ("chat", "chat-data"):
        (tmp_path / "assets" / "demo" / name).mkdir(parents=True)
        (tmp_path / "assets" / "demo" / name / "file").write_text(name)
    workspace.add_demo()
    assert (workspace.models / "chat" / "file").read_text() == "chat"
    assert (workspace.calibration / "chat" / "file").read_text() == "chat-data"
    (workspace.models / "chat" / "file").write_text("edited")
    workspace.add_demo()
    assert (workspace.models / "chat" / "file").read_text() == "edited"


def test_a_staged_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with staged_folder(target) as staging:
        (staging / "a").write_text("a")
        assert not target.exists()
    assert (target / "a").read_text() == "a"
    assert [p.name for p in target.parent.iterdir()] == ["out"]
    assert target.stat().st_mode & 0o777 == 0o755


def test_a_staged_folder_vanishes_on_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staged_folder(tmp_path / "out") as staging:
        (staging / "a").write_text("a")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_exists_or_appears_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(OutputError, match="meanwhile"), staged_folder(target) as staging:
        (staging / "mine").write_text("")
        target.mkdir()
        (target / "theirs").write_text("")
    assert [p.name for p in target.iterdir()] == ["theirs"] and [p.name for p in tmp_path.iterdir()] == ["out"]
    with pytest.raises(OutputError, match="exists already"), staged_folder(target):
        pass


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose a place you can write to"), staged_folder(tmp_path / "file" / "out"):
        pass


def test_only_what_the_dead_left_is_swept(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # ended, but not reaped
    names = {pid: f".out{STAGING}{pid}-abc" for pid in (gone.pid, zombie.pid, os.getpid())}
    for name in (*names.values(), f".other{STAGING}{gone.pid}-abc"):
        (tmp_path / name).mkdir()
    sweep_staging(tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {names[os.getpid()], f".other{STAGING}{gone.pid}-abc"}
    zombie.wait()


def test_leftovers_of_a_name_with_brackets_are_swept(tmp_path: Path) -> None:
    left = tmp_path / f".model[1]{STAGING}999999999-abc"
    left.mkdir()
    sweep_staging(tmp_path / "model[1]")
    assert not left.exists()


def test_json_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": "模型"})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": "模型"} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_free_space_is_told_for_a_folder_to_come(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") > 0
