"""In which order a browser for the end-to-end tests is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import browser


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any browser; the folder is its PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("QUANTUI_CHROME", raising=False)
    monkeypatch.setattr(browser, "_downloaded", lambda: None)
    return tmp_path


def put(folder: Path, name: str, says: str, code: int = 0) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    path.chmod(0o755)
    return path


def test_the_variable_comes_first(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bare, "chromium", "Chromium 156")
    chosen = put(bare, "mine", "Google Chrome 156")
    monkeypatch.setenv("QUANTUI_CHROME", str(chosen))
    assert browser.ensure() == chosen
    monkeypatch.setenv("QUANTUI_CHROME", str(bare / "gone"))
    with pytest.raises(RuntimeError, match="QUANTUI_CHROME names"):
        browser.ensure()


def test_an_installed_one_is_taken_unless_it_is_a_stub(bare: Path) -> None:
    put(bare, "chromium-browser", "install the snap", code=1)
    put(bare, "chromium", "install the snap")
    chrome = put(bare, "google-chrome", "Google Chrome 156.0")
    assert browser.ensure() == chrome


def test_then_the_package_then_the_download(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def install(*command: str) -> bool:
        asked.append(" ".join(command[:2]))
        if asked.count("apt-get install") == 2:
            put(bare, "chromium", "Chromium 156")
        return len(asked) != 1

    monkeypatch.setattr(browser, "_succeeds", install)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(RuntimeError, match="install Chromium or point QUANTUI_CHROME"):
        browser.ensure()
    assert len(asked) == 1 and asked[0].endswith(" -m")  # only Playwright's download, without rights to install
    asked.clear()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    put(bare, "apt-get", "")
    assert browser.ensure() == bare / "chromium"
    assert asked == ["apt-get install", "apt-get update", "apt-get install"]
