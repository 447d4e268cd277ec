"""msModelSlim's words as a recipe: its scripts' command lines, its Python calls, its practice YAML.

Nothing is run or evaluated. Every parameter ends up in the report: what it became, or why it was not carried over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from quantui.recipe import literals
from quantui.recipe.imported import Given, Imported, Report, refuse, refuse_given
from quantui.recipe.literals import Call, Unknown
from quantui.recipe.msmodelslim_practice import is_practice, practice
from quantui.recipe.msmodelslim_scheme import recipe_of
from quantui.recipe.msmodelslim_table import (
    ANTI_OUTLIER,
    ANY_SCRIPT,
    CALIBRATOR,
    CHAINED,
    QUANT_CONFIG,
    SAVE,
    SCRIPTS,
    Parameter,
    Script,
)
from quantui.recipe.settings import Settings, nearest
from quantui.recipe.shell import Command, Kind, commands, flags

CLASSES: dict[str, dict[str, Parameter]] = {
    "QuantConfig": QUANT_CONFIG,
    "AntiOutlierConfig": ANTI_OUTLIER,
    "Calibrator": CALIBRATOR,
    **CHAINED,
}
_CALL = re.compile(r"\b(QuantConfig|AntiOutlierConfig|Calibrator)\s*\(")
_PROGRAM = re.compile(r"\bmsmodelslim\s+quant\b")
_SCRIPT = re.compile(r"(?:^|[\s/\\])(quant_\w+\.py|quantifier\.py)\b")
_SHARED_NAMES = ("w_bit", "a_bit", "w_sym")
"""Parameters of AntiOutlierConfig that QuantConfig has too, for itself."""
NPU_ENVIRONMENT = "environment variables are set where the program is started"


def is_msmodelslim(text: str) -> bool:
    """Whether a text looks like msModelSlim's words."""
    return bool(_CALL.search(text) or _SCRIPT.search(text) or _PROGRAM.search(text) or is_practice(text))


def read(text: str) -> Imported:
    """The recipe that msModelSlim's words stand for.

    Raises:
        RecipeError: they cannot be read, or cannot work; with line and column.
    """
    if is_practice(text):
        return practice(text)
    if _CALL.search(text):
        return _python(text)
    return _command_line(text)


def _command_line(text: str) -> Imported:
    report = Report()
    scripts = []
    for command in map(_with_program, commands(text)):
        for given in command.environment:
            report.leave(given, NPU_ENVIRONMENT)
        if command.name == "msmodelslim":
            what = "`msmodelslim quant` takes its parameters from a practice YAML, which is not in the text"
            todo = "paste that file: the one --config_path names, or the one of your model under lab_practice"
            raise refuse(what, command.program.line, command.program.column, todo)
        if command.name.endswith(".py") or any(word.text.startswith("--w_bit") for word in command.words):
            scripts.append(command)
        elif command.name != "export":
            words = " ".join(word.text for word in command.words)
            report.leave(Given(command.name, words, command.program.line), "it is no quantization script")
    if not scripts:
        todo = "paste `python3 quant_internlm2.py --w_bit 8 ...`, a QuantConfig(...) call, or a practice YAML"
        raise refuse("no command of msModelSlim stands here", 1, 1, todo)
    if len(scripts) > 1:
        second = scripts[1].program
        raise refuse("two quantization scripts stand here", second.line, second.column, "paste one of them")
    return _script(scripts[0], report)


def _with_program(command: Command) -> Command:
    """The command; of options alone, as documents quote them, that of a script without a name."""
    if not command.program.text.startswith("--"):
        return command
    return replace(command, program=command.program._replace(text=""), words=(command.program, *command.words))


def _script(command: Command, report: Report) -> Imported:
    known = SCRIPTS.get(command.name)
    script = known or ANY_SCRIPT
    settings = Settings(report)
    kinds: dict[str, Kind] = {name: parameter.kind for name, parameter in script.parameters.items()}
    given, loose, unknown = flags(command.words, kinds)
    if unknown:
        word = unknown[0]
        todo = nearest(word.text.lstrip("-").partition("=")[0], kinds)
        raise refuse(f"{command.name or 'the script'} has no parameter {word.text!r}", word.line, word.column, todo)
    if loose:
        raise refuse(f"{loose[0].text!r} belongs to no parameter", loose[0].line, loose[0].column, "take it away, or quote it")
    for word in command.launcher:
        report.leave(Given("launcher", word.text, word.line, word.column), NPU_ENVIRONMENT)
    settings.defaults = {name: parameter.default for name, parameter in {**QUANT_CONFIG, **script.parameters}.items()}
    settings.defaults |= script.fixed
    for item in given:
        settings.put(item)
    for item in given:
        if because := script.parameters[item.name].because:
            settings.leave(item.name, because)
            settings.given.pop(item.name, None) if item.name in script.fixed else None
    if known is None:
        named = f"{command.name} is not known here: parameters are read as those of msModelSlim's text scripts are"
        report.note(named if command.name else "no script is named: parameters are read as those of msModelSlim's text scripts")
        settings.defaults["mm_tensor"] = False
    _fix(settings, script, command.name)
    disabled = _disabled(settings, script, command.name)
    recipe = recipe_of(settings, disabled)
    settings.finish()
    return report.imported(recipe, "msmodelslim")


