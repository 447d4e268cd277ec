"""The document Gradio serves, before Gradio's own scripts run: its language, theme and favicon, and what it may load.

Gradio adds `head` only once its client has started, too late to pick a language or to keep a dark page from flashing white,
so a small ASGI layer writes into the document itself. It also sends "/" to the page of the reader's language.
"""

from __future__ import annotations

import base64
import functools
import http.cookies
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlencode

from quantui.ui.i18n import PAGES, preferred
from quantui.ui.plotly_script import script_name, send_script
from quantui.workspace import ASSETS

COOKIE = "quantui_lang"

POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",  # Gradio compiles templates and js with Function
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "connect-src 'self'",
        "object-src 'none'",
        "frame-ancestors 'self'",
        "base-uri 'self'",
    )
)
"""Nothing is fetched from, or sent to, any other host."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Page:
    """ASGI layer around Gradio's app: dresses the document of each language, and refuses changes that other sites ask for.

    Args:
        app: what it wraps.
        build: a name of this build of the page, for the script that notices a restarted server.
    """

    def __init__(self, app: App, build: str = "") -> None:
        self._app, self._build = app, build

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] not in SAFE and _headers(scope).get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            await _refuse(send)
            return
        path = str(scope.get("path", "")).strip("/")
        if scope["method"] == "GET" and path == script_name():
            await send_script(send, _headers(scope).get("accept-encoding", ""))
            return
        if scope["method"] not in ("GET", "HEAD") or path not in PAGES.values():
            await self._app(scope, receive, send)
            return
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        lang = language(path, query, _headers(scope))
        if PAGES[lang] != path:
            await _redirect(send, str(scope.get("root_path", "")), lang, query)
            return
        await self._app(scope, receive, _Document(send, lang, self._build))


def language(path: str, query: dict[str, list[str]], headers: dict[str, str]) -> str:
    """The language a request is for: `?lang=` first, then the path, then what this browser chose last, then what it prefers."""
    asked = query.get("lang", [""])[0]
    if asked in PAGES:
        return asked
    of_path = {p: lang for lang, p in PAGES.items() if p}
    if path in of_path:
        return of_path[path]
    cookie = http.cookies.SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    if cookie is not None and cookie.value in PAGES:
        return str(cookie.value)
    return preferred(headers.get("accept-language", ""))


def _headers(scope: Scope) -> dict[str, str]:
    return {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}


async def _refuse(send: Send) -> None:
    """Another site's page, open in the same browser, must not start or stop jobs here."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _redirect(send: Send, root: str, lang: str, query: dict[str, list[str]]) -> None:
    rest = urlencode([(k, v) for k, values in query.items() if k != "lang" for v in values])
    # With ?lang= kept for the first page, whose path alone would not win over the cookie.
    if not PAGES[lang]:
        rest = "&".join(part for part in (f"lang={lang}", rest) if part)
    location = f"{root}/{PAGES[lang]}" + (f"?{rest}" if rest else "")
    headers = [(b"location", location.encode("latin-1")), (b"cache-control", b"no-store"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


class _Document:
    """A `send` that holds an HTML answer back until it is whole, then writes into its head."""

    def __init__(self, send: Send, lang: str, build: str) -> None:
        self._send, self._lang, self._build = send, lang, build
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            if headers.get(b"content-type", b"").startswith(b"text/html"):
                self._start = message
                return
        elif message["type"] == "http.response.body" and self._start is not None:
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            body = dressed(self._body.decode("utf-8"), self._lang, self._build).encode("utf-8")
            kept = [(k, v) for k, v in self._start["headers"] if k.lower() not in (b"content-length", b"set-cookie")]
            cookies = [(k, v) for k, v in self._start["headers"] if k.lower() == b"set-cookie"]
            remember = f"{COOKIE}={self._lang}; Path=/; Max-Age=31536000; SameSite=Lax".encode()
            extra = [
                (b"content-length", str(len(body)).encode()),
                (b"content-security-policy", POLICY.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"no-referrer"),
                (b"cache-control", b"no-cache"),
                (b"set-cookie", remember),
            ]
            start = {**self._start, "headers": kept + cookies + extra}
            self._start = None
            await self._send(start)
            message = {"type": "http.response.body", "body": body if message.get("body") or self._body else b""}
        await self._send(message)


def dressed(html: str, lang: str, build: str) -> str:
    """Gradio's document with the page's language on it and the boot script first in its head."""
    html = html.replace('lang="en"', f'lang="{lang}" data-build="{build}" data-plotly="{script_name()}"', 1)
    return html.replace("<head>", "<head>" + _head(), 1)


@functools.cache
def _head() -> str:
    icon = base64.b64encode((ASSETS / "logo.svg").read_bytes()).decode()
    boot = (ASSETS / "boot.js").read_text(encoding="utf-8")
    return f'<link rel="icon" type="image/svg+xml" href="data:image/svg+xml;base64,{icon}"><script>{boot}</script>'
