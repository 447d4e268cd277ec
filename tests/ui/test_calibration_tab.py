"""The handlers of the Calibration tab, and what its widgets draw, without a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from quantui.calibration import advice, schema
from quantui.calibration.languages import LANGUAGES, SCRIPTS
from quantui.calibration.preview import View
from quantui.calibration.survey import Histogram
from quantui.jobs.store import JobStore
from quantui.ui import rail, sample_drafts, sample_page, shell
from quantui.ui.i18n import PAGES, translator
from quantui.ui.services import Services
from quantui.ui.tabs import calibration, quantize
from quantui.ui.widgets.sample_facts import histogram
from quantui.ui.widgets.samples import pieces, sample_cards
from quantui.workspace import Workspace
from tests.ui.conftest import ONE_LANGUAGE
from tests.ui.test_quantize_tab import demo as quantize_choices


@pytest.fixture(params=list(PAGES))
def services(workspace: Workspace, request: pytest.FixtureRequest) -> Services:
    """A workspace with the demo in it, in each language: tokens are made with a real tokenizer."""
    workspace.add_demo()
    return Services(workspace, JobStore(workspace.runs), translator(request.param))


class Page:
    """A browser: it remembers the revision it has seen, as assets/calibration.js does."""

    def __init__(self, services: Services, model: str = "chat") -> None:
        workspace = services.workspace
        self.services, self.model = services, str(workspace.models / model)
        self.file = str(workspace.calibration / model / "calibration.yaml")
        self.told: dict[str, Any] = {}
        self.html: dict[str, str] = {}
        self.ask("look")

    def ask(self, action: str, **more: Any) -> dict[str, Any]:
        """What the page is told of the samples."""
        asked: dict[str, Any] = {
            "part": "samples",
            "model": self.model,
            "calibration": self.file,
            "recipe": "",
            "action": action,
        }
        asked |= {"revision": self.told.get("revision")}
        self.told = sample_page.answer(self.services, json.loads(json.dumps(asked | more)))
        json.dumps(self.told)
        self.html |= self.told["parts"]
        self.file = self.told["picked"] or self.file
        return self.told

    def facts(self, **more: Any) -> str:
        """The set in numbers."""
        asked = {"part": "facts", "model": self.model, "calibration": self.file, "recipe": ""}
        parts = sample_page.answer(self.services, asked | more)["parts"]
        self.html |= parts
        return str(parts["facts"])

    def wheres(self) -> list[str]:
        """Where the shown samples come from."""
        return [part.split('"')[0] for part in self.html["list"].split('class="where" title="')[1:]]


@pytest.fixture
def page(services: Services) -> Page:
    return Page(services)


def test_the_page_opens_on_the_demo_at_once(services: Services) -> None:
    page = Page(services)
    assert page.html["list"].count("<article") == 20 and page.told["more"]
    assert "&lt;|user|&gt;" in page.html["list"] and 'class="special"' in page.html["list"]
    assert page.told["can"] == {"undo": False, "revert": False, "save": False}
    assert page.told["name"] == "chat-edited" and page.told["failed"] == []
    assert 'data-field="max_tokens" data-value="512"' in page.html["form"]
    facts, t = page.facts(), services.t
    for text in ("256", "8,202", "32.3 %", "7a295ce648f7", "<svg", t("samples.language.zh"), t("samples.cut_far", n="512")):
        assert text in facts, text
    assert 'class="warnings"' not in facts
    assert page.ask("look", have=page.told["digests"])["parts"] == {}


def test_pictures_are_shown_with_their_tiles(services: Services) -> None:
    page = Page(services, "vision")
    cards = page.html["list"]
    assert cards.count("data:image/png;base64,") >= 40
    assert services.t.count("samples.image_tokens", 4) in cards and services.t.count("samples.tiles", 1) in cards
    assert services.t("samples.size", width="56", height="56") in cards
    assert services.t("samples.set.pictures_value", pictures="128", tiles="224") in page.facts()


@ONE_LANGUAGE
def test_the_cut_is_changed_and_drawn(page: Page, services: Services) -> None:
    before = page.wheres()
    page.ask("field", name="max_tokens", value="32")
    assert page.wheres() == before
    assert services.t("samples.cut_here", n="32") in page.html["list"] and 'class="words off"' in page.html["list"]
    facts = page.facts()
    assert services.t("samples.cut_at", n="32") in facts and 'class="warnings"' in facts and 'class="beyond"' in facts
    assert services.t("samples.changed") in page.html["title"] and page.told["can"]["save"]
    again = Page(services)  # a reload
    assert 'data-value="32"' in again.html["form"]
    page.ask("undo")
    assert not page.told["can"]["undo"] and 'data-value="512"' in page.html["form"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("samples", "0"), ("samples", ""), ("max_tokens", "-3"), ("seed", "1.5"), ("seed", "many"), ("long", "never")],
)
def test_a_wrong_setting_is_said_under_its_field(page: Page, name: str, value: str) -> None:
    revision = page.told["revision"]
    told = page.ask("field", name=name, value=value)
    assert told["failed"] == ["field"] and told["revision"] == revision
    field = page.html["form"].split(f'data-field="{name}"')[1].split('class="setting')[0]
    assert 'role="alert"' in field
    assert name == "long" or f'data-value="{value}"' in field


@ONE_LANGUAGE
def test_samples_are_dropped_moved_pinned_and_edited(page: Page, services: Services) -> None:
    first, second, third = page.wheres()[:3]
    page.ask("drop", at=0)
    assert page.wheres()[:2] == [second, third]
    page.ask("down", at=0)
    assert page.wheres()[:2] == [third, second]
    page.ask("up", at=1)
    assert page.wheres()[:2] == [second, third]
    page.ask("pin", at=1)
    assert 'class="sample pinned"' in page.html["list"]
    page.ask("look", editing=1)
    assert 'class="sample-editor"' in page.html["list"]
    messages = [{"role": "user", "content": "<b>new</b>"}, {"role": "assistant", "content": "yes"}]
    page.ask("take", at=1, messages=messages)
    assert "&lt;b&gt;new&lt;/b&gt;" in page.html["list"] and "<b>new" not in page.html["list"]
    facts = page.facts()
    assert "255" in facts and 'class="warnings"' not in facts  # what was dropped is not missing
    page.ask("field", name="seed", value="7")  # others are drawn: the pinned one stays, the dropped one stays away
    assert page.wheres()[0].endswith("(edited)") and first not in page.wheres()
    for _ in range(6):
        page.ask("undo")
    assert page.wheres()[:3] == [first, second, third] and not page.told["can"]["undo"]


def test_what_cannot_be_done_is_said_at_the_sample(page: Page) -> None:
    told = page.ask("take", at=2, messages=[])
    assert told["failed"] == ["2"]
    assert 'role="alert"' in page.html["list"].split("<article")[3]
    assert page.ask("drop", at=9999)["failed"] == ["9999"]
    page.ask("field", name="samples", value="1")
    assert page.ask("drop", at=0)["failed"] == ["0"]


@ONE_LANGUAGE
def test_another_browser_was_first(page: Page, services: Services) -> None:
    other = Page(services)
    other.ask("drop", at=0)
    shown = page.wheres()
    page.ask("drop", at=1)
    assert services.t("samples.stale") in page.html["title"]
    assert page.wheres()[:3] == shown[1:4]


@ONE_LANGUAGE
def test_saving_writes_a_new_file_and_picks_it(page: Page, services: Services) -> None:
    page.ask("field", name="max_tokens", value="40")
    page.ask("drop", at=0)
    shown, original, hashed = page.wheres()[0], Path(page.file).read_text(), page.facts().split('data-text="')[1][:64]
    for wrong in ("", "a/b", "../x", "chat"):
        assert page.ask("save", name=wrong)["failed"] == ["name"] and 'role="alert"' in page.html["name"]
    old, told = page.file, page.ask("save", name="mine")
    path = services.workspace.calibration / "mine" / "calibration.yaml"
    assert told["picked"] == str(path) == rail.load(services.workspace).calibration
    saved = schema.load(path)
    assert (saved.samples, saved.max_tokens, saved.shuffle) == (255, 40, False)
    assert Path(old).read_text() == original
    assert (path.parent / "evaluation.jsonl").is_file()
    page.ask("look")
    assert services.t("samples.unchanged") in page.html["title"] and page.wheres()[0] != shown
    assert hashed in page.facts()  # the same tokens
    assert page.told["name"] == "mine-edited"
    picked = quantize.pick_calibration(services, **quantize_choices(services, calibration=str(path)))
    assert picked[0]["value"] == str(path) and ("mine", str(path)) in picked[0]["choices"]


def test_errors_stand_where_the_cause_is(services: Services) -> None:
    page = Page(services)
    page.model = "/nowhere"
    page.ask("look")
    assert 'class="problem"' in page.html["list"] and "data-field" in page.html["form"]
    assert services.t("samples.set.blocked") in page.facts()
    page.model = str(services.workspace.models / "chat")
    page.file = str(services.workspace.calibration / "vision" / "calibration.yaml")
    page.ask("look")
    assert 'role="alert"' in page.html["list"]  # the model reads no pictures
    broken = services.workspace.calibration / "broken.yaml"
    broken.write_text("sources: []\n")
    page.file = str(broken)
    page.ask("look")
    assert 'class="problem"' in page.html["title"] and page.html["form"] == ""
    page.file = ""
    page.ask("look")
    assert services.t("rail.no_calibration") in page.html["title"]


@ONE_LANGUAGE
def test_a_file_that_has_changed_is_shown_as_it_is(page: Page, services: Services) -> None:
    page.ask("drop", at=0)
    file = Path(page.file)
    file.write_text(file.read_text().replace("samples: 256", "samples: 30"))
    assert not page.ask("look")["can"]["undo"]
    (services.workspace.root / sample_drafts.FILE).write_text('[{"path": 3}, 4, {"path": "x", "seal": 1, "steps": [{}]}]')
    assert not page.ask("look")["can"]["undo"]
    page.ask("drop", at=0)
    assert page.told["can"]["undo"]


def test_texts_are_escaped_and_tokens_keep_their_places() -> None:
    """Bytes of one character are one piece; what no token holds is text; the cut falls between two pieces."""
    view = View(
        0, "a:1", 0, "text", "<s>ab c狐", (1, 2, 3, 7, 8), ((0, 3), (3, 5), (6, 7), (7, 8), (7, 8)), (True, *[False] * 4), 3, 7
    )
    found = [(piece.kind, piece.text, piece.first, piece.last) for piece in pieces(view, True)]
    assert found == [
        ("special", "<s>", 0, 1),
        ("text", "ab", 1, 2),
        ("text", " ", 2, 2),
        ("text", "c", 2, 3),
        ("text", "狐", 3, 5),
    ]
    merged = [piece.text for piece in pieces(view, False)]
    assert merged == ["<s>", "ab c", "狐"]
    from quantui.calibration.edits import Choice
    from quantui.calibration.sample import Sample

    t = translator("en")
    cards = sample_cards(t, [view], Choice((Sample("a:1", text="x"),)), boundaries=True, editing=None, wrong={})
    assert "&lt;s&gt;" in cards and "cut after 3 tokens" in cards and "2 cut off" in cards and "id 7, 8" in cards


def test_every_word_of_the_library_is_translated() -> None:
    for lang in PAGES:
        t = translator(lang)
        for key in advice.TEXTS:
            assert t(f"samples.advice.{key}")
        for name in LANGUAGES:
            assert t(f"samples.language.{name}")
        for name, *_ in SCRIPTS:
            assert t(f"samples.script.{name}")


def test_a_histogram_holds_every_bar_in_its_table() -> None:
    drawn = histogram(translator("en"), Histogram((0, 10, 15, 20), (3, 0, 5), 15))
    assert (
        drawn.count("<rect") == 2 and drawn.count("<tr") == 3 and drawn.count('data-begin="15"') == 2 and 'class="cut"' in drawn
    )
    assert "15 to 19 tokens: 5" in drawn


def test_components_go_together(services: Services) -> None:
    with gr.Blocks(analytics_enabled=False):
        pickers = shell.layout_rail(services)
        with gr.Tabs():
            view = calibration.layout(services)
        around = shell.Shell(pickers, shell.layout_monitor(services), shell.layout_courier())
        calibration.wire(view, around, services)
    told = json.loads(calibration.arrive(services))
    assert told["calibration"].endswith("chat/calibration.yaml") and set(told) == {"model", "calibration", "recipe"}
    assert json.loads(calibration.tell(services, model=None, calibration="c", recipe=None))["calibration"] == "c"


def row(**fields: Any) -> str:
    return json.dumps(fields, ensure_ascii=False) + "\n"


@pytest.fixture
def own(services: Services) -> Path:
    """A folder of the user's own data."""
    folder = services.workspace.calibration / "own"
    folder.mkdir()
    (folder / "zh.jsonl").write_text("".join(row(text=f"这是第 {n} 句中文") for n in range(40)), encoding="utf-8")
    (folder / "plain.json").write_text(json.dumps([f"this is what sentence {n} says" for n in range(40)]))
    (folder / "bad.jsonl").write_text(row(text="good") + "no json\n" + row(text="good too"))
    (folder / "chat.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}")
    return folder


