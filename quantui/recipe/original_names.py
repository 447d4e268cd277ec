"""Layer names of the original architectures as names of the native model that is quantized here.

msModelSlim and lmdeploy name the modules of InternLM2's, ChatGLM's and InternVL's own code. The tables are those that
checkpoints are converted by, so a fused projection stands for each of its parts.
"""

from __future__ import annotations

import functools
import re
import warnings

from quantui.checkpoint.convert.decoder import Decoder, chatglm, internlm2, plain
from quantui.checkpoint.convert.layout import Layout
from quantui.checkpoint.convert.vision import Vision, projector_layout, vision_layout
from quantui.checkpoint.inspect import MODULE_RENAMES

_DECODER = Decoder(vocab=2, hidden=4, intermediate=4, blocks=1, heads=2, kv_heads=1, head=2, bias=True)
_VISION = Vision(hidden=4, intermediate=4, blocks=1, patches=2, patch=2, channels=3, bias=True, head_norms=True, norm_bias=True)
_BLOCK = re.compile(r"(?<=\.)0(?=\.)")
_PARTS = (
    (r"\btransformer\.encoder\.layers\b", "model.layers"),
    (r"\bvision_model\.encoder\.layers\b", "vision_tower.encoder.layer"),
    (r"\bvision_model\b", "vision_tower"),
    (r"\blanguage_model\.model\b", "language_model"),
    (r"(?<![a-z0-9])mlp1(?![a-z0-9])", "multi_modal_projector"),
    (r"(?<![a-z])self_attention(?![a-z])", "self_attn"),
    (r"(?<![a-z])feed_forward(?![a-z])", "mlp"),
)
"""What holds layers, original to native, for globs that name no single layer."""
_INDEX = r"(\d+|[^.]*[*?\[{][^.]*)"  # a block number, or a glob in its place


@functools.cache
def _tables() -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Original module to native ones: of text models, and of InternVL; the one block is written 0."""
    seeing, texts = Layout(), Layout()
    seeing.add(vision_layout(_VISION), "vision_model.", "vision_tower.")
    seeing.add(projector_layout(4, 4, 0.5), "mlp1.", "multi_modal_projector.")
    for text in (internlm2(_DECODER), plain(_DECODER)):
        seeing.add(text, "language_model.", "language_model.")
    for text in (internlm2(_DECODER), chatglm(_DECODER, multi_query=True)):
        texts.add(text)
    return _modules(texts), _modules(seeing, internvl=True)


def _modules(layout: Layout, *, internvl: bool = False) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for original, native in layout.links:
        if original.tensor.endswith(".weight"):
            name = native.tensor.rpartition(".")[0]
            for pattern, replacement in MODULE_RENAMES["internvl"] if internvl else ():
                name = re.sub(pattern, replacement, name)
            found.setdefault(original.tensor.rpartition(".")[0], {})[name] = None
    return {original: tuple(natives) for original, natives in found.items()}


@functools.cache
def _patterns() -> list[tuple[re.Pattern[str], tuple[str, ...]]]:
    made = []
    for table in _tables():
        for original, natives in table.items():
            pattern = re.compile(_INDEX.join(map(re.escape, _BLOCK.split(original))))
            made.append((pattern, natives))
    return made


@functools.cache
def _endings() -> dict[str, tuple[str, ...]]:
    """What follows the block number, original to native, where the two differ and every architecture agrees."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for table in _tables():
        for original, natives in table.items():
            parts = _BLOCK.split(original)
            tails = tuple(_BLOCK.split(native)[-1].lstrip(".") for native in natives)
            tail = parts[-1].lstrip(".")
            steps = tail.split(".") if len(parts) > 1 else [original]
            for first in range(len(steps)):
                found.setdefault(".".join(steps[first:]), set()).add(tails)
    return {tail: next(iter(natives)) for tail, natives in found.items() if len(natives) == 1}


def native_names(name: str) -> tuple[str, ...]:
    """The native names of a layer's original name or glob; itself where it is none of them.

    `model.layers.3.attention.wqkv` gives q_proj, k_proj and v_proj of that block; `*.w2` gives `*.mlp.down_proj`.
    """
    for pattern, natives in _patterns():
        if found := pattern.fullmatch(name):
            index = found.group(1) if found.groups() else ""
            return tuple(index.join(_BLOCK.split(native)) for native in natives)
    glob = re.fullmatch(r"(\*\.?)([\w.]+)(\*?)", name)
    if glob and (tails := _endings().get(glob.group(2))) and not tails[0].endswith(glob.group(2)):
        return tuple(f"*{tail}{glob.group(3)}" for tail in tails)
    if is_glob(name):
        for part, native in _PARTS:
            name = re.sub(part, native, name)
    return (name,)


def pattern_of(glob: str) -> str:
    """An fnmatch glob, braces included, as the regular expression of a target or ignore entry, without `re:`."""
    parts: list[str] = []
    at, depth = 0, 0
    while at < len(glob):
        char = glob[at]
        at += 1
        if char == "*":
            parts.append(".*")
        elif char == "?":
            parts.append(".")
        elif char == "{" and glob.find("}", at) > 0:
            parts.append("(?:")
            depth += 1
        elif char == "}" and depth:
            parts.append(")")
            depth -= 1
        elif char == "," and depth:
            parts.append("|")
        elif char == "[" and (end := glob.find("]", at + 1)) > 0:
            parts.append(_class_of(glob[at:end]))
            at = end + 1
        else:
            parts.append(re.escape(char))
    return "".join(parts) + ")" * depth


def _class_of(inside: str) -> str:
    """What stands between brackets as a class; the characters themselves where it is none."""
    escaped = inside.replace("\\", r"\\").replace("[", r"\[")
    made = f"[{'^' + escaped[1:] if escaped.startswith('!') else escaped}]"
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(made)
    except re.error:
        return re.escape(f"[{inside}]")
    return made


def is_glob(name: str) -> bool:
    """Whether a name has a place that stands for more than one."""
    return any(char in name for char in "*?[{")


def entry(name: str) -> str:
    """A layer's name or glob as a target or ignore entry."""
    return f"re:{pattern_of(name)}$" if is_glob(name) else name


def entries(names: list[str]) -> tuple[tuple[str, ...], bool]:
    """Names or globs of the original model as entries for the native one, and whether any was translated."""
    found: dict[str, None] = {}
    translated = False
    for name in names:
        natives = native_names(name)
        translated |= natives != (name,)
        found.update(dict.fromkeys(entry(native) for native in natives))
    return tuple(found), translated
