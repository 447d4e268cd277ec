"""msModelSlim's words: its refusals and ours, its Python calls, its practice YAML."""

from __future__ import annotations

from typing import Any

import pytest

from quantui.errors import RecipeError
from quantui.recipe.imported import Imported
from quantui.recipe.importing import import_text
from quantui.recipe.msmodelslim_table import ANTI_OUTLIER, QUANT_CONFIG, TEXT_SCRIPT
from quantui.recipe.schema import Awq, Gptq, Hqq, OutlierSuppression, Recipe, Sparse
from quantui.recipe.words import scheme_words

SCRIPT = "python3 quant_internlm2.py --model_path m --save_directory s "


def command(flags: str) -> Imported:
    """The import of quant_internlm2.py with these flags."""
    return import_text(SCRIPT + flags)


def python(text: str) -> Imported:
    """The import of Python calls."""
    return import_text(text)


def words(recipe: Recipe) -> str:
    """The scheme of its only group."""
    [group] = recipe.groups
    return scheme_words(group)


def said(made: Imported, parameter: str) -> str:
    """What became of a parameter."""
    [line] = [line for line in (*made.carried, *made.not_carried) if line.parameter == parameter]
    return line.says


# --- schemes


@pytest.mark.parametrize(
    ("flags", "scheme"),
    [
        ("", "W8A8 int8 static"),
        ("--is_dynamic True", "W8A8 int8 dynamic"),
        ("--a_bit 16", "W8A16 int8"),
        ("--a_bit 16 --w_sym False", "W8A16 int8 asymmetric"),
        ("--w_bit 4 --a_bit 16", "W4A16 int4"),
        ("--w_bit 4 --a_bit 16 --is_lowbit True --open_outlier False --group_size 32", "W4A16 int4 group 32"),
        ("--a_bit 16 --is_lowbit True --open_outlier False", "W8A16 int8 group 64"),
        ("--w_bit 4 --is_dynamic True --is_lowbit True --open_outlier False --group_size 256", "W4A8 int4 group 256 dynamic"),
        ("--w_bit 4 --a_bit 4 --is_dynamic True", "W4A4 int4 dynamic"),
        ("--w_bit 4 --is_lowbit True", "W4A8 int4 static"),
        ("--co_sparse True", "W4A8 int4 static"),
        ("--mm_tensor True", "W8A8 int8 static"),
    ],
)
def test_scheme(flags: str, scheme: str) -> None:
    assert words(command(flags).recipe) == scheme


def test_keys_and_values_alone() -> None:
    recipe = command("--w_bit 16 --a_bit 16 --use_kvcache_quant True").recipe
    assert recipe.groups == () and recipe.kv_cache is not None and recipe.ignore == ()


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        ("--anti_method m1", {"outliers": OutlierSuppression(method="m1")}),
        ("--anti_method m2", {"outliers": OutlierSuppression(method="m2")}),
        ("--a_bit 16 --anti_method m3", {"awq": Awq(duo_scaling=False)}),
        ("--anti_method m4", {"outliers": OutlierSuppression(method="m4")}),
        ("--anti_method m6", {"outliers": OutlierSuppression(method="m6")}),
        ("--w_method GPTQ --a_bit 16 --percdamp 0.1", {"gptq": Gptq(dampening_frac=0.1, actorder=None)}),
        ("--w_method HQQ --w_bit 4 --a_bit 16", {"hqq": Hqq()}),
        ("--w_bit 4 --is_lowbit True --fraction 0.05", {"sparse": Sparse(fraction=0.05)}),
        ("--w_bit 4 --is_lowbit True --use_sigma True --sigma_factor 3.5", {"sparse": Sparse(sigma=3.5)}),
        ("--disable_level L0", {"fallback": None}),
    ],
)
def test_methods(flags: str, fields: dict[str, Any]) -> None:
    recipe = command(flags).recipe
    assert {name: getattr(recipe, name) for name in fields} == fields


@pytest.mark.parametrize("act_method", [1, 2, 3])
def test_observers(act_method: int) -> None:
    inputs = command(f"--act_method {act_method}").recipe.groups[0].input_activations
    assert inputs is not None and inputs.observer == ["msmodelslim", "histogram", "auto"][act_method - 1]


