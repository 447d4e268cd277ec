"""Jobs looked at before anything is loaded: what they will cost, and every way in which they cannot work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from quantui import devices
from quantui.calibration import count
from quantui.calibration.cost import ENGINE_BYTES
from quantui.errors import (
    AccessError,
    CalibrationError,
    CheckpointError,
    DeviceError,
    InputError,
    OutputError,
    RecipeError,
)
from quantui.jobs import preflight
from quantui.jobs.preflight import forecast, prepare
from quantui.spec import QuantizeSpec
from quantui.workspace import RECIPES, Workspace
from tests.checkpoint.shards import LLAMA, llama_tensors, write_config, write_llama, write_shard

FP8 = (RECIPES / "fp8-w8a8-kv8.yaml").read_text(encoding="utf-8")
DYNAMIC = "q_stage:\n  q_modifiers:\n    QuantizationModifier: {scheme: FP8_DYNAMIC, ignore: [lm_head]}\n"
WORDS = {"[UNK]": 0, "fox": 1, "plus": 2, "0": 3, "1": 4}
TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": WORDS, "unk_token": "[UNK]"},
}  # fmt: skip
QUESTION = {"messages": [{"role": "user", "content": "fox plus 1"}, {"role": "assistant", "content": "fox"}]}


class Toy:
    """Everything a job needs, in one folder, without a tensor in it; spoil one part and prepare it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = write_llama(folder / "model")
        (self.model / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(FP8)
        self.data = folder / "data"
        self.data.mkdir()
        self.calibration = self.data / "calibration.yaml"
        self.calibrate(kind="jsonl", path="rows.jsonl")
        self.rows(*({"text": f"fox plus {i}"} for i in range(8)))
        self.out = folder / "out"

    def calibrate(self, **source: Any) -> None:
        """Writes the calibration file of one source."""
        self.calibration.write_text(yaml.safe_dump({"sources": [source], "samples": 6, "max_tokens": 64}))

    def rows(self, *rows: Any, name: str = "rows.jsonl") -> Path:
        """Writes rows of data."""
        file = self.data / name
        file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return file

    def pictures(self, *bodies: Any) -> None:
        """Makes the calibration data pictures."""
        (self.data / "p").mkdir()
        for number, body in enumerate(bodies):
            file = self.data / "p" / f"{number}.png"
            file.write_bytes(body) if isinstance(body, bytes) else Image.new("RGB", (8, 8)).save(file)
        self.calibrate(kind="images", path="p")

    def reads_pictures(self) -> None:
        """Makes the model an image-text one."""
        config = LLAMA | {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "vision_config": {}}
        write_config(self.model, config)

    def prepare(self, workspace: Workspace | None = None, **choices: Any) -> QuantizeSpec:
        """The job, with some choices made otherwise."""
        given = {"model": self.model, "recipe": self.recipe, "calibration": self.calibration, "out": self.out} | choices
        texts = {key: None if value is None else str(value) for key, value in given.items() if key != "trust_remote_code"}
        trust = bool(choices.get("trust_remote_code"))
        return prepare(workspace, **texts, **({"device": "cpu"} if "device" not in texts else {}), trust_remote_code=trust)


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """A job that can work."""
    return Toy(tmp_path)


# --- jobs that can work


def test_a_job_that_can_work_travels_as_text(toy: Toy) -> None:
    spec = toy.prepare()
    assert (spec.name, spec.device, spec.kind, spec.roots) == ("model · recipe", "cpu", "quantize", ())
    assert (spec.model, spec.out, spec.recipe_path) == (str(toy.model), str(toy.out), str(toy.recipe))
    assert spec.recipe == FP8 and spec.calibration == toy.calibration.read_text()
    assert spec.evaluation is None and not spec.trust_remote_code
    assert not toy.out.exists()


def test_paths_may_be_relative_and_begin_at_home(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.folder)
    monkeypatch.setenv("HOME", str(toy.folder))
    spec = toy.prepare(model="model", recipe="~/recipe.yaml", calibration="data/../data/calibration.yaml", out="./new/out")
    assert (spec.model, spec.recipe_path, spec.out) == (str(toy.model), str(toy.recipe), str(toy.folder / "new" / "out"))
    assert spec.calibration_path == str(toy.calibration)


def test_the_evaluation_beside_the_calibration_is_found(toy: Toy) -> None:
    file = toy.rows(QUESTION, name="evaluation.jsonl")
    assert toy.prepare().evaluation == str(file)
    assert toy.prepare(evaluation="none").evaluation is None
    assert toy.prepare(evaluation=None).evaluation is None
    other = toy.rows(QUESTION, name="other.jsonl")
    assert toy.prepare(evaluation=other).evaluation == str(other)
    toy.recipe.write_text(DYNAMIC)
    assert toy.prepare(calibration=None).evaluation is None


def test_a_recipe_of_dynamic_scales_needs_no_calibration(toy: Toy) -> None:
    toy.recipe.write_text(DYNAMIC)
    spec = toy.prepare(calibration=None)
    assert (spec.calibration, spec.calibration_path) == (None, None)
    made = forecast(spec)
    assert (made.calibration_samples, made.calibration_tokens, made.calibration_tokens_exact, made.kv_layers) == (0, 0, True, 0)


def test_a_model_that_needs_remote_code_is_prepared_when_that_is_allowed(toy: Toy) -> None:
    write_config(toy.model, LLAMA | {"model_type": "internlm2"})
    made = forecast(toy.prepare(trust_remote_code=True))
    assert (made.layers_quantized, made.layers_left) == (0, 15)  # its names are its own


# --- what they will cost


def test_the_forecast_of_a_small_llama(toy: Toy) -> None:
    made = forecast(toy.prepare())
    linears = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
    everything = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for _, shape in llama_tensors().values())
    before = (toy.model / "model.safetensors").stat().st_size
    assert (made.layers_quantized, made.layers_left, made.kv_layers) == (14, 1, 2)
    assert made.bytes_before == before
    scales = 14 * 2 * 2 + 16  # one in bf16 for the weight and one for the input of each layer; keys and values
    assert made.bytes_after == before - linears + scales
    assert made.bits_per_weight == pytest.approx(8 * made.bytes_after / everything)
    assert (made.calibration_samples, made.calibration_tokens_exact) == (6, False)
    assert made.calibration_tokens == 6 * 3
    assert made.memory_bytes > ENGINE_BYTES + before
    assert made.free_disk_bytes > 0 and made.free_memory_bytes > 0


