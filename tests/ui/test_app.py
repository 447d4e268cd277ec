"""The page as a whole: how it is built, where it may be served, and what it loads."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from quantui.errors import InputError
from quantui.jobs.store import JobStore
from quantui.ui import app
from quantui.workspace import ASSETS, Workspace
from tests.test_layers import HEAVY
from tests.ui.conftest import fill

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> gr.Blocks:
    filled = fill(Workspace(tmp_path_factory.mktemp("page")))
    return app.build(filled, JobStore(filled.runs))


def test_every_language_has_the_same_page(page: gr.Blocks) -> None:
    pages: dict[str, Any] = page.get_config_file()["page"]
    assert set(pages) == {"", "zh-CN"}
    assert len(pages[""]["components"]) == len(pages["zh-CN"]["components"]) > 20
    assert len(pages[""]["dependencies"]) == len(pages["zh-CN"]["dependencies"]) > 8


def test_no_handler_is_a_public_endpoint(page: gr.Blocks) -> None:
    assert {d["api_visibility"] for d in page.get_config_file()["dependencies"]} == {"private"}
    assert not page.analytics_enabled


def test_nothing_comes_from_another_host(page: gr.Blocks) -> None:
    options = app.launch_options("127.0.0.1", 7860, None, False)
    assert options["theme"]._stylesheets == []
    for file in [*ASSETS.glob("*.js"), *ASSETS.glob("*.css"), *ASSETS.glob("*.svg")]:
        hosts = set(re.findall(r"https?://([\w.]+)", file.read_text(encoding="utf-8")))
        assert hosts <= {"www.w3.org"}, file.name
    assert options["allowed_paths"] == []
    assert options["share"] is False and options["footer_links"] == []
    json.dumps(page.get_config_file()["components"], default=str)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "example.org"])
def test_other_hosts_need_a_password(host: str) -> None:
    with pytest.raises(InputError, match="--auth USER:PASSWORD"):
        app.check_address(host, 0, None)


@pytest.mark.parametrize("auth", ["", "me", ":secret", "me:"])
def test_malformed_passwords(auth: str) -> None:
    with pytest.raises(InputError, match="USER:PASSWORD"):
        app.check_address("127.0.0.1", 0, auth)


def test_addresses_that_work() -> None:
    assert app.check_address("127.0.0.1", 0, None) is None
    assert app.check_address("0.0.0.0", 0, "me:se:cret") == ("me", "se:cret")


def test_a_taken_port_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="--port"):
            app.check_address("127.0.0.1", taken.getsockname()[1], None)


def test_the_command_says_it_in_one_sentence_and_does_not_load_the_engine(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "app.py", "--host", "0.0.0.0", "--no-open"]
    command += ["--workspace", str(tmp_path / "w")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert len(said) == 1 and "--auth USER:PASSWORD" in said[0]
    assert not (tmp_path / "w").exists()
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"quantui.ui.app", "gradio"} <= imported
    assert not {name.partition(".")[0] for name in imported} & set(HEAVY)