# --- what the scripts do by themselves


@pytest.mark.parametrize(
    ("text", "ignore"),
    [
        (SCRIPT, (r"re:.*\.mlp\.down_proj$", "re:.*lm_head")),
        (SCRIPT + "--a_bit 16", ("re:.*lm_head",)),
        (SCRIPT + "--a_bit 16 --disable_last_linear False", ()),
        (SCRIPT + "--disable_names model.layers.0.attention.wo output", ("model.layers.0.self_attn.o_proj", "lm_head")),
        (SCRIPT + "--co_sparse True", (r"re:.*\.mlp\.down_proj$", "re:.*lm_head")),
        ("python quant_qwen.py --a_bit 16", (r"re:.*\.mlp\.down_proj$", "re:.*lm_head")),
        ("python quant_llama.py --model_type llama3",
         (r"re:.*layers\.[0-4]\.self_attn\.[qkvo]_proj$", r"re:.*layers\.[0-4]\.mlp\.(gate|up)_proj$",
          r"re:.*layers\.[0-4]\.mlp\.down_proj$", "re:.*lm_head")),
        ("python my_quant.py --w_bit 8", ("re:.*lm_head",)),
    ],
)  # fmt: skip
def test_what_stays_in_float(text: str, ignore: tuple[str, ...]) -> None:
    assert import_text(text, "msmodelslim").recipe.ignore == ignore


def test_a_script_sets_alpha_and_beta() -> None:
    made = import_text("python quant_qwen.py --anti_method m6 --model_type qwen3").recipe.outliers
    assert made == OutlierSuppression(method="m6", alpha=0.4, beta=0.325, ignore=(r"re:model\.layers\..*\.self_attn\.o_proj$",))


def test_an_unknown_script_is_noted() -> None:
    made = import_text("bash -c x; python my_quant.py --w_bit 8", "msmodelslim")
    assert any("my_quant.py is not known" in note for note in made.notes)
    assert said(made, "bash") == "not carried over, because it is no quantization script"


def test_options_alone_are_those_of_its_text_scripts() -> None:
    made = import_text("--w_bit 8 --a_bit 16 --w_sym False")
    weights = made.recipe.groups[0].weights
    assert weights is not None and (weights.num_bits, weights.strategy, weights.symmetric) == (8, "channel", False)
    assert any(note.startswith("no script is named") for note in made.notes)
    with pytest.raises(RecipeError, match=r":1:11: the script has no parameter '--w_bits'"):
        import_text("--a_bit 8 --w_bits 8")


def test_what_has_no_effect_is_told_so() -> None:
    made = command("--group_size 64 --sigma_factor 3 --fa_amp 2 --tp_size 1 --use_reduce_quant True --mm_tensor True")
    for name, why in {
        "group_size": "only with is_lowbit",
        "sigma_factor": "not sparse",
        "fa_amp": "attention itself",
        "tp_size": "one rank has all columns",
        "mm_tensor": "mm_tensor=False",
    }.items():
        assert said(made, name).startswith("not carried over") and why in said(made, name)


def test_what_stands_twice_counts_as_it_stands_last() -> None:
    made = command("--open_outlier False --w_bit 4 --w_bit 8")
    assert words(made.recipe) == "W8A8 int8 static"
    assert [line.says for line in made.not_carried if line.parameter == "w_bit"] == [
        "not carried over, because w_bit stands again behind it, which counts"
    ]


# --- refusals: its own, and what it passes over

