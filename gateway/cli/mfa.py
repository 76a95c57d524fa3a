"""``ostiary mfa``, and ``ostiary clients mfa-reset``."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from gateway.cli.clients import clients
from gateway.cli.output import printable
from gateway.cli.remote import gateway_option, signed_in
from gateway.cli.session import config_option, perform

if TYPE_CHECKING:
    from gateway.client.session import Session


_TRIES: Final = 3


@click.group()
def mfa() -> None:
    """Second factors."""


@mfa.command()
@gateway_option
def enrol(url: str | None) -> None:
    """Get a second factor of your own.

    At the gateway that was signed in to last, or at --gateway URL. Shows a QR code for an authenticator app, asks for the
    first code that the app shows (a line of stdin, where there is no terminal), and prints the recovery codes.
    """

    async def ask(session: Session) -> list[str]:
        answer = await session.enrol()
        click.echo(qr_text(str(answer.get("otpauth_uri"))))
        click.echo(f"Secret, if the app cannot read that: {printable(answer.get('secret'))}")
        return await _confirmed(session)

    codes = signed_in(url, ask)
    click.echo("The second factor is on. Recovery codes, shown this once; each is good once:")
    for code in codes:
        click.echo(f"  {printable(code)}")


def qr_text(text: str) -> str:
    """The QR code in half blocks, two rows of it a line."""
    import segno

    out = io.StringIO()
    segno.make(text, error="m", micro=False).terminal(out=out, compact=True)
    return out.getvalue().rstrip("\n")


async def _confirmed(session: Session) -> list[str]:
    """The recovery codes. A code that is mistyped is asked for again: else the app would need another secret."""
    from gateway.client.errors import ClientError

    if not sys.stdin.isatty():
        code = sys.stdin.readline().strip()
        if not code:
            raise ClientError("no code came on stdin; the second factor is not on")
        return await session.confirm(code)
    for _ in range(_TRIES - 1):
        try:
            return await session.confirm(click.prompt("Code", err=True))
        except ClientError as error:
            click.echo(str(error), err=True)
    return await session.confirm(click.prompt("Code", err=True))


@mfa.command(name="rotate-key")
@config_option
def rotate_key(config_file: Path) -> None:
    """Seal all second factors with a new key.

    The old one is forgotten. Keep the old key file with backups that were made before: they are sealed with it.
    """
    count = perform(config_file, "mfa.rotate_key")["sealed"]
    click.echo(f"{count} second factor{'' if count == 1 else 's'} sealed with a new key.")


@clients.command(name="mfa-reset")
@click.argument("name")
@config_option
def mfa_reset(name: str, config_file: Path) -> None:
    """Take the second factor of NAME away, whose phone was lost."""
    if perform(config_file, "clients.mfa_reset", client_id=name)["reset"]:
        click.echo(f"{name} has no second factor now, and may enrol anew.")
    else:
        click.echo(f"{name} has no second factor.")
