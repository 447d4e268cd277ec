"""The handlers of the Convert tab, and what its widgets draw, without a browser."""

from __future__ import annotations

import json
import shutil
import struct
import time
from html import escape
from pathlib import Path
from typing import Any, cast

import gradio as gr
import pytest

from quantui.checkpoint.convert.kinds import KINDS
from quantui.checkpoint.convert.layout import Rows
from quantui.checkpoint.convert.plan import Move, Plan, Problem
from quantui.checkpoint.files import Checkpoint, Tensor
from quantui.checkpoint.write import Entry
from quantui.errors import AccessError, CheckpointError, InputError, OutputError
from quantui.events import Done, Progress
from quantui.jobs import launch
from quantui.jobs.store import Run
from quantui.spec import CONVERT_STAGES, ConvertSpec
from quantui.ui import conversions, live, rail, shell, sources
from quantui.ui.conversions import Conversion
from quantui.ui.i18n import translator
from quantui.ui.services import Services
from quantui.ui.tabs import convert, quantize
from quantui.ui.widgets.plan import SHOWN, plan_table
from quantui.workspace import ASSETS, DEMO_ORIGINAL, Workspace
from tests.ui.conftest import play, write_model
from tests.ui.test_quantize_tab import demo as quantize_choices

RESULT: dict[str, Any] = {
    "out": "/somewhere/models/vision-github-native",
    "conversion": "internvl",
    "architecture": "InternVLForConditionalGeneration",
    "bytes_before": 3_079_552,
    "bytes_after": 3_079_552,
    "shards": 1,
    "tensors": 115,
    "tensors_reread": 115,
    "dropped": {"rotary.inv_freq": "a table that the model computes by itself"},
    "seconds": {"start": 0.02, "check": 9.1, "copy": 0.01, "reread": 0.03, "files": 0.04, "verify": 1.3},
    "seconds_total": 10.5,
    "logit_difference": 6.79e-06,
    "logit_largest": 22.2,
    "verified_tokens": 28,
    "notes": ["a <note>"],
    "versions": {},
}


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "dispatch", lambda store, spare: None)


@pytest.fixture(autouse=True)
def original(filled: Workspace) -> Path:
    """The demo's vision model in its original layout, among the models."""
    return Path(shutil.copytree(ASSETS / "demo" / DEMO_ORIGINAL, filled.models / DEMO_ORIGINAL))


def demo(services: Services, **changes: Any) -> Conversion:
    """What is chosen when the page opens, with changes."""
    made: dict[str, Any] = {
        "source": str(services.workspace.models / DEMO_ORIGINAL),
        "out": "new",
        "dtype": "keep",
        "shard": "5GB",
        "verify": "auto",
        "extra": False,
        "processor": "",
        "image_token": "",
    }
    return cast(Conversion, made | changes)


def rename_tensors(folder: Path, **renamed: str) -> None:
    """Gives tensors of the one shard other names: each that ends in a key ends in its value afterwards."""
    file = folder / "model.safetensors"
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    for old, new in renamed.items():
        header = {name.removesuffix(old) + new if name.endswith(old) else name: entry for name, entry in header.items()}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def may_run(seen: Any) -> bool:
    return bool(seen[-1]["interactive"])


def asked(services: Services, run: Run) -> dict[str, Any]:
    return live.answer(services, {"run": run.id, "after": 0, "have": {}})


def submitted(services: Services, **changes: Any) -> Run:
    fields = {"name": "vision-github · internvl", "model": "/nowhere/vision-github", "out": "/nowhere/out"}
    return services.store.submit(ConvertSpec.model_validate(fields | changes))


def test_the_page_opens_on_the_demo_and_convert_works(services: Services) -> None:
    told = convert.arrive(services)
    assert told[0]["value"].endswith(DEMO_ORIGINAL)
    assert told[1] == "vision-github-native"
    assert may_run(told)
    seen = convert.Seen(*told[2:])
    for text in ("InternVL<wbr>ForConditionalGeneration", "InternVLChatModel", "1.5 M", "bf16", "3.1 MB"):
        assert text in seen.facts, text
    assert services.t("convert.nothing") in seen.facts and services.t("convert.proof_logits") in seen.facts
    assert 'data-rows="115"' in seen.plan and "128:256" in seen.plan and services.t("plan.whole") in seen.plan
    assert 'title="vision_tower.encoder.layer.0.attention.q_proj.weight"' in seen.plan
    assert "models/vision-github-native" in seen.out_note


