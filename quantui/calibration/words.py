"""A model's tokenizer and chat template without torch and without weights: the same ids that transformers makes.

A folder whose tokenizer.json is used by transformers as it stands is read here directly. Others (transformers builds the
tokenizers of Qwen2, Llama and others anew from their vocabulary) are told once by a short-lived process that asks transformers,
and remembered.

Source: transformers v5.17.0, tokenization_utils_tokenizers.py, TokenizersBackend.__init__.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from quantui.calibration.hub import folder as hub_folder
from quantui.calibration.sample import Sample
from quantui.calibration.template import lines, rendered, with_picture
from quantui.errors import CheckpointError
from quantui.workspace import write_json

AS_THEY_STAND = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Tokenizer classes for which transformers takes tokenizer.json as it is."""

MENDED = ("mistral", "mistral3", "voxtral", "ministral", "pixtral")
"""Model types whose pre-tokenizer transformers may mend while loading."""

CHUNK = 512
"""Chats tokenized together."""
ASKING_SECONDS = 180


@dataclass(frozen=True)
class Words:
    """A tokenizer with its templates.

    Attributes:
        core: of the tokenizers package; neither cuts nor pads.
        template: for chats; empty when the model has none.
        picture_template: for chats with a picture; the processor's own where it has one.
        special: special tokens by name, as bos_token; templates may use them.
        end: id of the end-of-sequence token.
    """

    core: Any
    template: str
    picture_template: str
    special: Mapping[str, Any]
    end: int | None

    def with_template(self, template: str | None) -> Words:
        """Itself with another template; None changes nothing, "" takes the template away."""
        return self if template is None else replace(self, template=template, picture_template=template)

    def text(self, sample: Sample) -> tuple[str, bool]:
        """What is tokenized for a sample without stored ids, and whether special tokens are put around it.

        Raises:
            CalibrationError: the template refuses it.
        """
        if sample.image is not None:
            return self._chat(with_picture(sample.messages), self.picture_template, sample), False
        if sample.text is not None:
            return sample.text, True
        return self._chat(sample.messages, self.template, sample), not self.template

    def encode(self, text: str, *, special: bool) -> Any:
        """An encoding with ids and offsets (places in `text`)."""
        return self.core.encode(text, add_special_tokens=special)

    def encode_many(self, texts: Iterable[tuple[str, bool]]) -> Iterator[list[int]]:
        """Ids of many texts, in their order; while some are tokenized, by all cores, the next ones are asked for."""
        waiting = iter(texts)
        with ThreadPoolExecutor(1) as thread:
            running: Future[list[list[int]]] | None = None
            while part := list(islice(waiting, CHUNK)):
                after = thread.submit(self._encode_part, part)
                if running is not None:
                    yield from running.result()
                running = after
            if running is not None:
                yield from running.result()

    def _encode_part(self, part: Sequence[tuple[str, bool]]) -> list[list[int]]:
        found: dict[int, list[int]] = {}
        for special in (False, True):
            places = [place for place, (_, wanted) in enumerate(part) if wanted is special]
            encodings = self.core.encode_batch_fast([part[place][0] for place in places], add_special_tokens=special)
            found.update((place, encoding.ids) for place, encoding in zip(places, encodings, strict=True))
        return [found[place] for place in range(len(part))]

    @property
    def size(self) -> int:
        """How many tokens there are, added ones too."""
        return int(self.core.get_vocab_size(with_added_tokens=True))

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        """Tokens that stand for no text."""
        return frozenset(index for index, token in self.core.get_added_tokens_decoder().items() if token.special)

    def _chat(self, messages: Sequence[Mapping[str, Any]], template: str, sample: Sample) -> str:
        if not template:
            return lines(messages, complete=sample.complete)
        return rendered(template, messages, self.special, complete=sample.complete, where=sample.where)


def load_words(folder: Path) -> Words:
    """The tokenizer and templates of a model folder, kept for the next call as long as its files do not change.

    Raises:
        CheckpointError: there is no tokenizer, or it cannot be read.
    """
    return _load(folder, stamp(folder))


def stamp(folder: Path) -> str:
    """A number for the state of the folder's tokenizer and processor files."""
    files = sorted(file for pattern in ("*.json", "*.jinja", "*.model", "*.txt", "*.py") for file in folder.glob(pattern))
    facts = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if "index" not in file.name]
    return hashlib.sha256(json.dumps([str(folder.resolve()), facts]).encode()).hexdigest()[:24]


