"""What the engine does not have, each a modifier that a recipe names like the engine's own."""

from __future__ import annotations


def warm_up() -> None:
    """Imports the engine with all of its modifiers, which it looks for anew in every job."""
    from llmcompressor.modifiers.factory import ModifierFactory

    ModifierFactory.refresh()


def register() -> None:
    """Makes the modifiers and observers of this package known to the engine; imports it."""
    from llmcompressor.modifiers.factory import ModifierFactory

    from quantui.quantize import observers  # noqa: F401  (they register themselves)
    from quantui.quantize.modifiers.hqq import HQQModifier
    from quantui.quantize.modifiers.kv_cache import KVCacheModifier
    from quantui.quantize.modifiers.outliers import OutlierSuppressionModifier
    from quantui.quantize.modifiers.sparse import SparseModifier

    for modifier in (HQQModifier, KVCacheModifier, OutlierSuppressionModifier, SparseModifier):
        ModifierFactory.register(modifier.__name__, modifier)
