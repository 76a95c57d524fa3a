"""Runs a command within limits: ``python sandbox.py LIMITS COMMAND [ARGUMENT]...``, or says what can be held here: ``probe``.

The gateway starts its child processes through this program, which sets the limits on itself and then becomes the
command: there is no moment at which the command runs without them. It is run by its path, in an isolated interpreter,
so it may import nothing but the standard library.

Limits: memory by RLIMIT_DATA (what a process uses, not its address space, of which some runtimes reserve terabytes),
open files by RLIMIT_NOFILE, processes by RLIMIT_NPROC (which counts those of the whole user, and never holds root),
no core files. The gateway's own files are hidden from it, as far as they are there when it starts: in a mount namespace of
its own (for others than root within a user namespace) an empty folder, or an empty file, lies over each, and others can only
be read; root gives up the capabilities with which it could look beneath. Where the system does not allow that, the command
runs without it, and says so. Where ``read`` or ``write`` is given, Landlock (Linux 5.13) lets it at nothing but those, and at the
system's own folders to read; from Linux 6.12 on it sends no signals to others either. The command gains no privileges by executing set-user-ID programs, ignores no signal to begin with, and
dies with the gateway.

Exit codes, where the command could not be run: 125 limits or user, 126 not executable, 127 not found.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.config.values import SandboxSettings

PROBE: Final = "probe"
CANNOT_CONFINE: Final = 125
CANNOT_EXECUTE: Final = 126
NOT_FOUND: Final = 127

SYSTEM_FOLDERS: Final = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/opt", "/sys")
PROCESS_FILES: Final = (
    *("/proc/self", "/proc/sys", "/proc/cpuinfo", "/proc/filesystems", "/proc/loadavg"),
    *("/proc/meminfo", "/proc/stat", "/proc/uptime", "/proc/version"),
)
"""Not all of /proc: there root sees the environment of other processes, the gateway's among them."""
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
"""Not all of /dev: there root has the disks."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ABI_QUERY: Final = 1
SIGNALS_ABI: Final = 6
"""The version of Landlock that knows signals."""
_BENEATH: Final = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_OF_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_READING: Final = _EXECUTE | _READ_FILE | _READ_DIR
_NO_ABSTRACT_SOCKETS: Final = 1
_NO_SIGNALS: Final = 1 << 1
_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 1 << 5, 1 << 12, 1 << 14, 1 << 19
_SEES_BENEATH: Final = (2, 16, 17, 19, 21, 27, 38, 39)
"""CAP_DAC_READ_SEARCH, _SYS_MODULE, _SYS_RAWIO, _SYS_PTRACE, _SYS_ADMIN, _MKNOD, _PERFMON, _BPF."""
_PR_CAPBSET_DROP: Final = 24
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


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
    return [sys.executable, "-I", "-S", "-B", __file__, json.dumps(limits), *command]


def probe() -> dict[str, Any]:
    """What can be held on this machine: the version of Landlock (0: none), and whether files can be hidden."""
    command = [sys.executable, "-I", "-S", "-B", __file__, PROBE]
    done = subprocess.run(command, capture_output=True, env={}, check=False, timeout=30)
    found: dict[str, Any] = json.loads(done.stdout or b'{"landlock": 0, "hides": false}')
    return found


def _probed() -> dict[str, Any]:
    try:
        landlock = _landlock(_CREATE_RULESET, None, 0, _ABI_QUERY)
    except OSError:
        landlock = 0
    try:
        _hide([], [])
    except OSError:
        return {"landlock": landlock, "hides": False}
    return {"landlock": landlock, "hides": True}


def main(arguments: list[str]) -> int:
    """Become the command; the exit code where that fails."""
    if arguments == [PROBE]:
        print(json.dumps(_probed()))  # noqa: T201
        return 0
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
    if limits["hidden"] or limits["read_only"]:
        try:
            _hide(limits["hidden"], limits["read_only"])
        except OSError as error:
            why = f"sandbox: the gateway's own files cannot be hidden here: {error.strerror}"
            print(why, file=sys.stderr)  # noqa: T201
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
    if limits["read"] is not None or limits["write"] is not None:
        _keep_to(limits["read"] or [], limits["write"] or [])


def _hide(hidden: list[str], read_only: list[str]) -> None:
    """Cover the gateway's own files in a mount namespace of this process's own. Raises OSError."""
    root, uid, gid = os.geteuid() == 0, os.geteuid(), os.getegid()
    _call("unshare", _NEW_MOUNTS if root else _NEW_USER | _NEW_MOUNTS)
    if not root:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - pathlib is not worth its import here
                file.write(text)
    _mount(None, "/", None, _MS_REC | _MS_SLAVE)
    plain = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    for path in filter(os.path.lexists, hidden):
        if os.path.isdir(path):  # noqa: PTH112
            _mount("none", path, "tmpfs", _MS_RDONLY | plain, "size=4k,mode=000")
        else:
            _mount("/dev/null", path, None, _MS_BIND)
    for path in filter(os.path.lexists, read_only):
        _mount(path, path, None, _MS_BIND | _MS_REC)
        kept = os.statvfs(path).f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)
        _mount(None, path, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept)
    if root:
        for capability in _SEES_BENEATH:
            with contextlib.suppress(OSError):  # of capabilities that this kernel does not know
                _prctl(_PR_CAPBSET_DROP, capability)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = (None if word is None else os.fsencode(word) for word in (source, target, kind))
    _call("mount", *words, ctypes.c_ulong(flags), None if data is None else data.encode())


def _call(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _BeneathAttr(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _keep_to(read: list[str], write: list[str]) -> None:
    """Let this process, and what it becomes, at these paths alone. Raises OSError where the kernel has no Landlock."""
    abi = _landlock(_CREATE_RULESET, None, 0, _ABI_QUERY)
    everything = (1 << 13) - 1 | (_REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0)
    attr = _RulesetAttr(files=everything, scoped=_NO_SIGNALS | _NO_ABSTRACT_SOCKETS)
    size = ctypes.sizeof(attr) if abi >= SIGNALS_ABI else ctypes.sizeof(ctypes.c_uint64)
    ruleset = _landlock(_CREATE_RULESET, ctypes.byref(attr), size, 0)
    for path in (*SYSTEM_FOLDERS, *PROCESS_FILES):
        _open_up(ruleset, path, _READING, required=False)
    for path in DEVICES:
        _open_up(ruleset, path, _READ_FILE | _WRITE_FILE, required=False)
    for path in read:
        _open_up(ruleset, path, _READING)
    for path in write:
        _open_up(ruleset, path, everything)
    _landlock(_RESTRICT_SELF, ruleset, 0, 0)
    os.close(ruleset)


def _open_up(ruleset: int, path: str, access: int, *, required: bool = True) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        if required:
            raise
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        beneath = _BeneathAttr(allowed=access, parent=descriptor)
        _landlock(_ADD_RULE, ruleset, _BENEATH, ctypes.byref(beneath))
    finally:
        os.close(descriptor)


def _landlock(number: int, first: Any, second: Any, third: Any) -> int:
    """One of Landlock's system calls. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (
        ctypes.c_long(each) if isinstance(each, int) else each for each in (number, first, second, third)
    )
    result: int = libc.syscall(*arguments, ctypes.c_long(0))
    if result < 0:
        raise OSError(ctypes.get_errno(), "Landlock, which `read` and `write` need, is not to be had")
    return result


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
