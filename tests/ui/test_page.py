"""Which language a request gets, and what stands in the document before Gradio starts."""

from __future__ import annotations

import asyncio
import gzip
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from quantui.ui.page import Page, language
from quantui.ui.plotly_script import script_name

DOCUMENT = b'<!doctype html><html lang="en"><head><title>x</title></head><body></body></html>'


async def gradio(scope: Any, receive: Any, send: Any) -> None:
    """An app that serves a document in two pieces."""
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"9"), (b"set-cookie", b"a=b")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": DOCUMENT[:20], "more_body": True})
    await send({"type": "http.response.body", "body": DOCUMENT[20:]})


def get(path: str, query: str = "", method: str = "GET", **headers: str) -> tuple[int, dict[str, list[str]], str]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }

    async def serve() -> None:
        await Page(gradio, build="b1")(scope, None, send)  # type: ignore[arg-type]

    with ThreadPoolExecutor(1) as thread:  # the browser of the end-to-end tests keeps a loop running in this one
        thread.submit(asyncio.run, serve()).result()
    told: dict[str, list[str]] = {}
    for key, value in sent[0]["headers"]:
        told.setdefault(key.decode(), []).append(value.decode())
    return sent[0]["status"], told, b"".join(m.get("body", b"") for m in sent[1:]).decode()


def test_the_document_is_dressed() -> None:
    status, headers, body = get("/zh-CN")
    assert status == 200
    assert f'<html lang="zh-CN" data-build="b1" data-plotly="{script_name()}">' in body
    assert body.index("quantuiPaint") < body.index("<title>")
    assert int(headers["content-length"][0]) == len(body.encode())
    assert headers["set-cookie"][0] == "a=b"
    assert headers["set-cookie"][1].startswith("quantui_lang=zh-CN;")
    assert "default-src 'self'" in headers["content-security-policy"][0]


def test_plotly_comes_from_its_package_and_is_kept_for_good() -> None:
    for accepted in ("", "gzip, br"):
        sent: list[dict[str, Any]] = []

        async def send(message: Any, sent: list[dict[str, Any]] = sent) -> None:
            sent.append(message)

        async def serve(accepted: str = accepted, send: Any = send) -> None:
            headers = [(b"accept-encoding", accepted.encode())]
            asked = {"type": "http", "method": "GET", "path": f"/{script_name()}", "query_string": b"", "headers": headers}
            await Page(gradio)(asked, None, send)  # type: ignore[arg-type]

        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, serve()).result()
        told, body = dict(sent[0]["headers"]), sent[1]["body"]
        assert int(told[b"content-length"]) == len(body) and b"immutable" in told[b"cache-control"]
        if accepted:
            assert told[b"content-encoding"] == b"gzip" and len(body) < 2_000_000
            body = gzip.decompress(body)
        assert body.startswith(b"/**") and b"plotly.js v" in body[:200]


def test_other_paths_are_left_alone() -> None:
    assert get("/gradio_api/info")[2] == DOCUMENT.decode()
    assert get("/", method="POST")[2] == DOCUMENT.decode()


@pytest.mark.parametrize(
    ("path", "query", "headers", "location"),
    [
        ("/", "run=1&tab=x", {"accept_language": "zh"}, "/zh-CN?run=1&tab=x"),
        ("/", "lang=zh-CN&run=1", {}, "/zh-CN?run=1"),
        ("/", "", {"cookie": "quantui_lang=zh-CN"}, "/zh-CN"),
        ("/zh-CN", "lang=en&run=1", {"cookie": "quantui_lang=zh-CN"}, "/?lang=en&run=1"),
    ],
)
def test_redirects(path: str, query: str, headers: dict[str, str], location: str) -> None:
    status, told, _ = get(path, query, **headers)
    assert (status, told["location"]) == (307, [location])


def test_redirects_end() -> None:
    assert get("/", "lang=en&run=1", cookie="quantui_lang=zh-CN", accept_language="zh")[0] == 200
    assert get("/zh-CN", "", cookie="quantui_lang=en")[0] == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_cannot_change_anything(site: str) -> None:
    assert get("/gradio_api/run/predict", method="POST", sec_fetch_site=site)[0] == 403
    assert get("/", sec_fetch_site=site)[0] == 200  # a link from elsewhere


@pytest.mark.parametrize("headers", [{}, {"sec_fetch_site": "same-origin"}, {"sec_fetch_site": "none"}])
def test_the_page_itself_and_scripts_can(headers: dict[str, str]) -> None:
    assert get("/gradio_api/run/predict", method="POST", **headers)[0] == 200


def test_unknown_languages_are_ignored() -> None:
    assert language("", {"lang": ["xx"]}, {"cookie": "quantui_lang=../../etc"}) == "en"
