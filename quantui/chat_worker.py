"""The process that talks: `python -m quantui.chat_worker` holds an original and a quantized model, and answers over its pipes.

One JSON object a line. In: {"do": "open" | "ask" | "stop" | "force", "id", "client", ...}; out: {"id", "event", ...}. Requests
of different people take turns, oldest person first; a stop is heard at once, between two tokens. The process ends when its
stdin does, so that it cannot outlive the page.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import sys
import threading
import traceback
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from quantui.errors import InputError, QuantUIError, RunError, unfit_torchvision
from quantui.vanished import ran_out

Request = dict[str, Any]
TOLD = ("what", "where", "todo")


class Mouth:
    """Writes events, whole lines only."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._lock = threading.Lock()

    def say(self, request: Mapping[str, Any], event: str, **more: Any) -> None:
        """One event about a request."""
        line = json.dumps({"id": request.get("id"), "event": event, **more}, ensure_ascii=True)
        with self._lock:
            self._out.write(line + "\n")
            self._out.flush()


class Turns:
    """Requests that wait: the people take turns, and each one's own requests keep their order."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Request]] = OrderedDict()
        self._stopped: set[str] = set()
        self._current = ""
        self._ready = threading.Condition()
        self._over = False

    def add(self, request: Request) -> int:
        """Puts a request at the end of its client's queue; how many go before it."""
        with self._ready:
            client = str(request.get("client") or "")
            before = sum(map(len, self._waiting.values())) + bool(self._current)
            self._waiting.setdefault(client, deque()).append(request)
            self._ready.notify()
            return before

    def stop(self, request_id: str) -> None:
        """Makes a request end as soon as it can, or never begin."""
        with self._ready:
            self._stopped.add(request_id)

    def is_stopped(self, request: Request) -> bool:
        """Whether somebody wants it to end."""
        return str(request.get("id")) in self._stopped

    def close(self) -> None:
        """Nothing more will come."""
        with self._ready:
            self._over = True
            self._ready.notify()

    def next(self) -> Request | None:
        """The next request, waited for; None when there will be none."""
        with self._ready:
            self._stopped.discard(self._current)
            self._current = ""
            while not self._waiting and not self._over:
                self._ready.wait()
            if self._over:
                return None
            client, queue = self._waiting.popitem(last=False)
            request = queue.popleft()
            if queue:
                self._waiting[client] = queue  # behind everybody else
            self._current = str(request.get("id"))
            return request


class Talker:
    """Does what is asked, one request after the other.

    Args:
        mouth: where events go.
        turns: where it looks whether it is to stop.
    """

    def __init__(self, mouth: Mouth, turns: Turns) -> None:
        self.mouth, self.turns = mouth, turns
        self._opened: tuple[str, ...] = ()
        self._pair: Any = None

    def serve(self) -> None:
        """Until there is nothing more."""
        while (request := self.turns.next()) is not None:
            try:
                self.answer(request)
            except Exception as error:  # noqa: BLE001  (the boundary: everything becomes an event)
                if not isinstance(error, QuantUIError):
                    traceback.print_exc()
                self.mouth.say(request, "failed", **_told(error))

    def answer(self, request: Request) -> None:
        """Carries out one request; its last event is `done`.

        Raises:
            QuantUIError: it cannot be done.
        """
        if self.turns.is_stopped(request):
            self.mouth.say(request, "done", stopped=True)
            return
        pair = self.pair(request)
        self.mouth.say(request, "ready", **_about(pair))
        if request["do"] == "open":
            self.mouth.say(request, "done", stopped=False)
            return
        from quantui.compare.conversation import Conversation

        conversation = Conversation(pair, request, picture=_picture(request))
        for event, body in conversation.run(lambda: self.turns.is_stopped(request)):
            self.mouth.say(request, event, **body)

    def pair(self, request: Request) -> Any:
        """The two models a request is about; the ones before are let go first."""
        wanted = tuple(str(request.get(name) or "") for name in ("original", "quantized", "device", "trust"))
        if self._pair is None or wanted != self._opened:
            self._pair, self._opened = None, ()
            self.mouth.say(request, "loading")
            from quantui.compare.pair import open_pair
            from quantui.devices import torch_device

            self._pair = open_pair(
                Path(str(request["original"])),
                Path(str(request["quantized"])),
                device=torch_device(str(request.get("device") or "cpu")),
                trust_remote_code=bool(request.get("trust")),
            )
            self._opened = wanted
        return self._pair


def _about(pair: Any) -> dict[str, Any]:
    return {
        "layers": pair.layers(),
        "memory": pair.memory(),
        "image_text": pair.image_text,
        "context": pair.context,
        "folded": pair.folded,
        "device": str(pair.device),
    }


def _picture(request: Request) -> bytes | None:
    text = str(request.get("picture") or "")
    if not text:
        return None
    try:
        return base64.b64decode(text.rpartition(",")[2], validate=True)
    except ValueError as error:
        raise InputError("the picture has not arrived whole", where="the conversation", todo="choose it again") from error


def _told(error: BaseException) -> dict[str, str]:
    if isinstance(error, QuantUIError):
        return {name: str(getattr(error, name)) for name in TOLD}
    if (memory := ran_out(error)) is not None:
        return {"what": memory[0], "where": "", "todo": "use a smaller model, or free some memory"}
    what = f"{type(error).__name__}: {error}".strip()[:600]
    made = unfit_torchvision(error) or RunError(what, todo="ask again; if it comes back, start with a new conversation")
    return {name: str(getattr(made, name)) for name in TOLD}


def listen(source: IO[str], turns: Turns, mouth: Mouth) -> None:
    """Reads requests until there are none; what is no request is answered with why."""
    for line in source:
        try:
            request = json.loads(line)
            if not isinstance(request, dict) or request.get("do") not in ("open", "ask", "force", "stop"):
                raise ValueError("it asks for nothing known")
        except ValueError as error:
            mouth.say({}, "failed", what=f"a request cannot be read ({error})", where="", todo="ask again")
            continue
        if request["do"] == "stop":
            turns.stop(str(request.get("id")))
            continue
        if before := turns.add(request):
            mouth.say(request, "queued", before=before)
    turns.close()


def main(argv: Sequence[str] = ()) -> int:
    """Serves the pipes of this process until stdin ends."""
    _be_the_first_to_go()
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what libraries print must not stand among the events
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    mouth, turns = Mouth(out), Turns()
    mouth.say({}, "started", pid=os.getpid())
    threading.Thread(target=_listen, args=(turns, mouth), name="listen", daemon=True).start()
    threading.Thread(target=_import_ahead, name="import", daemon=True).start()
    Talker(mouth, turns).serve()
    return 0


def _import_ahead() -> None:
    """Imports what the first request will need, while the page still has to make it."""
    with contextlib.suppress(ImportError):
        import quantui.compare.conversation  # noqa: F401


def _listen(turns: Turns, mouth: Mouth) -> None:
    listen(sys.stdin, turns, mouth)
    os._exit(0)  # whoever asked is gone; the death signal of a parent would tell of its threads, which come and go


def _be_the_first_to_go() -> None:
    """Out of memory, the kernel takes this one, not the page."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("600")


if __name__ == "__main__":
    sys.exit(main())