def add(page: Page, kind: str, at: int | None = None, **typed: str) -> dict[str, Any]:
    """What the page is told when a source is applied."""
    return page.ask("source-take", source={"kind": kind, "at": at, "typed": typed})


@ONE_LANGUAGE
def test_sources_are_added_weighed_moved_and_removed(page: Page, services: Services, own: Path) -> None:
    add(page, "jsonl", path=str(own / "zh.jsonl"))
    assert page.html["form"].count('class="source-head"') == 2 and page.told["failed"] == []
    page.ask("field", name="samples", value="30")
    for at, weight in enumerate(("1", "2")):
        page.ask("field", name=f"weight.{at}", value=weight)
    assert page.html["form"].count('class="weight"') == 2 and 'data-field="weight.1" data-value="2"' in page.html["form"]
    assert sum("zh.jsonl" in where for where in page.wheres()) in (13, 14)  # two thirds of the 20 that are shown
    facts = page.facts()
    assert "66.7 %" in facts and services.t("samples.set.sources") in facts
    page.ask("source-up", at=1)
    assert page.html["form"].index("zh.jsonl") < page.html["form"].index("calibration.jsonl")
    page.ask("source-remove", at=1)
    assert all("zh.jsonl" in where for where in page.wheres())
    assert page.ask("source-remove", at=0)["failed"] == ["sources"] and 'role="alert"' in page.html["form"]
    page.ask("undo")
    page.ask("undo")
    assert page.html["form"].index("calibration.jsonl") < page.html["form"].index("zh.jsonl")
    shown, saved = page.wheres(), page.ask("save", name="mixed")["picked"]
    found = schema.load(Path(saved))
    assert [source.weight for source in found.sources] == [1, 2] and "path: ../own/zh.jsonl" in Path(saved).read_text()
    page.ask("look")
    assert page.wheres() == shown  # the same draw