REFUSED = [
    ("--w_bit 5", "w_bit 5 and a_bit 8", "the nearest is"),
    ("--a_bit 4", "w_bit 8 and a_bit 4", "the nearest is"),
    ("--a_bit 32", "UNKNOWN", "w_bit 8 with a_bit 16"),
    ("--w_bit 4", "either sparse, or dynamic", "is_lowbit True"),
    ("--w_bit 4 --a_bit 4", "only with is_dynamic True", "a_bit 8"),
    ("--w_bit 16 --a_bit 16", "leave everything in float", "w_bit 8"),
    ("--w_sym False", "asymmetric weights do not go with 8-bit activations", "w_sym True"),
    ("--a_bit 16 --is_dynamic True", "stay in float", "a_bit 8"),
    ("--act_method 4", "act_method is 4", "act_method 1"),
    ("--act_method 3 --is_lowbit True", "does not go with is_lowbit", "1 or 2"),
    ("--w_method AWQ", "one of MinMax, GPTQ, HQQ, NF", "MinMax"),
    ("--w_method GPTQ", "static activations", "a_bit 16"),
    ("--w_method HQQ --is_lowbit True --a_bit 16", "needs groups", "open_outlier False"),
    ("--w_method NF --w_bit 8 --a_bit 16", "w_method NF is for w_bit 4", "another w_method"),
    ("--fraction 0.2", "0.01 to 0.1", "0.01"),
    ("--sigma_factor 2", "3.0 to 4.0", "3.0"),
    ("--group_size 48", "one of 32, 64, 128, 256", "64"),
    ("--tp_size 3", "1, 2, 4, 8 or 16", "1"),
    ("--fa_amp -1", "from 0 up", "0"),
    ("--percdamp 2 --w_method GPTQ --a_bit 16", "at most 1", "0.01"),
    ("--pr 2", "from 0 to 1", "1.0"),
    ("--disable_level L01", "disable_level is 'L01'", "L5"),
    ("--disable_level 5", "disable_level is '5'", "L5"),
    ("--anti_method m7", "no anti_method 'm7'", "m1, m2"),
    ("--use_kvcache_quant True --use_fa_quant True", "both quantize keys", "use_kvcache_quant"),
    ("--co_sparse True --is_lowbit True", "two ways", "is_lowbit"),
    ("--co_sparse True --w_bit 8", "w_bit 4 and a_bit 8", "w_bit 4"),
    ("--pdmix True --a_bit 16", "static W8A8", "a_bit 8"),
    ("--device_type gpu0", "cpu or npu", "cpu"),
    ("--w_bit eight", "w_bit is 'eight', not a whole number", "a whole number"),
    ("--w_sym maybe", "not True or False", "True or False"),
    ("--w_bit", "--w_bit has no value", "--w_bit VALUE"),
    ("--w_bits 8", "no parameter '--w_bits'", "did you mean w_bit?"),
    ("--mindie_format=1", "takes no value", "alone"),
    ("extra", "'extra' belongs to no parameter", "quote"),
    ("--model_path 'a", "a quote ' is not closed", "close it"),
]


@pytest.mark.parametrize(("flags", "what", "todo"), REFUSED)
def test_refused_with_the_nearest_that_works(flags: str, what: str, todo: str) -> None:
    with pytest.raises(RecipeError) as caught:
        command(flags)
    error = caught.value
    assert what in error.what and todo in error.todo and error.where.startswith("pasted text:1:")


def test_an_error_points_at_the_value() -> None:
    with pytest.raises(RecipeError) as caught:
        import_text("FOO=1 \\\n  python3 quant_internlm2.py \\\n    --w_bit 8 \\\n    --act_method 7")
    assert caught.value.where == "pasted text:4:18"


def test_its_own_program_is_pointed_to_the_practice() -> None:
    with pytest.raises(RecipeError, match="practice YAML") as caught:
        import_text("msmodelslim quant --model_type Qwen3-32B --quant_type w8a8 --save_path x")
    assert "lab_practice" in caught.value.todo


def test_fences_of_web_pages_are_passed_over() -> None:
    assert words(python("```python\nq = QuantConfig(mm_tensor=False)\n```").recipe) == "W8A8 int8 static"
    assert words(import_text(f"```shell\n{SCRIPT}\n```").recipe) == "W8A8 int8 static"


def test_two_scripts_are_refused() -> None:
    with pytest.raises(RecipeError, match="two quantization scripts"):
        import_text(f"{SCRIPT}\n{SCRIPT}")


# --- Python


