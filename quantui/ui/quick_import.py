"""Importing Gradio in less than half its time.

On every import Gradio 6.31 parses the sources of its components to write .pyi files beside them, for editors. That takes
more than half of the seconds until the page answers, and writes into the environment. Nothing at run time reads them.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

MODULE, STEP = "gradio.component_meta", "create_or_modify_pyi"


class _Finder:
    """Finds one module, once, and takes the step out of it when it has been executed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of that module, whose loader takes the step out once it has run; None for every other module."""
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if hasattr(module, STEP):
                setattr(module, STEP, lambda *_: None)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Has to come before the first import of gradio; without effect after it."""
    if MODULE not in sys.modules:
        sys.meta_path.insert(0, _Finder())
