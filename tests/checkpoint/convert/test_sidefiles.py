"""Side files of whole folders: InternVL with either language model, generation settings, processor_from, and the way back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from quantui.checkpoint.convert.sidefiles import check_native, image_token_id, special_ids, write_github, write_native
from quantui.checkpoint.convert.sidefiles.chat_templates import BUILDER_2
from quantui.checkpoint.processor import load_processor
from quantui.errors import CheckpointError
from tests.checkpoint.convert import sentences
from tests.checkpoint.convert.test_tokenizer_files import IM, UNUSED, added

DEMO = Path(__file__).resolve().parents[3] / "assets" / "demo"
PICTURE_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
pytestmark = pytest.mark.engine

NATIVE = {"model_type": "internvl", "transformers_version": "5.17.0", "text_config": {"model_type": "llama", "vocab_size": 640}}


def read(file: Path) -> dict[str, Any]:
    body = json.loads(file.read_text(encoding="utf-8"))
    assert isinstance(body, dict)
    return body


def internvl(where: Path, **changes: Any) -> tuple[Path, dict[str, Any]]:
    """A folder like InternVL2-8B: InternLM2's tokenizer with the tokens of pictures behind the vocabulary."""
    model = sentences.train(prefix=False, symbols=UNUSED)
    processor = sentences.processor(model)
    size = processor.get_piece_size()
    config = {
        "architectures": ["InternVLChatModel"], "model_type": "internvl_chat", "template": "internlm2-chat",
        "force_image_size": 28, "downsample_ratio": 0.5, "dynamic_image_size": True, "use_thumbnail": True,
        "min_dynamic_patch": 1, "max_dynamic_patch": 6, "pad2square": False,
        "vision_config": {"image_size": 448, "patch_size": 14},
        "llm_config": {"model_type": "internlm2", "vocab_size": size + 16, "bos_token_id": 1, "eos_token_id": 2}, **changes,
    }  # fmt: skip
    settings = {
        "tokenizer_class": "InternLM2Tokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "added_tokens_decoder": {**added(IM, processor.piece_to_id(UNUSED[0])), **added(PICTURE_TOKENS, size)},
        "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}", "model_max_length": 8192,
    }  # fmt: skip
    folder = sentences.folder(where, model, config, tokenizer_config=settings)
    shutil.copyfile(DEMO / "vision-github" / "preprocessor_config.json", folder / "preprocessor_config.json")
    return folder, config


def convert(source: Path, config: dict[str, Any], target: Path, *, kind: str = "internvl", **options: Any) -> list[str]:
    """write_native into a new folder that also gets a native config.json."""
    target.mkdir()
    (target / "config.json").write_text(json.dumps(NATIVE), encoding="utf-8")
    return write_native(source, config, target, NATIVE, kind=kind, **{"processor_from": None, **options})


def test_internvl_with_internlm2_loads_as_a_native_processor(tmp_path: Path) -> None:
    source, config = internvl(tmp_path / "source")
    assert check_native(source, config, kind="internvl", processor_from=None) == []
    notes = convert(source, config, tmp_path / "target")
    assert len(notes) == 1
    assert "'internlm2-chat'" in notes[0]
    processor = load_processor(tmp_path / "target", image_text=True)
    assert (processor.image_seq_length, processor.image_token_id) == (1, image_token_id(source))
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "你好"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    system = f"<|im_start|>system\n{BUILDER_2}<|im_end|>"
    assert text == f"<s>{system}<|im_start|>user\n<IMG_CONTEXT>\n你好<|im_end|><|im_start|>assistant\n"
    own = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]
    assert processor.apply_chat_template(own) == (
        "<s><|im_start|>system\nS<|im_end|><|im_start|>user\nU<|im_end|><|im_start|>assistant\nA<|im_end|>"
    )
    inputs = processor(images=[Image.new("RGB", (90, 30))], text=[text], add_special_tokens=False, return_tensors="pt")
    assert inputs["pixel_values"].shape == (4, 3, 28, 28)  # three tiles and the whole
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(processor.image_token_id) == 4
    assert ids[:2] == [1, processor.tokenizer.convert_tokens_to_ids("<|im_start|>")]
    assert processor.tokenizer.model_max_length == 8192
    settings = read(tmp_path / "target" / "generation_config.json")
    stop = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert settings == {"bos_token_id": 1, "eos_token_id": [2, stop], "pad_token_id": 2, "transformers_version": "5.17.0"}
    ids = special_ids(source, config, kind="internvl")
    assert ids == {"bos_token_id": 1, "eos_token_id": [2, stop], "pad_token_id": 2, "image_token_id": image_token_id(source)}


