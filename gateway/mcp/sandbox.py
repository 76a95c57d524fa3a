"""Runs a command within limits: ``python sandbox.py LIMITS COMMAND [ARGUMENT]...``, or says what can be held here: ``probe``.

The gateway starts its child processes through this program (``confinement``), which sets the limits on itself and then becomes
the command: there is no moment at which the command runs without them. It is run by its path, in an isolated interpreter,
so it may import nothing but the standard library.

Limits: memory by RLIMIT_DATA (what a process uses, not its address space, of which some runtimes reserve terabytes),
open files by RLIMIT_NOFILE, processes by RLIMIT_NPROC (which counts those of the whole user, and never holds root),
no core files. Where ``read`` or ``write`` is given, Landlock (Linux 5.13) lets it at nothing but those, and at the system's own
folders to read; from Linux 6.12 on it sends no signals to others either. The command gains no privileges by executing
set-user-ID programs, ignores no signal to begin with, and dies with the gateway.

The gateway's own files are kept from it by where they lie, not each by itself: whatever lies over a single file is gone once
that file is replaced, and a new file was never covered. So of each folder that holds one it gets a view: what was there when it
started, without what is hidden, and the folder itself can only be read. Nothing that comes into being there later, and
nothing that takes the place of what was there, is in the view. Made by

- a mount namespace of its own (for others than root within a user namespace), in which an empty file system with what it may
  see lies over the folder; or, where the system does not allow that,
- Landlock, which only ever allows: everything beside the way to such a folder, and in it what the view would have. So in the
  folders on that way it can make nothing new either.

Root gives up the capabilities with which it could look beneath. Where there is neither, the command runs without it, and says so.

Exit codes, where the command could not be run: 125 limits or user, 126 not executable, 127 not found.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import pwd
import resource
import signal
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

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
_EVERYTHING: Final = (1 << 13) - 1
_OF_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_READING: Final = _EXECUTE | _READ_FILE | _READ_DIR
_NO_ABSTRACT_SOCKETS: Final = 1
_NO_SIGNALS: Final = 1 << 1
_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_PLAIN: Final = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 1 << 5, 1 << 12, 1 << 14, 1 << 19
_SEES_BENEATH: Final = (2, 16, 17, 19, 21, 27, 38, 39)
"""CAP_DAC_READ_SEARCH, _SYS_MODULE, _SYS_RAWIO, _SYS_PTRACE, _SYS_ADMIN, _MKNOD, _PERFMON, _BPF."""
_MAX_LINKS: Final = 40
_PR_CAPBSET_DROP: Final = 24
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


def _probed() -> dict[str, Any]:
    return {"landlock": _landlock_version(), "hides": _failure(lambda: _cover(OwnPlaces({}, (), ()))) == 0}


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
    ruleset = None
    if limits["hidden"] or limits["read_only"]:
        ruleset = _hide(own_places(limits["hidden"], limits["read_only"]))
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
    if ruleset is not None:
        _obey(ruleset)
    if limits["read"] is not None or limits["write"] is not None:
        _keep_to(limits["read"] or [], limits["write"] or [])


@dataclass(frozen=True, slots=True)
class OwnPlaces:
    """Where the gateway's own files lie. Real paths."""

    views: dict[str, set[str]]
    """The folders of which a view is shown, each with the names that are hidden in it."""
    closed: tuple[str, ...]
    """Folders that are hidden as a whole."""
    kept: tuple[str, ...]
    """Files and folders, as far as they are there, that can only be read."""

    def above(self) -> set[str]:
        """The folders on the way to them."""
        found: set[str] = set()
        for path in (*self.views, *self.closed, *self.kept):
            while path != "/":
                path = os.path.dirname(path)  # noqa: PTH120, PLW2901
                found.add(path)
        return found


