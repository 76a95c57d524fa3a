"""How a command performs an operation on the store: through the server that owns it, else under the store's lock.

What is wrong with the words of a command is said before the store is looked at, as wrong use.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gateway.config.reader import CommandSettings


MAX_LINE_BYTES = 4096

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, readable=False),
    envvar="OSTIARY_CONFIG",
    default=Path("ostiary.toml"),
    metavar="FILE",
    help="The configuration; OSTIARY_CONFIG, else ./ostiary.toml.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def environment() -> Mapping[str, str]:
    """The process's environment: the command line is where it is read."""
    return os.environ  # noqa: TID251


def now() -> float:
    """The time, in seconds since the epoch: the command line is where the clock is read."""
    return time.time()  # noqa: TID251


def read_settings(config_file: Path) -> CommandSettings:
    """The configuration, without the secrets. Raises ConfigError."""
    from gateway.config.reader import read_command_settings

    return read_command_settings(config_file, environment())


def perform(config_file: Path, operation: str, **parameters: object) -> dict[str, Any]:
    """Perform an operation; its answer. Raises ConfigError, OperationError, StoreError, OSError."""
    return asyncio.run(perform_soon(read_settings(config_file), operation, parameters))


def check_words(operation: str, parameters: dict[str, object]) -> None:
    """Raises click.UsageError where the operation would be refused whatever the store holds."""
    from gateway.operations.administration import ParameterError
    from gateway.operations.table import check_parameters

    try:
        check_parameters(operation, parameters)
    except ParameterError as error:
        raise click.UsageError(f"{error}.") from None


async def perform_soon(
    settings: CommandSettings, operation: str, parameters: dict[str, object]
) -> dict[str, Any]:
    """As ``perform``, within a running loop."""
    from gateway.operations.control import NoServer, ask

    check_words(operation, parameters)
    try:
        return await ask(settings.storage.path, operation, parameters)
    except NoServer:
        return await _perform_here(settings, operation, parameters)


async def _perform_here(
    settings: CommandSettings, operation: str, parameters: dict[str, object]
) -> dict[str, Any]:
    from gateway.identity.clients import Hasher
    from gateway.identity.lockouts import Lockouts
    from gateway.identity.sealing import Sealing
    from gateway.identity.second_factors import MfaSettings, SecondFactors
    from gateway.operations.administration import Administration
    from gateway.operations.control import user_name
    from gateway.operations.table import perform as perform_on
    from persistence import open_stores

    actor = user_name(os.getuid())
    with acting_as_owner(settings.storage.path):
        stores = await open_stores(
            settings.storage.path, now=now, create=False, checkpoint_file=settings.audit.checkpoint_file
        )
        try:
            accounts = settings.accounts
            hasher = Hasher(rounds=accounts.bcrypt_cost)
            lockouts = Lockouts(stores, accounts.lockout_after, now=now)
            factors = SecondFactors(
                stores,
                Sealing(accounts.mfa_key_file),
                MfaSettings(frozenset(accounts.mfa_required_roles)),
                lockouts=lockouts,
                now=now,
            )
            admin = Administration(
                stores=stores,
                roles=lambda: settings.roles,
                now=now,
                hasher=hasher,
                lockouts=lockouts,
                second_factors=factors,
                identity_rules=lambda: settings.tls.client_id,
            )
            return await perform_on(admin, operation, parameters, actor)
        finally:
            await hasher.close()
            await stores.close()


def become_owner(folder: Path) -> None:
    """As root, write as the store's owner: a file of root's in there would lock the gateway's own user out."""
    if os.geteuid() != 0 or not folder.exists():
        return
    owner = folder.stat()
    if owner.st_uid != 0:
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)


@contextlib.contextmanager
def acting_as_owner(folder: Path) -> Iterator[None]:
    """``become_owner``, and oneself again afterwards."""
    user, group = os.geteuid(), os.getegid()
    become_owner(folder)
    try:
        yield
    finally:
        os.seteuid(user)
        os.setegid(group)


def password_from_stdin() -> str:
    """One line of standard input, without its end; a terminal does not show it. Raises click.UsageError."""
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, err=True)
        return password
    line = sys.stdin.buffer.readline(MAX_LINE_BYTES).rstrip(b"\r\n")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise click.UsageError("--password-stdin: what is on standard input is not UTF-8.") from None
    if not text:
        raise click.UsageError("--password-stdin: there is no password on standard input.")
    return text