def _fix(settings: Settings, script: Script, name: str) -> None:
    """What a script does by itself, whatever it is told."""
    report = settings.report
    if "anti_method" in script.fixed:
        report.note(f"{name} always suppresses outliers with {script.fixed['anti_method']}")
    if settings["anti_method"] != "m6":
        return
    kind = settings["model_type"] or script.model_type
    if name in ("quant_qwen.py", "quant_llama.py"):
        settings.defaults["disable_anti_names"] = ["model.layers.*.self_attn.o_proj"]
        report.note(f"{name} leaves self_attn.o_proj as it is with anti_method m6")
    if name == "quant_qwen.py":
        settings.defaults["flex_config"] = {"alpha": 0.4, "beta": 0.325} if kind == "qwen3" else {"alpha": 0.6, "beta": 0.3}
        report.note(f"{name} sets alpha and beta of m6 by itself: {settings.defaults['flex_config']}")


def _disabled(settings: Settings, script: Script, name: str) -> tuple[str, ...]:
    """The layers that a script leaves in float by itself."""
    a_bit = 8 if settings["co_sparse"] else settings["a_bit"]
    if settings["disable_names"] or a_bit not in script.when:
        return ()
    kind = settings["model_type"] or script.model_type
    if settings["is_8B_model"]:
        kind = "8B"
    disabled = script.by_type.get(str(kind), script.disabled)
    settings.carry(("model_type", "is_8B_model"), f"ignore: {', '.join(disabled)}")
    settings.report.note(f"{name} leaves in float by itself: {script.whose}; that is {', '.join(disabled)}")
    return disabled


def _python(text: str) -> Imported:
    report = Report()
    settings = Settings(report)
    settings.defaults = {name: parameter.default for name, parameter in QUANT_CONFIG.items()}
    settings.defaults |= {"disable_level": "L0", "kv_sym": True, "tp_size": 1, "fa_amp": 0}
    seen: dict[str, Call] = {}
    found = literals.calls(re.sub(r"^\s*```.*$", "", text, flags=re.MULTILINE))  # which are put around code on web pages
    configs = {"QuantConfig", "AntiOutlierConfig", "Calibrator"} & {call.name for call in found}
    for call in found:
        if call.name == "save" and "Calibrator" in configs:
            _take(settings, call, SAVE)
        if call.name not in CLASSES or (call.name in CHAINED and "QuantConfig" not in configs):
            continue
        if call.name in seen:
            raise refuse(f"{call.name} is called twice", call.line, call.column, "paste the calls of one quantization")
        seen[call.name] = call
        _take(settings, call, CLASSES[call.name])
    if "QuantConfig" not in seen:
        raise refuse("there is no QuantConfig(...) here, which says the scheme", 1, 1, "paste it too")
    _chain(settings, seen)
    if "simulate_tp" in seen:
        settings.defaults |= dict.fromkeys(("enable_communication_quant", "enable_per_device_quant"), True)
    if "AntiOutlierConfig" in seen:
        settings.defaults["anti_method"] = "m2"
        if not settings.wrote("anti_method"):
            report.note("AntiOutlierConfig suppresses outliers with m2 by default")
    recipe = recipe_of(settings)
    settings.finish()
    return report.imported(recipe, "msmodelslim")


def _chain(settings: Settings, seen: dict[str, Call]) -> None:
    """What the methods of QuantConfig set by being called."""
    for method, name in (("kv_quant", "use_kvcache_quant"), ("fa_quant", "use_fa_quant"), ("sparse_quant", "co_sparse")):
        if method not in seen:
            continue
        if settings.wrote(name) and settings[name] is False:
            raise settings.refuse(f"{name} is False and .{method}() is called", name, "keep one of the two")
        if method == "sparse_quant" and settings["is_lowbit"]:
            continue  # which makes the sparse weights
        settings.given.setdefault(name, Given(f".{method}()", True, seen[method].line, seen[method].column))


def _take(settings: Settings, call: Call, table: dict[str, Parameter]) -> None:
    """Takes in the arguments of a call."""
    if call.starred:
        todo = "write them out"
        raise refuse(f"{call.name} is called with * or **, which says nothing of its arguments", call.line, call.column, todo)
    order = list(table)
    for argument in call.arguments:
        name = argument.name
        if name.isdigit():
            if int(name) >= len(order):
                raise refuse_given(f"{call.name} takes {len(order)} arguments", argument, "name the arguments")
            name = order[int(name)]
        if name not in table:
            raise refuse_given(f"{call.name} has no parameter {name!r}", argument, nearest(name, table))
        prefixed = call.name == "AntiOutlierConfig" and name in _SHARED_NAMES
        key = f"{call.name}.{name}" if prefixed else name
        given = Given(key, argument.value, argument.line, argument.column)
        if table[name].because:
            settings.report.leave(given, table[name].because)
        elif argument.value is None:
            settings.report.carry(given, "its default")
        else:
            settings.put(_typed(given, table[name].kind, {"mix_cfg", "flex_config"}))


def _typed(given: Given, kind: Kind, free: Iterable[str]) -> Given:
    """The argument, once it is sure to be of its kind."""
    value: Any = given.value
    if isinstance(value, Unknown) or (isinstance(value, dict) and any(isinstance(v, Unknown) for v in value.values())):
        what = f"{given.name} is {given.shown}, which the text does not write out"
        raise refuse_given(what, given, "write its value, or paste the lines that set it")
    if given.name in free:
        return given
    fits = {
        "int": type(value) is int,
        "float": type(value) in (int, float),
        "bool": type(value) is bool,
        "str": isinstance(value, str),
        "list": isinstance(value, list) and all(isinstance(item, str) for item in value),
    }[kind]
    if not fits:
        wanted = {"int": "a whole number", "float": "a number", "bool": "True or False", "str": "text"}.get(
            kind, "a list of names"
        )
        raise refuse_given(f"{given.name} is {given.value!r}, not {wanted}", given, f"write {wanted}")
    return given
