"""The command ``ostiary``: 0 done, 1 refused or failed, 2 wrong use; errors are lines on stderr that say what to do.

Wrong use is what the words of the command alone give away: an unknown option, a name, permission, date or status that
could never be one. What depends on what is there (the configuration, the store, files, a server) ends 1: a name that is
taken, a client or a role that is not known, a password that breaks the rules.

Each command imports what it needs when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from gateway import __version__
from gateway.cli.api_keys import api_keys
from gateway.cli.audit import audit
from gateway.cli.bridge import bridge
from gateway.cli.certs import certs
from gateway.cli.certs_signing import crl, renew, sign
from gateway.cli.check import check
from gateway.cli.clients import clients
from gateway.cli.init import init
from gateway.cli.invitations import invitations
from gateway.cli.keys import keys
from gateway.cli.lockouts import lockouts
from gateway.cli.mfa import mfa
from gateway.cli.profiles import email_code, profile
from gateway.cli.reload import reload
from gateway.cli.remote import call, login, logout, whoami
from gateway.cli.roles import roles
from gateway.cli.seed import seed
from gateway.cli.serve import serve
from gateway.cli.store import backup, restore, store
from gateway.cli.tenants import tenants
from gateway.cli.tokens import tokens
from gateway.cli.tools import tools

DONE = 0
FAILED = 1
WRONG_USE = 2

_REMEDIES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room within this user's quota",
    errno.EROFS: "mount it writable, or name another place",
    errno.EACCES: "act as its owner, or let this user at it",
    errno.EPERM: "act as its owner, or let this user at it",
    errno.ENOENT: "mend the path",
    errno.ENOTDIR: "mend the path",
    errno.EISDIR: "name a file in it",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "allow more open files (sysctl fs.file-max)",
}
"""What to do about what the system refuses."""


@click.group(name="ostiary", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ostiary")
def ostiary() -> None:
    """The doorkeeper: lets each client reach the MCP tools and HTTP services that it may use, and nothing else."""


_AT_THE_GATEWAY = (
    init,
    serve,
    reload,
    check,
    clients,
    lockouts,
    certs,
    tenants,
    roles,
    seed,
    tokens,
    mfa,
    invitations,
    api_keys,
    keys,
    audit,
    backup,
    restore,
    store,
)
_FROM_AFAR = (login, whoami, tools, call, logout, bridge)
for command in (*_AT_THE_GATEWAY, *_FROM_AFAR):
    ostiary.add_command(command)
for command in (crl, renew, sign):
    certs.add_command(command)
for command in (profile, email_code):
    clients.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        code = ostiary.main(arguments, prog_name="ostiary", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        return _wrong_use(error)
    except click.ClickException as error:
        return _failed(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        return _failed("interrupted")
    except BrokenPipeError:
        # Whoever read our output has gone. Nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # noqa: BLE001 - the last resort: one line, no traceback
        return _failed(*_lines(error))
    return code if isinstance(code, int) else DONE


def _wrong_use(error: click.UsageError) -> int:
    path = error.ctx.command_path if error.ctx is not None else "ostiary"
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return WRONG_USE
    said = _one_line(error.format_message())
    stop = "" if said.endswith((".", "?", "!", ")")) else "."
    click.echo(f"{path}: {said}{stop} See `{path} --help`.", err=True)
    return WRONG_USE


def _failed(*lines: str) -> int:
    for line in lines:
        click.echo(f"ostiary: {_one_line(line)}", err=True)
    return FAILED


def _lines(error: Exception) -> Sequence[str]:
    """What an error tells its reader: its own words where it was foreseen, else where it came from."""
    from certs.identity import CertificateError
    from gateway.client.errors import ClientError
    from gateway.config.values import ConfigError
    from gateway.operations.administration import OperationError
    from persistence.records import StoreError

    if isinstance(error, ConfigError):
        return error.problems
    if isinstance(error, OperationError | StoreError | CertificateError | ClientError):
        return str(error).splitlines()
    if isinstance(error, OSError):
        return [_of_the_system(error)]
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = (
        f" at {Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place is not None else ""
    )
    return [f"a fault in ostiary itself: {type(error).__name__}{where}; please report it"]


def _of_the_system(error: OSError) -> str:
    named = f"{error.filename}: " if error.filename is not None else ""
    said = f"{named}{error.strerror or error}"
    remedy = _REMEDIES.get(error.errno or 0)
    return said if remedy is None or ";" in said else f"{said}; {remedy}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
