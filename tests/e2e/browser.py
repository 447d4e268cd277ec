"""The browser for the end-to-end tests: `python -m tests.e2e.browser` makes sure that there is one and prints its path.

Taken in this order: $QUANTUI_CHROME, an installed Chromium or Chrome, Debian's `chromium` package (as root, with apt),
Playwright's own download.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",  # root, as in containers, has none
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--renderer-process-limit=1",  # it would start a second one to have it ready, which takes as long as opening a page
)


def ensure() -> Path:
    """The browser, installed if there is none.

    Raises:
        RuntimeError: there is none and none could be installed; says what to do.
    """
    for way in (find, _install_package, _download):
        if found := way():
            return found
    raise RuntimeError("there is no browser and none could be installed: install Chromium or point QUANTUI_CHROME at one")


def find() -> Path | None:
    """A browser that is there already, Playwright's own included.

    Raises:
        RuntimeError: QUANTUI_CHROME names one that does not run.
    """
    if chosen := os.environ.get("QUANTUI_CHROME"):
        if not _runs(chosen):
            raise RuntimeError(f"QUANTUI_CHROME names {chosen}, which does not run as a browser")
        return Path(chosen)
    for name in NAMES:
        if (path := shutil.which(name)) and _runs(path):
            return Path(path)
    return _downloaded()


def _runs(path: str) -> bool:
    """Whether it is a browser; Ubuntu's chromium-browser may be a script that only tells of a snap."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and "Chrom" in done.stdout


def _install_package() -> Path | None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return None
    install = ("apt-get", "install", "-y", "--no-install-recommends", "chromium")
    if not _succeeds(*install):  # the list of packages may be missing or old
        _succeeds("apt-get", "update")
        _succeeds(*install)
    return find()


def _download() -> Path | None:
    with_libraries = ("--with-deps",) if os.geteuid() == 0 and shutil.which("apt-get") else ()
    _succeeds(sys.executable, "-m", "playwright", "install", *with_libraries, "chromium")
    return _downloaded()


def _downloaded() -> Path | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = Path(playwright.chromium.executable_path)
    return path if path.exists() else None


def _succeeds(*command: str) -> bool:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command, stdout=sys.stderr, stdin=subprocess.DEVNULL, env=environment, check=False).returncode == 0


if __name__ == "__main__":
    try:
        print(ensure())
    except RuntimeError as error:
        sys.exit(str(error))
