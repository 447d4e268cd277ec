"""Chat messages as text: through transformers' tokenizers, and without transformers in the same jinja environment.

Source of the environment: transformers v5.17.0, utils/chat_template_utils.py, _cached_compile_jinja_template; a test renders
the same templates through both.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from quantui.calibration.sample import plain
from quantui.calibration.schema import Calibration, read_text
from quantui.errors import CalibrationError
from quantui.workspace import check_inside

PLAIN = "plain"
Messages = Sequence[Mapping[str, Any]]


def read_template(calibration: Calibration, roots: Sequence[Path] = ()) -> str | None:
    """The template a calibration file asks for: None = the model's own, "" = none at all, else jinja text.

    Raises:
        CalibrationError: its file cannot be read.
        AccessError: it lies outside the roots.
    """
    template = calibration.template
    if template is None or template == PLAIN:
        return None if template is None else ""
    if template.endswith((".jinja", ".jinja2")) and "{" not in template:
        return read_text(check_inside(template, roots))
    return template


def with_template(processor: Any, template: str | None) -> Any:
    """The processor or tokenizer with another template; the given one stays as it is, since it is saved with the model."""
    if template is None:
        return processor
    changed = copy.copy(processor)
    changed.chat_template = template or None
    if hasattr(processor, "tokenizer"):
        changed.tokenizer = copy.copy(processor.tokenizer)
        changed.tokenizer.chat_template = template or None
    return changed


def has_template(tokenizer: Any) -> bool:
    """Whether chats go through a template."""
    return bool(getattr(tokenizer, "chat_template", None))


def chat_text(messages: Messages, tokenizer: Any, *, complete: bool, where: str) -> str:
    """Messages through the model's chat template; a model without one gets "role: content" lines.

    Raises:
        CalibrationError: the template refuses them.
    """
    if not has_template(tokenizer):
        return lines(messages, complete=complete)
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=not complete))
    except Exception as error:  # a template is a program, which can raise whatever Python can
        raise _refused(error, where) from error


def rendered(template: str, messages: Messages, special: Mapping[str, Any], *, complete: bool, where: str) -> str:
    """Messages through a template's text, as transformers would.

    Args:
        special: the tokenizer's special tokens by name, as bos_token.

    Raises:
        CalibrationError: the template refuses them.
    """
    try:
        found: str = _compiled(template).render(
            messages=list(messages), tools=None, documents=None, add_generation_prompt=not complete, **special
        )
        return found
    except Exception as error:  # a template is a program, which can raise whatever Python can
        raise _refused(error, where) from error


def lines(messages: Messages, *, complete: bool) -> str:
    """Messages as "role: content" lines."""
    return "\n".join(f"{m['role']}: {plain(m['content'])}" for m in messages) + ("" if complete else "\nassistant:")


def with_picture(messages: Messages) -> tuple[dict[str, Any], ...]:
    """Messages with a picture before the text of the first one that is the user's."""
    first = next((place for place, message in enumerate(messages) if message["role"] == "user"), 0)
    return tuple(
        {**m, "content": [*([{"type": "image"}] if place == first else []), {"type": "text", "text": plain(m["content"])}]}
        for place, m in enumerate(messages)
    )


def _refused(error: Exception, where: str) -> CalibrationError:
    todo = "reorder its roles, or remove the sample"
    return CalibrationError(f"the model's chat template refuses the messages ({error})", where=where, todo=todo)


@functools.lru_cache(maxsize=32)
def _compiled(template: str) -> Any:
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks what the model said; here it only stands aside."""

        tags = {"generation"}  # noqa: RUF012  (jinja's own form)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_through"), [], [], body).set_lineno(line)

        def _through(self, caller: Any) -> Any:
            return caller()

    def tojson(x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)
