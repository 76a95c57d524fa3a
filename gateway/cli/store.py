"""``ostiary backup``, ``ostiary restore`` and ``ostiary store check``: beside a running server or without one."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.output import print_json, print_table
from gateway.cli.session import become_owner, config_option, json_option, now, read_settings

if TYPE_CHECKING:
    from persistence.backup import Manifest

_FILE = click.argument("file", type=click.Path(path_type=Path))


@click.command()
@_FILE
@config_option
@json_option
def backup(file: Path, config_file: Path, *, as_json: bool) -> None:
    """Write the whole store to FILE, as it is at one instant.

    FILE is a tar file, mode 0600. A running server goes on undisturbed. The configuration, certificates and keys are not in it.
    """
    from gateway.clock import rfc3339
    from persistence.backup import back_up

    settings = read_settings(config_file)
    manifest = asyncio.run(back_up(settings.storage.path, file, made_at=rfc3339(now())))
    size = sum(one.bytes for one in manifest.files)
    if as_json:
        print_json({"file": str(file), "files": len(manifest.files), "bytes": size, **_counts(manifest)})
        return
    click.echo(
        f"{file}: {manifest.clients} clients, {manifest.tokens} tokens and the audit, {size} bytes in "
        f"{len(manifest.files)} files."
    )


@click.command()
@_FILE
@config_option
@json_option
def restore(file: Path, config_file: Path, *, as_json: bool) -> None:
    """Put the backup FILE in the place of the store.

    The store must be missing or empty. The gateway is not running. Whatever was issued or revoked after the backup was made is forgotten.
    """
    from gateway.operations.control import user_name
    from persistence.backup import restore as put_back

    settings = read_settings(config_file)
    store = settings.storage.path
    actor = user_name(os.getuid())
    with file.open("rb") as content:
        become_owner(store if store.exists() else store.parent)
        manifest = asyncio.run(put_back(content, store, enter=partial(_enter, name=file.name, actor=actor)))
    if as_json:
        print_json({"path": str(store), "made_at": manifest.made_at, **_counts(manifest)})
        return
    click.echo(
        f"{store} is as it was at {manifest.made_at}: {manifest.clients} clients, {manifest.tokens} tokens."
    )
    click.echo(
        "Tokens that were revoked after that are valid again until they expire: revoke them anew "
        "(ostiary tokens revoke), or put a new secret in the place of the old one, which ends all tokens."
    )
    if os.geteuid() == 0:
        click.echo(f"Its files belong to root: chown -R {store} to the gateway's user, if that is another.")


@click.group()
def store() -> None:
    """The files that clients, tokens and audit are kept in."""


@store.command()
@config_option
@json_option
def check(config_file: Path, *, as_json: bool) -> int:
    """Read every file and compare checksums.

    Ends 1 where something is wrong, and says where. Nothing is changed.
    """
    from persistence.backup import check as look_through

    checked = asyncio.run(look_through(read_settings(config_file).storage.path))
    if as_json:
        files = [{"name": f.name, "bytes": f.bytes, "problem": f.problem} for f in checked.files]
        print_json(
            {
                "ok": not checked.problems,
                "clients": checked.clients,
                "tokens": checked.tokens,
                "files": files,
                "problems": checked.problems,
            }
        )
        return 1 if checked.problems else 0
    print_table(
        ("FILE", "BYTES", "STATE"),
        [(f.name, f.bytes, "damaged" if f.problem else "ok") for f in checked.files],
    )
    for problem in checked.problems:
        click.echo(f"ostiary: {problem}", err=True)
    if checked.problems:
        return 1
    click.echo(f"Nothing is wrong: {checked.clients} clients, {checked.tokens} tokens.")
    return 0


def _counts(manifest: Manifest) -> dict[str, object]:
    return {"made_at": manifest.made_at, "clients": manifest.clients, "tokens": manifest.tokens}


async def _enter(store: Path, *, name: str, actor: str) -> None:
    """The first entry after a restore says so: it is there when the store is."""
    from gateway.clock import rfc3339
    from persistence import open_stores
    from persistence.records import AuditEntry, AuditStatus

    stores = await open_stores(store, now=now)
    try:
        await stores.audit.append(
            AuditEntry(
                timestamp=rfc3339(now()),
                event="admin_change",
                status=AuditStatus.OK,
                method="store.restore",
                target=name,
                actor=actor,
            )
        )
    finally:
        await stores.close()