def test_tokens_are_counted_as_they_will_be_cut(toy: Toy) -> None:
    toy.rows(*({"text": "fox " * 1000} for _ in range(8)))
    assert forecast(toy.prepare()).calibration_tokens == 6 * 64
    toy.rows(*({"messages": QUESTION["messages"]} for _ in range(8)))
    assert forecast(toy.prepare()).calibration_tokens == 6 * (4 + 2 * count.MESSAGE_TOKENS)
    (toy.model / "tokenizer.json").unlink()
    assert forecast(toy.prepare()).calibration_tokens == 6 * 64  # at most


def test_stored_tokens_are_counted_exactly(toy: Toy) -> None:
    write_shard(toy.data / "t.safetensors", {"input_ids": ("I64", (10, 100))})
    toy.calibrate(kind="tokens", path="t.safetensors")
    made = forecast(toy.prepare())
    assert (made.calibration_tokens, made.calibration_tokens_exact) == (600, True)


def test_the_forecast_takes_what_the_first_samples_show_for_all(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "CHARACTERS", 20)
    assert forecast(toy.prepare()).calibration_tokens == 6 * 3


def test_free_memory_is_that_of_the_chosen_device(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [devices.DeviceInfo("cuda:0", "GPU", 80, 70), devices.DeviceInfo("cpu", "CPU", 8, 7)]
    for module in (devices, preflight):
        monkeypatch.setattr(module, "describe", lambda: cards)
    assert forecast(toy.prepare(device="cuda")).free_memory_bytes == 70
    assert forecast(toy.prepare(device="cpu")).free_memory_bytes == 7


CODE = """
import sys
from tests.test_preflight import Toy
from pathlib import Path
from quantui.jobs.preflight import forecast
toy = Toy(Path(sys.argv[1]))
toy.pictures(None)
toy.reads_pictures()
forecast(toy.prepare())
heavy = ("torch", "transformers", "llmcompressor", "compressed_tensors", "datasets", "gradio")
print([name for name in heavy if name in sys.modules])
"""


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.stdout.strip() == "[]", done.stderr


# --- jobs that cannot


def truncated(toy: Toy) -> dict[str, Any]:
    """Cuts the weights short."""
    os.truncate(toy.model / "model.safetensors", 1000)
    return {}


def unpack(source: str) -> Callable[[Toy], dict[str, Any]]:
    """Writes this recipe."""

    def spoil(toy: Toy) -> dict[str, Any]:
        toy.recipe.write_text(source)
        return {}

    return spoil


def spoil(action: Callable[[Toy], Any], **choices: Any) -> Callable[[Toy], dict[str, Any]]:
    """Does something to a toy, then makes these choices."""

    def spoiled(toy: Toy) -> dict[str, Any]:
        action(toy)
        return choices

    return spoiled


def configured(**changes: Any) -> Callable[[Toy], dict[str, Any]]:
    """Changes the model's config."""
    return spoil(lambda toy: write_config(toy.model, LLAMA | changes))


def asked_about_a_picture(toy: Toy) -> dict[str, Any]:
    """Puts a picture among the held-out questions."""
    toy.rows({"image": "a.png", "answer": "a"}, name="evaluation.jsonl")
    Image.new("L", (8, 8)).save(toy.data / "a.png")
    return {}


def nothing(_: Toy) -> None:
    """Leaves the toy as it is."""


GROUPS = "q_stage: {q_modifiers: {QuantizationModifier: {config_groups: {g: {targets: [%s], weights: {%s}}}%s}}}"
BAD: dict[str, tuple[type[InputError], str, Callable[[Toy], dict[str, Any]]]] = {
    "no model": (CheckpointError, "no model is chosen", spoil(nothing, model="")),
    "model missing": (CheckpointError, "no such folder", spoil(nothing, model="/nowhere/at/all")),
    "model is a file": (CheckpointError, "not a model folder", lambda toy: {"model": toy.recipe}),
    "model is empty": (CheckpointError, "no config.json", lambda toy: {"model": toy.data}),
    "model of nobody": (InputError, "cannot be used", spoil(nothing, model="~nobody-at-all/x")),
    "model with NUL": (InputError, "embedded null byte", spoil(nothing, model="a\0b")),
    "model in no letters": (InputError, "surrogates not allowed", spoil(nothing, model="a\udcffb")),
    "model without end": (InputError, "too long", spoil(nothing, model="x" * 5000)),
    "config broken": (CheckpointError, "not valid JSON", spoil(lambda toy: (toy.model / "config.json").write_text("{"))),
    "weights missing": (CheckpointError, "no weights", spoil(lambda toy: (toy.model / "model.safetensors").unlink())),
    "weights truncated": (CheckpointError, "truncated", truncated),
    "remote code": (CheckpointError, "--trust-remote-code", configured(model_type="x")),
    "quantized already": (CheckpointError, "already (gptq)", configured(quantization_config={"quant_method": "gptq"})),
    "tokenizer broken": (
        CheckpointError, "tokenizer cannot be read", spoil(lambda toy: (toy.model / "tokenizer.json").write_text("{")),
    ),
    "no recipe": (RecipeError, "no recipe is chosen", spoil(nothing, recipe="")),
    "recipe missing": (RecipeError, "no such recipe file", spoil(nothing, recipe="/nowhere/r.yaml")),
    "recipe is a folder": (RecipeError, "a folder, not a recipe", lambda toy: {"recipe": toy.data}),
    "recipe is binary": (RecipeError, "not UTF-8", spoil(lambda toy: toy.recipe.write_bytes(b"\xff\xfe\0"))),
    "recipe is the weights": (RecipeError, "not UTF-8", lambda toy: {"recipe": toy.model / "model.safetensors"}),
    "recipe is no YAML": (RecipeError, "not valid YAML", unpack("quant_stage: [")),
    "recipe of nothing": (RecipeError, "quantizes nothing", unpack("QuantizationModifier: {ignore: [lm_head]}")),
    "recipe that cannot work": (
        RecipeError, "asymmetric weights with int8",
        unpack(GROUPS.replace("weights", "input_activations: {dynamic: true}, weights") % ("Linear", "symmetric: false", "")),
    ),
    "fallback of everything": (
        RecipeError, "L99 leaves none of the", unpack("FallbackModifier: {level: 99}\n" + DYNAMIC),
    ),
    "recipe with a typo": (RecipeError, "unknown key 'ignores'", unpack(DYNAMIC.replace("ignore", "ignores"))),
    "targets of nothing": (RecipeError, "'re:.*query' matches no layer", unpack(GROUPS % ("re:.*query", "", ""))),
    "ignore of nothing": (RecipeError, "'lm_haed' matches no layer", unpack(DYNAMIC.replace("lm_head", "lm_haed"))),
    "groups that do not divide": (RecipeError, "128 do not divide", unpack(GROUPS % ("Linear", "group_size: 128", ""))),
    "all ignored": (RecipeError, "nothing would be quantized", unpack(GROUPS % ("lm_head", "", ", ignore: [lm_head]"))),
    "static scales without data": (CalibrationError, "no calibration file", spoil(nothing, calibration=None)),
    "calibration missing": (CalibrationError, "No such file", spoil(nothing, calibration="/nowhere/c.yaml")),
    "calibration is a folder": (CalibrationError, "a folder", lambda toy: {"calibration": toy.data}),
    "calibration is binary": (CalibrationError, "not UTF-8", spoil(lambda toy: toy.calibration.write_bytes(b"\x80"))),
    "calibration is empty": (
        CalibrationError, "yaml:1: the calibration file is empty", spoil(lambda toy: toy.calibration.write_text("")),
    ),
    "calibration with a typo": (CalibrationError, "yaml:7: unknown key sample", spoil(
        lambda toy: toy.calibration.write_text("sources:\n- kind: jsonl\n  path: rows.jsonl\n\n\nsamples: 6\nsample: 5"))),
    "no rows": (CalibrationError, "holds no samples", spoil(lambda toy: toy.rows())),
    "a bad row": (CalibrationError, "rows.jsonl:2", spoil(lambda toy: toy.rows({"text": "a"}, "{"))),
    "rows missing": (CalibrationError, "no such file", spoil(lambda toy: (toy.data / "rows.jsonl").unlink())),
    "pictures for a text model": (CalibrationError, "reads only text", spoil(lambda toy: toy.pictures(None))),
    "a picture that is none": (CalibrationError, "1.png: the picture cannot be read", spoil(
        lambda toy: (toy.pictures(None, b"hello"), toy.reads_pictures()))),
    "evaluation missing": (CalibrationError, "no such evaluation file", spoil(nothing, evaluation="/nowhere/e.jsonl")),
    "evaluation is a folder": (CalibrationError, "no such evaluation file", lambda toy: {"evaluation": toy.data}),
    "a bad question": (CalibrationError, "evaluation.jsonl:1", spoil(lambda toy: toy.rows({}, name="evaluation.jsonl"))),
    "questions about pictures": (CalibrationError, "evaluation.jsonl:1: here is a picture", asked_about_a_picture),
    "no output": (OutputError, "no output folder", spoil(nothing, out=" ")),
    "output exists": (OutputError, "exists already", lambda toy: {"out": toy.data}),
    "output is a file": (OutputError, "exists already", lambda toy: {"out": toy.recipe}),
    "output in a file": (OutputError, "which is a file", lambda toy: {"out": toy.recipe / "below" / "it"}),
    "output with NUL": (InputError, "embedded null byte", spoil(nothing, out="a\0b")),
    "output nowhere to write": (OutputError, "nothing can be written into /proc", spoil(nothing, out="/proc/out")),
    "device unknown": (DeviceError, "unknown device", spoil(nothing, device="foo")),
    "device not there": (DeviceError, "no such device", spoil(nothing, device="cuda:77")),
    "device without its library": (DeviceError, "torch_npu is not installed", spoil(nothing, device="npu")),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "what", "spoiled"), BAD.values(), ids=BAD.keys())
