"""Files that the page shows or keeps: whether one has changed since, and which names may be given to one."""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path

Stamp = tuple[tuple[str, int, int], ...]
"""Path, time and size of files."""


def sealed(source: str) -> int:
    """Checksum of a text."""
    return zlib.crc32(source.encode("utf-8", "replace"))


def stamp(*paths: Path) -> Stamp:
    """Files with their times and sizes: what was read of them holds while they stay. What is not there is left out."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            stat = path.stat()
            found.append((str(path), stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def folder_stamp(folder: Path) -> Stamp:
    """The files of a folder with their times and sizes."""
    try:
        return stamp(*sorted(folder.iterdir()))
    except OSError:
        return ()


def is_plain_name(name: str) -> bool:
    """Whether a text can name a file or folder of the workspace, and nothing beside it."""
    return bool(name) and not set("/\\") & set(name) and not name.startswith(".") and len(name) <= 100 and name.isprintable()