def same_chat(folder: Path) -> tuple[str, list[int], list[list[float]]]:
    """What a chat with a picture becomes."""
    processor = load_processor(folder, image_text=True)
    picture = Image.open(next(iter(sorted((DEMO / "vision-data" / "images").iterdir())))).convert("RGB").resize((112, 56))
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=[picture], text=[text], return_tensors="pt")
    return text, inputs["input_ids"][0].tolist(), inputs["pixel_values"].flatten(1).tolist()


def test_the_demo_gives_what_its_native_twin_gives(tmp_path: Path) -> None:
    source = DEMO / "vision-github"
    config, there = read(source / "config.json"), read(DEMO / "vision" / "config.json")
    target = tmp_path / "target"
    target.mkdir()
    shutil.copyfile(DEMO / "vision" / "config.json", target / "config.json")
    assert write_native(source, config, target, there, kind="internvl", processor_from=None) == []
    assert same_chat(target) == same_chat(DEMO / "vision")
    for name in (
        "processor_config.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
        "tokenizer_config.json",
    ):
        assert read(target / name) == read(DEMO / "vision" / name), name
    assert read(target / "generation_config.json") == {**read(DEMO / "vision" / "generation_config.json"), "eos_token_id": 2}
    assert special_ids(source, config, kind="internvl")["image_token_id"] == there["image_token_id"]


def test_a_finished_tokenizer_is_kept_and_loses_its_code(tmp_path: Path) -> None:
    source, config = internvl(tmp_path / "source")
    convert(source, config, tmp_path / "made")
    shutil.copyfile(tmp_path / "made" / "tokenizer.json", source / "tokenizer.json")
    (source / "tokenizer.model").unlink()
    ids = special_ids(source, config, kind="internvl")
    convert(source, config, tmp_path / "kept")
    settings = read(tmp_path / "kept" / "tokenizer_config.json")
    assert "auto_map" not in settings
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    made, kept = (load_processor(tmp_path / name, image_text=True).tokenizer for name in ("made", "kept"))
    text = "<|im_start|>user\n<img><IMG_CONTEXT></img> 你好<|im_end|>"
    assert made(text)["input_ids"] == kept(text)["input_ids"]
    assert ids["image_token_id"] == kept.convert_tokens_to_ids("<IMG_CONTEXT>")


def test_vocabulary_and_merges_of_a_stock_class_are_kept(tmp_path: Path) -> None:
    """InternVL2.5 and 3 on Qwen2.5 come with vocab.json and merges.txt and no tokenizer.json."""
    from tokenizers import ByteLevelBPETokenizer

    source, config = internvl(tmp_path / "source", template="internvl2_5")
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(sentences.TEXT * 3, vocab_size=400)
    size = trained.get_vocab_size()
    (source / "tokenizer.model").unlink()
    trained.save_model(str(source))
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *PICTURE_TOKENS)
    settings = {
        "tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added(names, size), "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "bos_token": None, "add_bos_token": False, "additional_special_tokens": list(names[1:]),
    }  # fmt: skip
    (source / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (source / "added_tokens.json").write_text(json.dumps({text: size + n for n, text in enumerate(names)}), encoding="utf-8")
    convert(source, config, tmp_path / "target")
    processor = load_processor(tmp_path / "target", image_text=True)
    assert processor.image_token_id == image_token_id(source) == size + 5
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "的 a"}]},
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n<IMG_CONTEXT>\n的 a<|im_end|>\n<|im_start|>assistant\n"
    ids = processor(images=[Image.new("RGB", (28, 28))], text=[text])["input_ids"][0]
    assert ids[0] == size + 1
    assert ids.count(size + 5) == 1
    assert processor.tokenizer.decode(ids) == text.replace("<IMG_CONTEXT>", "<img><IMG_CONTEXT></img>")
    assert read(tmp_path / "target" / "generation_config.json")["eos_token_id"] == [size + 2, 2]


def test_the_way_back_writes_the_files_of_the_github_layout(tmp_path: Path) -> None:
    native, github = DEMO / "vision", DEMO / "vision-github"
    config, there = read(native / "config.json"), read(github / "config.json")
    assert write_github(native, config, tmp_path, there, processor_from=None) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "chat_template.jinja", "generation_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    for file in tmp_path.iterdir():
        same = file.read_bytes() == (github / file.name).read_bytes()
        assert same or read(file) == read(github / file.name), file.name


