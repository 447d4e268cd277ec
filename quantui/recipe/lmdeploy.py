"""Command lines of `lmdeploy lite` as recipes: calibrate, kv_qparams, auto_awq, smooth_quant, auto_gptq.

Read in every spelling since 2023: `python3 -m lmdeploy.lite.apis.auto_awq --w_bits 4`, `lmdeploy lite auto_awq --w_bits 4
--kv_sym False` (0.0.x and 0.1.x), `lmdeploy lite auto_awq MODEL --w-bits 4` (from 0.2.0 on). Several commands of one run
make one recipe.

Sources: lmdeploy/lite/apis and lmdeploy/cli/lite.py of 0.0.4 to 0.16.0.
"""

from __future__ import annotations

import re
from typing import Any

from quantui.recipe.imported import Given, Imported, Report, refuse
from quantui.recipe.lmdeploy_table import COMMANDS, DATASETS, ELSEWHERE, Parameter
from quantui.recipe.schema import Awq, Gptq, OutlierSuppression, QuantArgs, QuantGroup, Recipe
from quantui.recipe.settings import Settings, nearest
from quantui.recipe.shell import Command, Kind, Word, commands, converted, flags

IGNORE = ("re:.*lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*")
"""What lmdeploy leaves in float: all that is in no decoder layer."""
_MODULE = re.compile(r"lmdeploy\.lite\.apis\.(\w+)")
_MENTION = re.compile(r"\blmdeploy\s+lite\b|\blmdeploy\.lite\.|lmdeploy/lite/apis/")
_ENVIRONMENT = "environment variables are set where the program is started"


def is_lmdeploy(text: str) -> bool:
    """Whether a text looks like a command of `lmdeploy lite`."""
    return bool(_MENTION.search(text))


def read(text: str) -> Imported:
    """The recipe that the commands stand for; `calibrate` alone asks for statistics and gives an empty one.

    Raises:
        RecipeError: they cannot be read, or cannot work; with line and column.
    """
    report = Report()
    fields: dict[str, Any] = {}
    seen: list[str] = []
    for command in commands(text):
        for given in command.environment:
            report.leave(given, _ENVIRONMENT)
        found = _lite(command)
        if found is None:
            if command.name != "export":
                shown = " ".join(word.text for word in command.words)
                report.leave(Given(command.name, shown, command.program.line), "it is no command of lmdeploy lite")
            continue
        name, words, old = found
        settings = _settings(command, name, words, report, old=old)
        clash = ("groups" in fields) and name in ("auto_awq", "smooth_quant", "auto_gptq")
        if clash or name in seen:
            line, column = command.program.line, command.program.column
            raise refuse(f"{name} comes after {seen[-1]}, which quantizes too", line, column, "paste one of them")
        seen.append(name)
        fields |= _READERS[name](settings) if name in _READERS else {}
        settings.finish()
    if not seen:
        raise refuse("no command of lmdeploy lite stands here", 1, 1, "paste `lmdeploy lite auto_awq MODEL ...`")
    if seen == ["calibrate"]:
        report.note(
            "calibrate only measures: it quantizes nothing, so the recipe is empty and cannot be run; the same statistics "
            "(extremes of keys, values and inputs) are collected by a statistics job, or as part of any recipe that needs them"
        )
        return report.imported(Recipe(), "lmdeploy", "statistics")
    return report.imported(Recipe(**fields), "lmdeploy")


def _lite(command: Command) -> tuple[str, list[Word], bool] | None:
    """The subcommand, the words behind it, and whether it is of the time before `lmdeploy lite`; None for another program."""
    words = list(command.words)
    if module := _MODULE.fullmatch(command.program.text):
        name = module.group(1)
        old = True
    elif command.name == "lmdeploy" or command.program.text == "lmdeploy":
        if len(words) < 2 or words[0].text != "lite":
            return None
        name, old = words[1].text, False
        words = words[2:]
    elif command.name.removesuffix(".py") in COMMANDS and "lite/apis" in command.program.text:
        name, old = command.name.removesuffix(".py"), True
    else:
        return None
    if name not in COMMANDS:
        todo = ELSEWHERE.get(name) or nearest(name, COMMANDS)
        raise refuse(f"lmdeploy lite has no command {name!r}", command.program.line, command.program.column, todo)
    return name, words, old


def _settings(command: Command, name: str, words: list[Word], report: Report, *, old: bool) -> Settings:
    """The parameters of one command; model and work folder are no part of a recipe."""
    table = COMMANDS[name]
    if not old and any("_" in word.text.partition("=")[0] for word in words if word.text.startswith("--")):
        old = True  # as before 0.2.0, when switches took a value
    kinds: dict[str, Kind] = {key: _kind(parameter, old=old) for key, parameter in table.items()}
    given, loose, unknown = flags(words, kinds, dashes=True)
    if unknown:
        word = unknown[0]
        todo = nearest(word.text.lstrip("-").partition("=")[0].replace("-", "_"), table).replace("_", "-")
        raise refuse(f"lmdeploy lite {name} has no parameter {word.text!r}", word.line, word.column, todo)
    settings = Settings(report, defaults={key: parameter.default for key, parameter in table.items()})
    places = [key for key, parameter in table.items() if parameter.positional]
    for key, word in zip(places, loose, strict=False):
        given.append(Given(key, converted(key, "str", word), word.line, word.column))
    if len(loose) > len(places):
        word = loose[len(places)]
        raise refuse(f"{word.text!r} belongs to no parameter of {name}", word.line, word.column, "take it away, or quote it")
    for item in given:
        if table[item.name].choices and str(item.value) not in table[item.name].choices:
            todo = f"use one of {', '.join(table[item.name].choices)}"
            raise refuse(f"{item.name} is {item.shown}", item.line, item.column, todo)
        settings.put(item)
        rounding = name == "auto_awq" and item.name == "calib_samples" and item.value == 0
        if table[item.name].because and not rounding:
            settings.leave(item.name, table[item.name].because)
    if "calib_dataset" in table and not settings.wrote("calib_dataset") and name != "kv_qparams":
        report.note(f"lmdeploy calibrates on {DATASETS} by default; here a calibration file says the data")
    for word in command.launcher:
        report.leave(Given("launcher", word.text, word.line, word.column), _ENVIRONMENT)
    return settings