def test_a_pasted_program() -> None:
    made = python(
        """
from msmodelslim.pytorch.llm_ptq.llm_ptq_tools import Calibrator, QuantConfig

def layers(n):
    return n

disable_names = ["output"]
disable_names += [f"model.layers.{i}.feed_forward.w2" for i in range(2)]
for i in range(2):
    disable_names.append("model.layers.{}.attention.wqkv".format(i))
disable_names.extend(['model.layers.3.attention.wo'])
anti = AntiOutlierConfig(
    anti_method='m6', flex_config={'alpha': 0.6, 'beta': 0.3}, disable_anti_names=['model.layers.0.attention.wo'],
)
if __name__ == "__main__":
    quant_config = QuantConfig(
        a_bit=8, w_bit=8, disable_names=disable_names, dev_type='npu', dev_id=model.device.index, act_method=3, mm_tensor=False,
    ).kv_quant(kv_sym=False)
    calibrator = Calibrator(model, quant_config, calib_data=load(), disable_level='L2')
    calibrator.run()
    calibrator.save('./out', save_type=['safe_tensor'])
"""
    )
    recipe = made.recipe
    assert recipe.ignore == (
        "lm_head", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj",
        *(f"model.layers.{i}.self_attn.{part}_proj" for i in range(2) for part in "qkv"), "model.layers.3.self_attn.o_proj",
    )  # fmt: skip
    assert recipe.outliers == OutlierSuppression(method="m6", alpha=0.6, beta=0.3, ignore=("model.layers.0.self_attn.o_proj",))
    assert recipe.kv_cache is not None and not recipe.kv_cache.symmetric and recipe.fallback and recipe.fallback.level == 2
    assert said(made, "dev_id") == "not carried over, because the device is chosen when a job is started"
    assert "model.layers.0.feed_forward.w2" not in str(recipe) and any("converted native model" in note for note in made.notes)


@pytest.mark.parametrize("method", ["sparse_quant(fraction=0.02)", "sparse_quant(3, 0.02)"])
def test_chained_methods_set_what_they_name(method: str) -> None:
    made = python(f"QuantConfig(w_bit=4, co_sparse=True).{method}")
    assert made.recipe.sparse == Sparse(fraction=0.02)


def test_defaults_of_the_class_are_not_those_of_the_scripts() -> None:
    made = python("QuantConfig()")
    assert words(made.recipe) == "W8A8 int8 per tensor static" and made.recipe.ignore == ("re:.*lm_head",)
    assert any("mm_tensor is True by default" in note for note in made.notes)


