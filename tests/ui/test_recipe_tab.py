"""The handlers of the Recipe tab, and what its widgets draw, without a browser."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from quantui.checkpoint.inspect import Linear
from quantui.errors import OutputError
from quantui.jobs.store import JobStore
from quantui.recipe import edit, llmcompressor
from quantui.recipe.fields import FIELDS, SECTIONS
from quantui.recipe.layers import layer_table
from quantui.recipe.schema import Recipe
from quantui.ui import drafts, rail, recipe_page, recipes, yaml_lines
from quantui.ui.i18n import PAGES, translator
from quantui.ui.services import Services
from quantui.ui.tabs import quantize, recipe
from quantui.ui.widgets.layers import layer_data, scheme_kind
from quantui.ui.widgets.recipe_bench import bench
from quantui.ui.widgets.recipe_form import recipe_form, shown_value
from quantui.workspace import RECIPES
from tests.ui.test_quantize_tab import demo as quantize_choices

FP8 = str(RECIPES / "fp8-w8a8-kv8.yaml")
DYNAMIC = str(RECIPES / "int8-w8a8-dynamic.yaml")
DOWN, QUERY = "model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj"
SLIM = "python3 quant_internlm2.py --w_bit 8 --a_bit 8 --act_method 3 --anti_method m2 --tp_size 2"


class Page:
    """A browser: it remembers the revision it has seen, as assets/recipe.js does."""

    def __init__(self, services: Services, path: str = FP8) -> None:
        self.services, self.path, self.told = services, path, dict[str, Any]()
        self.html: dict[str, str] = {}
        self.ask("look")

    def ask(self, action: str, **more: Any) -> dict[str, Any]:
        """What the page is told."""
        model = str(self.services.workspace.models / "chat")
        asked = {"model": model, "recipe": self.path, "revision": self.told.get("revision"), "action": action}
        self.told = recipe_page.answer(self.services, json.loads(json.dumps(asked | more)))
        json.dumps(self.told)
        self.path = self.told["picked"] or self.path
        self.html |= self.told["parts"]
        return self.told

    def after(self, layer: str) -> str:
        """The scheme of a layer in the table."""
        names = [name for name, *_ in self.fixed]
        return str(self.told["layers"]["schemes"][self.told["layers"]["cells"][names.index(layer)][0]][1])

    @property
    def fixed(self) -> list[Any]:
        """The part of the table that the model fixes."""
        return list(self.told["layers"]["fixed"])


@pytest.fixture
def page(services: Services) -> Page:
    return Page(services)


def test_the_page_opens_on_the_recipe_of_the_rail(page: Page, services: Services) -> None:
    assert page.told["text"] == Path(FP8).read_text(encoding="utf-8")
    assert services.t("recipe.saved") in page.html["title"] and services.t("recipe.shipped") in page.html["title"]
    assert page.told["can"] == {"undo": False, "redo": False, "save": False}
    assert page.told["name"] == "fp8-w8a8-kv8-edited"
    assert page.told["picked"] == "" and page.told["marks"] == []
    assert [name for name, *_ in page.fixed] == ["lm_head", DOWN, "model.layers.0.self_attn.k_proj", QUERY]
    assert page.after("lm_head") == "fallback" and page.after(DOWN) == "bits8"
    assert recipe.arrive(services) == json.dumps({"model": rail.load(services.workspace).model, "recipe": FP8})
    assert json.loads(recipe.tell(services, model=None, recipe="x")) == {"model": "", "recipe": "x"}


def test_a_field_changes_the_text_and_keeps_its_comments(page: Page, services: Services) -> None:
    told = page.ask("field", name="outliers", value="smoothquant")
    assert told["text"].startswith("# FP8 weights") and "SmoothQuantModifier" in told["text"]
    assert 'data-field="smoothing_strength"' in page.html["form"]
    assert services.t("recipe.unsaved") in page.html["title"] and told["can"]["save"]
    told = page.ask("field", name="smoothing_strength", value="0.8")
    assert "smoothing_strength: 0.8" in told["text"] and 'data-value="0.8"' in page.html["form"]
    revision = told["revision"]
    assert page.ask("field", name="smoothing_strength", value="0.8")["revision"] == revision


def test_the_text_changes_the_form(page: Page) -> None:
    page.ask("text", text=page.told["text"].replace("strategy: tensor", "strategy: channel", 1))
    field = re.search(r'(?s)data-name="weight_strategy".*?</div>', page.html["form"])
    assert field and 'data-value="channel"' in field[0]


def test_a_broken_text_is_marked_and_the_last_good_state_stays(page: Page, services: Services) -> None:
    good = page.told["text"]
    line = good.split("\n").index("            num_bits: 8") + 1
    told = page.ask("text", text=good.replace("num_bits: 8", "num_bits: eight", 1))
    assert [mark[:2] for mark in told["marks"]] == [(line, "error")]
    assert "eight" in told["text"] and not told["can"]["save"]
    assert re.search(r'class="field wrong" data-name="weight_bits"', page.html["form"])
    assert services.t("recipe.kept") in page.html["remarks"]
    assert page.after(DOWN) == "bits8"
    told = page.ask("text", text=f"{good}\n  [")
    assert told["marks"] and not told["can"]["save"]
    told = page.ask("float", layers=[DOWN])  # an edit goes on from the last good state
    assert DOWN in told["text"] and "[\n" not in told["text"] and not told["marks"]
    while page.told["can"]["undo"]:
        page.ask("undo")
    assert page.told["text"] == good


def test_a_refused_value_stays_in_its_field_and_marks_its_line(page: Page) -> None:
    before = page.told["text"]
    told = page.ask("field", name="weight_bits", value="9")
    line = before.split("\n").index("            num_bits: 8") + 1
    assert told["text"] == before and told["failed"] == ["field"]
    assert told["marks"][0][:2] == (line, "error")
    assert re.search(r'(?s)data-name="weight_bits".*?data-value="9"', page.html["form"])
    assert 'aria-invalid="true"' in page.html["form"]
    assert not page.ask("look")["failed"] and 'data-value="9"' not in page.html["form"]


def test_layers_fall_back_get_schemes_and_come_back(page: Page) -> None:
    whole = page.html["totals"]
    told = page.ask("float", layers=[DOWN, QUERY])
    assert page.after(DOWN) == page.after(QUERY) == "fallback"
    assert DOWN in told["text"] and page.html["totals"] != whole
    page.ask("restore", layers=[DOWN])
    assert page.after(DOWN) == "bits8" and page.after(QUERY) == "fallback"
    told = page.ask("restore", layers=["lm_head"])  # the only layer that its ignore pattern takes here
    assert page.after("lm_head") == "bits8" and "lm_head" not in told["text"] and not told["marks"]
    page.ask("undo")
    page.ask("scheme", layers=[DOWN], scheme="MXFP4A16")
    assert page.after(DOWN) == "bits4" and 'data-group="group_1"' in page.html["form"]
    page.ask("group", group="group_1")
    assert page.after(DOWN) == "bits8"
    page.ask("group", group="nothing")
    assert page.told["failed"] == ["field"]
    page.ask("restore", layers=["model.embed_tokens"])
    assert page.told["failed"] == [] or page.told["failed"] == ["layers"]
    assert page.ask("scheme", layers=[DOWN], scheme="W99")["failed"] == ["layers"]
    assert 'class="problem"' in page.html["layers"]


def test_undo_and_redo_go_over_every_kind_of_edit(page: Page) -> None:
    texts = [page.told["text"]]
    for action, more in (
        ("field", {"name": "rounding", "value": "gptq"}),
        ("float", {"layers": [DOWN]}),
        ("text", {"text": "# typed\n" + texts[0]}),
        ("open", {"path": DYNAMIC}),
        ("take", {"text": SLIM}),
        ("save", {"name": "mine"}),
    ):
        page.ask(action, **more)
        texts.append(page.told["text"])
    for text in reversed(texts[:-1]):
        page.ask("undo")
        assert page.told["text"] == text or text == texts[-2]
    assert page.told["text"] == texts[0] and not page.told["can"]["undo"]
    for _ in texts:
        page.ask("redo")
    assert page.told["text"] == texts[-1] and not page.told["can"]["redo"]
    assert page.ask("redo")["text"] == texts[-1]


def test_what_is_typed_without_a_pause_is_one_step(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    first, now = page.told["text"], time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    for end in range(1, 5):
        page.ask("text", text=first + "# end"[:end])
    now += 10
    page.ask("text", text=first + "# end, later")
    assert page.ask("undo")["text"] == first + "# en"
    assert page.ask("undo")["text"] == first


def test_an_import_is_accounted_for_and_taken(page: Page, services: Services) -> None:
    before = page.told["text"]
    page.ask("preview", text=SLIM)
    assert "tp_size" in page.html["report"] and "msModelSlim" in page.html["report"]
    assert page.told["text"] == before
    page.ask("preview", text="nobody's words")
    assert 'class="problem"' in page.html["report"]
    assert page.ask("take", text="nobody's words")["failed"] == ["paste"]
    told = page.ask("take", text=SLIM)
    assert llmcompressor.loads(told["text"]).outliers is not None
    assert told["base"] == "" and told["name"] == "imported" and services.t("recipe.pasted") in page.html["title"]
    page.ask("preview", text="lmdeploy lite calibrate internlm/internlm2-chat-7b --work-dir x")
    assert services.t("recipe.paste.statistics") in page.html["report"]


def test_saving_writes_the_users_own_recipe_and_picks_it(page: Page, services: Services) -> None:
    shipped = Path(FP8).read_text(encoding="utf-8")
    page.ask("float", layers=[DOWN])
    told = page.ask("save", name="mine")
    file = services.workspace.recipes / "mine.yaml"
    assert told["picked"] == str(file) == told["base"] and file.read_text(encoding="utf-8") == told["text"]
    assert Path(FP8).read_text(encoding="utf-8") == shipped
    assert told["name"] == "mine" and not told["can"]["save"]
    assert str(file) in page.html["gallery"] and services.t("recipe.own") in page.html["title"]
    assert not list(services.workspace.recipes.glob(".*"))
    page.ask("restore", layers=[DOWN])
    assert page.ask("save", name="mine")["failed"] == []
    assert llmcompressor.load(file).ignore == llmcompressor.load(Path(FP8)).ignore

    choices = quantize_choices(services)
    picked = quantize.pick_recipe(services, **{**choices, "recipe": str(file)})
    assert picked[0]["value"] == str(file) and ("mine", str(file)) in picked[0]["choices"]
    assert rail.load(services.workspace).recipe == str(file)


@pytest.mark.parametrize("name", ["", " ", "../x", "a/b", ".x", "a\\b", "x" * 200, "a\nb", "int8-w8a16", "other"])
def test_names_that_cannot_be_saved_under(page: Page, services: Services, name: str) -> None:
    (services.workspace.recipes / "other.yaml").write_text("other", encoding="utf-8")
    page.ask("float", layers=[DOWN])
    assert page.ask("save", name=name)["failed"] == ["name"] and 'class="problem"' in page.html["name"]
    assert (services.workspace.recipes / "other.yaml").read_text(encoding="utf-8") == "other"
    assert {path.name for path in services.workspace.recipes.iterdir()} == {"other.yaml"}


def test_a_link_out_of_the_workspace_is_not_followed(page: Page, services: Services, tmp_path: Path) -> None:
    outside = tmp_path / "outside.yaml"
    outside.write_text("", encoding="utf-8")
    (services.workspace.recipes / "link.yaml").symlink_to(outside)
    page.ask("float", layers=[DOWN])
    assert page.ask("save", name="link")["failed"] == ["name"] and outside.read_text(encoding="utf-8") == ""
    assert page.ask("open", path="/etc/passwd")["failed"] == ["title"] and "root:" not in page.told["text"]


def test_a_file_that_was_changed_elsewhere_is_not_overwritten(page: Page, services: Services) -> None:
    page.ask("save", name="mine")
    file = services.workspace.recipes / "mine.yaml"
    file.write_text("# by hand\n" + page.told["text"], encoding="utf-8")
    page.ask("float", layers=[DOWN])
    assert page.ask("save", name="mine")["failed"] == ["name"]
    assert file.read_text(encoding="utf-8").startswith("# by hand")
    assert page.ask("revert")["text"].startswith("# by hand")
    page.ask("float", layers=[DOWN])
    assert page.ask("save", name="mine")["failed"] == []


def test_what_cannot_be_read_is_not_saved(page: Page, services: Services) -> None:
    page.ask("text", text="quant_stage: [")
    assert page.ask("save", name="mine")["failed"] == ["name"]
    assert not (services.workspace.recipes / "mine.yaml").exists()
    assert services.t("recipe.name") and isinstance(OutputError("x"), Exception)


def test_a_reload_finds_the_draft_and_a_second_browser_does_not_write_over_it(services: Services) -> None:
    one = Page(services)
    two = Page(services)
    one.ask("float", layers=[DOWN])
    told = two.ask("float", layers=[QUERY])
    assert services.t("recipe.stale") in two.html["title"]
    assert DOWN in told["text"] and QUERY not in told["text"]
    told = two.ask("float", layers=[QUERY])
    assert DOWN in told["text"] and QUERY in told["text"]
    assert Page(services).told["text"] == told["text"]
    (services.workspace.root / drafts.FILE).write_text("{", encoding="utf-8")
    assert Page(services).told["text"] == Path(FP8).read_text(encoding="utf-8")


def test_another_recipe_of_the_rail_is_opened_and_can_be_undone(page: Page) -> None:
    page.ask("float", layers=[DOWN])
    edited = page.told["text"]
    page.path = DYNAMIC
    assert page.ask("look")["text"] == Path(DYNAMIC).read_text(encoding="utf-8")
    told = page.ask("undo")
    assert told["text"] == edited and told["picked"] == FP8
    page.path = "/nowhere/x.yaml"
    assert page.ask("look")["failed"] == ["title"]
    assert page.told["text"] == edited


def test_a_malformed_file_is_opened_as_it_is(services: Services) -> None:
    file = services.workspace.recipes / "odd.yaml"
    file.write_text("quant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n      igmore: []\n", encoding="utf-8")
    page = Page(services, str(file))
    assert page.told["marks"][0][0] == 4 and services.t("recipe.form.empty") in page.html["form"]
    assert page.ask("float", layers=[DOWN])["failed"] == ["layers"]
    page.ask("text", text="\ud800 \x00")
    assert page.told["marks"]


def test_changes_name_lines_and_layers(page: Page, services: Services) -> None:
    assert services.t("recipe.changes.none") in page.html["changes"]
    page.ask("float", layers=[DOWN])
    assert 'class="added"' in page.html["changes"] and DOWN[-10:] in page.html["changes"]
    assert services.t.count("recipe.changes.layers", 1) in page.html["changes"]
    page.ask("revert")
    assert services.t("recipe.changes.none") in page.html["changes"] and page.told["can"]["undo"]


def test_without_a_model_the_recipe_can_still_be_edited(page: Page, services: Services) -> None:
    told = page.ask("field", name="rounding", value="gptq", model="")
    assert "GPTQModifier" in told["text"] and told["layers"]["cells"] == [] and page.html["totals"] == ""
    assert services.t("missing.model_todo").split("，")[0][:8].lower() in page.html["layers"].lower()


def test_only_what_has_changed_is_sent(page: Page) -> None:
    told = page.ask("look", have=page.told["digests"], stamp=page.told["layers"]["stamp"])
    assert told["parts"] == {} and "fixed" not in told["layers"]


def test_every_shipped_recipe_is_in_the_gallery_with_a_sentence(page: Page, services: Services) -> None:
    for file in RECIPES.glob("*.yaml"):
        assert f'data-path="{file}"' in page.html["gallery"]
        assert services.t(f"preset.{file.stem}.use") and services.t(f"preset.{file.stem}.seen")
        assert page.ask("open", path=str(file))["failed"] == [] and page.html["form"] and page.html["totals"]


@pytest.mark.parametrize("lang", list(PAGES))
def test_the_form_has_words_for_every_field(lang: str) -> None:
    t = translator(lang)
    for field in FIELDS.values():
        assert t(f"recipe.field.{field.name}") and t(f"recipe.help.{field.name}")
    for section in SECTIONS:
        assert section == "fallback" or t(f"recipe.section.{section}")
    assert 'data-bench="root"' in bench(t) and '<section class="form-section"' in recipe_form(t, Recipe(), {}, {})


def test_the_form_says_which_of_several_groups_it_changes() -> None:
    t, recipe = translator("en"), llmcompressor.load(Path(FP8))
    note = t("recipe.of_group", group="group_0", targets="Linear")
    assert note not in recipe_form(t, recipe, {}, {})
    assert note in recipe_form(t, edit.give_scheme(recipe, [DOWN], "W8A16"), {}, {})


def test_values_as_inputs_hold_them() -> None:
    assert [shown_value(v) for v in (None, True, 0.5, 8, ("a", "b"), "x")] == ["", "true", "0.5", "8", "a\nb", "x"]


def test_lines_and_fields_find_each_other() -> None:
    source = Path(FP8).read_text(encoding="utf-8")
    for name in ("weight_bits", "activation_observer", "kv_strategy", "ignore", "targets"):
        line = yaml_lines.line_of(source, name)
        assert line and yaml_lines.field_at(source, line) == name, name
    assert yaml_lines.line_of(source, "rounding") and not yaml_lines.line_of(source, "sparse_sigma")
    assert yaml_lines.line_of(source, "nothing") == 0 and yaml_lines.field_at(source, 999) == ""
    assert yaml_lines.field_at(source, 1) == ""
    assert yaml_lines.place_of("a/b.yaml:4:7") == 4 and yaml_lines.place_of("recipe") == 0
    escaped = 'x:\n  ignore: ["re:.*mlp\\\\.gate$"]\n'
    assert yaml_lines.line_with(escaped, "re:.*mlp\\.gate$") == 2 and yaml_lines.line_with(escaped, "y") == 0


def test_colours_go_by_bits() -> None:
    assert [scheme_kind(words) for words in ("float", "W4A16 int4 group 128", "W8A8 int8 static", "A8 activations only")] == [
        "float", "bits4", "bits8", "bits8",
    ]  # fmt: skip
    assert scheme_kind("float", ignored=True) == "fallback"


def test_rows_of_500_layers_are_sent_once() -> None:
    layers = [Linear(f"model.layers.{i // 7}.mlp.x{i % 7}_proj", 4096, 4096, "BF16") for i in range(500)]
    made = llmcompressor.load(Path(FP8))
    t = translator("en")
    first = layer_data(t, layer_table(made, layers), None)
    again = layer_data(t, layer_table(made, layers), first["stamp"])
    assert len(first["fixed"]) == len(again["cells"]) == 500 and "fixed" not in again
    assert len(json.dumps(again)) < 20_000


def test_a_draft_forgets_its_oldest_steps(services: Services) -> None:
    draft = drafts.started(services.workspace, FP8)
    for n in range(drafts.MOST + 20):
        draft = drafts.with_step(draft, drafts.Step("", 0, f"# {n}"))
    assert len(draft.steps) == drafts.MOST and draft.at == drafts.MOST - 1
    big = drafts.with_step(draft, drafts.Step("", 0, "#" * drafts.LARGEST))
    assert len(big.steps) == 2
    drafts.save(services.workspace, big)
    assert drafts.load(services.workspace) == big
    assert recipes.recipe_of(drafts.started(services.workspace, "/nowhere")) == Recipe()
    assert JobStore(services.workspace.runs).list() == []


def test_thousands_of_problems_are_told_as_the_first_and_a_number(page: Page, services: Services) -> None:
    layers = "".join(f"        - model.layers.{n}.none\n" for n in range(2000))
    body = f"      scheme: W8A8\n      targets: [Linear]\n      ignore:\n{layers}"
    told = page.ask("text", text=f"quant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n{body}")
    assert len(told["marks"]) == recipe_page.MARKED and len(told["parts"]["remarks"]) < 10_000
