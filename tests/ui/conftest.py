"""A workspace with models made of nothing but headers: all the page ever reads of them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from quantui.events import Event, EventWriter
from quantui.jobs.store import JobStore, Run
from quantui.spec import QuantizeSpec
from quantui.ui.i18n import PAGES, translator
from quantui.ui.services import Services
from quantui.workspace import Workspace, write_json

HIDDEN = 64
TENSORS = {
    "model.embed_tokens.weight": (256, HIDDEN),
    "model.layers.0.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "model.layers.0.self_attn.k_proj.weight": (HIDDEN, HIDDEN),
    "model.layers.0.mlp.down_proj.weight": (HIDDEN, HIDDEN),
    "lm_head.weight": (256, HIDDEN),
}
RESULT: dict[str, Any] = {
    "out": "/somewhere/quantized/chat-fp8",
    "bytes_before": 2_640_000,
    "bytes_after": 1_520_000,
    "peak_memory_bytes": 1_234_000_000,
    "seconds": {"start": 5.91, "quantize": 13.4, "check": 0.021},
    "seconds_total": 139.2,
    "layers_quantized": 28,
    "layers_left": 1,
    "kv_layers": 4,
    "calibration_samples": 256,
    "calibration_tokens": 38402,
    "exact_match_before": 0.98,
    "exact_match_after": 0.8175,
    "perplexity_before": 1.052,
    "perplexity_after": 1.311,
    "evaluation_samples": 400,
    "reopen_max_logit_difference": 0.0,
    "notes": ["lm_head stays <float>"],
    "device": "cpu",
    "versions": {},
}


def write_model(folder: Path, model_type: str = "llama", **config: Any) -> Path:
    """A model folder whose weights are zeros."""
    folder.mkdir(parents=True)
    architecture = {"llama": "LlamaForCausalLM", "internvl": "InternVLForConditionalGeneration"}.get(model_type, "Odd")
    body = {"architectures": [architecture], "model_type": model_type, "num_hidden_layers": 1, "hidden_size": HIDDEN}
    (folder / "config.json").write_text(json.dumps(body | config))
    header, offset = {}, 0
    for name, (rows, columns) in TENSORS.items():
        end = offset + rows * columns * 2
        header[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))
    return folder


def write_calibration(folder: Path, rows: int = 8) -> Path:
    """calibration.yaml with its chats."""
    folder.mkdir(parents=True)
    chat = {"messages": [{"role": "user", "content": "2 plus 3?"}, {"role": "assistant", "content": "5"}]}
    (folder / "calibration.jsonl").write_text(f"{json.dumps(chat)}\n" * rows)
    file = folder / "calibration.yaml"
    file.write_text("sources:\n  - kind: jsonl\n    path: calibration.jsonl\nsamples: 6\nmax_tokens: 64\n")
    return file


def submit(store: JobStore, name: str = "chat · fp8", out: str = "/nowhere/out", **changes: Any) -> Run:
    """A job that waits in the queue."""
    fields = {
        "name": name,
        "model": "/nowhere/model",
        "recipe": "",
        "recipe_path": "recipe.yaml",
        "calibration": None,
        "calibration_path": None,
        "evaluation": None,
        "out": out,
        "device": "cpu",
    }
    return store.submit(QuantizeSpec.model_validate(fields | changes))


def play(store: JobStore, run: Run, *events: Event, result: dict[str, Any] | None = None) -> Run:
    """A worker that has said these things so far."""
    process = {"pid": 1, "identity": "nobody", "child": None, "device": "cpu", "started": run.created}
    write_json(run.folder / "process.json", process)
    if result is not None:
        write_json(run.folder / "result.json", result)
    writer = EventWriter(run.events)
    for event in events:
        writer.write(event)
    writer.close()
    return store.get(run.id)


def fill(workspace: Workspace) -> Workspace:
    """Puts two models and calibration data for both into a workspace."""
    for name, model_type in (("chat", "llama"), ("vision", "internvl")):
        write_model(workspace.models / name, model_type)
        write_calibration(workspace.calibration / name)
    return workspace


@pytest.fixture
def filled(workspace: Workspace) -> Workspace:
    """A workspace with two models and calibration data for both."""
    return fill(workspace)


ONE_LANGUAGE = pytest.mark.parametrize("services", ["en"], indirect=True)
"""For tests of what is done rather than of what is said."""


@pytest.fixture(params=list(PAGES))
def services(filled: Workspace, request: pytest.FixtureRequest) -> Services:
    """That workspace in each language."""
    return Services(filled, JobStore(filled.runs), translator(request.param))