@functools.lru_cache(maxsize=4)
def _load(folder: Path, stamped: str) -> Words:
    config = read_json(folder / "tokenizer_config.json")
    if not stands_alone(folder):
        return _told(folder, stamped)
    file = folder / "tokenizer.json"
    core = _core(file.read_text(encoding="utf-8"), str(file))
    named = _named(config)
    _add_missing(core, config, named)
    template = _template(folder, config.get("chat_template"))
    processor = read_json(folder / "chat_template.json").get("chat_template")
    own = read_json(folder / "processor_config.json").get("chat_template")
    picture = template if (folder / "chat_template.jinja").is_file() else _default(processor) or _default(own) or template
    end = core.token_to_id(named["eos_token"]) if "eos_token" in named else None
    return Words(core, template, picture, {**named, **_extra_names(config)}, end)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is no such file.

    Raises:
        CheckpointError: it is no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"it cannot be read ({error})", where=str(path), todo="copy it again") from error
    if not isinstance(found, dict):
        raise CheckpointError("it is not a JSON object", where=str(path), todo="copy it again")
    return found


def stands_alone(folder: Path) -> bool:
    """Whether its tokenizer does as tokenizer.json says; else a process with transformers has to be asked.

    Raises:
        CheckpointError: its config is no JSON object.
    """
    config = read_json(folder / "tokenizer_config.json")
    return (
        (folder / "tokenizer.json").is_file()
        and config.get("tokenizer_class") in AS_THEY_STAND
        and "auto_map" not in config
        and not {"add_bos_token", "add_eos_token", "split_special_tokens"} & set(config)
        and read_json(folder / "config.json").get("model_type") not in MENDED
    )


def _core(body: str, where: str) -> Any:
    from tokenizers import Tokenizer

    try:
        core = Tokenizer.from_str(body)
    except Exception as error:  # it raises nothing more special
        what = f"its tokenizer cannot be read ({error})"
        raise CheckpointError(what, where=where, todo="copy the tokenizer files of the original model again") from error
    core.no_truncation()
    core.no_padding()
    return core


def _named(config: dict[str, Any]) -> dict[str, str]:
    named = {}
    for key, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            named[key] = text
    return named


def _extra_names(config: dict[str, Any]) -> dict[str, Any]:
    extra = config.get("extra_special_tokens", config.get("additional_special_tokens"))
    if isinstance(extra, dict):
        return {key: value for key, value in extra.items() if isinstance(value, str)}
    return {"additional_special_tokens": extra} if extra else {}


def _add_missing(core: Any, config: dict[str, Any], named: dict[str, str]) -> None:
    """Adds special tokens that tokenizer_config.json names and tokenizer.json does not hold."""
    from tokenizers import AddedToken

    there = {token.content for token in core.get_added_tokens_decoder().values()}
    missing: list[AddedToken] = []
    for _, entry in sorted(config.get("added_tokens_decoder", {}).items(), key=lambda item: int(item[0])):
        if isinstance(entry, dict) and entry.get("content") not in there:
            flags = {key: entry[key] for key in ("single_word", "lstrip", "rstrip", "normalized", "special") if key in entry}
            missing.append(AddedToken(entry["content"], **flags))
    extra = config.get("extra_special_tokens", config.get("additional_special_tokens")) or []
    more = [*named.values(), *(extra.values() if isinstance(extra, dict) else extra)]
    known = there | {token.content for token in missing}
    missing += [AddedToken(text, special=True) for text in dict.fromkeys(more) if isinstance(text, str) and text not in known]
    if missing:
        core.add_tokens(missing)


def _template(folder: Path, inline: Any) -> str:
    file = folder / "chat_template.jinja"
    return file.read_text(encoding="utf-8") if file.is_file() else _default(inline)


def _default(template: Any) -> str:
    """A template as it is, or the one called default of several."""
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else ""


def _told(folder: Path, stamped: str) -> Words:
    """What transformers makes of the folder, from an earlier answer or a process that is asked now."""
    kept = hub_folder().parent / "tokenizers" / f"{stamped}.json"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, ask("words", folder))
    body = read_json(kept)
    core = _core(body["core"], str(folder))
    return Words(core, body["template"], body["picture_template"], body["special"], body["end"])


def ask(what: str, folder: Path, *more: str) -> dict[str, Any]:
    """The answer of a short-lived process that may import transformers.

    Raises:
        CheckpointError: it could not give one.
    """
    command = [sys.executable, "-m", "quantui.calibration.answer", what, str(folder), *more]
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=ASKING_SECONDS, check=False)
        answer = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise CheckpointError("its tokenizer took too long to load", where=str(folder), todo="try again") from error
    if "error" in answer or not answer:
        what_failed = answer.get("error") or (done.stderr.splitlines() or ["it ended without a word"])[-1]
        raise CheckpointError(what_failed, where=str(folder), todo="copy the tokenizer files of the original model again")
    found: dict[str, Any] = answer
    return found
