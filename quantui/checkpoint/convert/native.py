"""What transformers' own class says of the tensors that are planned, before one of them is written."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import Any

from quantui.checkpoint.convert.config import architecture
from quantui.checkpoint.convert.plan import BUFFERS, EXTRA, TABLE, TIED, TORCH_DTYPES, Plan, Problem, restore
from quantui.checkpoint.convert.stream import Source
from quantui.errors import CheckpointError

EMBEDDING = re.compile(r"(embed_tokens|tok_embeddings|word_embeddings)\.weight$")
"""What the table of token embeddings is called in any of the layouts."""


def check_native(plan: Plan) -> Plan:
    """The plan with what the native class misses or does not know among its problems; imports torch.

    The class is built on the meta device and asked to load tensors of the planned names and shapes, so that its own
    renaming, tying and merging of experts apply. A class that is not part of transformers cannot be asked, and then tensors
    that share their data are written out each.

    Raises:
        CheckpointError: transformers does not take the translated config.
    """
    model_class = native_class(plan)
    if model_class is None:
        return restore(plan, set(plan.aliases))
    config = _config_of(plan)
    report = _ask(model_class, config, plan)
    if report["missing_keys"] and plan.aliases:
        plan = restore(plan, set(plan.aliases))
        report = _ask(model_class, config, plan)
    plan, unknown = _without(plan, report["unexpected_keys"], model_class.__name__)
    problems = [Problem(name, f"is missing; {model_class.__name__} needs it") for name in sorted(report["missing_keys"])]
    problems += [Problem(name, EXTRA) for name in sorted(unknown)]
    for name, planned, wanted in sorted(report["mismatched_keys"]):
        problems.append(Problem(name, f"would have shape {list(planned)} where {model_class.__name__} asks for {list(wanted)}"))
    return replace(plan, problems=(*plan.problems, *problems))


def _without(plan: Plan, unknown: set[str], class_name: str) -> tuple[Plan, set[str]]:
    """The plan without tensors that the class does not know, where they are tables or extra ones are allowed; and the rest."""
    why = {name: TABLE for name in unknown if BUFFERS.search(name)}
    if plan.allow_extra:
        why = dict.fromkeys(unknown, f"is unknown to {class_name}; dropped because extra tensors are allowed") | why
    moves = tuple(move for move in plan.moves if move.target.name not in why)
    aliases = {name: kept for name, kept in plan.aliases.items() if kept not in why}
    return replace(plan, moves=moves, aliases=aliases, dropped=plan.dropped | why), unknown - why.keys()


def check_heads(plan: Plan) -> Plan:
    """The plan with every head among its problems that would be dropped for being the embedding, and is not."""
    heads = [name for name, why in plan.dropped.items() if why == TIED]
    table = next((move.parts[0].tensor for move in plan.moves if EMBEDDING.search(move.target.name)), None)
    if not heads or table is None:
        return plan
    with Source(plan.source) as source:
        wanted = source.digest(table)
        wrong = [name for name in heads if source.digest(name) != wanted]
    what = (
        f"is not {table}, to which tie_word_embeddings ties it; set that to false in config.json if the head is one of its own"
    )
    return replace(plan, problems=(*plan.problems, *(Problem(name, what) for name in wrong)))


def native_class(plan: Plan) -> Any:
    """The class of transformers that reads the result; None if it has none. Importing it takes seconds the first time."""
    if plan.kind.name == "internvl-back":
        return None
    import transformers

    try:
        found = getattr(transformers, architecture(plan.config), None)
    except (ImportError, RuntimeError):  # it is there, but something it needs is not
        return None
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None


def warm_up() -> None:
    """Has transformers make what it makes once, its table of renamed tensors above all, for a worker that stands by."""
    from transformers import AutoConfig, InternVLForConditionalGeneration

    text = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1}
    _load_nothing(InternVLForConditionalGeneration, AutoConfig.for_model("internvl", text_config=text), {})


def _config_of(plan: Plan) -> Any:
    from transformers import AutoConfig

    body = {name: value for name, value in plan.config.items() if name not in ("auto_map", "model_type")}
    try:
        return AutoConfig.for_model(str(plan.config["model_type"]), **body)
    except Exception as error:  # a class may raise anything on values it was not made for
        what = f"transformers does not take its config ({_told(error)})"
        raise CheckpointError(what, where=str(plan.source.folder), todo="check config.json against the original's") from error


def _ask(model_class: Any, config: Any, plan: Plan) -> dict[str, Any]:
    """missing_keys, unexpected_keys and mismatched_keys of loading what is planned.

    Raises:
        CheckpointError: the class cannot be built.
    """
    import torch

    state = {}
    for move in plan.moves:
        dtype = getattr(torch, TORCH_DTYPES.get(move.target.dtype, "float32"))
        state[move.target.name] = torch.empty(move.target.shape, dtype=dtype, device="meta")
    try:
        return _load_nothing(model_class, config, state)
    except Exception as error:  # as above
        what = f"{model_class.__name__} cannot be built from its config ({_told(error)})"
        raise CheckpointError(what, where=str(plan.source.folder), todo="check config.json against the original's") from error


def _load_nothing(model_class: Any, config: Any, state: dict[str, Any]) -> dict[str, Any]:
    """What transformers reports of loading these tensors, all on the meta device, and would otherwise log."""
    from transformers.utils import logging as engine_logging

    engine_logging.disable_progress_bar()
    loud = logging.getLogger("transformers")
    level, loud.level = loud.level, logging.CRITICAL
    try:
        _, report = model_class.from_pretrained(
            None, config=config, state_dict=state, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        loud.level = level
    answer: dict[str, Any] = report
    return answer


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
