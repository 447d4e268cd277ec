"""The Recipe tab: one decision, edited by form, by YAML, layer by layer, or by pasting what exists already.

Its parts are drawn by assets/recipe.js from what `recipe_page.answer` tells, so that an edit on either side is on the other
at once.
"""

from __future__ import annotations

from quantui.ui import linked, rail, recipe_page
from quantui.ui.linked import View
from quantui.ui.services import Services
from quantui.ui.shell import Shell
from quantui.ui.widgets.recipe_bench import bench

NAME = "recipe"


def layout(services: Services) -> View:
    """The frame, and the link behind it."""
    return linked.layout(services, NAME, bench(services.t), recipe_page.answer, "quantuiRecipe")


def wire(view: View, shell: Shell, services: Services) -> None:
    """The browser is told of another model or recipe."""
    linked.wire(view, services, {"model": shell.rail.model, "recipe": shell.rail.recipe}, tell)


def arrive(services: Services) -> str:
    """The page opens: what the rail was left with."""
    now = rail.load(services.workspace)
    return tell(services, model=now.model, recipe=now.recipe)


def tell(services: Services, *, model: str | None, recipe: str | None) -> str:
    """What is picked, for the browser."""
    return linked.told(model=model, recipe=recipe)