def test_a_mixed_configuration_keeps_its_precedence() -> None:
    made = python(
        "c = QuantConfig(mm_tensor=False)\n"
        "Calibrator(m, c, mix_cfg={'*.mlp.down_proj': 'w8a16', '*.mlp.*': 'w8a8_dynamic', '*.o_proj': 'float'})"
    )
    schemes = {group.name: (group.targets, scheme_words(group)) for group in made.recipe.groups}
    assert schemes == {
        "group_0": (("Linear",), "W8A8 int8 static"),
        "w8a16": ((r"re:.*\.mlp\.down_proj$",), "W8A16 int8"),
        "w8a8_dynamic": ((r"re:(?!(?:.*\.mlp\.down_proj)$).*\.mlp\..*$",), "W8A8 int8 dynamic"),
    }
    assert made.recipe.ignore[-1] == r"re:(?!(?:.*\.mlp\.down_proj|.*\.mlp\..*)$).*\.o_proj$"


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("QuantConfig(w_bit=args.w_bit)", "w_bit is args.w_bit, which the text does not write out", "1:13"),
        ("names = load()\nQuantConfig(disable_names=names)", "disable_names is names, which", "2:13"),
        ("if x:\n    n = ['a']\nelse:\n    n = []\nQuantConfig(disable_names=n)", "disable_names is n, which", "5:13"),
        ("n = ['a']\nn.insert(0, 'b')\nQuantConfig(disable_names=n)", "disable_names is n, which", "3:13"),
        ("n = ['a']\nfill(n)\nQuantConfig(disable_names=n)", "disable_names is n, which", "3:13"),
        ("QuantConfig(w_bit='8')", "w_bit is '8', not a whole number", "1:13"),
        ("QuantConfig(act_method=True)", "act_method is True, not a whole number", "1:13"),
        ("QuantConfig(w_bit=8, bits=3)", "no parameter 'bits'", "1:22"),
        ("QuantConfig(**kwargs)", "says nothing of its arguments", "1:1"),
        ("QuantConfig(8)\nQuantConfig(8)", "called twice", "2:1"),
        ("AntiOutlierConfig(anti_method='m2')", "no QuantConfig(...)", "1:1"),
        ("QuantConfig(w_bit=8", "not valid Python", "1:12"),
        ("QuantConfig()\nAntiOutlierConfig(a_bit=16)", "m2 is for quantized activations", "2:19"),
        ("QuantConfig()\nAntiOutlierConfig(w_sym=False, anti_method='m4')", "m4 is for symmetric weights", "2:19"),
        ("QuantConfig()\nAntiOutlierConfig(anti_method='m6', flex_config={'gamma': 1})", "alpha and beta", "2:37"),
        ("QuantConfig()\nAntiOutlierConfig(anti_method='m6', flex_config={'alpha': 3})", "alpha is 3", "2:37"),
        ("c = QuantConfig()\nCalibrator(m, c, mix_cfg={'*': 'w2a2'})", "the type 'w2a2'", "2:18"),
        ("c = QuantConfig()\nCalibrator(m, c, mix_cfg=[1])", "must be a dictionary", "2:18"),
        ("QuantConfig(use_kvcache_quant=False).kv_quant()", "False and .kv_quant() is called", "1:13"),
    ],
)
def test_python_is_never_guessed_at(text: str, what: str, where: str) -> None:
    with pytest.raises(RecipeError) as caught:
        python(text)
    assert what in caught.value.what and caught.value.where == f"pasted text:{where}" and caught.value.todo


def test_nothing_is_run() -> None:
    text = "x = [__import__('os').abort() for i in range(1)]\nopen('/nowhere', 'w')\nQuantConfig(mm_tensor=False)"
    assert words(python(text).recipe) == "W8A8 int8 static"
    with pytest.raises(RecipeError, match="items"):
        python("n = []\nfor i in range(1000000):\n    for j in range(1000000):\n        n.append(j)\nQuantConfig()")


def test_every_parameter_of_the_classes_is_read() -> None:
    values = {"int": "8", "float": "0.05", "bool": "False", "str": "'MinMax'", "list": "['lm_head']", "switch": "True"}
    for table, text in ((QUANT_CONFIG, "QuantConfig({0})"), (ANTI_OUTLIER, "QuantConfig()\nAntiOutlierConfig({0})")):
        for name, parameter in table.items():
            written = {"act_method": "1", "sigma_factor": "3.0", "group_size": "64", "pr": "1.0", "anti_method": "'m2'",
                       "dev_type": "'cpu'", "flex_config": "{}", "w_sym": "True"}.get(name, values[parameter.kind])  # fmt: skip
            made = python(text.format(f"{name}={written}"))
            assert [line for line in (*made.carried, *made.not_carried) if line.parameter.endswith(name)], name


def test_every_parameter_of_the_scripts_is_read() -> None:
    values = {"int": "8", "float": "1", "bool": "False", "str": "x", "list": "a b", "switch": ""}
    own = {"act_method": "1", "fraction": "0.01", "sigma_factor": "3", "group_size": "64", "pr": "1", "percdamp": "0.01",
           "w_method": "MinMax", "anti_method": "m2", "disable_level": "L1", "device_type": "cpu", "tp_size": "2",
           "w_sym": "True"}  # fmt: skip
    for name, parameter in TEXT_SCRIPT.items():
        made = command(f"--{name} {own.get(name, values[parameter.kind])}")
        assert [line for line in (*made.carried, *made.not_carried) if line.parameter == name], name


# --- practice YAML

