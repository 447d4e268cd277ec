"""The page put together: a copy in every language, each on its own path, over one workspace."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from quantui.errors import InputError
from quantui.jobs.launch import Dispatcher
from quantui.jobs.spare import SPARE, Spare
from quantui.jobs.store import JobStore
from quantui.ui import shell, sources
from quantui.ui.i18n import PAGES, translator
from quantui.ui.page import Page
from quantui.ui.services import Services
from quantui.ui.tabs import calibration, compare, convert, layers, quantize, recipe, statistics
from quantui.ui.theme import theme
from quantui.workspace import ASSETS, Workspace

STYLES = (
    "style.css",
    "quantize.css",
    "convert.css",
    "recipe.css",
    "calibration.css",
    "charts.css",
    "statistics.css",
    "sensitivity.css",
    "compare.css",
    "log.css",
)
SCRIPTS = (
    "log.js",
    "live.js",
    "charts.js",
    "layers.js",
    "yaml.js",
    "link.js",
    "recipe.js",
    "calibration.js",
    "statistics_overview.js",
    "statistics_cache.js",
    "statistics_layer.js",
    "statistics_compare.js",
    "statistics.js",
    "sensitivity.js",
    "compare.js",
)


QUEUE_SECONDS = 0.05
"""How often Gradio looks at its queue, which our events do not use: its own 1 ms takes 7 % of a core from the job."""


def build(workspace: Workspace, store: JobStore, spare: Callable[[], Spare | None] = lambda: None) -> gr.Blocks:
    """The page in every language.

    Args:
        workspace: what it works on.
        store: the jobs.
        spare: what processes may be forked from, when there is one.
    """
    first, *others = PAGES
    t = translator(first)
    with gr.Blocks(title=t("app.name"), analytics_enabled=False, fill_width=True) as page:
        _fill(page, Services(workspace, store, t, spare))
    for lang in others:
        with page.route(translator(lang)("app.name"), f"/{PAGES[lang]}", show_in_navbar=False):
            _fill(page, Services(workspace, store, translator(lang), spare))
    page._queue.sleep_when_free = QUEUE_SECONDS
    return page


def _fill(page: gr.Blocks, services: Services) -> None:
    """One language's page."""
    shell.layout_header(services)
    with gr.Row(elem_id="q-body"):
        with gr.Column(elem_id="q-rail"):
            rail = shell.layout_rail(services)
        with gr.Column(elem_id="q-main"), gr.Tabs(elem_id="q-tabs", selected=quantize.NAME):
            conversion = convert.layout(services.t, sources.sources(services.workspace))
            data = calibration.layout(services)
            decision = recipe.layout(services)
            view = quantize.layout(services.t)
            seen = statistics.layout(services)
            costs = layers.layout(services)
            talk = compare.layout(services)
    parts = shell.Shell(rail, shell.layout_monitor(services), shell.layout_courier())
    shell.wire(parts, services)
    convert.wire(conversion, parts, services)
    calibration.wire(data, parts, services)
    recipe.wire(decision, parts, services)
    quantize.wire(view, parts, services)
    statistics.wire(seen, parts, services)
    layers.wire(costs, parts, services)
    compare.wire(talk, parts, services)
    arrival = page.load(services.bind(convert.arrive), outputs=convert.arrivals(conversion), **shell.QUIET)
    # A tab that is opened before the answer has come looks at empty fields as it is built, so it looks once more.
    looked: dict[str, Any] = {"inputs_kwargs": convert.given(conversion), "outputs": convert.shown(conversion)}
    arrival.then(services.bind(convert.look), **looked, **shell.QUIET)
    page.load(services.bind(calibration.arrive), outputs=[data.link], **shell.QUIET)
    page.load(services.bind(recipe.arrive), outputs=[decision.link], **shell.QUIET)
    page.load(services.bind(statistics.arrive), outputs=[seen.link], **shell.QUIET)
    page.load(services.bind(layers.arrive), outputs=[costs.link], **shell.QUIET)
    page.load(services.bind(compare.arrive), outputs=[talk.link], **shell.QUIET)
    page.load(services.bind(quantize.arrive), outputs=quantize.arrivals(view, parts), **shell.QUIET)


def serve(
    root: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    allow: Sequence[Path] = (),
    auth: str | None = None,
    open_browser: bool = False,
    spare: bool = True,
) -> None:
    """Opens a workspace and serves its page until interrupted. Jobs that run then go on without it.

    Args:
        root: the workspace.
        host: the address.
        port: the port.
        allow: further folders to read models from.
        auth: "USER:PASSWORD" to be asked for.
        open_browser: whether to open one.
        spare: whether a process stands by that jobs are forked from.

    Raises:
        InputError: the address cannot be served as asked, or the workspace cannot be made.
    """
    login = check_address(host, port, auth)
    workspace = Workspace(root, tuple(allow))
    workspace.add_demo()
    store = JobStore(workspace.runs)
    dispatcher = Dispatcher(store, spare=SPARE if spare else ())
    dispatcher.start()
    try:
        build(workspace, store, lambda: dispatcher.spare).launch(**launch_options(host, port, login, open_browser))
    finally:
        dispatcher.stop()


def check_address(host: str, port: int, auth: str | None) -> tuple[str, str] | None:
    """The name and password of `auth` ("USER:PASSWORD"), where the address may be served so.

    Raises:
        InputError: it is open to other machines without a password, the password is malformed, or the port is taken.
    """
    user, colon, password = (auth or "").partition(":")
    if auth is not None and not (user and colon and password):
        raise InputError(
            "the name and password are not of the form USER:PASSWORD", where="--auth", todo="write --auth me:secret"
        )
    if auth is None and host not in ("localhost", "::1") and not host.startswith("127."):
        raise InputError(
            "other machines could reach this address without a password",
            where=f"--host {host}",
            todo="add --auth USER:PASSWORD",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            todo = "choose another with --port, or stop what listens there"
            raise InputError(f"the address cannot be listened on ({error})", where=f"{host}:{port}", todo=todo) from error
    return (user, password) if auth is not None else None


def launch_options(host: str, port: int, auth: tuple[str, str] | None, open_browser: bool) -> dict[str, Any]:
    """What Gradio is told: our looks, no file of this machine served, nothing that phones home."""
    return {
        "server_name": host,
        "server_port": port,
        "auth": auth,
        "inbrowser": open_browser,
        "share": False,
        "theme": theme(),
        "css_paths": [ASSETS / name for name in STYLES],
        "head": "".join(f"<script>{(ASSETS / name).read_text(encoding='utf-8')}</script>" for name in SCRIPTS),
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "mcp_server": False,
        "ssr_mode": False,
        "pwa": False,
        "show_error": False,
        "allowed_paths": [],
        "app_kwargs": {"middleware": [Middleware(Page, build=secrets.token_hex(4))], "docs_url": None, "redoc_url": None},
    }
