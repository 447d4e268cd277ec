"""Datasets of the hub: fetched once, refused at once where there is no network."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from quantui.calibration import hub
from quantui.calibration.presets import PRESETS
from quantui.calibration.schema import Calibration, Source, loads
from quantui.calibration.sources import read_samples
from quantui.errors import CalibrationError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache."""
    monkeypatch.setenv("QUANTUI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub that answers with these rows; counts what it is asked."""
    state: dict[str, Any] = {"rows": [], "asked": []}

    def stream(wanted: hub.Wanted) -> Iterator[dict[str, Any]]:
        state["asked"].append(wanted)
        yield from state["rows"][wanted.start : wanted.stop]

    monkeypatch.setattr(hub, "stream", stream)
    monkeypatch.setattr(hub, "check_online", lambda wanted: "c0ffee")
    return state


def texts(**choices: Any) -> list[str | None]:
    """The texts of a hub source."""
    source = Source.model_validate({"kind": "hub"} | choices)
    return [sample.text for sample in read_samples(Calibration(sources=(source,), shuffle=False, samples=1000))]


def test_rows_are_fetched_once(served: dict[str, Any]) -> None:
    served["rows"] = [{"text": f"row {i}", "other": i} for i in range(20)]
    assert texts(id="a/b", split="train[2:5]") == ["row 2", "row 3", "row 4"]
    assert texts(id="a/b", split="train[2:5]") == ["row 2", "row 3", "row 4"]
    assert len(served["asked"]) == 1 and served["asked"][0].split == "train"
    assert len(texts(id="a/b")) == 20 and served["asked"][1].stop == hub.ROWS
    assert len(texts(id="a/b", streaming=False)) == 20 and served["asked"][2].stop is None


def test_columns_are_mapped_and_a_missing_one_is_named(served: dict[str, Any]) -> None:
    served["rows"] = [{"body": "a", "n": 1}]
    assert texts(id="a/b", columns={"text": "body"}) == ["a"] and texts(id="a/b", key="body") == ["a"]
    with pytest.raises(CalibrationError, match="there is no column nix; there are body, n"):
        texts(id="a/b", columns={"text": "nix"})
    with pytest.raises(CalibrationError, match="the slice holds no rows"):
        texts(id="a/b", split="train[5:6]")


def test_pictures_and_empty_texts(served: dict[str, Any]) -> None:
    body = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(body, "PNG")
    served["rows"] = [{"image": {"bytes": body.getvalue(), "path": None}, "caption": ["a dog", "a hound"], "x": 1}]
    calibration = loads("sources: [{kind: hub, preset: flickr30k}]", where="c", base=Path("/"))
    assert (calibration.samples, calibration.max_tokens, calibration.has_images) == (512, 2048, True)
    (sample,) = read_samples(calibration)
    assert isinstance(sample.image, Path) and sample.image.is_file()
    assert [m["content"] for m in sample.messages] == ["What does the image show?", "a dog a hound"]
    served["rows"] = [{"text": ""}, {"text": " = Title = \n"}, {"text": ""}]
    assert texts(preset="wikitext2") == [" = Title = \n"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_complete(served: dict[str, Any], name: str) -> None:
    wanted = hub.wanted_of(Source(kind="hub", preset=name, split="[:256]"))
    assert wanted.id.count("/") == 1 and wanted.split == PRESETS[name].split and wanted.stop == 256 and wanted.columns


def test_offline_is_told_at_once_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CalibrationError, match="HF_HUB_OFFLINE is set") as caught:
        texts(id="a/b")
    assert "save_to_disk" in caught.value.todo and caught.value.where == "a/b"
    assert not hub.folder().exists()


def answer(monkeypatch: pytest.MonkeyPatch, say: Any) -> None:
    """Lets the hub's API say this."""
    import huggingface_hub

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)

    def dataset_info(self: Any, *_: Any, timeout: float, **__: Any) -> Any:
        assert timeout <= 5
        if isinstance(say, Exception):
            raise say
        return say

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)


def test_a_network_that_fails_or_a_dataset_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, TimeoutError("too slow"))
    with pytest.raises(CalibrationError, match=r"the hub cannot be reached \(TimeoutError\)"):
        texts(id="a/b")
    scripted = SimpleNamespace(sha="1", siblings=[SimpleNamespace(rfilename="b.py"), SimpleNamespace(rfilename="x.zip")])
    answer(monkeypatch, scripted)
    with pytest.raises(CalibrationError, match=r"carries a loading script, b\.py"):
        texts(id="a/b")
    answer(monkeypatch, SimpleNamespace(sha="1", siblings=[]))
    monkeypatch.setattr(hub, "stream", lambda wanted: (_ for _ in ()).throw(ValueError("no\nsuch split")))
    with pytest.raises(CalibrationError, match=r"the rows could not be fetched \(no such split\)"):
        texts(id="a/b")


@pytest.mark.parametrize(
    ("choices", "what"),
    [
        ({}, "needs either id or preset"),
        ({"id": "a/b", "preset": "c4"}, "needs either id or preset"),
        ({"preset": "x"}, "no preset x"),
    ],
)
def test_a_hub_source_names_one_dataset(choices: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Source.model_validate({"kind": "hub"} | choices)


def test_slices_of_the_hub_count_from_the_front() -> None:
    for split in ("train[10%:]", "train[-5:]"):
        with pytest.raises(CalibrationError, match="counts rows from the front"):
            hub.wanted_of(Source(kind="hub", id="a/b", split=split))
