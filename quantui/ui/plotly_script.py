"""The plotly.js that the plotly package ships, served by the page itself: nothing is fetched from another host."""

from __future__ import annotations

import functools
import gzip
import importlib.metadata
import importlib.util
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

WORTH = 6
"""Level of gzip: 4.8 MB become 1.5 MB; higher levels take longer and gain little."""


@functools.cache
def script_name() -> str:
    """The last part of the script's address; it holds the version, so that browsers may keep the file for good."""
    return f"plotly-{importlib.metadata.version('plotly')}.min.js"


async def send_script(send: Send, accepted: str) -> None:
    """Answers a request for the script.

    Args:
        accepted: the Accept-Encoding header.
    """
    packed = "gzip" in accepted
    body = _packed() if packed else _file().read_bytes()
    headers = [
        (b"content-type", b"text/javascript; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"public, max-age=31536000, immutable"),
        (b"vary", b"accept-encoding"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if packed:
        headers.append((b"content-encoding", b"gzip"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@functools.cache
def _packed() -> bytes:
    return gzip.compress(_file().read_bytes(), WORTH)


def _file() -> Path:
    found = importlib.util.find_spec("plotly")  # found without importing it, which would take half a second
    assert found is not None and found.origin is not None, "requirements.txt names plotly"
    return Path(found.origin).parent / "package_data" / "plotly.min.js"
