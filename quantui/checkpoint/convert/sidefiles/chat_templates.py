"""Chat templates for folders that bring none: the formats their original code builds with string formatting, as Jinja.

InternVL's code takes its format from conversation.py by the name that config.json gives as `template`. Where that file lies
in the folder it is parsed (never run), so that a changed system message is found; otherwise the table here is used.

Sources: conversation.py of OpenGVLab/InternVL2-8B and InternVL2_5-8B (register_conv_template; get_prompt for MPT);
tokenizer_config.json of internlm/internlm2-chat-7b (chat_template); modeling_internlm.py of internlm/internlm-chat-7b
(build_inputs); tokenization_chatglm.py of THUDM/chatglm2-6b (build_prompt) and of THUDM/chatglm3-6b (build_single_message,
build_chat_input); chat_template of OpenGVLab/InternVL3-1B-hf (placeholders of pictures).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantui.checkpoint.convert.sidefiles.json_files import read_side

BUILDER_2 = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
BUILDER_2_5 = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"


@dataclass(frozen=True)
class Format:
    """A conversation of `role + text + end` for each message, after a system message that is there by default.

    Attributes:
        system: the default system message; empty for none.
        before_system, user, assistant: what goes before the text of each role.
        end: what follows every text.
    """

    system: str = ""
    before_system: str = "<|im_start|>system\n"
    user: str = "<|im_start|>user\n"
    assistant: str = "<|im_start|>assistant\n"
    end: str = "<|im_end|>\n"


PHI3 = Format("", "<|system|>\n", "<|user|>\n", "<|assistant|>\n", "<|end|>")
INTERNVL = {
    "internlm2-chat": Format(BUILDER_2, end="<|im_end|>"),
    "Hermes-2": Format(BUILDER_2, end="<|im_end|>"),
    "internvl2_5": Format(BUILDER_2_5),
    "internvl3": Format(BUILDER_2_5),
    "internvl3_5": Format(BUILDER_2_5),
    "phi3-chat": PHI3,
}
"""By the `template` of config.json."""

CHATML = Format()

TEXT_OF = """\
{%- macro text_of(content) -%}
{%- if content is string -%}{{- content -}}
{%- elif content -%}
{%- for part in content -%}{%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
"""

CONVERSATION = """\
{{- BOS -}}
{%- if SYSTEM and (not messages or messages[0]['role'] != 'system') -%}{{- BEFORE_SYSTEM + SYSTEM + END -}}{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}{{- BEFORE_SYSTEM -}}
{%- elif message['role'] == 'user' -%}{{- USER -}}
{%- elif message['role'] == 'assistant' -%}{{- ASSISTANT -}}
{%- else -%}{{- ROLE -}}
{%- endif -%}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- elif message['content'] -%}
{%- for content in message['content'] -%}
{%- if content['type'] == 'image' -%}{{- '<IMG_CONTEXT>\\n' -}}
{%- elif content['type'] == 'video' -%}{{- '<video>\\n' -}}
{%- elif content['type'] == 'text' -%}{{- content['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- END -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ASSISTANT -}}{%- endif -%}
"""

INTERNLM = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}{{- '<|System|>:' + text_of(message['content']) + '\\n' -}}
{%- elif message['role'] == 'user' -%}{{- '<|User|>:' + text_of(message['content']) + '\\n' -}}
{%- elif message['role'] == 'assistant' -%}{{- '<|Bot|>:' + text_of(message['content']) + '<eoa>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|Bot|>:' -}}{%- endif -%}
"""

CHATGLM2 = """\
{{- '[gMASK]' + SOP -}}
{%- set rounds = namespace(count=0) -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}{{- text_of(message['content']) + '\\n\\n' -}}
{%- elif message['role'] == 'user' -%}
{%- set rounds.count = rounds.count + 1 -%}
{{- '[Round ' ~ rounds.count ~ ']\\n\\n问：' + text_of(message['content']) + '\\n\\n' -}}
{%- elif message['role'] == 'assistant' -%}{{- '答：' + text_of(message['content']) -}}
{%- if not loop.last -%}{{- '\\n\\n' -}}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '答：' -}}{%- endif -%}
"""

CHATGLM3 = """\
{{- '[gMASK]' + SOP -}}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>' + (message['metadata'] or '') + '\\n' -}}
{%- set text = text_of(message['content']) -%}
{%- if message['role'] == 'system' and message['tools'] -%}
{%- set text = text + '\\n' + message['tools'] | tojson(indent=4) -%}
{%- endif -%}
{%- if text -%}{{- SPACE + text -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def source_template(folder: Path) -> str:
    """The chat template that the folder itself brings; "" for none."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json", "processor_config.json"):
        value = read_side(folder, name).get("chat_template")
        if isinstance(value, list):  # several, by name
            named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
            value = named.get("default")
        if isinstance(value, str) and value:
            return value
    return ""


def knows_pictures(template: str) -> bool:
    """Whether a template puts in the placeholder that InternVL's processor looks for."""
    return "<IMG_CONTEXT>" in template


def internvl_template(folder: Path, config: dict[str, Any], bos: str) -> tuple[str, list[str]]:
    """The template of an InternVL folder, with a note where its format had to be guessed.

    Args:
        bos: what the tokenizer puts before a text; "" for nothing.
    """
    name = str(config.get("template", ""))
    chosen = _parsed_format(folder / "conversation.py", name) or INTERNVL.get(name)
    notes = []
    if chosen is None:
        notes.append(
            f"The chat format {name!r} is not known; the chat template is that of internvl2_5 without a system message."
        )
        chosen = replace(INTERNVL["internvl2_5"], system="")
    return _conversation(chosen, bos), notes


def internlm2_template(bos: str) -> str:
    """ChatML, as InternLM2's own chat template has it."""
    return _conversation(CHATML, bos)


def internlm_template() -> str:
    """The format of InternLM (1): `<|User|>:` and `<|Bot|>:` lines, answers closed by `<eoa>`."""
    return TEXT_OF + INTERNLM


def chatglm_template(sop: str, *, version: int, prefix: bool) -> str:
    """[Round n] for ChatGLM2, role tokens for ChatGLM3.

    ChatGLM3 encodes each text apart from the line before it, so that the text gets its own leading space.

    Args:
        sop: how the start token is written.
        prefix: whether the tokenizer puts a space before a text.
    """
    return _filled(TEXT_OF + (CHATGLM2 if version == 2 else CHATGLM3), {"SOP": sop, "SPACE": " " if prefix else ""})


def _conversation(chosen: Format, bos: str) -> str:
    values = {
        "BEFORE_SYSTEM": chosen.before_system, "SYSTEM": chosen.system, "USER": chosen.user,
        "ASSISTANT": chosen.assistant, "END": chosen.end, "BOS": bos,
    }  # fmt: skip
    start, stop = chosen.user.split("user", 1) if "user" in chosen.user else ("", chosen.user)
    body = CONVERSATION.replace("ROLE", f"{_quoted(start)} + message['role'] + {_quoted(stop)}")
    return _filled(body, values)


def _filled(body: str, values: dict[str, str]) -> str:
    """The template with each constant set by a line at its top."""
    used = [f"{{%- set {name} = {_quoted(text)} -%}}" for name, text in values.items() if name in body]
    return "\n".join([*used, body])


def _quoted(text: str) -> str:
    """A Jinja string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


def _parsed_format(file: Path, name: str) -> Format | None:
    """The format that conversation.py registers under this name, if it is of the plain kind."""
    if not file.is_file():
        return None
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Conversation":
            given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
            if _literal(given.get("name")) == name:
                return _format_of(given)
    return None


def _format_of(given: dict[str, ast.expr]) -> Format | None:
    style = given.get("sep_style")
    roles = _literal(given.get("roles"))
    template, system = _literal(given.get("system_template")), _literal(given.get("system_message"))
    end = _literal(given.get("sep"))
    plain = isinstance(style, ast.Attribute) and style.attr == "MPT" and isinstance(end, str)
    if not plain or not isinstance(roles, tuple) or len(roles) != 2 or not isinstance(template, str):
        return None
    if not template.endswith("{system_message}"):
        return None
    before = template.removesuffix("{system_message}")
    return Format(str(system or ""), before, str(roles[0]), str(roles[1]), str(end))


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