def own_places(hidden: Iterable[str], read_only: Iterable[str]) -> OwnPlaces:
    """Of those paths. Hidden ones, and files that can only be read, need not be there."""
    views: dict[str, set[str]] = {}
    closed: list[str] = []
    kept: list[str] = []
    for path in hidden:
        if os.path.isdir(path):  # noqa: PTH112 - pathlib is not worth its import here
            closed.append(os.path.realpath(path))
            continue
        for folder, name in _ways(path):
            views.setdefault(folder, set()).add(name)
    for path in read_only:
        if os.path.exists(path):  # noqa: PTH110
            kept.append(os.path.realpath(path))
        if not os.path.isdir(path):  # noqa: PTH112
            for folder, _ in _ways(path):
                views.setdefault(folder, set())
    for path in closed:
        folder, name = os.path.split(path)
        if folder in views:
            views[folder].add(name)
    views = {folder: names for folder, names in views.items() if not _is_beneath(folder, closed)}
    return OwnPlaces(views, tuple(closed), tuple(kept))


def _ways(path: str) -> Iterator[tuple[str, str]]:
    """The folder and the name of that file; where it is a symbolic link, those of what it points to as well."""
    for _ in range(_MAX_LINKS):
        folder, name = os.path.split(path)
        folder = os.path.realpath(folder)
        if os.path.isdir(folder):  # noqa: PTH112
            yield folder, name
        try:
            path = os.path.join(folder, os.readlink(os.path.join(folder, name)))  # noqa: PTH115, PTH118
        except OSError:
            return


def _is_beneath(path: str, folders: Iterable[str]) -> bool:
    """Whether it is one of those, or in one."""
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _is_hidden(name: str, hidden: Iterable[str]) -> bool:
    """With a file goes its older copy (``secret.key.old``, ``secret.key~``), and what is to replace it (``.secret.key.1f``)."""
    return any(
        name in {each, f"{each}~"}
        or name.startswith((f".{each}.", f"{each}.") if "." in each else f".{each}.")
        for each in hidden
    )


def _hide(places: OwnPlaces) -> int | None:
    """Keep the gateway's own files from this process; the Landlock ruleset that does so, where mounts cannot."""
    ruleset = None
    failure = _failure(lambda: _cover(places))
    try:
        if failure == 0:
            _cover(places)
        else:
            ruleset = _everything_but(places)
    except OSError:
        why = f"{os.strerror(failure)}, and there is no Landlock"
        print(f"sandbox: the gateway's own files cannot be hidden here: {why}", file=sys.stderr)  # noqa: T201
        return None
    if os.geteuid() == 0:
        for capability in _SEES_BENEATH:
            with contextlib.suppress(OSError):  # of capabilities that this kernel does not know
                _prctl(_PR_CAPBSET_DROP, capability)
    return ruleset


def _failure(attempt: Callable[[], None]) -> int:
    """The error of that attempt, made in a process of its own: half of it, in a namespace without rights, would be worse than none."""
    attempted = os.fork()
    if attempted == 0:
        try:
            attempt()
        except OSError as error:
            os._exit(error.errno or errno.EPERM)
        except BaseException:  # noqa: BLE001 - it must never go on as if it were this process
            os._exit(errno.EPERM)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(attempted, 0)[1])


def _cover(places: OwnPlaces) -> None:
    """Lay the views over the folders, in a mount namespace of this process's own. Raises OSError."""
    if "/" in places.views:
        raise OSError(errno.EBUSY, "the root folder cannot be covered")
    root, uid, gid = os.geteuid() == 0, os.geteuid(), os.getegid()
    _call("unshare", _NEW_MOUNTS if root else _NEW_USER | _NEW_MOUNTS)
    if not root:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
                file.write(text)
    _mount(None, "/", None, _MS_REC | _MS_SLAVE)
    for path in sorted(places.above() - {"/"}):
        _mount(path, path, None, _MS_BIND | _MS_REC)  # where something is mounted, nothing can be moved away
    for path in sorted(places.kept):
        _mount(path, path, None, _MS_BIND | _MS_REC)
        as_it_is = os.statvfs(path).f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)
        _mount(None, path, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | as_it_is)
    for path in places.closed:
        _mount("none", path, "tmpfs", _MS_RDONLY | _PLAIN, "size=4k,mode=000")
    for folder in sorted(places.views):  # what is above goes first
        _lay_view(folder, places.views[folder])
    os.chdir(os.getcwd())  # noqa: PTH109 - or this would still be the folder beneath its view


