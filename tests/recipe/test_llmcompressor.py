"""llm-compressor's YAML to a recipe and back, and every text that is not one."""

from __future__ import annotations

import re
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from quantui.errors import RecipeError
from quantui.recipe import llmcompressor
from quantui.recipe.args import OBSERVERS
from quantui.recipe.llmcompressor import dumps, load, loads, read
from quantui.recipe.llmcompressor.names import FIELDS
from quantui.recipe.schema import Gptq, QuantArgs, QuantGroup, Recipe, SmoothQuant
from quantui.recipe.schemes import PRESETS
from quantui.workspace import RECIPES
from tests.recipe.values import recipes

SHIPPED = sorted(RECIPES.glob("*.yaml"))

SEED = """\
quant_stage:
  quant_modifiers:
    QuantizationModifier:
      ignore: ["re:.*lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*"]
      config_groups:
        group_0:
          weights:
            num_bits: 8
            type: float
            strategy: tensor
            dynamic: false
            symmetric: true
          input_activations:
            num_bits: 8
            type: float
            strategy: tensor
            dynamic: false
            symmetric: true
          targets: ["Linear"]
      kv_cache_scheme:
        num_bits: 8
        type: float
        strategy: tensor
        dynamic: false
        symmetric: true
"""


def staged(body: str, modifier: str = "QuantizationModifier") -> str:
    """A recipe of one modifier, whose fields begin on line 4."""
    lines = "".join(f"      {line}\n" for line in body.splitlines())
    return f"quant_stage:\n  quant_modifiers:\n    {modifier}:\n{lines}"


def refused(source: str) -> RecipeError:
    """The error that this recipe raises."""
    with pytest.raises(RecipeError) as caught:
        loads(source, where="r.yaml")
    assert caught.value.todo and "\n" not in str(caught.value)
    assert re.fullmatch(r"r\.yaml:\d+:\d+", caught.value.where)
    return caught.value


# --- what is understood


def test_the_seed_era_recipe_is_understood_word_for_word() -> None:
    fp8 = QuantArgs(type="float")
    assert loads(SEED) == Recipe(
        groups=(QuantGroup(name="group_0", targets=("Linear",), weights=fp8, input_activations=fp8),),
        ignore=("re:.*lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*"),
        kv_cache=fp8,
    )


def test_a_scheme_by_name_is_its_group() -> None:
    recipe = loads(staged("scheme: fp8_dynamic\ntargets: [Linear]\nignore: lm_head"))
    (group,) = recipe.groups
    assert (group.name, group.targets, recipe.ignore) == ("group_0", ("Linear",), ("lm_head",))
    assert (group.weights, group.input_activations) == PRESETS["FP8_DYNAMIC"]
    assert loads(staged("scheme: FP8_DYNAMIC")).groups == recipe.groups


def test_several_schemes_are_groups_in_their_order() -> None:
    recipe = loads(staged('scheme: {W8A8: "re:.*q_proj", W4A16: ["re:.*mlp.*", "re:.*o_proj"]}'))
    assert [(group.name, group.targets) for group in recipe.groups] == [
        ("group_0", ("re:.*q_proj",)),
        ("group_1", ("re:.*mlp.*", "re:.*o_proj")),
    ]
    assert recipe.groups[1].weights == PRESETS["W4A16"][0]


def test_only_a_cache_is_a_recipe() -> None:
    recipe = loads(staged("targets: []\nkv_cache_scheme: {num_bits: 8, type: float}"))
    assert recipe == Recipe(kv_cache=QuantArgs(type="float"))


def test_gptq_and_smoothquant_are_understood() -> None:
    source = """\
one_stage:
  smooth_modifiers:
    SmoothQuantModifier:
      smoothing_strength: 0.8
      algorithm: log_equalization
      mappings: [[["re:.*q_proj", "re:.*k_proj"], "re:.*input_layernorm"], ["re:.*up_proj", "re:.*post.*"]]
  gptq_modifiers:
    GPTQModifier: {scheme: W4A16, block_size: 64, dampening_frac: 0.1, actorder: null, batched_quantization: 4}
"""
    recipe = loads(source)
    assert recipe.gptq == Gptq(block_size=64, dampening_frac=0.1, actorder=None, batched_quantization=4)
    assert recipe.smoothquant == SmoothQuant(
        strength=0.8,
        algorithm="log_equalization",
        mappings=((("re:.*q_proj", "re:.*k_proj"), "re:.*input_layernorm"), (("re:.*up_proj",), "re:.*post.*")),
    )
    assert loads(source.replace("one_stage", "my-own_stage").replace("gptq_mod", "a b_mod")) == recipe


