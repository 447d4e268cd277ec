"""The sensitivity job end to end on tiny models: tables, reuse, measuring, and what cannot be differentiated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantui.cli_sensitivity import reused
from quantui.errors import CheckpointError, DeviceError, InputError, RecipeError
from quantui.events import EventReader, EventWriter, Log
from quantui.jobs.preflight_sensitivity import prepare_sensitivity, seconds_of
from quantui.recipe import edit, llmcompressor
from quantui.recipe.schema import QuantArgs
from quantui.recipe.words import FLOAT
from quantui.sensitivity.reuse import same_inputs
from quantui.sensitivity.scores import Scores, load_scores
from quantui.spec import SensitivitySpec
from tests.device import DEVICE
from tests.models.tiny import save_internvl, save_llama, write_chats, write_pictures
from tests.sensitivity.tables import RECIPE

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny Llama and its chats."""
    folder = tmp_path_factory.mktemp("inputs")
    return {
        "model": str(save_llama(folder / "llama")),
        "calibration": str(write_chats(folder / "chats")),
        "recipe": str(RECIPE),
    }


def run(spec: SensitivitySpec, folder: Path) -> dict[str, Any]:
    """The job, in this process."""
    from quantui.sensitivity.run import score

    folder.mkdir()
    writer = EventWriter(folder / "events.jsonl")
    result = score(spec, writer, folder)
    writer.close()
    json.dumps(result)
    return result


def check_equal(streamed: Scores, loaded: Scores) -> None:
    """Two tables say the same: to the last bit where both ways go through the same kernels."""
    if DEVICE == "cpu":
        assert (streamed.rows, streamed.extra) == (loaded.rows, loaded.extra)
    assert [row.kl for row in streamed.rows] == pytest.approx([row.kl for row in loaded.rows], rel=0.05, abs=1e-6)


@pytest.mark.parametrize("method", ("fisher", "path", "exact", "local"))
def test_a_job_writes_a_table(method: str, inputs: dict[str, str], tmp_path: Path) -> None:
    spec = prepare_sensitivity(None, **inputs, out=str(tmp_path / "out"), method=method, schemes=["recipe", "FP8_DYNAMIC"])
    result = run(spec, tmp_path / "run")
    scores = load_scores(tmp_path / "out")
    assert result["method"] == scores.method == method
    assert len(scores.names) == result["layers"] == 14
    assert scores.names[:4] == tuple(f"model.layers.0.self_attn.{part}_proj" for part in "qkvo")
    assert len(scores.rows) == 14 * 3
    assert all(row.kl >= -1e-6 for row in scores.rows if method != "path")
    body = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert set(body["layers"][0]) == {"name", "group", "scheme", "kl", "stderr", "bytes"}
    assert (body["method"], body["samples"]) == (method, 6)
    assert seconds_of(spec) > 1
    if method == "local":
        streamed = spec.model_copy(update={"stream": True, "out": str(tmp_path / "streamed")})
        run(streamed, tmp_path / "run2")
        again = load_scores(tmp_path / "streamed")
        check_equal(again, scores)
        wanted = {name: scores.meta["inputs"][name] for name in again.meta["inputs"]}
        assert again.meta["inputs"] == wanted or DEVICE != "cpu"
        assert set(scores.extra[scores.names[0]]) == {"std", "std_halved", "quantile", "kurtosis", "level"}


