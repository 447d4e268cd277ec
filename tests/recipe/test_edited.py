"""Edits of a recipe's text: what is not edited stays as it was, to the letter."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.errors import RecipeError
from quantui.recipe.edit import fall_back, give_scheme, override, rename_group, restore, set_value
from quantui.recipe.fields import FIELDS
from quantui.recipe.llmcompressor import dumps, edited, loads
from quantui.recipe.llmcompressor.narrowed import narrowed
from quantui.recipe.llmcompressor.shortened import shortened
from quantui.recipe.schema import Recipe
from quantui.workspace import RECIPES
from tests.recipe.values import recipes

TEXT = """\
# For the demo.   Two blanks stay.

quant_stage:   # the only one
  quant_modifiers:
    SmoothQuantModifier: {smoothing_strength: 0.8}   # tuned

    GPTQModifier:
      # what stays float
      ignore: ["re:.*lm_head", 're:.*vision_tower.*']
      dampening_frac: 0.01
      config_groups:
        group_0:
          targets:
            - Linear
            # and nothing else
          weights:   {num_bits: 8, type: int,   strategy: channel}
          input_activations:
            num_bits: 8     # as the kernel has it
            strategy: token
            dynamic: true
      block_size: 128   # columns
# the end
"""


def changed_lines(before: str, after: str) -> tuple[list[str], list[str]]:
    """Lines that went and lines that came."""
    diff = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [line[2:] for line in diff if line.startswith("- ")], [line[2:] for line in diff if line.startswith("+ ")]


def after(source: str, new: Recipe) -> str:
    """The text after the edit, which reads as the new recipe."""
    made = edited(source, loads(source), new)
    assert loads(made) == new
    return made


def test_nothing_edited_is_nothing_changed() -> None:
    assert after(TEXT, loads(TEXT)) is TEXT


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("gptq_block_size", 64, "      block_size: 64   # columns"),
        ("gptq_dampening_frac", 0.05, "      dampening_frac: 0.05"),
        ("smoothing_strength", 0.5, "    SmoothQuantModifier: {smoothing_strength: 0.5}   # tuned"),
    ],
)
def test_one_value_is_one_line(field: str, value: float, line: str) -> None:
    made = after(TEXT, set_value(loads(TEXT), field, value))
    gone, came = changed_lines(TEXT, made)
    assert [" ".join(each.split()) for each in came] == [" ".join(line.split())] and len(gone) == 1


def test_a_layer_that_falls_back_is_one_more_name() -> None:
    recipe = fall_back(loads(TEXT), ["model.layers.0.mlp.down_proj"])
    made = after(TEXT, recipe)
    gone, came = changed_lines(TEXT, made)
    assert len(gone) == len(came) == 1 and 'ignore: ["re:.*lm_head", ' in came[0]
    assert after(made, restore(recipe, ["model.layers.0.mlp.down_proj"])) == TEXT


def test_a_new_key_is_a_new_line_and_all_comments_stay() -> None:
    recipe = set_value(loads(TEXT), "activation_observer", "mse")
    gone, came = changed_lines(TEXT, after(TEXT, recipe))
    assert (gone, came) == ([], ["            observer: mse"])
    recipe = set_value(loads(TEXT), "kv_type", "float")
    gone, came = changed_lines(TEXT, after(TEXT, recipe))
    assert not gone and came[0] == "      kv_cache_scheme:"


def test_another_method_leaves_the_groups_alone() -> None:
    made = after(TEXT, set_value(set_value(loads(TEXT), "rounding", "rtn"), "outliers", "none"))
    assert "QuantizationModifier:" in made and "# as the kernel has it" in made and "# and nothing else" in made
    assert "# For the demo.   Two blanks stay." in made and "# the end" in made
    assert "SmoothQuant" not in made and "block_size" not in made


def test_what_is_said_of_the_next_key_stays_when_one_goes() -> None:
    text = TEXT.replace("      dampening_frac: 0.01\n", "      dampening_frac: 0.01\n      # of all layers\n      # together\n")
    made = after(text, set_value(loads(text), "rounding", "rtn"))
    assert "      # of all layers\n      # together\n      config_groups:" in made and made.endswith("# the end\n")


def test_a_group_is_added_renamed_and_changed() -> None:
    mixed = give_scheme(loads(TEXT), ["model.layers.0.mlp.down_proj"], "W4A16")
    made = after(TEXT, mixed)
    assert "# as the kernel has it" in made and not changed_lines(TEXT, made)[0]
    renamed = after(made, rename_group(mixed, "group_1", "hard"))
    gone, came = changed_lines(made, renamed)
    assert (gone, came) == (["        group_1:"], ["        hard:"])
    assert after(TEXT, override(loads(TEXT), "re:.*q_proj$", None)).count("#") == TEXT.count("#")


@pytest.mark.parametrize("source", ["# why\nquant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n"
                                    "      scheme: FP8 # fast\n      ignore: [lm_head] # the head\n"])  # fmt: skip
def test_a_scheme_in_short_is_written_out_when_it_no_longer_fits(source: str) -> None:
    assert "scheme: FP8 # fast" in after(source, fall_back(loads(source), ["a.b"]))
    made = after(source, set_value(loads(source), "weight_strategy", "channel"))
    assert made.startswith("# why\n") and "config_groups:" in made and "# the head" in made


@pytest.mark.parametrize("source", [
    "# flat\nQuantizationModifier: {scheme: W8A8} # here\n",
    "# two\na_stage: {x_modifiers: {SmoothQuantModifier: {}}}\nb_stage: {y_modifiers: {GPTQModifier: {scheme: W8A8}}}\n",
])  # fmt: skip
def test_another_shape_is_written_anew_under_its_head(source: str) -> None:
    made = after(source, fall_back(loads(source), ["a.b"]))
    assert made.startswith(source.splitlines()[0] + "\nquant_stage:")


def test_line_ends_and_order_stay() -> None:
    text = TEXT.replace("\n", "\r\n")
    made = after(text, set_value(loads(text), "gptq_block_size", 64))
    assert made.count("\r\n") == made.count("\n") == TEXT.count("\n")


def test_a_text_that_is_another_recipe_is_refused() -> None:
    with pytest.raises(RecipeError, match="no longer that of the recipe"):
        edited("# gone\n", loads(TEXT), loads(TEXT))


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_comments_of_shipped_recipes_survive_any_edit(file: object) -> None:
    source = file.read_text(encoding="utf-8")  # type: ignore[attr-defined]
    recipe = loads(source)
    made = after(source, fall_back(recipe, ["model.layers.0.mlp.down_proj"]))
    comments = [line for line in source.splitlines() if line.lstrip().startswith("#")]
    assert [line for line in made.splitlines() if line.lstrip().startswith("#")] == comments
    assert after(made, recipe).splitlines()[: len(comments)] == source.splitlines()[: len(comments)]


@given(old=recipes(), new=recipes())
def test_any_text_becomes_that_of_any_recipe(old: Recipe, new: Recipe) -> None:
    after(dumps(old, comment="one\ntwo"), new)


@given(old=recipes(), field=st.sampled_from(sorted(FIELDS)), pick=st.integers(0, 20))
def test_any_edit_of_any_text_reads_as_the_edited_recipe(old: Recipe, field: str, pick: int) -> None:
    choices = FIELDS[field].choices or (True, False, 0.05, 4, 64)
    try:
        new = set_value(old, field, choices[pick % len(choices)])
    except RecipeError:
        return
    after(dumps(old), new)


MANY = [f"model.layers.{block}.mlp.{part}_proj" for block in range(30) for part in ("gate", "up", "down")]
LISTS = {
    "lines": "\n" + "".join(f'      - "{name}"\n' if at % 7 else f"      - {name}\n" for at, name in enumerate(MANY)),
    "one line": f" [{', '.join(MANY)}]\n",
    "wrapped": f" [{','.join((' ' if at % 5 else chr(10) + ' ' * 8) + name for at, name in enumerate(MANY))}]\n",
}


@pytest.mark.parametrize("spelled", LISTS.values(), ids=LISTS.keys())
@pytest.mark.parametrize("gone", [(), (0,), (45,), (20, 21, 60, 89)])
@pytest.mark.parametrize("come", [(), ("model.layers.30.mlp.up_proj",)])
def test_a_long_list_is_edited_where_it_differs(spelled: str, gone: tuple[int, ...], come: tuple[str, ...]) -> None:
    source = f"s_stage:\n  q_modifiers:\n    QuantizationModifier:\n      ignore:{spelled}      scheme: W8A8   # both\n"
    old = loads(source)
    left = tuple(name for at, name in enumerate(MANY) if at not in gone)
    new = set_value(set_value(old, "ignore", (*left, *come)), "activation_observer", "mse" if gone else None)
    short = shortened(source, old, new)
    assert short is not None and len(short.source) < len(source) / 2 and len(short.new.ignore) < 30
    assert short.whole(short.source) == source
    made = after(source, new)
    if "- " in spelled and not gone:
        assert changed_lines(source, made) == ([], [f"      - {name}" for name in come])
    elif not gone and come:
        wanted = source.replace(f"{MANY[-1]}]", f"{MANY[-1]}, {come[0]}]")
        assert "".join(made.split()) == "".join(wanted.split()) and abs(made.count("\n") - source.count("\n")) <= 1


def test_a_list_that_outgrows_its_line_gets_several() -> None:
    made = after(TEXT, fall_back(loads(TEXT), MANY))
    assert f"\n        - {MANY[0]}\n" in made and "# what stays float" in made
    assert loads(made).ignore == ("re:.*lm_head", "re:.*vision_tower.*", *MANY)
    assert after(made, give_scheme(loads(made), MANY, "W8A16")).count(MANY[5]) == 1


LISTED = TEXT.replace(
    "ignore: [\"re:.*lm_head\", 're:.*vision_tower.*']",
    "ignore:\n      - \"re:.*lm_head\"   # tied\n      # pictures\n      - 're:.*vision_tower.*'",
)


@pytest.mark.parametrize("source", [TEXT, LISTED, LISTED.replace("\n", "\r\n"), LISTED.replace("      - ", "        - ")])
@pytest.mark.parametrize("come", [(), ("model.layers.3.mlp.up_proj",), MANY[:9]])
@pytest.mark.parametrize("gone", [(), (0,), (1,)])
def test_ignored_layers_are_edited_among_their_own_lines(source: str, come: tuple[str, ...], gone: tuple[int, ...]) -> None:
    old = loads(source)
    left = tuple(name for at, name in enumerate(old.ignore) if at not in gone)
    new = set_value(old, "ignore", (*left, *come))
    part = narrowed(source, old, new, 2)
    assert part is not None and "config_groups" not in part.source and part.whole(part.source) == source
    made = after(source, new)
    head, _, tail = source.partition("ignore:")
    assert made.startswith(head) and made.endswith(tail[tail.index("dampening_frac") :])
    assert loads(made) == new


def test_more_than_ignored_layers_is_no_matter_of_their_lines() -> None:
    old = loads(TEXT)
    new = set_value(fall_back(old, MANY[:2]), "activation_observer", "mse")
    assert narrowed(TEXT, old, new, 2) is None
    twice = TEXT.replace("{smoothing_strength: 0.8}", "\n      ignore: [model.layers.0.mlp.up_proj]")
    assert narrowed(twice, loads(twice), fall_back(loads(twice), MANY[:2]), 2) is None