def test_modifiers_without_a_body_are_understood() -> None:
    source = "s_stage:\n  q_modifiers:\n    SmoothQuantModifier:\n    GPTQModifier: {scheme: W8A8}\n"
    assert loads(source).smoothquant == SmoothQuant()
    assert loads(source).gptq == Gptq()


def test_observers_of_the_modifier_go_into_its_groups() -> None:
    static = "config_groups: {g: {weights: {observer: mse}, input_activations: {}}}"
    (group,) = loads(staged(f"{static}\nweight_observer: MSE\ninput_observer: static-minmax")).groups
    assert group.weights is not None and group.input_activations is not None
    assert (group.weights.observer, group.input_activations.observer) == ("mse", "static_minmax")
    (group,) = loads(staged(f"{static}\nobserver: {{input: memoryless minmax, output: mse}}")).groups
    assert group.weights is not None and group.input_activations is not None and group.output_activations is None
    assert (group.weights.observer, group.input_activations.observer) == ("mse", "memoryless_minmax")


def test_patterns_that_python_warns_about_are_taken_without_a_word() -> None:
    with warnings.catch_warnings(action="error"):
        assert loads(staged('scheme: W8A8\nignore: ["re:.*[[a]b", "re:.*[a||b]"]')).ignore == ("re:.*[[a]b", "re:.*[a||b]")


def test_null_is_as_good_as_nothing_said() -> None:
    null = "\n".join(f"{key}: null" for key in ("ignore", "config_groups", "observer", "weight_observer", "kv_cache_scheme"))
    assert loads(staged(f"scheme: W8A8\ntargets: null\n{null}")) == loads(staged("scheme: W8A8"))


# --- what the engine would run in silence, or stop at late