V1 = """apiversion: modelslim_v1
metadata: {config_id: x}
w8a8: &w8a8
  act: {scope: per_tensor, dtype: int8, symmetric: false, method: histogram}
  weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
spec:
  runner: layer_wise
  process:
    - {type: iter_smooth, alpha: 0.9, include: ['*']}
    - type: group
      configs:
        - {type: linear_quant, qconfig: *w8a8, include: ['*self_attn*'], exclude: ['*.attention.wo']}
        - type: linear_quant
          qconfig:
            act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
            weight: {scope: per_group, dtype: int4, symmetric: true, method: ssz, ext: {group_size: 128, step: 10}}
          include: ['*mlp*']
    - {type: dynamic_cache, qconfig: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}, include: ['*']}
    - {type: fa3_quant}
  save: [{type: ascendv1_saver, part_file_size: 4}]
  dataset: mix.jsonl
"""


def test_a_practice_of_steps() -> None:
    made = import_text(V1)
    first, second = made.recipe.groups
    assert scheme_words(first) == "W8A8 int8 static" and scheme_words(second) == "W4A8 int4 group 128 dynamic"
    assert first.input_activations is not None and first.input_activations.observer == "histogram"
    assert second.weights is not None and second.weights.observer == "mse"
    assert made.recipe.outliers == OutlierSuppression(method="m4", alpha=0.9)
    assert made.recipe.kv_cache is not None and made.recipe.ignore == ("re:.*lm_head",)
    left = {line.parameter: line.says for line in made.not_carried}
    assert "attention itself" in left["spec.process.3.type"] and "spec.dataset" in left and "w8a8" in left
    assert "spec.process.1.configs.1.qconfig.weight.ext.step" in left


def test_a_practice_of_parameters() -> None:
    made = import_text(
        "apiversion: modelslim_v0\nspec:\n  anti_cfg: {anti_method: m4, dev_type: npu}\n  anti_params: {norm_class_name: x}\n"
        "  calib_cfg: {w_bit: 8, a_bit: 8, mm_tensor: false, disable_names: [lm_head], act_method: 1}\n"
        "  calib_params: {disable_level: L3, foo: 1}\n  calib_save_params: {save_type: [ascendV1]}\n  batch_size: 2\n"
    )
    assert words(made.recipe) == "W8A8 int8 static" and made.recipe.fallback and made.recipe.fallback.level == 3
    assert made.recipe.outliers == OutlierSuppression(method="m4") and made.recipe.ignore == ("lm_head",)


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("apiversion: modelslim_convert\nspec: {}", "apiversion 'modelslim_convert' is not read", 1),
        ("apiversion: modelslim_v1\nspec: 3", "spec must be a mapping", 2),
        ("apiversion: modelslim_v1\nspec:\n  proces: []", "unknown key 'proces'", 3),
        ("apiversion: modelslim_v1\nspec:\n  process: []", "must be a list of steps", 3),
        ("apiversion: modelslim_v1\nspec:\n  process:\n    - type: linear", "unknown step 'linear'", 4),
        (
            "apiversion: modelslim_v1\nspec:\n  process:\n    - {type: linear_quant, qconfig: {weight: {dtype: int3}}}",
            "'int3'",
            4,
        ),
        ("apiversion: modelslim_v1\nspec:\n  process:\n    - {type: linear_quant}", "says no weights", 4),
        ("apiversion: modelslim_v1\nspec:\n  process:\n    - {type: quarot}", "quantizes nothing", 3),
        ("apiversion: modelslim_v0\nspec:\n  calib_cfg:\n    w_bit: x", "w_bit is 'x'", 4),
        ("apiversion: modelslim_v0\nspec:\n  calib_cfg:\n    wbit: 8", "unknown key 'wbit'", 4),
        ("apiversion: modelslim_v0\nspec:\n  calib_cfg:\n    w_bit: 5", "no scheme of w_bit 5", 4),
        ("apiversion: [\nspec", "not valid YAML", 2),
    ],
)
def test_a_practice_that_cannot_be_read(text: str, what: str, line: int) -> None:
    with pytest.raises(RecipeError) as caught:
        import_text(text)
    assert what in caught.value.what and caught.value.where.startswith(f"pasted text:{line}")
