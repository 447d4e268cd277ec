"""The engine's own voice as events: its bars become Progress, its log lines Log, its GPTQ losses Metric."""

from __future__ import annotations

import io
import logging
import re
import time
import warnings
from collections.abc import Callable
from typing import Any

from quantui.events import Event, EventWriter, Level, Log, Metric, Progress
from quantui.stages import Stages

LAYER = re.compile(r"\((\d+)/(\d+)\): (Calibrating|Propagating)")
"""The sequential pipeline's bar texts. Source: llmcompressor/pipelines/sequential/pipeline.py of 0.14.0.1."""

BARS = {
    "Loading weights": "tensors",
    "Calibrating": "samples",
    "Compressing model": "layers",
    "Writing model shards": "shards",
}
"""Texts of the other bars worth showing, and what they count."""

EXPECTED = (
    "No accelerator available!",
    "Attempting to save a model with offloaded modules",
    "__array_wrap__ must accept context",
    "Calibration pipeline is set to `basic`",
)
"""Beginnings of warnings that say nothing a person could act on; they are kept as debug lines."""

QUIET_LOGGERS = ("filelock", "fsspec", "urllib3", "httpx", "asyncio", "PIL", "numba", "torch")


def listen_to_bars(events: EventWriter, stages: Stages) -> None:
    """Has every bar of tqdm draw nothing and report instead, ten times a second at most.

    A bar counts for the stage that runs while it moves. The class itself is changed, since who imports it has it already.
    """
    import tqdm.std

    bar, reporter = tqdm.std.tqdm, _Reporter(events, stages)
    init: Callable[..., None] = bar.__init__

    def init_silent(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **(kwargs | {"file": io.StringIO(), "mininterval": 0.1, "disable": False, "gui": False}))

    def display(self: Any, msg: str | None = None, pos: int | None = None) -> bool:
        reporter.report(str(self.desc or "").removesuffix(": "), int(self.n), self.total and int(self.total))
        return True

    bar.__init__, bar.display = init_silent, display


def listen_to_logs(events: EventWriter) -> None:
    """Adds our sinks; must run after the engine is imported, which wipes every loguru sink there is."""
    from loguru import logger

    logger.remove()
    heard: set[str] = set()
    logger.add(lambda message: _loguru(message, events, heard), level="DEBUG", format="{message}")
    handler = _Handler(events)
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    warnings.simplefilter("once")
    _hear_gptq_losses(events)


def _hear_gptq_losses(events: EventWriter) -> None:
    """Exact GPTQ losses by module name; the log rounds them to two decimals and mixes their order."""
    from llmcompressor.modifiers.gptq import base
    from llmcompressor.utils.metric_logging import CompressionLogger

    names: dict[int, str] = {}
    compress: Callable[..., None] = base.GPTQModifier.compress_module_list
    set_results: Callable[..., None] = CompressionLogger.set_results

    def compress_named(self: Any, module_list: list[Any]) -> None:
        names.update((id(module), self._module_names[module]) for module in module_list)
        compress(self, module_list)

    def set_results_told(self: Any, name: str | None = None, loss: float | None = None) -> None:
        if name == "GPTQ" and loss is not None:
            events.write(Metric(f"gptq_loss/{names.get(id(self.module), 'unknown')}", float(loss)))
        set_results(self, name=name, loss=loss)

    base.GPTQModifier.compress_module_list = compress_named
    CompressionLogger.set_results = set_results_told


class _Reporter:
    """Turns the state of a bar into at most one event."""

    def __init__(self, events: EventWriter, stages: Stages) -> None:
        self._events, self._stages = events, stages
        self._began = time.monotonic()
        self._layer = 0

    def report(self, text: str, n: int, total: int | None) -> None:
        """Reports one bar: `text` is its description, `n` of `total` its state."""
        event = self._event(text, n, total or 0)
        if event is not None:
            self._events.write(event)

    def _event(self, text: str, n: int, total: int) -> Event | None:
        found = LAYER.match(text)
        if found:
            layer, layers, second = int(found[1]), int(found[2]), found[3] == "Propagating"
            if layer < self._layer or self._layer == 0:
                self._began = time.monotonic()  # a new modifier begins its own pass
            self._layer = layer
            share = (2 * (layer - 1) + second + n / max(total, 1)) / (2 * layers)
            return Progress(self._stages.current, layer - 1, layers, "layers", n, total, "samples", self._left(share))
        for prefix, unit in BARS.items():
            if text.startswith(prefix) and total:
                if n == 0:
                    self._began = time.monotonic()
                return Progress(self._stages.current, min(n, total - 1), total, unit, seconds_left=self._left(n / total))
        return None

    def _left(self, share: float) -> float | None:
        spent = time.monotonic() - self._began
        return round(spent * (1 - share) / share, 1) if share > 0.02 and spent > 0.5 else None


def _level(name: str, line: str) -> Level:
    if name in ("TRACE", "DEBUG") or line.startswith(EXPECTED):
        return "debug"
    if name == "WARNING":
        return "warning"
    return "error" if name in ("ERROR", "CRITICAL") else "info"


def _loguru(message: Any, events: EventWriter, heard: set[str]) -> None:
    record = message.record
    source = str(record["name"] or "engine").partition(".")[0]
    for line in str(record["message"]).splitlines():
        level = _level(record["level"].name, line)
        events.write(Log("debug" if line in heard else level, line, source))
        if level == "warning":
            heard.add(line)  # the engine repeats some warnings for every layer


class _Handler(logging.Handler):
    """Lines of the standard logging module, Python warnings among them."""

    def __init__(self, events: EventWriter) -> None:
        super().__init__()
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record, a Log event a line; of a Python warning its sentence, not its place."""
        text = record.getMessage()
        if record.name == "py.warnings":
            text = text.splitlines()[0].partition("Warning: ")[2] or text
        for line in text.splitlines():
            if line.strip():
                self._events.write(Log(_level(record.levelname, line), line, record.name.partition(".")[0]))