def test_every_kind_of_source_has_a_form(page: Page, services: Services) -> None:
    for kind in schema.OPTIONS:
        page.ask("form", source={"kind": kind, "at": None, "typed": {}})
        form = page.html["form"].split('class="source-form"')[1]
        for name in (*filter(None, schema.OPTIONS[kind][:1]), *schema.OPTIONS[kind][1]):
            assert f'data-option="{name}"' in form, (kind, name)
        told = add(page, kind)
        needs_one = schema.OPTIONS[kind][0] or kind == "hub"
        assert told["failed"] == (["source"] if needs_one else []), kind
        assert 'role="alert"' in page.html["form"]


@ONE_LANGUAGE
def test_what_is_pasted_becomes_samples(page: Page) -> None:
    add(page, "texts", texts="one line\n\nanother text\nof two lines\n\n\nthe third")
    page.ask("source-remove", at=0)
    assert page.html["list"].count("<article") == 3 and "of two lines" in page.html["list"]
    held = page.html["form"]
    assert "data-kind" in held
    page.ask("form", source={"kind": "texts", "at": 0, "typed": {}})
    assert "another text\nof two lines" in page.html["form"]
    add(page, "texts", 0, texts="first\nsecond")
    assert page.html["list"].count("<article") == 2


@ONE_LANGUAGE
def test_a_source_is_changed_and_keeps_what_was_not(page: Page, own: Path, services: Services) -> None:
    add(page, "jsonl", path="../own/bad.jsonl")  # relative to the calibration file
    page.ask("source-remove", at=0)
    assert 'role="alert"' in page.html["list"] and "bad.jsonl:2" in page.html["list"]
    page.ask("field", name="weight.0", value="3")
    add(page, "jsonl", 0, on_bad="skip")
    assert page.html["list"].count("<article") == 2 and 'data-field="weight.0" data-value="3"' in page.html["form"]
    for wrong in ({"path": "../own/none.jsonl"}, {"path": "/etc/passwd"}, {"path": "\0"}, {"choose": "many"}, {"columns": "a"}):
        assert add(page, "jsonl", 0, **wrong)["failed"] == ["source"], wrong
        assert 'role="alert"' in page.html["form"].split('class="source-form"')[1]
    assert add(page, "nothing")["failed"] == [] and add(page, "jsonl", 7)["failed"] == []


