"""How the gateway runs ``sandbox``: a command within limits, and what can be held on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gateway.config.values import SandboxSettings
from gateway.mcp import sandbox


def confined(
    command: tuple[str, ...],
    settings: SandboxSettings,
    environment: Iterable[str],
    parent: int,
    *,
    hidden: Iterable[Path] = (),
    read_only: Iterable[Path] = (),
) -> list[str]:
    """The command line that runs ``command`` within the limits.

    ``environment``: the names of the variables that it shall see; ``parent``: the process with which it dies.
    ``hidden``, ``read_only``: the gateway's own files and folders.
    """
    limits = {
        "memory": settings.memory,
        "open_files": settings.open_files,
        "processes": settings.processes,
        "user": settings.user,
        "read": None if settings.read is None else [str(path) for path in settings.read],
        "write": None if settings.write is None else [str(path) for path in settings.write],
        "hidden": [str(path) for path in hidden],
        "read_only": [str(path) for path in read_only],
        "environment": list(environment),
        "parent": parent,
    }
    return [sys.executable, "-I", "-S", "-B", sandbox.__file__, json.dumps(limits), *command]


def probe() -> dict[str, Any]:
    """What can be held on this machine: the version of Landlock (0: none), and whether mounts can hide files."""
    command = [sys.executable, "-I", "-S", "-B", sandbox.__file__, sandbox.PROBE]
    done = subprocess.run(command, capture_output=True, env={}, check=False, timeout=30)
    found: dict[str, Any] = json.loads(done.stdout or b'{"landlock": 0, "hides": false}')
    return found
