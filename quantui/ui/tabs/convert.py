"""The Convert tab: what a folder is, the plan for every tensor of it, and the job that carries the plan out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Unpack

import gradio as gr

from quantui.checkpoint.convert.plan import Plan
from quantui.checkpoint.convert.prepare import VERIFY_BELOW
from quantui.errors import InputError
from quantui.ui import notes, numbers, rail, sources
from quantui.ui.choices import promised
from quantui.ui.conversions import DTYPES, VERIFY, Conversion, checked, concern, planned, prepare, settled
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, tag
from quantui.ui.services import Services
from quantui.ui.shell import QUIET, Shell, still
from quantui.ui.widgets.facts import empty, panel, problem, sentence
from quantui.ui.widgets.log import log_view
from quantui.ui.widgets.plan import no_plan, plan_table, source_facts
from quantui.workspace import free_bytes

NAME = "convert"
SHARD = "5GB"
RARE = ("shard", "processor", "image_token")
"""The choices under More that can be wrong."""


class View(NamedTuple):
    """The tab's components. `given` names those a handler is given, `shown` those `look` fills."""

    tab: gr.Tab
    source: gr.Dropdown
    source_note: gr.HTML
    facts: gr.HTML
    out: gr.Textbox
    out_note: gr.HTML
    dtype: gr.Dropdown
    more: gr.Accordion
    shard: gr.Textbox
    shard_note: gr.HTML
    verify: gr.Dropdown
    verify_note: gr.HTML
    extra: gr.Checkbox
    processor: gr.Textbox
    processor_note: gr.HTML
    image_token: gr.Textbox
    image_token_note: gr.HTML
    run: gr.Button
    filter: gr.Textbox
    plan: gr.HTML


class Seen(NamedTuple):
    """What the page shows for one set of choices; `shown` lists the components in the same order."""

    source_note: Markup
    facts: Markup
    out_note: Markup
    shard_note: Markup
    verify_note: Markup
    processor_note: Markup
    image_token_note: Markup
    more: Any
    plan: Markup
    run: Any


def layout(t: Translator, offered: Sequence[rail.Choice] = ()) -> View:
    """Choose on the left, the job and the plan beside it, everything that ran on the right.

    The source is there from the start: a tab that is built before the page's first answer looks at what it finds.
    """
    offered = list(offered)
    dtypes = [(t("convert.dtype_keep") if name == "keep" else name, name) for name in DTYPES]
    with gr.Tab(t("tab.convert"), id=NAME) as tab, gr.Row(elem_id="convert"):
        with gr.Column(elem_id="c-setup", elem_classes="panel"):
            source = gr.Dropdown(
                offered, value=sources.preferred(offered) or None, label=t("convert.source"), allow_custom_value=True,
                interactive=True, elem_id="convert-source", elem_classes="picker", num_choices_shown=200,
            )  # fmt: skip
            source_note = still(elem_id="note-source", elem_classes="note")
            facts = still(elem_id="source-facts")
            out = gr.Textbox(label=t("convert.out"), elem_id="convert-out", elem_classes="plain", max_lines=1)
            out_note = still(elem_id="note-convert-out", elem_classes="note")
            dtype = gr.Dropdown(
                dtypes, value=dtypes[0][1], label=t("convert.dtype"), filterable=False, elem_id="convert-dtype",
                elem_classes="picker",
            )  # fmt: skip
            more, rare = _layout_more(t)
            run = gr.Button(t("convert.run"), variant="primary", elem_id="convert-button", interactive=False)
        with gr.Column(elem_id="c-work"):
            still(tag("section", data_live="run", cls="panel run"), elem_id="c-run")
            with gr.Column(elem_id="c-plan", elem_classes="panel"):
                still(tag("h2", t("plan.title"), title=t("hint.plan")))
                query = gr.Textbox(
                    label=t("plan.filter"), show_label=False, container=False, placeholder=t("plan.filter"), max_lines=1,
                    elem_id="plan-filter",
                )  # fmt: skip
                plan = still(elem_id="plan")
            still(log_view(t), elem_id="c-log")
        with gr.Column(elem_id="c-jobs"):
            still(panel(t("jobs.title"), tag("div", data_live="jobs")))
    return View(tab, source, source_note, facts, out, out_note, dtype, more, **rare, run=run, filter=query, plan=plan)


