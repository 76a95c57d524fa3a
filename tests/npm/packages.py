"""MCP software from npm for the tests: what package-lock.json names, installed once, with a Node of its own.

The lock file is made by ``npm install --package-lock-only --omit-lockfile-registry-resolved``.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOME = HERE.parent.parent / ".venv" / "npm"
MODULES = HOME / "node_modules"
NODE = MODULES / "node" / "bin" / "node"
_INSTALLED = HOME / ".installed"


class NpmError(Exception):
    """The packages cannot be installed; the message says what to do."""


def available() -> bool:
    """Whether they are installed, or can be."""
    return _INSTALLED.exists() or shutil.which("npm") is not None


def install() -> None:
    """Install what package-lock.json names, unless it is there already. Raises NpmError."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        _install((HERE / "package-lock.json").read_bytes())


def _install(wanted: bytes) -> None:
    if _INSTALLED.exists() and _INSTALLED.read_bytes() == wanted:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise NpmError("npm is missing: apt-get install npm")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, HOME / name)
    done = subprocess.run(
        [npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=HOME,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NpmError(f"npm could not install the packages:\n{done.stderr}")
    _INSTALLED.write_bytes(wanted)


def module(package: str, path: str) -> Path:
    """A file of a package of the Model Context Protocol."""
    return MODULES / "@modelcontextprotocol" / package / path
