"""What stops the start of the gateway, and what only costs something; each with its remedy.

Looks only: nothing is changed, nothing is locked, nobody is asked.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from certs.contexts import expiring, problems
from certs.pem import mode_problem
from gateway.config.reader import CommandSettings, read_command_settings, read_config
from gateway.config.values import Config, ConfigError, StdioUpstream
from gateway.identity.sealing import file_problem
from gateway.mcp.confinement import probe
from gateway.mcp.sandbox import SIGNALS_ABI
from gateway.tls.files import tls_files
from persistence import missing_store


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found."""

    problems: list[str]
    """With one of them the gateway does not start."""
    warnings: list[str] = field(default_factory=list)
    """With these it does, and something is missing."""


def check(file: Path, environment: Mapping[str, str], now: float) -> Findings:
    """Everything about a configuration and what it names. ``now``: seconds since the epoch."""
    try:
        config = read_config(file, environment)
    except ConfigError as error:
        return Findings([*error.problems, *_beside_the_secrets(file, environment, now)])
    warnings = [
        *_command_warnings(config),
        *_prefix_warnings(config),
        *_sandbox_warnings(config),
        *_role_warnings(config),
        *expiring(tls_files(config.tls), now),
    ]
    return Findings(start_problems(config, now), warnings)


def _beside_the_secrets(file: Path, environment: Mapping[str, str], now: float) -> list[str]:
    """What else is wrong, where only the secrets cannot be read: every problem is told at once."""
    try:
        return start_problems(read_command_settings(file, environment), now)
    except ConfigError:
        return []


def start_problems(config: Config | CommandSettings, now: float) -> list[str]:
    """What must be mended before a gateway starts: certificates, keys, and the modes of what it keeps."""
    tls, files = config.tls, tls_files(config.tls)
    return [
        *problems(
            files,
            client_certificates=tls.client_certificates,
            now=now,
            expired_crl=tls.crl_expired,
        ),
        *_writable_problems(config.file, files.certificate, files.client_ca, files.crl, *files.rule_cas),
        *_folder_problems(config),
        *_ca_key_problems(tls.client_ca),
        *_store_problems(config.storage.path),
        *_mfa_key_problems(config.accounts.mfa_key_file),
    ]


def _mfa_key_problems(file: Path) -> Iterator[str]:
    problem = file_problem(file)
    if problem is not None:
        yield problem


def _writable_problems(*files: Path | None) -> Iterator[str]:
    """Whoever can write the configuration can have the gateway start any program; a CA's file: be any client."""
    for file in dict.fromkeys(files):
        try:
            writable = file is not None and file.stat().st_mode & stat.S_IWOTH
        except OSError:
            continue  # what is missing is told of elsewhere
        if writable:
            yield f"{file}: everybody can write to it; chmod o-w {file}"


def _folder_problems(config: Config | CommandSettings) -> Iterator[str]:
    """Whoever can write to a folder can put another file in the place of one of ours, whatever its mode."""
    tls = config.tls
    files = (config.file, tls.certificate, tls.private_key, tls.client_ca, config.accounts.mfa_key_file)
    for folder in dict.fromkeys(file.parent for file in (*files, config.storage.path) if file is not None):
        try:
            mode = folder.stat().st_mode
        except OSError:
            continue  # what is missing is told of elsewhere
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            yield f"{folder}: everybody can put other files into it; chmod o-w {folder}"


def _ca_key_problems(client_ca: Path | None) -> Iterator[str]:
    """`ostiary init` puts the CA's key beside its certificate: whoever has it is any client."""
    if client_ca is None:
        return
    problem = mode_problem(client_ca.with_name("ca.key"))
    if problem is not None:
        yield problem