TABLE = {
    "unknown modifier": (staged("scheme: FP8", "QuantisationModifier"), 3, "unknown modifier 'QuantisationModifier'"),
    "unknown field": (staged("scheme: FP8\nignored: [lm_head]"), 5, "unknown key 'ignored'"),
    "unknown scheme": (staged("targets: [Linear]\nscheme: FP9"), 5, "unknown scheme 'FP9'"),
    "unknown scheme of several": (staged("scheme:\n  W8A8: [a]\n  W8A9: [b]"), 6, "unknown scheme 'W8A9'"),
    "scheme and groups": (staged("scheme: FP8\nconfig_groups: {g: {}}"), 4, "side by side"),
    "unknown observer": (staged("config_groups:\n  g:\n    weights:\n      observer: minmx"), 7, "unknown observer 'minmx'"),
    "unknown observer of the modifier": (staged("scheme: FP8\ninput_observer: best"), 5, "unknown observer 'best'"),
    "unknown observer by kind": (staged("scheme: FP8\nobserver:\n  input: best"), 6, "unknown observer 'best'"),
    "unknown kind of observer": (staged("scheme: FP8\nobserver:\n  inputs: mse"), 6, "unknown key 'inputs' in observer"),
    "two ways to name observers": (staged("scheme: FP8\nobserver: {input: mse}\nweight_observer: mse"), 6, "side by side"),
    "broken pattern": (staged('scheme: FP8\nignore:\n  - lm_head\n  - "re:*.q_proj"'), 7, "not a regular expression"),
    "broken pattern of a target": (staged('scheme: FP8\ntargets: ["re:(a"]'), 5, "not a regular expression"),
    "a pattern of too many": (staged('scheme: FP8\ntargets: ["re:a{99999999999}"]'), 5, "not a regular expression"),
    "smoothing only": (staged("{}", "SmoothQuantModifier"), 1, "exactly one of QuantizationModifier"),
    "AWQ without quantization": (staged("{}", "AWQModifier"), 1, "exactly one of QuantizationModifier"),
    "AWQ of an old recipe beside another": (
        "a_stage: {a_modifiers: {AWQModifier: {scheme: W4A16}}}\n" + staged("scheme: FP8"), 1, "beside a quantizing modifier",
    ),
    "SpinQuant alone": (staged("{}", "SpinQuantModifier"), 1, "this one has none"),
    "another rotation": (staged("rotations: [R5]", "SpinQuantModifier"), 4, "rotations.0: Input should be 'R1'"),
    "pruning of nothing": (staged("{}", "SparseGPTModifier"), 3, "sparsity: Field required"),
    "pruning too much": (staged("sparsity: 1.5", "WandaPruningModifier"), 4, "sparsity"),
    "half of OWL": (staged("sparsity: null\nowl_m: 5", "SparseGPTModifier"), 3, "sparsity_profile: owl needs"),
    "a removed modifier": (staged("{}", "IMatrixGatherer"), 3, "no longer there"),
    "fallback by nothing": (staged("{}", "FallbackModifier"), 3, "give one of the two"),
    "a cache of values": (staged("values: {num_bits: 8}", "KVCacheModifier"), 3, "says nothing of keys"),
    "two caches": (
        "a_stage: {a_modifiers: {KVCacheModifier: {keys: {type: float}}}}\n"
        + staged("kv_cache_scheme: {num_bits: 8}"), 5, "side by side",
    ),
    "two ways to smooth": (
        "a_stage: {a_modifiers: {SmoothQuantModifier: {}, AWQModifier: {}}}\n" + staged("scheme: W4A16"), 1,
        "one way to suppress outliers, not smoothquant and awq",
    ),
    "iterations of HQQ": (staged("scheme: W4A16\niterations: 0", "HQQModifier"), 5, "iterations: "),
    "sparse too much": (staged("fraction: 0.5", "SparseModifier"), 4, "fraction: "),
    "a stage that holds none": ("quant_stages:\n  x: {y: 1}", 1, "unknown key 'quant_stages'"),
    "a word beside the stages": ("version: 1\n" + staged("scheme: FP8"), 1, "unknown key 'version'"),
    "a group that holds none": ("quant_stage:\n  run_type: oneshot\n", 2, "names end in _modifiers"),
    "order by group": (staged("scheme: W4A16\nactorder: group", "GPTQModifier"), 5, "removed from the engine"),
    "order by group in a group": (staged("config_groups:\n  g:\n    weights:\n      actorder: group"), 7, "removed"),
    "GPTQ field elsewhere": (staged("scheme: W4A16\nblock_size: 64"), 5, "unknown key 'block_size' in QuantizationModifier"),
    "3-bit floats": (staged("config_groups:\n  g:\n    weights: {type: float, num_bits: 3}"), 6, "4 or 8 bits, not 3"),
    "not a number": (staged("config_groups:\n  g:\n    weights:\n      num_bits: many"), 7, "num_bits: "),
    "unknown key of arguments": (staged("config_groups:\n  g:\n    weights:\n      bits: 8"), 7, "key 'bits' in weights"),
    "unknown key of a group": (staged("config_groups:\n  g:\n    weight: {}"), 6, "unknown key 'weight' in group g"),
    "unknown key of the cache": (staged("kv_cache_scheme:\n  bits: 8"), 5, "unknown key 'bits' in kv_cache_scheme"),
    "cache by block": (staged("kv_cache_scheme: {strategy: block, block_structure: [2, 2]}"), 1, "a K/V cache has strategy"),
    "target twice": (staged("scheme: {W8A8: [Linear], W4A16: [Linear]}"), 1, "'Linear' stands twice"),
    "no targets": (staged("scheme: FP8\ntargets: []"), 4, "has no targets"),
    "no targets in a group": (staged("config_groups:\n  g:\n    targets: []\n    weights: {}"), 6, "targets: "),
    "nothing": (staged("ignore: [lm_head]"), 1, "quantizes nothing"),
    "UNQUANTIZED": (staged("scheme: UNQUANTIZED"), 1, "quantizes nothing"),
    "an empty group": (staged("config_groups: {g: {targets: [Linear]}}"), 1, "quantizes nothing"),
    "truth as text": (staged('scheme: FP8\nbypass_divisibility_checks: "false"'), 5, "true or false"),
    "ignore is a mapping": (staged("scheme: FP8\nignore: {}"), 5, "ignore must be a name or a list"),
    "ignore is false": (staged("scheme: FP8\nignore: false"), 5, "ignore must be a name or a list"),
    "ignore of numbers": (staged("scheme: FP8\nignore: [1]"), 5, "ignore must be a name or a list"),
    "keys that are no text": (staged("scheme: FP8\n5: x"), 5, "unknown key 5"),
    "a modifier that is no text": ("a_stage:\n  b_modifiers:\n    7: {}", 3, "unknown modifier 7"),
    "a stage that is no text": ("7: {}", 1, "unknown key 7"),
    "group keys that are no text": (staged("config_groups:\n  g:\n    2001-01-01: x"), 6, "in group g"),
    "argument keys that are no text": (staged("config_groups:\n  g:\n    weights: {null: 1}"), 6, "unknown key None"),
    "smoothing too strong": (staged("smoothing_strength: 2", "SmoothQuantModifier"), 4, "less than or equal to 1"),
    "mappings in pairs": (staged("mappings:\n  - [a, b]\n  - ab", "SmoothQuantModifier"), 6, "list of pairs"),
    "mappings that are a mapping": (staged("mappings: {a: b}", "SmoothQuantModifier"), 4, "list of pairs"),
    "mappings of broken patterns": (staged('mappings: [["re:(", a]]', "SmoothQuantModifier"), 4, "not a regular expression"),
    "two quantizers": (staged("scheme: FP8") + staged("scheme: FP8", "GPTQModifier")[31:], 6, "this one has 2"),
    "smoothing twice": (
        "a_stage: {a_modifiers: {SmoothQuantModifier: {}}}\nb_stage: {b_modifiers: {SmoothQuantModifier: {}}}\n"
        + staged("scheme: FP8"), 2, "SmoothQuantModifier stands twice",
    ),
    "the same twice": (staged("scheme: FP8") + "  x_modifiers:\n    QuantizationModifier: {scheme: FP8}", 6, "has 2"),
    "not a mapping": ("- a", 1, "the recipe must be a mapping"),
    "a word": ("FP8", 1, "the recipe must be a mapping"),
    "nothing at all": ("", 1, "the recipe must be a mapping"),
    "only a comment": ("# later", 1, "the recipe must be a mapping"),
    "a stage of nothing": ("quant_stage:", 1, "a stage must be a mapping"),
    "groups of nothing": ("quant_stage:\n  quant_modifiers: 5", 2, "a group of modifiers must be a mapping"),
    "a modifier that is a list": (staged("- a"), 3, "QuantizationModifier must be a mapping"),
    "weights that are a word": (staged("config_groups:\n  g:\n    weights: int8"), 6, "weights must be a mapping"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "line", "what"), TABLE.values(), ids=TABLE.keys())