def test_what_cannot_work_is_one_sentence_of_its_kind(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, kind: type[InputError], what: str, spoiled: Callable[[Toy], dict[str, Any]]
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "/proc" and access(path, mode))  # root may write anywhere
    choices = spoiled(toy)
    with pytest.raises(InputError) as caught:
        forecast(toy.prepare(**choices))
    assert type(caught.value) is kind
    assert what in str(caught.value) and "\n" not in str(caught.value) and caught.value.todo
    assert len(str(caught.value)) < 1500
    assert not toy.out.exists()


def test_a_path_that_is_shut_away_is_a_sentence(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    exists = Path.exists

    def shut(path: Path) -> bool:
        if "secret" in path.parts:
            raise PermissionError(13, "Permission denied")
        return exists(path)

    monkeypatch.setattr(Path, "exists", shut)
    for key in ("model", "recipe", "calibration", "out", "evaluation"):
        with pytest.raises(InputError, match="Permission denied"):
            toy.prepare(**{key: toy.folder / "secret" / "x"})


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_full_disk_is_seen_ahead(toy: Toy, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    after = forecast(toy.prepare()).bytes_after
    asked = []

    def free(path: Path) -> int:
        asked.append(path)
        return int(share * after)

    monkeypatch.setattr(preflight, "free_bytes", free)
    with pytest.raises(OutputError, match=r"the result needs \d+\.\d MB and the disk has 0\.\d MB free"):
        toy.prepare()
    assert asked == [toy.folder]


def test_room_for_the_result_and_a_little_more_is_enough(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "free_bytes", lambda _: forecast_size + 2**21)
    forecast_size = (toy.model / "model.safetensors").stat().st_size
    assert toy.prepare()


def test_what_changes_after_it_was_prepared_is_seen(toy: Toy) -> None:
    spec = toy.prepare()
    toy.recipe.write_text("nonsense")
    toy.calibration.unlink()
    assert forecast(spec).layers_quantized == 14  # these travel as text
    (toy.data / "rows.jsonl").write_text("{")
    with pytest.raises(CalibrationError, match=r"rows\.jsonl:1"):
        forecast(spec)


# --- allowed roots


@pytest.fixture
def space(toy: Toy) -> Workspace:
    """A workspace that holds the toy."""
    return Workspace(toy.folder)


def test_the_page_works_inside_its_roots(toy: Toy, space: Workspace) -> None:
    spec = toy.prepare(space)
    assert str(space.root) in spec.roots
    assert forecast(spec).layers_quantized == 14
    assert toy.prepare(space, recipe=RECIPES / "int8-w8a8-static.yaml")  # the shipped ones lie elsewhere


@pytest.mark.parametrize("key", ["model", "recipe", "calibration", "out", "evaluation"])
@pytest.mark.parametrize("place", ["/etc/passwd", "../..", "outside"])
def test_the_page_touches_nothing_outside_its_roots(toy: Toy, space: Workspace, key: str, place: str) -> None:
    if place == "outside":
        (toy.folder / place).symlink_to("/etc")
    with pytest.raises(AccessError, match="outside the folders this app may use"):
        toy.prepare(space, **{key: toy.folder / place if place != "/etc/passwd" else place})


def test_the_page_writes_into_the_workspace_only(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> None:
    extra = tmp_path_factory.mktemp("extra")
    space = Workspace(toy.folder, (extra,))
    model = write_llama(extra / "model")
    assert toy.prepare(space, model=model).model == str(model)
    with pytest.raises(AccessError):
        toy.prepare(space, out=extra / "out")


def test_data_that_a_calibration_file_names_must_lie_in_the_roots_too(toy: Toy, space: Workspace) -> None:
    toy.calibrate(kind="jsonl", path="/etc/passwd")
    with pytest.raises(AccessError):
        toy.prepare(space)
    toy.calibrate(kind="jsonl", path="../../../../../../../etc/passwd")
    with pytest.raises(AccessError):
        toy.prepare(space)
    with pytest.raises(CalibrationError, match=r"passwd:\d+: the line is not valid JSON"):
        toy.prepare()  # the command line has its user's own rights


def test_roots_hold_in_the_worker_as_well(toy: Toy, space: Workspace) -> None:
    from quantui.quantize.run import read_inputs

    spec = toy.prepare(space)
    assert len(read_inputs(spec).samples) == 6
    other = spec.model_copy(
        update={"calibration": spec.calibration.replace("rows.jsonl", "/etc/passwd") if spec.calibration else ""}
    )
    with pytest.raises(AccessError):
        read_inputs(other)
