"""``ostiary init``: everything that a first gateway needs, in one folder."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import shutil
import string
import tempfile
from pathlib import Path

import click

from gateway.cli.certs import LOOPBACK_NAMES, day, names_that_can_be_used
from gateway.cli.configuration import CONFIGURATION
from gateway.cli.output import printable
from gateway.cli.session import check_words, now, password_from_stdin

PARTS = ("certs", "persistence", "secret.key", "mfa.key", "ostiary.toml")
"""What is made, in the order in which it is moved into place: the configuration last."""


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--admin", default="admin", show_default=True, metavar="NAME", help="The first administrator.")
@click.option(
    "--password-stdin", is_flag=True, help="Read the administrator's password from a line of stdin."
)
@click.option(
    "--permit",
    "permitted",
    multiple=True,
    metavar="KIND:NAME",
    help="What the CA may name (DNS:example.org, URI:example.org, email:…, IP:…): nothing else of that kind; may be repeated.",
)
def init(folder: Path, admin: str, *, password_stdin: bool, permitted: tuple[str, ...]) -> None:
    """Make a new gateway in the folder DIR.

    That is its configuration, a development CA, the server's certificate, a secret, a store, and the first
    administrator.
    """
    check_words("clients.add", {"client_id": admin})
    constraints = _with_loopback(permitted)
    password = password_from_stdin() if password_stdin else _new_password()
    _refuse_to_overwrite(folder)
    made = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        until = _make(folder, admin, password, constraints)
    except BaseException:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    click.echo(
        f"{printable(str(folder))} holds a gateway: ostiary.toml, certs/, secret.key, mfa.key, persistence/."
    )
    click.echo(f"Its certificate is valid until {day(until)}; `ostiary certs issue-server` renews it.")
    if not password_stdin:
        click.echo(f"\nThe password of {admin}, shown this once:\n\n    {password}")
    _say_what_next(folder, admin)


def _refuse_to_overwrite(folder: Path) -> None:
    there = [str(folder / part) for part in PARTS if os.path.lexists(folder / part)]
    if there:
        verb = "is" if len(there) == 1 else "are"
        raise click.ClickException(
            f"{', '.join(there)} {verb} there already; choose another DIR, or move them away"
        )


def _with_loopback(permitted: tuple[str, ...]) -> tuple[str, ...]:
    """The CA's name constraints; the gateway's own certificate is for the loopback names. Raises click.UsageError."""
    from certs.names import subtree

    with names_that_can_be_used():
        for text in permitted:
            subtree(text)
    kinds = {text.partition(":")[0].lower() for text in permitted}
    dns = ("DNS:localhost",) if "dns" in kinds else ()
    addresses = ("IP:127.0.0.1/32", "IP:::1/128") if "ip" in kinds else ()
    return (*permitted, *dns, *addresses)


def _make(folder: Path, admin: str, password: str, permitted: tuple[str, ...]) -> float:
    """Everything is made beside its place, and moved there once all of it is there; when the certificate ends."""
    workshop = Path(tempfile.mkdtemp(prefix=".ostiary-init-", dir=folder))
    moved: list[Path] = []
    try:
        until = _make_parts(workshop, admin, password, permitted)
        for part in PARTS:
            _refuse_to_overwrite_one(folder / part)
            (workshop / part).rename(folder / part)
            moved.append(folder / part)
    except BaseException:
        for path in moved:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return until


def _refuse_to_overwrite_one(path: Path) -> None:
    if os.path.lexists(path):
        raise click.ClickException(f"{path} has appeared meanwhile; choose another DIR, or move it away")


def _make_parts(workshop: Path, admin: str, password: str, permitted: tuple[str, ...]) -> float:
    from certs.authority import Authority
    from gateway.identity.sealing import make_file

    authority = Authority.create(workshop / "certs", now=now(), permitted=permitted)
    issued = authority.issue_server(
        names=LOOPBACK_NAMES,
        certificate=workshop / "certs" / "server.pem",
        private_key=workshop / "certs" / "server.key",
        now=now(),
    )
    _write(workshop / "secret.key", f"{secrets.token_urlsafe(48)}\n", 0o600)
    make_file(workshop / "mfa.key")
    _write(workshop / "ostiary.toml", CONFIGURATION, 0o644)
    (workshop / "persistence").mkdir(mode=0o700)
    asyncio.run(_add_administrator(workshop / "persistence", admin, password))
    return issued.not_after


def _write(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "w", encoding="utf-8") as stream:  # noqa: PTH123 - a descriptor, not a path
        stream.write(text)
        stream.flush()
        os.fsync(descriptor)


async def _add_administrator(store: Path, name: str, password: str) -> None:
    from gateway.identity.clients import Hasher
    from gateway.operations.administration import Administration
    from gateway.operations.control import user_name
    from gateway.operations.table import perform
    from persistence import open_stores

    stores, hasher = await open_stores(store, now=now), Hasher()
    try:
        roles = {"admin": ("*:*",)}
        admin = Administration(stores=stores, roles=lambda: roles, now=now, hasher=hasher)
        parameters = {
            "client_id": name,
            "roles": ["admin"],
            "permissions": ["platform:*"],
            "password": password,
        }
        await perform(admin, "clients.add", parameters, user_name(os.getuid()))
    finally:
        await hasher.close()
        await stores.close()


def _new_password() -> str:
    """20 letters and digits of 62 (119 bits), and one of each kind that the rules want."""
    letters = [secrets.choice(string.ascii_letters + string.digits) for _ in range(20)]
    kinds = [
        secrets.choice(kind)
        for kind in (string.ascii_lowercase, string.ascii_uppercase, string.digits, "-_.")
    ]
    return "".join(letters + kinds)


def _say_what_next(folder: Path, admin: str) -> None:
    config = f" --config {_quoted(folder / 'ostiary.toml')}"
    clients = folder / "clients"
    click.echo(
        f"""
Start it:
    ostiary serve{config}
In another terminal, a token for {admin} (curl asks for the password):
    curl --cacert {_quoted(folder / "certs" / "ca.pem")} -u {admin} https://localhost:8443/auth/token
A client of your own, with its certificate:
    ostiary clients add my-agent{config}
    ostiary certs issue my-agent --out {_quoted(clients)}{config}
    curl --cacert {_quoted(clients / "ca.pem")} --cert {_quoted(clients / "my-agent.pem")} \\
        --key {_quoted(clients / "my-agent.key")} https://localhost:8443/auth/token"""
    )


def _quoted(path: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))