def test_what_cannot_work_is_refused_with_its_line(source: str, line: int, what: str) -> None:
    error = refused(source)
    assert what in error.what
    assert error.where.split(":")[:2] == ["r.yaml", str(line)]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (staged("scheme: FP8\nignored: [a]"), ["did you mean ignore?", *FIELDS["QuantizationModifier"]]),
        (staged("scheme: FP8_DYNAMICS"), ["did you mean FP8_DYNAMIC?", *PRESETS]),
        (staged("scheme: FP8\ninput_observer: minmx"), ["did you mean minmax?", *OBSERVERS]),
        (staged("{}", "GPTQModifer"), ["did you mean GPTQModifier?", *FIELDS]),
        (staged("{}", "QuIPsModifier"), list(FIELDS)),
        (staged("config_groups: {g: {weights: {num_bit: 4}}}"), ["did you mean num_bits?", *QuantArgs.model_fields]),
        (staged("config_groups: {g: {weight: {}}}"), ["did you mean weights?", "targets", "input_activations", "format"]),
    ],
)
def test_an_unknown_name_comes_with_the_nearest_and_all_valid_ones(source: str, names: list[str]) -> None:
    todo = refused(source).todo
    for name in names:
        assert name in todo


def test_every_problem_of_a_value_is_told_at_once() -> None:
    what = refused(staged("config_groups: {g: {weights: {num_bits: 99, type: complex, symmetric: maybe}}}")).what
    assert "num_bits: " in what and "type: " in what and "symmetric: " in what