def _layout_more(t: Translator) -> tuple[gr.Accordion, dict[str, Any]]:
    """What is seldom changed, by the field of View."""
    compared = [(t(f"convert.verify_{name}"), name) for name in VERIFY]
    with gr.Accordion(t("convert.more"), open=False, elem_id="convert-more") as more:
        rare: dict[str, Any] = {
            "verify": gr.Dropdown(
                compared, value="auto", label=t("convert.verify"), filterable=False, elem_id="convert-verify",
                elem_classes="picker",
            ),
            "verify_note": still(elem_id="note-verify", elem_classes="note"),
            "shard": gr.Textbox(SHARD, label=t("convert.shard"), max_lines=1, elem_id="convert-shard", elem_classes="plain"),
            "shard_note": still(elem_id="note-shard", elem_classes="note"),
            "processor": gr.Textbox(
                label=t("convert.processor"), max_lines=1, elem_id="convert-processor", elem_classes="plain",
                placeholder=t("convert.processor_place"),
            ),
            "processor_note": still(elem_id="note-processor", elem_classes="note"),
            "image_token": gr.Textbox(
                label=t("convert.token"), max_lines=1, elem_id="convert-token", elem_classes="plain",
                placeholder=t("convert.token_place"),
            ),
            "image_token_note": still(elem_id="note-token", elem_classes="note"),
            "extra": gr.Checkbox(label=t("convert.extra"), info=t("hint.convert.extra"), elem_id="convert-extra"),
        }  # fmt: skip
    return more, rare


def wire(view: View, shell: Shell, services: Services) -> None:
    """Every change asks for a new look; the button starts what was looked at."""
    chosen, seen = given(view), shown(view)
    latest: dict[str, Any] = {**QUIET, "inputs_kwargs": chosen, "trigger_mode": "always_last"}
    view.source.input(services.bind(choose), outputs=[view.out, *seen], **latest)
    # A Textbox tells of typing through `input`, but of pasting only through `change`.
    typed = (view.out.change, view.shard.change, view.processor.change, view.image_token.change)
    for changed in (*typed, view.dtype.input, view.verify.input, view.extra.input):
        changed(services.bind(look), outputs=seen, **latest)
    view.filter.change(services.bind(sift), outputs=[view.plan], **latest)
    view.run.click(
        services.bind(start), outputs=[shell.monitor, view.out, *seen], **QUIET, inputs_kwargs=latest["inputs_kwargs"]
    )
    sent = {**QUIET, "inputs_kwargs": latest["inputs_kwargs"] | {"source": shell.courier}}
    shell.courier.convert(services.bind(bring), outputs=[view.source, view.out, *seen], **sent)
    shell.monitor.runs(services.bind(list_folders), outputs=[view.source, shell.rail.model.choice], **QUIET)


def arrivals(view: View) -> list[Any]:
    """What `arrive` fills, in its order."""
    return [view.source, view.out, *shown(view)]


def given(view: View) -> dict[str, Any]:
    """What `look` is given, by name."""
    return {name: getattr(view, name) for name in Conversion.__annotations__} | {"query": view.filter}


def shown(view: View) -> list[Any]:
    """What `look` fills, in its order."""
    return [getattr(view, name) for name in Seen._fields]


def arrive(services: Services) -> tuple[Any, ...]:
    """The page opens: the demo's folder, or the first that has a conversion."""
    offered = sources.sources(services.workspace)
    chosen: Conversion = {
        "source": sources.preferred(offered),
        "out": "",
        "dtype": "keep",
        "shard": SHARD,
        "verify": "auto",
        "extra": False,
        "processor": "",
        "image_token": "",
    }
    chosen["out"] = _free_name(services, chosen)
    return (gr.update(choices=offered, value=chosen["source"] or None), chosen["out"], *look(services, "", **chosen))


def bring(services: Services, query: str, **chosen: Unpack[Conversion]) -> tuple[Any, ...]:
    """A folder was sent here from elsewhere in the page: picked as if by hand."""
    offered = rail.with_value(sources.sources(services.workspace), chosen["source"])
    return (gr.update(choices=offered, value=chosen["source"]), *choose(services, query, **chosen))


def choose(services: Services, query: str, **chosen: Unpack[Conversion]) -> tuple[Any, ...]:
    """Another source was picked: the output is named after it, and the plan is made."""
    now = settled(chosen)
    now["out"] = _free_name(services, now)
    return (now["out"], *look(services, query, **now))


