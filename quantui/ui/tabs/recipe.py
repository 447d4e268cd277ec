"""The Recipe tab: one decision, edited by form, by YAML, layer by layer, or by pasting what exists already.

Its parts are not Gradio's: fifty fields that appear and vanish, a text with marked lines and a table of any length are drawn
by assets/recipe.js from what `recipe_page.answer` tells, so that an edit on either side is on the other at once.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import gradio as gr

from quantui.ui import rail, recipe_page
from quantui.ui.i18n import Translator
from quantui.ui.services import Services
from quantui.ui.shell import QUIET, Shell, still
from quantui.ui.widgets.recipe_bench import bench

NAME = "recipe"
LINK_JS = "quantuiRecipe.start(props, server, watch)"


class View(NamedTuple):
    """The tab's components: what is drawn, and the invisible one through which the browser asks."""

    tab: gr.Tab
    frame: gr.HTML
    link: gr.HTML


def layout(services: Services) -> View:
    """The frame, and the link behind it."""
    t: Translator = services.t
    with gr.Tab(t("tab.recipe"), id=NAME) as tab:
        frame = still(bench(t), elem_id="recipe")

        def answer(asked: dict[str, Any]) -> dict[str, Any]:
            return recipe_page.answer(services, asked)

        link = gr.HTML(
            "",
            html_template="",
            js_on_load=LINK_JS,
            server_functions=[answer],
            apply_default_css=False,
            elem_id="recipe-link",
        )
    return View(tab, frame, link)


def wire(view: View, shell: Shell, services: Services) -> None:
    """Whatever the rail picks is told to the browser, which asks what it means for the draft."""
    picked = {"model": shell.rail.model.choice, "recipe": shell.rail.recipe.choice}
    told: dict[str, Any] = {**QUIET, "inputs_kwargs": picked, "outputs": [view.link], "trigger_mode": "always_last"}
    for picker in picked.values():
        picker.change(services.bind(tell), **told)


def arrive(services: Services) -> str:
    """The page opens: what the rail was left with."""
    now = rail.load(services.workspace)
    return tell(services, model=now.model, recipe=now.recipe)


def tell(services: Services, *, model: str | None, recipe: str | None) -> str:
    """What is picked, for the browser."""
    return json.dumps({"model": model or "", "recipe": recipe or ""})