def _kind(parameter: Parameter, *, old: bool) -> Kind:
    return "bool" if parameter.kind == "switch" and old else parameter.kind


def _awq(s: Settings) -> dict[str, Any]:
    _check_weights(s, "auto_awq")
    if s["w_sym"]:
        what = "symmetric AWQ weights never worked in lmdeploy: it stops, or writes words that do not hold the values"
        raise s.refuse(what, "w_sym", "leave w_sym out")
    s.carry("w_sym", "weights: asymmetric")
    weights = QuantArgs(
        num_bits=4, symmetric=False, strategy="group", group_size=s["w_group_size"], observer="lmdeploy", zp_dtype="torch.int8"
    )
    fields: dict[str, Any] = {"groups": (QuantGroup(name="group_0", weights=weights),), "ignore": IGNORE}
    if s.wrote("calib_samples") and s["calib_samples"] == 0:
        s.carry("calib_samples", "no awq: 0 samples mean plain rounding")
        s.leave("search_scale", "without samples nothing is searched")
        return fields
    searched = "awq: the strength is searched on a grid of 20"
    s.carry("search_scale", searched if s["search_scale"] else "outliers: lmdeploy, AWQ with the fixed strength 0.5")
    if not s["search_scale"]:
        return {**fields, "outliers": OutlierSuppression(method="lmdeploy")}
    return {**fields, "awq": Awq()}


def _check_weights(s: Settings, name: str) -> None:
    if s["w_bits"] != 4:
        raise s.refuse(f"{name} has 4-bit weights, not {s['w_bits']}", "w_bits", "use w_bits 4; smooth_quant makes 8-bit ones")
    size = s["w_group_size"]
    if size < 1:
        raise s.refuse(f"w_group_size is {size}", "w_group_size", "use w_group_size 128")
    s.carry("w_bits", "weights: int4")
    s.carry("w_group_size", f"weights: groups of {size}")
    if size != 128:
        s.report.note(f"TurboMind loads groups of 128 only, not {size}")


def _gptq(s: Settings) -> dict[str, Any]:
    _check_weights(s, "auto_gptq")
    weights = QuantArgs(num_bits=4, strategy="group", group_size=s["w_group_size"])
    s.report.note("auto_gptq quantizes symmetrically and keeps the columns in their order (desc_act false)")
    return {
        "groups": (QuantGroup(name="group_0", weights=weights),),
        "ignore": IGNORE,
        "gptq": Gptq(actorder=None),
    }


def _smooth(s: Settings) -> dict[str, Any]:
    dtype = str(s["quant_dtype"])
    if dtype == "float8_e5m2":
        what = "float8_e5m2 weights have no scheme here: its two mantissa bits cost more than any layer gains in range"
        raise s.refuse(what, "quant_dtype", "use quant_dtype fp8")
    kind: Any = "int" if dtype == "int8" else "float"
    s.carry("quant_dtype", f"weights and activations: {'int8' if kind == 'int' else 'fp8 (e4m3)'}")
    group = QuantGroup(
        name="group_0",
        weights=QuantArgs(type=kind, strategy="channel", observer="lmdeploy"),
        input_activations=QuantArgs(type=kind, strategy="token", dynamic=True),
    )
    s.leave("search_scale", "there is one strength for all layers here, 0.5" if s["search_scale"] else "it is off")
    return {"groups": (group,), "ignore": IGNORE, "outliers": OutlierSuppression(method="lmdeploy")}


def _cache(s: Settings) -> dict[str, Any]:
    if s["kv_bits"] != 8:
        what = f"kv_bits is {s['kv_bits']}: no version of its engine reads scales of other than 8 bits from files"
        raise s.refuse(what, "kv_bits", "use kv_bits 8")
    symmetric = bool(s["kv_sym"])
    s.carry("kv_bits", "kv_cache: int8, one scale for keys and one for values of a layer")
    s.carry("kv_sym", f"kv_cache: {'symmetric' if symmetric else 'asymmetric'}")
    if not s.wrote("kv_sym"):
        s.report.note("kv_sym is False by default since 0.0.7 (True in 0.0.4 to 0.0.6): asymmetric")
    if symmetric:
        s.report.note("no engine of lmdeploy read the two numbers that kv_sym writes; asymmetric ones it did")
    return {"kv_cache": QuantArgs(symmetric=symmetric, observer="static_minmax")}


_READERS = {"auto_awq": _awq, "auto_gptq": _gptq, "smooth_quant": _smooth, "kv_qparams": _cache}