def look(services: Services, query: str, **chosen: Unpack[Conversion]) -> Seen:
    """What these choices would give, or what is wrong with them beside the one it concerns."""
    now = settled(chosen)
    return _described(services, query, now, *checked(services, now))


def _described(services: Services, query: str, now: Conversion, plan: Plan | None, errors: Mapping[str, InputError]) -> Seen:
    """What is known of these choices, each error beside the one it concerns."""
    t, workspace = services.t, services.workspace
    wrong = {name: problem(t, _without_option(error)) for name, error in errors.items()}
    if plan and now["processor"] and any(found.name == "tokenizer" for found in plan.problems):
        wrong["processor"] = tag("p", t("convert.processor_wrong"), cls="bad", role="alert")
    if plan and now["image_token"]:
        for found in plan.problems:
            if found.name == "image token":
                wrong["image_token"] = tag("p", sentence(t, found.what), cls="bad", role="alert")
    facts, table = empty(t("convert.blocked")), no_plan(t)
    if plan:
        verified = plan.nbytes < VERIFY_BELOW if VERIFY[now["verify"]] is None else now["verify"] == "yes"
        facts = source_facts(t, plan, free=free_bytes(workspace.models), verified=verified)
        table = plan_table(t, plan, query or "")
    return Seen(
        wrong.get("source") or _source_note(t, plan),
        facts,
        wrong.get("out") or notes.out_note(workspace, now["out"], workspace.models),
        wrong.get("shard") or Markup(),
        _verify_note(t, now["verify"], plan),
        wrong.get("processor") or Markup(),
        wrong.get("image_token") or Markup(),
        gr.update(open=True) if any(name in wrong for name in RARE) else gr.skip(),
        table,
        gr.update(interactive=not wrong and plan is not None and not plan.problems),
    )


def sift(services: Services, query: str, **chosen: Unpack[Conversion]) -> Markup:
    """The filter of the table was changed."""
    try:
        return plan_table(services.t, planned(services, settled(chosen)), query or "")
    except InputError:
        return no_plan(services.t)


def start(services: Services, query: str, **chosen: Unpack[Conversion]) -> tuple[Any, ...]:
    """Starts the conversion and opens it; what is wrong by now is shown in place instead."""
    now = settled(chosen)
    try:
        run = services.submit(prepare(services, now))
    except InputError as error:
        plan, errors = checked(services, now)
        found_late = {} if errors or (plan and plan.problems) else {concern(error, now): error}
        return (gr.skip(), gr.skip(), *_described(services, query, now, plan, errors | found_late))
    rail.remember(services.workspace, run=run.id)
    # The new output name is a change of its own, which looks again; the run is opened without waiting for that.
    return (run.id, _free_name(services, now), *[gr.skip() for _ in Seen._fields])


def list_folders(services: Services) -> tuple[Any, Any]:
    """The list of runs has changed, so there may be new folders to convert or to quantize."""
    workspace = services.workspace
    return gr.update(choices=sources.sources(workspace)), gr.update(choices=rail.models(workspace))


def _free_name(services: Services, chosen: Conversion) -> str:
    """A name for the result that nothing has yet."""
    workspace, source = services.workspace, chosen["source"]
    try:
        kind = sources.kind_of(workspace.readable(source)) if source else None
    except InputError:
        kind = None
    return sources.result_name(workspace, source, kind, promised(services))


def _without_option(error: InputError) -> InputError:
    """The error without the name of a command line's option, beside whose field it stands."""
    return InputError(error.what, todo=error.todo) if error.where.startswith("--") else error


def _source_note(t: Translator, plan: Plan | None) -> Markup:
    """One line that says whether it can be converted."""
    if plan is None:
        return Markup()
    if plan.problems:
        return tag("p", t.count("convert.problems", len(plan.problems)), cls="bad", role="alert")
    return tag("p", t("convert.ready"), title=str(plan.source.folder))


def _verify_note(t: Translator, choice: str, plan: Plan | None) -> Markup:
    """What "automatic" comes to here."""
    if plan is None or choice != "auto":
        return Markup()
    size, limit = numbers.size(plan.nbytes), numbers.size(VERIFY_BELOW)
    if plan.nbytes < VERIFY_BELOW:
        return tag("p", t("convert.auto_yes", size=size, limit=limit))
    return tag("p", t("convert.auto_no", size=size, limit=limit))
