"""Runs a command within limits: ``python sandbox.py LIMITS COMMAND [ARGUMENT]...``.

The gateway starts its child processes through this program, which sets the limits on itself and then becomes the
command: there is no moment at which the command runs without them. It is run by its path, in an isolated interpreter,
so it may import nothing but the standard library.

Limits: memory by RLIMIT_DATA (what a process uses, not its address space, of which some runtimes reserve terabytes),
open files by RLIMIT_NOFILE, processes by RLIMIT_NPROC (which counts those of the whole user, and never holds root),
no core files. The command gains no privileges by executing set-user-ID programs, ignores no signal to begin with, and
dies with the gateway.

Exit codes, where the command could not be run: 125 limits or user, 126 not executable, 127 not found.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import resource
import signal
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from gateway.config import SandboxSettings

CANNOT_CONFINE: Final = 125
CANNOT_EXECUTE: Final = 126
NOT_FOUND: Final = 127

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


def confined(
    command: tuple[str, ...], settings: SandboxSettings, environment: Iterable[str], parent: int
) -> list[str]:
    """The command line that runs ``command`` within the limits.

    ``environment``: the names of the variables that it shall see; ``parent``: the process with which it dies.
    """
    limits = {
        "memory": settings.memory,
        "open_files": settings.open_files,
        "processes": settings.processes,
        "user": settings.user,
        "environment": list(environment),
        "parent": parent,
    }
    return [sys.executable, "-I", "-S", "-B", __file__, json.dumps(limits), *command]


def main(arguments: list[str]) -> int:
    """Become the command; the exit code where that fails."""
    limits: dict[str, Any] = json.loads(arguments[0])
    command = arguments[1:]
    names = {os.fsencode(name) for name in limits["environment"]}
    # Python may have added LC_CTYPE to its own environment on the way up.
    environment = {name: value for name, value in os.environb.items() if name in names}
    try:
        _confine(limits)
    except (OSError, ValueError, KeyError) as error:
        print(f"sandbox: cannot set the limits or the user: {error}", file=sys.stderr)  # noqa: T201
        return CANNOT_CONFINE
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - no shell is wanted
    except FileNotFoundError:
        print("sandbox: the command was not found", file=sys.stderr)  # noqa: T201
        return NOT_FOUND
    except OSError as error:
        print(f"sandbox: the command cannot be executed: {error.strerror}", file=sys.stderr)  # noqa: T201
        return CANNOT_EXECUTE


def _confine(limits: dict[str, Any]) -> None:
    if limits["user"] is not None:
        _switch_user(limits["user"])
    _lower(resource.RLIMIT_CORE, 0)
    if limits["memory"] is not None:
        _lower(resource.RLIMIT_DATA, limits["memory"])
    if limits["open_files"] is not None:
        _lower(resource.RLIMIT_NOFILE, limits["open_files"])
    if limits["processes"] is not None and os.geteuid() != 0:
        _lower(resource.RLIMIT_NPROC, limits["processes"])
    _heed_every_signal()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # after the user: a change of credentials clears it
    if os.getppid() != limits["parent"]:
        raise ProcessLookupError("the gateway is gone")


def _heed_every_signal() -> None:
    """What is ignored stays ignored in the command: SIGPIPE by the interpreter, SIGINT in a script's background job."""
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _switch_user(name: str) -> None:
    entry = pwd.getpwnam(name)
    if entry.pw_uid == os.geteuid():
        return
    os.initgroups(name, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def _lower(kind: int, limit: int) -> None:
    """Set a limit, but never above the one that is in force."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