W8A8 = loads(staged("scheme: W8A8"))
ONE = "QuantizationModifier: {scheme: W8A8}"
NOTED: dict[str, tuple[str, str, int, list[str]]] = {
    "flat": (ONE, "QuantizationModifier stands at the top", 1, []),
    "a list of modifiers": ("modifiers:\n- " + ONE, "stands in modifiers.0", 2, []),
    "a list in its stage": ("a_stage: {b_modifiers: [" + ONE + "]}", "b_modifiers.0", 1, []),
    "a group without its stage": ("quant_modifiers:\n  " + ONE, "stands in quant_modifiers", 2, []),
    "modifiers without a name": ("test_stage:\n  modifiers:\n    " + ONE, "test_stage.modifiers", 3, []),
    "one letter short": ("quant_stage:\n  quant_modifier:\n    " + ONE, "quant_modifier,", 3, []),
    "a stage without its name": ("quant:\n  q_modifiers:\n    " + ONE, "quant.q_modifiers", 3, []),
    "a numbered stage": ("q_stage_0:\n  q_modifiers:\n    " + ONE, "q_stage_0.q_modifiers", 3, []),
    "no group": ("quant_stage:\n  " + ONE, "stands in quant_stage", 2, []),
    "args": ("args: {x: 1}\n" + staged("scheme: W8A8"), "args are left out", 1, []),
    "a scheme written out": (
        staged("scheme:\n  weights: {strategy: channel}\n  input_activations: {strategy: token, dynamic: true}"),
        "understood as config_groups", 4, [],
    ),
    "times": (staged("scheme: W8A8\nstart: 0.0"), "start of QuantizationModifier is left out", 5, []),
    "seed-era AWQ": (
        staged("scheme: W8A8\ntargets: [Linear]\nmax_chunk_memory: 3", "AWQModifier"), "max_chunk_memory of AWQ", 6, ["awq"],
    ),
    "AWQ that quantizes": (staged("scheme: W8A8", "AWQModifier"), "scheme of AWQModifier belong to a Quant", 3, ["awq"]),
    "seed-era GPTQ": (staged("scheme: W8A8\nsequential_update: false", "GPTQModifier"), "sequential_update of", 5, ["gptq"]),
    "seed-era offloading": (staged("scheme: W8A8\noffload_hessians: true", "GPTQModifier"), "offload_hessians", 5, ["gptq"]),
    "other names": (staged("scheme: W8A8\npercdamp: 0.01", "GPTQModifier"), "is called dampening_frac", 5, ["gptq"]),
    "steps": (
        "a_stage: {a_modifiers: {SmoothQuantModifier: {num_calibration_steps: 5}}}\n" + staged("scheme: W8A8"),
        "num_calibration_steps of SmoothQuantModifier is left out", 1, ["smoothquant"],
    ),
    "quantized before smoothing": (
        staged("scheme: W8A8") + "    SmoothQuantModifier: {}\n", "SmoothQuantModifier is moved up", 5, ["smoothquant"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "note", "line", "beside"), NOTED.values(), ids=NOTED.keys())
def test_what_the_engine_reads_as_nothing_or_otherwise_is_understood_with_a_note(
    source: str, note: str, line: int, beside: list[str]
) -> None:
    recipe, notes = read(source)
    assert recipe.model_copy(update=dict.fromkeys(beside)) == W8A8
    assert all(getattr(recipe, field) is not None for field in beside)
    assert any(each.startswith(f"line {line}: ") and note in each for each in notes), notes
    assert read(dumps(recipe)) == (recipe, ())


def test_what_the_engine_reads_as_it_stands_has_no_notes() -> None:
    assert all(not read(file.read_text(encoding="utf-8")).notes for file in SHIPPED)


def test_mappings_are_read_as_either_modifier_writes_them() -> None:
    pairs = '[[["re:.*q_proj", "re:.*k_proj"], "re:.*norm"]]'
    named = '[{smooth_layer: "re:.*norm", balance_layers: ["re:.*q_proj", "re:.*k_proj"]}]'
    for name in ("SmoothQuantModifier", "AWQModifier"):
        one, two = (loads(f"{name}: {{mappings: {each}}}\nQuantizationModifier: {{scheme: W4A16}}") for each in (pairs, named))
        assert one == two


def test_json_is_a_recipe_too() -> None:
    import json

    staged_json = {"quant_stage": {"quant_modifiers": {"QuantizationModifier": {"scheme": "W8A8"}}}}
    for indent in (None, 2, "\t"):
        assert read(json.dumps(staged_json, indent=indent)) == (W8A8, ())


def test_errors_have_line_and_column() -> None:
    for source, place in ((staged("scheme: FP9"), "4:7"), ("a: [\n  b: }", "2:6"), ("x: 1\na: \0", "2:4"), ("", "1:1")):
        assert refused(source).where == f"r.yaml:{place}"


# --- files


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "r.yaml"
    for body in (b"\xff\xfe\x00", b"\x00\x01\x02\xfa" * 100):
        bad.write_bytes(body)
        with pytest.raises(RecipeError, match="not UTF-8"):
            load(bad)
    with pytest.raises(RecipeError, match="No such file"):
        load(tmp_path / "gone.yaml")
    with pytest.raises(RecipeError, match="a folder or device"):
        load(tmp_path)
    with bad.open("wb") as file:
        file.truncate(50_000_000_000)  # a hole: the weights instead of the recipe
    with pytest.raises(RecipeError, match="too large"):
        load(bad)


def test_errors_of_a_file_name_it(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(staged("scheme: FP9"))
    with pytest.raises(RecipeError) as caught:
        load(file)
    assert caught.value.where == f"{file}:4:7"


def test_lines_may_end_in_any_way(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    for end in ("\r\n", "\n", "\r"):
        file.write_bytes(("\ufeff" + SEED).replace("\n", end).encode())
        assert load(file) == loads(SEED)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_recipe_loads_and_comes_back(file: Path) -> None:
    recipe = load(file)
    assert loads(dumps(recipe, comment="one\ntwo")) == recipe
    assert recipe.kv_cache is None or recipe.kv_cache.observer == "static_minmax"
    statics = [a for g in recipe.groups for a in (g.input_activations, g.output_activations) if a and not a.dynamic]
    assert all(args.observer in ("static_minmax", "histogram") for args in statics)  # the engine's moving average clips peaks
    assert file.read_text(encoding="utf-8").startswith("# ")  # what it is for


def test_there_are_shipped_recipes() -> None:
    assert {"fp8-w8a8-kv8", "int8-w8a8-static"} <= {file.stem for file in SHIPPED}


# --- there and back


@given(recipe=recipes())
def test_what_is_written_is_read_back_the_same(recipe: Recipe) -> None:
    assert loads(dumps(recipe, comment="made\nby hand")) == recipe


@pytest.mark.parametrize(
    "name", ["\x85", "\u2028x", "\ufeff", "\0", "名", "<<", "=", "null", "1", " a ", "#", "a\nb", "a: b", "'"]
)
def test_names_of_any_kind_come_back(name: str) -> None:
    recipe = Recipe(groups=(QuantGroup(name=name, targets=(name,), weights=QuantArgs()),), ignore=(name,))
    assert loads(dumps(recipe)) == recipe


def test_a_comment_of_any_lines_stays_a_comment() -> None:
    recipe = loads(SEED)
    written = dumps(recipe, comment="a: b\n  - [\n'")
    assert written.startswith("# a: b\n#   - [\n# '\nquant_stage:")


KEYS = sorted({"weights", "g", *QuantArgs.model_fields, *(key for keys in FIELDS.values() for key in keys)})


@given(
    body=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=4)
        | st.sampled_from(["Linear", "FP8", "mse"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    sorted(
                        {"weights", "g", *QuantArgs.model_fields, *(field for fields in FIELDS.values() for field in fields)}
                    )
                )
                | st.integers(0, 9),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ),
    modifier=st.sampled_from([*FIELDS, "x"]),
    more=st.sampled_from([{}, {"QuantizationModifier": {"scheme": "W4A16"}}]),
)
def test_no_modifier_raises_anything_but_a_recipe_error(body: Any, modifier: str, more: dict[str, Any]) -> None:
    source = yaml.safe_dump({"a_stage": {"b_modifiers": {modifier: body} | more}}, sort_keys=False)
    try:
        recipe = loads(source)
    except RecipeError as error:
        assert re.fullmatch(r"recipe:\d+:\d+", error.where) and error.todo
        return
    assert loads(dumps(recipe)) == recipe


@given(
    source=st.text(max_size=60)
    | st.lists(st.sampled_from([*SEED.split(), "\n", "  ", "[", "{", "&a", "*a"]), max_size=30).map("".join)
)
def test_no_text_raises_anything_but_a_recipe_error(source: str) -> None:
    refused(source)


def test_a_key_or_value_of_any_length_gives_a_sentence() -> None:
    began = time.process_time()
    for source in (staged(f"{'x' * 100_000!r}: 1"), staged(f"scheme: {'x' * 100_000}"), f"? {'x' * 100_000}\n: 1"):
        assert len(str(refused(source))) < 2000
    assert time.process_time() - began < 2
    assert llmcompressor.loads(SEED)