def _store_problems(folder: Path) -> Iterator[str]:
    """The store is there, and its owner's alone."""
    missing = missing_store(folder)
    if missing is not None:
        yield missing
        return
    try:
        status = folder.lstat()
    except OSError as error:
        yield f"{folder}: cannot be looked at ({error.strerror}); mend its owner or its path"
        return
    if not stat.S_ISDIR(status.st_mode):
        yield f"{folder}: is not a folder of its own; name another in [storage] path, or move it away"
        return
    if status.st_mode & 0o077:
        yield f"{folder}: has mode {stat.S_IMODE(status.st_mode):04o}, others can get at it; chmod 700 {folder}"
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield f"{folder}: cannot be written by this user; chown it to the gateway's user"
        return
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and mode & 0o077:
            narrow = 700 if stat.S_ISDIR(mode) else 600
            yield f"{path}: has mode {stat.S_IMODE(mode):04o}, others can get at it; chmod {narrow} {path}"


def _command_warnings(config: Config) -> Iterator[str]:
    """A missing program costs only its own tools, so it does not stop the start."""
    for upstream in config.upstreams:
        if not isinstance(upstream, StdioUpstream):
            continue
        program = upstream.command[0]
        path = dict(upstream.environment).get("PATH", os.defpath)
        # A program with a slash is relative to the folder in which it is started.
        found = upstream.folder / program if "/" in program else shutil.which(program, path=path)
        if found is None or not os.access(found, os.X_OK):
            where = f"[[upstreams]] {upstream.name} command"
            yield f"{config.file}: {where}: {program} is not there or not executable; install it, or give its path"


def _prefix_warnings(config: Config) -> Iterator[str]:
    """Where one prefix begins with another's, the two upstreams can list the same name: then neither has it."""
    for upstream in config.upstreams:
        others = [
            f'"{other.name}"'
            for other in config.upstreams
            if other is not upstream
            and upstream.prefix.startswith(other.prefix)
            and (len(upstream.prefix) > len(other.prefix) or other.name < upstream.name)
        ]
        if others:
            where = f"[[upstreams]] {upstream.name} prefix"
            yield (
                f"{config.file}: {where}: its tools and prompts can have names of {', '.join(others)}, and would then be"
                " held back with those; give each its own prefix"
            )


def _role_warnings(config: Config) -> Iterator[str]:
    """Whether a role was made while running, the store knows, which nobody looks into here; the gateway does at its start."""
    for number, rule in enumerate(config.tls.client_id, 1):
        for role in rule.roles:
            if role not in config.roles:
                where = f"[[tls.client_id]] #{number} roles"
                yield f"{config.file}: {where}: {role} is not under [roles]; it must be one of `ostiary roles list`"


def _sandbox_warnings(config: Config) -> Iterator[str]:
    """What this machine does not hold a server to."""
    servers = [upstream for upstream in config.upstreams if isinstance(upstream, StdioUpstream)]
    if not servers:
        return
    can = probe()
    for server in servers:
        for what in _not_held(server, landlock=can["landlock"], hides=can["hides"]):
            yield f"{config.file}: [[upstreams]] {server.name} sandbox: {what}"


def _not_held(server: StdioUpstream, *, landlock: int, hides: bool) -> Iterator[str]:
    sandbox = server.sandbox
    confined = sandbox.read is not None or sandbox.write is not None
    as_root = os.geteuid() == 0 and sandbox.user in {None, "root"}
    if confined and not landlock:
        yield "this kernel has no Landlock (Linux 5.13 has), so a server with read or write is not started"
    if confined and 0 < landlock < SIGNALS_ABI:
        yield "this kernel's Landlock does not keep it from sending signals to others (Linux 6.12 does)"
    if not hides and landlock:
        yield (
            "this system has no mount namespaces for it; Landlock keeps the gateway's own files from it, and also keeps it"
            " from making anything new in the folders above them"
        )
    if not hides and not landlock and not confined:
        yield (
            "this system has neither mount namespaces nor Landlock for it, so it sees whatever its user may, the"
            " gateway's secrets among it; give it another user"
        )
    if as_root:
        limit = "to processes, nor to" if sandbox.processes is not None else "to"
        yield f"root is not held {limit} what is hidden from it, if it gets at the disks; name another user"