@ONE_LANGUAGE
def test_files_are_chosen_in_the_allowed_folders(page: Page, services: Services, own: Path) -> None:
    form = {"kind": "jsonl", "at": None, "typed": {}, "browsing": "path", "folder": None}
    page.ask("form", source=form)
    assert "calibration.jsonl" in page.html["form"] and "calibration.yaml" not in page.html["form"].split("data-picker")[1]
    page.ask("form", source=form | {"folder": str(own)})
    picker = page.html["form"].split("data-picker")[1]
    assert "zh.jsonl" in picker and "plain.json<" not in picker
    page.ask("form", source=form | {"folder": ""})
    assert str(services.workspace.calibration) in page.html["form"]
    for outside in ("/etc", str(services.workspace.root.parent), "\0"):
        page.ask("form", source=form | {"folder": outside})
        assert 'role="alert"' in page.html["form"], outside
    (own / "pictures").mkdir()
    page.ask("form", source={"kind": "images", "at": None, "browsing": "path", "folder": str(own), "typed": {}})
    assert 'data-do="source-pick"' in page.html["form"].split("data-picker")[1]


@ONE_LANGUAGE
def test_template_packing_and_languages_are_set(page: Page, services: Services, own: Path) -> None:
    page.ask("field", name="template", value="plain")
    assert "user: " in page.html["list"] and "&lt;|user|&gt;" not in page.html["list"]
    page.ask("field", name="template", value="other")
    assert "&lt;|user|&gt;" in page.html["list"] and 'data-field="template_text"' in page.html["form"]
    page.ask("field", name="template_text", value=str(own / "chat.jinja"))
    assert "[user]" in page.html["list"]
    assert page.ask("field", name="template_text", value="none.jinja")["failed"] == ["field"]
    page.ask("field", name="template_text", value="{% bad")
    assert 'role="alert"' in page.html["list"]
    page.ask("field", name="template", value="own")
    page.ask("field", name="pack", value=True)
    page.ask("field", name="max_tokens", value="64")
    page.ask("field", name="samples", value="12")
    assert page.html["list"].count("<article") == 12 and services.t("samples.kind.tokens") in page.html["list"]
    page.ask("revert")
    add(page, "jsonl", path=str(own / "zh.jsonl"))
    page.ask("field", name="samples", value="40")
    page.ask("field", name="language.zh", value="25 %")
    page.ask("field", name="language.en", value="75")
    assert "<b>25 %</b>" in page.facts() and 'data-field="language.zh" data-value="25"' in page.html["form"]
    for name, value in (("weight.0", "2"), ("language.zh", "much"), ("language.code", "-1")):
        assert page.ask("field", name=name, value=value)["failed"] == ["field"], name
        assert 'role="alert"' in page.html["form"]
    page.ask("field", name="language.zh", value="")
    page.ask("field", name="language.en", value="")
    page.ask("field", name="dedupe", value="yes")
    assert services.t("samples.dedupe.yes") in page.html["form"] and page.told["failed"] == []


@ONE_LANGUAGE
def test_odd_questions_are_answered(page: Page) -> None:
    """Nothing that a browser may send breaks the page."""
    page.ask("field", name="samples", value="2")
    for value in (None, [], {}, "x", -1, 10**9, True, 1.5, "\0", "\ud800"):
        for name in ("weight.0", "weight.99", "language.xx", "template_text", "nothing"):
            page.ask("field", name=name, value=value)
        page.ask("source-take", source={"kind": "jsonl", "at": value, "typed": value})
        page.ask("form", source={"kind": "jsonl", "at": None, "typed": {"path": value}, "browsing": value, "folder": value})
        page.ask("source-up", at=value, source=value)
        page.ask("look", shown=value, editing=value, boundaries=value, have=value)
    page.ask("revert")
    assert 'data-value="256"' in page.html["form"]