def test_folders_that_need_converting_come_first(services: Services) -> None:
    """What is native and quantizable has no conversion; a native InternVL may be turned back."""
    workspace = services.workspace
    config: dict[str, Any] = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    write_model(workspace.models / "a-fp8", **config)
    (workspace.models / "nothing").mkdir()
    (workspace.models / "nothing" / "config.json").write_text("{broken")
    assert [name for name, _ in sources.sources(workspace)] == ["a-fp8", DEMO_ORIGINAL, "vision"]
    assert sources.preferred(sources.sources(workspace)).endswith(DEMO_ORIGINAL)
    assert sources.preferred([]) == ""


def test_results_are_named_after_what_they_are(services: Services) -> None:
    workspace = services.workspace
    assert sources.result_name(workspace, "/m/chat", KINDS["pickled"], set()) == "chat-safetensors"
    assert sources.result_name(workspace, "/m/chat", KINDS["fp8"], set()) == "chat-float"
    assert sources.result_name(workspace, "/m/vision", KINDS["internvl-back"], set()) == "vision-github-2"  # it is there
    taken = {str(workspace.models / "chat-native")}
    assert sources.result_name(workspace, "/m/chat", KINDS["internlm2"], taken) == "chat-native-2"
    assert sources.result_name(workspace, "", None, set()) == "model-native"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"source": ""}, "source_note"),
        ({"source": None}, "source_note"),
        ({"source": "/etc"}, "source_note"),
        ({"source": "\0"}, "source_note"),
        ({"source": "MODELS/missing"}, "source_note"),
        ({"source": "MODELS/chat"}, "source_note"),
        ({"out": ""}, "out_note"),
        ({"out": "a/b"}, "out_note"),
        ({"out": "../escape"}, "out_note"),
        ({"out": "chat"}, "out_note"),
        ({"shard": "lots"}, "shard_note"),
        ({"shard": ""}, "shard_note"),
        ({"image_token": "five"}, "image_token_note"),
        ({"image_token": "1000000"}, "image_token_note"),
        ({"processor": "/etc"}, "processor_note"),
        ({"processor": "MODELS/missing"}, "processor_note"),
        ({"processor": "MODELS/chat"}, "processor_note"),
    ],
)
def test_what_is_wrong_is_said_in_place(services: Services, change: dict[str, Any], place: str) -> None:
    models = str(services.workspace.models)
    change = {key: value.replace("MODELS", models) if value else value for key, value in change.items()}
    seen = convert.look(services, "", **demo(services, **change))
    assert not may_run(seen)
    notes = {name: part for name, part in seen._asdict().items() if name.endswith("_note")}
    alarmed = {name for name, part in notes.items() if 'role="alert"' in part}
    assert place in alarmed and alarmed <= {place, "source_note"}  # where the plan has problems, the source says so too
    if place in ("shard_note", "image_token_note", "processor_note"):
        assert seen.more == gr.update(open=True)
    assert convert.start(services, "", **demo(services, **change))[:2] == (gr.skip(), gr.skip())
    assert services.store.list() == []


def test_problems_come_first_and_block(services: Services, original: Path) -> None:
    rename_tensors(original, **{"layers.0.mlp.fc1.weight": "layers.0.mlp.odd.weight"})
    seen = convert.look(services, "", **demo(services))
    assert not may_run(seen)
    assert services.t.count("convert.problems", 2) in seen.source_note
    assert services.t.count("count.missing", 1) in seen.facts and services.t.count("count.wrong", 1) in seen.facts
    rows = seen.plan.split("<tr")[2:]
    assert ["problem-row" in row for row in rows[:4]] == [True, True, False, False]
    assert "fc1.weight" in rows[0] and "odd.weight" in rows[1]
    dropped = convert.look(services, "", **demo(services, extra=True))
    assert services.t.count("convert.problems", 1) in dropped.source_note
    assert "left-row" in dropped.plan


def test_a_broken_shard_is_named_beside_the_source(services: Services, original: Path) -> None:
    shard = original / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    seen = convert.look(services, "", **demo(services))
    assert "model.safetensors" in seen.source_note and 'class="problem"' in seen.source_note
    assert seen.plan == f'<p class="empty">{services.t("plan.blocked")}</p>'
    assert convert.sift(services, "x", **demo(services)) == seen.plan


def test_a_result_that_does_not_fit(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversions, "free_bytes", lambda path: 1_000_000)
    seen = convert.look(services, "", **demo(services))
    assert "3.1 MB" in seen.out_note and "1.0 MB" in seen.out_note and not may_run(seen)