def test_the_way_back_with_the_original_tokenizer(tmp_path: Path) -> None:
    source, config = internvl(tmp_path / "source")
    code = source / "tokenization_internlm2.py"
    code.write_text("raise RuntimeError\n", encoding="utf-8")
    convert(source, config, tmp_path / "native")
    (tmp_path / "back").mkdir()
    settings = read(source / "preprocessor_config.json")
    (source / "preprocessor_config.json").write_text(json.dumps({**settings, "size": 28, "crop_size": 28}), encoding="utf-8")
    assert write_github(tmp_path / "native", NATIVE, tmp_path / "back", config, processor_from=source) == []
    assert {file.name for file in (tmp_path / "back").iterdir()} >= {"tokenizer.model", code.name, "preprocessor_config.json"}
    with pytest.raises(CheckpointError, match=r"<IMG_CONTEXT>.*the size of a tile is 28, and there 56"):
        write_github(tmp_path / "native", NATIVE, tmp_path / "back", config, processor_from=DEMO / "vision-github")


def test_processor_from_is_copied_when_it_fits_and_refused_with_every_reason(tmp_path: Path) -> None:
    source, config = internvl(tmp_path / "source")
    convert(source, config, tmp_path / "made")
    made = {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()}
    assert convert(source, config, tmp_path / "copied", processor_from=tmp_path / "made") == []
    assert {file.name: file.read_bytes() for file in (tmp_path / "copied").iterdir()} == made
    template = tmp_path / "made" / "chat_template.jinja"
    (tmp_path / "made" / "chat_template.jinja").rename(tmp_path / "template")
    convert(source, config, tmp_path / "without", processor_from=tmp_path / "made")
    assert (tmp_path / "without" / "chat_template.jinja").read_bytes() == made[template.name]
    (tmp_path / "template").rename(template)
    (source / "tokenizer.model").unlink()  # what the source lacks, the other folder has
    assert convert(source, config, tmp_path / "again", processor_from=tmp_path / "made") == []

    whole, _ = internvl(tmp_path / "whole")
    wrong = read(tmp_path / "made" / "processor_config.json")
    wrong["image_processor"] |= {"size": {"height": 56, "width": 56}, "image_mean": [0.5, 0.5, 0.5]}
    wrong["image_seq_length"] = 4
    (tmp_path / "made" / "processor_config.json").write_text(json.dumps(wrong), encoding="utf-8")
    tokens = (tmp_path / "made" / "tokenizer.json").read_text(encoding="utf-8").replace("<IMG_CONTEXT>", "<OTHER>")
    (tmp_path / "made" / "tokenizer.json").write_text(tokens, encoding="utf-8")
    with pytest.raises(CheckpointError) as raised:
        convert(whole, config, tmp_path / "refused", processor_from=tmp_path / "made")
    for part in (
        "'<IMG_CONTEXT>' has the id",
        "the size of a tile is 28, and there 56",
        "is 1, and there 4",
        "mean of the colours",
    ):
        assert part in str(raised.value)
    assert check_native(whole, config, kind="internvl", processor_from=tmp_path / "made") == [str(raised.value)]
    assert check_native(whole, config, kind="internvl", processor_from=tmp_path / "nowhere")[0].endswith("so that one is made.")


def test_what_the_native_processor_cannot_do_is_said(tmp_path: Path) -> None:
    source, config = internvl(tmp_path / "source", use_thumbnail=False, pad2square=True, template="mine")
    config["llm_config"]["vocab_size"] -= 7
    body = {**NATIVE, "text_config": {"vocab_size": config["llm_config"]["vocab_size"]}}
    (tmp_path / "target").mkdir()
    notes = " ".join(write_native(source, config, tmp_path / "target", body, kind="internvl", processor_from=None))
    for part in ("use_thumbnail is false", "pad2square is true", "'mine' is not known", "<video> gets the id"):
        assert part in notes


