"""`python app.py` to its first answered page, against importing gradio alone; the goal is a median ratio of at most 2.0.

Both are fresh interpreters, alternated, so that a busy machine slows both: `python bench/startup.py [ROUNDS]`.
"""

from __future__ import annotations

import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOAL = 2.0


def main(rounds: int) -> None:
    """Measures and prints."""
    app_seconds: list[float] = []
    gradio_seconds: list[float] = []
    with tempfile.TemporaryDirectory() as workspace:
        start_app(workspace)  # puts the demo into the workspace and warms the disk
        for _ in range(rounds):
            gradio_seconds.append(import_gradio())
            app_seconds.append(start_app(workspace))
    ratio = statistics.median(app / gradio for app, gradio in zip(app_seconds, gradio_seconds, strict=True))
    for name, seconds in (("python app.py to HTTP 200 on /", app_seconds), ("import gradio", gradio_seconds)):
        low, high = min(seconds), max(seconds)
        print(f"{name:32} median {statistics.median(seconds):.2f} s ({low:.2f} to {high:.2f}), {rounds} rounds")
    print(f"median ratio {ratio:.2f}, goal at most {GOAL}: {'met' if ratio <= GOAL else 'MISSED'}")


def import_gradio() -> float:
    """Seconds a fresh interpreter takes to import gradio, from start to end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import gradio"], check=True)
    return time.perf_counter() - began


def start_app(workspace: str) -> float:
    """Seconds from starting the app to the first page it answers with status 200."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port), "--workspace", workspace, "--no-open"]
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as app:
        while not answers(f"http://127.0.0.1:{port}/"):
            if app.poll() is not None:
                sys.exit("the app has ended; start it by hand to see why")
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        app.send_signal(signal.SIGKILL)
    return seconds


def answers(url: str) -> bool:
    """Whether the page is there."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