@pytest.mark.skipif(DEVICE == "cpu", reason="needs an accelerator")
def test_a_model_larger_than_the_device_is_scored_layer_by_layer(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from quantui.devices import torch_device

    module = torch.get_device_module(torch_device(DEVICE))
    monkeypatch.setattr(module, "mem_get_info", lambda _device: (10_000, 1 << 34))
    for method in ("local", "fisher"):
        spec = prepare_sensitivity(None, **inputs, out=str(tmp_path / method), method=method)
        result = run(spec, tmp_path / f"run-{method}")
        assert (result["method"], result["asked"], result["layers"]) == ("local", method, 14)
        assert any("without gradients" in note for note in result["notes"]) == (method == "fisher")
    spec = prepare_sensitivity(None, **inputs, out=str(tmp_path / "exact"), method="exact")
    with pytest.raises(DeviceError, match=r"and only 10.0 kB of the device are free.*the method local"):
        run(spec, tmp_path / "run-exact")


def test_keys_and_values_of_each_layer_have_their_own_rows(inputs: dict[str, str], tmp_path: Path) -> None:
    keys = QuantArgs(strategy="attn_head", symmetric=False)
    recipe = llmcompressor.load(RECIPE).model_copy(update={"kv_cache": keys, "value_cache": QuantArgs(num_bits=4)})
    path = tmp_path / "recipe.yaml"
    path.write_text(llmcompressor.dumps(recipe))
    given = inputs | {"recipe": str(path)}
    run(prepare_sensitivity(None, **given, out=str(tmp_path / "out"), schemes=["recipe"], draws=1), tmp_path / "run")
    rows = load_scores(tmp_path / "out").caches
    assert [row.group for row in rows] == [f"model.layers.{layer}.self_attn.{role}_cache" for layer in (0, 1) for role in "kv"]
    asked: dict[str, Any] = {"method": "fisher", "schemes": ["recipe"], "draws": 1}
    assert same_inputs(load_scores(tmp_path / "out"), **given, **asked)
    plain = recipe.model_copy(update={"kv_cache": None, "value_cache": None})
    path.write_text(llmcompressor.dumps(plain))
    assert not same_inputs(
        load_scores(tmp_path / "out"), **given, **asked
    )  # their scores of keys and values mean another cache
    assert [row.scheme for row in rows] == ["int8 per head static asymmetric", "int4 per tensor static"] * 2
    assert all(row.kl > 0 for row in rows)
    assert rows[1].kl > rows[0].kl  # four bits for values


def test_the_same_scores_are_not_made_twice(inputs: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(prepare_sensitivity(None, **inputs, out=str(out), schemes=["recipe"], draws=1), tmp_path / "run")
    files = (inputs["model"], inputs["calibration"])
    assert reused(out, *files, str(RECIPE), "fisher", ["recipe"], 1) is not None
    assert reused(out, *files, str(RECIPE), "exact", ["recipe"], 1) is None
    assert reused(out, *files, str(RECIPE), "fisher", ["recipe"], 2) is None
    other = tmp_path / "other.yaml"
    other.write_text(llmcompressor.dumps(edit.set_value(llmcompressor.load(RECIPE), "ignore", ["re:.*o_proj"])))
    assert reused(out, *files, str(other), "fisher", ["recipe"], 1) is None


def test_a_choice_is_measured(inputs: dict[str, str], tmp_path: Path) -> None:
    layer = "model.layers.1.mlp.down_proj"
    recipe = edit.give_scheme(edit.fall_back(llmcompressor.load(RECIPE), [layer]), ["model.layers.0.mlp.up_proj"], "W8A16")
    text = llmcompressor.dumps(recipe).replace("group_size: 128", "group_size: 32")
    spec = prepare_sensitivity(
        None, **inputs | {"recipe": "edited"}, recipe_text=text, out=str(tmp_path / "out"), method="measure"
    )
    result = run(spec, tmp_path / "run")
    assert result["kl"] > 0 and result["choice"][layer] == FLOAT
    everything = edit.fall_back(llmcompressor.load(RECIPE), list(result["choice"])[:-1])
    spec = prepare_sensitivity(
        None,
        **inputs | {"recipe": "most"},
        recipe_text=llmcompressor.dumps(everything),
        out=str(tmp_path / "out2"),
        method="measure",
    )
    assert run(spec, tmp_path / "run2")["kl"] < result["kl"]


def test_pictures_and_text_are_scored_apart(tmp_path: Path) -> None:
    folder = save_internvl(tmp_path / "vl")
    calibration = write_pictures(tmp_path / "pictures", 2)
    recipe = tmp_path / "both.yaml"
    recipe.write_text(RECIPE.read_text().replace(', "re:.*vision_tower.*", "re:.*multi_modal_projector.*"', ""))
    given = {"model": str(folder), "calibration": str(calibration), "recipe": str(recipe), "schemes": ["recipe"]}
    tables = {}
    for method, name in (("exact", "exact"), ("fisher", "fisher"), ("local", "local"), ("local", "streamed")):
        out = tmp_path / name
        spec = prepare_sensitivity(None, **given, out=str(out), method=method, draws=16, stream=name == "streamed")
        run(spec, tmp_path / f"run-{name}")
        tables[name] = load_scores(out)
    check_equal(tables["streamed"], tables["local"])
    names = tables["exact"].names
    assert any("vision_tower" in name for name in names) and any("language_model" in name for name in names)
    for row in tables["exact"].rows:
        if row.scheme != FLOAT:
            assert row.parts["kl_text"] + row.parts["kl_image"] == pytest.approx(row.kl, rel=1e-6, abs=1e-12)
    pairs = [[row.kl for row in tables[method].rows if row.scheme != FLOAT] for method in ("exact", "fisher")]
    import numpy as np

    ranks = [np.argsort(np.argsort(values)) for values in pairs]
    assert np.corrcoef(ranks[0], ranks[1])[0, 1] > 0.6


def test_what_cannot_be_differentiated_is_scored_without(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    plain = LlamaRMSNorm.forward

    class Opaque:
        """A norm whose kernel has no derivative, as some of accelerators have none."""

        @staticmethod
        def forward(norm: Any, hidden: Any) -> Any:
            if hidden.requires_grad:
                raise RuntimeError("derivative for rms_norm is not implemented")
            return plain(norm, hidden)

    monkeypatch.setattr(LlamaRMSNorm, "forward", Opaque.forward)
    spec = prepare_sensitivity(None, **inputs, out=str(tmp_path / "out"), schemes=["recipe"])
    result = run(spec, tmp_path / "run")
    assert (result["method"], result["asked"]) == ("local", "fisher")
    assert "cannot be differentiated" in result["notes"][0]
    said = [stamped.event for stamped in EventReader(tmp_path / "run" / "events.jsonl").read()]
    assert any(isinstance(event, Log) and event.level == "warning" and "differentiated" in event.text for event in said)


def test_bad_input_is_said_before_the_job(inputs: dict[str, str], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    for changes, error, words in (
        ({"model": ""}, CheckpointError, "no model"),
        ({"recipe": str(tmp_path / "none.yaml")}, RecipeError, "no such recipe"),
        ({"method": "guess"}, InputError, "method 'guess'"),
        ({"schemes": ["W3A3"]}, RecipeError, "unknown scheme"),
        ({"draws": 0}, InputError, "0 draws"),
    ):
        with pytest.raises(error, match=words):
            prepare_sensitivity(None, **inputs | {"out": out} | changes)  # type: ignore[arg-type]


def test_the_fewest_layers_that_hold_a_target_are_searched_for(inputs: dict[str, str], tmp_path: Path) -> None:
    run(prepare_sensitivity(None, **inputs, out=str(tmp_path / "scores"), schemes=["recipe"], draws=2), tmp_path / "run")
    scores = load_scores(tmp_path / "scores")
    own = dict.fromkeys(scores.names, scores.schemes[0].name)
    target = f"kl={scores.kl_of(own) / 3}"
    given = {"method": "auto", "scores": str(tmp_path / "scores"), "target": target}
    result = run(prepare_sensitivity(None, **inputs, **given, out=str(tmp_path / "auto")), tmp_path / "run2")
    made = llmcompressor.load(tmp_path / "auto" / "recipe.yaml")
    assert 0 < result["level"] < len(scores.names) and len(made.ignore) > len(llmcompressor.load(RECIPE).ignore)
    by_level = {probe["level"]: probe["kl"] for probe in result["probes"]}
    assert by_level[result["level"]] <= float(target[3:]) < by_level[result["level"] - 1]
    assert not list(tmp_path.glob(".auto.probes.json"))
    questions = str(Path(inputs["calibration"]).parent / "evaluation.jsonl")
    given |= {"target": "exact_match=0", "evaluation": questions}
    result = run(prepare_sensitivity(None, **inputs, **given, out=str(tmp_path / "auto2")), tmp_path / "run3")
    assert result["level"] == 0 and result["exact_match"] is not None
    with pytest.raises(InputError, match="held-out questions"):
        prepare_sensitivity(None, **inputs, **given | {"evaluation": None}, out=str(tmp_path / "auto3"))
