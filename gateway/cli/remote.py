"""The user's side of the command line: ``ostiary login``, ``whoami``, ``call``, ``logout``, at a running gateway."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from gateway.cli.output import print_fields, print_json, printable
from gateway.cli.session import environment, json_option, now, password_from_stdin

if TYPE_CHECKING:
    from gateway.client.given import GivenCredential
    from gateway.client.identities import Identities
    from gateway.client.session import Session

R = TypeVar("R")
Command = TypeVar("Command", bound=Callable[..., Any])

gateway_option = click.option(
    "--gateway",
    "url",
    metavar="URL",
    envvar="OSTIARY_GATEWAY",
    help="Another gateway than the one that was signed in to last.",
)


_IDENTITY: Final = (
    ("--ca", "ca", "OSTIARY_CA", "Its CA."),
    ("--cert", "certificate", "OSTIARY_CERT", "Your certificate; without a name it is enough."),
    ("--key", "private_key", "OSTIARY_KEY", "Its private key."),
)


def identity_options(command: Command) -> Command:
    """What is presented at a gateway, and whom to trust there."""
    for option, name, variable, told in reversed(_IDENTITY):
        path = click.Path(path_type=Path)
        add = click.option(option, name, envvar=variable, type=path, metavar="FILE", help=told)
        command = add(command)
    return command


@click.command()
@click.argument("url", metavar="URL")
@identity_options
@click.option("--username", metavar="NAME", help="Sign in by password.")
@click.option("--password-stdin", is_flag=True, help="Read the password from a line of stdin.")
@click.option("--code", metavar="CODE", help="The second factor: from an authenticator, or a recovery code.")
@click.option("--keyring", is_flag=True, help="Keep the tokens in the system's keyring, not in a file.")
@json_option
def login(
    *,
    url: str,
    ca: Path | None,
    certificate: Path | None,
    private_key: Path | None,
    username: str | None,
    code: str | None,
    password_stdin: bool,
    keyring: bool,
    as_json: bool,
) -> None:
    """Sign in at the gateway URL, and stay signed in.

    With a certificate and no name, by the certificate alone. What is presented is remembered for each gateway; the token
    is kept in ~/.ostiary/token, for its owner's eyes only.
    """
    from msgspec.structs import replace

    from gateway.client.identities import Identity, check_keyring
    from gateway.client.session import Session

    origin = origin_of_words(url)
    if private_key is not None and certificate is None:
        raise click.UsageError("--key needs --cert.")
    identities = identities_of_user()
    known = identities.identity(origin) or Identity()
    presented = known.presenting(absolute(ca), absolute(certificate), absolute(private_key))
    identity = replace(presented, keyring=keyring)
    if keyring:
        check_keyring()
    elif known.keyring:
        identities.forget_tokens(origin)
    if username is None and identity.certificate is None:
        username = _asked_name()
    password = None if username is None else _asked_password(from_stdin=password_stdin)

    async def sign_in() -> dict[str, Any]:
        session = Session(origin, identity, identities, now=now)
        try:
            if username is None or password is None:
                await session.sign_in_by_certificate()
            else:
                await session.sign_in(username, password, lambda: code or _asked_code())
            return await session.who_am_i()
        finally:
            await session.close()

    me = asyncio.run(sign_in())
    if as_json:
        print_json(_me(origin, me))
        return
    click.echo(f"Signed in at {origin} as {printable(me.get('client_id'))}.")
    if me.get("scope") == "mfa:enrol":
        click.echo("A second factor is demanded here: ostiary mfa enrol, then sign in again.")


@click.command()
@gateway_option
@json_option
def whoami(url: str | None, *, as_json: bool) -> None:
    """Say who is signed in, where, and for how long.

    With OSTIARY_TOKEN: who that is.
    """

    async def ask(session: Session) -> dict[str, Any]:
        return _me(session.origin, await session.who_am_i())

    me = signed_in(url, ask, credential_of_environment())
    if as_json:
        print_json(me)
        return
    print_fields([(name.upper(), value) for name, value in me.items()])


@click.command()
@click.argument("tool", metavar="TOOL")
@click.argument("arguments", metavar="[JSON]", default="{}")
@gateway_option
@json_option
def call(tool: str, arguments: str, url: str | None, *, as_json: bool) -> None:
    """Call TOOL with the arguments in JSON; print its answer.

    JSON is an object; without it there are no arguments. Printed is the tool's structured answer where it has one, else its text. Ends 1 where the tool failed.
    """
    from gateway.client.tools import Tools

    given = _arguments(arguments)

    async def ask(session: Session) -> dict[str, Any]:
        return await Tools(session).call(tool, given)

    result = signed_in(url, ask, credential_of_environment())
    failed = result.get("isError") is True
    if as_json:
        print_json(result)
    elif not failed and result.get("structuredContent") is not None:
        print_json(result["structuredContent"])
    else:
        _print_content(result.get("content"), failed=failed)
    if failed:
        raise click.ClickException(f"{printable(tool)} failed")


@click.command()
@gateway_option
@json_option
def logout(url: str | None, *, as_json: bool) -> None:
    """Revoke the tokens at the gateway, and forget them here.

    OSTIARY_TOKEN is not looked at.
    """

    async def ask(session: Session) -> tuple[str, str | None]:
        return session.origin, await session.sign_out()

    origin, why = signed_in(url, ask)
    if as_json:
        print_json({"gateway": origin, "revoked": why is None})
    else:
        click.echo(f"Signed out at {origin}.")
    if why is not None:
        click.echo(f"ostiary: the tokens are removed here, but not revoked there: {printable(why)}", err=True)


def signed_in(
    url: str | None, ask: Callable[[Session], Awaitable[R]], given: GivenCredential | None = None
) -> R:
    """What ``ask`` gets from the gateway that is signed in to, or where ``given`` is presented. Raises ClientError."""
    from gateway.client.errors import ClientError
    from gateway.client.given import TOKEN_VARIABLE
    from gateway.client.identities import Identity
    from gateway.client.session import Session

    identities = identities_of_user()
    origin = identities.current() if url is None else origin_of_words(url)
    if origin is None and given is not None:
        raise ClientError(f"{TOKEN_VARIABLE} is good for which gateway? name it with --gateway URL")
    if origin is None:
        raise ClientError("nobody is signed in; sign in: ostiary login URL")
    identity = identities.identity(origin) or Identity()
    if given is not None:
        identity = identity.presenting(*map(absolute, _files_of_environment()))

    async def run() -> R:
        session = Session(origin, identity, identities, now=now, given=given)
        try:
            return await ask(session)
        finally:
            await session.close()

    return asyncio.run(run())


def credential_of_environment() -> GivenCredential | None:
    """What OSTIARY_TOKEN gives. Raises ClientError."""
    from gateway.client.given import given_credential

    return given_credential(environment())


def _files_of_environment() -> list[Path | None]:
    """CA, certificate and key, as OSTIARY_CA, OSTIARY_CERT and OSTIARY_KEY name them."""
    named = (environment().get(variable) for _, _, variable, _ in _IDENTITY)
    return [Path(path) if path else None for path in named]


def identities_of_user() -> Identities:
    """What is kept in the home of whoever runs the command."""
    from gateway.client.identities import Identities
    from gateway.client.private_folder import PrivateFolder

    home = environment().get("HOME")
    folder = (Path(home) if home else Path.home()) / ".ostiary"
    return Identities(PrivateFolder(folder, warn=lambda line: click.echo(f"ostiary: {line}", err=True)))


def origin_of_words(url: str) -> str:
    """The gateway that a URL names. Raises click.UsageError."""
    from gateway.client.identities import origin_of

    try:
        return origin_of(url)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None


def absolute(path: Path | None) -> str | None:
    """A path that means the same wherever the next command runs."""
    return None if path is None else str(path.absolute())


def _asked_name() -> str:
    if not sys.stdin.isatty():
        raise click.UsageError("name a certificate with --cert, or yourself with --username.")
    name: str = click.prompt("Username", err=True)
    return name


def _asked_password(*, from_stdin: bool) -> str:
    if not from_stdin and not sys.stdin.isatty():
        raise click.UsageError("--username needs a password: --password-stdin reads it from a line of stdin.")
    return password_from_stdin()


def _asked_code() -> str:
    if not sys.stdin.isatty():
        raise click.ClickException("a second factor is wanted: give it with --code")
    code: str = click.prompt("Code", err=True)
    return code.strip()


def _arguments(text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text)
    except ValueError:
        raise click.UsageError("the arguments are not JSON.") from None
    if not isinstance(arguments, dict):
        raise click.UsageError("the arguments are a JSON object.")
    return arguments


def _me(origin: str, described: dict[str, Any]) -> dict[str, Any]:
    from gateway.clock import rfc3339

    names = ("client_id", "username", "tenant_id", "email", "roles", "permissions", "scope")
    expiry = described.get("expires_at")
    return {
        "gateway": origin,
        **{name: described.get(name) for name in names},
        "expires_at": rfc3339(expiry) if isinstance(expiry, int) else None,
    }


def _print_content(content: object, *, failed: bool) -> None:
    for block in content if isinstance(content, list) else []:
        if isinstance(block, dict):
            text = block.get("text")
            shown = text if isinstance(text, str) else f"[{block.get('type')}]"
            click.echo("\n".join(printable(line) for line in shown.splitlines()), err=failed)
