"""generation_config.json: what the source says, as far as transformers takes it, with the tokens at which a chat stops.

Sources, each the function `chat`: modeling_internvl_chat.py of OpenGVLab/InternVL2_5-8B (the format's separator) and,
for eos_token_id, modeling_internlm2.py of internlm/internlm2-chat-7b, modeling_internlm.py of internlm/internlm-chat-7b and
modeling_chatglm.py of THUDM/chatglm3-6b.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from quantui.checkpoint.convert.sidefiles.json_files import read_side
from quantui.checkpoint.convert.sidefiles.tokenizer_files import TokenizerFacts

STOPS = {
    "internvl": ("<|im_end|>", "<|end|>"),
    "internlm2": ("<|im_end|>",),
    "internlm": ("<eoa>",),
    "chatglm": ("<|user|>", "<|observation|>"),
}
"""What ends an answer beside the tokenizer's eos, by the kind of the source; those that its tokenizer has."""

OURS = ("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config")


def token_ids(kind: str, config: dict[str, Any], facts: TokenizerFacts) -> dict[str, Any]:
    """bos_token_id, eos_token_id (one id or a list) and pad_token_id, those there are.

    Names of the tokenizer go before numbers of the config, as fine-tuning tools forget the latter.
    """
    text = config.get("llm_config") if isinstance(config.get("llm_config"), dict) else config
    assert isinstance(text, dict)
    found: dict[str, Any] = {}
    bos = facts.id(facts.named.get("bos_token", ""))
    bos = _whole(text.get("bos_token_id")) if bos is None else bos
    if bos is not None and kind != "chatglm":
        found["bos_token_id"] = bos
    ends = [facts.id(facts.named.get("eos_token", "")), *(facts.id(stop) for stop in STOPS.get(kind, ()))]
    given = text.get("eos_token_id")
    ends += [_whole(number) for number in (given if isinstance(given, list) else [given])]
    stops = list(dict.fromkeys(number for number in ends if number is not None))
    if stops:
        found["eos_token_id"] = stops[0] if len(stops) == 1 else stops
    pad = facts.id(facts.named.get("pad_token", ""))
    pad = _whole(text.get("pad_token_id")) if pad is None else pad
    if pad is not None or stops:
        found["pad_token_id"] = stops[0] if pad is None else pad
    return found


def native_generation(source: Path, ids: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The body of generation_config.json, with a note on what transformers would refuse. Imports transformers."""
    given = {key: value for key, value in read_side(source, "generation_config.json").items() if key not in OURS}
    kept = {**given, **ids}
    dropped: list[str] = []
    while (wrong := _refused(kept)) is not None:
        named = [key for key in wrong if key in given and key in kept] or [key for key in kept if key in given][:1]
        if not named:
            break
        dropped += named
        kept = {key: value for key, value in kept.items() if key not in named}
    notes = []
    if dropped:
        names = ", ".join(sorted(set(dropped)))
        notes.append(f"generation_config.json was written without {names}, which transformers would refuse there.")
    return {key: kept[key] for key in sorted(kept)}, notes


def _refused(body: dict[str, Any]) -> list[str] | None:
    """The keys that transformers complains of; None where it takes the whole."""
    import warnings

    from transformers import GenerationConfig
    from transformers.utils import logging

    said = logging.get_verbosity()
    logging.set_verbosity_error()  # it also warns of what is then raised
    try:
        with warnings.catch_warnings(action="ignore"):
            GenerationConfig(**body).validate(strict=True)
    except (ValueError, TypeError, AttributeError) as error:
        return re.findall(r"`(\w+)`", str(error))
    finally:
        logging.set_verbosity(said)
    return None


def _whole(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