def test_a_changed_conversation_file_is_read(tmp_path: Path) -> None:
    source, config = internvl(tmp_path / "source", template="house")
    (source / "conversation.py").write_text(
        "import nothing_that_exists\nregister_conv_template(Conversation(name='house', system_template='[S]{system_message}', "
        "system_message='Our \\'own\\'', roles=('[U]', '[A]'), sep_style=SeparatorStyle.MPT, sep='[E]\\n'))\n",
        encoding="utf-8",
    )
    convert(source, config, tmp_path / "target")
    template = (tmp_path / "target" / "chat_template.jinja").read_text(encoding="utf-8")
    import jinja2

    made = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    messages = [{"role": "user", "content": "Q"}]
    assert made.render(messages=messages, add_generation_prompt=True) == "<s>[S]Our 'own'[E]\n[U]Q[E]\n[A]"


def test_generation_settings_keep_what_transformers_takes(tmp_path: Path) -> None:
    from transformers import GenerationConfig

    source, config = internvl(tmp_path / "source")
    given = {
        "max_new_tokens": 512,
        "temperature": 0.7,
        "early_stopping": "soon",
        "eos_token_id": 9,
        "cache_implementation": "odd",
    }
    (source / "generation_config.json").write_text(json.dumps(given), encoding="utf-8")
    notes = convert(source, config, tmp_path / "target")
    assert "without cache_implementation, early_stopping, temperature, which" in notes[-1]
    loaded = GenerationConfig.from_pretrained(tmp_path / "target")
    loaded.validate(strict=True)
    assert loaded.max_new_tokens == 512
    assert loaded.eos_token_id[0] == 2


def test_bad_tokenizers_are_refused_before_the_work(tmp_path: Path) -> None:
    source, config = internvl(tmp_path / "source")
    model = (source / "tokenizer.model").read_bytes()

    def problem(data: bytes, **changes: Any) -> str:
        (source / "tokenizer.model").write_bytes(data)
        problems = check_native(source, {**config, **changes}, kind="internvl", processor_from=None)
        assert len(problems) == 1
        with pytest.raises(CheckpointError):
            write_native(source, {**config, **changes}, tmp_path, NATIVE, kind="internvl", processor_from=None)
        return problems[0]

    assert "broken or no SentencePiece model" in problem(model[: len(model) // 2])
    assert "broken or no SentencePiece model" in problem(b"IQ== 0\nIg== 1\n")
    assert "broken or no SentencePiece model" in problem(b"")
    assert "git lfs pull" in problem(b"version https://git-lfs.github.com/spec/v1\n")
    assert "the type 'word'" in problem(sentences.train(kind="word", byte_fallback=False, size=60))
    assert "ids up to" in problem(model, llm_config={"vocab_size": 600})
    assert "make no sense" in problem(model, force_image_size=7)
    (source / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"x": {}}}', encoding="utf-8")
    assert "malformed" in problem(model)
    (source / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    assert "no token <img>, </img>, <IMG_CONTEXT>" in problem(model)


def test_a_folder_without_a_tokenizer_gets_its_picture_settings_only(tmp_path: Path) -> None:
    source, config = internvl(tmp_path / "source")
    (source / "tokenizer.model").unlink()
    (tmp_path / "target").mkdir()
    assert write_native(source, config, tmp_path / "target", NATIVE, kind="internvl", processor_from=None) == []
    assert not list((tmp_path / "target").glob("*token*"))
    assert json.loads((tmp_path / "target" / "preprocessor_config.json").read_text())["size"]
    with pytest.raises(CheckpointError, match="make no sense"):
        wrong = {**config, "force_image_size": 7}
        write_native(source, wrong, tmp_path / "target", NATIVE, kind="internvl", processor_from=None)


def test_importing_loads_no_engine() -> None:
    code = "import sys, quantui.checkpoint.convert.sidefiles; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_keeping_leaves_weights_and_needless_code(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in (
        "config.json",
        "a.safetensors",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "optimizer.pt",
        ".hidden",
    ):
        (source / name).write_text("{}", encoding="utf-8")
    for name in ("tokenizer.json", "README.md", "modeling_x.py"):
        (source / name).write_text("{}", encoding="utf-8")
    assert write_native(source, {}, target, {}, kind="keep", processor_from=None) == []
    assert sorted(file.name for file in target.iterdir()) == ["README.md", "tokenizer.json"]
    notes = write_native(source, {"auto_map": {"AutoModel": "modeling_x.X"}}, target, {}, kind="keep", processor_from=None)
    assert (target / "modeling_x.py").is_file()
    assert "trust_remote_code" in notes[0]
    assert check_native(source, {}, kind="keep", processor_from=None) == []
