"""What jobs are forked from, with all that it imports."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from quantui import cli
from quantui.jobs import launch, tail
from quantui.jobs.spare import Spare
from tests.checkpoint.convert import sources
from tests.checkpoint.convert.test_run import agrees

pytestmark = pytest.mark.engine


def test_what_is_imported_ahead_leaves_no_thread(spare: Spare) -> None:
    """A fork has no threads but its own: one of torch's that was there before would be waited for without end."""
    names = [file.read_text().strip() for file in Path(f"/proc/{spare.pid}/task").glob("*/comm")]
    assert len([name for name in names if name != "jemalloc_bg_thd"]) == 1  # that of pyarrow's memory


def test_a_spare_whose_forks_cannot_use_an_accelerator_serves_the_processor_only() -> None:
    import torch

    code = "import sys; from quantui import forkserver; sys.exit(forkserver.main(sys.argv[1:], slow=('torch',)))"
    spare = Spare("cuda:0", (sys.executable, "-c", code))  # which this machine has not, or may have
    try:
        end = time.monotonic() + 60
        while not spare.is_ready():
            assert spare.is_alive and time.monotonic() < end
            time.sleep(0.01)
        assert spare.is_ready("cuda:0") == torch.cuda.is_available()
    finally:
        spare.end()


def test_a_conversion_from_the_command_line(
    tmp_path: Path, spare: Spare, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """tests/test_cli.py starts both processes as a person does."""
    name, target = "internvl-qwen2-github", tmp_path / "new" / "made"
    line = ["convert", str(sources.UPSTREAM / name), str(target), "--image-token-id", "299"]
    line += ["--workspace", str(tmp_path / "workspace"), "--json"]
    monkeypatch.setattr(tail, "dispatch", lambda store, command: launch.dispatch(store, command, spare))
    with pytest.raises(SystemExit) as done:
        cli.main(line)
    said = capsys.readouterr()
    assert not done.value.code, said.err
    result = json.loads(said.out)
    assert result["out"] == str(target) and result["logit_difference"] < 5e-6
    assert agrees(name, target) < 5e-6
    with pytest.raises(SystemExit) as again:
        cli.main(line)
    said = capsys.readouterr()
    assert again.value.code == 2 and "exists already" in said.err and "Traceback" not in said.err
    assert json.loads(said.out)["exit_code"] == 2
