"""What a module is called in files, and what in the live model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quantui.checkpoint.inspect import MODULE_RENAMES


def aliases(name: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """A module's name in the files, then in the live model where that differs."""
    live = name
    for pattern, replacement in MODULE_RENAMES.get(str(config.get("model_type", "")), ()):
        live = re.sub(pattern, replacement, live)
    return (name,) if live == name else (name, live)
