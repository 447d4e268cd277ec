"""A process that talks as chat_worker does but has no models: it says what it is told to, or dies."""

from __future__ import annotations

import json
import os
import sys
import time

for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "stop":
        continue
    if request.get("die"):
        print(request["die"], end="", flush=True)
        os.kill(os.getpid(), 9)
    for number in range(request.get("words", 1)):
        print(json.dumps({"id": request["id"], "event": "token", "text": f"w{number}"}), flush=True)
        time.sleep(request.get("pause", 0))
    print(json.dumps({"id": request["id"], "event": "done", "stopped": False}), flush=True)
