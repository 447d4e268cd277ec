"""msModelSlim's practice YAML as a recipe: apiversion modelslim_v0 and modelslim_v1, also of models that see pictures.

Source: msModelSlim 26.1.0, lab_practice/*.yaml and msmodelslim/core/quant_service.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from quantui.errors import RecipeError
from quantui.recipe import text as yaml_text
from quantui.recipe.imported import WHERE, Given, Imported, Report
from quantui.recipe.msmodelslim_scheme import HEAD, recipe_of
from quantui.recipe.msmodelslim_steps import Path, Steps
from quantui.recipe.msmodelslim_table import ANTI_OUTLIER, DATA, JOB, QUANT_CONFIG
from quantui.recipe.schema import Recipe
from quantui.recipe.settings import Settings, nearest

VERSIONS = ("modelslim_v0", "modelslim_v1", "multimodal_vlm_modelslim_v1")
_HEAD = re.compile(r"^\s*[\"']?apiversion[\"']?\s*:", re.MULTILINE)


def is_practice(text: str) -> bool:
    """Whether a text is such a YAML."""
    return bool(_HEAD.search(text))


def practice(text: str) -> Imported:
    """The recipe of a practice YAML.

    Raises:
        RecipeError: it cannot be read, or says what cannot work; with the line.
    """
    document = yaml_text.Document(text, WHERE, RecipeError, columns=True)
    body = document.data
    if not isinstance(body, dict):
        raise document.fail("a practice is a mapping with apiversion and spec", (), "paste the whole file")
    version, spec = body.get("apiversion"), body.get("spec")
    if version not in VERSIONS:
        raise document.fail(f"apiversion {version!r} is not read", ("apiversion",), f"those read are {', '.join(VERSIONS)}")
    if not isinstance(spec, dict):
        raise document.fail("spec must be a mapping", ("spec",), "paste the whole file")
    steps = Steps(document, Report())
    for key, value in body.items():
        if key not in ("apiversion", "spec"):
            because = "it describes the file" if key == "metadata" else "it counts where spec refers to it"
            steps.leave((key,), value, because)
    return _old(steps, spec) if version == "modelslim_v0" else _new(steps, spec)


def _old(reader: Steps, spec: dict[str, Any]) -> Imported:
    """A modelslim_v0 spec: the parameters of the Python classes."""
    settings = Settings(reader.report, defaults={name: parameter.default for name, parameter in QUANT_CONFIG.items()})
    settings.defaults |= {"disable_level": "L0", "tp_size": 1}
    for key, value in spec.items():
        path: Path = ("spec", key)
        if key in ("calib_cfg", "anti_cfg"):
            for name, item in reader.mapping(value, path).items():
                _put(reader, settings, name, item, (*path, name), anti=key == "anti_cfg")
        elif key == "calib_params":
            for name, item in reader.mapping(value, path).items():
                if name in ("disable_level", "mix_cfg"):
                    settings.put(Given(name, item, reader.document.line((*path, name))))
                else:
                    reader.leave((*path, name), item, JOB)
        elif key in ("anti_params", "calib_save_params", "batch_size", "anti_dataset", "calib_dataset"):
            reader.leave(path, value, DATA if "dataset" in key else JOB)
        else:
            known = ("calib_cfg", "anti_cfg", "calib_params", "calib_save_params", "anti_dataset", "calib_dataset")
            raise reader.fail(f"unknown key {key!r} in spec", path, nearest(str(key), known))
    if spec.get("anti_cfg"):
        settings.defaults["anti_method"] = "m2"
    recipe = recipe_of(settings)
    settings.finish()
    return reader.report.imported(recipe, "msmodelslim")


def _put(reader: Steps, settings: Settings, name: str, value: Any, path: Path, *, anti: bool) -> None:
    table = ANTI_OUTLIER if anti else QUANT_CONFIG
    if name not in table:
        raise reader.fail(f"unknown key {name!r} in {path[-2]}", path, nearest(name, table))
    if table[name].because:
        reader.leave(path, value, table[name].because)
        return
    wanted: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str, "list": (list, str)}
    bad = isinstance(value, bool) != (table[name].kind == "bool") or not isinstance(value, wanted.get(table[name].kind, object))
    if value is not None and name != "flex_config" and bad:
        raise reader.fail(f"{name} is {value!r}, which is of another kind", path, f"write it as {table[name].kind}")
    if table[name].kind == "list":
        value = reader.names(value, path)
    if value is not None:
        key = f"AntiOutlierConfig.{name}" if anti and name in ("w_bit", "a_bit", "w_sym") else name
        settings.put(Given(key, value, reader.document.line(path)))


def _new(reader: Steps, spec: dict[str, Any]) -> Imported:
    """A modelslim_v1 spec: a list of steps."""
    for key, value in spec.items():
        if key in ("runner", "save", "dataset", "default_text", "prior"):
            because = {"prior": "what is learned before the steps has no counterpart", "save": JOB, "runner": JOB}
            reader.leave(("spec", key), value, because.get(key, DATA))
        elif key != "process":
            raise reader.fail(f"unknown key {key!r} in spec", ("spec", key), nearest(str(key), ("process", "save", "dataset")))
    reader.steps(spec.get("process"), ("spec", "process"))
    groups, ignored = reader.grouped()
    if spec.get("runner", "auto") != "model_wise":
        reader.report.note("layer by layer msModelSlim never reaches lm_head, so it stays in float: it is in ignore")
        ignored.append(HEAD)
    try:
        recipe = Recipe(groups=tuple(groups), ignore=tuple(ignored), **reader.fields)
    except ValidationError as error:
        what = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise reader.fail(what, ("spec", "process"), "correct the steps") from None
    if not recipe.quantizes:
        raise reader.fail("the practice quantizes nothing", ("spec", "process"), "add a linear_quant step")
    return reader.report.imported(recipe, "msmodelslim")
