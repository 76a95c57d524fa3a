"""What would stop the gateway or weaken it, each with its remedy. Looks only: nothing is changed, nothing is locked."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from certs.contexts import TlsFiles, problems
from gateway.config import Config, ConfigError, StdioUpstream
from gateway.config_reader import read_config


def check(file: Path, environment: Mapping[str, str], now: float) -> list[str]:
    """Every problem of a configuration and of what it names. ``now``: seconds since the epoch."""
    try:
        config = read_config(file, environment)
    except ConfigError as error:
        return error.problems
    return [*start_problems(config, now), *_command_problems(config)]


def start_problems(config: Config, now: float) -> list[str]:
    """What must be mended before a gateway starts: certificates, keys, and the modes of what it keeps."""
    tls = config.tls
    files = TlsFiles(tls.certificate, tls.private_key, tls.client_ca, tls.crl)
    return [
        *problems(files, client_certificates=tls.client_certificates, now=now),
        *_writable_problems(config.file),
        *_store_problems(config.storage.path),
    ]


def _writable_problems(file: Path) -> Iterator[str]:
    """Whoever can write the configuration can have the gateway start any program."""
    if file.stat().st_mode & stat.S_IWOTH:
        yield f"{file}: everybody can write to it; chmod o-w {file}"


def _store_problems(folder: Path) -> Iterator[str]:
    """The store is its owner's alone. One that is not there yet is made at the start."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return
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


def _command_problems(config: Config) -> Iterator[str]:
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