def _lay_view(folder: str, hidden: set[str]) -> None:
    """Over that folder, of what is in it now. What was mounted there read-only stays so."""
    beneath = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(beneath)
        _mount("none", folder, "tmpfs", _PLAIN, f"size=1m,mode={stat.S_IMODE(status.st_mode):o}")
        if os.geteuid() == 0:
            os.chown(folder, status.st_uid, status.st_gid)
        for name in _listed(f"/proc/self/fd/{beneath}"):
            if not _is_hidden(name, hidden):
                _show(f"/proc/self/fd/{beneath}/{name}", f"{folder}/{name}")
        _mount(None, folder, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _PLAIN)
    finally:
        os.close(beneath)


def _show(source: str, target: str) -> None:
    try:
        kind = os.lstat(source).st_mode
        if stat.S_ISLNK(kind):
            os.symlink(os.readlink(source), target)  # noqa: PTH115, PTH211
            return
    except FileNotFoundError:
        return  # it has just gone
    if stat.S_ISDIR(kind):
        os.mkdir(target)  # noqa: PTH102
    else:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    with contextlib.suppress(FileNotFoundError):
        _mount(source, target, None, _MS_BIND | _MS_REC)


def _listed(folder: str) -> list[str]:
    """The names in it; of a folder that this user cannot list, none."""
    try:
        return os.listdir(folder)  # noqa: PTH208
    except PermissionError:
        return []


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = (None if word is None else os.fsencode(word) for word in (source, target, kind))
    _call("mount", *words, ctypes.c_ulong(flags), None if data is None else data.encode())


def _call(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _everything_but(places: OwnPlaces) -> int:
    """A Landlock ruleset that allows all but the gateway's own files, by allowing what lies beside. Raises OSError."""
    ruleset, everything = _ruleset(scoped=0)
    split = places.above() | set(places.views)
    for folder in split:
        if _is_beneath(folder, places.closed):
            continue
        for name in _listed(folder):
            path = os.path.join(folder, name)  # noqa: PTH118
            hidden = path in places.closed or _is_hidden(name, places.views.get(folder, ()))
            if not hidden and path not in split and not os.path.islink(path):  # noqa: PTH114
                allowed = _READING if _is_beneath(path, places.kept) else everything
                with contextlib.suppress(PermissionError):
                    _open_up(ruleset, path, allowed, required=False)
    _open_up(ruleset, "/", _READ_DIR)
    return ruleset


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _BeneathAttr(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _keep_to(read: list[str], write: list[str]) -> None:
    """Let this process, and what it becomes, at these paths alone. Raises OSError where the kernel has no Landlock."""
    ruleset, everything = _ruleset(scoped=_NO_SIGNALS | _NO_ABSTRACT_SOCKETS)
    for path in (*SYSTEM_FOLDERS, *PROCESS_FILES):
        _open_up(ruleset, path, _READING, required=False)
    for path in DEVICES:
        _open_up(ruleset, path, _READ_FILE | _WRITE_FILE, required=False)
    for path in read:
        _open_up(ruleset, path, _READING)
    for path in write:
        _open_up(ruleset, path, everything)
    _obey(ruleset)


def _ruleset(scoped: int) -> tuple[int, int]:
    """A new one, which allows nothing, and all that it can allow."""
    abi = _landlock(_CREATE_RULESET, None, 0, _ABI_QUERY)
    everything = _EVERYTHING | (_REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0)
    attr = _RulesetAttr(files=everything, scoped=scoped)
    size = ctypes.sizeof(attr) if abi >= SIGNALS_ABI else ctypes.sizeof(ctypes.c_uint64)
    return _landlock(_CREATE_RULESET, ctypes.byref(attr), size, 0), everything


def _obey(ruleset: int) -> None:
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


def _landlock_version() -> int:
    try:
        return _landlock(_CREATE_RULESET, None, 0, _ABI_QUERY)
    except OSError:
        return 0


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
