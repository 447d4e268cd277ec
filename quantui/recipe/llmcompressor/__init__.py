"""llm-compressor's recipe YAML <-> Recipe.

The engine runs a recipe of a shape it does not know "successfully" and quantizes nothing. Here such a recipe is understood
with a note of what was meant, or refused with the line and the valid names; nothing is passed over in silence. Names and
defaults are those of llm-compressor 0.14.0.1 and compressed-tensors 0.19.0.
"""

from __future__ import annotations

from pathlib import Path

from quantui.errors import RecipeError
from quantui.recipe import text
from quantui.recipe.llmcompressor.edited import edited
from quantui.recipe.llmcompressor.read import Read, read
from quantui.recipe.llmcompressor.write import dumps
from quantui.recipe.schema import Recipe

__all__ = ["Read", "dumps", "edited", "load", "loads", "read"]


def load(path: Path) -> Recipe:
    """Reads a recipe file.

    Raises:
        RecipeError: it cannot be read, or what `loads` raises.
    """
    try:
        if path.exists() and not path.is_file():  # a device would be read without end
            raise RecipeError("it is a folder or device, not a file", where=str(path), todo="check the path of the recipe")
        if path.stat().st_size > text.LONGEST:
            raise RecipeError("the file is too large for a recipe", where=str(path), todo="check the path of the recipe")
        return loads(path.read_text(encoding="utf-8"), where=str(path))
    except OSError as error:
        raise RecipeError(
            f"the recipe cannot be read ({error.strerror})", where=str(path), todo="check the path of the recipe"
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError("the recipe is not UTF-8 text", where=str(path), todo="save it as UTF-8") from error


def loads(source: str, *, where: str = "recipe") -> Recipe:
    """Reads recipe YAML or JSON; `where` names it in errors.

    Raises:
        RecipeError: it is not YAML, holds no modifiers, names an unknown key, modifier, scheme or observer, holds a value out
            of range, or quantizes nothing; with line and column.
    """
    return read(source, where).recipe