def test_what_only_the_job_finds_is_said_too(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OutputError("found <late>")

    monkeypatch.setattr(convert, "prepare", refuse)
    told = convert.start(services, "", **demo(services))
    assert "Found &lt;late&gt;." in convert.Seen(*told[2:]).out_note and services.store.list() == []


def test_a_folder_promised_to_another_run(services: Services) -> None:
    submitted(services, out=str(services.workspace.models / "new"))
    assert 'class="problem"' in convert.look(services, "", **demo(services)).out_note


def test_the_table_is_filtered(services: Services) -> None:
    now = demo(services)
    assert 'data-rows="18"' in convert.sift(services, "qkv", **now)
    assert 'data-rows="3"' in convert.sift(services, "QKV  layers.1 weight", **now)
    assert services.t("plan.no_match") in convert.sift(services, "nothing like it", **now)
    assert 'data-rows="115"' in convert.sift(services, "", **now)
    assert 'data-rows="18"' in convert.look(services, "qkv", **now).plan


def test_a_change_of_dtype_is_shown_and_asked_for(services: Services) -> None:
    seen = convert.look(services, "lm_head", **demo(services, dtype="fp16"))
    assert 'class="change"' in seen.plan and "fp16" in seen.plan
    convert.start(services, "", **demo(services, dtype="fp16", verify="no", shard="1MB"))
    (run,) = services.store.list()
    assert isinstance(run.spec, ConvertSpec)
    assert (run.spec.dtype, run.spec.verify, run.spec.max_shard_bytes) == ("fp16", False, 1_000_000)


def test_automatic_says_what_it_comes_to(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "3.1 MB" in convert.look(services, "", **demo(services)).verify_note
    monkeypatch.setattr(convert, "VERIFY_BELOW", 1_000_000)
    seen = convert.look(services, "", **demo(services))
    assert services.t("convert.auto_no", size="3.1 MB", limit="1.0 MB") in seen.verify_note
    assert services.t("convert.proof_reread") in seen.facts
    assert services.t("convert.proof_logits") in convert.look(services, "", **demo(services, verify="yes")).facts
    assert convert.look(services, "", **demo(services, verify="yes")).verify_note == ""


def test_convert_submits_opens_and_offers_the_next_name(services: Services) -> None:
    told = convert.start(services, "", **demo(services, out="vision-github-native"))
    (run,) = services.store.list()
    assert told[:2] == (run.id, "vision-github-native-2")
    assert isinstance(run.spec, ConvertSpec) and run.spec.verify
    assert run.spec.out == str(services.workspace.models / "vision-github-native")
    assert run.spec.stages() == CONVERT_STAGES
    assert rail.load(services.workspace).run == run.id


def test_a_source_sent_from_the_rail(services: Services) -> None:
    model = str(services.workspace.models / DEMO_ORIGINAL)
    seen = quantize.look(services, **quantize_choices(services, model=model))
    assert f'data-path="{model}"' in seen.model_note and 'data-event="convert"' in seen.model_note
    assert 'role="alert"' in seen.model_note
    told = convert.bring(services, "", **demo(services, source=model, out="old"))
    assert told[0]["value"] == model and told[1] == "vision-github-native"
    missing = quantize.look(services, **quantize_choices(services, model="/nowhere"))
    assert "data-event" not in missing.model_note


def test_a_result_is_used_in_quantize_with_its_calibration(services: Services) -> None:
    """The demo's pictures go with its vision model, whatever is appended to that one's name."""
    made = write_model(services.workspace.models / "vision-github-native", "internvl")
    told = quantize.use(services, **quantize_choices(services, model=str(made)))
    assert told[0]["value"] == str(made)
    assert ("vision-github-native", str(made)) in told[0]["choices"]
    assert Path(told[1]["value"]).parent.name == "vision"
    assert told[2] == "vision-github-native-fp8-w8a8-kv8"
    assert rail.load(services.workspace).model == str(made)
    offered = convert.list_folders(services)
    assert ("vision-github-native", str(made)) in offered[1]["choices"]


def test_progress_is_told_in_bytes_with_speed_and_time_left(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    run = submitted(services)
    play(services.store, run, Progress("copy", 0, 0), Progress("copy", 1_200_000_000, 3_100_000_000, "B", seconds_left=61.0))
    began = time.time()
    monkeypatch.setattr("quantui.jobs.tail.time.time", lambda: began + 4)
    panel = asked(services, run)["parts"]["run"]
    assert services.t("stage.bytes", done="1.2 GB", total="3.1 GB") in panel
    assert services.t("stage.speed", size="300 MB") in panel or services.t("stage.speed", size="299 MB") in panel
    assert services.t("stage.left", time=services.t("unit.minutes", m=1, s="01")) in panel
    for stage in CONVERT_STAGES:
        assert services.t(f"stage.name.{stage}") in panel
    assert escape(services.t("hint.stage.convert.check")) in panel
    assert 'data-kind="convert"' in panel


def test_a_finished_conversion_shows_its_proof(services: Services) -> None:
    run = submitted(services)
    play(services.store, run, Done(), result=RESULT)
    told = asked(services, run)["parts"]
    card = told["run"]
    for text in ("6.8e-06", "22.2", services.t.count("count.tokens", 28), "115", services.t("convert.all_reread"), "3.1 MB"):
        assert text in card, text
    assert "a &lt;note&gt;" in card
    assert 'data-event="use"' in card and 'data-path="/somewhere/models/vision-github-native"' in card
    assert services.t("convert.dropped") in card
    assert "3.1 MB" in told["run-note"]
    assert run.id in told["jobs"]


def test_a_conversion_without_comparison_and_one_that_leads_back(services: Services) -> None:
    run = submitted(services, verify=False)
    unknown = dict.fromkeys(("logit_difference", "logit_largest", "verified_tokens"))
    play(services.store, run, Done(), result=RESULT | unknown | {"conversion": "internvl-back"})
    card = asked(services, run)["parts"]["run"]
    assert services.t("convert.not_compared") in card
    assert "data-event" not in card


def long_plan(count: int) -> Plan:
    """A plan of many tensors, with some of everything."""
    names = [f"model.layers.{n}.self_attn.qkv_proj.weight" for n in range(count)]
    tensors = {name: Tensor(name, Path("/m/model.safetensors"), "F32", (96, 8)) for name in names}
    moves = [Move(Entry(name, "BF16", (32, 8)), (Rows(name, 32, 64),)) for name in names]
    moves[0] = Move(Entry("joined", "BF16", (64, 8)), (Rows(names[0], 0, 32), Rows(names[1], 0, 32)), scale="a.scale")
    source = Checkpoint(Path("/m"), {"model_type": "internlm2"}, tensors, False)
    problems = (Problem("tokenizer", "/m/x: it is not a JSON object; copy the file again."), Problem("a", "is missing"))
    return Plan(KINDS["internlm2"], source, {}, tuple(moves), {"gone": "why"}, {"twin": names[0]}, problems, ("a note",))


def test_a_long_plan_is_clipped_and_says_how_long_it_is(services: Services) -> None:
    plan = long_plan(2_000)
    table = plan_table(services.t, plan)
    narrow = plan_table(services.t, plan, "layers.1999.")
    assert f'data-rows="{SHOWN}"' in table and "2,004" in table
    assert table.count("<tr") == SHOWN + 1
    assert 'data-rows="1"' in narrow and "32:64" in narrow
    joined = plan_table(services.t, plan, "joined")
    assert services.t.count("count.pieces", 2) in joined and "a.scale" in joined
    assert "a note" in table
    assert services.t("plan.shared", name="model.layers.0.self_attn.qkv_proj.weight") in table


def test_problems_speak_the_pages_language() -> None:
    zh = translator("zh-CN")
    table = plan_table(zh, long_plan(3))
    assert "它不是 JSON 对象。请重新复制该文件。" in table and "缺失。" in table
    assert "/m/x" in table
    for kind in KINDS.values():
        assert zh.error(kind.source) != kind.source


def test_every_error_has_a_place(services: Services) -> None:
    now = demo(services, processor="/data/words", out="x")
    assert conversions.concern(OutputError("x"), now) == "out"
    assert conversions.concern(AccessError("x", where="/data/words"), now) == "processor"
    assert conversions.concern(CheckpointError("x", where="/data/words/tokenizer.json"), now) == "processor"
    assert conversions.concern(CheckpointError("x", where=f"{now['source']}/config.json"), now) == "source"
    assert conversions.concern(InputError("x", where="--max-shard-size"), now) == "shard"
    assert conversions.concern(InputError("x", where="--image-token-id"), now) == "image_token"


def test_outputs_and_components_go_together(services: Services) -> None:
    """Handlers give as many values as there are components to fill."""
    with gr.Blocks(analytics_enabled=False):
        pickers = shell.layout_rail(services)
        with gr.Tabs():
            view = convert.layout(services.t)
        around = shell.Shell(pickers, shell.layout_monitor(services), shell.layout_courier())
        convert.wire(view, around, services)
    assert len(convert.arrivals(view)) == len(convert.arrive(services)) == len(convert.Seen._fields) + 2
    assert set(Conversion.__annotations__) <= set(view._fields)
