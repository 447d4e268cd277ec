"""Tokenizers and templates without torch, against transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantui.calibration.hub import folder as hub_folder
from quantui.calibration.preview import ids_of, open_seer
from quantui.calibration.sample import Sample
from quantui.calibration.template import rendered
from quantui.calibration.words import load_words
from quantui.errors import CalibrationError, CheckpointError
from quantui.workspace import ASSETS

DEMO = ASSETS / "demo"
CHAT = (
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "  the <|im_end|> quick fox \n"},
    {"role": "assistant", "content": "brown 狐狸 🦊"},
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of its own for what is remembered of tokenizers."""
    monkeypatch.setenv("QUANTUI_CACHE", str(tmp_path / "cache"))
    yield


TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>' }}\n"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "blocks and white space": "  {% for m in messages %}\n    {{ m.role }}\n  {% endfor %}\n",
    "tojson": "{{ messages | tojson(indent=2) }}",
    "special tokens": "{{ bos_token }}{{ messages[-1].content }}{{ eos_token }}{{ pad_token }}",
    "loop controls": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "nothing of tools": "{% if tools is none and documents is none %}none{% else %}some{% endif %}{{ messages[0].content }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "undefined": "{% if thinking is defined %}a{% endif %}{{ nothing }}b",
}


@pytest.mark.engine
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("complete", [True, False])
def test_templates_come_out_as_in_transformers(template: str, complete: bool) -> None:
    from tests.models.tiny import tokenizer

    words = tokenizer()
    words.chat_template = template
    messages = [{**message, "content": str(message["content"])} for message in CHAT]
    theirs = words.apply_chat_template(messages, tokenize=False, add_generation_prompt=not complete)
    assert rendered(template, messages, words.special_tokens_map, complete=complete, where="w") == theirs


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no') }}", "{% for %}", "{{ 1 + 'a' }}", "{{ messages.append(1) }}", "{{ 1 / 0 }}",
     "{% for i in range(10 ** 9) %}x{% endfor %}"],
)  # fmt: skip
def test_a_template_that_raises_is_an_error_of_the_row(template: str) -> None:
    with pytest.raises(CalibrationError, match=r"a.jsonl:3: the model's chat template refuses"):
        rendered(template, CHAT, {}, complete=True, where="a.jsonl:3")


SAMPLES = (
    Sample("w", messages=CHAT),
    Sample("w", messages=CHAT[:2], complete=False),
    Sample("w", text="the quick <|im_end|> 狐狸"),
    Sample("w", text="  \n a"),
)


@pytest.mark.engine
@pytest.mark.parametrize("folder", [DEMO / "chat", DEMO / "vision"], ids=["chat", "vision"])
def test_ids_of_the_demo_models_are_those_of_transformers(folder: Path) -> None:
    check(folder)


def check(folder: Path) -> None:
    """Compares ids of every sample with `apply_chat_template(..., tokenize=True)` and the tokenizer's own call."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    seer = open_seer(folder)
    for sample in SAMPLES:
        if sample.text is not None:
            wanted = theirs(sample.text)["input_ids"]
        else:
            wanted = theirs.apply_chat_template(
                list(sample.messages), tokenize=True, return_dict=False, add_generation_prompt=not sample.complete
            )
        assert ids_of(seer, sample) == list(wanted)


@pytest.mark.engine
def test_special_tokens_that_only_the_config_names_are_tokens(tmp_path: Path) -> None:
    from tests.models.tiny import save_llama

    folder = save_llama(tmp_path / "m")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"extra_special_tokens": ["<|quick|>"], "unk_token": "<|unknown|>", "cls_token": "<|cls|>"}
    config["chat_template"] = "{{ messages[0].content }}<|quick|>fox<|unknown|>"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").unlink()
    check(folder)
    assert load_words(folder).core.token_to_id("<|quick|>") is not None


@pytest.mark.engine
def test_a_tokenizer_that_transformers_builds_anew_is_asked_of_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantui.calibration import words
    from tests.models.tiny import save_llama

    folder = save_llama(tmp_path / "m")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "Qwen2Tokenizer"}))
    check(folder)
    assert len(list((hub_folder().parent / "tokenizers").glob("*.json"))) == 1
    words._load.cache_clear()
    monkeypatch.setattr(words.subprocess, "run", None)
    check(folder)


@pytest.mark.engine
@pytest.mark.usefixtures("answered_here")
def test_a_tokenizer_that_nobody_can_load_is_one_sentence(tmp_path: Path) -> None:
    from tests.checkpoint.shards import write_llama

    write_llama(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_words(tmp_path)
    assert "tokenizer does not load" in caught.value.what and caught.value.todo
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="its tokenizer cannot be read"):
        load_words(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        load_words(tmp_path)


def test_a_preview_loads_neither_torch_nor_transformers_nor_datasets() -> None:
    code = (
        "import sys; from pathlib import Path; from quantui.calibration import schema\n"
        "from quantui.calibration.preview import open_seer, see; from quantui.calibration.survey import gather, survey\n"
        "for name in ('chat', 'vision'):\n"
        f"    seer = open_seer(Path({str(DEMO)!r}) / name)\n"
        f"    chosen = schema.load(Path({str(DEMO)!r}) / (name + '-data') / 'calibration.yaml')\n"
        "    samples = gather(seer, chosen).samples\n"
        "    assert see(seer, samples[:2], chosen.max_tokens)[0].problem is None; survey(seer, samples, chosen)\n"
        "print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ASSETS.parent, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stderr
