"""The parts of the job that need no engine run: checks, saving, bars and log lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quantui.errors import ResultError
from quantui.events import Event, EventReader, EventWriter, Progress
from quantui.quantize.save import copy_sidecars, write_both_ignores
from quantui.stages import Stages


def events_of(path: Path) -> list[Event]:
    """The events of a file without their stamps."""
    return [stamped.event for stamped in EventReader(path).read()]


@pytest.mark.engine
def test_scales_must_be_finite_and_positive() -> None:
    """One bad scale of each kind is named with its layer; good ones are counted."""
    import torch

    from quantui.quantize.check import check_scales

    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(3)))
    for module in model:
        module.quantization_scheme = object()
        module.register_parameter("weight_scale", torch.nn.Parameter(torch.ones(2)))
    assert check_scales(model) == 3
    for bad, word in ((float("nan"), "never calibrated"), (float("inf"), "not finite"), (0.0, "positive"), (-1.0, "positive")):
        model[1].weight_scale.data[1] = bad
        with pytest.raises(ResultError, match=word) as caught:
            check_scales(model)
        assert "1.weight_scale" in str(caught.value)


@pytest.mark.engine
def test_layers_must_be_those_of_the_forecast() -> None:
    """One layer too many or too few is named."""
    import torch

    from quantui.quantize.check import check_layers

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].quantization_scheme = object()
    check_layers(model, ["0"], [])
    for expected in ([], ["0", "1"]):
        with pytest.raises(ResultError, match="they differ in"):
            check_layers(model, expected, [])


@pytest.mark.engine
def test_reopened_logits_must_agree() -> None:
    """Small differences pass and are reported; large ones and NaN do not."""
    import torch

    from quantui.quantize.run import compare_logits

    expected = torch.linspace(-10, 10, 50).reshape(1, 5, 10)
    assert compare_logits(expected, expected + 0.05) == pytest.approx(0.05, abs=1e-5)
    for found in (expected + 0.5, expected * float("nan")):
        with pytest.raises(ResultError, match="gives other logits"):
            compare_logits(expected, found)


def test_ignore_is_written_in_both_forms(tmp_path: Path) -> None:
    """Checkpoint names stay, module names are added once."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"quantization_config": {"ignore": ["vision_tower.a", "lm_head"]}}))
    write_both_ignores(config, ["model.vision_tower.a", "lm_head"])
    ignore = json.loads(config.read_text())["quantization_config"]["ignore"]
    assert ignore == ["vision_tower.a", "lm_head", "model.vision_tower.a"]


def test_sidecars_are_taken_along(tmp_path: Path) -> None:
    """All but weights, the old config and what the target has already."""
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    target.mkdir()
    for name in (
        "LICENSE",
        "tokenizer.model",
        "modeling_x.py",
        "config.json",
        "recipe.yaml",
        "w.safetensors",
        ".git",
        "chat.jinja",
    ):
        (source / name).write_text("old")
    (target / "chat.jinja").write_text("new")
    copy_sidecars(source, target)
    assert {file.name for file in target.iterdir()} == {"LICENSE", "tokenizer.model", "modeling_x.py", "chat.jinja"}
    assert (target / "chat.jinja").read_text() == "new"


@pytest.mark.engine
def test_bars_become_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer i of N with sample j of M; other known bars count for the running stage; unknown ones are not shown."""
    from tqdm.auto import tqdm as bar
    from tqdm.std import tqdm

    from quantui.quantize.listen import listen_to_bars

    for name in ("__init__", "display"):
        monkeypatch.setattr(tqdm, name, getattr(tqdm, name))
    events = EventWriter(tmp_path / "e")
    stages = Stages(events)
    stages.current = "quantize"
    listen_to_bars(events, stages)
    for _ in bar(range(4), desc="(2/3): Calibrating"):
        pass
    for _ in bar(range(2), desc="Something else"):
        pass
    stages.current = "save"
    for _ in bar(range(5), desc="Compressing model"):
        pass
    found = events_of(tmp_path / "e")
    assert found[0] == Progress("quantize", 1, 3, "layers", 0, 4, "samples")
    last = [event for event in found if isinstance(event, Progress) and event.stage == "quantize"][-1]
    assert (last.done, last.total, last.part_done, last.part_total) == (1, 3, 4, 4)
    assert {event.stage for event in found if isinstance(event, Progress)} == {"quantize", "save"}


def test_stage_that_fails_is_not_finished(tmp_path: Path) -> None:
    """A stage that raises has a beginning and no end."""
    stages = Stages(EventWriter(tmp_path / "e"))
    with stages("load"):
        stages.told(1, 4, "questions")
    with pytest.raises(KeyError), stages("save"):
        raise KeyError
    assert [(event.stage, event.done, event.total) for event in events_of(tmp_path / "e") if isinstance(event, Progress)] == [
        ("load", 0, 0),
        ("load", 1, 4),
        ("load", 1, 1),
        ("save", 0, 0),
    ]
    assert set(stages.seconds) == {"load"}
